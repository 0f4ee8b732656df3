"""Noise processes x_t = alpha(t) x_0 + sigma(t) n, time grids, and noise levels for training."""

from ebm_jax.noise.grids import (
    Times,
    ddpm_levels,
    log_snr_times,
    times_of_levels,
    uniform_times,
)
from ebm_jax.noise.levels import (
    Ladder,
    draw_log_normal,
    draw_low_discrepancy,
    draw_uniform,
    geometric,
    karras,
    ladder_level,
    log_normal_level,
    log_uniform_level,
)
from ebm_jax.noise.process import Process, Schedule, cosine, edm, sub_vp, ve, vp

__all__ = [
    "Ladder",
    "Process",
    "Schedule",
    "Times",
    "cosine",
    "ddpm_levels",
    "draw_log_normal",
    "draw_low_discrepancy",
    "draw_uniform",
    "edm",
    "geometric",
    "karras",
    "ladder_level",
    "log_normal_level",
    "log_snr_times",
    "log_uniform_level",
    "sub_vp",
    "times_of_levels",
    "uniform_times",
    "ve",
    "vp",
]
