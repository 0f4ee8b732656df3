"""Pixels spread over their cells, so that images have a density."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from ebm_jax.types import Example, PRNGKey


def dequantize(key: PRNGKey, pixels: UInt8[Array, "*d"] | UInt8[np.ndarray, "*d"]) -> Example:
    """x = -1 + (2 u + 2 U - 1) / 255 with U uniform on [0, 1): pixels u, spread over their cells.

    `data.to_uint8` takes it back. Cells are 2/255 wide: the `cell_width` to give to
    `bits_per_dimension`.
    """
    spread = jax.random.uniform(key, pixels.shape)
    return -1 + (2 * jnp.asarray(pixels, jnp.float32) + 2 * spread - 1) / 255
