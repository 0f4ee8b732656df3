"""The training loop: compiled steps, and the exception for non-finite values."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ebm_jax._checks import check_count
from ebm_jax.training.step import Metrics, TrainState

Program = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]


UPDATED = "entries that are not finite in "  # prefix of the metrics that count them in the state


class TrainingDiverged(RuntimeError):
    """Raised when a loss, a gradient or an updated state is not finite.

    Attributes:
        step: the first step, counted from 1, at which that happened.
        quantity: name of the metric that was not finite ("loss" first), or the part of the state
            in which the step's update left entries that are not finite.
    """

    def __init__(self, step: int, quantity: str, value: float) -> None:
        what = f"{quantity} was {value} at step {step}"
        if quantity.startswith(UPDATED):
            quantity = quantity.removeprefix(UPDATED)
            what = f"the update of step {step} left {int(value)} {UPDATED}{quantity}"
        super().__init__(f"training diverged: {what}")
        self.step = step
        self.quantity = quantity


def fit(
    step: Program,
    state: TrainState,
    batches: Callable[[int, int], PyTree],
    *,
    num_steps: int,
    steps_per_call: int,
    one_scan: bool = True,
    watch: Callable[[int], bool] = lambda step: False,
    announce: Callable[[jax.stages.Compiled], None] = lambda compiled: None,
) -> Iterator[tuple[TrainState, dict[str, np.ndarray]]]:
    """Trains until `num_steps`, yielding after every `steps_per_call` steps.

    The input state is donated and must not be used again. Yielded states are finite, keep their
    placement on the devices, and may be saved before the next one is requested. To resume, pass
    a saved state: the calls that follow are those of the uninterrupted run.

    Args:
        step: from `make_step`.
        state: the state to start from; `state.step` is the number of steps taken.
        batches: batches(first_step, count), a pytree with leaves (count, batch, ...).
        num_steps: total number of steps, including those already taken.
        steps_per_call: number of steps between yields, which come at multiples of it and at the
            end.
        one_scan: True for one compiled scan over these steps, which is faster for small steps;
            False for one compiled call per step. On CPU the gradient of XLA's convolution is a
            hundred times slower within a scan (jax issue 12868): use False for networks with
            convolutions.
        watch: called after every compiled call with the number of steps taken. If it returns
            True, the state is yielded and training ends there.
        announce: called with every compiled program before it runs.

    Yields:
        The state, and the metrics of the call's steps as arrays of shape (count,).

    Raises:
        TrainingDiverged: if a metric or the updated state is not finite.
        ValueError: if `steps_per_call` is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from ebm_jax import training
        >>> step = training.make_step(lambda mean, key, x: (mean - x) ** 2 / 2, optax.sgd(0.5))
        >>> state = training.init_state(jnp.array(0.0), optax.sgd(0.5), jax.random.key(0))
        >>> batches = lambda first, count: jnp.full((count, 4), 3.0)
        >>> for state, _ in training.fit(step, state, batches, num_steps=30, steps_per_call=20):
        ...     print(int(state.step), round(float(state.params), 2))
        20 3.0
        30 3.0
    """
    check_count("fit", steps_per_call=steps_per_call)

    counted = partial(_counted, step)

    def first_of_batches(state: TrainState, batches: PyTree) -> tuple[TrainState, Metrics]:
        return counted(state, jax.tree.map(lambda leaf: leaf[0], batches))

    fn = partial(jax.lax.scan, counted) if one_scan else first_of_batches
    program = _compiled_once(fn, state, announce)
    many_steps = partial(_one_scan if one_scan else _step_by_step, program, batches, watch)
    done, stopped = int(state.step), False
    while done < num_steps and not stopped:
        count = min(steps_per_call - done % steps_per_call, num_steps - done)
        state, rows, stopped = many_steps(state, done, count)
        metrics = jax.tree.map(np.asarray, rows)
        _raise_if_not_finite(metrics, done)
        metrics = {k: v for k, v in metrics.items() if not k.startswith(UPDATED)}
        done += len(metrics["loss"])
        yield state, metrics


def _one_scan(
    scanned: Program,
    batches: Callable[[int, int], PyTree],
    watch: Callable[[int], bool],
    state: TrainState,
    first: int,
    count: int,
) -> tuple[TrainState, Metrics, bool]:
    """Takes `count` steps as one compiled scan; also returns whether to stop."""
    state, metrics = scanned(state, batches(first, count))
    return state, metrics, watch(first + count)


def _step_by_step(
    one: Program,
    batches: Callable[[int, int], PyTree],
    watch: Callable[[int], bool],
    state: TrainState,
    first: int,
    count: int,
) -> tuple[TrainState, Metrics, bool]:
    """Does the same as `_one_scan`, as a loop with one compiled call per step.

    Only one batch is read ahead, while the devices work on the last step.
    """
    rows: list[Metrics] = []
    for done in range(first, first + count):
        batch = batches(done, 1)
        jax.block_until_ready(rows[-1:])
        state, metrics = one(state, batch)
        rows.append(metrics)
        if stopped := watch(done + 1):
            break
    return state, jax.tree.map(lambda *leaves: np.stack(leaves), *rows), stopped


def _compiled_once(
    fn: Program, like: TrainState, announce: Callable[[jax.stages.Compiled], None]
) -> Program:
    """Returns `fn`, compiled once for each number of steps, with its state donated.

    If the state was placed on a mesh, each array keeps its sharding. The key and the metrics get
    that of the step number, which is replicated.
    """
    everywhere = like.step.sharding
    state = jax.tree.map(lambda leaf: leaf.sharding, like)._replace(key=everywhere)
    placement = (state, everywhere) if like.step.committed else None
    jitted = jax.jit(fn, donate_argnums=0, out_shardings=placement)
    programs: dict[int, jax.stages.Compiled] = {}

    def call(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        count = jax.tree.leaves(batch)[0].shape[0]
        if count not in programs:
            programs[count] = jitted.lower(state, batch).compile()
            announce(programs[count])
        return programs[count](state, batch)

    return call


def _counted(step: Program, old: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
    """Runs `step`, and adds the number of non-finite entries of the new state to its metrics.

    The optimizer's state or the memory may hold such entries from the start (a best loss of
    infinity). In these two, only entries that were finite before are counted.
    """
    new, metrics = step(old, batch)

    def count(part: PyTree, before: PyTree = None) -> Array:
        were = part if before is None else before
        bad = [
            jnp.sum(~jnp.isfinite(leaf) & (before is None or jnp.isfinite(was)))
            for leaf, was in zip(jax.tree.leaves(part), jax.tree.leaves(were), strict=True)
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
        ]
        return sum(bad, jnp.zeros((), jnp.int32))

    counts = {
        "the parameters": count(new.params),
        "their average": count(new.ema),
        "the optimizer's state": count(new.opt_state, old.opt_state),
        "the memory": count(new.memory, old.memory),
    }
    return new, metrics | {UPDATED + name: number for name, number in counts.items()}


def _raise_if_not_finite(metrics: dict[str, np.ndarray], first_step: int) -> None:
    """Raises TrainingDiverged for the first step with a non-finite metric, or else state."""
    found = []
    for order, (name, values) in enumerate(metrics.items()):
        bad = values > 0 if (counts := name.startswith(UPDATED)) else ~np.isfinite(values)
        if bad.any():
            found.append((int(np.argmax(bad)), counts, name != "loss", order, name))
    if found:
        index, *_, name = min(found)
        raise TrainingDiverged(first_step + index + 1, name, float(metrics[name][index]))
