"""Uniform dequantization, which gives 8-bit images a density."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from ebm_jax.types import Example, PRNGKey


def dequantize(key: PRNGKey, pixels: UInt8[Array, "*d"] | UInt8[np.ndarray, "*d"]) -> Example:
    """Uniform dequantization: x = -1 + (2 u + 2 U - 1) / 255 for pixels u, with U ~ U[0, 1).

    Each pixel value is spread over its cell, of width 2/255; pass that to
    `bits_per_dimension` as `cell_width`. `data.to_uint8` recovers the pixels.

    Args:
        key: PRNG key of the draw.
        pixels: uint8 values, in any shape.

    Returns:
        Floats in [-1 - 1/255, 1 + 1/255], in the shape of `pixels`.

    Examples:
        >>> import jax, numpy as np
        >>> from ebm_jax import data
        >>> pixels = np.arange(256, dtype=np.uint8)
        >>> x = data.dequantize(jax.random.key(0), pixels)
        >>> bool((data.to_uint8(x) == pixels).all())
        True
    """
    spread = jax.random.uniform(key, pixels.shape)
    return -1 + (2 * jnp.asarray(pixels, jnp.float32) + 2 * spread - 1) / 255
