"""The training step against numpy and the loop against itself: interrupted, spread, diverging."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ebm_jax.calculus import score_from_energy
from ebm_jax.checkpoints import Checkpoints
from ebm_jax.keys import example_keys
from ebm_jax.losses import contrastive_divergence, denoising_score_matching, noise_conditional
from ebm_jax.nets import ScoreMLP, precondition
from ebm_jax.runs import training
from ebm_jax.runs.endings import RunError
from ebm_jax.samplers import draw_starts, replay_buffer, run, ula, write_back
from ebm_jax.sharding import data_mesh, replicate, split
from ebm_jax.training import TrainingDiverged, fit, init_state, make_step, persistent_chains
from tests.begun import begun
from tests.statistics import assert_mean, assert_variance

RATE, MOMENTUM = 0.1, 0.5
RNG = np.random.default_rng(0)
INPUTS, TARGETS = RNG.normal(size=(15, 6, 2)), RNG.normal(size=(15, 6))  # steps, batch
WEIGHT = np.array([0.5, -1.0])


def squared_error(params, key, example):
    x, y = example
    return 0.5 * (x @ params["w"] - y) ** 2


def strict(optimizer):
    """`optimizer` where types must not mix: optax's Adam raises a float to an int32."""

    def update(*args):
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(*args)

    return optax.GradientTransformation(optimizer.init, update)


def momentum():
    return optax.sgd(RATE, momentum=MOMENTUM)


def start(optimizer=None, seed=0):
    params = {"w": jnp.float32(WEIGHT)}
    return init_state(params, optimizer or momentum(), jax.random.key(seed))


def batches(first, count):
    some = slice(first, first + count)
    return jnp.float32(INPUTS[some]), jnp.float32(TARGETS[some])


def by_hand(ema_decay):
    """(w, ema, loss, grad_norm) after each step of gradient descent with momentum."""
    w, ema, velocity = WEIGHT, WEIGHT, np.zeros(2)
    for t, (x, y) in enumerate(zip(INPUTS, TARGETS, strict=True)):
        loss, grad = 0.5 * np.mean((x @ w - y) ** 2), x.T @ (x @ w - y) / len(y)
        velocity = grad + MOMENTUM * velocity
        w = w - RATE * velocity
        decay = min(ema_decay, (1 + t) / (10 + t))  # the ramp: 1/10, 2/11, 3/12 ...
        ema = decay * ema + (1 - decay) * w
        yield w, ema, loss, np.linalg.norm(grad)


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.3}, {"ema_decay": 0.0}])
def test_steps_are_those_of_momentum_and_the_ramped_average_written_out(options):
    step, state = jax.jit(make_step(squared_error, momentum(), **options)), start()
    np.testing.assert_array_equal(state.ema["w"], jnp.float32(WEIGHT))
    for i, (w, ema, loss, grad_norm) in enumerate(by_hand(options.get("ema_decay", 0.999))):
        assert state.step == i
        state, metrics = step(state, jax.tree.map(lambda leaf: leaf[0], batches(i, 1)))
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-4)
        np.testing.assert_allclose(state.ema["w"], ema, rtol=1e-4)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
        np.testing.assert_allclose(metrics["grad_norm"], grad_norm, rtol=1e-4)
    assert state.key == start().key


def test_average_approaches_its_decay_however_long_the_run():
    """At step t the ramp is (1 + t) / (10 + t): far along, `ema_decay` rules by default .999."""
    state = start()._replace(step=jnp.int32(100_000), ema={"w": jnp.zeros(2)})
    step = make_step(lambda params, key, example: 0.0 * params["w"].sum(), optax.sgd(0.0))
    state, _ = step(state, jnp.zeros((1, 1)))
    np.testing.assert_allclose(state.ema["w"], 0.001 * WEIGHT, rtol=1e-3)


def test_optimizers_that_look_at_the_parameters_are_given_them():
    """Decoupled weight decay: w (1 - rate * decay) when the gradient is zero."""
    optimizer = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))
    step = make_step(lambda params, key, example: 0.0 * params["w"].sum(), optimizer)
    state, _ = step(start(optimizer), jnp.zeros((1, 1)))
    np.testing.assert_allclose(state.params["w"], WEIGHT * 0.95, rtol=1e-5)


