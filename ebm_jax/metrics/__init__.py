"""Figures of merit of samples: say n and the features beside each."""

from ebm_jax.metrics.discrepancy import median_distance, nearest_distance, squared_mmd
from ebm_jax.metrics.fidelity import frechet_distance

__all__ = ["frechet_distance", "median_distance", "nearest_distance", "squared_mmd"]
