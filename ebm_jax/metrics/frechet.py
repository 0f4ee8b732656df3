"""Frechet distances between Gaussians fitted to features: FID, when the features are Inception's.

    |mu_x - mu_y|^2 + tr C_x + tr C_y - 2 tr (C_x^1/2 C_y C_x^1/2)^1/2

No matrix square root is needed. With any factors C_x = A^T A and C_y = B^T B, the last trace
is the sum of the singular values of A B^T. They are computed as the square roots of the
eigenvalues of a symmetric matrix. The factor A is one of three:

- the Cholesky factor, if there are more rows than features;
- the centered rows divided by sqrt(n - 1), if there are not: the covariance is then singular,
  and this form loses no digits;
- eigenvectors, if the Cholesky factorization fails.

The distance between two samples is biased upward by O(1/n). Compare it only with distances at
the same n, and report n; or use `infinite_frechet_distance`.
"""

from typing import NamedTuple

import jax
import numpy as np
import scipy.linalg
from jaxtyping import Float
from numpy import ndarray

from ebm_jax.metrics.features import Features, check_finite, check_rows
from ebm_jax.metrics.moments import BLOCK, Moments, check_widths, moments_for
from ebm_jax.types import Estimate, PRNGKey


class _Gaussian(NamedTuple):
    """A Gaussian as its mean and a factor of its covariance, C = factor^T factor."""

    mean: Float[ndarray, " d"]
    factor: Float[ndarray, "r d"]


def frechet_distance(x: Features, y: Features) -> float:
    """Returns the Frechet distance between Gaussians fitted to two sets of features.

    This is FID when the features are Inception's. It is the squared distance that the
    literature reports. Computed in float64, with covariances normalized by n - 1, which may be
    singular. For features that arrive in batches, use `moments` and
    `frechet_distance_of_moments`.

    Args:
        x: features of the first set, (n, d), at least 2 rows.
        y: features of the second set, (m, d), at least 2 rows.

    Raises:
        ValueError: for fewer rows, sets of different widths, or features that are not finite.

    References:
        Dowson & Landau, The Frechet distance between multivariate normal
        distributions, 1982; with Inception features: arXiv:1706.08500.

    Examples:
        A shift by 3 in each of two dimensions gives |mu_x - mu_y|^2 = 18.

        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> x = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
        >>> round(metrics.frechet_distance(x, x + 3), 4)
        18.0
    """
    check_rows("frechet_distance", x, y, least=2)
    return _distance(_fitted("frechet_distance", x), _fitted("frechet_distance", y))


def frechet_distance_of_moments(a: Moments, b: Moments) -> float:
    """Returns the Frechet distance (FID) between two sets whose moments are known.

    Args:
        a: mean and covariance of the first set of features.
        b: mean and covariance of the second set.

    Raises:
        ValueError: for moments of different widths.

    Examples:
        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> a = metrics.Moments(1000, np.zeros(3), np.eye(3))
        >>> b = metrics.Moments(1000, np.zeros(3), 4 * np.eye(3))
        >>> round(metrics.frechet_distance_of_moments(a, b), 4)  # d (2 - 1)^2
        3.0
    """
    check_widths("frechet_distance_of_moments", a, b)
    return _distance(_factored(a), _factored(b))


