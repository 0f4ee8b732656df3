"""Likelihoods by probability flow and by variational bound, against closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ebm_jax import likelihood, noise, samplers
from ebm_jax.data import dequantize, to_uint8
from tests.gaussian_data import (
    CENTRES,
    MEAN,
    SPREAD,
    STD,
    WEIGHTS,
    gaussian_denoiser,
    gaussian_flow,
    mixture_denoiser,
)
from tests.statistics import assert_mean

ENDS = {"sigma_min": 1e-3, "sigma_max": 1e4}


@pytest.fixture(autouse=True)
def _standard_promotion():
    """diffrax is not clean under strict promotion of types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def mixture_logpdf(x, sigma=1e-3):
    scale = np.hypot(SPREAD, sigma)
    parts = [w * stats.norm.pdf(x, m, scale) for w, m in zip(WEIGHTS, CENTRES, strict=True)]
    return np.log(sum(parts)).sum()


def correlated_denoiser(x, sigma):
    """Of N(0, C), C not diagonal, so that probes disagree."""
    covariance = jnp.array([[1.0, 0.6, 0.0], [0.6, 2.0, -0.3], [0.0, -0.3, 0.5]])
    return covariance @ jnp.linalg.solve(covariance + sigma**2 * jnp.eye(3), x)


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3, 1)])
def test_log_density_of_gaussian_data_is_exact(shape):
    """Within 1e-3 nats a dimension."""
    x = jnp.asarray(np.random.default_rng(0).normal(MEAN, 1.5 * STD, shape), jnp.float32)
    found = jax.jit(lambda x: likelihood.flow_log_density(gaussian_denoiser, x, **ENDS))(x)
    truth = stats.norm.logpdf(x, MEAN, STD).sum()
    assert float(found.value) == pytest.approx(truth, abs=1e-3 * x.size)
    assert float(found.standard_error) == 0


@pytest.mark.parametrize("x", [[-1.5, 1.4], [0.0, 0.3], [2.0, -2.5]])
def test_log_density_of_a_mixture_is_exact(x):
    found = jax.jit(lambda x: likelihood.flow_log_density(mixture_denoiser, x, **ENDS))(
        jnp.asarray(x)
    )
    assert float(found.value) == pytest.approx(mixture_logpdf(np.asarray(x)), abs=1e-3 * 2)


def test_probes_are_unbiased_and_their_standard_error_is_right():
    """Over 400 keys: mean within five standard errors, z-scores of variance about one."""
    x = jnp.array([0.5, -1.0, 0.8])
    exact = likelihood.flow_log_density(correlated_denoiser, x, **ENDS).value

    def estimate(key):
        return likelihood.estimated_flow_log_density(
            correlated_denoiser, key, x, num_probes=20, **ENDS
        )

    found = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(0), 400))
    assert_mean(np.asarray(found.value), float(exact))
    z = (np.asarray(found.value) - float(exact)) / np.asarray(found.standard_error)
    assert 0.8 < np.mean(z**2) < 1.4  # Student's t of 19 degrees: 19/17, +- .08


def test_the_squared_standard_error_of_two_probes_is_the_variance_of_their_mean():
    """In the mean over 2,000 keys, which an error with ddof 0 would halve."""
    x = jnp.array([0.5, -1.0, 0.8])

    def estimate(key):
        return likelihood.estimated_flow_log_density(
            correlated_denoiser, key, x, num_probes=2, rtol=1e-4, atol=1e-4, **ENDS
        )

    found = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(5), 2000))
    errors = np.asarray(found.value, np.float64) - np.mean(found.value)
    assert_mean(np.asarray(found.standard_error) ** 2 - errors**2, 0.0)
    assert np.mean(errors**2) > 100 * np.float32(1e-3) ** 2  # there is something to compare


