"""Data sets of images and points, and the order in which training visits them.

Stored images are uint8 in 0..255. Inside the library they are float32 in [-1, 1]:

    x = (2 p - 255) / 255,      p = round(127.5 (x + 1)) after clipping x to [-1, 1]

The map sends 0 to -1 and 255 to 1, p and 255 - p to opposite values, and all 256 values
survive the round trip. `batch_indices` is a pure function of the seed and the step, so a
resumed run continues in the same order, and processes that each read a few rows share one
stream. Data that do not fit in memory are `Records`, which are indexed like arrays. Anything
wrong with a path raises a `DataError`, whose message is one sentence for the user.
"""

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from ebm_jax.data.dequantization import dequantize
from ebm_jax.data.descriptions import FEATURES, INFO
from ebm_jax.data.distances import largest_distance
from ebm_jax.data.fingerprints import fingerprint
from ebm_jax.data.images import DataError, Images, to_uint8, to_unit, wrong
from ebm_jax.data.named import PARSERS, is_name, prepare
from ebm_jax.data.pictures import Color
from ebm_jax.data.points import Points, load_points
from ebm_jax.data.prepared import read_prepared
from ebm_jax.data.readers import check_as_they_are, read
from ebm_jax.data.records import Records
from ebm_jax.data.rows import Rows
from ebm_jax.data.views import mirror, square
from ebm_jax.distributed import is_first, wait_for_all

NAMES = tuple(PARSERS)
"""Names of the published data sets that `load` accepts."""
Pixels = np.ndarray | Records
"""Images, uint8 of shape (n, h, w, c), in memory or on disk."""

__all__ = [
    "NAMES",
    "Color",
    "DataError",
    "Images",
    "Pixels",
    "Points",
    "Records",
    "Rows",
    "batch_indices",
    "dequantize",
    "fingerprint",
    "largest_distance",
    "load",
    "load_points",
    "load_split",
    "mirror",
    "prepare",
    "square",
    "to_uint8",
    "to_unit",
]


def load(
    path: str | os.PathLike[str] = "digits",
    *,
    resize: int | None = None,
    color: Color | None = None,
    max_bytes: int | None = None,
) -> Images:
    """Loads training images of 2x2 pixels or more, with labels if the data have them.

    Labels are numbered 0 to K - 1 in the sorted order of their original values, which are kept
    in `Images.names`. Training and test images share one numbering.

    Args:
        path: one of
            "digits": scikit-learn's 1,797 gray 8x8 images (write "./digits" for a folder of
                this name);
            a name in NAMES, such as "mnist" or "cifar10": the set as tensorflow-datasets keeps
                it, prepared at first use (needs the extra `datasets`; `prepare` accepts local
                copies of the original files). "celeb_a/64" is CelebA as 64x64 squares; other
                sides work too;
            a folder that tensorflow-datasets prepared as array_record, for any set of images;
            an `.npz`: an array of shape (n, h, w), (n, h, w, c) or (n, c, h, w) with c 1 or 3,
                under a usual name (x_train, train_images, images, x, samples, data, pixels,
                arr_0), or the only array of such a shape. uint8 is used unchanged. Floats are
                taken to be in [-1, 1] if any image of the file, training or test, has a
                negative value, otherwise in [0, 1]; `Images.values` records which. Labels are
                whole numbers or words (y_train, train_labels, labels, y, targets, target,
                arr_1);
            a folder of images. All must have one size and be all gray or all RGB, after each
                is turned as its EXIF orientation asks. Images directly in the folder are
                read in the order of their names, without labels; images in subfolders are
                labeled, one class per subfolder. Either may be split into folders "train" and
                "test" (or "val"). Hidden files and other suffixes are ignored;
            a folder with MNIST's idx files, gzipped or not, or one idx file of images. The
                labels are read from the matching file beside it.
        resize: side of the squares, for a folder of images of any size. The middle square of
            each image is resized by a Lanczos filter. Transparent images are placed on white,
            and all images become RGB unless every file is gray.
        color: "gray" or "rgb"; converts the images of a folder.
        max_bytes: memory limit for the pixels of a prepared set, test images included; half
            of the free memory by default. A larger set is returned as `Records`, which are
            read from disk when they are indexed.

    Raises:
        DataError: The path is missing, damaged or empty, or holds anything else.

    Examples:
        >>> from ebm_jax import data
        >>> images = data.load("digits")
        >>> images.pixels.shape, images.labels.shape
        ((1797, 8, 8, 1), (1797,))
    """
    return _read(path, resize, color, max_bytes)[0]


