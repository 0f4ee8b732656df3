"""What an unnormalised model says of data: normalisers, divergences, ratios."""

from ebm_jax.evidence.bound import (
    VariationalBound,
    log_discretised_normal,
    log_normal,
    variational_bound,
)
from ebm_jax.evidence.flow import (
    LogDensity,
    dequantise,
    estimated_flow_log_density,
    flow_log_density,
)
from ebm_jax.evidence.importance import (
    Bracket,
    LogMean,
    annealed_log_weight,
    log_mean_weight,
    log_z_bracket,
)
from ebm_jax.evidence.quadrature import (
    expectation_on_grid,
    kl_on_grid,
    line_grid,
    log_density_on_grid,
    log_z_on_grid,
    square_grid,
)
from ebm_jax.evidence.ratios import bits_per_dimension, log_ratio

__all__ = [
    "Bracket",
    "LogDensity",
    "LogMean",
    "VariationalBound",
    "annealed_log_weight",
    "bits_per_dimension",
    "dequantise",
    "estimated_flow_log_density",
    "expectation_on_grid",
    "flow_log_density",
    "kl_on_grid",
    "line_grid",
    "log_density_on_grid",
    "log_discretised_normal",
    "log_mean_weight",
    "log_normal",
    "log_ratio",
    "log_z_bracket",
    "log_z_on_grid",
    "square_grid",
    "variational_bound",
]
