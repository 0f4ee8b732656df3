"""Fidelity of samples through any feature function; the figure is named after it.

A Frechet distance is biased upward by O(1/n): compare it only with one at the same n,
and say n beside it.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def frechet_distance(x: Float[ndarray, "n d"], y: Float[ndarray, "m d"]) -> float:
    """The Frechet distance between Gaussians fitted to two sets of features.

        |mu_x - mu_y|^2 + tr(C_x + C_y - 2 (C_x^1/2 C_y C_x^1/2)^1/2)

    in float64, covariances with n - 1; singular covariances are welcome.

    Args:
        x: features of the first set, at least 2 rows.
        y: features of the second set, at least 2 rows.

    Raises:
        ValueError: for fewer than 2 rows, or features that are not finite.

    References:
        Dowson & Landau, The Frechet distance between multivariate normal
        distributions, 1982; with Inception features: arXiv:1706.08500.
    """
    for features in (x, y):
        if features.shape[0] < 2 or not np.isfinite(features).all():
            raise ValueError(
                f"`frechet_distance` got {features.shape[0]} rows of features, finite: "
                f"{bool(np.isfinite(features).all())}; give at least 2 finite rows."
            )
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    cov_x, cov_y = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    root_x = _square_root(cov_x)
    cross = np.linalg.eigvalsh(root_x @ cov_y @ root_x)
    cross_trace = np.sum(np.sqrt(np.maximum(cross, 0.0)))
    mean_term = np.sum((x.mean(0) - y.mean(0)) ** 2)
    return float(mean_term + np.trace(cov_x) + np.trace(cov_y) - 2 * cross_trace)


def _square_root(matrix: Float[ndarray, "d d"]) -> Float[ndarray, "d d"]:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
