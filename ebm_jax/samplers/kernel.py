"""One transition of one chain, and its scan.

A kernel is three pure functions: `init` makes a chain's state from a point, `draw` makes
the randomness of steps to come, `move` takes one step with it. Many chains are `jax.vmap`
over keys and states; with `noise.example_keys` chain i draws the same numbers alone,
among a million, or spread over devices.

Two things here are for speed alone and change no value. The noise of a block of steps of a
small state is drawn at once, since folding a key for every step costs as much as its draw.
And a small state is carried as scalars: under `vmap` each is one vector over chains, where
a carry of shape (chains, 2) would leave XLA an inner loop of length 2 (together 4-6 times
faster for a 2-D mixture on CPU).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ebm_jax.types import Example, PRNGKey

SMALL = 8  # entries up to which an array is carried as scalars
BLOCK = 50  # steps of a small state whose noise is drawn at once


class Kernel(NamedTuple):
    """A Markov transition.

    Attributes:
        init: init(x) -> state. The state caches what the next step needs and has the
            point as its field `x`.
        draw: draw(key, state, num_steps) -> the randomness of `num_steps` steps, a
            pytree stacked on axis 0; it uses the shapes of `state` only.
        move: move(noise, state) -> (state, info), one deterministic step; info is for
            people and costs nothing when it is not collected.
    """

    init: Callable[[Example], Any]
    draw: Callable[[PRNGKey, Any, int], PyTree]
    move: Callable[[PyTree, Any], tuple[Any, Any]]

    def step(self, key: PRNGKey, state: Any) -> tuple[Any, Any]:
        """One transition from a key: (state, info)."""
        noise = self.draw(key, state, 1)
        return self.move(jax.tree.map(lambda leaf: leaf[0], noise), state)


def run(
    kernel: Kernel,
    key: PRNGKey,
    state: Any,
    num_steps: int,
    *,
    collect: Callable[[Any, Any], Any] | None = None,
) -> tuple[Any, Any]:
    """`num_steps` transitions of one chain as one compiled scan.

    Args:
        kernel: the transition.
        key: PRNG key of the chain. A longer run begins with the shorter one.
        state: where the chain starts, from `kernel.init(x)`.
        num_steps: how many transitions, at least 1.
        collect: what to keep of every step, as a function of (state, info); nothing
            by default, so that memory does not grow with `num_steps`.

    Returns:
        The last state, and what `collect` returned, stacked over the steps (or None).

    Raises:
        ValueError: if `num_steps` is not positive.
    """
    if num_steps < 1:
        raise ValueError(f"`run` got num_steps={num_steps}: give at least 1.")
    spread, gather = _lanes(state)
    small = sum(leaf.size for leaf in jax.tree.leaves(state)) <= 4 * SMALL
    block = min(BLOCK, num_steps) if small else 1

    def body(lanes: Any, noise: PyTree) -> tuple[Any, Any]:
        state, info = kernel.move(noise, gather(lanes))
        return spread(state), None if collect is None else collect(state, info)

    def many(lanes: Any, index: jax.Array, count: int) -> tuple[Any, Any]:
        noise = kernel.draw(jax.random.fold_in(key, index), gather(lanes), count)
        return jax.lax.scan(body, lanes, noise)

    blocks, rest = divmod(num_steps, block)
    lanes, kept = jax.lax.scan(
        lambda lanes, i: many(lanes, i, block), spread(state), jnp.arange(blocks)
    )
    kept = jax.tree.map(lambda leaf: leaf.reshape(blocks * block, *leaf.shape[2:]), kept)
    if rest:
        lanes, tail = many(lanes, jnp.asarray(blocks), rest)
        kept = jax.tree.map(lambda *parts: jnp.concatenate(parts), kept, tail)
    return gather(lanes), kept


def _lanes(state: Any) -> tuple[Callable[[Any], list[Any]], Callable[[list[Any]], Any]]:
    """How to carry a state with its small arrays as tuples of scalars, and back."""
    leaves, structure = jax.tree.flatten(state)
    shapes = [leaf.shape for leaf in leaves]
    small = [leaf.ndim > 0 and leaf.size <= SMALL for leaf in leaves]

    def spread(state: Any) -> list[Any]:
        leaves = jax.tree.leaves(state)
        return [tuple(x.ravel()) if s else x for x, s in zip(leaves, small, strict=True)]

    def gather(lanes: list[Any]) -> Any:
        stacked = [
            jnp.stack(x).reshape(shape) if s else x
            for x, shape, s in zip(lanes, shapes, small, strict=True)
        ]
        return jax.tree.unflatten(structure, stacked)

    return spread, gather
