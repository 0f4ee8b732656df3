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


def test_images_of_any_size_are_squares_from_the_middle(tmp_path):
    """A square of one color in the middle is kept, but near its edge, where filters see over it."""
    for name, shape in ("a.png", (40, 90, 3)), ("b.png", (90, 40, 3)), ("c.png", (20, 20, 3)):
        array = np.full(shape, 255, np.uint8)
        side = min(shape[:2])
        top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
        array[top : top + side, left : left + side] = (10, 60, 200)
        write(tmp_path / name, array)
    found = load(tmp_path, resize=8).pixels
    assert found.shape == (3, 8, 8, 3)
    inside = found[:, 3:5, 3:5]
    np.testing.assert_array_equal(inside, np.broadcast_to(np.uint8([10, 60, 200]), inside.shape))
    np.testing.assert_allclose(found.mean((1, 2)), [[10, 60, 200]] * 3, atol=10)


def test_a_smaller_image_keeps_its_means(tmp_path):
    """A ramp, resized by a filter of weights that sum to 1, is the ramp at the new centres."""
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    write(tmp_path / "a.png", ramp)
    [found] = load(tmp_path, resize=8).pixels[..., 0].astype(float)
    centres = 4 * (8 * np.arange(8) + 3.5)
    np.testing.assert_allclose(found[:, 1:-1], np.tile(centres[1:-1], (8, 1)), atol=1)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_resized_images_are_turned_first(orientation, suffix, tmp_path):
    """Also those of a JPEG that is decoded at a part of its size."""
    stored = np.zeros((128, 256, 3), np.uint8)
    stored[:, :128], stored[:64, :128, 1] = 200, 90
    exif = Image.Exif()
    exif[0x0112] = orientation
    write(tmp_path / f"a.{suffix}", stored, exif=exif)
    [found] = load(tmp_path, resize=8).pixels
    middle = TURNS[orientation](stored[:, 64:192])
    small = np.asarray(Image.fromarray(np.ascontiguousarray(middle)).resize((8, 8), Image.BOX))
    assert np.abs(found.astype(int) - small).mean() < 12


def test_resized_images_are_gray_only_if_all_are(tmp_path):
    for part, color in (("train", 100), ("test", 7)):
        write(tmp_path / part / "a.png", np.full((9, 9), color, np.uint8))
        Image.new("1", (7, 7), 1).save(tmp_path / part / "b.png")
    assert {part.pixels.shape for part in load_split(tmp_path, resize=4)} == {(2, 4, 4, 1)}
    write(tmp_path / "test" / "c.png", np.full((9, 9, 3), 8, np.uint8))
    assert [part.pixels.shape for part in load_split(tmp_path, resize=4)] == [
        (2, 4, 4, 3),
        (3, 4, 4, 3),
    ]
    assert load(tmp_path, resize=4, color="gray").pixels.shape == (2, 4, 4, 1)


def test_transparent_images_lie_on_white(tmp_path):
    half = np.zeros((4, 4, 4), np.uint8)
    half[:2] = (200, 0, 0, 255)
    Image.fromarray(half).save(tmp_path / "a.png")
    [found] = load(tmp_path, resize=4).pixels
    np.testing.assert_array_equal(found[0, 0], [200, 0, 0])
    np.testing.assert_array_equal(found[3, 3], [255, 255, 255])
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 99, 199])
    palette.save(tmp_path / "b.png")
    palette.save(tmp_path / "c.png", transparency=1)
    found = load(tmp_path, color="rgb").pixels[1:, 0, 0]
    np.testing.assert_array_equal(found, [[9, 99, 199], [255, 255, 255]])


def test_color_alone_keeps_the_size(tmp_path):
    write(tmp_path / "a.png", np.full((4, 6, 3), 50, np.uint8))
    write(tmp_path / "b.png", np.full((4, 6), 70, np.uint8))
    assert load(tmp_path, color="rgb").pixels[:, 0, 0].tolist() == [[50] * 3, [70] * 3]
    assert load(tmp_path, color="gray").pixels[:, 0, 0].tolist() == [[50], [70]]
    with pytest.raises(DataError, match=r"b.png has shape"):
        load(tmp_path)


def test_what_cannot_be_converted_is_refused_and_the_mend_named(tmp_path):
    deep = tmp_path / "deep"
    write(deep / "a.png", np.full((4, 4), 40_000, np.uint16))
    with pytest.raises(DataError, match=r"a.png has mode I;16.*8 bits.*scale its values"):
        load(deep, resize=4)
    with pytest.raises(DataError, match=r"a.png has mode I;16"):
        load(deep)
    frames = tmp_path / "frames"
    frames.mkdir()
    Image.new("L", (4, 4)).save(
        frames / "a.tif", save_all=True, append_images=[Image.new("L", (4, 4), 9)]
    )
    with pytest.raises(DataError, match=r"a.tif has 2 frames, expected one"):
        load(frames, resize=4)
    numbered(tmp_path / "good", 1)
    with pytest.raises(DataError, match=r"--resize got 1, expected the side"):
        load(tmp_path / "good", resize=1)
    Image.new("RGBA", (4, 4)).save(tmp_path / "good" / "b.png")
    with pytest.raises(DataError, match=r"b.png has mode RGBA.*--color rgb"):
        load(tmp_path / "good")


def test_a_photograph_with_a_preview_behind_it_is_one_image(tmp_path):
    first, second = Image.new("RGB", (8, 8), (9, 9, 9)), Image.new("RGB", (4, 4))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert load(tmp_path).pixels.shape == (1, 8, 8, 3)
    assert load(tmp_path, resize=4).pixels.shape == (1, 4, 4, 3)


@pytest.mark.parametrize("flags", [{"resize": 8}, {"color": "rgb"}])
@pytest.mark.parametrize("source", ["digits", "npz", "idx"])
def test_only_folders_of_files_are_converted(source, flags, tmp_path):
    path = {"digits": "digits", "npz": tmp_path / "x.npz", "idx": tmp_path}[source]
    if source == "npz":
        np.savez(path, x=np.zeros((2, 4, 4), np.uint8))
    if source == "idx":
        content = bytes([0, 0, 8, 3, *np.array([2, 4, 4], ">u4").tobytes()]) + bytes(32)
        (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    load(path)
    with pytest.raises(DataError, match="--resize or --color was given"):
        load(path, **flags)
