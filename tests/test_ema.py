"""Moving averages against their weights written out, and post-hoc averages against the direct."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import ema

STEPS = 400
PATH = np.cumsum(np.random.default_rng(0).normal(size=(STEPS, 3)), 0)  # a walk of parameters


def follow(decay, path=PATH, start=100.0):
    """The average after every step, from far away."""

    def step(ema, visit):
        taken, params = visit
        b = decay(taken)
        ema = b * ema + (1 - b) * params
        return ema, ema

    visits = (jnp.arange(len(path)), jnp.float32(path))
    return np.asarray(jax.lax.scan(step, jnp.full(3, start), visits)[1], np.float64)


def test_ramped_rises_from_a_tenth_to_its_decay():
    taken = jnp.array([0, 8, 10**6])
    np.testing.assert_allclose(jax.vmap(ema.ramped(0.9))(taken), [0.1, 0.5, 0.9], rtol=1e-6)


def test_half_life_halves_a_weight_after_so_many_examples():
    decay = ema.half_life(1000.0, 50)
    far = float(decay(jnp.int32(10**6)))
    assert far**20 == pytest.approx(0.5, rel=1e-4)  # 20 steps of 50
    early = float(decay(jnp.int32(100)))  # 5,000 seen: the half-life is 250 of them, 5 steps
    assert early**5 == pytest.approx(0.5, rel=1e-4)
    assert float(decay(jnp.int32(0))) == 0


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1, 0.25])
def test_power_average_weighs_steps_by_a_power_of_their_number(width):
    """Weights (1 - b_t) times all later b, whose spread over the run is the width asked for."""
    gamma = ema.power_exponent(width)
    b = (1 - 1 / np.arange(1, STEPS + 1)) ** (gamma + 1)
    weights = (1 - b) * np.append(np.cumprod(b[:0:-1])[::-1], 1.0)
    assert weights.sum() == pytest.approx(1)  # none is left to the start
    expected = weights @ PATH
    np.testing.assert_allclose(follow(ema.power(width))[-1], expected, rtol=1e-3, atol=1e-3)
    time = np.arange(1, STEPS + 1) / STEPS
    spread = np.sqrt(weights @ time**2 - (weights @ time) ** 2)
    assert spread == pytest.approx(width, rel=0.02)


@pytest.mark.parametrize("wanted", [0.03, 0.05, 0.08, 0.15])
def test_an_average_chosen_afterwards_is_the_one_that_was_not_kept(wanted):
    """From widths .05 and .10 saved at 16 times: within 2% of how far averages lie apart."""
    times = np.linspace(STEPS / 16, STEPS, 16).astype(int)
    saved = [(float(t), width) for width in (0.05, 0.1) for t in times]
    trees = [{"w": follow(ema.power(w))[int(t) - 1]} for t, w in saved]
    weights = ema.power_combination(saved, (float(STEPS), wanted))
    found = ema.combine([jax.tree.map(jnp.float32, tree) for tree in trees], weights)["w"]
    direct = follow(ema.power(wanted))[-1]
    apart = np.abs(PATH).max()
    np.testing.assert_allclose(found, direct, atol=0.02 * apart)
    assert weights.sum() == pytest.approx(1, abs=0.01)


def test_a_saved_average_is_found_again():
    saved = [(100.0, 0.05), (200.0, 0.05), (200.0, 0.1)]
    weights = ema.power_combination(saved, (200.0, 0.1))
    np.testing.assert_allclose(weights, [0, 0, 1], atol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ema.ramped(1.0), "`ramped` got decay=1.0"),
        (lambda: ema.half_life(0.0, 4), "`half_life` got examples=0.0"),
        (lambda: ema.power(0.3), "`power_exponent` got relative_width=0.3"),
        (lambda: ema.power_combination([], (1.0, 0.1)), "`power_combination` got 0"),
        (lambda: ema.power_combination([(0.0, 0.1)], (1.0, 0.1)), "got 1 averages at"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