def test_an_example_that_is_not_finite_does_not_harm_the_others():
    """NaN for it alone, whether it starts as NaN or its denoiser becomes so on the way."""
    bad_above = 1e3

    def fails_above(x, sigma):
        return jnp.where(x[0] > bad_above, jnp.nan, gaussian_denoiser(x, sigma))

    x = jnp.array([[1.0, 2.0], [jnp.nan, 1.0], [0.5, 0.5], [900.0, 1.0], [jnp.inf, 0.0]])
    end = jax.vmap(lambda x: samplers.follow_flow(fails_above, x, 0.1, 10.0))(x)
    truth = gaussian_flow(np.asarray(x), 0.1, 10.0)
    np.testing.assert_allclose(end.x[jnp.array([0, 2])], truth[[0, 2]], rtol=1e-3)
    assert np.isnan(end.x[jnp.array([1, 3, 4])]).all()
    assert end.num_evaluations.max() < 2000  # nobody waits for 4,096 refused steps
    values = jax.vmap(lambda x: likelihood.flow_log_density(fails_above, x, **ENDS).value)(x)
    good = [stats.norm.logpdf(v, MEAN, STD).sum() for v in np.asarray(x)[[0, 2]]]
    assert np.isnan(values[jnp.array([1, 3, 4])]).all()
    assert np.isnan(values[0]) or abs(values[0] - good[0]) < 2e-3


def test_forward_mode_through_the_flow_is_refused_and_reverse_mode_is_right():
    x = jnp.array([2.0, -1.0])
    follow = lambda x: samplers.follow_flow(gaussian_denoiser, x, 0.1, 10.0).x  # noqa: E731
    with pytest.raises(ValueError, match="`follow_flow` got forward-mode differentiation"):
        jax.jvp(follow, (x,), (x,))
    scale = ((STD**2 + 100.0) / (STD**2 + 0.01)) ** 0.5
    by_start = jax.grad(lambda x: follow(x)[0])(x)
    np.testing.assert_allclose(by_start, [scale, 0.0], rtol=1e-3, atol=1e-3)
    density = lambda x: likelihood.flow_log_density(gaussian_denoiser, x, **ENDS).value  # noqa: E731
    with pytest.raises(ValueError, match="`flow_log_density` got forward-mode"):
        jax.jvp(density, (x,), (x,))


def test_probes_of_independent_coordinates_are_exact():
    x = jnp.array([0.5, -1.0, 0.8])
    exact = likelihood.flow_log_density(gaussian_denoiser, x, **ENDS)
    found = likelihood.estimated_flow_log_density(
        gaussian_denoiser, jax.random.key(1), x, num_probes=2, **ENDS
    )
    assert float(found.value) == pytest.approx(float(exact.value), abs=1e-3)
    assert float(found.standard_error) == pytest.approx(0, abs=1e-5)
    one = likelihood.estimated_flow_log_density(
        gaussian_denoiser, jax.random.key(1), x, num_probes=1, **ENDS
    )
    assert np.isnan(one.standard_error)  # a single probe cannot tell


@pytest.mark.parametrize(("sigma_from", "sigma_to"), [(10.0, 0.01), (0.01, 10.0), (3.0, 0.5)])
def test_the_flow_of_gaussian_data_only_rescales(sigma_from, sigma_to):
    x = jnp.array([[2.0, -1.0], [0.3, 4.0]])
    end = samplers.follow_flow(gaussian_denoiser, x, sigma_from, sigma_to)
    truth = gaussian_flow(np.asarray(x), sigma_from, sigma_to)
    np.testing.assert_allclose(end.x, truth, rtol=1e-3, atol=1e-3)


def test_the_flow_counts_its_evaluations():
    """The exact divergence calls twice, with and without derivative, for XLA to merge."""
    counts = []

    def counted(x, sigma):
        jax.debug.callback(lambda: counts.append(1))
        return mixture_denoiser(x, sigma)

    x, ends = jnp.array([2.0]), {"sigma_min": 0.1, "sigma_max": 5.0}
    probed = likelihood.estimated_flow_log_density
    for calls, follow in (
        (1, lambda: samplers.follow_flow(counted, x, 5.0, 0.1)),
        (2, lambda: likelihood.flow_log_density(counted, x, **ends)),
        (1, lambda: probed(counted, jax.random.key(0), x, num_probes=2, **ends)),
    ):
        counts.clear()
        end = follow()
        jax.effects_barrier()
        assert len(counts) == pytest.approx(calls * int(end.num_evaluations), abs=2 * calls)


