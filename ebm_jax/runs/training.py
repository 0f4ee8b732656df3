"""The training loop of the experiments: `fit` with checkpoints, metrics.csv and a progress bar."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ebm_jax.checkpoints import Checkpoints
from ebm_jax.distributed import first_says, heed_sigterm, is_first
from ebm_jax.ema import Decay
from ebm_jax.keys import example_keys
from ebm_jax.runs.endings import RESUME, RunError, Stopped, say
from ebm_jax.runs.progress import progress
from ebm_jax.runs.roll_backs import note_roll_back, past_roll_backs
from ebm_jax.runs.run import SAVED, Run
from ebm_jax.sharding import (
    fetch,
    memory_plan,
    replicate,
    split,
)
from ebm_jax.training import (
    Loss,
    Prepare,
    TrainingDiverged,
    TrainState,
    fit,
    init_state,
    make_step,
)
from ebm_jax.types import Example, PRNGKey

SECONDS_BETWEEN_CHECKPOINTS = 20.0
LESS_MEMORY = (
    "--accumulate 2 takes a batch in two parts, --mesh fsdp=N splits parameters over N devices, "
    "--remat and --bfloat16 (where the experiment has them) keep less of the network's insides"
)


def train(
    run: Run,
    loss: Loss,
    params: PyTree,
    optimizer: optax.GradientTransformation,
    batches: Callable[[int, int], PyTree],
    *,
    num_steps: int,
    batch_size: int,
    seed: int,
    ema_decay: float | Decay = 0.999,
    steps_per_call: int = 50,
    one_scan: bool = True,
    evaluate: Callable[[PyTree], dict[str, float]] = lambda ema: {},
    prepare: Prepare | None = None,
    memory: PyTree = (),
    roll_backs: int = 0,
    best: str = "loss",
    save: Callable[[int, PyTree], None] = lambda step, ema: None,
) -> TrainState:
    """Trains, or resumes training, until `num_steps`, with the arguments of `make_step` and `fit`.

    Args:
        run: the run that keeps checkpoints and metrics.
        loss: loss(params, key, example).
        params: initial parameters.
        optimizer: any optax transformation.
        batches: batches(first_step, count), leaves (count, batch, ...).
        num_steps: total number of steps.
        batch_size: examples per batch, split over as many of the devices as divide it.
        seed: seed of the randomness of the loss.
        ema_decay: decay of the exponential moving average (EMA) of the parameters.
        steps_per_call: steps per row of metrics.csv.
        one_scan: as for `fit`; False for networks with convolutions.
        evaluate: evaluate(ema) returns further metrics of a row, for the averaged parameters.
        prepare: computation before the loss in each step, as for `make_step`.
        memory: initial memory of `prepare`.
        roll_backs: number of times that a run that diverges may return to its last checkpoint,
            or to its start, and continue with another key. Each is printed, counted in
            metrics.csv and listed in roll_backs.txt.
        best: metric whose lowest value marks a checkpoint to be kept in addition to the latest
            ones; none is marked if rows lack this metric.
        save: save(step, averaged parameters), called in process 0 with each checkpoint.

    Raises:
        RunError: Training diverged more often than allowed; the message names the last good
            checkpoint.
    """
    machine, mesh = run.machine, run.machine.mesh_for(batch_size)
    state = init_state(params, optimizer, jax.random.key(seed), memory, mesh=mesh)
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
    step = make_step(
        loss,
        optimizer,
        ema_decay=ema_decay,
        prepare=prepare,
        accumulate=machine.accumulate,
        mesh=mesh,
    )
    run.trains = True
    with (
        heed_sigterm() as termination,
        Checkpoints(run.checkpoints, best=best, tell=say) as checkpoints,
        machine.profiler(run.folder / "profile", steps_per_call if one_scan else 1) as look,
        run.clock("train"),
    ):

        def watch(step: int) -> bool:
            look(step)
            return termination.asked()

        fit_from = partial(
            fit,
            step,
            batches=lambda first, count: split(batches(first, count), mesh, axis=1),
            num_steps=num_steps,
            steps_per_call=steps_per_call,
            one_scan=one_scan,
            watch=watch,
            announce=say_memory,
        )
        if checkpoints.latest_step is not None:
            state = checkpoints.restore(like)
            say(f"resumed from step {int(state.step)}")
        else:
            start_anew(run)
            if roll_backs:
                checkpoints.save(0, state)
        look(int(state.step))
        while True:
            past = len(past_roll_backs(run))
            if past:
                key = jax.random.fold_in(jax.random.key(seed), past)
                state = state._replace(key=replicate(key, mesh))
            try:
                state = _follow(run, fit_from, state, checkpoints, num_steps, evaluate, save)
                whole = fetch((state.params, state.ema, state.memory))
                return state._replace(params=whole[0], ema=whole[1], memory=whole[2])
            except TrainingDiverged as error:
                note_roll_back(run, error, checkpoints.latest_step, roll_backs)
                state = checkpoints.restore(like)


def note_saved(run: Run) -> None:
    """Marks in the run's folder that a checkpoint has been saved, if one has; see `start_anew`."""
    if any(path.name.isdecimal() for path in run.checkpoints.iterdir()):
        (run.folder / SAVED).touch()


