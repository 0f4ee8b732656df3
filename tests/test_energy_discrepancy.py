"""Energy discrepancy on energies whose exponential moments are known, and on Gaussians."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.losses import conditional_noise_contrastive, energy_discrepancy
from tests.statistics import assert_mean

MEAN, SCALE = 0.8, 0.7  # of the data


def energy(x, shift=0.0, log_scale=0.0, factor=1.0):
    """Of N(MEAN + shift, (SCALE exp(log_scale))^2 I), up to a constant, times `factor`."""
    return factor * 0.5 * jnp.sum(((x - MEAN - shift) / (SCALE * jnp.exp(log_scale))) ** 2)


def draws(one, d, num):
    """one(key, x) at `num` independent examples of the data."""

    def at(key):
        key_data, key_loss = jax.random.split(key)
        return one(key_loss, MEAN + SCALE * jax.random.normal(key_data, (d,)))

    return jax.jit(jax.vmap(at))(jax.random.split(jax.random.key(0), num))


def on_gaussians(d, m, num, shift=0.0, log_scale=0.0, factor=1.0, sigma=0.5):
    """Columns: the loss of M = m, and its slopes in the model's shift and log-scale."""
    return compiled_on_gaussians(d, m, num, shift, log_scale, factor, sigma)


@partial(jax.jit, static_argnums=(0, 1, 2))
def compiled_on_gaussians(d, m, num, shift, log_scale, factor, sigma):

    def one(key, x):
        def loss(shift, log_scale):
            model = partial(energy, shift=shift, log_scale=log_scale, factor=factor)
            return energy_discrepancy(model, key, x, jnp.float32(sigma), num_negatives=m)

        value, slopes = jax.value_and_grad(loss, argnums=(0, 1))(shift, log_scale)
        return jnp.stack([value, *slopes])

    return draws(one, d, num)


@pytest.mark.parametrize(("w", "m"), [(1.0, 7), (0.25, 1), (0.0, 3)])
def test_a_point_above_its_flat_surroundings_has_its_value_in_closed_form(w, m):
    """E = K at x alone and 0 elsewhere: log(w / M + exp(K)), finite however large K is."""
    x = jnp.array([0.3, -1.0])
    heights = jnp.array([-1000.0, -1.0, 0.0, 2.0, 1000.0])

    def one(height):
        def peak(z):
            return jnp.where(jnp.all(z == x), height, 0.0)

        return energy_discrepancy(
            peak, jax.random.key(0), x, jnp.float32(0.5), num_negatives=m, stabilizer=w
        )

    with np.errstate(divide="ignore"):
        expected = np.logaddexp(np.log(w / m), heights)
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(heights), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("d", "w", "m"), [(2, 1.0, 1), (10, 0.5, 5), (2, 0.0, 5)])
def test_moments_of_the_exponential_on_a_linear_energy(d, w, m):
    """For E = a . x the mean of exp(loss) is w / M + exp(sigma^2 |a|^2), for every M.

    Its square knows that negatives share a center: j != k of them correlate through n.
    """
    sigma = 0.5
    slope = jnp.linspace(-1, 1.5, d)
    slope /= jnp.linalg.norm(slope)

    def one(key, x):
        value = energy_discrepancy(
            lambda x: slope @ x, key, x, jnp.float32(sigma), num_negatives=m, stabilizer=w
        )
        return jnp.exp(value)

    values = draws(one, d, num=20_000)
    mean = np.exp(sigma**2)
    square = (np.exp(4 * sigma**2) + (m - 1) * np.exp(3 * sigma**2)) / m
    assert_mean(values, w / m + mean)
    assert_mean(values**2, (w / m) ** 2 + 2 * w / m * mean + square)


@pytest.mark.parametrize("d", [2, 10])
def test_value_on_gaussians_with_many_negatives(d):
    """U(y) = |y - m|^2 / (2 (v + t)) - d/2 log(v / (v + t)); at the truth the log alone is left."""
    sigma = 0.6
    for shift, log_scale in [(0.0, 0.0), (0.4, -0.2), (0.0, 0.3)]:
        v, t = (SCALE * np.exp(log_scale)) ** 2, sigma**2
        spread = SCALE**2 + shift**2
        expected = d / 2 * (spread / v + np.log(v / (v + t)) - (spread + t) / (v + t))
        if shift == log_scale == 0:
            np.testing.assert_allclose(expected, d / 2 * np.log(v / (v + t)))
        values = on_gaussians(d, 1000, 1000, shift, log_scale, sigma=sigma)
        assert_mean(values[:, 0], expected)


