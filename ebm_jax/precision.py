"""The precision of computations: float32 at least, whatever the data are stored in.

An example keeps its dtype where a function of the caller's sees it. Noise levels, times,
noise, squares and sums are float32, or float64 where the example is: bfloat16 has 8 bits,
too few for a level or for a sum, and integers wrap around.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from ebm_jax.types import Example, PRNGKey


def wide_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Returns the dtype to compute in: float64 for float64, and float32 for everything else."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def widened(x: ArrayLike) -> Array:
    """Returns the array as float32, or as float64 where it is float64."""
    x = jnp.asarray(x)
    return x.astype(wide_dtype(x.dtype))


def level_for(x: Example, level: float | Array) -> Array:
    """Returns a noise level, time or other number in the precision to compute with `x` in."""
    return jnp.asarray(level, wide_dtype(x.dtype))


def normal_for(key: PRNGKey, x: Example) -> Example:
    """Returns a draw of N(0, I) of the shape of `x`, in the precision to compute with it in.

    A draw in bfloat16 itself comes from 2^7 uniform numbers, and has no tails.
    """
    return jax.random.normal(key, x.shape, wide_dtype(x.dtype))
