"""Training: one pure step, a compiled scan of many, and the loop over scans.

The randomness of example i at step s comes from (seed, s, i) alone, the batch from
(seed, s): a run that was interrupted continues as if it had not been. What a step hands
on to the next besides parameters, such as a buffer of Markov chains, is the state's
`memory`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from ebm_jax.averaging import Decay, ramped
from ebm_jax.noise import example_keys
from ebm_jax.types import PRNGKey, Scalar

Loss = Callable[[Any, PRNGKey, Any], Scalar]
Metrics = dict[str, Any]
Prepare = Callable[[Any, PRNGKey, Any, Any], tuple[Any, Any, Metrics]]


class TrainState(NamedTuple):
    """Everything that the next step needs.

    Attributes:
        params: the network's parameters.
        opt_state: the optimiser's state.
        ema: the exponential moving average of `params`.
        step: how many steps were taken.
        key: the run's PRNG key; it never changes, steps fold their number into it.
        memory: what `prepare` of `make_step` hands from one step to the next.
    """

    params: PyTree
    opt_state: PyTree
    ema: PyTree
    step: Int[Array, ""]
    key: PRNGKey
    memory: PyTree = ()


class TrainingDiverged(RuntimeError):
    """A loss or gradient was not finite.

    Attributes:
        step: the first step, counted from 1, at which that happened.
        quantity: the name of the metric that was not finite, "loss" if that was one.
    """

    def __init__(self, step: int, quantity: str, value: float) -> None:
        super().__init__(f"training diverged: {quantity} was {value} at step {step}")
        self.step = step
        self.quantity = quantity


def init_state(
    params: PyTree, optimizer: optax.GradientTransformation, key: PRNGKey, memory: PyTree = ()
) -> TrainState:
    """The state before the first step; its EMA is a copy of `params`."""
    ema = jax.tree.map(jnp.array, params)
    return TrainState(params, optimizer.init(params), ema, jnp.zeros((), jnp.int32), key, memory)


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float | Decay = 0.999,
    prepare: Prepare | None = None,
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]:
    """One optimisation step on the mean of `loss` over a batch, as a pure function.

    Args:
        loss: loss(params, key, example), the scalar of one example.
        optimizer: any optax transformation.
        ema_decay: decay of the moving average of parameters: of `averaging`, or a number in
            [0, 1) for `averaging.ramped` of it.
        prepare: prepare(params, key, memory, batch) -> (memory, examples, metrics),
            what is to be done with the current parameters before the loss sees the
            examples, such as moving Markov chains on; no gradient flows through it.

    Returns:
        step(state, batch) -> (state, metrics); `batch`, and the examples made of it, are
        pytrees whose leaves have the examples on their first axis; `metrics` holds
        "loss", "grad_norm" and those of `prepare`.

    Raises:
        ValueError: if `ema_decay` is not in [0, 1).
    """
    decay_at = ramped(ema_decay) if isinstance(ema_decay, int | float) else ema_decay

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        memory, examples, figures = state.memory, batch, Metrics()
        if prepare is not None:
            key, key_prepare = jax.random.split(key)
            memory, examples, figures = prepare(state.params, key_prepare, memory, batch)
        num_examples = jax.tree.leaves(examples)[0].shape[0]
        keys = example_keys(key, jnp.arange(num_examples))

        def mean_loss(params: PyTree) -> Scalar:
            return jnp.mean(jax.vmap(partial(loss, params))(keys, examples))

        value, grads = jax.value_and_grad(mean_loss)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = optax.incremental_update(params, state.ema, 1 - decay_at(state.step))
        metrics = {**figures, "loss": value, "grad_norm": optax.tree.norm(grads)}
        return TrainState(params, opt_state, ema, state.step + 1, state.key, memory), metrics

    return step


def fit(
    step: Callable[[TrainState, PyTree], tuple[TrainState, Metrics]],
    state: TrainState,
    batches: Callable[[int, int], PyTree],
    *,
    num_steps: int,
    steps_per_call: int,
    one_scan: bool = True,
) -> Iterator[tuple[TrainState, dict[str, np.ndarray]]]:
    """Train until `num_steps`, yielding after every `steps_per_call` steps.

    A state that goes in is donated and must not be used again; a state that comes
    out is finite and may be saved before the next is asked for. To resume, pass the
    saved state: the same calls follow as in the run that nobody interrupted.

    Args:
        step: from `make_step`.
        state: where to start; `state.step` says how far it is.
        batches: batches(first_step, count), a pytree with leaves (count, batch, ...).
        num_steps: the total number of steps, those already taken included.
        steps_per_call: steps between two yields; the last time there may be fewer.
        one_scan: whether they are one compiled scan, which small steps gain by, or one
            compiled call each. On CPU the gradient of XLA's convolution is a hundred times
            slower within a scan (jax issue 12868): give False to networks that have one.

    Yields:
        The state, and the metrics of the call's steps as arrays of shape (count,).

    Raises:
        TrainingDiverged: if a metric is not finite.
        ValueError: if `steps_per_call` is not positive.
    """
    if steps_per_call < 1:
        raise ValueError(f"`fit` got steps_per_call={steps_per_call}: give at least 1.")
    scanned = jax.jit(partial(jax.lax.scan, step), donate_argnums=0)
    many_steps = scanned if one_scan else _step_by_step(step)
    done = int(state.step)
    while done < num_steps:
        count = min(steps_per_call, num_steps - done)
        state, metrics = many_steps(state, batches(done, count))
        metrics = jax.tree.map(np.asarray, metrics)
        _raise_if_not_finite(metrics, done)
        done += count
        yield state, metrics


def _step_by_step(
    step: Callable[[TrainState, PyTree], tuple[TrainState, Metrics]],
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]:
    """What the scan of `step` does, as a loop of one compiled call a step."""

    @partial(jax.jit, donate_argnums=0)
    def one(state: TrainState, batches: PyTree, index: Array) -> tuple[TrainState, Metrics]:
        return step(state, jax.tree.map(lambda leaf: leaf[index], batches))

    def many(state: TrainState, batches: PyTree) -> tuple[TrainState, Metrics]:
        rows = []
        for index in range(jax.tree.leaves(batches)[0].shape[0]):
            state, metrics = one(state, batches, jnp.asarray(index))
            rows.append(metrics)
        return state, jax.tree.map(lambda *leaves: np.stack(leaves), *rows)

    return many


def _raise_if_not_finite(metrics: dict[str, np.ndarray], first_step: int) -> None:
    bad = [
        (int(np.argmin(np.isfinite(v))), k) for k, v in metrics.items() if not np.isfinite(v).all()
    ]
    if bad:
        index, name = min(bad, key=lambda pair: (pair[0], pair[1] != "loss"))
        raise TrainingDiverged(first_step + index + 1, name, float(metrics[name][index]))