def quadrature_of_one_negative(shift, log_scale, sigma):
    """E log(1 + exp(E(x) - E(x + u))), u ~ N(0, 2 sigma^2), in one dimension."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    x = MEAN + SCALE * nodes[:, None]
    moved = x + np.sqrt(2) * sigma * nodes[None]
    scale = SCALE * np.exp(log_scale)
    gain = ((x - MEAN - shift) ** 2 - (moved - MEAN - shift) ** 2) / (2 * scale**2)
    return weights @ np.logaddexp(0, gain) @ weights / weights.sum() ** 2


def test_value_and_gradient_of_one_negative_by_quadrature():
    sigma, h = 0.5, 1e-4
    exact = partial(quadrature_of_one_negative, sigma=sigma)
    for shift, log_scale in [(0.0, 0.0), (0.5, -0.3), (-0.3, 0.4)]:
        in_shift = exact(shift + h, log_scale) - exact(shift - h, log_scale)
        in_scale = exact(shift, log_scale + h) - exact(shift, log_scale - h)
        expected = [exact(shift, log_scale), in_shift / (2 * h), in_scale / (2 * h)]
        assert_mean(on_gaussians(1, 1, 20_000, shift, log_scale, sigma=sigma), expected)


def test_one_negative_is_conditional_noise_contrast_at_a_larger_scale():
    """n + n_1 is one Gaussian of variance 2, so that the two losses have one law."""
    sigma = 0.5

    def one(key, x):
        step = np.sqrt(2) * sigma * jax.random.normal(key, x.shape)
        return conditional_noise_contrastive(partial(energy, shift=0.4), x, x + step)

    other = draws(one, 2, num=20_000)
    ours = on_gaussians(2, 1, 20_000, 0.4, sigma=sigma)[:, 0]
    assert_mean(ours - other, 0.0)
    assert_mean(ours**2 - other**2, 0.0)


@pytest.mark.parametrize(("d", "m"), [(2, 1), (10, 4)])
def test_small_noise_is_score_matching(d, m):
    """(loss - log((M + 1) / M)) (M + 1) / (M sigma^2) tends to 1/2 |s|^2 + div s.

    Pairing each draw with its mirror image about x removes the odd orders in sigma, so
    that a mean of few draws can tell.
    """
    sigma = 0.01

    def model(x):
        return jnp.sum(x**2) + jnp.sum(jnp.sin(x)) + x[0] * x[1]

    def one(key, x):
        def loss(energy_fn, key):
            return energy_discrepancy(energy_fn, key, x, jnp.float32(sigma), num_negatives=m)

        paired = (loss(model, key) + loss(lambda z: model(2 * x - z), jax.random.clone(key))) / 2
        score = -jax.grad(model)(x)
        laplacian = jnp.trace(jax.hessian(model)(x))
        return jnp.stack([paired, 0.5 * jnp.sum(score**2) - laplacian])

    values = np.asarray(draws(one, d, num=5000), np.float64)
    scaled = (values[:, 0] - np.log((m + 1) / m)) * (m + 1) / (m * sigma**2)
    assert_mean(scaled - values[:, 1], 0.0)


@pytest.mark.parametrize(("d", "m"), [(2, 1), (2, 8), (10, 4)])
def test_minimizer_is_the_truth_for_every_number_of_negatives(d, m):
    """With w = 1: its gradient in mean and scale vanishes there, and points back nearby."""
    for sigma in (0.3, 1.0):
        slopes = partial(on_gaussians, d, m, 10_000, sigma=sigma)
        assert_mean(slopes()[:, 1:], [0.0, 0.0])
        assert slopes(shift=0.4).mean(0)[1] > 0 > slopes(shift=-0.4).mean(0)[1]
        assert slopes(log_scale=0.3).mean(0)[2] > 0 > slopes(log_scale=-0.3).mean(0)[2]
        assert slopes(factor=1.0).mean(0)[0] < slopes(factor=-1.0).mean(0)[0]


@pytest.mark.parametrize("batch_size", [4, 64])
def test_minimizer_does_not_move_with_the_batch_size(batch_size):
    """The gradient of a batch's mean loss vanishes at the truth, whatever the batch."""

    def one(key, _):
        key_data, key_loss = jax.random.split(key)
        batch = MEAN + SCALE * jax.random.normal(key_data, (batch_size, 2))
        keys = jax.random.split(key_loss, batch_size)

        def mean_loss(log_scale):
            loss = partial(
                energy_discrepancy, partial(energy, log_scale=log_scale), num_negatives=4
            )
            return jnp.mean(jax.vmap(loss, in_axes=(0, 0, None))(keys, batch, jnp.float32(0.5)))

        return jax.grad(mean_loss)(0.0)

    assert_mean(draws(one, 2, num=20_000 // batch_size), 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_negatives": 0}, "num_negatives=0: give at least 1"),
        ({"num_negatives": 2, "stabilizer": -1.0}, "stabilizer=-1.0: give 0 or a pos"),
        (
            {"num_negatives": 2, "stabilizer": float("nan")},
            "stabilizer=nan: give 0 or a pos",
        ),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        energy_discrepancy(energy, jax.random.key(0), jnp.ones(2), jnp.float32(0.1), **options)
