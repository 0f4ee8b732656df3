"""Reads MNIST's idx files, gzipped or not: a header, big-endian sizes, then bytes."""

import gzip
import math
import re
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from ebm_jax.data.arrays import as_pixels
from ebm_jax.data.images import SOURCE, Images, reading, wrong
from ebm_jax.data.labels import as_labels, number_classes
from ebm_jax.data.memory import check_fits


def read_mnist(paths: list[Path]) -> list[Images]:
    """Reads the images of each file, with labels from the matching labels file beside it."""
    pixels = [as_pixels(read_idx(path), str(path)) for path in paths]
    labels = [_labels(path, len(images)) for path, images in zip(paths, pixels, strict=True)]
    numbered, names = number_classes(labels, paths[0].parent)
    return [
        Images(images, numbers, None if numbers is None else names)
        for images, numbers in zip(pixels, numbered, strict=True)
    ]


def read_idx(path: Path) -> np.ndarray:
    """Reads the uint8 array of an idx file, gzipped or not; the header is checked first."""
    with reading(path):
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        stream: BufferedIOBase
        with gzip.open(path) if packed else path.open("rb") as stream:
            head = stream.read(4)
            if head[:3] != b"\0\0\x08":
                raise wrong(f"{path} is no idx file of uint8", SOURCE, "check what it is")
            shape = tuple(np.frombuffer(stream.read(4 * head[3]), ">u4", count=head[3]).tolist())
            check_fits(path, math.prod(shape))
            values = np.empty(math.prod(shape), np.uint8)
            got, rest = _fill(stream, values), stream.read(1)
        if got < values.size or rest:
            found = f"{path} has {'more than ' if rest else ''}{got} bytes of values"
            raise wrong(found, f"{values.size} for the shape {shape}", "copy it again")
        return values.reshape(shape)


def _fill(stream: BufferedIOBase, values: np.ndarray) -> int:
    """Reads into `values` until it is full or the stream ends; returns the bytes read."""
    view, got = values.data, 0
    while got < values.size and (count := stream.readinto(view[got:])):
        got += count
    return got


def _labels(path: Path, count: int) -> np.ndarray | None:
    stem = re.sub(r"images([-.])idx3", r"labels\1idx1", path.name.removesuffix(".gz"))
    for file in (path.with_name(stem), path.with_name(stem + ".gz")):
        if "labels" in stem and file.exists():
            return as_labels(read_idx(file), count, str(file))
    return None
