"""Euclidean distances between examples, and the cost of carrying one sample to another."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax._checks import check_count
from ebm_jax._precision import Samples, centered, narrowed
from ebm_jax.metrics.discrepancy import check_sample, paired_rows
from ebm_jax.types import Estimate, PRNGKey, Scalar


class Memorization(NamedTuple):
    """Median distances to the nearest training example.

    Attributes:
        samples: of the samples.
        held_out: of examples of the data that were not trained on.
        ratio: samples / held_out: near 1 for new examples, near 0 for copies.
    """

    samples: Scalar
    held_out: Scalar
    ratio: Scalar


def median_distance(x: Samples) -> Scalar:
    """The median Euclidean distance over distinct pairs of rows, in O(n^2) memory.

    Args:
        x: at least 2 rows of booleans, integers or floats, of NumPy or JAX.

    Raises:
        ValueError: if there are fewer than 2 rows.
    """
    check_sample("median_distance", x, least=2)
    n = x.shape[0]
    (rows,) = narrowed(x.reshape(n, -1))
    distances = jax.lax.map(
        lambda row: jnp.sqrt(jnp.sum((rows - row[None, :]) ** 2, -1)), rows, batch_size=min(64, n)
    )
    return jnp.median(distances[jnp.triu_indices(n, 1)])


def nearest_distance(x: Samples, reference: Samples) -> Float[Array, " n"]:
    """For every row of `x`, the Euclidean distance to the nearest row of `reference`.

    Samples much nearer to the training set than held-out data are were learned by heart.

    Args:
        x: rows of booleans, integers or floats, of NumPy or JAX.
        reference: at least 1 row, of the same shape.

    Raises:
        ValueError: for an empty set, or examples of two shapes.
    """
    rows, points = centered(*paired_rows("nearest_distance", reference, x, least=1))
    half_squares = jnp.sum(rows**2, -1) / 2

    def nearest(point: Array) -> Scalar:
        # Found by a matmul, up to its round-off; measured without cancellation.
        neighbor = rows[jnp.argmin(half_squares - rows @ point)]
        return jnp.sqrt(jnp.sum((neighbor - point) ** 2))

    return jax.lax.map(nearest, points, batch_size=min(64, points.shape[0]))


def memorization(samples: Samples, held_out: Samples, train: Samples) -> Memorization:
    """How near samples are to the training set, against how near held-out examples are.

    By pixels or by features. Blurred samples are near as well: look at the neighbors
    before you call a small ratio a memory.

    Args:
        samples: examples of the model.
        held_out: examples of the data that the model did not see.
        train: those that it did.

    Raises:
        ValueError: for an empty set, or examples of two shapes.
    """
    for examples in (samples, held_out):
        paired_rows("memorization", examples, train, least=1)
    near, far = (jnp.median(nearest_distance(x, train)) for x in (samples, held_out))
    return Memorization(near, far, near / far)


def sliced_wasserstein(
    key: PRNGKey, x: Samples, y: Samples, *, num_projections: int = 128
) -> Estimate:
    """The squared sliced Wasserstein distance: the mean over directions of that of shadows.

        SW^2 = E_v int_0^1 (F^-1(u) - G^-1(u))^2 du,   v uniform on the sphere

    F and G being the distribution functions of v . x and v . y, steps of 1/n and 1/m: each
    direction is exact, for n = m and for any other two. Between N(m, s^2 I) and
    N(m', s'^2 I) it is |m - m'|^2 / d + (s - s')^2. Two samples of one law are
    O(1/n + 1/m) apart: compare with that of data against data. In O(n + m) memory.

    Args:
        key: PRNG key of the directions.
        x: the first sample.
        y: the second sample.
        num_projections: directions, at least 2.

    Returns:
        The mean over directions, and its standard error over directions alone: what
        more of them would change, not what other samples would.

    Raises:
        ValueError: for empty samples, examples of two shapes, or too few directions.

    References:
        Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, 2015.
    """
    check_count("sliced_wasserstein", least=2, num_projections=num_projections)
    x, y = centered(*paired_rows("sliced_wasserstein", x, y, least=1))
    widths, i, j = _shared_steps(x.shape[0], y.shape[0])

    def along(direction: Array) -> Scalar:
        unit = direction / jnp.sqrt(jnp.sum(direction**2))
        gaps = jnp.sort(x @ unit)[i] - jnp.sort(y @ unit)[j]
        return jnp.sum(widths.astype(gaps.dtype) * gaps**2)

    directions = jax.random.normal(key, (num_projections, x.shape[1]), x.dtype)
    costs = jax.lax.map(along, directions, batch_size=min(8, num_projections))
    return Estimate(jnp.mean(costs), jnp.std(costs, ddof=1) / np.sqrt(num_projections))


def _shared_steps(n: int, m: int) -> tuple[Array, Array, Array]:
    """Where quantile functions of n and m steps are both flat: widths, and the step of each."""
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1 / (n m)
    widths = np.diff(ends, prepend=0) / (n * m)
    return (
        jnp.asarray(widths, jnp.float32),
        jnp.asarray((ends - 1) // m),
        jnp.asarray((ends - 1) // n),
    )
