"""Distances between two samples: they couple a batch by their nature."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.types import Scalar


def squared_mmd(
    x: Float[Array, "n *d"], y: Float[Array, "m *d"], *, bandwidth: float | Scalar
) -> Scalar:
    """The unbiased estimate of the squared maximum mean discrepancy.

        MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),   k = exp(-|x - y|^2 / (2 b^2))

    over distinct pairs. Its mean is 0 when both laws agree, so that values around
    zero, below it too, are what agreement looks like. In O(n + m) memory.

    Args:
        x: the first sample, at least 2 rows.
        y: the second sample, at least 2 rows.
        bandwidth: b > 0, in the units of x; the `median_distance` of data is usual.

    Raises:
        ValueError: if a sample has fewer than 2 rows.

    References:
        Gretton et al., A kernel two-sample test, JMLR 2012.
    """
    n, m = x.shape[0], y.shape[0]
    if min(n, m) < 2:
        raise ValueError(f"`squared_mmd` got samples of {n} and {m} rows: give at least 2 each.")
    x, y = x.reshape(n, -1), y.reshape(m, -1)

    def kernel_sum(a: Array, b: Array) -> Scalar:
        def row(point: Array) -> Scalar:
            return jnp.sum(jnp.exp(-jnp.sum((b - point[None, :]) ** 2, -1) / (2 * bandwidth**2)))

        return jnp.sum(jax.lax.map(row, a, batch_size=min(64, a.shape[0])))

    within_x = (kernel_sum(x, x) - n) / (n * (n - 1))
    within_y = (kernel_sum(y, y) - m) / (m * (m - 1))
    return within_x + within_y - 2 * kernel_sum(x, y) / (n * m)


def median_distance(x: Float[Array, "n *d"]) -> Scalar:
    """The median Euclidean distance over distinct pairs of rows, in O(n^2) memory.

    Raises:
        ValueError: if there are fewer than 2 rows.
    """
    n = x.shape[0]
    if n < 2:
        raise ValueError(f"`median_distance` got {n} rows: give at least 2.")
    rows = x.reshape(n, -1)
    distances = jax.lax.map(
        lambda row: jnp.sqrt(jnp.sum((rows - row[None, :]) ** 2, -1)), rows, batch_size=min(64, n)
    )
    return jnp.median(distances[jnp.triu_indices(n, 1)])


def nearest_distance(
    x: Float[Array, "n *d"], reference: Float[Array, "m *d"]
) -> Float[Array, " n"]:
    """For every row of `x`, the Euclidean distance to the nearest row of `reference`.

    Samples much nearer to the training set than held-out data are were learnt by heart.
    """
    rows = reference.reshape(reference.shape[0], -1)

    def nearest(point: Array) -> Scalar:
        return jnp.sqrt(jnp.min(jnp.sum((rows - point[None, :]) ** 2, -1)))

    return jax.lax.map(nearest, x.reshape(x.shape[0], -1), batch_size=min(64, x.shape[0]))
