"""Published sets of images by name, as tensorflow-datasets keeps them, without TensorFlow.

A set is prepared once, from the network or from a folder of its original files, as
array_record in the folder of tensorflow-datasets (TFDS_DATA_DIR, ~/tensorflow_datasets by
default), where other programs find it too. Its own builders parse the originals with
TensorFlow; here they keep the addresses, checksums and description, and parse with numpy.
"""

import gzip
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ebm_jax.data.readers import DataError, Images, read_idx, wrong

Examples = Iterator[tuple[int, dict[str, Any]]]
INFO = "dataset_info.json"


def _idx_examples(num_examples: int, data_path: str, label_path: str) -> Examples:
    pixels, labels = read_idx(Path(data_path)), read_idx(Path(label_path))
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        yield i, {"image": Image.fromarray(image), "label": int(label)}


def _cifar_examples(split_prefix: str, filepaths: Iterator[str]) -> Examples:
    """A byte of label and 3072 of red, green and blue planes, for every image."""
    index = 0
    for path in filepaths:
        for record in np.fromfile(path, np.uint8).reshape(-1, 3073):
            image = Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0))
            name = f"{split_prefix}{index:05d}"
            yield index, {"id": name, "image": image, "label": int(record[0])}
            index += 1


PARSERS: dict[str, Callable[..., Examples]] = {
    "mnist": _idx_examples,
    "fashion_mnist": _idx_examples,
    "kmnist": _idx_examples,
    "cifar10": _cifar_examples,
}


def prepare(name: str, originals: Path | None = None) -> Path:
    """Write a named set as array_record; nothing is done where it is there already.

    Args:
        name: one of PARSERS.
        originals: a folder of the files as published; by default they are downloaded.

    Returns:
        The folder of the prepared set.

    Raises:
        DataError: without tensorflow-datasets, or where the originals cannot be had.
    """
    tfds = _tensorflow_datasets()
    home = os.environ.get("TFDS_DATA_DIR")  # None is the default
    builder = tfds.builder(name, data_dir=home, file_format="array_record")
    folder = Path(builder.data_dir)
    if (folder / INFO).exists():
        return folder
    builder._generate_examples = PARSERS[name]
    with tempfile.TemporaryDirectory() as scratch:
        if originals is not None:
            local, split = _LocalFiles(originals, Path(scratch)), builder._split_generators
            builder._split_generators = lambda *_, **__: split(local)
        try:
            builder.download_and_prepare()
        except DataError:
            raise
        except Exception as error:
            found = f"'{name}' cannot be prepared ({type(error).__name__}: {error})"
            mend = f"prepare it once: python -m experiments.prepare --name {name} --originals DIR"
            raise wrong(found, "its original files, whole, from the network", mend) from error
    return folder


def read_prepared(folder: Path) -> tuple[Images, Images | None]:
    """Training and test images of any set of images that tensorflow-datasets prepared.

    Raises:
        DataError: for files that are not array_record, or a set without images of one size.
    """
    tfds = _tensorflow_datasets()
    builder = tfds.builder_from_directory(str(folder))
    if builder.info.file_format.value != "array_record":
        found = f"{folder} is stored as {builder.info.file_format.value}"
        raise wrong(found, "array_record", "prepare it with file_format='array_record'")
    if "image" not in builder.info.features:
        found = f"{folder} has the features {sorted(builder.info.features)}"
        raise wrong(found, "one named 'image'", "give a set of images")
    parts = {name: _gather(folder, builder.as_data_source(name)) for name in builder.info.splits}
    if "train" not in parts:
        raise wrong(f"{folder} has the parts {sorted(parts)}", "'train'", "prepare it whole")
    return parts["train"], parts.get("test")


def _gather(folder: Path, source: Any) -> Images:
    """All records of a part in memory; labels where each record has one."""
    first = source[0]
    shape = np.shape(first["image"])
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise wrong(f"{folder} has images of shape {shape}", "(h, w, 1) or (h, w, 3)", "convert it")
    pixels, labels = np.empty((len(source), *shape), np.uint8), []
    for i, record in enumerate(source):
        if np.shape(record["image"]) != shape:
            found = f"{folder} has images of {shape} and of {np.shape(record['image'])}"
            raise wrong(found, "one size", "resize them into a folder of images")
        pixels[i] = record["image"]
        labels.append(record.get("label"))
    labelled = np.ndim(labels[0]) == 0 and labels[0] is not None
    return Images(pixels, np.asarray(labels, np.int32) if labelled else None)


class _LocalFiles:
    """Stands for the download manager: the published files lie in a folder."""

    def __init__(self, folder: Path, scratch: Path):
        self.folder, self.scratch = folder, scratch

    def download_and_extract(self, urls: Any) -> Any:
        """The paths of unpacked files, in the structure of their addresses."""
        if isinstance(urls, dict):
            return {key: self.download_and_extract(url) for key, url in urls.items()}
        name = str(urls).rsplit("/", 1)[-1]
        packed, unpacked = self.folder / name, self.scratch / name.removesuffix(".gz")
        if not packed.exists():
            raise wrong(f"{packed} does not exist", f"a copy of {urls}", "put it there")
        if name.endswith(".tar.gz"):
            with tarfile.open(packed) as archive:
                archive.extractall(unpacked, filter="data")
        else:
            with gzip.open(packed) as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target)
        return str(unpacked)


def _tensorflow_datasets() -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        found = f"data by name needs tensorflow-datasets ({error})"
        mend = "pip install 'ebm_jax[datasets]', or give the files by their path"
        raise wrong(found, "it installed", mend) from error
    return tensorflow_datasets