def test_a_step_does_not_change_with_the_batch_size():
    """Every example given twice makes the same step."""
    step = jax.jit(make_step(squared_error, momentum()))
    x, y = jax.tree.map(lambda leaf: leaf[0], batches(0, 1))
    once, metrics = step(start(), (x, y))
    twice, metrics_twice = step(start(), (jnp.repeat(x, 2, 0), jnp.repeat(y, 2, 0)))
    np.testing.assert_allclose(twice.params["w"], once.params["w"], rtol=1e-6)
    np.testing.assert_allclose(metrics_twice["loss"], metrics["loss"], rtol=1e-6)


# ---- randomness


def draws_of(seed, batch_size, num_steps):
    """What `num_steps` steps drew for each example, read off gradients that are the draws."""

    def loss(params, key, index):
        noise = jax.random.normal(key)
        return jnp.sum(params["seen"] * jax.nn.one_hot(index, batch_size) * noise) * batch_size

    optimizer = optax.identity()  # the parameters gain each step's gradient
    state = init_state({"seen": jnp.zeros(batch_size)}, optimizer, jax.random.key(seed))
    step, seen = jax.jit(make_step(loss, optimizer)), [np.zeros(batch_size)]
    for _ in range(num_steps):
        state, _ = step(state, jnp.arange(batch_size))
        seen.append(np.asarray(state.params["seen"]))
    return np.diff(seen, axis=0)


def test_examples_and_steps_draw_independent_noise_of_their_own():
    noise = draws_of(0, 500, 4).T
    assert_mean(noise, np.zeros(4))
    assert_variance(noise, np.ones(4), mean=0.0)
    assert_mean(np.einsum("ni,nj->nij", noise, noise), np.eye(4))
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.2
    assert np.abs(draws_of(1, 500, 1)[0] - noise[:, 0]).min() > 0  # another seed


def test_an_example_draws_the_same_noise_in_a_batch_of_any_size():
    np.testing.assert_allclose(draws_of(0, 3, 4), draws_of(0, 500, 4)[:, :3], atol=1e-5)


# ---- memory: what a step hands on to the next


def remembering(params, key, memory, batch):
    """Counts the steps, and moves the inputs by that and by w."""
    x, y = batch
    examples = x + memory["steps"] + params["w"][None], y
    return {"steps": memory["steps"] + 1}, examples, {"remembered": memory["steps"]}


def test_prepared_examples_by_hand_with_no_gradient_through_the_preparing():
    """Inputs z = x + t + w at step t; the slope of the loss is z (z w - y), with z held fixed."""
    optimizer, memory, w = optax.sgd(0.01), {"steps": jnp.float32(0)}, WEIGHT
    step = jax.jit(make_step(squared_error, optimizer, prepare=remembering))
    state = init_state({"w": jnp.float32(w)}, optimizer, jax.random.key(0), memory)
    for t, (x, y) in enumerate(zip(INPUTS[:4], TARGETS[:4], strict=True)):
        z = x + t + w
        residual = z @ w - y
        w = w - 0.01 * z.T @ residual / len(y)
        state, metrics = step(state, (jnp.float32(x), jnp.float32(y)))
        np.testing.assert_allclose(metrics["loss"], 0.5 * np.mean(residual**2), rtol=1e-3)
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-3)
        assert metrics["remembered"] == t
        assert state.memory["steps"] == t + 1


def test_preparing_draws_noise_that_is_new_at_every_step_and_not_that_of_the_loss():
    """The memory gathers what `prepare` drew, the parameters what the loss drew."""
    n, steps = 2000, 3

    def prepare(params, key, memory, batch):
        return jax.vmap(jax.random.normal)(example_keys(key, batch)), batch, {}

    def loss(params, key, i):
        return n * params[i] * jax.random.normal(key)

    optimizer = optax.identity()
    state = init_state(jnp.zeros(n), optimizer, jax.random.key(3), jnp.zeros(n))
    step, drawn = jax.jit(make_step(loss, optimizer, prepare=prepare)), []
    for _ in range(steps):
        before = state.params
        state, _ = step(state, jnp.arange(n))
        drawn += [state.memory, state.params - before]
    drawn = np.stack(drawn, 1)
    assert_mean(np.einsum("ni,nj->nij", drawn, drawn), np.eye(2 * steps))


