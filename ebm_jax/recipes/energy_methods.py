"""All methods of this library that learn an energy from draws, by the name of their loss."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ebm_jax import losses
from ebm_jax.recipes import chain_losses, energy_losses
from ebm_jax.recipes.energy import EnergyProblem, Objective

TRUE_SCORE = "Fisher (true score)"
"""The method that uses the true score, which data do not provide: a bound for the others."""


class EnergyMethod(NamedTuple):
    """A loss and the number of steps it trains for.

    Attributes:
        objective: makes the `Objective` of the loss for a problem.
        num_steps: number of optimization steps that suffices for two-dimensional distributions.
        chains: True if training runs Markov chains.
    """

    objective: Callable[[EnergyProblem], Objective]
    num_steps: int
    chains: bool = False


ENERGY_METHODS: dict[str, EnergyMethod] = {
    TRUE_SCORE: EnergyMethod(energy_losses.fisher, 2500),
    "exact": EnergyMethod(energy_losses.exact, 2500),
    "sliced": EnergyMethod(energy_losses.sliced, 3000),
    "sliced, reduced variance": EnergyMethod(energy_losses.sliced_reduced, 3000),
    "finite difference": EnergyMethod(energy_losses.finite_difference, 4000),
    "denoising": EnergyMethod(energy_losses.denoising, 8000),
    "denoising, controlled": EnergyMethod(
        partial(energy_losses.denoising, loss_fn=losses.controlled_denoising_score_matching), 4000
    ),
    "noise-contrastive": EnergyMethod(energy_losses.noise_contrastive, 2500),
    "ranking NCE": EnergyMethod(energy_losses.ranking, 2500),
    "conditional NCE": EnergyMethod(energy_losses.conditional, 12000),
    "energy discrepancy": EnergyMethod(energy_losses.energy_discrepancy, 3000),
    "learned Stein": EnergyMethod(energy_losses.learned_stein, 3000),
    "flow-contrastive": EnergyMethod(energy_losses.flow_contrastive, 4000),
    "adversarial flow": EnergyMethod(energy_losses.adversarial, 3000),
    "VERA": EnergyMethod(energy_losses.vera, 3000),
    "CD-10": EnergyMethod(chain_losses.contrastive_from_data, 6000, chains=True),
    "persistent CD": EnergyMethod(chain_losses.persistent, 3000, chains=True),
    "recovery likelihood": EnergyMethod(chain_losses.recovery, 3000, chains=True),
}
"""All methods by name."""
