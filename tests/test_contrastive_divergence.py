"""Likelihood training against enumeration on a grid, closed forms on Gaussians, and chains."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ebm_jax.calculus import score_from_energy
from ebm_jax.losses import (
    contrastive_divergence,
    nearest_neighbor_entropy,
    sampler_energy,
    squared_energies,
    squared_gradient,
)
from ebm_jax.nets import EnergyMLP
from ebm_jax.samplers import run, ula
from tests.statistics import assert_mean

dimensions = pytest.mark.parametrize("d", [2, 10])
TRUE_MEAN, TRUE_SCALE = 1.5, 0.7


# ---- the gradient, by enumeration


def polynomial(params, x):
    """An exponential family in one dimension; `x` has shape (1,)."""
    return jnp.sum(params["a"] * jnp.concatenate([x, x**2, x**4]))


MLP = EnergyMLP((8,))
LINE = jnp.linspace(-3.0, 3.0, 61)[:, None]
SQUARE = jnp.stack(jnp.meshgrid(*[jnp.linspace(-2.0, 2.0, 13)] * 2), -1).reshape(-1, 2)


@pytest.mark.parametrize(
    ("energy", "params", "grid"),
    [
        (polynomial, {"a": jnp.array([0.3, -0.8, 0.4])}, LINE),
        (MLP.apply, MLP.init(jax.random.key(0), jnp.zeros(2)), SQUARE),
    ],
    ids=["exponential family", "network"],
)
def test_mean_gradient_is_that_of_the_log_likelihood_by_quadrature(energy, params, grid):
    """Both expectations are sums over the grid, log Z is a logsumexp over it: no draws.

    The likelihood's gradient comes by automatic differentiation of log Z, where
    contrastive divergence has E_p[grad E].
    """
    data = jax.nn.softmax(-jnp.sum(jnp.abs(grid - 0.5), axis=1))

    def energies(params):
        return jax.vmap(partial(energy, params))(grid)

    def negative_log_likelihood(params):
        return jnp.sum(data * energies(params)) + jax.nn.logsumexp(-energies(params))

    model = jax.nn.softmax(-energies(params))

    def expected_loss(params):
        one = partial(contrastive_divergence, partial(energy, params))
        losses = jax.vmap(jax.vmap(one, (None, 0)), (0, None))(grid, grid)
        return data @ losses @ model

    expected = jax.jit(jax.grad(negative_log_likelihood))(params)
    found = jax.jit(jax.grad(expected_loss))(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert any(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(expected))


def gaussian_energy(params, x):
    mean, log_precision = params
    return 0.5 * jnp.exp(log_precision) * jnp.sum((x - mean) ** 2)


def slopes(params, d, num_batches, batch_size):
    """Mean gradients over batches of data and of exact draws of the model."""
    mean, log_precision = params
    key_data, key_model = jax.random.split(jax.random.key(d))
    shape = (num_batches, batch_size, d)
    x_data = TRUE_MEAN + TRUE_SCALE * jax.random.normal(key_data, shape)
    x_model = mean + jnp.exp(-log_precision / 2) * jax.random.normal(key_model, shape)

    def batch_loss(params, x_data, x_model):
        one = partial(contrastive_divergence, partial(gaussian_energy, params))
        return jnp.mean(jax.vmap(one)(x_data, x_model))

    gradients = jax.jit(jax.vmap(jax.grad(batch_loss), (None, 0, 0)))(params, x_data, x_model)
    return np.stack(gradients, 1)


@dimensions
@pytest.mark.parametrize("batch_size", [4, 64])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.4, 0.0), (0.0, 0.5), (-0.3, -0.4)])
def test_gradient_on_a_gaussian_family_vanishes_at_the_truth_alone(d, batch_size, offset):
    """Closed form, with r the log-precision: d/dm = -d e^r (M - m) and

        d/dr = d/2 (e^r (S^2 + (M - m)^2) - 1),

    whatever the batch; a descent goes towards the truth, and a wrong sign away from it.
    """
    mean = TRUE_MEAN + offset[0]
    log_precision = -2 * np.log(TRUE_SCALE) + offset[1]
    precision = np.exp(log_precision)
    expected = [
        -d * precision * (TRUE_MEAN - mean),
        d / 2 * (precision * (TRUE_SCALE**2 + (TRUE_MEAN - mean) ** 2) - 1),
    ]
    params = jnp.float32(mean), jnp.float32(log_precision)
    assert_mean(slopes(params, d, 40_000 // batch_size, batch_size), expected)


@dimensions
@pytest.mark.parametrize("batch_size", [16, 256])
def test_descent_with_exact_draws_ends_at_the_truth(d, batch_size):
    """400 steps of decreasing size; the error left is that of 400 batches of data."""

    def step(params, t):
        key_data, key_model = jax.random.split(jax.random.fold_in(jax.random.key(1), t))
        shape = (batch_size, d)
        x_data = TRUE_MEAN + TRUE_SCALE * jax.random.normal(key_data, shape)
        x_model = params[0] + jnp.exp(-params[1] / 2) * jax.random.normal(key_model, shape)

        def loss(params):
            one = partial(contrastive_divergence, partial(gaussian_energy, params))
            return jnp.mean(jax.vmap(one)(x_data, x_model))

        rate = 1 / d / (1 + t / 20)
        return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params)), None

    start = jnp.float32(0.0), jnp.float32(0.0)
    (mean, log_precision), _ = jax.jit(partial(jax.lax.scan, step))(
        start, jnp.arange(400.0).astype(int)
    )
    limit = 20 / np.sqrt(400 * batch_size * d)
    assert abs(mean - TRUE_MEAN) < limit
    assert abs(log_precision + 2 * np.log(TRUE_SCALE)) < limit


def test_value_is_the_difference_of_two_energies_data_first():
    value = contrastive_divergence(jnp.sum, jnp.array([1.0, 2.0]), jnp.array([0.5, 0.25]))
    np.testing.assert_allclose(value, 3.0 - 0.75, rtol=1e-6)


# ---- chains


def quadratic(a, x):
    return 0.5 * a * jnp.sum(x**2)


def chain(a, key, x, num_steps):
    kernel = ula(score_from_energy(partial(quadratic, a)), step_size=0.1)
    return run(kernel, key, kernel.init(x), num_steps)[0].x


def test_no_gradient_flows_through_the_chain():
    """d/da of E(x) - E(x') is (|x|^2 - |x'|^2) / 2, though x' moves with a as well."""
    key, x = jax.random.key(0), jnp.array([0.8, -1.1])

    def loss(a):
        return contrastive_divergence(partial(quadratic, a), x, chain(a, key, x, 5))

    with jax.debug_key_reuse(False):  # the same chain twice, on purpose
        x_model = chain(jnp.float32(1.3), key, x, 5)
        slope = jax.grad(loss)(jnp.float32(1.3))
        moved = jax.jacfwd(lambda a: chain(a, key, x, 5))(jnp.float32(1.3))
    np.testing.assert_allclose(slope, (jnp.sum(x**2) - jnp.sum(x_model**2)) / 2, rtol=1e-5)
    assert jnp.abs(moved).max() > 0.1