# ---- many devices


def score_loss(params, key, x):
    denoise = precondition.edm(partial(ScoreMLP((16,)).apply, params))
    return noise_conditional(denoise, key, x, jnp.float32(0.5))


def score_state():
    x = jnp.zeros(2)
    params = ScoreMLP((16,)).init(jax.random.key(0), x, jnp.float32(0))
    return init_state(params, optax.adam(1e-2), jax.random.key(1))


def planar_batches(first, count):
    keys = [jax.random.key(step) for step in range(first, first + count)]
    return jnp.stack([jax.random.normal(key, (16, 2)) for key in keys])


def losses_on(mesh):
    def place(first, count):
        return split(planar_batches(first, count), mesh, axis=1)

    step = make_step(score_loss, strict(optax.adam(1e-2)))
    calls = fit(step, replicate(score_state(), mesh), place, num_steps=20, steps_per_call=10)
    states, metrics = zip(*calls, strict=True)
    assert len(jax.tree.leaves(states[-1].params)[0].sharding.device_set) == mesh.size
    return np.concatenate([m["loss"] for m in metrics])


def test_losses_on_one_device_and_on_eight_agree():
    alone, spread = losses_on(data_mesh(1)), losses_on(data_mesh(16))
    np.testing.assert_allclose(spread, alone, rtol=1e-5)
    assert alone[-5:].mean() < alone[:5].mean()


# ---- persistent chains, whose buffer is the run's memory


def chain_energy(params, x):
    return 0.5 * jnp.exp(params["log_precision"]) * jnp.sum((x - params["mean"]) ** 2)


def advance(params, key, buffer, x_data):
    key_starts, key_chains = jax.random.split(key)
    starts = draw_starts(
        lambda key: jax.random.normal(key, (2,)), key_starts, buffer, 16, restart_share=0.1
    )
    kernel = ula(score_from_energy(partial(chain_energy, params)), step_size=0.1)

    def chain(key, x):
        return run(kernel, key, kernel.init(x), 3)[0].x

    x_model = jax.vmap(chain)(example_keys(key_chains, jnp.arange(16)), starts.x)
    buffer = write_back(buffer, starts, x_model)
    return buffer, (x_data, x_model), {"age": jnp.mean(buffer.age.astype(jnp.float32))}


def chain_loss(params, key, pair):
    return contrastive_divergence(partial(chain_energy, params), *pair)


def chain_run():
    """A step, and its first state."""
    optimizer = strict(optax.adam(1e-2))
    params = {"mean": jnp.ones(2), "log_precision": jnp.float32(0.5)}
    buffer = replay_buffer(jax.random.normal(jax.random.key(4), (40, 2)))
    state = init_state(params, optimizer, jax.random.key(1), buffer)
    return make_step(chain_loss, optimizer, prepare=advance), state


def chains_on(mesh):
    step, state = chain_run()

    def place(first, count):
        return split(planar_batches(first, count), mesh, axis=1)

    *_, (state, _) = fit(step, replicate(state, mesh), place, num_steps=20, steps_per_call=10)
    assert len(state.memory.x.sharding.device_set) == mesh.size
    return state


def test_chains_and_what_they_teach_agree_on_one_device_and_on_eight():
    alone, spread = chains_on(data_mesh(1)), chains_on(data_mesh(16))
    np.testing.assert_array_equal(spread.memory.age, alone.memory.age)
    np.testing.assert_allclose(spread.memory.x, alone.memory.x, atol=1e-5)
    np.testing.assert_allclose(spread.params["mean"], alone.params["mean"], rtol=1e-4)
    assert alone.memory.age.max() > 3


# ---- the loop


