"""A Gaussian fitted to examples, against scipy on the same moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from ebm_jax import likelihood, targets
from ebm_jax.calculus import score_from_energy
from tests.statistics import assert_mean


def examples(d, n=50):
    """Correlated and off center, with scales from 0.2 to 5."""
    rng = np.random.default_rng(d)
    factor = np.geomspace(0.2, 5, d)[:, None] * (np.eye(d) + 0.5 * rng.normal(size=(d, d)))
    return jnp.float32(rng.normal(size=(n, d)) @ factor.T + np.linspace(-2, 3, d))


@pytest.mark.parametrize("d", [1, 2, 7])
@pytest.mark.parametrize("sigma", [0.0, 0.6])
def test_density_and_score_are_those_of_the_sample_moments(d, sigma):
    """Divided by n, not n - 1; smoothing adds sigma^2 to the diagonal."""
    x = examples(d)
    points = np.asarray(x, np.float64)
    covariance = (points - points.mean(0)).T @ (points - points.mean(0)) / len(points)
    law = multivariate_normal(points.mean(0), covariance + sigma**2 * np.eye(d))
    target = targets.fitted_gaussian(x)
    if sigma:
        target = target.smoothed(sigma)
    np.testing.assert_allclose(
        -jax.vmap(target.energy)(x) - target.log_z, np.atleast_1d(law.logpdf(points)), rtol=2e-4
    )
    scores = jax.vmap(target.score)(x)
    expected = np.linalg.solve(law.cov_object.covariance, (points.mean(0) - points).T).T
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)
    by_autodiff = jax.vmap(score_from_energy(target.energy))(x)
    np.testing.assert_allclose(scores, by_autodiff, rtol=1e-3, atol=1e-3)


def test_draws_have_the_moments_of_the_examples():
    x = examples(3)
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = np.asarray(jax.jit(jax.vmap(targets.fitted_gaussian(x).draw))(keys), np.float64)
    points = np.asarray(x, np.float64)
    centered, mean = points - points.mean(0), points.mean(0)
    assert_mean(draws, mean)
    products = (draws - mean)[:, :, None] * (draws - mean)[:, None, :]
    assert_mean(products, centered.T @ centered / len(points))


def test_log_z_is_that_of_quadrature():
    target = targets.fitted_gaussian(jnp.float32(np.random.default_rng(0).normal(size=(30, 2))))
    log_z = jax.jit(lambda: likelihood.log_z_on_grid(target.energy, half_width=8.0))()
    np.testing.assert_allclose(log_z, target.log_z, atol=1e-4)


@pytest.mark.parametrize(
    "x",
    [
        np.ones((1, 2)),
        np.random.default_rng(0).normal(size=(5, 6)),
        np.random.default_rng(0).normal(size=(100, 1)) * [1.0, 3.0] + [0.0, 1.0],
    ],
    ids=["one example", "fewer than entries", "entries on a line"],
)
def test_examples_that_span_no_volume_are_refused(x):
    with pytest.raises(ValueError, match=r"covariance is singular .* give at least \d+ examples"):
        targets.fitted_gaussian(jnp.float32(x))


def test_examples_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="2 of 4 examples that are not finite"):
        targets.fitted_gaussian(jnp.float32([[0.0, 1.0], [np.nan, 2.0], [1.0, 3.0], [np.inf, 0.0]]))
