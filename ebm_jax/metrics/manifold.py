"""Precision, recall, density and coverage: balls of nearest neighbors around features.

The ball of a row is closed and reaches to its k-th nearest neighbor in its own set. With real
rows r_j, their balls B_j, and fake rows f_i,

    precision = share of the f_i in some B_j          are samples like data?
    recall    = share of the r_j in some ball of a fake row
    density   = mean over i of #{j: f_i in B_j} / k   can exceed 1; mean 1 if both agree
    coverage  = share of the B_j that hold some f_i

One outlier among the real rows has a large ball, which makes precision accept any sample; an
outlier among the fake rows does the same to recall. Density and coverage hardly change.

Distances come from matmuls of blocks of rows, in float32 and centered on the real rows. Memory
is O(n). Round-off can only decide ties.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ebm_jax._checks import check_count
from ebm_jax._precision import centered
from ebm_jax.metrics.features import Features, check_finite, check_rows
from ebm_jax.types import Scalar

BLOCK = 256  # rows at once: 50 MiB of distances to 50,000 others


class PrecisionRecall(NamedTuple):
    """Precision and recall of samples.

    Attributes:
        precision: share of fake rows within the balls of the real ones, between 0 and 1.
        recall: share of real rows within the balls of the fake ones, between 0 and 1.
    """

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density and coverage of samples.

    Attributes:
        density: mean number of real balls around a fake row, over k; 0 or more, can exceed 1.
        coverage: share of real balls that hold a fake row, between 0 and 1.
    """

    density: float
    coverage: float


def precision_recall(real: Features, fake: Features, *, k: int = 3) -> PrecisionRecall:
    """Returns improved precision and recall of features of samples.

    Precision is the share of fake rows within the balls of the real ones, recall the reverse.
    Both fall as the sets grow, because the balls shrink: report n and k with them.

    Args:
        real: features of data, (n, d), more than k rows.
        fake: features of samples, (m, d), more than k rows.
        k: number of the neighbor that a ball reaches to.

    Raises:
        ValueError: for k below 1, too few rows, sets of different widths, or features that are
            not finite.

    References:
        Kynkaanniemi et al., arXiv:1904.06991.

    Examples:
        Samples from one of two modes have full precision and recall 0.5.

        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> mode = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
        >>> metrics.precision_recall(np.concatenate([mode, mode + 1000]), mode)
        PrecisionRecall(precision=1.0, recall=0.5)
    """
    real, fake = _centered("precision_recall", real, fake, k)
    precision = _balls_that_hold(fake, real, _radii(real, k)) > 0
    recall = _balls_that_hold(real, fake, _radii(fake, k)) > 0
    return PrecisionRecall(_mean(precision), _mean(recall))


def density_coverage(real: Features, fake: Features, *, k: int = 5) -> DensityCoverage:
    """Returns density and coverage of features of samples.

    If n fake and n real rows have the same distribution, the means are 1 and
    1 - prod_{i < k} (n - 1 - i) / (2 n - 1 - i), about 1 - 2^-k, for any distribution and any
    features.

    Args:
        real: features of data, (n, d), more than k rows.
        fake: features of samples, (m, d), more than k rows.
        k: number of the neighbor that a ball reaches to.

    Raises:
        ValueError: for k below 1, too few rows, sets of different widths, or features that are
            not finite.

    References:
        Naeem et al., arXiv:2002.09797.

    Examples:
        Samples from one of two modes cover half of the data.

        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> mode = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
        >>> metrics.density_coverage(np.concatenate([mode, mode + 1000]), mode).coverage
        0.5
    """
    real, fake = _centered("density_coverage", real, fake, k)
    radii = _radii(real, k)
    density = _mean(_balls_that_hold(fake, real, radii)) / k
    return DensityCoverage(density, _mean(_occupied(real, radii, fake)))


def _mean(counts: Int[Array, " n"] | Bool[Array, " n"]) -> float:
    return float(np.mean(np.asarray(counts)))  # in float64


def _centered(
    name: str, real: Features, fake: Features, k: int
) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    check_count(name, k=k)
    check_rows(name, real, fake, least=k + 1)
    left, right = centered(real, fake)
    check_finite(name, np.asarray(jnp.sum(left, 0) + jnp.sum(right, 0)))
    return left, right


def _squared_distances(
    point: Float[Array, " d"], rows: Float[Array, "n d"], squares: Float[Array, " n"]
) -> Float[Array, " n"]:
    product = jnp.matmul(rows, point, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(squares + jnp.sum(point**2) - 2 * product, 0)


@partial(jax.jit, static_argnames="k")
def _radii(rows: Float[Array, "n d"], k: int) -> Float[Array, " n"]:
    """Returns the squared distance of every row to its k-th nearest other row."""
    squares = jnp.sum(rows**2, -1)

    def drop_least(distances: Float[Array, " n"], _: None) -> tuple[Float[Array, " n"], Scalar]:
        least = jnp.argmin(distances)
        return distances.at[least].set(jnp.inf), distances[least]

    def radius(i: Int[Array, ""]) -> Scalar:
        others = _squared_distances(rows[i], rows, squares).at[i].set(jnp.inf)
        return jax.lax.scan(drop_least, others, None, k)[1][-1]  # top_k sorts: nine times slower

    return jax.lax.map(radius, jnp.arange(rows.shape[0]), batch_size=min(BLOCK, rows.shape[0]))


@jax.jit
def _balls_that_hold(
    points: Float[Array, "m d"], centers: Float[Array, "n d"], radii: Float[Array, " n"]
) -> Int[Array, " m"]:
    """Returns the number of balls that each point lies in; `radii` are squared."""
    squares = jnp.sum(centers**2, -1)

    def count(point: Float[Array, " d"]) -> Int[Array, ""]:
        return jnp.sum(_squared_distances(point, centers, squares) <= radii)

    return jax.lax.map(count, points, batch_size=min(BLOCK, points.shape[0]))


@jax.jit
def _occupied(
    centers: Float[Array, "n d"], radii: Float[Array, " n"], points: Float[Array, "m d"]
) -> Bool[Array, " n"]:
    """Returns for each ball whether it holds a point; `radii` are squared."""
    squares = jnp.sum(points**2, -1)

    def holds(ball: tuple[Float[Array, " d"], Scalar]) -> Bool[Array, ""]:
        center, radius = ball
        return jnp.any(_squared_distances(center, points, squares) <= radius)

    return jax.lax.map(holds, (centers, radii), batch_size=min(BLOCK, centers.shape[0]))