def test_fit_makes_the_calls_it_was_asked_for_and_each_state_is_by_hand():
    asked = []

    def watched(first, count):
        asked.append((first, count))
        return batches(first, count)

    expected = list(by_hand(0.999))
    done = 0
    for state, metrics in fit(
        make_step(squared_error, momentum()), start(), watched, num_steps=7, steps_per_call=3
    ):
        count = len(metrics["loss"])
        done += count
        assert state.step == done
        losses = [loss for _, _, loss, _ in expected[done - count : done]]
        np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-4)
        np.testing.assert_allclose(state.params["w"], expected[done - 1][0], rtol=1e-4)
    assert asked == [(0, 3), (3, 3), (6, 1)]


def test_fit_may_yield_after_every_step():
    step = make_step(squared_error, momentum())
    calls = list(fit(step, start(), batches, num_steps=2, steps_per_call=1))
    expected = [loss for _, _, loss, _ in by_hand(0.999)][:2]
    np.testing.assert_allclose([m["loss"][0] for _, m in calls], expected, rtol=1e-4)


def test_fit_has_nothing_to_do_for_a_finished_state():
    state = start()._replace(step=jnp.int32(7))
    step = make_step(squared_error, momentum())
    assert list(fit(step, state, batches, num_steps=7, steps_per_call=3)) == []


def test_fit_reuses_the_memory_of_the_state_that_goes_in():
    state = start()
    next(fit(make_step(squared_error, momentum()), state, batches, num_steps=2, steps_per_call=2))
    assert state.params["w"].is_deleted()
    assert state.ema["w"].is_deleted()
    step, state = chain_run()
    next(fit(step, state, planar_batches, num_steps=2, steps_per_call=2))
    assert state.memory.x.is_deleted()


def bits(state):
    leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
    return [np.asarray(leaf).tobytes() for leaf in leaves]


def score_run():
    return make_step(score_loss, strict(optax.adam(1e-2))), score_state()


@pytest.mark.parametrize("one_scan", [True, False])
@pytest.mark.parametrize("start_run", [score_run, chain_run])
def test_a_run_resumed_from_its_checkpoint_ends_on_the_same_bits(tmp_path, start_run, one_scan):
    """Parameters, average, optimizer, step, key and memory: N + N steps are 2 N steps."""
    step, state = start_run()
    train = partial(fit, step, batches=planar_batches, steps_per_call=4, one_scan=one_scan)
    *_, (whole, _) = train(state=state, num_steps=16)
    with Checkpoints(tmp_path) as checkpoints:
        for state, _ in train(state=start_run()[1], num_steps=8):
            checkpoints.save(int(state.step), state)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 8
        restored = checkpoints.restore(start_run()[1])
    halfway = bits(restored)
    assert halfway == bits(state)
    *_, (resumed, _) = train(state=restored, num_steps=16)
    assert bits(resumed) == bits(whole)
    assert bits(resumed) != halfway


# ---- errors


def test_steps_one_by_one_are_those_of_the_scan():
    """Parameters and rows of metrics, to the compiler's round-off; the last call is shorter."""
    step, _ = score_run()
    runs = [
        list(fit(step, score_run()[1], planar_batches, num_steps=7, steps_per_call=3, one_scan=s))
        for s in (True, False)
    ]
    for (_, one), (_, other) in zip(*runs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5)
    ends = [jax.tree.leaves(calls[-1][0].params) for calls in runs]
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def spoiled(at, value):
    """Batches whose one input of step `at`, counted from 1, is `value`."""

    def some(first, count):
        x, y = batches(first, count)
        index = at - 1 - first
        return (x.at[index, 2, 0].set(value) if 0 <= index < count else x), y

    return some


