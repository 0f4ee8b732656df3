"""Losses on Gaussian data, where minimum, minimizer and gradient have closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import noise
from ebm_jax.calculus import (
    noise_from_denoiser,
    score_from_denoiser,
    velocity_from_denoiser,
)
from ebm_jax.losses import (
    clean_prediction,
    denoising_score_matching,
    edm,
    likelihood_weighted,
    noise_conditional,
    uncertainty_weighted,
    velocity_prediction,
    weighted_denoising,
)
from ebm_jax.nets import precondition
from tests.statistics import assert_mean

MEAN, SCALE, SIGMA = 1.5, 0.7, 0.4  # of the data, and the noise level
TOTAL = SCALE**2 + SIGMA**2
N = 20_000
dimensions = pytest.mark.parametrize("d", [2, 10])


def score(x, sigma):
    """Of N(MEAN, SCALE^2 I) data smoothed by sigma."""
    return (MEAN - x) / (SCALE**2 + sigma**2)


def denoise(x, sigma):
    """E[x_0 | x_sigma = x] of the same data, from the conditional law of a Gaussian pair."""
    return MEAN + SCALE**2 / (SCALE**2 + sigma**2) * (x - MEAN)


def draws(loss, function, d, *extra, shape=None, seed=0):
    """The loss at N independent examples of the data."""

    def one(key):
        key_data, key_loss = jax.random.split(key)
        x = MEAN + SCALE * jax.random.normal(key_data, shape or (d,))
        return loss(function, key_loss, x, jnp.float32(SIGMA), *extra)

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), N))


@dimensions
def test_denoising_score_matching_at_its_minimum_has_the_closed_form_value(d):
    values = draws(denoising_score_matching, score, d)
    assert_mean(values, d / 2 * SCALE**2 / TOTAL)


@dimensions
def test_noise_conditional_at_its_minimum_has_the_closed_form_value(d):
    assert_mean(draws(noise_conditional, denoise, d), d / 2 * SCALE**2 / TOTAL)


@dimensions
def test_weighted_denoising_at_its_minimum_has_the_closed_form_value(d):
    weight = jnp.float32(3.7)
    values = draws(weighted_denoising, denoise, d, weight)
    assert_mean(values, weight / 2 * d * SCALE**2 * SIGMA**2 / TOTAL)


@dimensions
@pytest.mark.parametrize("sigma", [0.1, 3.0])
def test_edm_at_its_minimum_is_half_the_dimension_at_every_level(d, sigma):
    """For data of standard deviation sigma_data; the weight is what makes levels equal."""

    def one(key):
        key_data, key_loss = jax.random.split(key)
        x = MEAN + SCALE * jax.random.normal(key_data, (d,))
        return edm(denoise, key_loss, x, jnp.float32(sigma), sigma_data=SCALE)

    assert_mean(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), N)), d / 2)


def test_edm_weighs_the_raw_network_under_its_preconditioning_equally():
    """The loss is 1/2 |F - F*|^2 with F* = (x_0 - c_skip x) / c_out of arXiv:2206.00364."""
    x = jnp.array([0.3, -1.2, 0.8])
    noise = jax.random.normal(jax.random.key(3), x.shape)
    for sigma in (0.05, 0.7, 20.0):
        total = sigma**2 + SCALE**2
        noisy = x + sigma * noise
        target = (x - SCALE**2 / total * noisy) / (sigma * SCALE / total**0.5)
        denoise_fn = precondition.edm(lambda x, _: jnp.full_like(x, 0.4), sigma_data=SCALE)
        loss = edm(denoise_fn, jax.random.key(3), x, jnp.float32(sigma), sigma_data=SCALE)
        np.testing.assert_allclose(loss, 0.5 * np.sum((0.4 - target) ** 2), rtol=1e-4)


@dimensions
@pytest.mark.parametrize("factor", [-1.0, 0.5, 1.0, 1.5])
def test_gradient_in_the_scale_of_a_linear_score_vanishes_at_the_truth_alone(d, factor):
    """For c s(x) the mean loss is quadratic in c with slope (c - 1) d sigma^2 / (s^2 + sigma^2).

    So its minimizer is 1 in any dimension, and an inverted score climbs.
    """

    def slope(_, key, x, sigma):
        def loss(c):
            return denoising_score_matching(lambda x, s: c * score(x, s), key, x, sigma)

        return jax.grad(loss)(factor)

    assert_mean(draws(slope, None, d), (factor - 1) * d * SIGMA**2 / TOTAL)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_fitted_scale_of_a_linear_score_does_not_move_with_the_batch_size(batch_size):
    """The mean over batches of each batch's gradient vanishes at the true scale."""

    def slope(_, key, x, sigma):
        def loss(c):
            return denoising_score_matching(lambda x, s: c * score(x, s), key, x, sigma)

        return jax.grad(loss)(1.0)

    values = np.asarray(draws(slope, None, 2, seed=1))[: N // batch_size * batch_size]
    assert_mean(values.reshape(-1, batch_size).mean(1), 0.0)


@pytest.mark.parametrize(
    ("loss", "right", "inverted", "extra"),
    [
        (denoising_score_matching, score, lambda x, s: -score(x, s), ()),
        (noise_conditional, denoise, lambda x, s: 2 * x - denoise(x, s), ()),
        (weighted_denoising, denoise, lambda x, s: 2 * x - denoise(x, s), (jnp.float32(2.0),)),
    ],
)
def test_an_inverted_score_has_the_larger_loss(loss, right, inverted, extra):
    """D = x + sigma^2 s, so that -s belongs to 2 x - D."""
    assert draws(loss, right, 2, *extra).mean() < draws(loss, inverted, 2, *extra).mean()


@pytest.mark.parametrize("shape", [(3,), (4, 4, 1)])
@pytest.mark.parametrize("sigma", [0.05, 0.4, 6.0])
def test_noise_conditional_is_denoising_score_matching_of_its_score(shape, sigma):
    """For any denoiser and the same key, not only in expectation."""

    def any_denoiser(x, sigma):
        return jnp.tanh(x + 0.3) / (1 + sigma)

    x, sigma = jax.random.normal(jax.random.key(1), shape), jnp.float32(sigma)
    key = jax.random.key(2)
    by_denoiser = noise_conditional(any_denoiser, key, x, sigma)
    by_score = denoising_score_matching(
        score_from_denoiser(any_denoiser), jax.random.clone(key), x, sigma
    )
    np.testing.assert_allclose(by_denoiser, by_score, rtol=1e-4)


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_weighted_denoising_of_a_constant_is_half_the_weighted_square_of_its_error(weight):
    """D = x_0 + 2 whatever it sees: w / 2 * d * 4, with no noise in it."""
    x = jnp.array([1.0, -3.0, 0.5])
    value = weighted_denoising(
        lambda _, sigma: x + 2.0, jax.random.key(3), x, jnp.float32(0.2), jnp.float32(weight)
    )
    np.testing.assert_allclose(value, weight / 2 * 3 * 4, rtol=1e-6)


def test_losses_hand_the_level_to_the_network_as_it_is():
    x, sigma = jnp.ones(2), jnp.float32(0.4)
    seen = []

    def network(x, sigma):
        seen.append(float(sigma))
        return x

    denoising_score_matching(network, jax.random.key(0), x, sigma)
    noise_conditional(network, jax.random.key(1), x, sigma)
    weighted_denoising(network, jax.random.key(2), x, sigma, jnp.float32(1.0))
    assert seen == [pytest.approx(0.4)] * 3


def test_edm_takes_the_published_scale_of_the_data_by_default():
    """sd = .5 (arXiv:2206.00364): at sigma = .5 an error of 2 in 3 dimensions weighs 8 / 2."""
    x = jnp.array([1.0, -3.0, 0.5])
    value = edm(lambda _, sigma: x + 2.0, jax.random.key(4), x, jnp.float32(0.5))
    np.testing.assert_allclose(value, 8 / 2 * 3 * 2.0**2, rtol=1e-6)


# ---- what a network predicts, and the weight that it amounts to

PREDICTED = jnp.array([0.3, -1.2, 0.8])  # one example, and a denoiser that is wrong about it


def wrong(x, sigma):
    return jnp.tanh(x) * (1 + sigma)


@pytest.mark.parametrize("sigma", [0.05, 0.7, 20.0])
def test_each_prediction_is_its_own_squared_error(sigma):
    """DDPM's noise, the clean example and the velocity of a x_0 + b n, a^2 + b^2 = 1."""
    key, level, x = jax.random.key(3), jnp.float32(sigma), PREDICTED
    n = jax.random.normal(jax.random.key(3), x.shape)
    noisy = x + level * n
    a, b = 1 / np.sqrt(1 + sigma**2), sigma / np.sqrt(1 + sigma**2)
    for loss, prediction, target in (
        (noise_conditional, noise_from_denoiser(wrong), n),
        (clean_prediction, wrong, x),
        (velocity_prediction, velocity_from_denoiser(wrong), a * n - b * x),
    ):
        ours = loss(wrong, key, x, level)
        expected = 0.5 * np.sum((np.asarray(prediction(noisy, level)) - target) ** 2)
        np.testing.assert_allclose(ours, expected, rtol=2e-3)
        key = jax.random.key(3)


@pytest.mark.parametrize("sigma", [0.05, 3.0])
def test_velocity_prediction_is_edm_for_data_of_standard_deviation_one(sigma):
    ours = velocity_prediction(wrong, jax.random.key(3), PREDICTED, jnp.float32(sigma))
    other = edm(wrong, jax.random.key(3), PREDICTED, jnp.float32(sigma), sigma_data=1.0)
    np.testing.assert_allclose(ours, other, rtol=1e-5)


PROCESSES = {"vp": noise.vp(), "sub_vp": noise.sub_vp(), "ve": noise.ve(sigma_max=20.0)}


@pytest.mark.parametrize("name", PROCESSES)
def test_likelihood_weighted_is_g_squared_times_the_score_error_of_the_process(name):
    process, t, x = PROCESSES[name]._replace(t_min=0.1), jnp.float32(0.4), PREDICTED
    n = jax.random.normal(jax.random.key(3), x.shape)
    noisy = process.alpha(t) * x + process.sigma(t) * n
    error = process.score(wrong)(noisy, t) + n / process.sigma(t)
    length = process.t_max - process.t_min
    expected = length * process.diffusion(t) ** 2 / 2 * jnp.sum(error**2)
    ours = likelihood_weighted(wrong, jax.random.key(3), x, t, process=process)
    np.testing.assert_allclose(ours, expected, rtol=1e-3)


@dimensions
@pytest.mark.parametrize("name", PROCESSES)
def test_both_likelihood_losses_have_the_mean_of_the_bound_on_gaussian_data(d, name):
    """The integral of -dSNR/dt times the expected error s^2 / (1 + s^2 SNR) is

        d/2 log((1 + s^2 / sigma_min^2) / (1 + s^2 / sigma_max^2)),

    by uniform times and by log-uniform levels; the process' first tenth is left out, where
    the former has hardly a finite variance.
    """
    process = PROCESSES[name]._replace(t_min=0.1)
    low, high = (float(process.level(jnp.float32(t))) for t in (0.1, 1.0))
    expected = d / 2 * np.log((1 + (SCALE / low) ** 2) / (1 + (SCALE / high) ** 2))

    def one(key):
        key_data, key_u, *keys = jax.random.split(key, 4)
        x = MEAN + SCALE * jax.random.normal(key_data, (d,))
        u = jax.random.uniform(key_u)
        by_time = likelihood_weighted(denoise, keys[0], x, 0.1 + 0.9 * u, process=process)
        level = noise.log_uniform_level(u, sigma_min=low, sigma_max=high)
        by_level = noise_conditional(denoise, keys[1], x, level)
        return jnp.stack([by_time, 2 * jnp.log(high / low) * by_level])

    assert_mean(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), N)), expected)


