"""Figures of merit of samples: say n and the features beside each."""

from ebm_jax.metrics.chains import (
    effective_sample_size,
    integrated_autocorrelation,
    rank_r_hat,
    split_r_hat,
)
from ebm_jax.metrics.discrepancy import Estimate, squared_mmd, squared_mmd_with_error
from ebm_jax.metrics.distances import median_distance, nearest_distance, sliced_wasserstein
from ebm_jax.metrics.fidelity import frechet_distance
from ebm_jax.metrics.health import Health, energy_health
from ebm_jax.metrics.inception import inception_outputs
from ebm_jax.metrics.inception_weights import Inception, load_inception
from ebm_jax.metrics.stein import (
    inverse_multiquadric,
    squared_exponential,
    squared_stein_discrepancy,
)

__all__ = [
    "Estimate",
    "Health",
    "Inception",
    "effective_sample_size",
    "energy_health",
    "frechet_distance",
    "inception_outputs",
    "integrated_autocorrelation",
    "inverse_multiquadric",
    "load_inception",
    "median_distance",
    "nearest_distance",
    "rank_r_hat",
    "sliced_wasserstein",
    "split_r_hat",
    "squared_exponential",
    "squared_mmd",
    "squared_mmd_with_error",
    "squared_stein_discrepancy",
]
