"""Metrics against closed forms of Gaussians and scipy on the same samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist, pdist

from ebm_jax.metrics import frechet_distance, median_distance, nearest_distance, squared_mmd
from tests.statistics import assert_mean


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# ---- discrepancy


def mean_kernel(distance, variance, bandwidth, d):
    """E exp(-|u|^2 / (2 b^2)) for u ~ N(distance, variance I): a convolution of Gaussians."""
    total = bandwidth**2 + variance
    return (bandwidth**2 / total) ** (d / 2) * np.exp(-(distance**2) / (2 * total))


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (0.8, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 7)])
def test_squared_mmd_of_gaussians_has_the_closed_form_mean(offset, scale, n, m):
    """Of N(0, I) and N(offset, scale^2 I) in the plane: zero where they agree, without bias."""
    bandwidth = 1.3

    def estimate(key):
        key_x, key_y = jax.random.split(key)
        x = jax.random.normal(key_x, (n, 1, 2))
        y = offset + scale * jax.random.normal(key_y, (m, 1, 2))
        return squared_mmd(x, y, bandwidth=bandwidth)

    values = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(0), 20_000))
    expected = (
        mean_kernel(0, 2, bandwidth, 2)
        + mean_kernel(0, 2 * scale**2, bandwidth, 2)
        - 2 * mean_kernel(np.sqrt(2) * offset, 1 + scale**2, bandwidth, 2)
    )
    assert_mean(values, expected)


def test_squared_mmd_is_the_u_statistic_over_many_rows():
    x, y, b = normals(150, 3), normals(70, 3, seed=1) + 0.5, 0.9
    within = [np.mean(np.exp(-(pdist(z) ** 2) / (2 * b**2))) for z in (x, y)]
    across = np.mean(np.exp(-(cdist(x, y) ** 2) / (2 * b**2)))
    value = squared_mmd(jnp.float32(x), jnp.float32(y), bandwidth=b)
    np.testing.assert_allclose(value, sum(within) - 2 * across, rtol=1e-4)


@pytest.mark.parametrize("n", [2, 3, 150])
def test_median_distance_is_that_of_distinct_pairs(n):
    x = normals(n, 2, 3)
    expected = np.median(pdist(x.reshape(n, -1)))
    np.testing.assert_allclose(median_distance(jnp.float32(x)), expected, rtol=1e-5)


@pytest.mark.parametrize(("n", "m"), [(3, 5), (150, 40)])
def test_nearest_distance_is_that_of_every_row_to_the_reference(n, m):
    x, reference = normals(n, 2, 2), normals(m, 2, 2, seed=1)
    expected = cdist(x.reshape(n, -1), reference.reshape(m, -1)).min(1)
    value = nearest_distance(jnp.float32(x), jnp.float32(reference))
    np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize(("n", "m"), [(1, 5), (5, 1)])
def test_discrepancies_need_two_rows(n, m):
    with pytest.raises(ValueError, match=f"`squared_mmd` got samples of {n} and {m} rows"):
        squared_mmd(jnp.ones((n, 2)), jnp.ones((m, 2)), bandwidth=1.0)
    with pytest.raises(ValueError, match="`median_distance` got 1 rows"):
        median_distance(jnp.ones((1, 2)))
    two = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(median_distance(two), 5.0)
    np.testing.assert_allclose(squared_mmd(two, two, bandwidth=5.0), np.exp(-0.5) - 1, rtol=1e-5)


# ---- fidelity


def whitened(n, d, seed):
    """n rows whose sample mean is 0 and whose covariance, with n - 1, is exactly I."""
    rows = normals(n, d, seed=seed)
    q, _ = np.linalg.qr(rows - rows.mean(0))
    return q * np.sqrt(n - 1)


def with_law(mean, covariance, n, seed):
    """n rows with exactly this mean and covariance, in the sense of a sample."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return mean + whitened(n, len(covariance), seed) @ root.T


def test_frechet_distance_of_independent_gaussians_is_a_sum_over_coordinates():
    """sum (m_i - m'_i)^2 + (s_i - s'_i)^2 for diagonal covariances s^2 and s'^2."""
    m1, s1 = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.3, 2.0])
    m2, s2 = np.array([0.0, 1.0, 2.5]), np.array([0.5, 0.9, 2.0])
    x, y = with_law(m1, np.diag(s1**2), 10, 0), with_law(m2, np.diag(s2**2), 7, 1)
    expected = np.sum((m1 - m2) ** 2 + (s1 - s2) ** 2)
    np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-9)


@pytest.mark.parametrize("rank", [5, 2])
def test_frechet_distance_is_scipys_for_covariances_that_do_not_commute(rank):
    """Also where they are singular, as with fewer rows than features."""
    mix = normals(2, 5, rank)
    cov_x, cov_y = (a @ a.T for a in mix)
    x, y = with_law(np.zeros(5), cov_x, 30, 0), with_law(np.full(5, 0.3), cov_y, 40, 1)
    assert np.abs(cov_x @ cov_y - cov_y @ cov_x).max() > 1
    blur = 1e-9 * np.eye(5)  # scipy's square root fails on singular products
    cross = np.trace(sqrtm((cov_x + blur) @ (cov_y + blur)).real)
    expected = 5 * 0.3**2 + np.trace(cov_x) + np.trace(cov_y) - 2 * cross
    np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-5, atol=1e-3)


def test_frechet_distance_is_zero_to_itself_and_works_in_float64():
    """Features far from 0 lose their variance in float32 when it is not subtracted first."""
    x = with_law(np.full(3, 1000.0), np.diag([1e-4, 1e-2, 1.0]), 50, 0)
    assert abs(frechet_distance(x, x)) < 1e-6
    moved = x.astype(np.float32) + np.float32(2.0)
    np.testing.assert_allclose(frechet_distance(x.astype(np.float32), moved), 12.0, rtol=1e-4)


def test_frechet_distance_takes_a_single_feature():
    x, y = with_law(np.zeros(1), np.eye(1), 9, 0), with_law(np.ones(1), 4 * np.eye(1), 5, 1)
    np.testing.assert_allclose(frechet_distance(x, y), 1.0 + (1 - 2) ** 2, rtol=1e-9)
    assert frechet_distance(x[:2], x[:2]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((1, 2)), np.ones((3, 2)), "got 1 rows of features, finite: True"),
        (np.ones((3, 2)), np.ones((1, 2)), "got 1 rows of features, finite: True"),
        (np.full((3, 2), np.nan), np.ones((3, 2)), "got 3 rows of features, finite: False"),
        (np.ones((3, 2)), np.full((4, 2), np.inf), "got 4 rows of features, finite: False"),
    ],
)
def test_frechet_distance_refuses_features_it_cannot_fit(x, y, message):
    with pytest.raises(ValueError, match=f"`frechet_distance` {message}"):
        frechet_distance(x, y)