def infinite_frechet_distance(
    key: PRNGKey,
    x: Features,
    y: Features | Moments,
    *,
    num_sizes: int = 15,
    smallest: float = 0.1,
) -> Estimate:
    """FID infinity: extrapolates the Frechet distance to infinitely many rows.

    FID at size n is FID at infinity + c / n + O(1/n^2). The distance is measured on random
    subsets of `num_sizes` sizes, evenly spaced from the share `smallest` of the rows to all of
    them. The result is the value at 1/n = 0 of a least-squares line. Features on both sides are
    cut to the same share, which removes the bias of both; moments of a reference set are used
    as they are.

    Args:
        key: PRNG key of the subsets.
        x: features of the samples, (n, d).
        y: features of the reference set, (m, d), or its moments.
        num_sizes: number of points on the line, at least 3.
        smallest: size of the smallest subset, as a share of the rows. The line fits well if
            the smallest subset has several times as many rows as there are features.

    Returns:
        The value at infinity and its standard error. The error comes from the scatter of the
        points about the line; since the subsets share rows, it does not include the variation
        between samples.

    Raises:
        ValueError: for arguments that `frechet_distance` rejects, subsets below 2 rows, or
            fewer than 3 sizes.

    References:
        Chong & Forsyth, arXiv:1911.07023.

    Examples:
        Two samples of one distribution: the distance at n = 500 is biased upward, the
        extrapolated one is near 0.

        >>> import jax
        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> x, y = np.random.default_rng(0).normal(size=(2, 500, 8))
        >>> value, error = metrics.infinite_frechet_distance(jax.random.key(0), x, y)
        >>> abs(value) < metrics.frechet_distance(x, y)
        True
    """
    name = "infinite_frechet_distance"
    sets = (x,) if isinstance(y, Moments) else (x, y)
    if num_sizes < 3 or not 0 < smallest < 1:
        raise ValueError(
            f"`{name}` got num_sizes={num_sizes} and smallest={smallest}: "
            "give at least 3 sizes, and a share between 0 and 1."
        )
    check_rows(name, *sets, least=int(np.ceil(2 / smallest)))
    if isinstance(y, Moments):
        check_rows(name, x, y.mean[None, :], least=1)
    reference = _factored(y) if isinstance(y, Moments) else None
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    shares = np.linspace(smallest, 1.0, num_sizes)
    distances = []
    for share in shares:
        fits = [_fitted_subset(name, rng, features, share) for features in sets]
        distances.append(_distance(fits[0], reference or fits[1]))
    return _intercept(1 / shares, np.array(distances))


def _fitted(name: str, features: Features) -> _Gaussian:
    """Returns the Gaussian of these features, in float64."""
    n, d = features.shape
    if n > d:
        return _factored(moments_for(name, features))
    rows = np.array(features, np.float64)
    with np.errstate(invalid="ignore"):
        mean = np.mean(rows, 0)
    check_finite(name, mean)
    rows -= mean
    return _Gaussian(mean, np.divide(rows, np.sqrt(n - 1), out=rows))


def _fitted_subset(
    name: str, rng: np.random.Generator, features: Features, share: float
) -> _Gaussian:
    """Returns the Gaussian of a random share of the rows, without copying them all at once."""
    n, d = features.shape
    index = rng.permutation(n)[: round(share * n)]
    if len(index) <= d:
        return _fitted(name, features[index])
    blocks = range(0, len(index), BLOCK)
    return _factored(moments_for(name, (features[index[i : i + BLOCK]] for i in blocks)))


def _factored(moments: Moments) -> _Gaussian:
    """Factors a covariance by Cholesky, or by its nonzero eigenvalues if that fails."""
    try:
        factor = scipy.linalg.cholesky(moments.covariance, check_finite=False)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(moments.covariance)
        kept = values > len(values) * np.finfo(np.float64).eps * np.max(np.abs(values))
        factor = np.sqrt(values[kept])[:, None] * vectors[:, kept].T
    return _Gaussian(moments.mean, factor)


def _distance(x: _Gaussian, y: _Gaussian) -> float:
    cross = x.factor @ y.factor.T
    gram = cross @ cross.T if len(cross) <= cross.shape[1] else cross.T @ cross
    cross_trace = np.sum(np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0.0)))
    traces = np.sum(x.factor**2) + np.sum(y.factor**2)
    return float(np.sum((x.mean - y.mean) ** 2) + traces - 2 * cross_trace)


def _intercept(x: Float[ndarray, " k"], y: Float[ndarray, " k"]) -> Estimate:
    """Returns the value at x = 0 of the least-squares line through the points."""
    spread = np.sum((x - x.mean()) ** 2)
    slope = np.sum((x - x.mean()) * (y - y.mean())) / spread
    value = y.mean() - slope * x.mean()
    variance = np.sum((y - value - slope * x) ** 2) / (len(x) - 2)
    error = np.sqrt(variance * (1 / len(x) + x.mean() ** 2 / spread))
    return Estimate(float(value), float(error))