@pytest.mark.parametrize("at", [1, 4, 5, 7])
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_loss_that_is_not_finite_stops_the_run_by_step_and_quantity(at, value):
    step = make_step(squared_error, momentum())
    calls = fit(step, start(), spoiled(at, value), num_steps=9, steps_per_call=3)
    for _ in range((at - 1) // 3):  # every whole call before is yielded
        assert all(np.isfinite(values).all() for values in next(calls)[1].values())
    with pytest.raises(TrainingDiverged, match=rf"loss was (nan|inf) at step {at}$") as error:
        next(calls)
    assert (error.value.step, error.value.quantity) == (at, "loss")


def test_a_gradient_that_is_not_finite_stops_the_run_though_the_loss_is():
    """sqrt(|x w|) is 0 at x = 0, where its slope is infinite times zero."""

    def loss(params, key, example):
        return jnp.sqrt(jnp.sum((example[0] * params["w"]) ** 2))

    def zeroed(first, count):
        x, y = batches(first, count)
        return x.at[4 - first].set(0.0), y

    with pytest.raises(TrainingDiverged, match=r"grad_norm was nan at step 5$") as error:
        list(fit(make_step(loss, momentum()), start(), zeroed, num_steps=9, steps_per_call=9))
    assert (error.value.step, error.value.quantity) == (5, "grad_norm")


def spoil(part, at):
    """`make_step` whose update number `at` leaves one entry of a part of the state NaN."""
    step = make_step(squared_error, momentum())

    def spoiled_step(state, batch):
        new, metrics = step(state, batch)
        now = jnp.where(new.step == at, jnp.nan, 1.0)
        spoiled = jax.tree.map(lambda leaf: leaf.at[..., 0].multiply(now), getattr(new, part))
        return new._replace(**{part: spoiled}), metrics

    return spoiled_step


@pytest.mark.parametrize("one_scan", [True, False])
@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("params", "the parameters"),
        ("ema", "their average"),
        ("opt_state", "the optimizer's state"),
        ("memory", "the memory"),
    ],
)
def test_an_update_that_is_not_finite_is_never_yielded_though_its_loss_is(part, name, one_scan):
    """Not even at the last step, after which no loss would show it."""
    state = start()._replace(memory=jnp.ones(3))
    calls = fit(spoil(part, at=7), state, batches, num_steps=7, steps_per_call=3, one_scan=one_scan)
    for _ in range(2):
        good, metrics = next(calls)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(good[:3]))
        assert set(metrics) == {"loss", "grad_norm"}  # what is counted is nobody's figure
    with pytest.raises(TrainingDiverged, match=rf"update of step 7 left \d+ .* in {name}") as error:
        next(calls)
    assert (error.value.step, error.value.quantity) == (7, name)


def test_an_infinity_that_an_optimizer_starts_from_is_no_divergence():
    """As of a rule that keeps the best loss so far."""
    step = make_step(squared_error, momentum())
    state = start()._replace(memory=jnp.array([jnp.inf, 1.0]))
    *_, (end, _) = fit(step, state, batches, num_steps=3, steps_per_call=3)
    assert end.memory[0] == jnp.inf


def test_a_figure_of_the_preparing_that_is_not_finite_stops_the_run_by_its_name():
    def prepare(params, key, memory, batch):
        return memory + 1, batch, {"gap": jnp.where(memory == 4, jnp.nan, 0.0)}

    state = start()._replace(memory=jnp.int32(0))
    step = make_step(squared_error, momentum(), prepare=prepare)
    with pytest.raises(TrainingDiverged, match=r"gap was nan at step 5$"):
        list(fit(step, state, batches, num_steps=9, steps_per_call=3))


def test_numbers_out_of_range_are_refused_by_name_and_value():
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"`ramped` got decay={decay}"):
            make_step(squared_error, momentum(), ema_decay=decay)
    for count in (0, -1):
        calls = fit(squared_error, start(), batches, num_steps=3, steps_per_call=count)
        with pytest.raises(ValueError, match=f"`fit` got steps_per_call={count}"):
            next(calls)


def test_one_step_of_denoising_score_matching_turns_a_linear_score_towards_the_truth():
    """On N(0, I) at sigma = 1 the score is -x / 2; from 0 every step makes the slope negative."""

    def loss(params, key, x):
        return denoising_score_matching(lambda x, s: params["a"] * x, key, x, jnp.float32(1.0))

    optimizer = optax.sgd(0.1)
    state = init_state({"a": jnp.float32(0.0)}, optimizer, jax.random.key(0))
    step = jax.jit(make_step(loss, optimizer))
    for i in range(50):
        state, _ = step(state, jax.random.normal(jax.random.key(i), (512, 2)))
    np.testing.assert_allclose(state.params["a"], -0.5, atol=0.03)


# ---- rolling back


