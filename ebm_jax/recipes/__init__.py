"""Published configurations as plain data, and what they compute from a user's own data."""

from ebm_jax.recipes.chains import ChainRecipe, chain_kernel, convergent, short_run
from ebm_jax.recipes.ladders import annealing_step_ratio, ladder_from_data, ladder_ratio
from ebm_jax.recipes.published import RECIPES, DiffusionRecipe, Optimizer, recipe

__all__ = [
    "RECIPES",
    "ChainRecipe",
    "DiffusionRecipe",
    "Optimizer",
    "annealing_step_ratio",
    "chain_kernel",
    "convergent",
    "ladder_from_data",
    "ladder_ratio",
    "recipe",
    "short_run",
]
