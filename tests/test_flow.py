"""The flow: an exact inverse, an exact determinant, mass 1, and a law that it can learn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import multivariate_normal

from ebm_jax import likelihood
from ebm_jax.nets import RealNVP
from tests.statistics import assert_mean, assert_normal

HALF_WIDTH = 12.0  # a square that holds the random planar flow


def flow(*shape, scale=0.25, **attributes):
    """A flow with random weights, none of them zero, and `call(method)` as a plain function."""
    net = RealNVP(shape, **{"num_couplings": 4, "widths": (16,), **attributes})
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.float32(scale * rng.normal(size=leaf.shape)), shapes)
    return lambda method: partial(net.apply, params, method=method)


def normals(*shape, seed=1):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


shapes = pytest.mark.parametrize("shape", [(2,), (5,), (2, 3, 1)])


@shapes
def test_inverse_undoes_forward_and_has_the_opposite_determinant(shape):
    call = flow(*shape)
    z = normals(100, *shape)
    x, log_det = jax.jit(jax.vmap(call("forward")))(z)
    back, log_det_back = jax.jit(jax.vmap(call("inverse")))(x)
    np.testing.assert_allclose(back, z, atol=2e-5)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-5)
    assert np.abs(x - z).mean() > 0.1  # it is not the identity


@shapes
@pytest.mark.parametrize("method", ["forward", "inverse"])
def test_the_determinant_is_that_of_the_jacobian(shape, method):
    call, size = flow(*shape), int(np.prod(shape))

    def both(x):
        jacobian = jax.jacfwd(lambda x: call(method)(x)[0])(x).reshape(size, size)
        return call(method)(x)[1], jnp.linalg.slogdet(jacobian)

    value, (sign, expected) = jax.jit(jax.vmap(both))(normals(50, *shape))
    np.testing.assert_array_equal(sign, 1.0)
    np.testing.assert_allclose(value, expected, atol=2e-5)
    assert np.std(expected) > 0.05


@pytest.mark.parametrize("shape", [(2,), (3,), (2, 3, 1)])
def test_every_entry_moves_and_depends_on_every_other(shape):
    """Two couplings make y_odd depend on x_even; the third and fourth close the circle."""
    size = int(np.prod(shape))
    jacobian = jax.jit(jax.jacfwd(lambda z: flow(*shape)("forward")(z)[0]))(normals(*shape))
    assert np.all(np.abs(jacobian.reshape(size, size)) > 1e-4)


def test_couplings_stretch_no_more_than_their_bound():
    call = flow(2, scale=30.0, num_couplings=2, max_log_scale=0.5)
    log_det = jax.jit(jax.vmap(call("forward")))(normals(200, 2))[1]
    assert np.abs(log_det).max() <= 2 * 0.5 + 1e-5
    assert np.abs(log_det).max() > 0.9  # two couplings of one entry each reach it


@shapes
def test_at_initialization_it_is_the_standard_normal(shape):
    net = RealNVP(shape)
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(shape))
    x = normals(20, *shape)
    value = jax.jit(jax.vmap(partial(net.apply, params, method="log_density")))(x)
    size = int(np.prod(shape))
    expected = multivariate_normal(np.zeros(size)).logpdf(np.reshape(x, (20, size)))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    draws = jax.jit(jax.vmap(partial(net.apply, params, method="draw")))(
        jax.random.split(jax.random.key(1), 10_000)
    )
    assert_normal(draws, 0.0, 1.0)


def test_it_is_an_energy_of_log_z_zero():
    energy = flow(2)(None)
    log_z = jax.jit(partial(likelihood.log_z_on_grid, energy, half_width=HALF_WIDTH))()
    np.testing.assert_allclose(log_z, 0.0, atol=1e-4)


def test_draws_have_the_density():
    """Means of bounded statistics, and of log q itself, against quadrature of the density."""
    call = flow(2)

    def statistic(x):
        low = jnp.sin(x[0]), jnp.cos(2 * x[1]), jnp.tanh(x[0] - x[1])
        return jnp.stack([*low, call("log_density")(x)])

    grid = likelihood.square_grid(HALF_WIDTH, 400)
    on_grid = jax.jit(jax.vmap(statistic))(grid)
    mass = np.exp(np.asarray(on_grid[:, 3], np.float64)) * (2 * HALF_WIDTH / 400) ** 2
    keys = jax.random.split(jax.random.key(2), 50_000)
    draws = jax.jit(jax.vmap(lambda key: statistic(call("draw")(key))))(keys)
    assert_mean(draws, (mass[:, None] * np.asarray(on_grid)).sum(0))


@shapes
def test_a_draw_comes_with_its_log_density(shape):
    call = flow(*shape)
    keys = jax.random.split(jax.random.key(3), 200)
    x, log_q = jax.jit(jax.vmap(call("draw_with_log_density")))(keys)
    drawn = jax.jit(jax.vmap(call("draw")))(jax.random.clone(keys))
    np.testing.assert_allclose(x, drawn, rtol=1e-5, atol=1e-6)  # two programs: round-off
    np.testing.assert_allclose(log_q, jax.jit(jax.vmap(call("log_density")))(x), atol=2e-4)


@pytest.mark.parametrize("d", [2, 3])
def test_maximum_likelihood_of_a_gaussian_reaches_its_entropy(d):
    """-E log q is the entropy H plus KL(p || q); a flow contains every Gaussian near N(0, I)."""
    factor = np.float32(0.4 * np.random.default_rng(3).normal(size=(d, d)) + np.eye(d))
    mean = jnp.float32(np.linspace(-0.5, 1.0, d))
    entropy = 0.5 * d * np.log(2 * np.pi * np.e) + np.linalg.slogdet(factor)[1]
    net, adam = RealNVP((d,), num_couplings=4, widths=(16,)), optax.adam(1e-2)

    def draw(key, n):
        return mean[None] + jax.random.normal(key, (n, d)) @ jnp.asarray(factor).T

    def step(carry, key):
        params, state = carry
        x = draw(key, 256)
        grads = jax.grad(lambda p: jax.vmap(partial(net.apply, p))(x).mean())(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = adam.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(d))
    keys = jax.random.split(jax.random.key(4), 500)
    (params, _), _ = jax.jit(partial(jax.lax.scan, step))((params, adam.init(params)), keys)
    x = draw(jax.random.key(5), 50_000)
    energies = np.asarray(jax.jit(jax.vmap(partial(net.apply, params)))(x), np.float64)
    truth = -multivariate_normal(mean, factor @ factor.T).logpdf(np.asarray(x))
    assert np.mean(truth) == pytest.approx(entropy, abs=0.02)
    kl = (energies - truth).mean()
    error = (energies - truth).std() / np.sqrt(len(x))
    assert -5 * error < kl < 0.02


def test_the_gradient_of_the_entropy_flows_through_the_draws():
    """x = f(z) = exp(s) z: the entropy -E log q grows by the derivative of sum s, exactly."""
    net = RealNVP((2,), num_couplings=2, widths=(4,))
    params = jax.jit(net.init)(jax.random.key(0), jnp.zeros(2))
    keys = jax.random.split(jax.random.key(1), 1000)

    def entropy(bias):
        layer = {**params["params"]["couplings_0"]}
        head = {**layer["Dense_0"], "bias": jnp.stack([jnp.float32(0.0), bias])}
        changed = {"params": {**params["params"], "couplings_0": {**layer, "Dense_0": head}}}
        draw = partial(net.apply, changed, method="draw_with_log_density")
        return -jax.vmap(draw)(keys)[1].mean()

    slope = jax.jit(jax.grad(entropy))(jnp.float32(0.7))
    np.testing.assert_allclose(slope, 1 - np.tanh(0.7 / 2.0) ** 2, rtol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"shape": (1,)}, r"shape=\(1,\): give at least 2 entries"),
        ({"shape": (2,), "num_couplings": 1}, "num_couplings=1: give at least 2"),
    ],
)
def test_a_flow_that_cannot_move_every_entry_is_refused(attributes, sentence):
    with pytest.raises(ValueError, match=sentence):
        RealNVP(**attributes).init(jax.random.key(0), jnp.zeros(attributes["shape"]))
