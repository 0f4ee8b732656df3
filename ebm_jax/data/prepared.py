"""Sets of images that tensorflow-datasets prepared as array_record, without TensorFlow.

In memory where they fit with ease, else on disk as `Records`.
"""

import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from ebm_jax.data.readers import Images, wrong
from ebm_jax.data.records import Records

INFO = "dataset_info.json"
MODES = {1: "L", 3: "RGB"}  # of Pillow, by channels
CGROUP = Path("/sys/fs/cgroup")


def read_prepared(folder: Path, max_bytes: int | None = None) -> tuple[Images, Images | None]:
    """Training images, and those of the part "test" or else "validation" where it has either.

    Args:
        folder: of the prepared set.
        max_bytes: what the pixels of both parts may take in memory; by default half of what
            is free. Where they take more they stay on disk, and so do their labels.

    Raises:
        DataError: for files that are not array_record, or a set without images of one size;
            of images on disk, when the record that differs is read.
    """
    builder = tensorflow_datasets().builder_from_directory(str(folder))
    if builder.info.file_format.value != "array_record":
        found = f"{folder} is stored as {builder.info.file_format.value}"
        raise wrong(found, "array_record", "prepare it with file_format='array_record'")
    if "image" not in builder.info.features:
        found = f"{folder} has the features {sorted(builder.info.features)}"
        raise wrong(found, "one named 'image'", "give a set of images")
    splits = builder.info.splits
    if "train" not in splits:
        raise wrong(f"{folder} has the parts {sorted(splits)}", "'train'", "prepare it whole")
    names = ["train", *[name for name in ("test", "validation") if name in splits][:1]]
    records = sorted(folder.glob("*.array_record*"))
    files = tuple((file.name, file.stat().st_size) for file in records)
    parts = [_on_disk(folder, builder, name)._replace(files=files) for name in names]
    if max_bytes is None:
        max_bytes = free_memory() // 2
    if sum(math.prod(part.pixels.shape) for part in parts) <= max_bytes:
        parts = [
            part._replace(pixels=part.pixels[:], labels=part.labels and part.labels[:])
            for part in parts
        ]
    return parts[0], parts[1] if len(parts) == 2 else None


def free_memory() -> int:
    """Bytes that this process may take: of the machine, or of its container if that has less.

    Among several processes its share, as if all ran on this machine. What the container holds
    in caches counts as taken, though it could be dropped.
    """
    import psutil

    free = psutil.virtual_memory().available
    if (CGROUP / "memory.max").exists():
        limit, used = ((CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        free = free if limit.strip() == "max" else min(free, int(limit) - int(used))
    return max(free, 0) // jax.process_count()


def _on_disk(folder: Path, builder: Any, name: str) -> Images:
    """Unread images of a part, and labels where the set has whole numbers so named."""
    where, features = f"{folder}, part '{name}'", dict(builder.info.features)
    raw = tensorflow_datasets().decode.DeserializeMethod.RAW_BYTES
    source = builder.as_data_source(name, deserialize_method=raw)
    image, label = features["image"], features.get("label")
    if image.shape[-1] not in MODES or image.np_dtype != np.uint8:
        found = f"{where}, has images of shape {image.shape} and {image.np_dtype}"
        raise wrong(found, "(h, w, 1) or (h, w, 3) and uint8", "convert it")
    decode, encoded = partial(_decoded, where, image.shape[-1]), _reader(source, "image", image)
    shape, everything = decode(0, encoded([0])[0]).shape, np.arange(len(source))

    def read_images(numbers: list[int]) -> list[np.ndarray]:
        images = list(map(decode, numbers, encoded(numbers)))
        for number, pixels in zip(numbers, images, strict=True):
            if pixels.shape != shape:
                found = f"{where}, record {number}, has an image of shape {pixels.shape}"
                mend = "resize them into a folder of images"
                raise wrong(found, f"one size, {shape} as of record 0", mend)
        return images

    pixels = Records(read_images, everything, shape, np.uint8)
    if label is None or label.shape != () or not np.issubdtype(label.np_dtype, np.integer):
        return Images(pixels, None)
    return Images(pixels, Records(_reader(source, "label", label), everything, (), np.int32))


def _reader(source: Any, name: str, feature: Any) -> Callable[[list[int]], list[Any]]:
    """Of one field of some records, in which no other is looked at; images as encoded."""
    tfds = tensorflow_datasets()
    alone = tfds.features.FeaturesDict({name: feature})
    decoders = {"image": tfds.decode.SkipDecoding()} if name == "image" else None

    def read(numbers: list[int]) -> list[Any]:
        records = source.__getitems__(numbers)
        return [alone.deserialize_example_np(record, decoders=decoders)[name] for record in records]

    return read


def _decoded(where: str, channels: int, number: int, encoded: bytes) -> np.ndarray:
    """An image by Pillow, whose pixels are the same wherever this runs."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = np.asarray(image.convert(MODES[channels]))
    except Exception as error:  # decoders of foreign bytes raise almost anything
        found = f"{where}, record {number}, cannot be decoded ({error})"
        raise wrong(found, "a whole image", "prepare the set again") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def tensorflow_datasets() -> Any:
    """The module, or the DataError that says how to get it."""
    try:
        import grain  # noqa: F401  reads what it opens
        import tensorflow_datasets
    except ImportError as error:
        found = f"data by name needs tensorflow-datasets and grain ({error})"
        mend = "pip install 'ebm_jax[datasets]', or give the files by their path"
        raise wrong(found, "it installed", mend) from error
    return tensorflow_datasets
