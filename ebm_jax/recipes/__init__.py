"""Published training configurations as plain data, and the quantities they derive from data."""

from ebm_jax.recipes import chain_losses, energy_losses
from ebm_jax.recipes.chains import (
    ChainRecipe,
    chain_kernel,
    chain_optimizer,
    chain_sampler,
    convergent,
    langevin_kernel,
    short_run,
)
from ebm_jax.recipes.diffusion import DiffusionRecipe, Optimizer
from ebm_jax.recipes.energy import EnergyProblem, EnergyRecipe, Objective, two_player_adam
from ebm_jax.recipes.energy_methods import ENERGY_METHODS, TRUE_SCORE, EnergyMethod
from ebm_jax.recipes.ladders import annealing_step_ratio, ladder_from_data, ladder_ratio
from ebm_jax.recipes.published import RECIPES, recipe
from ebm_jax.recipes.samplers import (
    AnnealedSampler,
    ChainSampler,
    FlowSampler,
    Sampler,
    SolverSampler,
    normal_start,
    uniform_start,
)

__all__ = [
    "ENERGY_METHODS",
    "RECIPES",
    "TRUE_SCORE",
    "AnnealedSampler",
    "ChainRecipe",
    "ChainSampler",
    "DiffusionRecipe",
    "EnergyMethod",
    "EnergyProblem",
    "EnergyRecipe",
    "FlowSampler",
    "Objective",
    "Optimizer",
    "Sampler",
    "SolverSampler",
    "annealing_step_ratio",
    "chain_kernel",
    "chain_losses",
    "chain_optimizer",
    "chain_sampler",
    "convergent",
    "energy_losses",
    "ladder_from_data",
    "ladder_ratio",
    "langevin_kernel",
    "normal_start",
    "recipe",
    "short_run",
    "two_player_adam",
    "uniform_start",
]