def start_anew(run: Run) -> None:
    """Reports if an earlier call stopped before its first checkpoint; refuses if one was lost.

    Raises:
        RunError: A checkpoint was saved and none is left.
    """
    rows = run.rows()
    if (run.folder / SAVED).exists():
        raise RunError(
            f"this run was saved, but there is no checkpoint in {run.checkpoints}: bring them "
            f"back, or remove {run.folder} to train from step 0."
        )
    if rows:
        say(f"stopped at step {rows[-1]['step']}, before the first save: training starts again")


def say_memory(compiled: jax.stages.Compiled) -> None:
    """Prints the device memory that a step needs, and advice if there is not enough."""
    plan = memory_plan(compiled)
    of = f"{plan.peak / 2**30:.2f} of {plan.available / 2**30:.1f} GiB"
    say(f"memory of a device: {of} at the peak of a step, {plan.arguments / 2**30:.2f} before it")
    if plan.peak > plan.available:
        say(f"that is more than there is: {LESS_MEMORY}")


def _follow(
    run: Run,
    fit_from: Callable[[TrainState], Iterator[tuple[TrainState, dict[str, np.ndarray]]]],
    state: TrainState,
    checkpoints: Checkpoints,
    num_steps: int,
    evaluate: Callable[[PyTree], dict[str, float]],
    save: Callable[[int, PyTree], None],
) -> TrainState:
    """Runs the compiled calls, with metrics.csv, the progress bar and occasional checkpoints."""
    done, past = int(state.step), len(past_roll_backs(run))
    run.keep_rows_until(done)
    rows = run.rows()
    if done and (not rows or int(rows[-1]["step"]) < done):
        say(f"metrics.csv has no row of step {done}: some were lost, and curves lack them")
    with progress("train", num_steps, done) as advance:
        saved = start = time.perf_counter()
        for state, metrics in _without_memory_errors(fit_from(state)):  # noqa: B020
            now = time.perf_counter()
            step, count = int(state.step), len(metrics["loss"])
            means = {name: float(np.mean(values)) for name, values in metrics.items()}
            counts = {"steps_per_second": count / (now - start), "roll_backs": past}
            ema = fetch(state.ema)
            row = {"step": step, **means, **counts, **evaluate(ema)}
            run.add_row(row)
            advance(count, f"loss {means['loss']:.4f}")
            if step == num_steps or first_says(now - saved > SECONDS_BETWEEN_CHECKPOINTS):
                note_saved(run)
                checkpoints.save(step, state, row)
                if is_first():
                    save(step, ema)
                saved = now
            start = time.perf_counter()
    step = int(state.step)
    if step < num_steps and checkpoints.latest_step != step:
        checkpoints.save(step, state)
    checkpoints.wait()
    note_saved(run)
    if step < num_steps:
        raise Stopped(f"stopped at step {step}, which is saved: {RESUME}")
    return state


def _without_memory_errors(
    calls: Iterator[tuple[TrainState, dict[str, np.ndarray]]],
) -> Iterator[tuple[TrainState, dict[str, np.ndarray]]]:
    """Yields from `calls`, and turns a device's out-of-memory error into a RunError with advice."""
    try:
        yield from calls
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(f"a step does not fit into a device's memory: {LESS_MEMORY}.") from error


def fresh_batches(
    draw: Callable[[PRNGKey], Example], seed: int, batch_size: int
) -> Callable[[int, int], Array]:
    """Returns `batches` of fresh draws for `train`; example i depends only on (seed, i)."""

    @partial(jax.jit, static_argnums=1)
    def batches(first: int | Array, count: int) -> Array:
        index = first * batch_size + jnp.arange(count * batch_size)
        x = jax.vmap(draw)(example_keys(jax.random.key(seed), index))
        return x.reshape(count, batch_size, *x.shape[1:])

    return batches
