"""Losses: one example's scalar, from plain functions E(x), s(x, sigma) or D(x, sigma).

Every loss raises a ValueError, with its own name and the argument's, where a function's
result has another shape than the formula's, where x is not of floats, and where a number
is no scalar or is known and out of range. This costs nothing when the program runs.

The functions see x in its own dtype. The level that they are given, the draws and the loss
are float32, or float64 where x is, so that a model may compute in bfloat16.
"""

from ebm_jax.losses.adversarial import flow_contrastive, reverse_kl
from ebm_jax.losses.contrastive_divergence import (
    contrastive_divergence,
    nearest_neighbor_entropy,
    sampler_energy,
    squared_energies,
    squared_gradient,
)
from ebm_jax.losses.diffusion import (
    clean_prediction,
    edm,
    likelihood_weighted,
    noise_conditional,
    uncertainty_weighted,
    velocity_prediction,
    weighted_denoising,
)
from ebm_jax.losses.discrepancy import energy_discrepancy
from ebm_jax.losses.implicit import implicit_score, vera, vera_proposal
from ebm_jax.losses.noise_contrastive import (
    check_noise,
    conditional_noise_contrastive,
    noise_contrastive,
    ranking_noise_contrastive,
)
from ebm_jax.losses.recovery import recovery_energy, recovery_pair
from ebm_jax.losses.score_matching import (
    controlled_denoising_score_matching,
    denoising_score_matching,
    exact_score_matching,
    exact_score_matching_from_laplacian,
    fisher_divergence,
)
from ebm_jax.losses.sliced import (
    finite_difference_score_matching,
    sliced_score_matching,
    sliced_score_matching_from_curvature,
    variance_reduced_sliced_score_matching,
)
from ebm_jax.losses.stein import learned_stein, sliced_learned_stein

__all__ = [
    "check_noise",
    "clean_prediction",
    "conditional_noise_contrastive",
    "contrastive_divergence",
    "controlled_denoising_score_matching",
    "denoising_score_matching",
    "edm",
    "energy_discrepancy",
    "exact_score_matching",
    "exact_score_matching_from_laplacian",
    "finite_difference_score_matching",
    "fisher_divergence",
    "flow_contrastive",
    "implicit_score",
    "learned_stein",
    "likelihood_weighted",
    "nearest_neighbor_entropy",
    "noise_conditional",
    "noise_contrastive",
    "ranking_noise_contrastive",
    "recovery_energy",
    "recovery_pair",
    "reverse_kl",
    "sampler_energy",
    "sliced_learned_stein",
    "sliced_score_matching",
    "sliced_score_matching_from_curvature",
    "squared_energies",
    "squared_gradient",
    "uncertainty_weighted",
    "variance_reduced_sliced_score_matching",
    "velocity_prediction",
    "vera",
    "vera_proposal",
    "weighted_denoising",
]