def test_uncertainty_weighting_is_least_at_the_logarithm_of_the_mean_loss():
    losses = jnp.array([0.5, 4.0, 3.0])

    def mean(u):
        return jnp.mean(jax.vmap(uncertainty_weighted, (0, None))(losses, u))

    best = jnp.log(losses.mean())
    assert float(jax.grad(mean)(best)) == pytest.approx(0, abs=1e-6)
    assert float(mean(best)) == pytest.approx(1 + float(best), rel=1e-6)
    for step in (-0.1, 0.1):
        assert mean(best + step) > mean(best)


def test_sliced_and_exact_score_matching_take_a_field_whose_jacobian_is_not_symmetric():
    """A free field, no gradient of any energy: s(x) = A x, div s = tr A."""
    from ebm_jax import losses

    matrix = jnp.array([[0.5, 2.0, 0.0], [-1.0, -0.3, 1.0], [0.0, 0.7, -2.0]])
    x = PREDICTED

    def field(x):
        return matrix @ x

    truth = 0.5 * np.sum(np.asarray(matrix @ x) ** 2) + np.trace(matrix)
    assert float(losses.exact_score_matching(field, x)) == pytest.approx(float(truth), rel=1e-5)
    draw = jax.vmap(lambda key: losses.variance_reduced_sliced_score_matching(field, key, x))
    assert_mean(jax.jit(draw)(jax.random.split(jax.random.key(1), N)), truth)
    draw = jax.vmap(lambda key: losses.sliced_score_matching(field, key, x))
    assert_mean(jax.jit(draw)(jax.random.split(jax.random.key(2), N)), truth)
