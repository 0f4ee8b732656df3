"""The replay buffer: bookkeeping by hand, shares in standard errors, and chains that learn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ebm_jax.calculus import score_from_energy
from ebm_jax.keys import example_keys
from ebm_jax.losses import contrastive_divergence
from ebm_jax.samplers import ReplayBuffer, draw_starts, replay_buffer, run, ula, write_back
from ebm_jax.training import fit, init_state, make_step
from tests.statistics import assert_mean, assert_variance


def fresh(key):
    """A start where no chain of these tests is."""
    return -jax.random.uniform(key, (2,), minval=0.1)


def numbered(size):
    """Chain i is at (i, i) and has been visited i times."""
    return ReplayBuffer(jnp.repeat(jnp.arange(float(size))[:, None], 2, 1), jnp.arange(size))


def test_a_new_buffer_holds_the_draws_at_age_zero():
    x = jax.random.normal(jax.random.key(0), (5, 2, 3, 1))
    buffer = replay_buffer(x)
    np.testing.assert_array_equal(buffer.x, x)
    np.testing.assert_array_equal(buffer.age, np.zeros(5))


def test_starts_are_what_the_buffer_holds_at_their_places_no_two_alike():
    for seed in range(5):
        starts = draw_starts(fresh, jax.random.key(seed), numbered(40), 30, restart_share=0.0)
        assert len(set(np.asarray(starts.places).tolist())) == 30
        np.testing.assert_array_equal(starts.x, np.repeat(np.asarray(starts.places)[:, None], 2, 1))
        np.testing.assert_array_equal(starts.age, starts.places)


def test_a_batch_as_large_as_the_buffer_visits_every_chain():
    starts = draw_starts(fresh, jax.random.key(0), numbered(7), 7, restart_share=0.0)
    assert sorted(np.asarray(starts.places).tolist()) == list(range(7))


def test_every_place_of_the_buffer_and_of_the_batch_is_as_likely_as_any_other():
    """Chain j of 12 is at place i of a batch of 3 with probability 1 / 12."""
    draw = partial(draw_starts, fresh, buffer=numbered(12), batch_size=3, restart_share=0.0)
    index = jax.jit(jax.vmap(lambda key: draw(key).places))(
        jax.random.split(jax.random.key(1), 4000)
    )
    assert_mean(np.asarray(index)[..., None] == np.arange(12), np.full((3, 12), 1 / 12))


def restarted(starts):
    return np.asarray(starts.x[..., 0] < 0)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_chains_begins_anew_at_age_zero_each_from_a_draw_of_its_own(share):
    draw = partial(draw_starts, fresh, buffer=numbered(12), batch_size=4, restart_share=share)
    starts = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(2), 2000))
    anew = restarted(starts)
    assert_mean(anew.astype(float), np.full(4, share))
    if share == 0.25:  # whether a chain of a batch begins anew does not depend on the others
        assert_mean(anew[:, 0] & anew[:, 1], share**2)
    np.testing.assert_array_equal(starts.age[anew], 0)
    np.testing.assert_array_equal(starts.age[~anew], starts.places[~anew])
    values = np.asarray(starts.x[anew]).ravel()
    assert len(np.unique(values)) >= 0.99 * len(values)
    if len(values):
        assert_mean(values, -0.55)


def test_what_chain_i_draws_does_not_depend_on_the_size_of_the_batch():
    """Its restart and its fresh start come from (key, i)."""
    few = draw_starts(fresh, jax.random.key(3), numbered(50), 10, restart_share=0.5)
    many = draw_starts(fresh, jax.random.key(3), numbered(50), 40, restart_share=0.5)
    anew = restarted(few)
    assert 0 < anew.sum() < 10
    np.testing.assert_array_equal(restarted(many)[:10], anew)
    np.testing.assert_array_equal(many.x[:10][anew], few.x[anew])


def test_written_back_chains_take_their_places_one_visit_older_and_no_others_change():
    buffer = numbered(6)
    starts = draw_starts(fresh, jax.random.key(4), buffer, 3, restart_share=0.4)
    after = write_back(buffer, starts, starts.x + 0.5)
    for i in range(6):
        if i in starts.places:
            j = int(np.argmax(starts.places == i))
            np.testing.assert_array_equal(after.x[i], starts.x[j] + 0.5)
            assert after.age[i] == starts.age[j] + 1
        else:
            np.testing.assert_array_equal(after.x[i], buffer.x[i])
            assert after.age[i] == buffer.age[i]


def test_ages_settle_at_one_over_the_share_on_average():
    """With the whole buffer visited each time, P(age at least k + 1) = (1 - r)^k."""
    share, size = 0.2, 4000

    def visit(buffer, key):
        starts = draw_starts(fresh, key, buffer, size, restart_share=share)
        return write_back(buffer, starts, starts.x), None

    buffer = replay_buffer(jnp.zeros((size, 2)))
    keys = jax.random.split(jax.random.key(5), 60)
    age = np.asarray(jax.jit(partial(jax.lax.scan, visit))(buffer, keys)[0].age)
    assert_mean(age, 1 / share)
    assert_mean(age >= 4, (1 - share) ** 3)


@pytest.mark.parametrize(
    ("size", "batch_size", "share", "word"),
    [
        (4, 5, 0.1, "batch_size=5 for a buffer of 4 chains"),
        (4, 0, 0.1, "batch_size=0 for a buffer of 4 chains"),
        (4, 2, -0.1, "restart_share=-0.1: give a number from 0 to 1"),
        (4, 2, 1.1, "restart_share=1.1: give a number from 0 to 1"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name_and_value(size, batch_size, share, word):
    with pytest.raises(ValueError, match=word):
        draw_starts(fresh, jax.random.key(0), numbered(size), batch_size, restart_share=share)


def test_an_empty_buffer_is_refused():
    with pytest.raises(ValueError, match="`replay_buffer` got 0 chains: give at least one draw"):
        replay_buffer(jnp.zeros((0, 2)))


# ---- persistent contrastive divergence, whole


@pytest.mark.parametrize("d", [2, 10])
@pytest.mark.parametrize("batch_size", [32, 128])
def test_persistent_chains_learn_the_precision_whose_biased_chains_look_like_the_data(
    d, batch_size
):
    """E = a |x|^2 / 2 on N(0, I / 4): chains of step h have variance 1 / (a (1 - h a / 2)).

    Setting that to 1/4 gives a = 4.508 at h = .05: what contrastive divergence learns is
    the law of its chains, 13% off the truth 4. Chains that were restarted, or data in
    the chains' place, would give another a.
    """
    h, num_steps = 0.05, 600
    a = (1 - np.sqrt(1 - 8 * h)) / h
    assert np.isclose(1 / (a * (1 - h * a / 2)), 0.25)

    def energy(params, x):
        return 0.5 * params["a"] * jnp.sum(x**2)

    def prepare(params, key, buffer, x_data):
        kernel = ula(score_from_energy(partial(energy, params)), step_size=h)
        key_starts, key_chains = jax.random.split(key)
        starts = draw_starts(
            lambda _: jnp.zeros(d), key_starts, buffer, len(x_data), restart_share=0.0
        )

        def chain(key, x):
            return run(kernel, key, kernel.init(x), 5)[0].x

        keys = example_keys(key_chains, jnp.arange(len(x_data)))
        x_model = jax.vmap(chain)(keys, starts.x)
        return write_back(buffer, starts, x_model), (x_data, x_model), {}

    def loss(params, key, pair):
        return contrastive_divergence(partial(energy, params), *pair)

    def batches(first, count):
        keys = example_keys(jax.random.key(8), first + jnp.arange(count))
        return 0.5 * jax.vmap(lambda key: jax.random.normal(key, (batch_size, d)))(keys)

    optimizer = optax.sgd(1.0 / d)
    buffer = replay_buffer(jnp.zeros((256, d)))
    state = init_state({"a": jnp.float32(2.0)}, optimizer, jax.random.key(9), buffer)
    step = make_step(loss, optimizer, ema_decay=0.99, prepare=prepare)
    *_, (state, _) = fit(step, state, batches, num_steps=num_steps, steps_per_call=num_steps)
    # the average of the last 100 steps rests on 100 batches: a's standard error is
    # a sqrt(2 / (100 b d)) from data and about as much again from chains
    assert abs(state.ema["a"] - a) < 5 * 2 * a * np.sqrt(2 / (100 * batch_size * d))
    assert_mean(state.memory.x, np.zeros(d))
    assert_variance(state.memory.x, np.full(d, 0.25), mean=0.0)
