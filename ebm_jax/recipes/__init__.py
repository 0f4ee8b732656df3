"""Published configurations as plain data, and what they compute from a user's own data."""

from ebm_jax.recipes.chains import ChainRecipe, chain_kernel, convergent, short_run
from ebm_jax.recipes.diffusion import DiffusionRecipe, Optimizer
from ebm_jax.recipes.ladders import annealing_step_ratio, ladder_from_data, ladder_ratio
from ebm_jax.recipes.published import RECIPES, recipe
from ebm_jax.recipes.samplers import AnnealedSampler, FlowSampler, Sampler, SolverSampler

__all__ = [
    "RECIPES",
    "AnnealedSampler",
    "ChainRecipe",
    "DiffusionRecipe",
    "FlowSampler",
    "Optimizer",
    "Sampler",
    "SolverSampler",
    "annealing_step_ratio",
    "chain_kernel",
    "convergent",
    "ladder_from_data",
    "ladder_ratio",
    "recipe",
    "short_run",
]
