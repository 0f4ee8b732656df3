"""Readers of images: whatever is wrong with a path is a `DataError`, one sentence for a person."""

import gzip
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt8

from ebm_jax.data.records import Records

_SOURCE = "'digits', 'mnist', 'cifar10', an .npz, a folder of images, MNIST's idx files"
_ARRAY = "2x2 pixels or more as (n, h, w), (n, h, w, c) or (n, c, h, w) where c alone is 1 or 3"
_VALUES = "uint8 in 0..255, or floats in [0, 1] or [-1, 1] without NaN"
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_MNIST_IMAGES = r"(train|t10k)-images[-.]idx3-ubyte(\.gz)?"
_TRAIN = ("x_train", "train_images", "images", "x", "samples", "data", "pixels", "arr_0")
_TRAIN_LABELS = ("y_train", "train_labels", "labels", "y", "targets", "target", "arr_1")
_TEST, _TEST_LABELS = ("x_test", "test_images"), ("y_test", "test_labels")


class DataError(ValueError):
    """Data that cannot be used. Its message is one line: what was found, expected, the mend."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class Images(NamedTuple):
    """Images of one size: grey (c = 1) or red, green and blue (c = 3), in memory or on disk.

    Attributes:
        pixels: the images.
        labels: the class of each image, 0 to K - 1, or None where the data have no labels.
        names: the K classes as the data name them, or None where they are called 0 to K - 1.
        values: how stored values were read, such as "uint8" or "floats in [0, 1]".
        files: the record files of a prepared set, each with its size in bytes.
    """

    pixels: UInt8[np.ndarray | Records, "n h w c"]
    labels: Int32[np.ndarray | Records, " n"] | None
    names: tuple[str, ...] | None = None
    values: str = "uint8"
    files: tuple[tuple[str, int], ...] | None = None


def to_unit(pixels: UInt8[np.ndarray, "*d"]) -> Float32[np.ndarray, "*d"]:
    """uint8 in 0..255 as float32 in [-1, 1], in any shape."""
    return (2 * pixels.astype(np.float32) - 255) / 255


def to_uint8(x: Float[Array | np.ndarray, "*d"]) -> UInt8[np.ndarray, "*d"]:
    """Finite floats, clipped to [-1, 1], as the nearest uint8 in 0..255: undoes `to_unit`."""
    x = np.asarray(x, np.float32)
    return (127.5 * (x.clip(-1, 1) + 1)).round().astype(np.uint8)


def wrong(found: str, expected: str, mend: str) -> DataError:
    """The error whose sentence says what was found, what is expected, and the mend."""
    return DataError(f"{found}, expected {expected}: {mend}.")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Around decoders of foreign bytes, which raise almost anything when those are damaged."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
        mend = "check its permissions, copy it again or save it again"
        raise wrong(f"{path} cannot be read ({why})", _SOURCE, mend) from error


def read(name: str | os.PathLike[str]) -> tuple[Images, Images | None]:
    """The training images, and the test images where they are published."""
    if name == "digits":
        return _read_digits(), None
    path = Path(name)
    with _reading(path):
        if not (os.fspath(name) and path.exists()):
            raise wrong(f"'{name}' does not exist", _SOURCE, "check its spelling")
        if path.is_dir():
            return _read_folder(path)
        if path.suffix.lower() in _SUFFIXES or not path.is_file():
            raise wrong(f"{path} is not a set of images", _SOURCE, "give the folder it is in")
        return _read_npz(path) if path.suffix.lower() == ".npz" else (_read_mnist(path), None)


def _read_digits() -> Images:
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    pixels = np.rint(values * (255 / 16)).astype(np.uint8)  # published as 0..16
    return Images(pixels.reshape(-1, 8, 8, 1), labels.astype(np.int32))


def _read_folder(folder: Path) -> tuple[Images, Images | None]:
    files = sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
    mnist = {m[1]: f for f in files if (m := re.fullmatch(_MNIST_IMAGES, f.name))}
    if "train" in mnist:
        return _read_mnist(mnist["train"]), _read_mnist(mnist["t10k"]) if "t10k" in mnist else None
    files = [f for f in files if f.suffix.lower() in _SUFFIXES]
    if not files:
        expected = f"files in it ({' '.join(_SUFFIXES)}) or MNIST's train-images-idx3-ubyte.gz"
        raise wrong(f"{folder} holds no images", expected, "give the very folder that does")
    first = _read_image(files[0])
    pixels = np.empty((len(files), *first.shape), np.uint8)
    for i, file in enumerate(files):
        if (image := _read_image(file)).shape != first.shape:
            found = f"{file} has shape {image.shape}, unlike {files[0].name} of {first.shape}"
            raise wrong(found, "one size and all grey or all RGB", "resize or convert it")
        pixels[i] = image
    return Images(_as_pixels(pixels, str(folder)), None), None


def _read_image(file: Path) -> np.ndarray:
    from PIL import Image

    with _reading(file), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file) as image:
            if image.mode not in ("L", "RGB") or getattr(image, "n_frames", 1) > 1:
                found = f"{file} has mode {image.mode}, or several frames"
                raise wrong(found, "one frame of 8-bit grey (L) or RGB", "convert it by Pillow")
            return np.asarray(image)


def _read_mnist(path: Path) -> Images:
    """The images of an idx file, with the labels of the file named alike beside it."""
    pixels = _as_pixels(read_idx(path), str(path))
    stem = re.sub(r"images([-.])idx3", r"labels\1idx1", path.name.removesuffix(".gz"))
    for file in (path.with_name(stem), path.with_name(stem + ".gz")):
        if "labels" in stem and file.exists():
            return Images(pixels, _as_labels(read_idx(file), len(pixels), str(file)))
    return Images(pixels, None)


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an idx file, gzipped or not."""
    with _reading(path):
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        if data[:3] != b"\0\0\x08":
            raise wrong(f"{path} is no idx file of uint8", _SOURCE, "check what it is")
        shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
        return np.frombuffer(data[4 + shape.nbytes :], np.uint8).reshape(shape)


