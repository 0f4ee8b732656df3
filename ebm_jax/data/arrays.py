"""Reads images from arrays and .npz files; headers are checked before any array is read."""

import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ebm_jax.data.images import Images, to_uint8, wrong
from ebm_jax.data.labels import as_labels, check_label_shape, number_classes
from ebm_jax.data.memory import check_fits

_ARRAY = "2x2 pixels or more as (n, h, w), (n, h, w, c) or (n, c, h, w) where c alone is 1 or 3"
_VALUES = "uint8 in 0..255, or floats in [0, 1] or [-1, 1] without NaN"
_TRAIN = ("x_train", "train_images", "images", "x", "samples", "data", "pixels", "arr_0")
_TRAIN_LABELS = ("y_train", "train_labels", "labels", "y", "targets", "target", "arr_1")
_TEST, _TEST_LABELS = ("x_test", "test_images"), ("y_test", "test_labels")
_ROUND_OFF = 1e-3  # allowed beyond [0, 1] or [-1, 1]; less than half a gray level
_BLOCK = 1024  # images converted at once

_VERSIONS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Header(NamedTuple):
    """Shape and dtype of an array in an .npz file, known before the array is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


def read_npz(path: Path) -> tuple[Images, Images | None]:
    """Reads the training images, and the test images if the file has any."""
    with path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            found = f"{path} is damaged or no archive"
            raise wrong(found, "a whole .npz", "save it by numpy.savez")
        with zipfile.ZipFile(stream) as archive:
            headers = read_headers(archive, path)
            parts = _parts(headers, path)
            _check_headers(headers, parts, path)
            names = [name for part in parts for name in part if name is not None]
            arrays = {name: read_array(archive, name) for name in names}
    return _images(arrays, parts, path)


def as_pixels(array: np.ndarray, where: str, signed: bool = False) -> np.ndarray:
    """Returns images as uint8 (n, h, w, c); floats are in [-1, 1] if `signed`, else in [0, 1]."""
    _check_images(Header(array.shape, array.dtype), where)
    images = array if array.ndim == 4 else array[..., None]
    images = images if images.shape[-1] in (1, 3) else np.moveaxis(images, 1, 3)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    pixels = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _BLOCK):
        unit = images[start : start + _BLOCK].astype(np.float32)
        pixels[start : start + _BLOCK] = to_uint8(unit if signed else 2 * unit - 1)
    return pixels


def read_headers(archive: zipfile.ZipFile, path: Path) -> dict[str, Header]:
    """Returns the headers of the arrays by name; raises if a size contradicts the archive."""
    found = {}
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            continue
        with archive.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            if version not in _VERSIONS:  # version 3 is for structured arrays
                continue
            shape, _, dtype = _VERSIONS[version](stream)
            size = stream.tell() + math.prod(shape) * dtype.itemsize
        if size != info.file_size and not dtype.hasobject:
            found_size = f"{path}, array '{info.filename}', has {info.file_size} bytes"
            raise wrong(found_size, f"{size} by its header", "save it again by numpy.savez")
        found[info.filename.removesuffix(".npy")] = Header(shape, dtype)
    return found


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Reads one array; raises a ValueError for an array of objects, which would be unpickled."""
    with archive.open(name + ".npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _parts(headers: dict[str, Header], path: Path) -> list[tuple[str, str | None]]:
    """Returns (images, labels) names of the training part, and of the test part if there is one."""

    def find(keys: tuple[str, ...]) -> list[str]:
        return [name for key in keys for name in headers if name.lower() == key]

    train, test = find(_TRAIN), find(_TEST)
    if not train:
        train = [n for n, h in headers.items() if _is_layout(h.shape) and not h.dtype.hasobject]
        if len(train) != 1:
            found = f"{path} has {len(train)} arrays shaped like images among {list(headers)}"
            raise wrong(found, f"1, or one named {', '.join(_TRAIN)}", "rename the images so")
    parts = [(train[0], next(iter(find(_TRAIN_LABELS)), None))]
    if test and test != train:
        parts.append((test[0], next(iter(find(_TEST_LABELS)), None)))
    return parts


def _check_headers(
    headers: dict[str, Header], parts: list[tuple[str, str | None]], path: Path
) -> None:
    """Raises the `DataError` for wrong shapes, dtypes or sizes, before any array is read."""
    size = 0
    for name, label_name in parts:
        shape, dtype = headers[name]
        _check_images(headers[name], f"{path}, array '{name}',")
        copied = dtype != np.uint8 or (len(shape) == 4 and shape[3] not in (1, 3))
        size += math.prod(shape) * (dtype.itemsize + copied)
        if label_name is not None:
            check_label_shape(*headers[label_name], shape[0], f"{path}, array '{label_name}',")
    check_fits(path, size)


def _images(
    arrays: dict[str, np.ndarray], parts: list[tuple[str, str | None]], path: Path
) -> tuple[Images, Images | None]:
    """Builds the parts; all floats share one range and all labels share one numbering."""
    where = {name: f"{path}, array '{name}'," for name in arrays}
    floats = [name for name, _ in parts if arrays[name].dtype.kind == "f"]
    signed = min([_lowest(arrays[name], where[name]) for name in floats], default=0) < -_ROUND_OFF
    labels = [
        None if label is None else as_labels(arrays[label], len(arrays[name]), where[label])
        for name, label in parts
    ]
    numbered, names = number_classes(labels, path)
    both = []
    for (name, _), numbers in zip(parts, numbered, strict=True):
        values = "floats in " + ("[-1, 1]" if signed else "[0, 1]") if name in floats else "uint8"
        pixels = as_pixels(arrays[name], where[name], signed)
        both.append(Images(pixels, numbers, None if numbers is None else names, values))
    return both[0], both[1] if len(both) == 2 else None


def _lowest(array: np.ndarray, where: str) -> float:
    low, high = float(array.min()), float(array.max())
    if not (low >= -1 - _ROUND_OFF and high <= 1 + _ROUND_OFF):  # written so that NaN fails
        raise wrong(f"{where} has floats from {low:g} to {high:g}", _VALUES, "rescale or clip")
    return low


def _check_images(header: Header, where: str) -> None:
    shape, dtype = header
    if dtype != np.uint8 and dtype.kind != "f":
        raise wrong(f"{where} has dtype {dtype}", _VALUES, "convert it, by array.astype")
    if not _is_layout(shape):
        raise wrong(f"{where} has shape {shape}", f"1 image or more of {_ARRAY}", "reshape")


def _is_layout(shape: tuple[int, ...]) -> bool:
    """Returns True for the shape of images whose channel axis is unambiguous."""
    if len(shape) == 3 and shape[2] not in (1, 3):  # (h, w, 1 or 3) is a single image
        shape = (*shape, 1)
    if len(shape) != 4 or (shape[1] in (1, 3)) == (shape[3] in (1, 3)):
        return False
    return shape[0] > 0 and min(shape[1:3] if shape[3] in (1, 3) else shape[2:]) > 1
