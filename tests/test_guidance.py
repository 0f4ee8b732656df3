"""Guided denoisers against the posteriors of Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import guidance, noise, samplers
from tests.gaussian_data import gaussian_denoiser
from tests.statistics import assert_mean

MEAN = np.array([0.5, -1.0, 0.2])
COVARIANCE = np.array([[1.0, 0.6, 0.0], [0.6, 2.0, -0.3], [0.0, -0.3, 0.5]])
MATRIX = np.array([[1.0, 0.5, 0.0], [0.0, -1.0, 2.0]])  # of a measurement
MEASURED, NOISE_STD = np.array([0.7, -0.4]), 0.3
SIGMAS = (0.05, 0.7, 5.0)
X = np.array([1.0, 0.3, -2.0])


def gaussian_of(mean, covariance):
    """The denoiser of N(mean, covariance)."""
    mean, covariance = jnp.float32(mean), jnp.float32(covariance)

    def denoise(x, sigma):
        gain = jnp.linalg.solve(covariance + sigma**2 * jnp.eye(len(mean)), x - mean)
        return mean + covariance @ gain

    return denoise


DENOISE = gaussian_of(MEAN, COVARIANCE)


def bayes(matrix, measured, noise_std):
    """Mean and covariance of x given matrix x + noise_std n = measured."""
    gain = COVARIANCE @ matrix.T
    gain = gain @ np.linalg.inv(matrix @ COVARIANCE @ matrix.T + noise_std**2 * np.eye(len(matrix)))
    return MEAN + gain @ (measured - matrix @ MEAN), COVARIANCE - gain @ matrix @ COVARIANCE


def measure(x):
    return jnp.float32(MATRIX) @ x


@pytest.mark.parametrize("sigma", SIGMAS)
def test_posterior_is_the_denoiser_of_the_gaussian_posterior(sigma):
    truth = gaussian_of(*bayes(MATRIX, MEASURED, NOISE_STD))
    ours = guidance.posterior(DENOISE, measure, jnp.float32(MEASURED), noise_std=NOISE_STD)
    x, sigma = jnp.float32(X), jnp.float32(sigma)
    np.testing.assert_allclose(ours(x, sigma), truth(x, sigma), rtol=2e-3, atol=2e-3)


def test_posterior_takes_ten_iterations_unless_told():
    """Of a measurement with 20 entries and noise too small for ten to converge."""
    scales = jnp.float32(np.geomspace(0.05, 5.0, 20))
    known = {"measure": lambda x: scales * x, "measured": jnp.ones(20), "noise_std": 1e-2}
    by_default, ten, eleven = (
        guidance.posterior(gaussian_denoiser, **known, **told)(jnp.zeros(20), jnp.float32(2.0))
        for told in ({}, {"num_iterations": 10}, {"num_iterations": 11})
    )
    np.testing.assert_array_equal(by_default, ten)
    assert np.abs(ten - eleven).max() > 1e-3


def test_samples_of_the_posterior_have_its_mean_and_covariance():
    ours = guidance.posterior(DENOISE, measure, jnp.float32(MEASURED), noise_std=NOISE_STD)
    process = noise.vp()
    times = noise.log_snr_times(process, 100)
    solver = samplers.dpm_solver_pp_2m(process)

    def one(key):
        return samplers.sample(solver, ours, key, jnp.zeros(3), times, final_denoise=True)

    x = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4000)), np.float64)
    mean, covariance = bayes(MATRIX, MEASURED, NOISE_STD)
    assert_mean(x, mean)
    assert_mean((x - mean)[:, :, None] * (x - mean)[:, None, :], covariance)


def log_prob(x, sigma):
    """log p(y | x_sigma = x) for y = a . x_0 + noise, up to a constant."""
    a = jnp.float32(MATRIX[0])
    spread = jnp.float32(COVARIANCE)
    posterior = spread - spread @ jnp.linalg.solve(spread + sigma**2 * jnp.eye(3), spread)
    variance = a @ posterior @ a + NOISE_STD**2
    return -((MEASURED[0] - a @ DENOISE(x, sigma)) ** 2) / (2 * variance)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_classifier_guidance_of_scale_1_is_bayes_rule(sigma):
    truth = gaussian_of(*bayes(MATRIX[:1], MEASURED[:1], NOISE_STD))
    x, sigma = jnp.float32(X), jnp.float32(sigma)
    ours = guidance.classifier_guided(DENOISE, log_prob)(x, sigma)
    np.testing.assert_allclose(ours, truth(x, sigma), rtol=2e-3, atol=2e-3)


def test_classifier_guidance_is_linear_in_its_scale():
    x, sigma = jnp.float32(X), jnp.float32(0.7)
    none, one, three = (
        guidance.classifier_guided(DENOISE, log_prob, scale=scale)(x, sigma)
        for scale in (0.0, 1.0, 3.0)
    )
    np.testing.assert_allclose(none, DENOISE(x, sigma), rtol=1e-6)
    np.testing.assert_allclose(three - none, 3 * (one - none), rtol=1e-4)


def test_classifier_free_guidance_is_the_geometric_mean_of_gaussians_of_one_width():
    """p_u^(1 - w) p_c^w of N(m_u, C) and N(m_c, C) is N(m_u + w (m_c - m_u), C)."""
    other = MEAN + np.array([1.0, -2.0, 0.5])
    x, sigma = jnp.float32(X), jnp.float32(0.7)
    for scale in (0.0, 0.5, 1.0, 4.0):
        ours = guidance.classifier_free_guided(gaussian_of(other, COVARIANCE), DENOISE, scale=scale)
        truth = gaussian_of(MEAN + scale * (other - MEAN), COVARIANCE)
        np.testing.assert_allclose(ours(x, sigma), truth(x, sigma), rtol=1e-4, atol=1e-5)


def test_guidance_acts_between_its_levels_alone_and_outside_evaluates_one_function():
    calls = []

    def weak(x, sigma):
        jax.debug.callback(lambda: calls.append(1))
        return 0.5 * x

    guided = jax.jit(
        guidance.classifier_free_guided(lambda x, _: 2.0 * x, weak, scale=3.0, interval=(0.5, 2.0))
    )
    x = jnp.array([1.0, -2.0])
    for sigma, factor, evaluated in ((0.4, 2.0, 0), (0.5, 5.0, 1), (2.0, 5.0, 1), (2.1, 2.0, 0)):
        calls.clear()
        found = guided(x, jnp.float32(sigma))
        jax.effects_barrier()
        np.testing.assert_allclose(found, factor * x, rtol=1e-6)  # .5 + 3 (2 - .5) = 5
        assert len(calls) == evaluated
    with pytest.raises(ValueError, match=r"got interval=\(2.0, 1.0\)"):
        guidance.classifier_free_guided(weak, weak, scale=2.0, interval=(2.0, 1.0))


@pytest.mark.parametrize("solver", [samplers.ddim, samplers.ancestral, samplers.edm])
def test_replacement_ends_on_what_is_known_and_is_exact_for_independent_pixels(solver):
    """Of independent pixels the others keep their own law: N(.5, .8^2)."""
    mask = jnp.array([1.0, 0.0, 1.0, 0.0])
    known = jnp.array([0.3, 9.0, -0.8, 9.0])
    ours = guidance.replaced(gaussian_denoiser, lambda x: mask * x, known)
    process = noise.vp()
    times = noise.log_snr_times(process, 400)

    def one(key):
        made = solver(process)
        return samplers.sample(made, ours, key, known, times, final_denoise=True)

    x = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 4000)), np.float64)
    np.testing.assert_allclose(x[:, ::2], np.tile(known[::2], (4000, 1)), atol=1e-5)
    assert_mean(x[:, 1::2], np.full(2, 0.5))
    assert_mean((x[:, 1::2] - 0.5) ** 2, np.full(2, 0.8**2))


def test_colorization_keeps_the_gray_of_the_known_image():
    rng = np.random.default_rng(0)
    known, guess = (jnp.asarray(rng.normal(size=(4, 5, 3)), jnp.float32) for _ in range(2))
    ours = guidance.replaced(lambda x, _: x, guidance.gray, known)(guess, jnp.float32(1.0))
    np.testing.assert_allclose(ours.mean(-1), known.mean(-1), atol=1e-6)
    colors = np.asarray(guess) - np.asarray(guess).mean(-1, keepdims=True)
    np.testing.assert_allclose(ours - ours.mean(-1, keepdims=True), colors, atol=1e-6)
    np.testing.assert_allclose(guidance.gray(guidance.gray(guess)), guidance.gray(guess), atol=1e-6)


def test_diffusion_posterior_adds_the_gradient_of_the_misfit():
    """Against numpy: D is affine, so J is the matrix C (C + sigma^2)^-1."""
    sigma, scale = 0.7, 0.4
    jacobian = COVARIANCE @ np.linalg.inv(COVARIANCE + sigma**2 * np.eye(3))
    denoised = MEAN + jacobian @ (X - MEAN)
    misfit = MEASURED - MATRIX @ denoised
    gradient = -jacobian.T @ MATRIX.T @ misfit / np.linalg.norm(misfit)
    ours = guidance.diffusion_posterior(DENOISE, measure, jnp.float32(MEASURED), scale=scale)
    expected = denoised - scale * sigma**2 * gradient
    np.testing.assert_allclose(ours(jnp.float32(X), jnp.float32(sigma)), expected, rtol=1e-3)


def test_diffusion_posterior_brings_samples_to_the_measurement():
    ours = guidance.diffusion_posterior(DENOISE, measure, jnp.float32(MEASURED), scale=10.0)
    process = noise.vp()
    times = noise.log_snr_times(process, 200)
    solver = samplers.ancestral(process)

    def misfit(denoise_fn):
        def one(key):
            x = samplers.sample(solver, denoise_fn, key, jnp.zeros(3), times, final_denoise=True)
            return jnp.linalg.norm(measure(x) - jnp.float32(MEASURED))

        return float(jnp.mean(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(2), 500))))

    assert misfit(ours) < misfit(DENOISE) / 5


def test_diffusion_posterior_is_finite_where_the_measurement_is_met():
    ours = guidance.diffusion_posterior(lambda x, _: x, lambda x: x, jnp.ones(2), scale=1.0)(
        jnp.ones(2), jnp.float32(1.0)
    )
    np.testing.assert_allclose(ours, 1.0)


def test_clamped_clips_the_denoised_example():
    ours = guidance.clamped(lambda x, sigma: 3 * x, -1.0, 0.5)
    x = jnp.array([-2.0, 0.1, 2.0])
    np.testing.assert_allclose(ours(x, jnp.float32(1.0)), [-1.0, 0.3, 0.5], rtol=1e-6)
    pixels = guidance.clamped(lambda x, sigma: 3 * x)
    np.testing.assert_allclose(pixels(x, jnp.float32(1.0)), [-1.0, 0.3, 1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: guidance.clamped(DENOISE, 1.0, 1.0), "`clamped` got the box 1.0 to 1.0"),
        (
            lambda: guidance.posterior(DENOISE, measure, jnp.ones(2), noise_std=0.0),
            "`posterior` got noise_std=0.0",
        ),
        (
            lambda: guidance.posterior(
                DENOISE, measure, jnp.ones(2), noise_std=1.0, num_iterations=0
            ),
            "`posterior` got num_iterations=0",
        ),
        (
            lambda: guidance.diffusion_posterior(DENOISE, measure, jnp.ones(2), scale=-1.0),
            "`diffusion_posterior` got scale=-1.0",
        ),
    ],
)
def test_numbers_out_of_range_are_refused_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
