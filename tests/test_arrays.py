"""Arrays in files: one range of values, one numbering of labels, sizes before contents."""

import gzip
import resource
import struct
import zipfile

import numpy as np
import pytest

from ebm_jax.data import DataError, fingerprint, load, load_split

RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 256, (20, 4, 5), np.uint8)
PIXELS[0, 0, :2] = 0, 255


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


# ---- the range of values


@pytest.mark.parametrize(
    ("name", "scale"),
    [("floats in [-1, 1]", lambda p: p / 127.5 - 1), ("floats in [0, 1]", lambda p: p / 255)],
)
@pytest.mark.parametrize("dark", ["train", "test"])
def test_the_range_is_decided_for_train_and_test_together(name, scale, dark, tmp_path):
    """One part has bright pixels only, so that alone it would look like [0, 1]."""
    bright, full = 128 + PIXELS[:8] // 2, PIXELS[8:]
    full[0, 0, 0] = 0
    x, x_test = (bright, full) if dark == "test" else (full, bright)
    path = save(tmp_path / "a.npz", x_train=scale(x), x_test=scale(x_test).astype(np.float32))
    for found, expected in zip(load_split(path), (x, x_test), strict=True):
        np.testing.assert_array_equal(found.pixels[..., 0], expected)
        assert found.values == fingerprint(found)["values"] == name


@pytest.mark.parametrize("off", [1.2e-7, 9e-4])
def test_round_off_beyond_the_ends_is_clipped(off, tmp_path):
    for name, scale, ends in (
        ("floats in [-1, 1]", PIXELS / 127.5 - 1, (-1 - off, 1 + off)),
        ("floats in [0, 1]", PIXELS / 255, (-off, 1 + off)),
    ):
        scale = scale.copy()
        scale[0, 0, :2] = ends
        images = load(save(tmp_path / "a.npz", x=scale))
        np.testing.assert_array_equal(images.pixels[..., 0], PIXELS)
        assert images.values == name


def test_more_than_round_off_is_refused_in_either_part(tmp_path):
    for arrays in (
        {"x": PIXELS / 127.5 - 1.01},
        {"x": PIXELS / 255, "x_test": PIXELS / 252},
        {"x": PIXELS, "x_test": PIXELS / 252},
    ):
        with pytest.raises(DataError, match="has floats from"):
            load(save(tmp_path / "a.npz", **arrays))


def test_bytes_say_so(tmp_path):
    assert load(save(tmp_path / "a.npz", x=PIXELS)).values == "uint8"
    train, test = load_split(save(tmp_path / "a.npz", x=PIXELS, x_test=PIXELS[:3] / 255))
    assert (train.values, test.values) == ("uint8", "floats in [0, 1]")
    np.testing.assert_array_equal(test.pixels, train.pixels[:3])


# ---- labels

WORDS = np.array(["eel", "cat", "dog", "cat"])
NUMBERED = np.array([2, 0, 1, 0], np.int32)


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        (WORDS, NUMBERED, ("cat", "dog", "eel")),
        (WORDS.astype(bytes), NUMBERED, ("cat", "dog", "eel")),
        (np.array([10, -3, 7, -3]), NUMBERED, ("-3", "7", "10")),
        (np.array([2**40, 1, 2**33, 1]), NUMBERED, ("1", str(2**33), str(2**40))),
        (
            np.array([2**64 - 1, 1, 2**63, 1], np.uint64),
            NUMBERED,
            ("1", str(2**63), str(2**64 - 1)),
        ),
        (np.array([3.0, 1.0, 2.0, 1.0]), NUMBERED, ("1", "2", "3")),
        (np.array([[2], [0], [1], [0]], np.uint8), NUMBERED, None),
        (np.array([True, False, True, True]), np.array([1, 0, 1, 1], np.int32), None),
    ],
    ids=["words", "bytes", "numbers", "large", "uint64", "whole floats", "column", "bools"],
)
def test_labels_are_numbered_in_the_order_of_their_values(labels, expected, names, tmp_path):
    images = load(save(tmp_path / "a.npz", x=PIXELS[:4], y=labels))
    np.testing.assert_array_equal(images.labels, expected, strict=True)
    assert images.names == names


def test_train_and_test_share_one_numbering_and_either_may_lack_a_class(tmp_path):
    arrays = {"x_train": PIXELS[:3], "y_train": [30, 10, 30], "x_test": PIXELS[3:6]}
    train, test = load_split(save(tmp_path / "a.npz", **arrays, y_test=[20, 30, 40]))
    assert train.names == test.names == ("10", "20", "30", "40")
    np.testing.assert_array_equal(train.labels, [2, 0, 2])
    np.testing.assert_array_equal(test.labels, [1, 2, 3])
    train, test = load_split(save(tmp_path / "a.npz", **arrays))
    assert (train.names, test.labels, test.names) == (("10", "30"), None, None)
    with pytest.raises(DataError, match="numbers as labels in one part and words in another"):
        load_split(save(tmp_path / "a.npz", **arrays, y_test=["a", "b", "c"]))


