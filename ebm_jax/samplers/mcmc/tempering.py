"""Parallel tempering: replicas at several temperatures that exchange their points.

Replica k keeps p^(1/T_k). A swap of neighbors i, j is accepted with probability

    min(1, exp((1/T_i - 1/T_j) (E(x_i) - E(x_j)))),

which keeps the product of all their distributions. The coldest replica therefore samples its
own distribution exactly, while the hottest ones cross the barriers. Even and odd pairs of
neighbors take turns: this order moves a replica along the ladder faster than diffusion
(arXiv:1905.02939).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from ebm_jax.samplers.mcmc.kernel import Kernel, log_uniforms
from ebm_jax.types import Example, PRNGKey, Scalar


class TemperedState(NamedTuple):
    """Replicas stacked on axis 0, coldest first, and the parity of the pairs that swap next."""

    replicas: Any
    turn: Int[Array, ""]

    @property
    def x(self) -> Example:
        """The point of the first replica."""
        return self.replicas.x[0]


class TemperedInfo(NamedTuple):
    """Information about one transition.

    Attributes:
        swap_prob: the acceptance probability of a swap between replicas k and k + 1, whether or
            not it was their turn. Its mean over a run is the swap rate, good near 0.2 to 0.6.
        moves: the stacked infos of the replicas' own kernels.
    """

    swap_prob: Float[Array, " pairs"]
    moves: Any


def parallel_tempering(
    make_kernel: Callable[[Scalar], Kernel], temperatures: Float[Array, " replicas"]
) -> Kernel:
    """Parallel tempering (replica exchange) over a ladder of temperatures.

        parallel_tempering(lambda T: mala(energy_fn, step_size=0.1 * T, temperature=T),
                           jnp.geomspace(1.0, 20.0, 6))

    The point of the kernel is that of the first replica.

    Args:
        make_kernel: makes the kernel of one temperature. Its state must have the field `energy`,
            the energy at its point: `random_walk`, `mala` or `hmc`.
        temperatures: T_k > 0, increasing, at least 2; the first is usually 1.

    Returns:
        A kernel whose state is `TemperedState` and whose info is `TemperedInfo`.

    Raises:
        ValueError: for temperatures that are not positive and increasing, and from `init` for a
            kernel whose state has no energy.

    References:
        Geyer 1991; Syed et al., arXiv:1905.02939.
    """
    count = temperatures.shape[0]
    _check_ladder(temperatures)

    def init(x: Example) -> TemperedState:
        state = make_kernel(temperatures[0]).init(x)
        if not hasattr(state, "energy"):
            raise ValueError(
                f"`parallel_tempering` got a kernel with the state {type(state).__name__}, which "
                "holds no energy to swap by: give `random_walk`, `mala` or `hmc`."
            )
        same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), state)
        return TemperedState(same, jnp.zeros((), jnp.int32))

    def draw(key: PRNGKey, state: TemperedState, num_steps: int) -> PyTree:
        key_moves, key_swaps = jax.random.split(key)
        kernel, one = make_kernel(temperatures[0]), jax.tree.map(lambda x: x[0], state.replicas)
        keys = jax.random.split(key_moves, count)
        noise = jax.vmap(lambda key: kernel.draw(key, one, num_steps), out_axes=1)(keys)
        return noise, log_uniforms(key_swaps, (num_steps, count - 1))

    def move_one(noise: PyTree, state: Any, temperature: Scalar) -> tuple[Any, Any]:
        return make_kernel(temperature).move(noise, state)

    def move(noise: PyTree, state: TemperedState) -> tuple[TemperedState, TemperedInfo]:
        noise, log_uniform = noise
        replicas, moves = jax.vmap(move_one)(noise, state.replicas, temperatures)
        log_ratio = jnp.diff(1 / temperatures) * jnp.diff(replicas.energy)
        turn = (jnp.arange(count - 1) + state.turn) % 2 == 0
        swapped = turn & (log_uniform <= log_ratio.astype(log_uniform.dtype))
        step = jnp.pad(swapped.astype(int), 1)  # swaps with the replica above, and below
        source = jnp.arange(count) + step[1:] - step[:-1]
        replicas = jax.tree.map(lambda leaf: leaf[source], replicas)
        prob = jnp.exp(jnp.minimum(log_ratio, 0.0))
        return TemperedState(replicas, 1 - state.turn), TemperedInfo(prob, moves)

    return Kernel(init, draw, move)


def _check_ladder(temperatures: Float[Array, " replicas"]) -> None:
    good = temperatures.shape[0] >= 2
    if good and not isinstance(temperatures, jax.core.Tracer):
        known = np.asarray(temperatures)
        good = bool(known[0] > 0 and np.all(np.diff(known) > 0))
    if not good:
        raise ValueError(
            f"`parallel_tempering` got temperatures={temperatures}: "
            "give at least 2 positive ones in increasing order."
        )
