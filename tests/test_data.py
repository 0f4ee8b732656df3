"""Readers against files from struct, numpy and Pillow; the order of batches against counting."""

import gzip
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ebm_jax.data import DataError, batch_indices, load, load_split, to_uint8, to_unit

BYTES = np.arange(256, dtype=np.uint8)
GREY = np.random.default_rng(1).integers(0, 256, (7, 4, 5, 1), np.uint8)
RGB = np.random.default_rng(2).integers(0, 256, (6, 4, 5, 3), np.uint8)
RGB[0, 0, 0], RGB[0, 0, 1] = 0, 255  # both ends, so that floats span their whole range
LABELS = np.arange(7) * 3 % 10  # 0 3 6 9 2 5 8
CLASSES = np.array([0, 2, 4, 6, 1, 3, 5])  # their ranks among 0 2 3 5 6 8 9


def save(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def idx(array: np.ndarray) -> bytes:
    """The idx format by the book: 0, 0, type 8, rank, big-endian sizes, then the bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def picture(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


# ---- pixels


def test_digits_are_scikit_learns_within_half_a_gray_level():
    from sklearn.datasets import load_digits

    truth, (pixels, labels, *_) = load_digits(), load()
    assert pixels.shape == (1797, 8, 8, 1)
    assert pixels.dtype == np.uint8
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, truth.target)
    assert np.abs(pixels[..., 0] - truth.images * 255 / 16).max() <= 0.5


def test_unit_is_the_affine_map_onto_minus_one_to_one_and_its_inverse_loses_nothing():
    x = to_unit(BYTES)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, np.linspace(-1, 1, 256), atol=1e-7)
    np.testing.assert_array_equal(x, -x[::-1])
    np.testing.assert_array_equal(to_uint8(x), BYTES)


def test_conversions_keep_the_shape_and_take_jax_arrays_out():
    x = to_unit(RGB)
    assert x.shape == RGB.shape
    np.testing.assert_array_equal(to_uint8(jnp.asarray(x)), RGB)


def test_uint8_is_the_nearest_value_after_clipping():
    halfway = (2 * (BYTES[:-1] + 0.5) - 255) / 255  # between p and p + 1
    np.testing.assert_array_equal(to_uint8(halfway - 1e-4), BYTES[:-1])
    np.testing.assert_array_equal(to_uint8(halfway + 1e-4), BYTES[1:])
    half = np.linspace(-1, 1, 999).astype(np.float16)  # read in full, though it is stored in half
    np.testing.assert_array_equal(to_uint8(half), np.rint(127.5 * (half.astype(float) + 1)))
    far = np.array([-np.inf, -7, -1.01, 1.01, 7, np.inf])
    np.testing.assert_array_equal(to_uint8(far), [0, 0, 0, 255, 255, 255])


# ---- readers


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY[..., 0], GREY),
        (GREY, GREY),
        (RGB, RGB),
        (np.moveaxis(GREY, 3, 1), GREY),
        (np.moveaxis(RGB, 3, 1), RGB),
        (RGB.astype(np.float64) / 255, RGB),
        (RGB.astype(">f4") / np.float32(127.5) - 1, RGB),
        ((RGB / 255).astype(np.float16), RGB),
        (np.zeros((2, 4, 5), np.float32), np.zeros((2, 4, 5, 1), np.uint8)),
    ],
    ids=["nhw", "nhw1", "nhw3", "n1hw", "n3hw", "float64", "signed", "float16", "black"],
)
def test_npz_reads_every_layout_and_range_as_the_same_pixels(tmp_path, array, expected):
    pixels, labels, *_ = load(save(tmp_path / "a.npz", images=array))
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert labels is None


@pytest.mark.parametrize(
    ("name", "label_name"),
    [
        ("x_train", "y_train"),
        ("train_images", "train_labels"),
        ("images", "labels"),
        ("X", "Y"),
        ("samples", "label_of_no_meaning"),
        ("data", "target"),
        ("pixels", "targets"),
        ("arr_0", "arr_1"),
        ("faces", "labels"),
    ],
)
def test_npz_finds_images_and_labels_by_their_usual_names(tmp_path, name, label_name):
    arrays = {"note": np.array("taken in may"), name: GREY, label_name: LABELS[:, None]}
    pixels, labels, *_ = load(save(tmp_path / "a.npz", **arrays))
    np.testing.assert_array_equal(pixels, GREY)
    if label_name == "label_of_no_meaning":
        assert labels is None
    else:
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, CLASSES)


def test_npz_prefers_the_training_part(tmp_path):
    arrays = {"x": RGB, "x_test": RGB, "images": RGB, "x_train": GREY}
    labels = {"y": LABELS[:3], "y_test": LABELS[:6], "labels": LABELS[:3], "y_train": LABELS}
    train = load(save(tmp_path / "a.npz", **arrays, **labels, x_val=RGB))
    np.testing.assert_array_equal(train.pixels, GREY)
    np.testing.assert_array_equal(train.labels, CLASSES)
    assert train.names == tuple("0235689")


@pytest.mark.parametrize(
    ("array", "suffix"),
    [(GREY, "png"), (GREY, "tif"), (GREY, "pgm"), (RGB, "png"), (RGB, "BMP"), (RGB, "webp")],
)
def test_folder_reads_lossless_images_in_the_order_of_their_names(tmp_path, array, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    for i in reversed(range(len(array))):
        picture(tmp_path / f"{i}.{suffix}", array[i].squeeze(), **options)
    write(tmp_path / "README.txt", b"not an image")
    write(tmp_path / "._0.png", b"what a Mac leaves behind")
    pixels, labels, *_ = load(str(tmp_path))
    np.testing.assert_array_equal(pixels, array)
    assert labels is None


def test_folder_reads_jpeg(tmp_path):
    picture(tmp_path / "a.jpg", np.full((8, 8, 3), (200, 100, 50), np.uint8), quality=95)
    np.testing.assert_allclose(load(tmp_path).pixels[0, 4, 4], (200, 100, 50), atol=3)


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gz", "plain"])
@pytest.mark.parametrize("mark", ["-", "."])
def test_mnist_folder_and_its_files_by_path(tmp_path, pack, mark):
    suffix = ".gz" if pack is gzip.compress else ""
    published = {"train": slice(0, 5), "t10k": slice(5, 7)}
    for part, rows in published.items():
        for kind, array in ("images", GREY[rows, ..., 0]), ("labels", LABELS[rows]):
            name = f"{part}-{kind}{mark}idx{array.ndim}-ubyte{suffix}"
            write(tmp_path / name, pack(idx(array.astype(np.uint8))))
    train, test = load_split(tmp_path)
    alone = {p: load(tmp_path / f"{p}-images{mark}idx3-ubyte{suffix}") for p in published}
    for got, part in (
        (train, "train"),
        (test, "t10k"),
        (load(tmp_path), "train"),
        (alone["train"], "train"),
        (alone["t10k"], "t10k"),
    ):
        np.testing.assert_array_equal(got.pixels, GREY[published[part]])
        named = np.array(got.names).astype(int)
        np.testing.assert_array_equal(named[got.labels], LABELS[published[part]])
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), CLASSES)


def test_idx_without_labels_beside_it(tmp_path):
    got = load(write(tmp_path / "anything", idx(GREY[..., 0])))
    np.testing.assert_array_equal(got.pixels, GREY)
    assert got.labels is None


# ---- splits


def numbered(path: Path, count: int) -> Path:
    """Images that carry their own number in their first two pixels, and its last digit as label."""
    images = np.zeros((count, 2, 2), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(count), 256)
    return save(path, images=images, labels=np.arange(count) % 10)


@pytest.mark.parametrize(
    ("count", "options", "expected"),
    [
        (100, {}, 25),
        (100, {"held_out": 0.4}, 40),
        (100, {"held_out": 0.4, "max_held_out": 30}, 30),
        (41_000, {}, 10_000),
        (2, {"held_out": 0.01}, 1),
        (2, {"held_out": 0.99}, 1),
        (3, {"held_out": 0.99}, 2),
    ],
)
def test_split_divides_the_images_into_two_shuffled_parts(tmp_path, count, options, expected):
    path = numbered(tmp_path / "a.npz", count)
    numbers = []
    for part in load_split(path, **options):
        numbers.append(part.pixels[:, 0, :, 0] @ np.array([256, 1]))
        np.testing.assert_array_equal(part.labels, numbers[-1] % 10)
    assert len(numbers[1]) == expected
    np.testing.assert_array_equal(np.sort(np.concatenate(numbers)), np.arange(count))
    if count > 2:
        standard_error = count / np.sqrt(12 * expected)  # of the mean of uniform numbers
        assert abs(numbers[1].mean() - count / 2) < 5 * standard_error
        assert (np.diff(numbers[1]) < 0).any()
    again = load_split(path, **options)[1].pixels
    np.testing.assert_array_equal(again[:, 0, 1, 0], numbers[1] % 256)


def test_a_single_image_may_be_held_out(tmp_path):
    train, test = load_split(numbered(tmp_path / "a.npz", 9), max_held_out=1)
    assert (len(train.pixels), len(test.pixels)) == (8, 1)


def test_split_of_images_without_labels_has_none(tmp_path):
    assert [p.labels for p in load_split(save(tmp_path / "a.npz", x=GREY))] == [None, None]


@pytest.mark.parametrize(
    ("test_name", "test_labels"), [("x_test", "y_test"), ("test_images", "test_labels")]
)
def test_split_keeps_the_test_images_of_an_npz(tmp_path, test_name, test_labels):
    arrays = {"x": GREY[:4], "y": LABELS[:4], test_name: GREY[4:], test_labels: LABELS[4:]}
    train, test = load_split(save(tmp_path / "a.npz", **arrays), held_out=0.5)
    np.testing.assert_array_equal(np.concatenate([train.pixels, test.pixels]), GREY)
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), CLASSES)
    assert len(test.pixels) == 3


def test_split_never_judges_by_its_own_training_images(tmp_path):
    train, test = load_split(save(tmp_path / "a.npz", x_test=GREY))
    assert len(train.pixels) + len(test.pixels) == len(GREY)


# ---- the order of batches


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 3), (7, 7), (3, 8), (1, 2), (12, 4)])
def test_every_epoch_of_the_stream_visits_every_example_once(num_examples, batch_size):
    num_steps = 6 * num_examples  # 6 * batch_size epochs
    batches = batch_indices(5, 0, num_steps, num_examples, batch_size)
    assert batches.shape == (num_steps, batch_size)
    assert batches.dtype == np.int32
    epochs = batches.reshape(-1, num_examples)
    np.testing.assert_array_equal(
        np.sort(epochs), np.tile(np.arange(num_examples), (len(epochs), 1))
    )


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 3), (3, 8), (12, 4)])
def test_the_order_does_not_depend_on_how_it_is_asked_for(num_examples, batch_size):
    whole = batch_indices(5, 0, 30, num_examples, batch_size)
    for start in range(31):
        parts = [
            batch_indices(5, a, b - a, num_examples, batch_size)
            for a, b in [(0, start), (start, 30)]
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    one_by_one = batch_indices(5, 0, 30 * batch_size, num_examples, 1)
    np.testing.assert_array_equal(one_by_one.ravel(), whole.ravel())


def test_epochs_and_seeds_differ_and_a_caller_cannot_disturb_them():
    epochs = batch_indices(5, 0, 3, 50, 50)
    expected = epochs.copy()
    others = batch_indices(6, 0, 3, 50, 50)
    orders = {tuple(order) for order in (*epochs, *others, np.arange(50))}
    assert len(orders) == 7
    epochs[:] = 0
    np.testing.assert_array_equal(batch_indices(5, 0, 3, 50, 50), expected)
    np.testing.assert_array_equal(batch_indices(5, 0, 1, 50, 50), expected[:1])


def test_places_in_an_epoch_are_uniform():
    """Example 0's place over 4,000 epochs of 10: its mean is 4.5, its variance 99 / 12."""
    places = np.argmin(batch_indices(0, 0, 4000, 10, 10), axis=1)
    assert abs(places.mean() - 4.5) < 5 * np.sqrt(99 / 12 / 4000)
    assert np.bincount(places, minlength=10).min() > 300


@pytest.mark.parametrize("name", ["seed", "step", "num_steps", "num_examples", "batch_size"])
def test_batch_indices_refuses_numbers_out_of_range(name):
    good = {"seed": 0, "step": 0, "num_steps": 0, "num_examples": 1, "batch_size": 1}
    assert batch_indices(**good).shape == (0, 1)
    with pytest.raises(ValueError, match=f"{name}={good[name] - 1}"):
        batch_indices(**(good | {name: good[name] - 1}))


# ---- what cannot be used


def bad_npz(content):
    return lambda path: save(path / "bad.npz", **content)


def bad_file(name, content):
    return lambda path: write(path / name, content)


def bad_folder(**pictures):
    def make(path: Path) -> Path:
        for name, array in pictures.items():
            picture(path / "folder" / f"{name}.png", array)
        return path / "folder"

    return make


def corrupt_npz(path: Path) -> Path:
    """An archive whose directory is whole but whose compressed bytes are not."""
    file = path / "bad.npz"
    np.savez_compressed(file, images=np.tile(RGB, (9, 1, 1, 1)))
    content = bytearray(file.read_bytes())
    content[200:260] = bytes(60)
    return write(file, bytes(content))


def png_bytes(array=RGB[0]) -> bytes:
    Image.fromarray(array).save(stream := io.BytesIO(), "png")
    return stream.getvalue()


def png_in_folder(content: bytes):
    def make(path: Path) -> Path:
        write(path / "folder" / "a.png", png_bytes())
        return write(path / "folder" / "b.png", content).parent

    return make


def huge_png(side: int) -> bytes:
    """A whole PNG whose header claims side x side pixels."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(b"\0" * 9))
        + chunk(b"IEND", b"")
    )


def mnist_with_labels(labels: bytes):
    def make(path: Path) -> Path:
        write(path / "folder" / "train-labels-idx1-ubyte", labels)
        return write(path / "folder" / "train-images-idx3-ubyte", idx(GREY[..., 0])).parent

    return make


def empty_folder(path: Path) -> Path:
    (path / "folder" / "subfolder").mkdir(parents=True)
    return path / "folder"


def pipe(path: Path) -> Path:
    os.mkfifo(path / "pipe")
    return path / "pipe"


def foreign_zip(path: Path) -> Path:
    with zipfile.ZipFile(path / "bad.npz", "w") as file:
        file.writestr("notes.txt", "nothing here")
    return path / "bad.npz"


GZ = gzip.compress(idx(GREY[..., 0]))
BROKEN = {
    "missing": (lambda path: path / "no such file", "does not exist"),
    "two lines": (lambda path: path / "no\nsuch", "does not exist"),
    "too long": (lambda path: path / ("x" * 5000), "cannot be read"),
    "pipe": (pipe, "not a set of images"),
    "one image": (bad_file("one.png", png_bytes()), "give the folder"),
    "empty folder": (empty_folder, "holds no images"),
    "text": (bad_file("notes.txt", b"hello"), "no idx file"),
    "empty file": (bad_file("empty", b""), "no idx file"),
    "npz empty file": (bad_file("bad.npz", b""), "no archive"),
    "npz of text": (bad_file("bad.npz", b"hello"), "no archive"),
    "npz cut short": (
        lambda path: write(path / "bad.npz", save(path / "a.npz", x=RGB).read_bytes()[:-50]),
        "no archive",
    ),
    "npz damaged": (corrupt_npz, "cannot be read"),
    "npz directory damaged": (
        lambda path: write(
            path / "bad.npz",
            save(path / "a.npz", x=RGB).read_bytes().replace(b"PK\1\2", b"PK??"),
        ),
        "cannot be read",
    ),
    "npz foreign": (foreign_zip, "0 arrays"),
    "npz no images": (bad_npz({"a": LABELS, "b": LABELS}), "0 arrays"),
    "npz two images": (bad_npz({"a": GREY, "b": GREY}), "2 arrays"),
    "npz of objects": (bad_npz({"images": np.array([{}, None])}), "dtype object"),
    "npz with no rows": (bad_npz({"images": GREY[:0]}), "(0, 4, 5, 1)"),
    "npz flat": (bad_npz({"x": GREY.reshape(7, 20)}), "(7, 20)"),
    "npz one image": (bad_npz({"x": RGB[0]}), "(4, 5, 3)"),
    "npz alpha": (bad_npz({"x": np.zeros((2, 8, 8, 4), np.uint8)}), "(2, 8, 8, 4)"),
    "npz two readings": (bad_npz({"x": np.zeros((2, 3, 8, 3), np.uint8)}), "c alone"),
    "npz one pixel wide": (bad_npz({"x": np.zeros((2, 8, 1, 3), np.uint8)}), "2x2"),
    "npz one pixel high": (bad_npz({"x": np.zeros((2, 1, 8), np.uint8)}), "2x2"),
    "npz one row of RGB": (bad_npz({"x": np.zeros((2, 3, 1, 8), np.uint8)}), "2x2"),
    "npz of ints": (bad_npz({"x": GREY.astype(int)}), "int64"),
    "npz of bools": (bad_npz({"x": GREY > 99}), "bool"),
    "npz of words": (bad_npz({"x": GREY.astype(str)}), "dtype <U3"),
    "npz NaN": (bad_npz({"x": np.full((2, 4, 4), np.nan)}), "nan to nan"),
    "npz infinite": (bad_npz({"x": np.full((2, 4, 4), np.inf)}), "inf"),
    "npz above 1": (bad_npz({"x": GREY.astype(float)}), "floats from"),
    "npz just above 1": (bad_npz({"x": GREY / 170}), "floats from"),
    "npz below -1": (bad_npz({"x": GREY / -128}), "floats from"),
    "npz few labels": (bad_npz({"x": GREY, "y": LABELS[:6]}), "7 whole numbers"),
    "npz one-hot": (bad_npz({"x": GREY, "y": np.eye(7, 10, dtype=int)}), "(7, 10)"),
    "npz float labels": (bad_npz({"x": GREY, "y": LABELS / 2}), "float64"),
    "npz bad test": (bad_npz({"x": GREY, "x_test": GREY.astype(int)}), "x_test"),
    "gz cut short": (bad_file("a.gz", GZ[:-20]), "cannot be read"),
    "gz damaged": (bad_file("a.gz", GZ[:30] + bytes(30) + GZ[60:]), "bytes of values"),
    "gz of text": (bad_file("a.gz", gzip.compress(b"hello")), "no idx file"),
    "idx cut short": (bad_file("a", idx(GREY[..., 0])[:-1]), "139 bytes of values, expected 140"),
    "idx too long": (bad_file("a", idx(GREY[..., 0]) + b"x"), "more than 140 bytes"),
    "idx no header": (bad_file("a", idx(GREY[..., 0])[:9]), "cannot be read"),
    "idx of floats": (bad_file("a", b"\0\0\x0d" + idx(GREY)[3:]), "no idx file of uint8"),
    "idx of labels": (bad_file("a", idx(LABELS.astype(np.uint8))), "(7,)"),
    "idx with no rows": (bad_file("a", idx(GREY[:0, ..., 0])), "(0, 4, 5)"),
    "mnist labels missing one": (mnist_with_labels(idx(BYTES[:6])), "7 whole numbers"),
    "mnist labels damaged": (mnist_with_labels(b"hello"), "train-labels-idx1-ubyte is no idx"),
    "png of text": (png_in_folder(b"hello"), "b.png cannot be read"),
    "png empty": (png_in_folder(b""), "b.png cannot be read"),
    "png cut short": (png_in_folder(png_bytes()[:-30]), "b.png cannot be read"),
    "png damaged": (png_in_folder(png_bytes()[:50] + b"??" + png_bytes()[52:]), "b.png cannot"),
    "png too large": (png_in_folder(huge_png(11_000)), "exceeds limit"),
    "png bomb": (png_in_folder(huge_png(60_000)), "exceeds limit"),
    "png alpha": (png_in_folder(png_bytes(np.zeros((4, 5, 4), np.uint8))), "b.png has mode RGBA"),
    "png 16 bits": (png_in_folder(png_bytes(np.zeros((4, 5), np.uint16))), "b.png has mode I;16"),
    "png other size": (bad_folder(a=RGB[0], b=RGB[0], c=RGB[0, :3]), "c.png has shape (3, 5, 3)"),
    "png other mode": (bad_folder(a=RGB[0], b=GREY[0, ..., 0]), "b.png has shape (4, 5, 1)"),
    "png one pixel": (bad_folder(a=RGB[0, :1, :1]), "(1, 1, 1, 3)"),
}


@pytest.mark.parametrize("function", [load, load_split])
@pytest.mark.parametrize(("make", "word"), BROKEN.values(), ids=BROKEN)
def test_bad_data_gets_one_sentence_with_path_finding_expectation_and_mend(
    tmp_path, make, word, function
):
    path = make(tmp_path)
    with pytest.raises(DataError) as caught:
        function(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert " ".join(str(path).split()) in message
    assert word in message
    assert ", expected " in message
    assert message.endswith(".")
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_several_frames_are_refused(tmp_path):
    frames = [Image.fromarray(image) for image in RGB]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:2])
    with pytest.raises(DataError, match="2 frames, expected one"):
        load(tmp_path)


def test_unreadable_file_says_so(tmp_path):
    path = save(tmp_path / "a.npz", x=GREY)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DataError, match="Permission denied"):
        load(path)


def test_empty_path_is_not_the_current_folder():
    with pytest.raises(DataError, match="'' does not exist"):
        load("")


def test_split_refuses_one_image_two_sizes_and_wild_numbers(tmp_path):
    alone = save(tmp_path / "a.npz", x=GREY[:1])
    assert len(load(alone).pixels) == 1
    with pytest.raises(DataError, match="holds 1 image, expected 2"):
        load_split(alone)
    with pytest.raises(DataError, match=r"\(4, 5, 3\), expected \(4, 5, 1\)"):
        load_split(save(tmp_path / "b.npz", x=GREY, x_test=RGB))
    for name, value in ("held_out", 0.0), ("held_out", 1.0), ("max_held_out", 0):
        with pytest.raises(DataError, match=f"{name}={value}"):
            load_split("digits", **{name: value})
