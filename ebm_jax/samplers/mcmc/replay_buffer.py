"""Replay buffer: chains that continue from one training step to the next (persistent CD, PCD).

A buffer is a pytree of fixed shape, so it stays on the device inside a compiled step and is
saved and restored with the run:

    starts = draw_starts(draw, key, buffer, batch_size, restart_share=0.05)
    x = ...                                    # some steps of a kernel from starts.x
    buffer = write_back(buffer, starts, x)

Restarting some chains from noise keeps both short and long chains in the buffer. With share r,
a chain is restarted after 1 / r visits on average.

References:
    Tieleman, Training restricted Boltzmann machines using approximations to the
    likelihood gradient, ICML 2008; with restarts: Du & Mordatch, arXiv:1903.08689.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ebm_jax.keys import example_keys
from ebm_jax.types import Example, PRNGKey


class ReplayBuffer(NamedTuple):
    """The current points of `size` chains.

    Attributes:
        x: the point of each chain.
        age: how many times each chain was written back since it began.
    """

    x: Float[Array, "size *d"]
    age: Int[Array, " size"]


class Starts(NamedTuple):
    """The starting points of a batch of chains.

    Attributes:
        places: their indices in the buffer, all different.
        x: the points.
        age: their ages, 0 for restarted chains.
    """

    places: Int[Array, " batch"]
    x: Float[Array, "batch *d"]
    age: Int[Array, " batch"]


def replay_buffer(x: Float[Array, "size *d"]) -> ReplayBuffer:
    """Makes a buffer of chains that begin at `x`, usually draws of noise.

    Raises:
        ValueError: if `x` is empty.
    """
    if x.shape[0] == 0:
        raise ValueError("`replay_buffer` got 0 chains: give at least one draw to start from.")
    return ReplayBuffer(x, jnp.zeros(x.shape[0], jnp.int32))


def draw_starts(
    draw: Callable[[PRNGKey], Example],
    key: PRNGKey,
    buffer: ReplayBuffer,
    batch_size: int,
    *,
    restart_share: float,
) -> Starts:
    """Draws the starting points of the next `batch_size` chains, without replacement.

    This function couples a batch: no two of its chains share a place in the buffer, so that writes
    do not collide. Whether chain i is restarted, and where, depends only on (key, i).

    Args:
        draw: draws a new starting point from a key.
        key: PRNG key of this batch.
        buffer: the current chains.
        batch_size: number of starts, at most the size of the buffer.
        restart_share: the probability that a chain is restarted, in [0, 1].

    Returns:
        The starting points with their places in the buffer.

    Raises:
        ValueError: for a batch larger than the buffer, and for numbers out of range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import samplers
        >>> buffer = samplers.replay_buffer(jnp.zeros((100, 2)))
        >>> draw = lambda key: jax.random.normal(key, (2,))
        >>> @jax.jit
        ... def visit(key, buffer):
        ...     starts = samplers.draw_starts(draw, key, buffer, 10, restart_share=0.0)
        ...     return samplers.write_back(buffer, starts, starts.x + 1)
        >>> buffer = visit(jax.random.key(0), buffer)
        >>> int(buffer.age.sum()), float(buffer.x.sum())
        (10, 20.0)
    """
    size = buffer.x.shape[0]
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"`draw_starts` got batch_size={batch_size} for a buffer of {size} chains: give at "
            "least 1 and at most as many as the buffer holds, or make it larger."
        )
    if not 0 <= restart_share <= 1:
        raise ValueError(
            f"`draw_starts` got restart_share={restart_share}: give a number from 0 to 1."
        )
    key_places, key_chains = jax.random.split(key)
    _, places = jax.lax.top_k(jax.random.bits(key_places, (size,)), batch_size)  # no full sort

    def start(key: PRNGKey, x: Example, age: Int[Array, ""]) -> tuple[Example, Int[Array, ""]]:
        key_restart, key_draw = jax.random.split(key)
        anew = jax.random.uniform(key_restart) < restart_share
        return jnp.where(anew, draw(key_draw), x), jnp.where(anew, 0, age)

    keys = example_keys(key_chains, jnp.arange(batch_size))
    return Starts(places, *jax.vmap(start)(keys, buffer.x[places], buffer.age[places]))


def write_back(buffer: ReplayBuffer, starts: Starts, x: Float[Array, "batch *d"]) -> ReplayBuffer:
    """Returns the buffer with the chains of `starts` moved to `x`, one visit older."""
    return ReplayBuffer(
        buffer.x.at[starts.places].set(x, unique_indices=True),
        buffer.age.at[starts.places].set(starts.age + 1, unique_indices=True),
    )