@pytest.mark.parametrize(
    "density",
    [
        partial(likelihood.flow_log_density, mixture_denoiser),
        lambda x, **ends: likelihood.estimated_flow_log_density(
            mixture_denoiser, jax.random.key(0), x, num_probes=1, **ends
        ),
    ],
    ids=["exact", "estimated"],
)
def test_tolerances_are_1e_5_unless_told(density):
    told = {"rtol": 1e-5, "atol": 1e-5}
    found, same, *others = (
        float(density(jnp.array([0.7]), sigma_min=0.1, sigma_max=5.0, **tolerances).value)
        for tolerances in ({}, told, told | {"rtol": 2e-5}, told | {"atol": 2e-5})
    )
    assert found == same
    assert found not in others


def test_the_flow_from_a_draw_of_the_prior_is_a_sample_of_every_process():
    process = noise.vp()
    top = process.level(jnp.float32(process.t_max))
    x = process.draw_prior(jax.random.key(2), jnp.zeros(8000)) / process.alpha(jnp.float32(1.0))
    end = samplers.follow_flow(mixture_denoiser, x, top, 0.01).x
    assert np.mean(np.asarray(end) < 0) == pytest.approx(WEIGHTS[0], abs=0.02)


# ---- the bound


def bound(denoise_fn, x, sigmas, seed=0, n=2000):
    keys = jax.random.split(jax.random.key(seed), n)
    one = jax.vmap(
        lambda key: likelihood.variational_bound(denoise_fn, key, x, sigmas, likelihood.log_normal)
    )
    return np.asarray(sum(jax.jit(one)(keys)), np.float64)


@pytest.mark.parametrize("num_levels", [2, 10, 100])
def test_the_bound_of_gaussian_data_lies_below_the_likelihood_by_what_it_must(num_levels):
    """Its mean over the data is a sum of Kullback-Leibler divergences of Gaussians.

    With the model's reverse variance v and the posterior's mean D, all is Gaussian: the
    prior term, the expected squared errors s^2 sigma^2 / (s^2 + sigma^2) and the decoder's.
    """
    sigmas = noise.geometric(30.0, 0.05, num_levels)
    s = np.asarray(sigmas, np.float64)
    error = STD**2 * s**2 / (STD**2 + s**2)
    prior = (MEAN**2 + STD**2) / (2 * s[0] ** 2)
    diffusion = np.sum((1 / s[1:] ** 2 - 1 / s[:-1] ** 2) / 2 * error[:-1])
    v = s[-1] ** 2
    decoder = error[-1] / (2 * v) + 0.5 * np.log(2 * np.pi * v)

    def one(key):
        key_data, key_bound = jax.random.split(key)
        x = MEAN + STD * jax.random.normal(key_data, (2,))
        return jnp.stack(
            likelihood.variational_bound(
                gaussian_denoiser, key_bound, x, sigmas, likelihood.log_normal
            )
        )

    parts = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 20_000)))
    assert_mean(parts, 2 * np.array([prior, diffusion, decoder]))
    truth = -2 * stats.norm(MEAN, STD).entropy()
    assert -parts.sum(1).mean() < truth