def hazard(params, key, memory, batch):
    """At the sixth step the run is lost with one key in two."""
    lost = (memory == 5) & (jax.random.uniform(key) < 0.5)
    return memory + 1, batch, {"luck": jnp.where(lost, jnp.nan, memory.astype(jnp.float32))}


def keys_lost(seed):
    """How many of the keys of a run, one after the other, are lost at the sixth step."""
    for count in range(100):
        key = jax.random.key(seed)
        key = jax.random.fold_in(key, count) if count else key
        if jax.random.uniform(jax.random.split(jax.random.fold_in(key, 5))[1]) >= 0.5:
            return count
    raise AssertionError


def rolling(folder, seed, allowed, *, num_steps=9):
    run = begun("test", str(folder), {"seed": seed})
    state = training.train(
        run,
        squared_error,
        {"w": jnp.float32(WEIGHT)},
        momentum(),
        batches,
        num_steps=num_steps,
        batch_size=6,
        seed=seed,
        steps_per_call=2,
        prepare=hazard,
        memory=jnp.int32(0),
        roll_backs=allowed,
    )
    return run, state


@pytest.mark.parametrize("seconds", [0.0, 1000.0])
def test_a_run_that_diverges_goes_on_from_its_last_checkpoint_with_other_keys(
    tmp_path, monkeypatch, capsys, seconds
):
    """From step 4, saved a call before, or from the start; never silently."""
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", seconds)
    seed = next(seed for seed in range(100) if keys_lost(seed) == 2)
    run, state = rolling(tmp_path, seed, 3)
    np.testing.assert_allclose(state.params["w"], list(by_hand(0.999))[8][0], rtol=1e-4)
    assert (state.step, state.memory) == (9, 9)
    assert state.key == jax.random.fold_in(jax.random.key(seed), 2)
    came_from = 4 if seconds == 0 else 0
    lines = (tmp_path / "roll_backs.txt").read_text().splitlines()
    assert lines == [
        f"training diverged: luck was nan at step 6: back to step {came_from} with another key, "
        f"roll-back {i} of 3"
        for i in (1, 2)
    ]
    assert all(line in capsys.readouterr().out for line in lines[:1])
    rows = [(int(row["step"]), int(row["roll_backs"])) for row in run.rows()]
    assert rows == [(step, 2 if step > came_from else 0) for step in (2, 4, 6, 8, 9)]
    again, same = rolling(tmp_path, seed, 3)  # the same command: done, and unchanged
    assert bits(same) == bits(state)
    assert len(again.rows()) == 5


def test_a_run_that_keeps_diverging_stops_after_the_roll_backs_it_was_allowed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    seed = next(seed for seed in range(100) if keys_lost(seed) == 2)
    word = r"luck was nan at step 6 after 1 roll-backs; the checkpoint of step 4 is kept in "
    for _ in range(2):  # the same command again changes nothing
        with pytest.raises(RunError, match=word):
            rolling(tmp_path, seed, 1)
    assert len((tmp_path / "roll_backs.txt").read_text().splitlines()) == 1


def test_a_run_that_was_not_asked_to_roll_back_stops_at_once(tmp_path):
    seed = next(seed for seed in range(100) if keys_lost(seed) == 1)
    with pytest.raises(RunError, match="luck was nan at step 6; there is no checkpoint yet"):
        rolling(tmp_path, seed, 0)
    assert not (tmp_path / "roll_backs.txt").exists()


# ---- the gradient in parts, and what looks on


@pytest.mark.parametrize("parts", [1, 2, 3, 6])
def test_a_gradient_taken_in_parts_is_that_of_the_batch(parts):
    step, state = jax.jit(make_step(squared_error, momentum(), accumulate=parts)), start()
    for i, (w, ema, loss, grad_norm) in enumerate(by_hand(0.999)):
        state, metrics = step(state, jax.tree.map(lambda leaf: leaf[0], batches(i, 1)))
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-4)
        np.testing.assert_allclose(state.ema["w"], ema, rtol=1e-4)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
        np.testing.assert_allclose(metrics["grad_norm"], grad_norm, rtol=1e-4)


