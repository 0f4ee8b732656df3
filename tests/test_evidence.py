"""Quadrature on a grid against Gaussians, whose integrals are closed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from ebm_jax import evidence

MEAN_P, SCALE_P = np.array([0.5, -1.0]), np.array([0.6, 1.0])
MEAN_Q, SCALE_Q = np.array([-0.3, 0.2]), np.array([1.1, 0.8])


def energy(mean, scale, shift=0.0):
    return lambda x: 0.5 * jnp.sum(((x - jnp.float32(mean)) / jnp.float32(scale)) ** 2) + shift


def gaussian_kl():
    """KL(N(m, s^2) || N(m', s'^2)), summed over independent coordinates."""
    ratio = SCALE_P / SCALE_Q
    return np.sum(0.5 * (ratio**2 + ((MEAN_P - MEAN_Q) / SCALE_Q) ** 2 - 1) - np.log(ratio))


def test_grid_holds_the_midpoints_of_its_cells_first_coordinate_slowest():
    expected = [[a, b] for a in (-2, 0, 2) for b in (-2, 0, 2)]
    np.testing.assert_allclose(evidence.square_grid(3.0, 3), expected, atol=1e-6)
    np.testing.assert_allclose(evidence.square_grid(3.0, 1), [[0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"num_points": 90}])
def test_log_z_of_a_gaussian_is_closed(options):
    value = evidence.log_z_on_grid(energy(MEAN_P, SCALE_P, shift=3.0), half_width=8.0, **options)
    np.testing.assert_allclose(value, np.log(2 * np.pi * SCALE_P.prod()) - 3.0, atol=1e-4)


def test_log_z_of_a_skewed_law_is_scipys():
    """exp(-x - exp(-x) - y^4), neither symmetric nor Gaussian: 1 times 2 Gamma(5/4)."""
    value = evidence.log_z_on_grid(
        lambda x: x[0] + jnp.exp(-x[0]) + x[1] ** 4, half_width=20.0, num_points=500
    )
    expected = integrate.quad(lambda y: np.exp(-(y**4)), -5, 5)[0]
    np.testing.assert_allclose(value, np.log(expected), atol=1e-3)


def test_log_z_counts_only_the_mass_on_the_square():
    value = evidence.log_z_on_grid(energy([0.0, 0.0], [1.0, 1.0]), half_width=1.0)
    inside = 2 * stats.norm.cdf(1.0) - 1
    np.testing.assert_allclose(value, np.log(2 * np.pi * inside**2), atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_points": 90}])
def test_log_density_is_the_normalised_gaussians_at_the_points_of_the_grid(options):
    value = evidence.log_density_on_grid(energy(MEAN_P, SCALE_P, 3.0), half_width=8.0, **options)
    grid = np.asarray(evidence.square_grid(8.0, options.get("num_points", 400)), np.float64)
    expected = stats.norm.logpdf(grid, MEAN_P, SCALE_P).sum(-1)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"num_points": 90}])
def test_kl_of_gaussians_is_closed_and_not_symmetric(options):
    p, q = energy(MEAN_P, SCALE_P, shift=3.0), energy(MEAN_Q, SCALE_Q, shift=-1.0)
    value = evidence.kl_on_grid(p, q, half_width=8.0, **options)
    np.testing.assert_allclose(value, gaussian_kl(), rtol=1e-3)
    np.testing.assert_allclose(evidence.kl_on_grid(p, p, half_width=8.0, **options), 0, atol=1e-5)


def uniform(x, *, high):
    """The energy of the uniform law on 0 < x_0 < high: infinite elsewhere."""
    return jnp.where((x[0] > 0) & (x[0] < high), 0.0, jnp.inf)


def test_kl_is_infinite_only_where_the_model_misses_mass():
    narrow, wide = (lambda x: uniform(x, high=1.0)), (lambda x: uniform(x, high=2.0))
    kl = lambda p, q: evidence.kl_on_grid(p, q, half_width=4.0, num_points=80)  # noqa: E731
    np.testing.assert_allclose(kl(narrow, wide), np.log(2.0), rtol=1e-4)
    assert kl(wide, narrow) == np.inf


@pytest.mark.parametrize(("half_width", "num_points"), [(0.0, 3), (-1.0, 3), (1.0, 0)])
def test_grids_that_are_empty_are_refused_by_name_and_value(half_width, num_points):
    message = f"`square_grid` got half_width={half_width}, num_points={num_points}"
    with pytest.raises(ValueError, match=message):
        evidence.square_grid(half_width, num_points)


def test_evidence_is_differentiable_in_the_model():
    """d log Z / d theta = -E[dE / d theta]: for E = a |x|^2 / 2 it is -1 / a, d = 2."""
    slope = jax.grad(
        lambda a: evidence.log_z_on_grid(lambda x: a * jnp.sum(x**2) / 2, half_width=8.0)
    )(2.0)
    np.testing.assert_allclose(slope, -1 / 2.0, rtol=1e-3)