def test_the_decoder_is_given_the_example_the_denoised_lowest_level_and_its_noise():
    """D(y, sigma) = 3 sigma, whatever y is; levels 4, 2 and 1/2."""
    x, sigmas = jnp.array([0.3, -0.7]), jnp.array([4.0, 2.0, 0.5])
    parts = likelihood.variational_bound(
        lambda y, sigma: jnp.full_like(y, 3 * sigma), jax.random.key(0), x, sigmas,
        lambda x, mean, std: jnp.sum(x + 10 * mean) + 100 * std,
    )  # fmt: skip
    assert float(parts.decoder) == pytest.approx(-(-0.4 + 30.0 + 50.0))
    errors = [(0.3 - 3 * s) ** 2 + (-0.7 - 3 * s) ** 2 for s in (4.0, 2.0)]
    weights = [(1 / 4 - 1 / 16) / 2, (4 - 1 / 4) / 2]
    assert float(parts.diffusion) == pytest.approx(np.dot(weights, errors), rel=1e-5)


def test_the_bound_of_each_example_lies_below_its_likelihood_and_nears_it():
    """Of a mixture, 1,000 levels: below log p(x), and by less than .06 nats a dimension."""
    sigmas = noise.geometric(50.0, 0.02, 1000)
    for x in ([-1.5], [0.2], [1.8]):
        values = -bound(mixture_denoiser, jnp.asarray(x), sigmas)
        truth = mixture_logpdf(np.asarray(x))
        error = values.std() / np.sqrt(len(values))
        assert values.mean() < truth + 5 * error
        assert values.mean() > truth - 0.06 - 5 * error


@pytest.mark.parametrize("std", [0.001, 0.05, 3.0])
def test_a_discretized_normal_is_a_law_on_256_values(std):
    pixels = jnp.linspace(-1.0, 1.0, 256)
    for mean in (-1.2, -0.999, 0.3, 0.99):
        law = jnp.float32([mean, std])
        one = jax.vmap(likelihood.log_discretized_normal, (0, None, None))
        log_prob = one(pixels, *law)
        assert np.exp(np.asarray(log_prob, np.float64)).sum() == pytest.approx(1, abs=1e-4)
    near = pixels[150:180].reshape(5, 6)  # independent pixels: logarithms add up
    whole = likelihood.log_discretized_normal(near, jnp.full((5, 6), 0.3), jnp.float32(std))
    apart = [one(row, jnp.float32(0.3), jnp.float32(std)) for row in near]
    np.testing.assert_allclose(whole, np.sum(apart), rtol=1e-5)
    inner = likelihood.log_discretized_normal(pixels[100], jnp.float32(0.3), jnp.float32(std))
    ends = float(pixels[100]) + np.array([1, -1]) / 255
    truth = -np.subtract(*stats.norm.logcdf(ends, 0.3, std)[::-1])
    truth = stats.norm.logcdf(ends[0], 0.3, std) + np.log(-np.expm1(-truth))
    assert float(inner) == pytest.approx(truth, rel=2e-3)


# ---- the door


def test_dequantized_pixels_fill_their_cells_and_come_back():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    draw = jax.vmap(lambda key: dequantize(key, pixels))
    x = np.asarray(draw(jax.random.split(jax.random.key(4), 2000)), np.float64)
    np.testing.assert_array_equal(to_uint8(x[0].astype(np.float32)), pixels)
    unit = (2 * pixels.astype(np.float64) - 255) / 255
    assert_mean(x, unit)
    assert_mean((x - unit) ** 2, np.full((16, 16), (2 / 255) ** 2 / 12))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: likelihood.flow_log_density(
                gaussian_denoiser, jnp.zeros(2), sigma_min=2.0, sigma_max=1.0
            ),
            "`flow_log_density` got the range 2.0 to 1.0",
        ),
        (
            lambda: likelihood.estimated_flow_log_density(
                gaussian_denoiser, jax.random.key(0), jnp.zeros(2), num_probes=0, **ENDS
            ),
            "got num_probes=0",
        ),
        (
            lambda: bound(gaussian_denoiser, jnp.zeros(2), jnp.ones(1)),
            r"`variational_bound` got sigmas of shape \(1,\)",
        ),
        (
            lambda: samplers.follow_flow(gaussian_denoiser, jnp.zeros(2), 0.0, 1.0),
            "`follow_flow` got sigma_from=0.0",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