def load_split(
    path: str | os.PathLike[str] = "digits",
    *,
    held_out: float = 0.25,
    max_held_out: int = 10_000,
    resize: int | None = None,
    color: Color | None = None,
    max_bytes: int | None = None,
) -> tuple[Images, Images]:
    """Loads training images and held-out images for evaluation; neither part is empty.

    A published test set is kept: MNIST's t10k files in the folder, x_test or test_images in an
    `.npz`, the part "test" or otherwise "validation" of a prepared set or a folder. All other
    data are split by one fixed permutation, the same in every run.

    Args:
        path: as for `load`.
        held_out: fraction of the images to hold out if there is no published test set, in
            (0, 1).
        max_held_out: upper limit on the number of images held out this way, at least 1.
        resize: as for `load`.
        color: as for `load`.
        max_bytes: as for `load`.

    Returns:
        The training images and the held-out images.

    Raises:
        DataError: As for `load`; also for a single image, test images of another size than the
            training images, or `held_out` or `max_held_out` out of range.

    Examples:
        >>> from ebm_jax import data
        >>> train, test = data.load_split("digits", held_out=0.1)
        >>> len(train.pixels), len(test.pixels)
        (1617, 180)
    """
    if not (0 < held_out < 1 and max_held_out >= 1):
        found = f"`load_split` got {held_out=} and {max_held_out=}"
        raise wrong(found, "a share between 0 and 1 and a count of 1 or more", "correct them")
    train, test = _read(path, resize, color, max_bytes)
    if test is None:
        count = len(train.pixels)
        if count < 2:
            raise wrong(f"{path} holds 1 image", "2 or more, to hold one out", "add some")
        order = np.random.default_rng(7600).permutation(count)
        border = max(1, min(round(held_out * count), max_held_out, count - 1))
        return _take(train, order[border:]), _take(train, order[:border])
    shape, test_shape = train.pixels.shape[1:], test.pixels.shape[1:]
    if test_shape != shape:
        found = f"{path} has test images of shape {test_shape}"
        raise wrong(found, f"{shape} as in training", "resize or convert either")
    return train, test


def batch_indices(
    seed: int, step: int, num_steps: int, num_examples: int, batch_size: int
) -> Int32[np.ndarray, "num_steps batch_size"]:
    """Returns the indices of the examples in `num_steps` batches, the first being that of `step`.

    Batches are cut from one endless stream, across the borders of epochs. Position g of the
    stream is entry g mod n of epoch g div n, a permutation of the n = `num_examples` indices
    drawn from (seed, epoch). Nothing is stored, so steps are the same whether they are
    requested at once, one by one or after a restart.

    Args:
        seed: seed of the permutations.
        step: the first step, counted from 0.
        num_steps: number of steps.
        num_examples: number of examples, n.
        batch_size: examples per batch, which may exceed n.

    Raises:
        ValueError: If seed, step or num_steps is negative, or num_examples or batch_size is
            below 1.

    Examples:
        Two steps of batches of 3 visit each of 6 examples once.

        >>> from ebm_jax import data
        >>> index = data.batch_indices(0, 0, num_steps=2, num_examples=6, batch_size=3)
        >>> index.shape, sorted(index.ravel().tolist())
        ((2, 3), [0, 1, 2, 3, 4, 5])
        >>> bool((index[1:] == data.batch_indices(0, 1, 1, 6, 3)).all())
        True
    """
    if min(seed, step, num_steps) < 0 or min(num_examples, batch_size) < 1:
        raise ValueError(
            f"`batch_indices` got {seed=}, {step=}, {num_steps=}, {num_examples=}, {batch_size=},"
            " expected the first three to be 0 or more and the last two 1 or more: correct them."
        )
    epoch, start = divmod(step * batch_size, num_examples)
    stop = start + num_steps * batch_size
    epochs = range(epoch, epoch + stop // num_examples + 1)
    stream = np.concatenate([_epoch_order(seed, e, num_examples) for e in epochs])
    return stream[start:stop].reshape(num_steps, batch_size)


def _read(
    path: str | os.PathLike[str], resize: int | None, color: Color | None, max_bytes: int | None
) -> tuple[Images, Images | None]:
    named = is_name(path)
    if named or any(os.path.exists(os.path.join(path, name)) for name in (INFO, FEATURES)):
        check_as_they_are(path, resize, color)
        return read_prepared(_prepared_once(str(path)) if named else Path(path), max_bytes)
    return read(path, resize, color)


def _prepared_once(name: str) -> Path:
    """Returns the folder of a named set; process 0 prepares it, the others wait and share it."""
    folder = prepare(name) if is_first() else None
    wait_for_all("the data are prepared")
    return folder or prepare(name)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_examples).astype(np.int32)


def _take(images: Images, index: np.ndarray) -> Images:
    def some(values: Pixels) -> Pixels:  # records on disk are selected without reading
        return values.only(index) if isinstance(values, Records) else values[index]

    labels = None if images.labels is None else some(images.labels)
    return images._replace(pixels=some(images.pixels), labels=labels)
