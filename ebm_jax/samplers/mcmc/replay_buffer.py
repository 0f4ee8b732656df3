"""A replay buffer: chains that go on from one training step to the next.

A buffer is a pytree of fixed shape, so that it lives on the device inside a compiled
step and is saved and restored with the run:

    starts = draw_starts(draw, key, buffer, batch_size, restart_share=0.05)
    x = ...                                    # some steps of a kernel from starts.x
    buffer = write_back(buffer, starts, x)

Chains that are restarted from noise now and then keep short chains and long ones in
the buffer: with share r a chain is restarted after 1 / r visits on average.

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
    """The ends of `size` chains.

    Attributes:
        x: where each chain is.
        age: how many times it was written back since it began.
    """

    x: Float[Array, "size *d"]
    age: Int[Array, " size"]


class Starts(NamedTuple):
    """Where a batch of chains goes on from.

    Attributes:
        places: their indices in the buffer, no two alike.
        x: the points.
        age: their ages, 0 for those that begin anew.
    """

    places: Int[Array, " batch"]
    x: Float[Array, "batch *d"]
    age: Int[Array, " batch"]


def replay_buffer(x: Float[Array, "size *d"]) -> ReplayBuffer:
    """A buffer of chains that begin at `x`, usually draws of noise.

    Raises:
        ValueError: if there are none.
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
    """Where the next `batch_size` chains start, without replacement.

    This one couples a batch: no two of its chains share a place in the buffer, so that
    writes do not collide. Whether chain i is restarted, and where, comes from (key, i)
    alone.

    Args:
        draw: a start from a key, for the chains that begin anew.
        key: PRNG key of this batch.
        buffer: the chains so far.
        batch_size: how many starts, at most the size of the buffer.
        restart_share: the probability that a chain begins anew, in [0, 1].

    Raises:
        ValueError: for a batch larger than the buffer, and for numbers out of range.
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
    """The buffer with chains that went from `starts` to `x` in their places, one visit older."""
    return ReplayBuffer(
        buffer.x.at[starts.places].set(x, unique_indices=True),
        buffer.age.at[starts.places].set(starts.age + 1, unique_indices=True),
    )
