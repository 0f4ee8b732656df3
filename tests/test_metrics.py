"""Distances against closed forms of Gaussians and scipy on the same samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from ebm_jax.metrics import median_distance, memorization, nearest_distance, squared_mmd
from tests.statistics import assert_mean


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


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
    with pytest.raises(ValueError, match="`median_distance` got 1 rows: give at least 2"):
        median_distance(jnp.ones((1, 2)))
    two = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(median_distance(two), 5.0)
    np.testing.assert_allclose(squared_mmd(two, two, bandwidth=5.0), np.exp(-0.5) - 1, rtol=1e-5)


def test_memorization_is_a_ratio_of_medians_and_zero_for_copies():
    train, samples, held_out = (normals(n, 2, 3, seed=n) for n in (60, 31, 40))
    near, far = (
        np.median(cdist(x.reshape(len(x), -1), train.reshape(60, -1)).min(1))
        for x in (samples, held_out)
    )
    value = memorization(*map(jnp.float32, (samples, held_out, train)))
    np.testing.assert_allclose(value, [near, far, near / far], rtol=1e-5)
    assert memorization(*map(jnp.float32, (train[:9], held_out, train))).ratio == 0
    with pytest.raises(ValueError, match="`memorization` got samples of 0 and 60 rows"):
        memorization(*map(jnp.float32, (samples[:0], held_out, train)))
