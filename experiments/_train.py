"""The training loop of the experiments: `fit` with checkpoints, metrics.csv and a bar."""

import time
from collections.abc import Callable

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from ebm_jax.checkpoints import Checkpoints
from ebm_jax.sharding import data_mesh, replicate, split
from ebm_jax.training import Loss, TrainingDiverged, TrainState, fit, init_state, make_step
from experiments._run import Run, RunError, progress

SECONDS_BETWEEN_CHECKPOINTS = 20.0


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
    ema_decay: float = 0.999,
    steps_per_call: int = 50,
    evaluate: Callable[[PyTree], dict[str, float]] = lambda ema: {},
) -> TrainState:
    """Train, or resume, until `num_steps`; the arguments are those of `make_step` and `fit`.

    Args:
        run: where checkpoints and metrics go.
        loss: loss(params, key, example).
        params: initial parameters.
        optimizer: any optax transformation.
        batches: batches(first_step, count), leaves (count, batch, ...).
        num_steps: the total number of steps.
        batch_size: examples in a batch, spread over the devices that divide it.
        seed: seed of the randomness of the loss.
        ema_decay: decay of the parameters' moving average.
        steps_per_call: steps in a compiled scan, and between rows of metrics.csv.
        evaluate: figures of the averaged parameters that a row holds besides.

    Raises:
        RunError: if training diverged; it names the last good checkpoint.
    """
    mesh = data_mesh(batch_size)
    key = jax.random.key(seed)
    state = replicate(init_state(params, optimizer, key), mesh)
    with Checkpoints(run.folder / "checkpoints") as checkpoints, run.clock("train"):
        if checkpoints.latest_step is not None:
            state = checkpoints.restore(state)
        done = int(state.step)
        run.keep_rows_until(done)
        calls = fit(
            make_step(loss, optimizer, ema_decay=ema_decay),
            state,
            lambda first, count: split(batches(first, count), mesh, axis=1),
            num_steps=num_steps,
            steps_per_call=steps_per_call,
        )
        try:
            with progress("train", num_steps, done) as advance:
                saved = start = time.perf_counter()
                for state, metrics in calls:
                    now = time.perf_counter()
                    step, count = int(state.step), len(metrics["loss"])
                    means = {name: float(np.mean(values)) for name, values in metrics.items()}
                    rate = {"steps_per_second": count / (now - start)}
                    run.add_row({"step": step, **means, **rate, **evaluate(state.ema)})
                    advance(count, f"loss {means['loss']:.4f}")
                    if step == num_steps or now - saved > SECONDS_BETWEEN_CHECKPOINTS:
                        checkpoints.save(step, state)
                        saved = now
                    start = time.perf_counter()
        except TrainingDiverged as error:
            last = checkpoints.latest_step
            kept = f"checkpoint of step {last} is kept" if last else "there is no checkpoint yet"
            raise RunError(f"{error}; the {kept} in {run.folder / 'checkpoints'}.") from error
    return state
