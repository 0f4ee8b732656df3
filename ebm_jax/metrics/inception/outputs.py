"""InceptionV3's features and logits of many images: what FID, KID and the Inception Score read.

Pixels go to the devices as uint8 and are enlarged there, so 50,000 images cost their own bytes
and the 16 kB of every image's outputs.
"""

from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jaxtyping import Array, PyTree, UInt8

from ebm_jax.metrics.inception.weights import Inception
from ebm_jax.nets.inception import InceptionOutputs, InceptionV3, prepare
from ebm_jax.sharding import data_mesh, fetch, replicate, split

Pixels = UInt8[np.ndarray | Array, "n h w c"]


def inception_outputs(
    inception: Inception,
    pixels: Pixels | Iterable[Pixels],
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> InceptionOutputs:
    """Features and logits of images, computed on all devices.

    An image's outputs are the same, to the compiler's round-off, in batches of any size. There
    is one compiled program for each size of images and of batches: what the last batch lacks is
    filled up and dropped.

    Args:
        inception: from `load_inception`.
        pixels: uint8 images of one size, RGB (c = 3) or gray (c = 1, repeated in all three
            channels), or an iterable of such arrays, of any number of images each, where there
            are too many for memory.
        batch_size: images computed at once, rounded up to a multiple of the devices.
        progress: called after each batch with the number of images done.

    Returns:
        Features (n, 2048), logits (n, 1008) and logits without the bias (n, 1008), float32 in
        numpy, in the order of the images.

    Raises:
        ValueError: no image, images of two sizes, not uint8, or not gray or RGB; or a
            batch_size that is not positive.

    References:
        arXiv:1706.08500 (features); arXiv:1606.03498 (logits, without the bias).
    """
    if batch_size < 1:
        raise ValueError(f"`inception_outputs` got batch_size={batch_size}: give 1 or more.")
    mesh = data_mesh()
    params = replicate(inception.params, mesh)
    done, width, outputs = 0, 0, []
    for batch in _batches(_checked(pixels), _multiple(batch_size, mesh.size)):
        width = width or _multiple(len(batch), mesh.size)
        filling = np.zeros((width - len(batch), *batch.shape[1:]), np.uint8)
        out = fetch(_outputs(params, split(np.concatenate([batch, filling]), mesh)))
        outputs.append(InceptionOutputs(*(np.asarray(leaf)[: len(batch)] for leaf in out)))
        done += len(batch)
        if progress is not None:
            progress(done)
    if not outputs:
        raise ValueError("`inception_outputs` got no image: give 1 or more.")
    return InceptionOutputs(*map(np.concatenate, zip(*outputs, strict=True)))


@jax.jit
def _outputs(params: PyTree, pixels: UInt8[Array, "n h w c"]) -> InceptionOutputs:
    return jax.vmap(lambda image: InceptionV3().apply(params, prepare(image)))(pixels)


def _multiple(number: int, divisor: int) -> int:
    """The least multiple of the divisor that is not below the number."""
    return -(-number // divisor) * divisor


def _checked(pixels: Pixels | Iterable[Pixels]) -> Iterator[np.ndarray]:
    """The arrays of images, each of them looked at."""
    first = None
    for array in [pixels] if isinstance(pixels, np.ndarray | Array) else pixels:
        first = array.shape[1:] if first is None else first
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] not in (1, 3):
            raise ValueError(
                f"`inception_outputs` got {array.dtype} images of shape {array.shape}, expected "
                "uint8 of (n, h, w, 3) or (n, h, w, 1): convert floats in [-1, 1] by "
                "`data.to_uint8`, and drop an alpha channel."
            )
        if array.shape[1:] != first:
            raise ValueError(
                f"`inception_outputs` got images of {array.shape[1:]} after {first}: "
                "call it once for each size."
            )
        yield np.asarray(array)


def _batches(arrays: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The images of all arrays in order, `size` at a time; the last batch may be short."""
    held = None
    for array in arrays:
        held = array if held is None else np.concatenate([held, array])
        while len(held) >= size:
            yield held[:size]
            held = held[size:]
    if held is not None and len(held):
        yield held
