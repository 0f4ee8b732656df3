"""Kernel Stein discrepancy (KSD) between a sample and a distribution known by its score.

For a radial kernel k(x, y) = f(|x - y|^2), with u = x - y and s = grad log p,

    h(x, y) = (s(x) . s(y)) f + 2 f' u . (s(y) - s(x)) - 2 d f' - 4 |u|^2 f''

has mean zero over y ~ p for every x. It needs neither a normalizer nor samples of p.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax._checks import check_positive, check_score
from ebm_jax._precision import Samples, level_for, widened
from ebm_jax.metrics.discrepancy import centered_square, check_sample
from ebm_jax.types import Estimate, Scalar, ScoreFn


def inverse_multiquadric(squared_distance: Scalar) -> Scalar:
    """Inverse multiquadric kernel (1 + r^2)^(-1/2) of r^2.

    Its slow decay detects a sample that misses mass far away.
    """
    return jax.lax.rsqrt(1 + squared_distance)


def squared_exponential(squared_distance: Scalar) -> Scalar:
    """Gaussian kernel exp(-r^2 / 2) of r^2; blind to rows that are far from all others."""
    return jnp.exp(-squared_distance / 2)


def squared_stein_discrepancy(
    score_fn: ScoreFn,
    x: Samples,
    *,
    bandwidth: float | Scalar,
    kernel: Callable[[Scalar], Scalar] = inverse_multiquadric,
) -> Estimate:
    """Returns the squared kernel Stein discrepancy (KSD) of a sample from the score of p.

        KSD^2 = E h(x, x') over distinct pairs of rows

    This is the unbiased U-statistic: its expectation is 0 if the rows come from p, and it is then
    as likely to be negative as positive. (The V-statistic, which is never negative and is biased
    upward, adds the pair of each row with itself.) Like every metric that knows p only by its
    score, it hardly detects wrong weights of separated modes. Needs O(n) memory.

    Args:
        score_fn: s(x) = grad log p(x) of one example, of the shape of x.
        x: the sample, (n, ...), at least 4 rows.
        bandwidth: b > 0, in the units of x, often `median_distance`.
        kernel: f, a smooth function of |x - y|^2 / b^2.

    Returns:
        The estimate and its standard error for n independent rows.

    Raises:
        ValueError: for fewer rows, a bandwidth that is not positive, or a score of another
            shape.

    References:
        Liu et al., arXiv:1602.03253; the inverse multiquadric: Gorham & Mackey,
        arXiv:1703.01717; separated modes: arXiv:1805.09737.

    Examples:
        >>> from functools import partial
        >>> import jax
        >>> from ebm_jax import metrics
        >>> x = jax.random.normal(jax.random.key(0), (200, 2))
        >>> ksd = partial(metrics.squared_stein_discrepancy, lambda x: -x, bandwidth=1.0)
        >>> value, error = jax.jit(ksd)(x)
        >>> bool(abs(value) < 5 * error)  # the sample has this score
        True
    """
    name = "squared_stein_discrepancy"
    check_positive(name, bandwidth=bandwidth)
    check_sample(name, x, least=4)
    x = widened(x)
    n, bandwidth = float(x.shape[0]), level_for(x, bandwidth)
    check_score(name, score_fn, x[0])
    scores, rows = widened(jax.vmap(score_fn)(x)).reshape(len(x), -1), x.reshape(len(x), -1)
    sums, squares = _stein_sums(scores, rows, bandwidth, kernel)
    spread = centered_square(sums, squares)
    first = jnp.var(2 * sums / (n - 2), ddof=1) / n - 4 * spread / (n * (n - 2))
    variance = jnp.maximum(first, 0.0) + 2 * spread / (n * (n - 1))
    return Estimate(jnp.sum(sums) / (n * (n - 1)), jnp.sqrt(variance))


def _stein_sums(
    scores: Array, rows: Array, bandwidth: float | Scalar, kernel: Callable[[Scalar], Scalar]
) -> tuple[Array, Scalar]:
    """Returns the sum of h over the other rows for each row, and the sum of all h^2."""
    n, d = rows.shape
    slope = jax.grad(kernel)

    def pair(t: Scalar) -> tuple[Scalar, Scalar, Scalar]:
        return kernel(t), slope(t) / bandwidth**2, jax.grad(slope)(t) / bandwidth**4

    def row(i: Array) -> tuple[Scalar, Scalar]:
        gaps = rows[i][None, :] - rows
        squared = jnp.sum(gaps**2, -1)
        f, df, ddf = jax.vmap(pair)(squared / bandwidth**2)
        pull = jnp.sum(gaps * (scores - scores[i][None, :]), -1)
        h = f * (scores @ scores[i]) + 2 * df * (pull - d) - 4 * squared * ddf
        h = jnp.where(jnp.arange(n) == i, 0.0, h)
        return jnp.sum(h), jnp.sum(h**2)

    sums, squares = jax.lax.map(row, jnp.arange(n), batch_size=min(64, n))
    return sums, jnp.sum(squares)