def test_sampler_energy_has_the_gradient_that_contrastive_divergence_leaves_out():
    """E(x'(a)) with the energy's own a held fixed, by hand: a x' . dx'/da with one step
    x' = x (1 - h a) + noise, and by finite differences for three."""
    key, x, a, h = jax.random.key(1), jnp.array([0.8, -1.1]), jnp.float32(1.3), 0.1

    def term(a, num_steps):
        return sampler_energy(partial(quadratic, a), chain(a, key, x, num_steps))

    def frozen(b, num_steps):
        return quadratic(a, chain(b, key, x, num_steps))

    with jax.debug_key_reuse(False):
        end = chain(a, key, x, 1)
        np.testing.assert_allclose(term(a, 1), quadratic(a, end), rtol=1e-6)
        np.testing.assert_allclose(jax.grad(term)(a, 1), a * end @ (-h * x), rtol=1e-5)
        numeric = (frozen(a + 0.01, 3) - frozen(a - 0.01, 3)) / 0.02
        np.testing.assert_allclose(jax.grad(term)(a, 3), numeric, rtol=1e-3)


def test_the_two_terms_of_the_sampler_make_the_whole_gradient_of_its_energy():
    """With respect to a: d/da E_a(x'(a)) is the explicit part plus that of `sampler_energy`."""
    key, x, a = jax.random.key(2), jnp.array([0.8, -1.1]), jnp.float32(0.7)
    with jax.debug_key_reuse(False):
        whole = jax.grad(lambda a: quadratic(a, chain(a, key, x, 4)))(a)
        left_out = jax.grad(lambda a: sampler_energy(partial(quadratic, a), chain(a, key, x, 4)))(a)
        explicit = -jax.grad(
            lambda a: contrastive_divergence(partial(quadratic, a), 0 * x, chain(a, key, x, 4))
        )(a)
    np.testing.assert_allclose(whole, left_out + explicit, rtol=1e-5)


