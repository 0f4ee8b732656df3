"""Annealed importance sampling against laws whose log Z is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.keys import example_keys
from ebm_jax.likelihood import (
    annealed_log_weight,
    log_mean_weight,
    log_z_bracket,
    log_z_from_gaussian,
)
from ebm_jax.samplers import hmc, mala, random_walk
from ebm_jax.targets import gaussian, gaussian_mixture
from tests.statistics import assert_mean


def log_weights(make_kernel, start, end, *, n, levels, seed=0, steps=1):
    betas = jnp.linspace(0.0, 1.0, levels + 1)

    def one(key):
        key_start, key_chain = jax.random.split(key)
        return annealed_log_weight(
            make_kernel, start.energy, end.energy, key_chain, start.draw(key_start), betas,
            steps_per_level=steps,
        )  # fmt: skip

    return jax.jit(jax.vmap(one))(example_keys(jax.random.key(seed), jnp.arange(n)))


@pytest.mark.parametrize(
    "make_kernel",
    [
        partial(random_walk, step_size=0.7),
        partial(mala, step_size=0.2),
        partial(hmc, step_size=0.4, num_leapfrog=3),
    ],
    ids=["random_walk", "mala", "hmc"],
)
@pytest.mark.parametrize("levels", [1, 6])
def test_the_mean_weight_is_the_ratio_of_zs_whatever_kernel_and_ladder(make_kernel, levels):
    start = gaussian(jnp.array([0.5, 0.0]), 1.3)
    end = gaussian(jnp.array([0.0, -0.4]), jnp.array([0.9, 0.6]))
    log_w, _ = log_weights(make_kernel, start, end, n=20_000, levels=levels)
    assert_mean(np.exp(log_w), np.exp(end.log_z - start.log_z))


def test_one_level_is_plain_importance_sampling():
    """log w = E_0(x) - E_1(x) at the start, and the point moves by the last law's kernel."""
    start, end = gaussian(jnp.zeros(2), 1.0), gaussian(jnp.ones(2), 0.5)
    x = jnp.array([0.3, -0.2])
    log_w, after = annealed_log_weight(
        partial(mala, step_size=0.01), start.energy, end.energy, jax.random.key(0), x,
        jnp.array([0.0, 1.0]),
    )  # fmt: skip
    np.testing.assert_allclose(log_w, start.energy(x) - end.energy(x), rtol=1e-6)
    kernel = mala(end.energy, step_size=0.01)
    moves = {
        tuple(np.asarray(kernel.step(key, kernel.init(x))[0].x).round(4))
        for key in jax.random.split(jax.random.key(1), 2)
    }
    assert np.linalg.norm(after - x) < 0.7
    assert len(moves) == 2


def test_the_mean_log_weight_falls_short_by_the_dissipated_work():
    """Without a move of the chain (h -> 0) the shortfall is KL(p_0 || p_1) in closed form."""
    start, end = gaussian(jnp.zeros(2), 1.0), gaussian(jnp.ones(2), 1.0)
    log_w, _ = log_weights(partial(mala, step_size=1e-8), start, end, n=20_000, levels=4)
    assert_mean(log_w, (end.log_z - start.log_z) - 1.0)  # KL = |m|^2 / 2 = 1


@pytest.mark.slow
def test_forward_and_reverse_runs_bracket_log_z_of_a_mixture_in_ten_dimensions():
    """Within .05 nats, from a start that knows nothing of the modes."""
    means = 2.5 * jax.random.rademacher(jax.random.key(7), (4, 10), jnp.float32)
    law = gaussian_mixture(means, jnp.array([0.8, 1.0, 0.9, 1.1]), jnp.array([1.0, 2.0, 3.0, 4.0]))
    start = gaussian(jnp.zeros(10), 2.0)
    make = partial(hmc, step_size=0.6, num_leapfrog=3)
    forward, _ = log_weights(make, start, law, n=6000, levels=200, seed=1)
    reverse, _ = log_weights(make, law, start, n=6000, levels=200, seed=2)
    bracket = log_z_bracket(forward, reverse)
    truth = law.log_z - start.log_z
    for side in bracket:
        assert side.standard_error < 0.02
        assert side.effective > 1000
    assert bracket.lower.value - 5 * bracket.lower.standard_error < truth
    assert truth < bracket.upper.value + 5 * bracket.upper.standard_error
    assert abs(bracket.lower.value - truth) < 0.05
    assert abs(bracket.upper.value - truth) < 0.05
    assert np.mean(forward) < truth < -np.mean(reverse)  # Jensen, both ways


