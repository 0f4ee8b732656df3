"""Parallel tempering: every replica keeps its law, and the weights of modes come back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma, polygamma

from ebm_jax.keys import example_keys
from ebm_jax.samplers import hmc, mala, parallel_tempering, random_walk, run, ula
from ebm_jax.targets import gaussian, gaussian_mixture
from tests.statistics import assert_mean, assert_variance

TEMPERATURES = np.array([1.0, 1.8, 3.0])


def gumbel(x):
    """p^(1/T) is the law of -log(T u), u ~ Gamma(1/T)."""
    return jnp.sum(x + jnp.exp(-x))


MAKERS = {
    "random_walk": lambda t: random_walk(gumbel, step_size=1.0, temperature=t),
    "mala": lambda t: mala(gumbel, step_size=0.3, temperature=t),
    "hmc": lambda t: hmc(gumbel, step_size=0.6, num_leapfrog=2, temperature=t),
}


def chains(one, n=20_000, seed=0):
    keys = jax.random.split(jax.random.key(seed), n)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))


@pytest.mark.parametrize("name", MAKERS)
def test_every_replica_that_starts_in_its_law_stays_in_it(name):
    temperatures = jnp.float32(TEMPERATURES)
    kernel = parallel_tempering(MAKERS[name], temperatures)

    def one(key):
        key_start, key_run = jax.random.split(key)
        gammas = jax.random.gamma(key_start, 1 / temperatures[:, None], (3, 1))
        starts = -jnp.log(temperatures[:, None] * gammas)
        state = kernel.init(starts[0])
        replicas = jax.vmap(lambda t, x: MAKERS[name](t).init(x))(temperatures, starts)
        state, info = run(kernel, key_run, state._replace(replicas=replicas), 4,
                          collect=lambda s, i: i)  # fmt: skip
        return state.replicas, state.x, info

    replicas, x, info = chains(one)
    np.testing.assert_array_equal(replicas.x[:, 0], x)
    for k, t in enumerate(TEMPERATURES):
        mean = -(np.log(t) + digamma(1 / t))
        assert_mean(replicas.x[:, k], mean)
        assert_variance(replicas.x[:, k], polygamma(1, 1 / t), mean=mean)
    energy = np.asarray(jax.vmap(jax.vmap(gumbel))(jnp.asarray(replicas.x)))
    np.testing.assert_allclose(replicas.energy, energy, rtol=1e-4, atol=1e-4)  # swapped whole
    assert info.swap_prob.shape == (20_000, 4, 2)
    assert info.moves.accept_prob.shape == (20_000, 4, 3)


def test_swaps_happen_with_the_documented_probability_to_alternating_neighbors():
    """Frozen chains (tiny steps) at E = 0, 2, 5, 9: only swaps move them."""
    temperatures = jnp.array([1.0, 2.0, 4.0, 8.0])
    energies = np.array([0.0, 2.0, 5.0, 9.0])[::-1]  # the coldest is the highest: swaps likely
    make = lambda t: random_walk(lambda x: jnp.sum(x), step_size=1e-7, temperature=t)  # noqa: E731
    kernel = parallel_tempering(make, temperatures)
    start = kernel.init(jnp.zeros(1))
    points = jnp.float32(energies)[:, None]
    start = start._replace(replicas=jax.vmap(lambda t, x: make(t).init(x))(temperatures, points))
    expected = np.exp(np.minimum(0, np.diff(1 / temperatures) * np.diff(energies)))
    for turn, pairs in ((0, (0, 2)), (1, (1,))):
        state, info = kernel.step(jax.random.key(0), start._replace(turn=jnp.int32(turn)))
        np.testing.assert_allclose(info.swap_prob, expected, rtol=1e-4)
        order = np.arange(4)
        for pair in pairs:  # all these swaps are certain
            order[[pair, pair + 1]] = order[[pair + 1, pair]]
        np.testing.assert_allclose(state.replicas.x[:, 0], energies[order], atol=1e-3)
        assert state.turn == 1 - turn
    # Uphill: the coldest at the least energy swaps with exp((1/T_0 - 1/T_1) (E_0 - E_1)).
    uphill = start._replace(replicas=jax.tree.map(lambda leaf: leaf[::-1], start.replicas))
    moved = chains(lambda key: kernel.step(key, uphill)[0].replicas.x[:, 0], n=5000)
    swapped = np.abs(moved[:, 0] - energies[-1]) > 0.5
    assert_mean(swapped, np.exp(-(1 - 0.5) * 2.0))


def test_tempering_recovers_the_weights_of_modes_that_langevin_forgets():
    """Weights .8 and .2, eight standard deviations apart, all chains from the lesser mode."""
    law = gaussian_mixture(jnp.array([[-2.0, 0.0], [2.0, 0.0]]), 0.5, jnp.array([0.8, 0.2]))
    start = jnp.array([2.0, 0.0])
    plain = ula(law.score, step_size=0.05)
    ladder = jnp.geomspace(1.0, 12.0, 5)
    tempered = parallel_tempering(
        lambda t: mala(law.energy, step_size=0.1 * t, temperature=t), ladder
    )

    def share(kernel, steps):
        def one(key):
            path = run(
                kernel, key, kernel.init(start), steps, burn_in=steps,
                collect=lambda s, i: s.x[0] < 0, thinning=10,
            )[1]  # fmt: skip
            return jnp.mean(path)

        return chains(one, n=256).mean()

    assert abs(share(tempered, 2000) - 0.8) < 0.02
    assert share(plain, 2000) < 0.6


def test_a_chain_is_the_same_alone_and_among_many():
    kernel = parallel_tempering(MAKERS["mala"], jnp.float32(TEMPERATURES))
    one = lambda key, x: run(kernel, key, kernel.init(x), 20)[0].x  # noqa: E731
    starts = jax.random.normal(jax.random.key(5), (100, 2))
    among = jax.jit(jax.vmap(one))(example_keys(jax.random.key(4), jnp.arange(100)), starts)
    alone = one(example_keys(jax.random.key(4), jnp.array([70]))[0], starts[70])
    np.testing.assert_allclose(alone, among[70], atol=1e-4)


@pytest.mark.parametrize("temperatures", [[1.0], [2.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
def test_a_ladder_out_of_order_is_refused(temperatures):
    with pytest.raises(ValueError, match="`parallel_tempering` got temperatures"):
        parallel_tempering(MAKERS["mala"], jnp.array(temperatures))


def test_a_kernel_without_an_energy_is_refused():
    law = gaussian(jnp.zeros(2), 1.0)
    kernel = parallel_tempering(
        lambda t: ula(law.score, step_size=0.1, temperature=t), jnp.array([1.0, 2.0])
    )
    with pytest.raises(ValueError, match="LangevinState, which holds no energy"):
        kernel.init(jnp.zeros(2))
