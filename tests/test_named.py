"""Sets of images by name, prepared from small stand-ins for the published files."""

import gzip
import hashlib
import io
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebm_jax.data import (
    DataError,
    Records,
    load,
    load_split,
    memory,
    named,
    network,
    prepare,
    prepared,
    square,
)

pytest.importorskip("tensorflow_datasets")
RNG = np.random.default_rng(0)
CHECK = named._check_published


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The folder of prepared sets; originals are stand-ins, which have other checksums."""
    monkeypatch.setattr(named, "_check_published", lambda *_: None)
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
        for ours, theirs in zip(
            sorted_by_pixels(*found[:2]), sorted_by_pixels(*expected), strict=True
        ):
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


def test_files_of_another_set_are_refused_with_both_checksums(tmp_path, home, monkeypatch):
    """MNIST and Fashion-MNIST have files of the same names."""
    import tensorflow_datasets as tfds

    monkeypatch.setattr(named, "_check_published", CHECK)
    write_mnist(tmp_path)
    infos = tfds.builder_cls("mnist").url_infos
    [published] = [i for i in infos.values() if i.filename == "train-images-idx3-ubyte.gz"]
    found = hashlib.sha256((tmp_path / published.filename).read_bytes()).hexdigest()
    expected = rf"train-images-idx3-ubyte.gz has the SHA-256 checksum {found}, expected "
    with pytest.raises(DataError, match=rf"{expected}{published.checksum} as published at http"):
        prepare("mnist", tmp_path)
    assert not list(home.rglob("dataset_info.json"))
    for info in infos.values():  # the files are taken once their checksums are the published ones
        digest = hashlib.sha256((tmp_path / info.filename).read_bytes()).hexdigest()
        monkeypatch.setattr(info, "checksum", digest)
    assert len(load(prepare("mnist", tmp_path)).pixels) == 12


def archive_of(path, name, **options):
    with tarfile.open(path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo(name)
        for option, value in options.items():
            setattr(entry, option, value)
        archive.addfile(entry, io.BytesIO(b"x" * entry.size))


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("{outside}/a.bin", {"size": 1}),
        ("../a.bin", {"size": 1}),
        ("cifar/../../a.bin", {"size": 1}),
        ("a.bin", {"type": tarfile.SYMTYPE, "linkname": "{outside}/a.bin"}),
        ("a.bin", {"type": tarfile.LNKTYPE, "linkname": "../../a.bin"}),
        ("a.bin", {"type": tarfile.FIFOTYPE}),
        ("a.bin", {"type": tarfile.CHRTYPE}),
    ],
    ids=["absolute", "above", "above later", "link", "hard link", "pipe", "device"],
)
def test_an_archive_writes_plain_files_below_its_folder(
    name, options, filtered, tmp_path, monkeypatch
):
    """Also by Python before 3.11.4, whose tarfile has no filter."""
    if not filtered:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    scratch, outside = tmp_path / "a" / "scratch", tmp_path / "outside"
    scratch.mkdir(parents=True)
    outside.mkdir()
    options = {k: v.format(outside=outside) if k == "linkname" else v for k, v in options.items()}
    archive_of(tmp_path, name.format(outside=outside), **options)
    [url] = named._builder("cifar10", None, scratch).url_infos
    files = named._LocalFiles(tmp_path, scratch, named._builder("cifar10", None, scratch))
    with pytest.raises(DataError, match=r"binary.tar.gz holds '.*a.bin', a link or a path that"):
        files.download_and_extract(url)
    assert not [path for path in tmp_path.rglob("a.bin") if path.parent != tmp_path]
    assert not (tmp_path / "a.bin").exists()


def test_a_folder_without_its_description_is_named(home):
    folder = named._folder("mnist")
    assert folder.parent == home / "mnist"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match=f"{folder} is there without its dataset_info.json"):
        load("mnist")


def test_a_damaged_named_set_is_one_sentence(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    folder = prepare("mnist", tmp_path)
    (folder / "dataset_info.json").write_text("[]")
    monkeypatch.setattr(named, "_builder", lambda *_: pytest.fail("tensorflow-datasets reads it"))
    with pytest.raises(DataError, match=r"dataset_info.json has \[\] as its content"):
        load("mnist")


@pytest.mark.parametrize("missing", ["tensorflow_datasets", "grain"])
def test_without_the_extra_the_sentence_says_what_to_install(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DataError, match=r"pip install 'ebm_jax\[datasets\]'"):
        load("mnist")


def prepare_other(home, features, **parts):
    """A prepared set with records as given, of an image (uint8, or its bytes), a label, a text."""
    import tensorflow_datasets as tfds

    kinds = {
        "text": tfds.features.Text(),
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }

    def encoded(record):
        image = record.get("image")
        return record | ({"image": Image.fromarray(image)} if hasattr(image, "shape") else {})

    class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            kind = tfds.features.FeaturesDict({name: kinds[name] for name in features})
            return tfds.core.DatasetInfo(builder=self, features=kind, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {
                name: ((i, encoded(record)) for i, record in enumerate(records))
                for name, records in parts.items()
            }

        def _generate_examples(self):
            raise NotImplementedError

    builder = Other(data_dir=str(home), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)


def colors(count, height=4):
    return RNG.integers(0, 256, (count, height, 4, 3), np.uint8)


def test_a_prepared_set_of_something_else_is_refused(home):
    folder = prepare_other(home, ["text"], train=[{"text": "a"}])
    with pytest.raises(DataError, match="has the features"):
        load(folder)


@pytest.mark.parametrize(
    ("last", "match"),
    [
        (
            colors(1, 5)[0],
            r"'train', record 2, has .* \(5, 4, 3\), .*\(4, 4, 3\) as of record 0",
        ),
        (io.BytesIO(b"\x89PNG hello"), "'train', record 2, cannot be decoded .*again"),
    ],
    ids=["other size", "damaged"],
)
def test_a_record_that_is_none_of_its_set_is_named_when_it_is_read(last, match, home):
    images = [*colors(2), last]
    folder = prepare_other(home, ["image"], train=[{"image": image} for image in images])
    with pytest.raises(DataError, match=match):
        load(folder)
    pixels = load(folder, max_bytes=0).pixels
    np.testing.assert_array_equal(pixels[:2], images[:2])
    with pytest.raises(DataError, match=match):
        pixels[[0, 2]]


def test_sets_that_do_not_fit_stay_on_disk_and_are_the_same(tmp_path, home, monkeypatch):
    write_mnist(tmp_path)
    prepare("mnist", tmp_path)
    whole, size = load_split("mnist"), (12 + 5) * 28 * 28
    monkeypatch.setattr("ebm_jax.data.prepared.free_memory", lambda: 2 * size)
    assert isinstance(load("mnist").pixels, np.ndarray)
    monkeypatch.setattr("ebm_jax.data.prepared.free_memory", lambda: 2 * size - 1)
    for parts in load_split("mnist"), load_split("mnist", max_bytes=size - 1):
        for part, expected in zip(parts, whole, strict=True):
            for ours, theirs in zip(part[:2], expected[:2], strict=True):
                assert isinstance(ours, Records)
                np.testing.assert_array_equal(ours[:], theirs, strict=True)
    assert isinstance(load("mnist", max_bytes=size).labels, np.ndarray)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_: pytest.fail("labels are read without images"))
        np.testing.assert_array_equal(parts[0].labels[[3, -1]], whole[0].labels[[3, -1]])
    assert "tensorflow" not in sys.modules


def test_a_set_without_test_images_is_divided_unread(home, monkeypatch):
    images, labels = colors(40), RNG.integers(0, 10, 40)
    records = [{"image": i, "label": j} for i, j in zip(images, labels, strict=True)]
    folder = prepare_other(home, ["image", "label"], train=records)
    decoded, decode = [], prepared._decoded

    def count(where, channels, shape, number, encoded):
        decoded.append(number)
        return decode(where, channels, shape, number, encoded)

    monkeypatch.setattr(prepared, "_decoded", count)
    parts = load_split(folder, max_bytes=0)
    assert decoded == [0]  # for its shape
    assert [len(part.pixels) for part in parts] == [30, 10]
    parts[1].pixels[2:4]
    assert len(decoded) == 3
    for part, whole in zip(parts, load_split(folder), strict=True):
        for ours, theirs in zip(part[:2], whole[:2], strict=True):
            np.testing.assert_array_equal(ours[:], theirs, strict=True)
    found = np.concatenate([part.pixels[:] for part in parts])
    np.testing.assert_array_equal(
        *(sorted_by_pixels(x, x)[0] for x in (found, images))
    )  # each once


@pytest.mark.parametrize("names", [("validation",), ("validation", "test")])
def test_the_test_part_is_held_out_or_else_that_for_validation(names, home):
    images = colors(7)
    cuts = dict(zip(("train", *names), np.split(images, [3, 5]), strict=False))
    folder = prepare_other(
        home, ["image"], **{n: [{"image": i} for i in part] for n, part in cuts.items()}
    )
    train, held_out = load_split(folder)
    np.testing.assert_array_equal(train.pixels, cuts["train"])
    np.testing.assert_array_equal(held_out.pixels, cuts[names[-1]])
    assert train.labels is None


def test_free_memory_is_that_of_the_machine_or_of_a_narrower_container(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    machine = memory.free_memory()
    lines = Path("/proc/meminfo")
    if lines.exists():
        [available] = re.findall(r"MemAvailable: *(\d+) kB", lines.read_text())
        assert machine == pytest.approx(int(available) * 1024, rel=0.2)
    (tmp_path / "memory.current").write_text("400\n")
    for limit, expected in ("1000\n", 600), ("300\n", 0), ("max\n", None):
        (tmp_path / "memory.max").write_text(limit)
        found = memory.free_memory()
        assert found == pytest.approx(machine, rel=0.2) if expected is None else found == expected


def test_without_a_network_a_set_is_refused_at_once_and_the_flag_for_its_files_named(monkeypatch):
    """tensorflow-datasets itself tries ten times, for minutes."""
    import tensorflow_datasets as tfds

    monkeypatch.setattr(named, "no_answer", lambda url: "the host does not answer (no route)")
    monkeypatch.setattr(tfds.download.DownloadManager, "download", pytest.fail)
    with pytest.raises(DataError, match=r"no route.*ebm-jax prepare mnist --originals DIR"):
        prepare("mnist")


def test_a_host_answers_by_whatever_status_and_a_closed_door_does_not():
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(403)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        url = f"http://127.0.0.1:{server.server_port}/file.gz"
        thread = Thread(target=server.handle_request)
        thread.start()
        assert network.no_answer(url, timeout=5.0) == ""
        thread.join()
    said = network.no_answer(url, timeout=5.0)
    assert said.startswith("127.0.0.1")
    assert "does not answer" in said


# ---- CelebA


def write_celeb_a(folder):
    """Nine faces in the published files; JPEGs and lines of the tables by the files' names."""
    from tensorflow_datasets.datasets.celeb_a import celeb_a_dataset_builder as published

    names, faces = [f"{i:06d}.jpg" for i in range(1, 10)], {}
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        archive.writestr("img_align_celeba/", b"")
        for name in names:
            rough = Image.fromarray(RNG.integers(0, 256, (7, 6, 3), np.uint8))
            rough.resize((178, 218)).save(content := io.BytesIO(), "jpeg")
            archive.writestr(f"img_align_celeba/{name}", content.getvalue())
            faces[name] = content.getvalue()
    rows = {
        "list_eval_partition.txt": (None, [[i] for i in (0, 1, 0, 2, 0, 0, 1, 2, 0)]),
        "identity_CelebA.txt": (None, RNG.integers(1, 10_177, (9, 1))),
        "list_landmarks_align_celeba.txt": (
            published.LANDMARK_HEADINGS,
            RNG.integers(-9, 218, (9, 10)),
        ),
        "list_attr_celeba.txt": (published.ATTR_HEADINGS, RNG.choice([-1, 1], (9, 40))),
    }
    for file, (heading, values) in rows.items():
        lines = ["9", " ".join(heading) + " "] if heading else []
        lines += [f"{n}  " + " ".join(map(str, v)) for n, v in zip(names, values, strict=True)]
        (folder / file).write_text("\n".join(lines) + "\n")
    return faces, {
        file: dict(zip(names, values, strict=True)) for file, (_, values) in rows.items()
    }


