"""Distances between examples: nearest neighbors, memorization and sliced Wasserstein."""

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
        samples: median distance of the samples.
        held_out: median distance of data that were not trained on.
        ratio: samples / held_out, near 1 for new examples and near 0 for copies.
    """

    samples: Scalar
    held_out: Scalar
    ratio: Scalar


def median_distance(x: Samples) -> Scalar:
    """Returns the median Euclidean distance over distinct pairs of rows.

    It is the usual bandwidth of a kernel (the median heuristic). Needs O(n^2) memory.

    Args:
        x: (n, ...), at least 2 rows of booleans, integers or floats, in NumPy or JAX.

    Raises:
        ValueError: if there are fewer than 2 rows.

    Examples:
        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> float(metrics.median_distance(np.array([[0.0], [1.0], [3.0]])))  # of 1, 2 and 3
        2.0
    """
    check_sample("median_distance", x, least=2)
    n = x.shape[0]
    (rows,) = narrowed(x.reshape(n, -1))
    distances = jax.lax.map(
        lambda row: jnp.sqrt(jnp.sum((rows - row[None, :]) ** 2, -1)), rows, batch_size=min(64, n)
    )
    return jnp.median(distances[jnp.triu_indices(n, 1)])


def nearest_distance(x: Samples, reference: Samples) -> Float[Array, " n"]:
    """Returns the Euclidean distance from each row of `x` to the nearest row of `reference`.

    Samples that are much nearer to the training set than held-out data are were memorized.

    Args:
        x: (n, ...), rows of booleans, integers or floats, in NumPy or JAX.
        reference: (m, ...), at least 1 row, of the same shape.

    Returns:
        One distance for each row of `x`, (n,).

    Raises:
        ValueError: for an empty set, or examples of different shapes.

    Examples:
        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> x, reference = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[0.0, 0.0], [9.0, 9.0]])
        >>> metrics.nearest_distance(x, reference).tolist()
        [0.0, 5.0]
    """
    rows, points = centered(*paired_rows("nearest_distance", reference, x, least=1))
    half_squares = jnp.sum(rows**2, -1) / 2

    def nearest(point: Array) -> Scalar:
        # Found by a matmul, up to its round-off; measured without cancellation.
        neighbor = rows[jnp.argmin(half_squares - rows @ point)]
        return jnp.sqrt(jnp.sum((neighbor - point) ** 2))

    return jax.lax.map(nearest, points, batch_size=min(64, points.shape[0]))


def memorization(samples: Samples, held_out: Samples, train: Samples) -> Memorization:
    """Compares distances to the training set: those of samples and those of held-out data.

    Works on pixels or on features. Blurred samples are near the training set too, so view the
    nearest neighbors before you conclude memorization from a small ratio.

    Args:
        samples: (n, ...), samples of the model.
        held_out: (m, ...), data that the model was not trained on.
        train: (k, ...), data that the model was trained on.

    Raises:
        ValueError: for an empty set, or examples of different shapes.

    Examples:
        Samples that copy the training set have ratio 0.

        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> train, held_out = np.random.default_rng(0).normal(size=(2, 50, 3))
        >>> float(metrics.memorization(train, held_out, train).ratio)
        0.0
    """
    for examples in (samples, held_out):
        paired_rows("memorization", examples, train, least=1)
    near, far = (jnp.median(nearest_distance(x, train)) for x in (samples, held_out))
    return Memorization(near, far, near / far)


def sliced_wasserstein(
    key: PRNGKey, x: Samples, y: Samples, *, num_projections: int = 128
) -> Estimate:
    """Returns the squared sliced Wasserstein distance between two samples.

        SW^2 = E_v int_0^1 (F^-1(u) - G^-1(u))^2 du,   v uniform on the sphere

    F and G are the empirical distribution functions of v . x and v . y. Each direction is
    computed exactly, also for n != m. Between N(m, s^2 I) and N(m', s'^2 I) the distance is
    |m - m'|^2 / d + (s - s')^2. Two samples of one distribution are O(1/n + 1/m) apart: compare
    with the distance between two samples of the data. Needs O(n + m) memory.

    Args:
        key: PRNG key of the directions.
        x: the first sample, (n, ...).
        y: the second sample, (m, ...).
        num_projections: number of directions, at least 2.

    Returns:
        The mean over directions and its standard error. The error covers the choice of
        directions only, not the variation between samples.

    Raises:
        ValueError: for empty samples, examples of different shapes, or fewer than 2 directions.

    References:
        Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, 2015.

    Examples:
        In one dimension every direction sees a shift by 2 as 4.

        >>> import jax
        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> x = np.array([[0.0], [1.0], [5.0]])
        >>> distance = metrics.sliced_wasserstein(jax.random.key(0), x, x + 2)
        >>> round(float(distance.value), 4)
        4.0
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
    """Returns the intervals on which quantile functions of n and m steps are both constant.

    The result is the width of each interval, and the index of the step of each function there.
    """
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)  # in units of 1 / (n m)
    widths = np.diff(ends, prepend=0) / (n * m)
    return (
        jnp.asarray(widths, jnp.float32),
        jnp.asarray((ends - 1) // m),
        jnp.asarray((ends - 1) // n),
    )
