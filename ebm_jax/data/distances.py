"""The largest distance between two examples of a data set."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax._precision import Samples, centered, check_numbers
from ebm_jax.types import Scalar


def largest_distance(data: Samples) -> Scalar:
    """The largest Euclidean distance between two rows, in O(n) memory and O(n^2) time.

    Args:
        data: rows of booleans, integers or floats, of NumPy or JAX; at least two.

    Raises:
        ValueError: if there are fewer than two rows, or they are no numbers.
    """
    check_numbers("largest_distance", data=data)
    if data.ndim < 1 or data.shape[0] < 2:
        raise ValueError(
            f"`largest_distance` got data of shape {data.shape}: give at least 2 examples."
        )
    (rows,) = centered(data.reshape(data.shape[0], -1))
    squares = jnp.sum(rows**2, axis=-1)

    def farthest(row: Array) -> Scalar:
        # Found by a matmul, up to its round-off; measured without cancellation.
        other = rows[jnp.argmax(squares - 2 * rows @ row)]
        return jnp.sum((other - row) ** 2)

    return jnp.sqrt(jnp.max(jax.lax.map(farthest, rows, batch_size=256)))
