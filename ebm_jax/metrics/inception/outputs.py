"""InceptionV3 features and logits of many images, for FID, KID and the Inception Score.

Pixels are sent to the devices as uint8 and resized there, so 50,000 images need only their own
bytes and 16 kB of outputs per image.
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
    """Returns InceptionV3 features and logits of images, computed on all devices.

    The outputs of an image do not depend on the batch size, up to the compiler's round-off. There
    is one compiled program per image size and batch size: a short last batch is padded, and the
    padding is dropped.

    Args:
        inception: network and weights, from `load_inception`.
        pixels: uint8 images of one size, (n, height, width, c), RGB (c = 3) or gray (c = 1,
            repeated in all three channels); or an iterable of such arrays, with any number of
            images each, for sets that do not fit in memory.
        batch_size: images per batch, rounded up to a multiple of the number of devices.
        progress: called after each batch with the number of images done.

    Returns:
        Features (n, 2048), logits (n, 1008) and logits without the bias (n, 1008), as float32
        NumPy arrays in the order of the images.

    Raises:
        ValueError: for no images, images of different sizes, images that are not uint8 or not
            gray or RGB, or a batch_size below 1.

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
    """Returns the least multiple of the divisor that is not below the number."""
    return -(-number // divisor) * divisor


def _checked(pixels: Pixels | Iterable[Pixels]) -> Iterator[np.ndarray]:
    """Yields the arrays of images after a check of each."""
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
    """Yields the images of all arrays in order, `size` at a time; the last batch may be short."""
    held = None
    for array in arrays:
        held = array if held is None else np.concatenate([held, array])
        while len(held) >= size:
            yield held[:size]
            held = held[size:]
    if held is not None and len(held):
        yield held