@pytest.mark.parametrize("source", ["folder", "network"])
def test_celeb_a_holds_the_published_jpegs_and_tables(source, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    faces, tables = write_celeb_a(tmp_path)

    def download(_, urls):
        infos = tfds.builder_cls("celeb_a").url_infos
        return {key: tmp_path / infos[url].filename for key, url in urls.items()}

    monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
    monkeypatch.setattr(named, "no_answer", lambda url: "")
    folder = prepare("celeb_a", tmp_path if source == "folder" else None)
    builder = tfds.builder_from_directory(str(folder))
    by_bytes = {content: name for name, content in faces.items()}
    found = {}
    for number, part in enumerate(("train", "validation", "test")):
        skip = {"image": tfds.decode.SkipDecoding()}
        for record in builder.as_data_source(part, decoders=skip):
            name = by_bytes[record["image"]]
            found[name] = number
            assert record["identity"]["Identity_No"] == tables["identity_CelebA.txt"][name][0]
            for feature, file in ("landmarks", "landmarks_align"), ("attributes", "attr"):
                line = tables[f"list_{file}_celeba.txt"][name]
                expected = line > 0 if feature == "attributes" else line
                heading = (tmp_path / f"list_{file}_celeba.txt").read_text().splitlines()[1]
                assert [record[feature][key] for key in heading.split()] == list(expected)
    assert found == {name: row[0] for name, row in tables["list_eval_partition.txt"].items()}

    for images, part in zip(load_split("celeb_a"), (0, 2), strict=True):
        names = [name for name, number in found.items() if number == part]
        expected = np.stack([np.asarray(Image.open(io.BytesIO(faces[name]))) for name in names])
        assert images.pixels.shape == (len(names), 218, 178, 3)
        np.testing.assert_array_equal(
            *(sorted_by_pixels(x, x)[0] for x in (images.pixels, expected))
        )
        assert images.labels is None
    assert "tensorflow" not in sys.modules


def test_celeb_a_in_squares_is_its_middle_resized(tmp_path):
    faces, tables = write_celeb_a(tmp_path)
    folder = prepare("celeb_a/64", tmp_path)
    assert folder.parts[-3:-1] == ("celeb_a", "64")
    for images, part in zip(load_split("celeb_a/64"), (0, 2), strict=True):
        rows = tables["list_eval_partition.txt"].items()
        expected = [
            square(np.asarray(Image.open(io.BytesIO(faces[name]))), 64, 140)
            for name, [number] in rows
            if number == part
        ]
        np.testing.assert_array_equal(
            *(sorted_by_pixels(x, x)[0] for x in (images.pixels, np.stack(expected)))
        )
    assert load(folder).pixels.shape == (5, 64, 64, 3)
    assert load_split(prepare("celeb_a/8", tmp_path))[1].pixels.shape == (2, 8, 8, 3)
    assert prepare("celeb_a/64", tmp_path / "nowhere") == folder


@pytest.mark.parametrize("file", ["img_align_celeba.zip", "identity_CelebA.txt"])
def test_a_missing_file_of_celeb_a_is_named(file, tmp_path):
    write_celeb_a(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(DataError, match=rf"{file} does not exist.*drive.google.com"):
        prepare("celeb_a", tmp_path)


@pytest.mark.parametrize("name", ["celeba", "celeb_a/0", "celeb_a/64x64", "mnist/14", ""])
def test_what_names_no_set_is_refused(name, tmp_path):
    with pytest.raises(DataError, match=rf"'{name}' names no set, expected mnist .*celeb_a/64"):
        prepare(name, tmp_path)