def test_an_example_draws_the_same_noise_in_parts():
    """Noisy gradients of a batch in one part and in four: the same, to round-off."""

    def stepped(parts):
        step = jax.jit(make_step(score_loss, optax.sgd(0.1), accumulate=parts))
        begin = init_state(score_state().params, optax.sgd(0.1), jax.random.key(1))
        state, metrics = step(begin, planar_batches(0, 1)[0])
        return [*jax.tree.leaves(state.params), metrics["loss"]]

    for whole, parted in zip(stepped(1), stepped(4), strict=True):
        np.testing.assert_allclose(parted, whole, atol=1e-5)


def test_parts_that_do_not_divide_the_batch_are_refused():
    step = make_step(squared_error, momentum(), accumulate=4)
    with pytest.raises(ValueError, match=r"batch of 6 and accumulate=4"):
        step(start(), jax.tree.map(lambda leaf: leaf[0], batches(0, 1)))


@pytest.mark.parametrize(("one_scan", "seen"), [(True, [4, 8, 12, 15]), (False, range(1, 16))])
def test_somebody_may_watch_every_compiled_call(one_scan, seen):
    watched, announced = [], []
    calls = fit(
        make_step(squared_error, momentum()), start(), batches, num_steps=15, steps_per_call=4,
        one_scan=one_scan, watch=lambda done: bool(watched.append(done)), announce=announced.append,
    )  # fmt: skip
    assert [len(metrics["loss"]) for _, metrics in calls] == [4, 4, 4, 3]
    assert watched == [*seen]
    assert len(announced) == (2 if one_scan else 1)  # one program for each number of steps
    assert all(isinstance(program, jax.stages.Compiled) for program in announced)


@pytest.mark.parametrize("one_scan", [True, False])
def test_a_run_stopped_within_a_call_goes_on_to_the_same_rows_and_numbers(one_scan):
    options = {"num_steps": 15, "steps_per_call": 4, "one_scan": one_scan}
    step = make_step(squared_error, momentum())
    *_, (whole, _) = fit(step, start(), batches, **options)
    stopped = list(fit(step, start(), batches, watch=lambda done: done >= 6, **options))
    state = stopped[-1][0]
    assert int(state.step) == (8 if one_scan else 6)
    steps = [int(state.step) for state, _ in fit(step, state, batches, **options)]
    assert steps == ([12, 15] if one_scan else [8, 12, 15])
    state = list(fit(step, start(), batches, watch=lambda done: done >= 6, **options))[-1][0]
    *_, (again, _) = fit(step, state, batches, **options)
    np.testing.assert_allclose(again.params["w"], whole.params["w"], rtol=1e-6)


def test_step_by_step_each_batch_is_read_before_its_own_step():
    log = []

    def noted(first, count):
        log.append(("read", first))
        return batches(first, count)

    def watch(done):
        log.append(("step", done))
        return False

    options = {"num_steps": 3, "steps_per_call": 3, "one_scan": False}
    list(fit(make_step(squared_error, momentum()), start(), noted, watch=watch, **options))
    assert log == [("read", 0), ("step", 1), ("read", 1), ("step", 2), ("read", 2), ("step", 3)]


def test_persistent_chains_do_what_is_written_out_by_hand():
    """The same buffer, pairs and age as draws, chains and their return one by one."""
    by_library = persistent_chains(
        lambda params: ula(score_from_energy(partial(chain_energy, params)), step_size=0.1),
        lambda key: jax.random.normal(key, (2,)),
        num_steps=3,
        restart_share=0.1,
        measure=lambda params, data, model: {"gap": jnp.mean(model) - jnp.mean(data)},
    )
    params = {"mean": jnp.ones(2), "log_precision": jnp.float32(0.5)}
    buffer = replay_buffer(jax.random.normal(jax.random.key(4), (40, 2)))
    x_data = jax.random.normal(jax.random.key(5), (16, 2))
    ours = jax.jit(by_library)(params, jax.random.key(6), buffer, x_data)
    by_hand = jax.jit(advance)(params, jax.random.key(6), buffer, x_data)
    gap = ours[2].pop("gap")
    np.testing.assert_allclose(gap, np.mean(by_hand[1][1]) - np.mean(x_data), rtol=1e-4)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), ours, by_hand)
