"""Published persistent-CD recipes of image energies with Langevin chains, as plain data.

    x' = clip(x - h clip(grad E(x), bound) + noise n, box),   n ~ N(0, I)

Published image recipes choose the step size h and the noise separately. Such a step is Langevin
dynamics at the temperature

    T_eff = noise^2 / (2 h),

so its chains sample exp(-E / T_eff), which is the model exp(-E) only if T_eff = 1.

`short_run` chains are cold: T_eff = 1e-6, nearly gradient descent. They produce good images after
a few dozen steps, but the learned energy describes a descent and not a density: longer chains
leave the images, and exp(-E) is not the distribution of the data. Such a model is a generator and
a denoiser, and its energies rank examples.

`convergent` chains have T_eff = 1 and persist through the whole training, 500 steps at a time.
Chains of any length stay on the data, and exp(-E) is a density. Training takes many more steps,
and short chains from noise do not reach the data.

References:
    Nijkamp et al., arXiv:1904.09770 (short runs), arXiv:1903.12370 (both, by name).
"""

from functools import partial
from typing import NamedTuple

import optax

from ebm_jax.calculus import score_from_energy
from ebm_jax.guidance import clipped
from ebm_jax.recipes.samplers import ChainSampler, uniform_start
from ebm_jax.samplers import Kernel, boxed, ula
from ebm_jax.types import EnergyFn


class ChainRecipe(NamedTuple):
    """A configuration of persistent contrastive divergence (PCD) on images in [-1, 1].

    Attributes:
        buffer_size: number of chains in the replay buffer, or None for one per image of the data.
        restart_share: probability that a chain restarts from U[-1, 1]^d.
        num_steps: Langevin steps of each chain per training step.
        step_size: h.
        noise: standard deviation of the noise per step.
        score_bound: bound on the absolute value of every entry of the gradient, or None.
        box: lower and upper bound of every entry of x, or None.
        energy_scale: factor of the output of the network in E.
        data_noise: standard deviation of the noise added to data.
        energy_penalty: weight of `losses.squared_energies`.
        optimizer: "adam" or "sgd".
        learning_rate: learning rate of the optimizer, for the loss in units of E.
        betas: b1 and b2 of Adam.
        gradient_bound: largest norm of the gradient in the parameters, or None.
        batch_size: number of images, and of chains, per training step.
    """

    buffer_size: int | None
    restart_share: float
    num_steps: int
    step_size: float
    noise: float
    score_bound: float | None
    box: tuple[float, float] | None
    energy_scale: float
    data_noise: float
    energy_penalty: float
    optimizer: str
    learning_rate: float
    betas: tuple[float, float]
    gradient_bound: float | None
    batch_size: int

    @property
    def temperature(self) -> float:
        """T_eff = noise^2 / (2 h), the temperature of the chains; 1 samples the model itself."""
        return self.noise**2 / (2 * self.step_size)


short_run = ChainRecipe(
    buffer_size=8192,
    restart_share=0.05,
    num_steps=60,
    step_size=10.0,
    noise=0.005,
    score_bound=0.03,
    box=(-1.0, 1.0),
    energy_scale=1.0,
    data_noise=0.005,
    energy_penalty=0.1,
    optimizer="adam",
    learning_rate=1e-4,
    betas=(0.0, 0.999),
    gradient_bound=0.1,
    batch_size=128,
)
"""MNIST recipe of the University of Amsterdam's deep learning course (notebook on deep energy
models), a small IGEBM (arXiv:1903.08689)."""

convergent = ChainRecipe(
    buffer_size=None,
    restart_share=0.0,
    num_steps=500,
    step_size=0.0075**2 / 2,
    noise=0.0075,
    score_bound=None,
    box=None,
    energy_scale=2 / 0.0075**2,
    data_noise=0.015,
    energy_penalty=0.0,
    optimizer="sgd",
    learning_rate=0.01 * 0.0075**2 / 2,
    betas=(0.0, 0.0),
    gradient_bound=None,
    batch_size=100,
)
"""Convergent MNIST recipe of arXiv:1903.12370 with its eps = .0075. The energy is 2 / eps^2 times
the network, which makes the step size eps^2 / 2 and the temperature 1."""


def chain_kernel(recipe: ChainRecipe, energy_fn: EnergyFn) -> Kernel:
    """Returns the Langevin kernel of a recipe: `ula` at its temperature, with its clipping.

    Args:
        recipe: step size, noise, bound of the gradient, and box.
        energy_fn: E(x), in the recipe's units: `energy_scale` times a network.

    Raises:
        ValueError: as `langevin_kernel`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import recipes
        >>> kernel = recipes.chain_kernel(recipes.short_run, lambda x: jnp.sum(x**2))
        >>> round(recipes.short_run.temperature / 1e-6, 2), recipes.convergent.temperature
        (1.25, 1.0)
    """
    return chain_sampler(recipe, 1).kernel(energy_fn)


def langevin_kernel(
    energy_fn: EnergyFn,
    *,
    step_size: float,
    temperature: float = 1.0,
    score_bound: float | None = None,
    box: tuple[float, float] | None = None,
) -> Kernel:
    """Returns an unadjusted Langevin kernel (ULA) with a clipped gradient and a box.

    Args:
        energy_fn: E(x).
        step_size: h.
        temperature: T; the chains sample exp(-E / T), up to the bias of the step size.
        score_bound: bound on the absolute value of every entry of the gradient, or None.
        box: lower and upper bound of every entry of x, or None.

    Raises:
        ValueError: from `ula`, `clipped` and `boxed`, for numbers out of range.
    """
    score_fn = score_from_energy(energy_fn)
    if score_bound is not None:
        score_fn = clipped(score_fn, score_bound)
    kernel = ula(score_fn, step_size=step_size, temperature=temperature)
    return kernel if box is None else boxed(kernel, *box)


def chain_sampler(recipe: ChainRecipe, num_steps: int) -> ChainSampler:
    """Returns a recipe's chains as a sampler, from U[-1, 1]^d, for energies in its units."""
    kernel = partial(
        langevin_kernel,
        step_size=recipe.step_size,
        temperature=recipe.temperature,
        score_bound=recipe.score_bound,
        box=recipe.box,
    )
    return ChainSampler(kernel, num_steps, partial(uniform_start, low=-1.0, high=1.0))


def chain_optimizer(recipe: ChainRecipe, num_steps: int) -> optax.GradientTransformation:
    """Returns the recipe's optimizer, with a learning rate that falls to 0 along a cosine."""
    rate = optax.cosine_decay_schedule(recipe.learning_rate, num_steps)
    rule = optax.sgd(rate) if recipe.optimizer == "sgd" else optax.adam(rate, *recipe.betas)
    if recipe.gradient_bound is None:
        return rule
    return optax.chain(optax.clip_by_global_norm(recipe.gradient_bound), rule)
