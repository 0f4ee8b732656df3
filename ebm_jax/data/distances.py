"""Largest distance between two examples of a data set."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax._precision import Samples, centered, check_numbers
from ebm_jax.types import Scalar


def largest_distance(data: Samples) -> Scalar:
    """Largest Euclidean distance between two examples, in O(n) memory and O(n^2) time.

    NCSN uses it as the largest noise level (Song & Ermon, arXiv:2006.09011, technique 1).

    Args:
        data: n examples along the first axis, at least two; booleans, integers or floats, of
            NumPy or JAX.

    Raises:
        ValueError: If there are fewer than two examples, or they are not numbers.

    Examples:
        >>> import numpy as np
        >>> from ebm_jax import data
        >>> round(float(data.largest_distance(np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]]))), 3)
        5.0
    """
    check_numbers("largest_distance", data=data)
    if data.ndim < 1 or data.shape[0] < 2:
        raise ValueError(
            f"`largest_distance` got data of shape {data.shape}: give at least 2 examples."
        )
    (rows,) = centered(data.reshape(data.shape[0], -1))
    squares = jnp.sum(rows**2, axis=-1)

    def farthest(row: Array) -> Scalar:
        # The matmul finds the farthest row, up to round-off; the difference avoids cancellation.
        other = rows[jnp.argmax(squares - 2 * rows @ row)]
        return jnp.sum((other - row) ** 2)

    return jnp.sqrt(jnp.max(jax.lax.map(farthest, rows, batch_size=256)))
