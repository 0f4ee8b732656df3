"""Reads image sets that tensorflow-datasets prepared as array_record, without TensorFlow.

A set that fits comfortably is read into memory; a larger one stays on disk as `Records`.
"""

import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ebm_jax.data.descriptions import MEND, Features, Part, read_features, read_parts
from ebm_jax.data.images import DataError, Images, reading, wrong
from ebm_jax.data.memory import check_fits, free_memory
from ebm_jax.data.pictures import open_image, upright
from ebm_jax.data.records import Records

MODES = {1: "L", 3: "RGB"}  # Pillow's modes by number of channels
UNKNOWN = -1  # label of images whose class was not published

Shape = tuple[int, int, int]


def read_prepared(folder: Path, max_bytes: int | None = None) -> tuple[Images, Images | None]:
    """Reads the training images, and those of the part "test" or otherwise "validation", if any.

    Args:
        folder: folder of the prepared set.
        max_bytes: memory limit for the pixels of both parts; by default half of the free
            memory, shared among processes. A larger set stays on disk, labels included.

    Raises:
        DataError: The files are damaged or not array_record, or the images differ in size. For
            images on disk, this is raised when the record in question is read.
    """
    tensorflow_datasets()
    with reading(folder, "a prepared set", MEND):
        shards, features = read_parts(folder), read_features(folder)
    names = ["train", *[name for name in ("test", "validation") if name in shards][:1]]
    paths = [path for name in names for path in shards[name].files]
    files = tuple((path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths)
    parts = [
        _on_disk(f"{folder}, part '{name}'", shards[name], features)._replace(files=files)
        for name in names
    ]
    if max_bytes is None:
        max_bytes = free_memory() // jax.process_count() // 2
    if sum(math.prod(part.pixels.shape) for part in parts) <= max_bytes:
        parts = [
            part._replace(pixels=part.pixels[:], labels=part.labels and part.labels[:])
            for part in parts
        ]
    return parts[0], parts[1] if len(parts) == 2 else None


def _on_disk(where: str, part: Part, features: Features) -> Images:
    """Returns the unread images of a part, with labels if the set has them."""
    fields = _fields(where, part)
    decode = partial(_decoded, where, features.channels)
    shape, everything = decode(None, 0, fields("image", [0])[0]).shape, np.arange(part.num_records)

    def read_images(numbers: list[int]) -> list[np.ndarray]:
        return list(map(partial(decode, shape), numbers, fields("image", numbers)))

    pixels = Records(read_images, everything, shape, np.uint8)
    if features.num_classes is None or fields("label", [0]) == [UNKNOWN]:
        return Images(pixels, None)
    num_classes = features.num_classes

    def read_labels(numbers: list[int]) -> list[int]:
        labels = fields("label", numbers)
        for number, label in zip(numbers, labels, strict=True):
            if not 0 <= label < num_classes:
                found = f"{where}, record {number}, has the label {label}"
                raise wrong(found, f"0 to {num_classes - 1}", MEND)
        return labels

    return Images(pixels, Records(read_labels, everything, (), np.int32), features.names)


def _fields(where: str, part: Part) -> Callable[[str, list[int]], list[Any]]:
    """Returns a reader of one field of some records; images stay encoded."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    from tensorflow_datasets.proto import tf_example_pb2

    with reading(where, "whole record files", MEND):
        source = ArrayRecordDataSource([str(file) for file in part.files])
    if len(source) != part.num_records:
        raise wrong(
            f"{where}, has {len(source)} records", f"{part.num_records}, as described", MEND
        )

    def field(name: str, number: int, record: bytes) -> Any:
        entries = tf_example_pb2.Example.FromString(record).features.feature
        kind = "bytes_list" if name == "image" else "int64_list"
        values = getattr(entries[name], kind).value if name in entries else []
        if len(values) != 1:
            found = f"{where}, record {number}, has {len(values)} values of '{name}'"
            raise wrong(found, "1", MEND)
        return values[0]

    def read(name: str, numbers: list[int]) -> list[Any]:
        with reading(f"{where}, records {numbers[0]} to {numbers[-1]},", "whole records", MEND):
            records = source.__getitems__(numbers)
            return [field(name, *pair) for pair in zip(numbers, records, strict=True)]

    return read


def _decoded(where: str, channels: int, shape: Shape | None, number: int, encoded: bytes) -> Any:
    """Decodes an image by Pillow, to the same pixels on any machine; checks its shape if given."""
    here = f"{where}, record {number},"
    try:
        with open_image(io.BytesIO(encoded)) as image:
            found, depth = (image.height, image.width, channels), image.mode
            if shape is None:
                check_fits(here, math.prod(found))
            elif math.prod(found) != math.prod(shape):
                raise _other_size(here, found, shape)
            if depth[0] in "IF":
                raise wrong(f"{here} has pixels of mode {depth}", "8 bits per channel", MEND)
            pixels = np.asarray(upright(image).convert(MODES[channels]))
    except DataError:
        raise
    except Exception as error:  # decoders raise almost anything on damaged bytes
        found_here = f"{here} cannot be decoded ({error})"
        raise wrong(found_here, "a whole image", MEND) from error
    pixels = pixels.reshape(*pixels.shape[:2], channels)
    if shape is not None and pixels.shape != shape:
        raise _other_size(here, pixels.shape, shape)
    return pixels


def _other_size(here: str, found: tuple[int, ...], shape: Shape) -> DataError:
    mend = "resize them into a folder of images"
    return wrong(f"{here} has an image of shape {found}", f"one size, {shape} as of record 0", mend)


def tensorflow_datasets() -> Any:
    """Imports tensorflow_datasets, or raises the `DataError` that says how to install it."""
    try:
        import grain  # noqa: F401  tensorflow-datasets needs it to read
        import tensorflow_datasets
    except ImportError as error:
        found = f"data by name needs tensorflow-datasets and grain ({error})"
        mend = "pip install 'ebm_jax[datasets]', or give the files by their path"
        raise wrong(found, "it installed", mend) from error
    return tensorflow_datasets
