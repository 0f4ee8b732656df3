"""Precision of computations: at least float32, whatever dtype the data are stored in.

An example keeps its dtype when it is passed to a user's function. Noise levels, times, noise,
squares and sums are float32, or float64 if the example is. bfloat16 has 8 significant bits, too
few for a level or a sum, and integers overflow.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Shaped

from ebm_jax.types import Example, PRNGKey

# Rows of examples in NumPy or JAX, of any dtype, as `data` returns them.
Samples = Shaped[np.ndarray, "_ ..."] | Shaped[Array, "_ ..."]


def wide_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Returns the dtype to compute in: float64 for float64, and float32 for everything else."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def widened(x: ArrayLike) -> Array:
    """Returns the array as float32, or unchanged if it is float64."""
    x = jnp.asarray(x)
    return x.astype(wide_dtype(x.dtype))


def check_numbers(name: str, **arrays: Shaped[np.ndarray, "..."] | Shaped[Array, "..."]) -> None:
    """Raises a ValueError for an array that is not of booleans, integers or floats."""
    for argument, array in arrays.items():
        kinds = jnp.bool_, jnp.integer, jnp.floating
        if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
            raise ValueError(
                f"`{name}` got {argument} of type {array.dtype}: "
                "give booleans, integers or floats, such as pixels in uint8."
            )


def narrowed(*sets: Samples) -> tuple[Float[Array, "_ ..."], ...]:
    """Returns sets of rows in float32 or wider, shifted together where the cast would lose digits.

    If NumPy arrays in float64 are cast to float32, all sets are first shifted by one vector,
    `_middle` of the first set. Use this only where the result depends on differences between rows.
    """
    if all(isinstance(rows, np.ndarray) for rows in sets):
        known = [rows.astype(np.promote_types(rows.dtype, np.float32), copy=False) for rows in sets]
        if (
            any(rows.dtype == np.float64 for rows in known)
            and jnp.result_type(float) != jnp.float64
        ):
            middle = _middle(np, known[0])
            return tuple(jnp.asarray(rows - middle, jnp.float32) for rows in known)
    wide = [widened(rows) for rows in sets]
    widest = max((rows.dtype for rows in wide), key=lambda dtype: dtype.itemsize)
    return tuple(rows.astype(widest) for rows in wide)


def centered(*sets: Samples) -> tuple[Float[Array, "_ ..."], ...]:
    """Returns sets of rows in float32 or wider, minus one vector from the middle of the first set.

    Distances do not change, and |a|^2 + |b|^2 - 2 a . b loses no digits to cancellation for data
    far from 0.
    """
    moved = narrowed(*sets)
    middle = _middle(jnp, moved[0])
    return tuple(rows - middle for rows in moved)


def _middle(xp: Any, rows: Any) -> Any:
    """Returns the median of up to 255 rows, of shape (1, ...), or 0 where it is not finite.

    The median ignores outliers, so that the other rows keep their digits after subtraction.
    """
    some = rows[:: max(1, len(rows) // 128)]
    middle = xp.median(some, 0, keepdims=True)
    return xp.where(xp.isfinite(middle), middle, 0).astype(rows.dtype)


def level_for(x: Example, level: float | Array) -> Array:
    """Returns a noise level, time or other number in the dtype in which to compute with `x`."""
    return jnp.asarray(level, wide_dtype(x.dtype))


def normal_for(key: PRNGKey, x: Example) -> Example:
    """Draws N(0, I) of the shape of `x`, in the dtype in which to compute with it.

    A draw in bfloat16 itself would come from 2^7 uniform numbers, and have no tails.
    """
    return jax.random.normal(key, x.shape, wide_dtype(x.dtype))


def safe_sqrt(x: Array) -> Array:
    """Returns sqrt(max(x, 0)), with gradient 0 instead of infinity or NaN where x <= 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0).astype(x.dtype)
