"""Folders of image files: classes, orientation, links, and what is refused by name."""

import warnings

import numpy as np
import pytest
from PIL import Image

from ebm_jax.data import DataError, load, load_split, pictures

RNG = np.random.default_rng(3)
# What EXIF's orientations 1 to 8 ask a viewer to do with the stored rows and columns
TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(array)).save(path, **options)


def numbered(path, *numbers):
    for number in numbers:
        write(path / f"{number}.png", np.full((4, 4), number, np.uint8))


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", TURNS)
def test_images_are_read_as_a_viewer_shows_them(orientation, suffix, tmp_path):
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[:, :8], stored[:4, :8, 1] = 200, 90  # a corner and a half, so that no turn is another
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    write(tmp_path / f"a.{suffix}", stored, exif=exif, **options)
    [found] = load(tmp_path).pixels
    expected = TURNS[orientation](stored)
    assert found.shape == expected.shape
    difference = np.abs(found.astype(int) - expected)
    assert difference.mean() < 20 if suffix == "jpg" else difference.max() == 0


def test_sideways_and_upright_photographs_are_of_one_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = RNG.integers(0, 256, (6, 4, 3), np.uint8)
    write(tmp_path / "a.png", upright)
    write(tmp_path / "b.png", np.rot90(upright), exif=exif)
    np.testing.assert_array_equal(load(tmp_path).pixels, [upright, upright])
    write(tmp_path / "c.png", np.rot90(upright))
    with pytest.raises(DataError, match=r"c.png has shape \(4, 6, 3\), unlike a.png of \(6, 4, 3"):
        load(tmp_path)


def test_subfolders_are_classes_in_the_order_of_their_names(tmp_path):
    numbered(tmp_path / "dog", 1, 2)
    numbered(tmp_path / "cat", 9)
    numbered(tmp_path / "cat" / "old" / "older", 3)
    numbered(tmp_path / "eel.png", 4)  # a folder, whatever it is called
    numbered(tmp_path / ".thumbnails", 7)
    numbered(tmp_path / "dog" / ".thumbnails", 8)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    images = load(tmp_path)
    assert images.names == ("cat", "dog", "eel.png")
    np.testing.assert_array_equal(images.pixels[:, 0, 0, 0], [9, 3, 1, 2, 4])
    np.testing.assert_array_equal(images.labels, np.array([0, 0, 1, 1, 2], np.int32), strict=True)
    for part in load_split(tmp_path, held_out=0.4):
        by_class = {0: {3, 9}, 1: {1, 2}, 2: {4}}
        assert part.names == images.names
        assert all(
            p in by_class[k] for p, k in zip(part.pixels[:, 0, 0, 0], part.labels, strict=True)
        )


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
def test_folders_of_parts_hold_classes_in_one_numbering(test, tmp_path):
    numbered(tmp_path / "train" / "cat", 1)
    numbered(tmp_path / "train" / "eel", 2)
    numbered(tmp_path / test / "dog", 3)
    numbered(tmp_path / test / "eel", 4)
    train, held_out = load_split(tmp_path)
    assert train.names == held_out.names == ("cat", "dog", "eel")
    np.testing.assert_array_equal(train.pixels[:, 0, 0, 0], [1, 2])
    np.testing.assert_array_equal(train.labels, [0, 2])
    np.testing.assert_array_equal(held_out.pixels[:, 0, 0, 0], [3, 4])
    np.testing.assert_array_equal(held_out.labels, [1, 2])


def test_parts_without_classes_have_no_labels(tmp_path):
    numbered(tmp_path / "train", 1, 2)
    numbered(tmp_path / "test", 3)
    numbered(tmp_path / "val", 4)
    train, test = load_split(tmp_path)
    assert (train.labels, train.names, test.labels) == (None, None, None)
    np.testing.assert_array_equal(test.pixels[:, 0, 0, 0], [3])


def test_images_beside_folders_of_images_are_counted_and_refused(tmp_path):
    numbered(tmp_path, 1, 2, 3)
    numbered(tmp_path / "cat", *range(4))
    numbered(tmp_path / "dog" / "old", *range(6))
    with pytest.raises(DataError, match="holds 3 images beside 2 folders that hold 10, expected"):
        load(tmp_path)


@pytest.mark.parametrize("below", ["", "cat"])
def test_links_are_followed_and_dangling_ones_are_named(below, tmp_path):
    numbered(tmp_path / "elsewhere" / "more", 1, 2)
    folder = tmp_path / "set"
    numbered(folder / below, 3)
    (folder / below / "4.png").symlink_to(tmp_path / "elsewhere" / "more" / "1.png")
    if below:
        (folder / "dog").symlink_to(tmp_path / "elsewhere")
    expected = [3, 1, 1, 2] if below else [3, 1]
    np.testing.assert_array_equal(load(folder).pixels[:, 0, 0, 0], expected)
    for name in "5.png", "6":
        link = folder / below / name
        link.symlink_to("/not/mounted")
        with pytest.raises(DataError, match=f"{link} is a link to /not/mounted, which does not"):
            load(folder)
        link.unlink()
    (folder / "cat").mkdir(exist_ok=True)
    (folder / "cat" / "loop").symlink_to(folder)
    with pytest.raises(DataError, match="cat/loop is a link to a folder that it lies in"):
        load(folder)


def test_what_is_no_file_is_named(tmp_path):
    import os

    numbered(tmp_path, 1)
    os.mkfifo(tmp_path / "2.png")
    with pytest.raises(DataError, match=r"2.png is no regular file"):
        load(tmp_path)


def test_an_unreadable_file_of_a_class_is_named(tmp_path):
    numbered(tmp_path / "cat", 1, 2)
    (tmp_path / "cat" / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cat/2.png cannot be read"):
        load(tmp_path)


def test_a_program_in_postscript_is_no_image(tmp_path):
    """Pillow would run Ghostscript on it, whatever the file is called."""
    picture = Image.new("RGB", (4, 4))
    picture.save(tmp_path / "a.png", "eps")
    with pytest.raises(DataError, match=r"a.png cannot be read \(cannot identify image file"):
        load(tmp_path)


def test_a_folder_that_does_not_fit_is_refused_before_an_image_is_decoded(tmp_path, monkeypatch):
    for name in "ab":
        write(tmp_path / f"{name}.png", np.zeros((300, 200, 3), np.uint8))
    monkeypatch.setattr("ebm_jax.data.memory.free_memory", lambda: 2 * 300 * 200 * 3)
    assert len(load(tmp_path).pixels) == 2
    monkeypatch.setattr("ebm_jax.data.memory.free_memory", lambda: 2 * 300 * 200 * 3 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"takes 0.4 MB of memory .* expected at most the 0.4 MB"):
        load(tmp_path)


def test_an_image_of_another_size_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    numbered(tmp_path, 1)
    write(tmp_path / "2.png", np.zeros((500, 400), np.uint8))
    turned = []
    monkeypatch.setattr(pictures, "upright", lambda image: turned.append(image) or image)
    with pytest.raises(DataError, match=r"2.png has shape \(500, 400, 1\), unlike 1.png"):
        load(tmp_path)
    assert len(turned) == 1


def test_damaged_exif_data_are_passed_over_as_viewers_do(tmp_path):
    write(tmp_path / "a.jpg", np.full((8, 8), 77, np.uint8), exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(tmp_path).pixels[0, 3, 3, 0] == 77
