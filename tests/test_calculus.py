"""Derivatives against polynomials and linear fields; conversions against Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import calculus, guidance
from tests.statistics import assert_mean, assert_variance

MATRIX = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)  # not symmetric
SYMMETRIC = MATRIX + MATRIX.T
POINT = jnp.array([0.3, -1.2, 0.7, 2.0, -0.4])
CHUNK_SIZES = (1, 2, 3, 5, 64)  # 2 and 3 do not divide the 5 dimensions

MEAN, SCALE = jnp.array([0.5, -1.0, 2.0]), 0.7  # Gaussian data of the conversions
SIGMAS = (0.05, 0.7, 3.0)


def quadratic(x):
    return 0.5 * x.ravel() @ SYMMETRIC @ x.ravel()


def quartic(x):
    return jnp.sum(x**4)


def linear(x):
    return (MATRIX @ x.ravel()).reshape(x.shape)


def linear_and_sine(x):
    return linear(x) + jnp.sin(x)


def denoise(x, sigma):
    """E[x_0 | x_0 + sigma n = x] for x_0 ~ N(MEAN, SCALE^2 I)."""
    return (SCALE**2 * x + sigma**2 * MEAN) / (SCALE**2 + sigma**2)


def score(x, sigma):
    return (MEAN - x) / (SCALE**2 + sigma**2)


def noise(x, sigma):
    return sigma * (x - MEAN) / (SCALE**2 + sigma**2)


def velocity(x, sigma):
    """a eps - b x_0 with b / a = sigma and a^2 + b^2 = 1, in expectation given x."""
    a, b = np.cos(np.arctan(sigma)), np.sin(np.arctan(sigma))
    return a * noise(x, sigma) - b * denoise(x, sigma)


def test_score_is_minus_the_gradient_of_the_energy():
    np.testing.assert_allclose(
        calculus.score_from_energy(quadratic)(POINT), -SYMMETRIC @ POINT, rtol=1e-5
    )


def test_hessian_vector_product_is_the_hessian_at_x_along_v():
    x, v = jnp.array([2.0, -3.0]), jnp.array([0.5, 1.0])
    hessian = np.array([[2 * x[1], 2 * x[0]], [2 * x[0], 0.0]])  # of x_0^2 x_1
    product = calculus.hessian_vector_product(lambda x: x[0] ** 2 * x[1], x, v)
    np.testing.assert_allclose(product, hessian @ v, rtol=1e-6)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_divergence_of_a_linear_field_is_its_trace_in_chunks_of_any_size(chunk_size):
    value = calculus.divergence(linear_and_sine, POINT, chunk_size=chunk_size)
    np.testing.assert_allclose(value, np.trace(MATRIX) + jnp.sum(jnp.cos(POINT)), rtol=1e-5)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_gradient_passes_through_the_divergence(chunk_size):
    gradient = jax.grad(lambda x: calculus.divergence(linear_and_sine, x, chunk_size=chunk_size))
    np.testing.assert_allclose(gradient(POINT), -jnp.sin(POINT), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_laplacian_and_its_gradient_are_those_of_a_quartic(chunk_size):
    value, gradient = jax.value_and_grad(
        lambda x: calculus.laplacian(quartic, x, chunk_size=chunk_size)
    )(POINT)
    np.testing.assert_allclose(value, 12 * jnp.sum(POINT**2), rtol=1e-5)
    np.testing.assert_allclose(gradient, 24 * POINT, rtol=1e-5)


def test_laplacian_of_a_quadratic_is_the_trace_for_an_example_of_any_shape():
    x = jnp.arange(4.0).reshape(2, 2, 1)
    hessian = SYMMETRIC[:4, :4]
    value = calculus.laplacian(lambda x: 0.5 * x.ravel() @ hessian @ x.ravel(), x)
    np.testing.assert_allclose(value, np.trace(hessian), rtol=1e-5)


def test_divergence_is_minus_the_laplacian_for_a_score():
    value = calculus.divergence(calculus.score_from_energy(quartic), POINT)
    np.testing.assert_allclose(value, -calculus.laplacian(quartic, POINT), rtol=1e-6)


def test_gradient_through_the_laplacian_takes_memory_by_the_chunk():
    def temporary_bytes(chunk_size):
        def gradient(weights, x):
            energy = lambda x: jnp.sum(jnp.tanh(weights @ x))  # noqa: E731
            return jax.grad(lambda x: calculus.laplacian(energy, x, chunk_size=chunk_size))(x)

        lowered = jax.jit(gradient).lower(jnp.ones((256, 128)), jnp.ones(128))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8) < temporary_bytes(128) / 4


@pytest.mark.parametrize(
    ("probe", "fourth_moment"), [(calculus.rademacher, 1.0), (calculus.gaussian, 3.0)]
)
def test_probes_have_independent_entries_of_mean_zero_and_variance_one(probe, fourth_moment):
    like = jnp.zeros((2, 1))
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = jax.jit(jax.vmap(lambda key: probe(key, like)))(keys).reshape(-1, 2)
    assert_mean(draws, 0.0)
    assert_mean(np.einsum("ni,nj->nij", draws, draws), np.eye(2))
    assert_mean(draws**4, fourth_moment)


def closed_form_variance(jacobian, num_probes=1, draw_probe=calculus.rademacher):
    """Of the mean of v . J v: 2 |S|_F^2 / k, S = (J + J^T) / 2, without its diagonal for signs."""
    half = (jacobian + jacobian.T) / 2
    if draw_probe is calculus.rademacher:
        half = half - np.diag(np.diag(half))
    return 2 * np.sum(half**2) / num_probes


@pytest.mark.parametrize(
    ("estimator", "function", "jacobian"),
    [
        (calculus.hutchinson_divergence, linear, MATRIX),
        (calculus.hutchinson_laplacian, quadratic, SYMMETRIC),
    ],
)
@pytest.mark.parametrize(
    "options", [{}, {"num_probes": 3}, {"num_probes": 2, "draw_probe": calculus.gaussian}]
)
def test_hutchinson_is_unbiased_with_the_closed_form_variance(
    estimator, function, jacobian, options
):
    estimate = jax.jit(jax.vmap(lambda key: estimator(function, key, POINT, **options)))
    draws = estimate(jax.random.split(jax.random.key(1), 20_000))
    assert_mean(draws, np.trace(jacobian))
    variance = closed_form_variance(jacobian, **options)
    assert_variance(draws, variance, mean=np.trace(jacobian))


def test_one_rademacher_probe_is_exact_for_a_diagonal_hessian_of_an_example_of_any_shape():
    x = POINT[:4].reshape(2, 2)
    value = calculus.hutchinson_laplacian(quartic, jax.random.key(3), x)
    np.testing.assert_allclose(value, 12 * jnp.sum(x**2), rtol=1e-5)


@pytest.mark.parametrize("number", [0, -1])
def test_numbers_of_chunks_and_probes_must_be_positive(number):
    with pytest.raises(ValueError, match=f"`divergence` got chunk_size={number}"):
        calculus.divergence(linear, POINT, chunk_size=number)
    with pytest.raises(ValueError, match=f"`hutchinson_divergence` got num_probes={number}"):
        calculus.hutchinson_divergence(linear, jax.random.key(0), POINT, num_probes=number)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize(
    ("convert", "given", "expected"),
    [
        (calculus.denoiser_from_score, score, denoise),
        (calculus.denoiser_from_noise, noise, denoise),
        (calculus.denoiser_from_velocity, velocity, denoise),
        (calculus.score_from_denoiser, denoise, score),
        (calculus.noise_from_denoiser, denoise, noise),
        (calculus.velocity_from_denoiser, denoise, velocity),
    ],
)
def test_conversions_hold_on_gaussian_data(convert, given, expected, sigma):
    x, sigma = jnp.array([1.0, 0.3, -2.0]), jnp.float32(sigma)
    np.testing.assert_allclose(
        convert(given)(x, sigma), expected(x, sigma), rtol=1e-4, atol=1e-4 / sigma
    )


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (calculus.score_from_denoiser, calculus.denoiser_from_score),
        (calculus.noise_from_denoiser, calculus.denoiser_from_noise),
        (calculus.velocity_from_denoiser, calculus.denoiser_from_velocity),
    ],
)
def test_conversions_come_back_for_any_denoiser(there, back):
    def any_denoiser(x, sigma):
        return jnp.tanh(x) / (1 + sigma) + sigma

    x, sigma = jnp.array([1.0, 0.3, -2.0]), jnp.float32(0.6)
    np.testing.assert_allclose(
        back(there(any_denoiser))(x, sigma), any_denoiser(x, sigma), rtol=1e-5, atol=1e-6
    )


def test_velocity_and_noisy_example_rotate_into_data_and_noise():
    """With z = a x: x_0 = a z - b v and eps = b z + a v (arXiv:2202.00512, appendix D)."""
    x, sigma = jnp.array([1.0, 0.3, -2.0]), jnp.float32(1.7)
    a, b = 1 / np.sqrt(1 + sigma**2), sigma / np.sqrt(1 + sigma**2)
    v = calculus.velocity_from_denoiser(denoise)(x, sigma)
    np.testing.assert_allclose(a * (a * x) - b * v, denoise(x, sigma), rtol=1e-5)
    np.testing.assert_allclose(b * (a * x) + a * v, noise(x, sigma), rtol=1e-4)


def test_a_clipped_score_is_the_score_inside_its_bound_and_the_bound_outside():
    field = guidance.clipped(lambda x: 2 * x, 1.0)
    np.testing.assert_allclose(
        field(jnp.array([0.1, -0.4, 3.0, -0.6])), [0.2, -0.8, 1.0, -1.0], rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"`clipped` got bound=0\.0"):
        guidance.clipped(lambda x: x, 0.0)
