"""One training step, a pure function of the state and a batch.

The randomness of example i at step s depends on (seed, s, i) only, and the batch on (seed, s), so
an interrupted run continues as if it had not been. The state's `memory` holds what a step passes
on in addition to the parameters, such as a buffer of Markov chains.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from ebm_jax.ema import Decay, ramped
from ebm_jax.keys import example_keys
from ebm_jax.sharding import Mesh, gather, place_parameters, split_or_copy
from ebm_jax.types import PRNGKey, Scalar

Loss = Callable[[Any, PRNGKey, Any], Scalar]
"""loss(params, key, example), the loss of one example."""
Metrics = dict[str, Any]
"""Scalars of a training step by name."""
Prepare = Callable[[Any, PRNGKey, Any, Any], tuple[Any, Any, Metrics]]
"""prepare(params, key, memory, batch) -> (memory, examples, metrics); see `make_step`."""


class TrainState(NamedTuple):
    """Everything that the next step needs.

    Attributes:
        params: parameters of the network.
        opt_state: state of the optimizer.
        ema: exponential moving average of `params`.
        step: number of steps taken.
        key: PRNG key of the run. It never changes: steps fold their number into it.
        memory: what `prepare` of `make_step` passes from one step to the next.
    """

    params: PyTree
    opt_state: PyTree
    ema: PyTree
    step: Int[Array, ""]
    key: PRNGKey
    memory: PyTree = ()


def init_state(
    params: PyTree,
    optimizer: optax.GradientTransformation,
    key: PRNGKey,
    memory: PyTree = (),
    *,
    mesh: Mesh | None = None,
) -> TrainState:
    """Returns the state before the first step; its EMA is a copy of `params`.

    Args:
        params: the initial parameters.
        optimizer: any optax transformation.
        key: PRNG key of the run.
        memory: the first memory of `prepare`, such as a replay buffer.
        mesh: the devices to place the state on, the same as in `make_step`. Parameters and
            arrays of their shapes are split along its axis "fsdp"; `memory` is split over all
            devices where its first axis divides evenly; everything else is replicated.
    """
    ema = jax.tree.map(jnp.array, params)
    step = jnp.zeros((), jnp.int32)
    state = TrainState(params, optimizer.init(params), ema, step, key, memory)
    if mesh is None:
        return state
    placed = place_parameters(state._replace(memory=()), mesh)
    return placed._replace(memory=split_or_copy(memory, mesh))


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float | Decay = 0.999,
    prepare: Prepare | None = None,
    accumulate: int = 1,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]:
    """Returns one optimization step on the mean of `loss` over a batch, as a pure function.

    Args:
        loss: loss(params, key, example), the scalar loss of one example.
        optimizer: any optax transformation.
        ema_decay: decay of the exponential moving average of the parameters: a function from
            `ema`, or a number in [0, 1) for `ema.ramped` of it.
        prepare: prepare(params, key, memory, batch) -> (memory, examples, metrics), called with
            the current parameters before the loss, for instance to advance Markov chains. No
            gradient flows through it.
        accumulate: number of parts for gradient accumulation: the batch is processed in parts,
            one after another, with the memory use of one part. The mean gradient is the same.
        mesh: the devices on which `init_state` placed the state. Sharded parameters are gathered
            for `loss` and `prepare`.

    Returns:
        step(state, batch) -> (state, metrics). `batch`, and the examples made of it, are
        pytrees whose leaves have the examples on their first axis. `metrics` holds "loss",
        "grad_norm" and the metrics of `prepare`.

    Raises:
        ValueError: if `ema_decay` is not in [0, 1); in the step, for a batch that is not
            divisible by `accumulate`.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from ebm_jax import training
        >>> step = training.make_step(lambda mean, key, x: (mean - x) ** 2 / 2, optax.sgd(0.5))
        >>> state = training.init_state(jnp.array(0.0), optax.sgd(0.5), jax.random.key(0))
        >>> state, metrics = step(state, jnp.array([1.0, 3.0]))
        >>> float(state.params), float(metrics["loss"])
        (1.0, 2.5)
    """
    decay_at = ramped(ema_decay) if isinstance(ema_decay, int | float) else ema_decay
    if mesh is not None:
        loss = _of_whole(loss, mesh)
        prepare = None if prepare is None else _of_whole(prepare, mesh)

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        memory, examples, figures = state.memory, batch, Metrics()
        if prepare is not None:
            key, key_prepare = jax.random.split(key)
            memory, examples, figures = prepare(state.params, key_prepare, memory, batch)
        index = jnp.arange(jax.tree.leaves(examples)[0].shape[0])

        def mean_loss(params: PyTree, index: Array, examples: PyTree) -> Scalar:
            return jnp.mean(jax.vmap(partial(loss, params))(example_keys(key, index), examples))

        value_and_grad = partial(jax.value_and_grad(mean_loss), state.params)
        value, grads = _mean_over_parts(value_and_grad, (index, examples), accumulate)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = optax.incremental_update(params, state.ema, 1 - decay_at(state.step))
        metrics = {**figures, "loss": value, "grad_norm": optax.tree.norm(grads)}
        return TrainState(params, opt_state, ema, state.step + 1, state.key, memory), metrics

    return step


def _of_whole(fn: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Returns fn(params, ...) for parameters that may be sharded."""

    def of_parts(params: PyTree, *args: Any) -> Any:
        return fn(gather(params, mesh), *args)

    return of_parts


def _mean_over_parts(fn: Callable[..., PyTree], args: PyTree, parts: int) -> PyTree:
    """Applies fn to parts of the examples, one after another, and returns the mean of its results.

    Part p holds the examples i with i mod parts = p, so that every part is spread over the
    devices if the examples are.
    """
    if parts == 1:
        return fn(*args)
    count = jax.tree.leaves(args)[0].shape[0]
    if count % parts:
        raise ValueError(
            f"`make_step` got a batch of {count} and accumulate={parts}: give one that divides it."
        )

    def part_of(leaf: Array) -> Array:
        return jnp.moveaxis(leaf.reshape(count // parts, parts, *leaf.shape[1:]), 1, 0)

    def add(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, fn(*part)), None

    split = jax.tree.map(part_of, args)
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), split)
    like = jax.eval_shape(fn, *first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    total, _ = jax.lax.scan(add, zeros, split)
    return jax.tree.map(lambda leaf: leaf / parts, total)
