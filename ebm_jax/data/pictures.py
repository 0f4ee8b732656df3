"""Reads folders of image files, in which subfolders are classes.

Images are kept unchanged, or cut to squares of one size and converted to gray or RGB.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from ebm_jax.data.arrays import as_pixels
from ebm_jax.data.images import Images, reading, wrong
from ebm_jax.data.memory import check_fits

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_TRAIN, _TEST = "train", ("test", "validation", "valid", "val")
_ALONE = ""  # class name of images that are in no subfolder

Classes = dict[str, list[Path]]
Color = Literal["gray", "rgb"]
"""Color format to which the images of a folder are converted."""
_MODES = {"gray": "L", "rgb": "RGB"}  # Pillow's names
_GRAY = ("1", "L", "LA")


def read_pictures(
    folder: Path, resize: int | None = None, color: Color | None = None
) -> tuple[Images, Images | None]:
    """Reads the images of a folder, or of its folders "train" and "test" if it has both.

    Args:
        folder: holds images, or folders of images.
        resize: side of the squares that images are cut and resized to; None keeps the size.
        color: color format of the result; None keeps that of the files, except that resized
            images are RGB unless all files are gray.
    """
    found = _classes(folder)
    test = [name for name in _TEST if name in found]
    if _TRAIN in found and test and set(found) <= {_TRAIN, *_TEST}:
        folders = [folder / _TRAIN, folder / test[0]]
        parts = [_classes(part) for part in folders]
    else:
        folders, parts = [folder], [found]
    names = tuple(sorted({name for part in parts for name in part} - {_ALONE}))
    if resize is not None and color is None:
        files = [file for part in parts for some in part.values() for file in some]
        color = "gray" if all(_is_gray(file) for file in files) else "rgb"
    images = [
        _images(part, names, where, resize, color)
        for part, where in zip(parts, folders, strict=True)
    ]
    return images[0], images[1] if len(images) == 2 else None


def open_image(source: Any) -> Image.Image:
    """Opens an image of one of `FORMATS`. Pillow has others; EPS, for example, runs programs."""
    return Image.open(source, formats=FORMATS)


def upright(image: Image.Image) -> Image.Image:
    """Returns the image as viewers show it, turned or mirrored by its EXIF orientation."""
    return ImageOps.exif_transpose(image)


def _classes(folder: Path) -> Classes:
    """Returns the image files by the name of their subfolder, in the order of their names."""
    found: Classes = {}
    for entry in _entries(folder):
        name = entry.name if entry.is_dir() else _ALONE
        if files := list(_files(entry, (folder.resolve(),))):
            found.setdefault(name, []).extend(files)
    if not found:
        expected = f"files in it ({' '.join(SUFFIXES)}) or MNIST's train-images-idx3-ubyte.gz"
        raise wrong(f"{folder} holds no images", expected, "give the very folder that does")
    if _ALONE in found and len(found) > 1:
        alone, below = len(found[_ALONE]), sum(map(len, found.values())) - len(found[_ALONE])
        count = f"{alone} images beside {len(found) - 1} folders that hold {below}"
        mend = "move the images or the folders elsewhere"
        raise wrong(f"{folder} holds {count}", "images alone or one folder per class", mend)
    return found


def _entries(folder: Path) -> list[Path]:
    with reading(folder):
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _files(entry: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Yields the images in a file or folder, at any depth; links are followed."""
    if entry.is_dir():
        if entry.resolve() in above:
            found = f"{entry} is a link to a folder that it lies in"
            raise wrong(found, "folders without loops", "remove the link")
        for inner in _entries(entry):
            yield from _files(inner, (*above, entry.resolve()))
    elif entry.is_symlink() and not entry.exists():
        found = f"{entry} is a link to {entry.readlink()}, which does not exist"
        raise wrong(found, "files that can be read", "mount what it points to or remove it")
    elif entry.suffix.lower() in SUFFIXES:
        if not entry.is_file():
            raise wrong(f"{entry} is no regular file", "an image", "remove or rename it")
        yield entry


def _images(
    classes: Classes,
    names: tuple[str, ...],
    folder: Path,
    resize: int | None,
    color: Color | None,
) -> Images:
    files = [file for some in classes.values() for file in some]
    pixels = _pixels(files, folder, resize, color)
    if _ALONE in classes:
        return Images(pixels, None)
    numbers = [names.index(name) for name in classes]
    labels = np.repeat(np.array(numbers, np.int32), [len(files) for files in classes.values()])
    return Images(pixels, labels, names)


def _pixels(files: list[Path], folder: Path, resize: int | None, color: Color | None) -> np.ndarray:
    """Reads all images into one array; sizes are checked in the headers first."""
    pixels = np.empty(0, np.uint8)
    for i, file in enumerate(files):
        with _opened(file) as image:
            _check_mode(image, file, color)
            size = (resize, resize) if resize else (image.height, image.width)
            shape = (*size, len(_MODES[color] if color else image.getbands()))
            if i == 0:
                check_fits(folder, len(files) * math.prod(shape))
            if i == 0 or math.prod(shape) == pixels[0].size:  # otherwise refused below, unread
                converted = _converted(image, resize, color)
                shape = (converted.height, converted.width, shape[2])
                values = np.asarray(converted).reshape(shape)
        if i == 0:
            pixels = np.empty((len(files), *shape), np.uint8)
        if shape != pixels.shape[1:]:
            found = f"{file} has shape {shape}, unlike {files[0].name} of {pixels.shape[1:]}"
            expected = "one size and all gray or all RGB"
            raise wrong(found, expected, "resize or convert the images, for example by --resize 32")
        pixels[i] = values
    return as_pixels(pixels, str(folder))


def _converted(image: Image.Image, resize: int | None, color: Color | None) -> Image.Image:
    """Returns the image upright, on white if it is transparent, and cut to its middle square."""
    if resize is not None:
        image.draft(None, (4 * resize, 4 * resize))  # JPEG: decode at a lower resolution
    image = upright(image)
    if color is not None:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        image = image.convert(_MODES[color])
    if resize is not None:
        image = ImageOps.fit(image, (resize, resize), Image.Resampling.LANCZOS)
    return image


def _is_gray(file: Path) -> bool:
    with _opened(file) as image:
        return image.mode in _GRAY


def _check_mode(image: Image.Image, file: Path, color: Color | None) -> None:
    """Raises the `DataError` for pixels that neither are nor can become 8-bit gray or RGB."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a photograph, then previews or depth
        raise wrong(f"{file} has {frames} frames", "one", "save each as a file of its own")
    if color is None and image.mode not in _MODES.values():
        mend = "convert it, for example by --color rgb"
        raise wrong(f"{file} has mode {image.mode}", "8-bit gray (L) or RGB", mend)
    if image.mode == "F" or image.mode.startswith("I"):
        found = f"{file} has mode {image.mode}, more than 8 bits for each pixel"
        raise wrong(found, "8 bits", "scale its values to 0..255 and save it again")


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    with reading(file), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", "Corrupt EXIF data")  # viewers ignore it, too
        with open_image(file) as image:
            yield image
