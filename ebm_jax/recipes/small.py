"""Recipes for small images and a minute or two of training: the first models of experiments."""

from functools import partial

from ebm_jax import losses, noise, samplers
from ebm_jax.ema import ramped
from ebm_jax.nets import ConvScore, precondition
from ebm_jax.recipes.diffusion import DiffusionRecipe, Optimizer
from ebm_jax.recipes.samplers import SolverSampler


def edm_small(
    shape: tuple[int, ...],
    sigma_data: float,
    *,
    channels: tuple[int, ...] = (32, 64),
    patch: int = 1,
    num_steps: int = 1000,
) -> DiffusionRecipe:
    """Returns EDM's recipe with a small U-Net, `nets.ConvScore`, for batches of 128 images.

    Samples follow the probability-flow ODE by Heun's method over 18 levels.

    Args:
        shape: shape of an image.
        sigma_data: standard deviation of the pixels, which are in [-1, 1].
        channels: channels of the network at each resolution, multiples of 8.
        patch: side of the squares of pixels that the network merges into one.
        num_steps: number of optimization steps.
    """
    return DiffusionRecipe(
        net=ConvScore(channels, 2, patch),
        wrap=partial(precondition.edm, sigma_data=sigma_data),
        objective=partial(losses.edm, sigma_data=sigma_data),
        level=noise.log_normal_level,
        sampler=SolverSampler(samplers.edm, noise.edm, noise.karras(80.0, 0.002, 18)),
        optimizer=Optimizer(3e-3, b2=0.99, warm_up=num_steps // 20, decay=True, clip=10.0),
        ema=ramped(0.995),
        batch_size=128,
        num_steps=num_steps,
        shape=shape,
        source="arXiv:2206.00364",
    )
