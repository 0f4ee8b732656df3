"""Objectives whose negatives come from Markov chains: contrastive divergence (CD) and related.

They are made for an `EnergyProblem`, as in `recipes.energy_losses`. `persistent_on_images` is made
for a `ChainRecipe`, whose chains may have a temperature far from the model's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ebm_jax import losses
from ebm_jax.keys import example_keys
from ebm_jax.recipes.chains import ChainRecipe, chain_kernel
from ebm_jax.recipes.energy import EnergyProblem, Objective, log_uniform
from ebm_jax.samplers import mala, random_walk, replay_buffer, run
from ebm_jax.training import persistent_chains
from ebm_jax.training.step import Metrics
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar

SCALES = (0.1, 4.0)  # step sizes of the random walk
BUFFER = 4096  # number of chains of `persistent`


def contrastive_from_data(problem: EnergyProblem, *, chain_steps: int = 10) -> Objective:
    """CD-k: random-walk Metropolis chains from the data, each with its own random step size."""

    def prepare(params: PyTree, key: PRNGKey, memory: PyTree, x: Array) -> Any:
        def advance(key: PRNGKey, x: Example) -> Example:
            key_scale, key_chain = jax.random.split(key)
            kernel = random_walk(problem.energy(params), step_size=log_uniform(key_scale, *SCALES))
            return run(kernel, key_chain, kernel.init(x), chain_steps)[0].x

        keys = example_keys(key, jnp.arange(x.shape[0]))
        return memory, (x, jax.vmap(advance)(keys, x)), {}

    return Objective(_pair_loss(problem), problem.init, prepare)


def persistent(
    problem: EnergyProblem, *, chain_steps: int = 10, restart_share: float = 0.01
) -> Objective:
    """Persistent contrastive divergence (PCD): chains of MALA in a replay buffer."""
    start = problem.start
    prepare = persistent_chains(
        lambda params: mala(problem.energy(params), step_size=0.03),
        start,
        num_steps=chain_steps,
        restart_share=restart_share,
    )

    def memory(key: PRNGKey) -> Any:
        return replay_buffer(jax.vmap(start)(jax.random.split(key, BUFFER)))

    return Objective(_pair_loss(problem), problem.init, prepare, memory, rate=0.33)


def recovery(problem: EnergyProblem, *, chain_steps: int = 10) -> Objective:
    """Diffusion recovery likelihood from one level, with noisy draws at a random distance tau."""
    low = jnp.float32(0.0)

    def conditional_of(params: PyTree, x_noisy: Example, tau: Scalar) -> EnergyFn:
        energy = problem.energy(params)
        return losses.recovery_energy(lambda x, _: energy(x), x_noisy, low, tau)

    def prepare(params: PyTree, key: PRNGKey, memory: PyTree, x: Array) -> Any:
        def one(key: PRNGKey, x: Example) -> tuple[Example, Example, Example, Scalar]:
            key_tau, key_pair, key_chain = jax.random.split(key, 3)
            tau = log_uniform(key_tau, 0.3, 2.0)
            x, x_noisy = losses.recovery_pair(key_pair, x, low, tau)
            step_size = jnp.minimum(0.03, 0.3 * tau**2)
            kernel = mala(conditional_of(params, x_noisy, tau), step_size=step_size)
            end, _ = run(kernel, key_chain, kernel.init(x_noisy), chain_steps)
            return x, end.x, x_noisy, tau

        return memory, jax.vmap(one)(example_keys(key, jnp.arange(x.shape[0])), x), {}

    def loss(params: PyTree, key: PRNGKey, example: tuple[Array, Array, Array, Scalar]) -> Scalar:
        x, x_model, x_noisy, tau = example
        conditional = conditional_of(params, x_noisy, tau)
        return losses.contrastive_divergence(conditional, x, x_model)

    return Objective(loss, problem.init, prepare, rate=0.33)


def persistent_on_images(
    recipe: ChainRecipe,
    net: Any,
    shape: tuple[int, ...],
    num_images: int,
    measure: Callable[[PyTree, Array, Array], Metrics] = lambda params, data, model: {},
) -> Objective:
    """Persistent contrastive divergence (PCD) on images in [-1, 1], as in a published recipe.

    Args:
        recipe: the chains, the noise added to data and the penalty on energies.
        net: module of the energy. Its output is E: it must include `recipe.energy_scale`.
        shape: shape of an image.
        num_images: number of images in the data; the number of chains, if the recipe has no
            `buffer_size`.
        measure: metrics of a step, as for `training.persistent_chains`.
    """

    def energy(params: PyTree) -> EnergyFn:
        return partial(net.apply, params["energy"])

    def start(key: PRNGKey) -> Example:
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)

    def loss(params: PyTree, key: PRNGKey, pair: tuple[Example, Example]) -> Scalar:
        x_data, x_model = pair
        x_data = x_data + recipe.data_noise * jax.random.normal(key, x_data.shape)
        penalty = losses.squared_energies(energy(params), x_data, x_model)
        contrast = losses.contrastive_divergence(energy(params), x_data, x_model)
        return contrast + recipe.energy_penalty * penalty

    def memory(key: PRNGKey) -> Any:
        keys = example_keys(key, jnp.arange(recipe.buffer_size or num_images))
        return replay_buffer(jax.vmap(start)(keys))

    prepare = persistent_chains(
        lambda params: chain_kernel(recipe, energy(params)),
        start,
        num_steps=recipe.num_steps,
        restart_share=recipe.restart_share,
        measure=measure,
    )
    return Objective(loss, lambda key: {"energy": net.init(key, jnp.zeros(shape))}, prepare, memory)


def _pair_loss(problem: EnergyProblem) -> Callable[[PyTree, PRNGKey, Any], Scalar]:
    """Contrastive divergence on pairs, with a light penalty that keeps energies near 0."""

    def loss(params: PyTree, key: PRNGKey, pair: tuple[Example, Example]) -> Scalar:
        energy = problem.energy(params)
        penalty = losses.squared_energies(energy, *pair)
        return losses.contrastive_divergence(energy, *pair) + 1e-4 * penalty

    return loss