# ---- entropy


@pytest.mark.parametrize(("d", "n"), [(1, 500), (2, 500), (3, 2000)])
def test_nearest_neighbor_entropy_of_a_gaussian_is_its_closed_form(d, n):
    """d/2 log(2 pi e s^2); every draw has other draws of its own, so that means are fair."""
    scale = 0.6

    def one(key):
        draws = scale * jax.random.normal(key, (n + 1, d))
        return nearest_neighbor_entropy(draws[0], draws[1:])

    values = jax.jit(partial(jax.lax.map, one, batch_size=100))(
        jax.random.split(jax.random.key(3), 3000)
    )
    assert_mean(values, d / 2 * np.log(2 * np.pi * np.e * scale**2))


def test_nearest_neighbor_entropy_pushes_a_draw_from_its_nearest_alone():
    """3 log r + log(4 pi / 3) + 1 + 1/2, with slope 3 (x - y) / r^2 and none in the others."""
    x, others = jnp.array([0.5, 1.0, -1.0]), jnp.array([[0.4, 1.2, -1.0], [3.0, 3.0, 3.0]])
    gap = x - others[0]
    by_hand = 1.5 * np.log(0.1**2 + 0.2**2) + np.log(4 * np.pi / 3) + 1.5
    np.testing.assert_allclose(nearest_neighbor_entropy(x, others), by_hand, rtol=1e-5)
    slope, slope_others = jax.grad(nearest_neighbor_entropy, (0, 1))(x, others)
    np.testing.assert_allclose(slope, 3 * gap / jnp.sum(gap**2), rtol=1e-4)
    assert not slope_others.any()
    image = nearest_neighbor_entropy(x.reshape(3, 1, 1), others.reshape(2, 3, 1, 1))
    np.testing.assert_allclose(image, nearest_neighbor_entropy(x, others), rtol=1e-6)


def test_nearest_neighbor_entropy_refuses_a_draw_without_others():
    with pytest.raises(ValueError, match="got no other draws: give at least one"):
        nearest_neighbor_entropy(jnp.zeros(3), jnp.zeros((0, 3)))


# ---- penalties


def test_penalties_by_hand_on_a_quadratic():
    """E = a |x|^2 / 2: E^2 = a^2 |x|^4 / 4 and |grad E|^2 = a^2 |x|^2."""
    a, x, y = 1.5, jnp.array([1.0, -2.0]), jnp.array([0.5, 0.0])
    energy = partial(quadratic, a)
    np.testing.assert_allclose(
        squared_energies(energy, x, y), a**2 / 4 * (5.0**2 + 0.25**2), rtol=1e-6
    )
    np.testing.assert_allclose(squared_gradient(energy, x), a**2 * 5.0, rtol=1e-6)
    check_grads(lambda a: squared_gradient(partial(quadratic, a), x), (a,), 1, rtol=1e-2)


def test_the_penalty_of_energies_pulls_no_chain():
    slope = jax.grad(partial(squared_energies, partial(quadratic, 1.5)), (0, 1))
    by_data, by_model = slope(jnp.ones(2), jnp.ones(2))
    assert by_data.any()
    assert not by_model.any()