@pytest.mark.parametrize(
    "labels", [[0.5, 1, 2, 3], [np.nan] * 4, [np.inf] * 4, [1e300, 1, 2, 3], [1j, 2, 3, 4]]
)
def test_labels_that_name_no_class_are_refused(labels, tmp_path):
    with pytest.raises(DataError, match=r"array 'y', has .* expected .*whole numbers or names"):
        load(save(tmp_path / "a.npz", x=PIXELS[:4], y=np.array(labels)))


# ---- files are never unpickled, and sizes come before contents


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_objects_beside_the_images_are_left_alone(tmp_path):
    path = save(
        tmp_path / "a.npz",
        metadata=np.array(Bomb(), object),
        more=np.array([[[Bomb()] * 4] * 4] * 4, object),
        imgs=PIXELS,
    )
    np.testing.assert_array_equal(load(path).pixels[..., 0], PIXELS)
    for name in "images", "labels":
        arrays = {"x": PIXELS[:4], name: np.array([Bomb()] * 4, object)}
        with pytest.raises(DataError, match=rf"array '{name}', has .*dtype object"):
            load(save(tmp_path / "b.npz", **arrays))


def npz_of_zeros(path, **shapes):
    """Arrays of zeros, of which the archive holds a thousandth of their size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in shapes.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for _ in range(np.prod(shape) // 2**20):
                    file.write(bytes(2**20))
    return path


def gzip_of(path, head, megabytes):
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(megabytes):
            file.write(bytes(2**20))
    return path


IDX = struct.pack(">HBB3I", 0, 8, 3, 200, 1024, 1024)
BOMBS = {
    "npz of another shape": (
        lambda path: npz_of_zeros(path / "a.npz", x=(200, 2**20)),
        r"has shape \(200, 1048576\)",
    ),
    "npz with another array": (
        lambda path: npz_of_zeros(path / "a.npz", x=(1, 1024, 1024), y=(200, 2**20)),
        r"'y', has shape \(200, 1048576\)",
    ),
    "npz that does not fit": (
        lambda path: npz_of_zeros(path / "a.npz", x=(200, 1024, 1024)),
        "takes 209.7 MB of memory .* expected at most the 100.0 MB",
    ),
    "gz of no idx": (lambda path: gzip_of(path / "a.gz", b"hello", 200), "no idx file"),
    "gz that does not fit": (lambda path: gzip_of(path / "a.gz", IDX, 200), "takes 209.7 MB"),
    "gz with more than its header": (
        lambda path: gzip_of(path / "a.gz", IDX[:4] + struct.pack(">3I", 2, 8, 8), 200),
        "more than 128 bytes",
    ),
    "idx that does not fit": (
        lambda path: (path / "a").write_bytes(IDX + bytes(100)) and path / "a",
        "takes 209.7 MB",
    ),
}


@pytest.mark.parametrize(("make", "match"), BOMBS.values(), ids=BOMBS)
def test_a_small_file_that_would_fill_memory_is_refused_unread(make, match, tmp_path, monkeypatch):
    monkeypatch.setattr("ebm_jax.data.memory.free_memory", lambda: 100_000_000)
    path = make(tmp_path)
    assert path.stat().st_size < 2_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=match):
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_an_array_that_needs_no_copy_may_fill_what_is_free(tmp_path, monkeypatch):
    channels_first = np.repeat(PIXELS[:, None], 3, 1)
    size = channels_first.size
    for array, needed in (
        (np.moveaxis(channels_first, 1, 3), size),
        (channels_first, 2 * size),
        ((channels_first / 255).astype(np.float32), 5 * size),
    ):
        path = save(tmp_path / "a.npz", x=array)
        monkeypatch.setattr("ebm_jax.data.memory.free_memory", lambda needed=needed: needed)
        load(path)
        monkeypatch.setattr("ebm_jax.data.memory.free_memory", lambda needed=needed: needed - 1)
        with pytest.raises(DataError, match="of memory when it is read"):
            load(path)


def test_a_header_that_disagrees_with_the_directory_is_refused(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w") as archive,
        archive.open("x.npy", "w") as file,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (5, 8, 8)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(64))
    with pytest.raises(DataError, match=r"'x.npy', has 192 bytes, expected 448 by its header"):
        load(tmp_path / "a.npz")


def test_an_idx_file_is_held_once(tmp_path):
    """The peak of reading 64 MB grows by one copy, not by two."""
    import tracemalloc

    path = tmp_path / "a"
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, 64, 1024, 1024) + bytes(64 * 2**20))
    tracemalloc.start()
    load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 70 * 2**20
