"""Metropolis kernels keep a skewed law exactly, and accept with the probability they should.

The law is p^(1/T) of E(x) = x + exp(-x), Gumbel's: with u = exp(-x), u / T ~ Gamma(1/T), so
that exact draws, mean and variance are known at every temperature. Symmetric laws hide
errors of sign.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma, polygamma

from ebm_jax.samplers import hmc, mala, random_walk, run, ula, warm_up
from ebm_jax.samplers.mcmc.kernel import log_uniforms
from ebm_jax.samplers.mcmc.metropolis import accept
from ebm_jax.targets import gaussian
from tests.statistics import assert_mean, assert_variance

CHAINS = 20_000
KERNELS = {
    "random_walk": lambda energy, t=1.0: random_walk(energy, step_size=1.5, temperature=t),
    "mala": lambda energy, t=1.0: mala(energy, step_size=0.6, temperature=t),
    "hmc": lambda energy, t=1.0: hmc(energy, step_size=0.7, num_leapfrog=3, temperature=t),
}
each_kernel = pytest.mark.parametrize("name", KERNELS)


def gumbel(x):
    return jnp.sum(x + jnp.exp(-x))


def draw_gumbel(key, temperature, shape):
    return -jnp.log(temperature * jax.random.gamma(key, 1 / temperature, shape))


def chains(one, seed=0, n=CHAINS):
    keys = jax.random.split(jax.random.key(seed), n)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))


@each_kernel
@pytest.mark.parametrize("temperature", [1.0, 0.4, 2.5])
def test_a_chain_that_starts_in_the_law_stays_in_it(name, temperature):
    kernel = KERNELS[name](gumbel, temperature)

    def one(key):
        key_start, key_run = jax.random.split(key)
        start = draw_gumbel(key_start, temperature, (2,))
        state, info = run(kernel, key_run, kernel.init(start), 3, collect=lambda s, i: i)
        return state.x, info

    x, info = chains(one)
    mean = -(np.log(temperature) + digamma(1 / temperature))
    assert_mean(x, mean)
    assert_variance(x, polygamma(1, 1 / temperature), mean=mean)
    assert_mean(np.exp(-x), 1.0)  # E u = 1 at every temperature
    assert 0.2 < info.accepted.mean() < 0.97  # neither frozen nor free of rejections
    assert_mean(info.accepted[:, 0] - info.accept_prob[:, 0], 0.0)
    assert not info.failed.any()


@each_kernel
def test_a_chain_that_starts_elsewhere_comes_to_the_law(name):
    kernel = KERNELS[name](gumbel)
    x = chains(lambda key: run(kernel, key, kernel.init(jnp.array([4.0])), 200)[0].x)
    assert_mean(x, np.euler_gamma)
    assert_variance(x, np.pi**2 / 6, mean=np.euler_gamma)


@pytest.mark.parametrize("step_size", [0.5, 2.4])
def test_random_walk_accepts_as_often_as_it_should_on_a_normal(step_size):
    """2 / pi arctan(2 / h) at stationarity in one dimension."""
    kernel = random_walk(gaussian(jnp.zeros(1), 1.0).energy, step_size=step_size)

    def one(key):
        key_start, key_step = jax.random.split(key)
        return kernel.step(key_step, kernel.init(jax.random.normal(key_start, (1,))))[1]

    assert_mean(chains(one).accept_prob, 2 / np.pi * np.arctan(2 / step_size))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_proposals_are_as_documented(temperature):
    """A huge log-uniform of -inf accepts everything, so that the move is the proposal."""
    x, noise, h = jnp.array([0.4, -0.3]), jnp.array([0.7, -1.1]), 0.2
    always = (noise, jnp.float32(-jnp.inf))
    grad = 1 - np.exp(-np.asarray(x))
    moved = {
        name: kernel.move(always, kernel.init(x))[0].x
        for name, kernel in {
            "walk": random_walk(gumbel, step_size=h, temperature=temperature),
            "mala": mala(gumbel, step_size=h, temperature=temperature),
        }.items()
    }
    np.testing.assert_allclose(moved["walk"], x + h * noise, rtol=1e-6)
    langevin = x - h * grad + np.sqrt(2 * h * temperature) * noise
    np.testing.assert_allclose(moved["mala"], langevin, rtol=1e-5)
    kernel = ula(lambda x: -jax.grad(gumbel)(x), step_size=h, temperature=temperature)
    np.testing.assert_allclose(moved["mala"], kernel.move(noise, kernel.init(x))[0].x, rtol=1e-5)


@each_kernel
def test_the_state_caches_what_belongs_to_its_point(name):
    kernel = KERNELS[name](gumbel)
    state = chains(lambda key: run(kernel, key, kernel.init(jnp.array([0.3, 1.0])), 5)[0], n=64)
    fresh = jax.tree.map(np.asarray, jax.vmap(kernel.init)(jnp.asarray(state.x)))
    for cached, truth in zip(state, fresh, strict=True):
        np.testing.assert_allclose(cached, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_hmc_with_one_leapfrog_step_is_mala(temperature):
    """At step size h^2 / 2, chain by chain and with the same probability."""
    h = 0.9
    walk = hmc(gumbel, step_size=h, num_leapfrog=1, temperature=temperature)
    langevin = mala(gumbel, step_size=h**2 / 2, temperature=temperature)

    def trace(kernel):
        def one(key):
            start = kernel.init(jnp.array([0.2, 1.3, -0.5]))
            return run(kernel, key, start, 20, collect=lambda s, i: (s.x, i.accept_prob))[1]

        return chains(one, n=50)

    for ours, theirs in zip(trace(walk), trace(langevin), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4)


def test_hmc_follows_the_leapfrog_and_accepts_by_the_energy_error():
    x, p, h, length = np.array([0.3, -0.8]), np.array([0.5, 1.2]), 0.15, 4
    q, v = x.copy(), p.copy()
    grad = lambda q: 1 - np.exp(-q)  # noqa: E731
    for _ in range(length):
        v = v - h / 2 * grad(q)
        q = q + h * v
        v = v - h / 2 * grad(q)
    energy = lambda q, v: np.sum(q + np.exp(-q)) + 0.5 * np.sum(v**2)  # noqa: E731
    kernel = hmc(gumbel, step_size=h, num_leapfrog=length)
    noise = (jnp.float32(p), jnp.float32(-jnp.inf))
    state, info = kernel.move(noise, kernel.init(jnp.float32(x)))
    np.testing.assert_allclose(state.x, q, rtol=1e-5)
    expected = min(1.0, np.exp(energy(x, p) - energy(q, v)))
    np.testing.assert_allclose(info.accept_prob, expected, rtol=1e-5)


# ---- acceptance


def test_logs_of_uniforms_are_those_of_the_half_open_interval_above_zero():
    """Of 2^25 draws of float32 about four are exactly 0 in [0, 1): log 0 accepts anything."""
    draws = np.asarray(log_uniforms(jax.random.key(0), (2**25,)))
    assert np.isfinite(draws).all()
    assert draws.max() == 0  # log 1
    uniforms = np.exp(np.asarray(draws[:1_000_000], np.float64))
    assert_mean(uniforms, 1 / 2)
    assert_mean(uniforms**2, 1 / 3)
    assert_mean(draws[:1_000_000], -1.0)


def test_a_proposal_is_accepted_with_probability_exp_of_the_log_ratio():
    """Down to an acceptance of certainty and up to one of none."""
    log_uniform = log_uniforms(jax.random.key(1), (100_000,))
    for log_ratio, probability in ((0.0, 1.0), (2.0, 1.0), (-1.0, np.exp(-1)), (-jnp.inf, 0.0)):
        one = lambda u: accept(u, jnp.float32(log_ratio), jnp.ones(()), jnp.zeros(()))[0]  # noqa: B023, E731
        moved = jax.vmap(one)(log_uniform)
        assert_mean(moved, probability)


# ---- hard walls and bad energies


def test_a_walk_never_leaves_the_support():
    """Uniform on [-1, 1]: an infinite energy outside is a rejection and no failure."""
    box = lambda x: jnp.where(jnp.all(jnp.abs(x) < 1), 0.0, jnp.inf)  # noqa: E731
    kernel = random_walk(box, step_size=0.7)

    def one(key):
        key_start, key_run = jax.random.split(key)
        start = jax.random.uniform(key_start, (1,), minval=-1.0)
        return run(kernel, key_run, kernel.init(start), 5, collect=lambda s, i: (s.x, i.failed))[1]

    x, failed = chains(one)
    assert np.abs(x).max() < 1
    assert not failed.any()
    assert_variance(x[:, -1], 1 / 3, mean=0.0)


@each_kernel
def test_an_energy_that_is_nan_at_the_proposal_is_rejected_and_counted(name):
    kernel = KERNELS[name](lambda x: jnp.sum(jnp.where(x > 0, x, jnp.nan)))
    start = jnp.array([0.5])

    def one(key):
        return run(kernel, key, kernel.init(start), 10, collect=lambda s, i: (s.x, i))[1]

    x, info = chains(one, n=500)
    assert np.all(x > 0)
    assert 0 < info.failed.mean() < 1
    assert not (info.failed & info.accepted).any()
    assert np.all(info.accept_prob[info.failed] == 0)


@each_kernel
@pytest.mark.parametrize(
    ("energy", "sentence"),
    [
        (lambda x: x**2, r"energy_fn\(x\) of shape \(3,\) .* batch with jax.vmap"),
        (lambda x: jnp.sum(x, keepdims=True), r"of shape \(1,\)"),
        (lambda x: jnp.sum(x > 0), "of type int32, expected a float"),
        (lambda x: jnp.sum(x) * jnp.nan, "starts where the energy is nan"),
        (lambda x: jnp.sum(x) + jnp.inf, "starts where the energy is inf"),
    ],
)
def test_an_energy_that_cannot_be_sampled_is_refused_at_the_start(name, energy, sentence):
    with pytest.raises(ValueError, match=f"`{name}` .*{sentence}"):
        KERNELS[name](energy).init(jnp.ones(3))


@pytest.mark.parametrize("name", ["mala", "hmc"])
def test_a_start_of_finite_energy_and_nan_gradient_is_refused(name):
    """A ring at its center: E is finite, grad |x| is 0 / 0, and the chain would never move."""
    ring = lambda x: 0.5 * ((jnp.linalg.norm(x) - 2) / 0.4) ** 2  # noqa: E731
    with pytest.raises(ValueError, match=f"`{name}` starts where the gradient is .*nan"):
        KERNELS[name](ring).init(jnp.zeros(2))
    make = {
        "mala": lambda h: mala(ring, step_size=h),
        "hmc": lambda h: hmc(ring, step_size=h, num_leapfrog=2),
    }[name]
    with pytest.raises(ValueError, match=f"`{name}` starts where the gradient is .*nan"):
        warm_up(make, jax.random.key(0), jnp.zeros(2), num_steps=3, target=0.6, initial=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random_walk(gumbel, step_size=0.0), "`random_walk` got step_size=0.0"),
        (lambda: random_walk(gumbel, step_size=1.0, temperature=0.0), "got temperature=0.0"),
        (lambda: mala(gumbel, step_size=-0.1), "`mala` got step_size=-0.1"),
        (lambda: mala(gumbel, step_size=0.1, temperature=-1.0), "got temperature=-1.0"),
        (lambda: hmc(gumbel, step_size=float("nan"), num_leapfrog=1), "`hmc` got step_size=nan"),
        (lambda: hmc(gumbel, step_size=0.1, num_leapfrog=0), "`hmc` got num_leapfrog=0"),
        (
            lambda: hmc(gumbel, step_size=0.1, num_leapfrog=1, temperature=0.0),
            "`hmc` got temperature=0.0",
        ),
    ],
)
def test_numbers_out_of_range_are_refused_by_name_and_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()
