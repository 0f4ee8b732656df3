"""Images and points at the door, and the order in which training visits them.

Outside, images are uint8 in 0..255; inside, float32 in [-1, 1]:

    x = (2 p - 255) / 255,      p = round(127.5 (x + 1)) after clipping x to [-1, 1]

so 0 is -1, 255 is 1, p and 255 - p are negatives, and all 256 values survive the round
trip. `batch_indices` is a pure function of the seed and the step, so a resumed run goes on
in the very same order, and any number of processes that read some rows each see one stream.
What does not fit in memory is `Records`, indexed in the same way. Whatever is wrong with a
path is a `DataError`: one sentence, meant for a person.
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
"""The published sets that `load` knows by name."""
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
    """Images to train on, of 2x2 pixels or more, with labels where the data has them.

    Labels come as the numbers 0 to K - 1 of K classes, in the order of their sorted values, which
    are `Images.names`. Training and test images are numbered together.

    Args:
        path: one of
            "digits": scikit-learn's 1,797 gray images of 8x8 (a folder so named is "./digits");
            a name of NAMES, "mnist", "cifar10": the set as tensorflow-datasets keeps it, prepared
                at the first use (extra `datasets`; `prepare` takes local copies of its files);
                "celeb_a/64" has its images as squares of 64x64, of any such side;
            a folder of any set of images that tensorflow-datasets prepared as array_record;
            an `.npz`: an array of shape (n, h, w), (n, h, w, c) or (n, c, h, w) with c 1 or 3,
                under a usual name (x_train, train_images, images, x, samples, data, pixels,
                arr_0) or the only one so shaped. uint8 is taken as it is; floats as [-1, 1] if
                any image of the file has a negative value, test images included, else as
                [0, 1] (`Images.values` says which). Labels are whole numbers or words (y_train,
                train_labels, labels, y, targets, target, arr_1);
            a folder of images, all of one size and all gray or all RGB once turned as their
                EXIF data ask: in the order of their names and without labels, or in one
                subfolder per class; also folders "train" and "test" (or "val") of either.
                Files with other suffixes and hidden ones are passed over;
            a folder with MNIST's idx files, gzipped or not, or one idx file of images; its
                labels are found beside it.
        resize: for a folder of images of any sizes: the side of the square that is cut from the
            middle of each and resized by a Lanczos filter. Transparent images are put on white,
            and all are RGB unless every file is gray.
        color: "gray" or "rgb": converts the images of a folder.
        max_bytes: what the pixels of a prepared set may take in memory, its test images
            included; by default half of what is free. Those of a larger set are `Records`,
            which are indexed in the same way and read then.

    Raises:
        DataError: the path is missing, damaged, empty or holds anything else.
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
    """Images to train on, and images held out to judge by; neither part is empty.

    A published test set is kept: MNIST's t10k files in the folder, x_test or test_images in an
    `.npz`, the part "test" or else "validation" of a prepared set or a folder. Any other data
    is divided by one fixed permutation, the same in every run.

    Args:
        path: as for `load`.
        held_out: share of the images to hold out where no test set is published, in (0, 1).
        max_held_out: the most images to hold out so, 1 or more.
        resize: as for `load`.
        color: as for `load`.
        max_bytes: as for `load`.

    Raises:
        DataError: as for `load`; also a single image, two image sizes, or numbers out of range.
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
    """The examples that the batches of `num_steps` steps hold, from step `step` on.

    Batches are cut, across the borders of epochs, from one endless stream. Its position g is
    place g mod n of epoch g div n, a permutation of the n = `num_examples` indices drawn from
    (seed, epoch). Nothing is stored: asked for at once, one by one or after a restart, steps
    are the same. `batch_size` may exceed n.

    Raises:
        ValueError: seed, step or num_steps below 0; num_examples or batch_size below 1.
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
    """The folder of a named set, which one of all processes that share a disk prepares."""
    folder = prepare(name) if is_first() else None
    wait_for_all("the data are prepared")
    return folder or prepare(name)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_examples).astype(np.int32)


def _take(images: Images, index: np.ndarray) -> Images:
    def some(values: Pixels) -> Pixels:  # of what lies on disk nothing is read yet
        return values.only(index) if isinstance(values, Records) else values[index]

    labels = None if images.labels is None else some(images.labels)
    return images._replace(pixels=some(images.pixels), labels=labels)
