"""Likelihood of unnormalized models: log Z, divergences, bounds, flows, and bits per dimension."""

from ebm_jax.likelihood.annealing import log_z_from_gaussian
from ebm_jax.likelihood.bound import (
    VariationalBound,
    log_discretized_normal,
    log_normal,
    variational_bound,
)
from ebm_jax.likelihood.flow import (
    LogDensity,
    estimated_flow_log_density,
    flow_log_density,
)
from ebm_jax.likelihood.importance import (
    Bracket,
    LogMean,
    annealed_log_weight,
    log_mean_weight,
    log_z_bracket,
)
from ebm_jax.likelihood.quadrature import (
    expectation_on_grid,
    kl_on_grid,
    line_grid,
    log_density_on_grid,
    log_z_on_grid,
    square_grid,
)
from ebm_jax.likelihood.ratios import bits_per_dimension, log_ratio

__all__ = [
    "Bracket",
    "LogDensity",
    "LogMean",
    "VariationalBound",
    "annealed_log_weight",
    "bits_per_dimension",
    "estimated_flow_log_density",
    "expectation_on_grid",
    "flow_log_density",
    "kl_on_grid",
    "line_grid",
    "log_density_on_grid",
    "log_discretized_normal",
    "log_mean_weight",
    "log_normal",
    "log_ratio",
    "log_z_bracket",
    "log_z_from_gaussian",
    "log_z_on_grid",
    "square_grid",
    "variational_bound",
]