def _read_npz(path: Path) -> tuple[Images, Images | None]:
    with path.open("rb") as stream:  # numpy, given the path, leaves a damaged file open
        if not zipfile.is_zipfile(stream):
            found = f"{path} is damaged or no archive"
            raise wrong(found, "a whole .npz", "save it by numpy.savez")
        stream.seek(0)
        file = np.load(stream, allow_pickle=False)

        def find(keys: tuple[str, ...]) -> list[str]:
            return [name for key in keys for name in file.files if name.lower() == key]

        def part(name: str, label_names: list[str]) -> Images:
            pixels = _as_pixels(np.asarray(file[name]), f"{path}, array '{name}',")
            if not label_names:
                return Images(pixels, None)
            where = f"{path}, array '{label_names[0]}',"
            return Images(pixels, _as_labels(np.asarray(file[label_names[0]]), len(pixels), where))

        train, test = find(_TRAIN), find(_TEST)
        if not train:
            train = [n for n in file.files if _channels_last(np.asarray(file[n])) is not None]
            if len(train) != 1:
                found = f"{path} has {len(train)} arrays shaped like images among {file.files}"
                raise wrong(found, f"1, or one named {', '.join(_TRAIN)}", "rename the images so")
        images = part(train[0], find(_TRAIN_LABELS))
        return images, part(test[0], find(_TEST_LABELS)) if test and test != train else None


def _channels_last(array: np.ndarray) -> np.ndarray | None:
    """Images as (n, h, w, c), or None where the shape is none of images or has two readings."""
    if array.ndim == 3 and array.shape[-1] not in (1, 3):  # else one image, without its n
        array = array[..., None]
    if array.ndim != 4 or (array.shape[1] in (1, 3)) == (array.shape[3] in (1, 3)):
        return None
    array = array if array.shape[3] in (1, 3) else np.moveaxis(array, 1, 3)
    return array if len(array) and min(array.shape[1:3]) > 1 else None


def _as_pixels(array: np.ndarray, where: str) -> np.ndarray:
    images = _channels_last(array)
    if images is None:
        raise wrong(f"{where} has shape {array.shape}", f"1 image or more of {_ARRAY}", "reshape")
    if images.dtype.kind == "f":
        low, high = images.min(), images.max()
        if not (low >= -1 and high <= 1):  # so, because NaN fails both
            raise wrong(f"{where} has floats from {low:g} to {high:g}", _VALUES, "rescale or clip")
        unit = images.astype(np.float32)
        images = to_uint8(unit if low < 0 else 2 * unit - 1)
    if images.dtype != np.uint8:
        raise wrong(f"{where} has dtype {images.dtype}", _VALUES, "convert it, by array.astype")
    return np.ascontiguousarray(images)


def _as_labels(array: np.ndarray, count: int, where: str) -> np.ndarray:
    labels = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        found = f"{where} has shape {array.shape} and dtype {array.dtype}"
        raise wrong(found, f"{count} whole numbers, a label an image", "mend it or leave it out")
    return labels.astype(np.int32)
