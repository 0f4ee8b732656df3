"""Persistent chains within the training step: the negatives of contrastive divergence."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ebm_jax.keys import example_keys
from ebm_jax.samplers.mcmc import Kernel, ReplayBuffer, draw_starts, run, write_back
from ebm_jax.training.step import Metrics, Prepare
from ebm_jax.types import Example, PRNGKey


def persistent_chains(
    make_kernel: Callable[[PyTree], Kernel],
    draw: Callable[[PRNGKey], Example],
    *,
    num_steps: int,
    restart_share: float,
    measure: Callable[[PyTree, Array, Array], Metrics] = lambda params, data, model: {},
) -> Prepare:
    """Returns the `prepare` of `make_step` for persistent contrastive divergence (PCD).

    Before each training step, as many chains as the batch has examples are taken from a replay
    buffer and advanced with the current parameters. The loss then gets pairs: loss(params, key,
    (x_data, x_model)).

    Args:
        make_kernel: makes the kernel of the chains from the parameters, such as
            `lambda params: mala(partial(net.apply, params), step_size=0.1)`.
        draw: draws the start of a new chain from a key.
        num_steps: steps of each chain per training step, at least 1.
        restart_share: probability that a chain restarts, in [0, 1].
        measure: measure(params, x_data, x_model) -> metrics of the step, in addition to "age",
            the mean number of visits of the chains in the buffer.

    Returns:
        prepare(params, key, buffer, x_data) -> (buffer, (x_data, x_model), metrics). The first
        memory of `init_state` is `samplers.replay_buffer` of draws.

    References:
        Tieleman, Training restricted Boltzmann machines using approximations to the
        likelihood gradient, ICML 2008; Du & Mordatch, arXiv:1903.08689.
    """

    def prepare(
        params: PyTree, key: PRNGKey, buffer: ReplayBuffer, x_data: Array
    ) -> tuple[ReplayBuffer, tuple[Array, Array], Metrics]:
        key_starts, key_chains = jax.random.split(key)
        count = x_data.shape[0]
        starts = draw_starts(draw, key_starts, buffer, count, restart_share=restart_share)
        kernel = make_kernel(params)

        def advance(key: PRNGKey, x: Example) -> Example:
            return run(kernel, key, kernel.init(x), num_steps)[0].x

        x_model = jax.vmap(advance)(example_keys(key_chains, jnp.arange(count)), starts.x)
        buffer = write_back(buffer, starts, x_model)
        metrics: dict[str, Any] = {"age": jnp.mean(buffer.age.astype(jnp.float32))}
        return buffer, (x_data, x_model), metrics | measure(params, x_data, x_model)

    return prepare
