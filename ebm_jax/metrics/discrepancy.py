"""Maximum mean discrepancy (MMD) between two samples, with standard errors.

The estimates are U-statistics: means over distinct pairs of rows, so they take whole samples
and not one example. The exact variance has two parts (Hoeffding). For one sample of n rows and
a symmetric h with row means h_1(x) = E h(x, x'),

    variance = 4 Var h_1 / n + second-order terms,  2 Var(h - h_1 - h_1') / (n (n - 1))

If the two distributions agree, the first part is zero and only the second remains. Both parts
are estimated without bias, and the first is clipped at zero. A standard error is therefore right
if the distributions differ, and up to 1.5 times too large if they agree. Rows are taken to be
independent: thin chains first.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax._checks import check_positive
from ebm_jax._precision import Samples, check_numbers, level_for, narrowed
from ebm_jax.types import Estimate, Scalar


def squared_mmd(x: Samples, y: Samples, *, bandwidth: float | Scalar) -> Scalar:
    """Returns the unbiased estimate of the squared maximum mean discrepancy (MMD).

        MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),   k = exp(-|x - y|^2 / (2 b^2))

    over distinct pairs. Its expectation is 0 if both distributions agree; values around zero,
    including negative ones, then show agreement. Needs O(n + m) memory.

    Args:
        x: the first sample, (n, ...), at least 2 rows.
        y: the second sample, (m, ...), at least 2 rows.
        bandwidth: b > 0, in the units of x; the `median_distance` of data is usual.

    Raises:
        ValueError: for fewer rows, examples of different shapes, or a bandwidth that is not
            positive.

    References:
        Gretton et al., A kernel two-sample test, JMLR 2012.

    Examples:
        Two points far apart: k = 1 within each sample and 0 across.

        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> x = np.zeros((5, 2))
        >>> round(float(metrics.squared_mmd(x, x + 100, bandwidth=1.0)), 4)
        2.0
    """
    check_positive("squared_mmd", bandwidth=bandwidth)
    x, y = paired_rows("squared_mmd", x, y, least=2)
    bandwidth = level_for(x, bandwidth)
    n, m = float(x.shape[0]), float(y.shape[0])  # their product overflows an int32
    within_x = jnp.sum(_row_sums(x, x, bandwidth)[0]) / (n * (n - 1))
    within_y = jnp.sum(_row_sums(y, y, bandwidth)[0]) / (m * (m - 1))
    return within_x + within_y - 2 * jnp.sum(_row_sums(x, y, bandwidth)[0]) / (n * m)


def squared_mmd_with_error(x: Samples, y: Samples, *, bandwidth: float | Scalar) -> Estimate:
    """Returns `squared_mmd` and its standard error for n and m independent rows.

    Takes the arguments of `squared_mmd`, but at least 4 rows each, and a third more time.

    References:
        Variances of U-statistics: Hoeffding, 1948; of this one: arXiv:1906.02104.

    Examples:
        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> x, y = np.random.default_rng(0).normal(size=(2, 200, 2))
        >>> value, error = metrics.squared_mmd_with_error(x, y, bandwidth=1.0)
        >>> bool(abs(value) < 5 * error)  # samples of one distribution
        True
    """
    check_positive("squared_mmd_with_error", bandwidth=bandwidth)
    x, y = paired_rows("squared_mmd_with_error", x, y, least=4)
    bandwidth = level_for(x, bandwidth)
    n, m = float(x.shape[0]), float(y.shape[0])
    (xx, xx_squares), (yy, yy_squares), (xy, xy_squares), (yx, _) = (
        _row_sums(a, b, bandwidth) for a, b in ((x, x), (y, y), (x, y), (y, x))
    )
    value = jnp.sum(xx) / (n * (n - 1)) + jnp.sum(yy) / (m * (m - 1)) - 2 * jnp.mean(xy) / m
    spread_x, spread_y = centered_square(xx, xx_squares), centered_square(yy, yy_squares)
    residuals = xy_squares - jnp.sum(xy**2) / m - jnp.sum(yx**2) / n + jnp.sum(xy) ** 2 / (n * m)
    across = 4 * jnp.maximum(residuals, 0.0) / ((n - 1) * (m - 1)) / (n * m)
    first = jnp.var(2 * xx / (n - 2) - 2 * xy / m, ddof=1) / n - 4 * spread_x / (n * (n - 2))
    first += jnp.var(2 * yy / (m - 2) - 2 * yx / n, ddof=1) / m - 4 * spread_y / (m * (m - 2))
    second = 2 * spread_x / (n * (n - 1)) + 2 * spread_y / (m * (m - 1)) + across
    return Estimate(value, jnp.sqrt(jnp.maximum(first - 2 * across, 0.0) + second))


def centered_square(sums: Float[Array, " n"], squares: Scalar) -> Scalar:
    """Unbiased estimate of E (h - h_1 - h_1' + E h)^2 from row sums of h and the sum of h^2.

    The sums are over n >= 4 distinct points, with 0 on the diagonal (U-centering).

    References:
        Szekely & Rizzo, arXiv:1310.2926.
    """
    n = float(sums.shape[0])
    total = jnp.sum(sums) ** 2 / ((n - 1) * (n - 2))
    return jnp.maximum(squares - 2 * jnp.sum(sums**2) / (n - 2) + total, 0.0) / (n * (n - 3))


def check_sample(name: str, x: Samples, *, least: int) -> None:
    """Raises the ValueError for a sample that has too few rows or is not numeric."""
    check_numbers(name, x=x)
    if x.ndim < 1 or x.shape[0] < least:
        size = f"{x.shape[0]} rows" if x.ndim else "one number"
        raise ValueError(f"`{name}` got {size}: give at least {least} rows.")


def paired_rows(
    name: str, x: Samples, y: Samples, *, least: int
) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    """Returns both samples as rows of floats, or raises the ValueError if they do not match."""
    check_numbers(name, x=x, y=y)
    if min(x.ndim, y.ndim) < 1:
        raise ValueError(
            f"`{name}` got samples of shapes {x.shape} and {y.shape}: give (rows, ...) of both."
        )
    n, m = x.shape[0], y.shape[0]
    if min(n, m) < least:
        raise ValueError(f"`{name}` got samples of {n} and {m} rows: give at least {least} each.")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"`{name}` got examples of shapes {x.shape[1:]} and {y.shape[1:]}: give one shape."
        )
    width = math.prod(x.shape[1:])  # reshape cannot infer -1 from 0 rows
    left, right = narrowed(x.reshape(n, width), y.reshape(m, width))
    return left, right


def _row_sums(a: Array, b: Array, bandwidth: float | Scalar) -> tuple[Array, Scalar]:
    """Returns the sum over b of h = k - 1 for each row of a, and the sum of all h^2.

    The 1 cancels wherever these sums are used. Subtracting it makes the pair of a row with
    itself exactly 0, and keeps the digits of a wide kernel.
    """

    def row(point: Array) -> tuple[Scalar, Scalar]:
        h = jnp.expm1(-jnp.sum((b - point[None, :]) ** 2, -1) / (2 * bandwidth**2))
        return jnp.sum(h), jnp.sum(h**2)

    sums, squares = jax.lax.map(row, a, batch_size=min(64, a.shape[0]))
    return sums, jnp.sum(squares)
