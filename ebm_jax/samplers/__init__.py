"""Samplers: kernels of Markov chains and their scans."""

from ebm_jax.samplers.annealed import annealed_langevin, annealed_langevin_path
from ebm_jax.samplers.kernel import Kernel, run
from ebm_jax.samplers.langevin import LangevinInfo, LangevinState, ula

__all__ = [
    "Kernel",
    "LangevinInfo",
    "LangevinState",
    "annealed_langevin",
    "annealed_langevin_path",
    "run",
    "ula",
]