def test_log_mean_weight_against_log_normal_weights():
    """log w ~ N(m, s^2): log E w = m + s^2 / 2, relative error sqrt((e^(s^2) - 1) / n)."""
    n, m, s = 40_000, -3.0, 0.5
    drawn = m + s * jax.random.normal(jax.random.key(0), (n,))
    estimate = log_mean_weight(drawn)
    error = np.sqrt(np.expm1(s**2) / n)
    assert abs(estimate.value - (m + s**2 / 2)) < 5 * error
    np.testing.assert_allclose(estimate.standard_error, error, rtol=0.05)
    np.testing.assert_allclose(estimate.effective, n * np.exp(-(s**2)), rtol=0.05)
    far = log_mean_weight(drawn - 500.0)  # exp underflows
    np.testing.assert_allclose(far.value + 500, estimate.value, atol=1e-3)
    np.testing.assert_allclose(far.standard_error, estimate.standard_error, rtol=1e-3)


def test_the_bracket_puts_the_reverse_estimate_on_the_other_side():
    bracket = log_z_bracket(jnp.array([1.0, 1.0]), jnp.array([-2.0, -2.0]))
    np.testing.assert_allclose(bracket.lower.value, 1.0, rtol=1e-6)
    np.testing.assert_allclose(bracket.upper.value, 2.0, rtol=1e-6)


@pytest.mark.parametrize("betas", [[0.0], [0.0, 0.5], [0.1, 1.0], [0.0, 0.5, 0.5, 1.0]])
def test_a_ladder_that_does_not_rise_from_0_to_1_is_refused(betas):
    law = gaussian(jnp.zeros(2), 1.0)
    with pytest.raises(ValueError, match="`annealed_log_weight` got betas"):
        annealed_log_weight(
            partial(mala, step_size=0.1), law.energy, law.energy, jax.random.key(0),
            jnp.zeros(2), jnp.array(betas),
        )  # fmt: skip


def test_one_weight_is_refused():
    with pytest.raises(ValueError, match="`log_mean_weight` got 1 weights"):
        log_mean_weight(jnp.zeros(1))


def correlated(scale):
    """A Gaussian in the plane with mean (3, -200) and standard deviations (2, 50) scale."""
    mean, factor = jnp.array([3.0, -200.0]), scale * jnp.array([[2.0, 0.0], [30.0, 40.0]])
    whiten = jnp.linalg.inv(factor)
    draw = lambda key: mean + factor @ jax.random.normal(key, (2,))  # noqa: E731
    energy = lambda x: 0.5 * jnp.sum((whiten @ (x - mean)) ** 2) + 7.0  # noqa: E731
    log_z = jnp.log(2 * jnp.pi) + jnp.log(80.0 * scale**2) - 7.0
    return mean, factor, draw, energy, float(log_z)


def test_log_z_of_the_gaussian_itself_is_exact():
    mean, factor, draw, energy, log_z = correlated(1.0)
    ends = jax.vmap(draw)(jax.random.split(jax.random.key(0), 20))
    found = log_z_from_gaussian(energy, jax.random.key(1), ends, mean, factor, num_levels=3)
    for bound in found:
        np.testing.assert_allclose(bound.value, log_z, atol=1e-3)
        np.testing.assert_allclose(bound.effective, 20, rtol=1e-3)


def test_annealing_from_a_gaussian_brackets_log_z_in_the_units_of_the_data():
    """From a Gaussian of half the scale, and shifted: both sides within five standard errors."""
    mean, factor, draw, energy, log_z = correlated(1.0)
    ends = jax.vmap(draw)(jax.random.split(jax.random.key(0), 200))
    near = mean + factor @ jnp.array([0.5, -0.3])
    found = jax.jit(log_z_from_gaussian, static_argnums=0, static_argnames="num_levels")(
        energy, jax.random.key(1), ends, near, 0.6 * factor, num_levels=100
    )
    for bound in found:
        assert 0 < bound.standard_error < 0.1
        assert abs(bound.value - log_z) < 5 * bound.standard_error
        assert bound.effective > 50
