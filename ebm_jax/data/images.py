"""The vocabulary of this room: `Images`, their two number formats, and `DataError`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt8

from ebm_jax.data.records import Records

SOURCE = "'digits', 'mnist', 'cifar10', an .npz, a folder of images, MNIST's idx files"


class DataError(ValueError):
    """Data that cannot be used. Its message is one line: what was found, expected, the mend."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class Images(NamedTuple):
    """Images of one size: gray (c = 1) or red, green and blue (c = 3), in memory or on disk.

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
def reading(
    path: object,
    expected: str = SOURCE,
    mend: str = "check its permissions, copy it again or save it again",
) -> Iterator[None]:
    """Turns whatever a decoder of foreign bytes raises into a `DataError` that names the path."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # decoders of damaged bytes raise almost anything
        why = (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
        raise wrong(f"{path} cannot be read ({why})", expected, mend) from error
