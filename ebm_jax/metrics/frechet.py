"""Frechet distances between Gaussians fitted to features: FID, when they are Inception's.

    |mu_x - mu_y|^2 + tr C_x + tr C_y - 2 tr (C_x^1/2 C_y C_x^1/2)^1/2

No square root of a matrix is needed. With any factors C_x = A^T A and C_y = B^T B the last
trace is the sum of the singular values of A B^T, the square roots of the eigenvalues of a
symmetric matrix. A is a Cholesky factor; the centered rows themselves over sqrt(n - 1) where
there are no more of them than features, so that a singular covariance loses no digits to
its zeros; and eigenvectors where a covariance of many rows is singular all the same.

The distance of two samples is biased upward by O(1/n): compare it with one at the same n
only, and say n beside it; or take `infinite_frechet_distance`.
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
    """A mean, and a factor of the covariance: C = factor^T factor."""

    mean: Float[ndarray, " d"]
    factor: Float[ndarray, "r d"]


def frechet_distance(x: Features, y: Features) -> float:
    """The Frechet distance between Gaussians fitted to two sets of features.

    In float64, covariances with n - 1; singular covariances are welcome. Features that
    come in a stream go through `moments` and `frechet_distance_of_moments`.

    Args:
        x: features of the first set, at least 2 rows.
        y: features of the second set, at least 2 rows.

    Raises:
        ValueError: for fewer rows, two widths, or features that are not finite.

    References:
        Dowson & Landau, The Frechet distance between multivariate normal
        distributions, 1982; with Inception features: arXiv:1706.08500.
    """
    check_rows("frechet_distance", x, y, least=2)
    return _distance(_fitted("frechet_distance", x), _fitted("frechet_distance", y))


def frechet_distance_of_moments(a: Moments, b: Moments) -> float:
    """`frechet_distance` from the moments of both sets.

    Raises:
        ValueError: for moments of two widths.
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
    """The Frechet distance that infinitely many rows would have, by a line in 1/n.

    FID at size n is FID at infinity + c / n + O(1/n^2). It is measured on random subsets
    of `num_sizes` sizes, evenly from `smallest` of the rows to all of them, and the least
    squares line is read off at 1/n = 0. Features on both sides shrink by the same share,
    so that the bias of both goes; moments of a reference set stay as they are.

    Args:
        key: PRNG key of the subsets.
        x: features of the samples.
        y: features of the reference set, or its moments.
        num_sizes: points of the line, at least 3.
        smallest: the smallest subset, as a share of the rows. The line holds where that
            is several times as many rows as features.

    Returns:
        The value at infinity, and its standard error by the scatter of the points about
        the line: subsets share rows, so that what other samples would change is not in it.

    Raises:
        ValueError: for what `frechet_distance` refuses, subsets below 2 rows, or too few
            sizes.

    References:
        Chong & Forsyth, arXiv:1911.07023.
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
    """Of a random share of the rows, which are never copied all at once."""
    n, d = features.shape
    index = rng.permutation(n)[: round(share * n)]
    if len(index) <= d:
        return _fitted(name, features[index])
    blocks = range(0, len(index), BLOCK)
    return _factored(moments_for(name, (features[index[i : i + BLOCK]] for i in blocks)))


def _factored(moments: Moments) -> _Gaussian:
    """By Cholesky; by eigenvectors, without those of eigenvalue 0, if that breaks down."""
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
    """Where the least squares line through the points crosses x = 0."""
    spread = np.sum((x - x.mean()) ** 2)
    slope = np.sum((x - x.mean()) * (y - y.mean())) / spread
    value = y.mean() - slope * x.mean()
    variance = np.sum((y - value - slope * x) ** 2) / (len(x) - 2)
    error = np.sqrt(variance * (1 / len(x) + x.mean() ** 2 / spread))
    return Estimate(float(value), float(error))
