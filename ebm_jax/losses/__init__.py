"""Losses for energies E(x), scores s(x, sigma) and denoisers D(x, sigma), one example at a time.

Each loss returns a scalar for one example. Batch with `jax.vmap` and take the mean.

Every loss raises a ValueError that names the loss and the argument if a function's result has
the wrong shape, if x is not floating point, or if a number is not a scalar or is concrete and
out of range. The checks run while tracing and add nothing to the compiled program.

Functions receive x in its own dtype. The noise levels they receive, the random draws and the
loss are float32, or float64 if x is, so that a model may compute in bfloat16.
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
