"""Sets of images by name, prepared from small stand-ins for the published files."""

import gzip
import io
import sys
import tarfile

import numpy as np
import pytest

from ebm_jax.data import DataError, load, load_split, prepare

pytest.importorskip("tensorflow_datasets")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    return tmp_path / "home"


def write_mnist(folder):
    """The four idx files with 12 and 5 images; returns pixels and labels of each part."""
    parts = {}
    for part, count in (("train", 12), ("t10k", 5)):
        pixels = RNG.integers(0, 256, (count, 28, 28), np.uint8)
        labels = RNG.integers(0, 10, count, np.uint8)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            with gzip.open(folder / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(head + array.tobytes())
        parts[part] = pixels[..., None], labels
    return parts["train"], parts["t10k"]


def write_cifar(folder):
    """The archive of binary batches with two images each; the same."""
    parts = {"train": [], "test": []}
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:

        def add(name, content):
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

        add("batches.meta.txt", b"\n".join(b"class %d" % i for i in range(10)))
        for i in range(6):
            pixels = RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)
            labels = RNG.integers(0, 10, 2, np.uint8)
            planes = pixels.transpose(0, 3, 1, 2).reshape(2, -1)
            name = f"data_batch_{i + 1}.bin" if i < 5 else "test_batch.bin"
            add(name, np.concatenate([labels[:, None], planes], 1).tobytes())
            parts["train" if i < 5 else "test"].append((pixels, labels))
    return tuple(
        tuple(np.concatenate(column) for column in zip(*part, strict=True))
        for part in parts.values()
    )


def sorted_by_pixels(pixels, labels):
    """In one order: preparing shuffles."""
    order = np.lexsort(pixels.reshape(len(pixels), -1).T)
    return pixels[order], labels[order]


@pytest.mark.parametrize(("name", "write"), [("mnist", write_mnist), ("cifar10", write_cifar)])
def test_a_named_set_holds_the_published_images_and_labels(name, write, tmp_path):
    published = write(tmp_path)
    folder = prepare(name, tmp_path)
    for found, expected in zip(load_split(name), published, strict=True):
        for ours, theirs in zip(sorted_by_pixels(*found), sorted_by_pixels(*expected), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert prepare(name, tmp_path / "nowhere") == folder  # it is there already
    np.testing.assert_array_equal(load(folder).pixels, load(name).pixels)
    assert "tensorflow" not in sys.modules


def test_a_missing_original_is_named(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz does not exist.*mnist/"):
        prepare("mnist", tmp_path)
    write_mnist(tmp_path)
    assert len(load_split(prepare("mnist", tmp_path))[1].pixels) == 5  # a second try begins anew


def test_a_damaged_original_is_one_sentence(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8bno")
    with pytest.raises(DataError, match=r"'mnist' cannot be prepared.*--originals DIR"):
        prepare("mnist", tmp_path)


def test_without_the_extra_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r"pip install 'ebm_jax\[datasets\]'"):
        load("mnist")


@pytest.mark.parametrize(
    ("features", "records", "match"),
    [
        (("text",), [{"text": "a"}], "has the features"),
        (("image",), [{"image": (4, 4, 3)}, {"image": (5, 4, 3)}], "one size"),
    ],
)
def test_a_prepared_set_of_something_else_is_refused(features, records, match, home):
    import tensorflow_datasets as tfds
    from PIL import Image

    kinds = {"text": tfds.features.Text(), "image": tfds.features.Image(shape=(None, None, 3))}

    def generate(_):
        for i, record in enumerate(records):
            size = record.get("image")
            yield i, {"image": Image.new("RGB", size[1::-1])} if size else record

    class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            kind = tfds.features.FeaturesDict({name: kinds[name] for name in features})
            return tfds.core.DatasetInfo(builder=self, features=kind)

        def _split_generators(self, dl_manager):
            return {"train": generate(None)}

        def _generate_examples(self):
            raise NotImplementedError

    builder = Other(data_dir=str(home), file_format="array_record")
    builder.download_and_prepare()
    with pytest.raises(DataError, match=match):
        load(str(builder.data_path))
