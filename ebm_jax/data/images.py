"""Types of the data package: `Images`, their two number formats, and `DataError`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt8

from ebm_jax.data.records import Records

SOURCE = "'digits', 'mnist', 'cifar10', an .npz, a folder of images, MNIST's idx files"


class DataError(ValueError):
    """Data that cannot be used. The message, one line, says what was found, expected and to do."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class Images(NamedTuple):
    """Images of one size, gray (c = 1) or RGB (c = 3), in memory or on disk.

    Attributes:
        pixels: the images, uint8 of shape (n, h, w, c).
        labels: the class of each image, 0 to K - 1, or None if the data have no labels.
        names: the original names of the K classes, or None if they are called 0 to K - 1.
        values: how the stored values were read, such as "uint8" or "floats in [0, 1]".
        files: the record files of a prepared set, each with its size in bytes.
    """

    pixels: UInt8[np.ndarray | Records, "n h w c"]
    labels: Int32[np.ndarray | Records, " n"] | None
    names: tuple[str, ...] | None = None
    values: str = "uint8"
    files: tuple[tuple[str, int], ...] | None = None


def to_unit(pixels: UInt8[np.ndarray, "*d"]) -> Float32[np.ndarray, "*d"]:
    """Converts uint8 in 0..255 to float32 in [-1, 1], for any shape.

    Examples:
        >>> import numpy as np
        >>> from ebm_jax import data
        >>> data.to_unit(np.array([0, 255], np.uint8)).tolist()
        [-1.0, 1.0]
    """
    return (2 * pixels.astype(np.float32) - 255) / 255


def to_uint8(x: Float[Array | np.ndarray, "*d"]) -> UInt8[np.ndarray, "*d"]:
    """Clips finite floats to [-1, 1] and rounds to uint8 in 0..255; the inverse of `to_unit`.

    Examples:
        >>> import numpy as np
        >>> from ebm_jax import data
        >>> data.to_uint8(np.array([-1.5, -1.0, 0.1, 1.0])).tolist()
        [0, 0, 140, 255]
    """
    x = np.asarray(x, np.float32)
    return (127.5 * (x.clip(-1, 1) + 1)).round().astype(np.uint8)


def wrong(found: str, expected: str, mend: str) -> DataError:
    """Returns the `DataError` that says what was found, what is expected, and how to fix it."""
    return DataError(f"{found}, expected {expected}: {mend}.")


@contextmanager
def reading(
    path: object,
    expected: str = SOURCE,
    mend: str = "check its permissions, copy it again or save it again",
) -> Iterator[None]:
    """Turns any exception raised by a decoder into a `DataError` that names the path."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # decoders raise almost anything on damaged bytes
        why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
        raise wrong(f"{path} cannot be read ({why})", expected, mend) from error
