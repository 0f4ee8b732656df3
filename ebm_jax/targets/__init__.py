"""Target distributions for experiments and tests: samples, and exact energies where known.

A target smoothed by sigma is the distribution of x + sigma n, n ~ N(0, I), which is what
denoising score matching at level sigma learns.
"""

from ebm_jax.targets.gaussian import (
    Target,
    fitted_gaussian,
    gaussian,
    gaussian_mixture,
    log_density,
)
from ebm_jax.targets.planar import (
    checkerboard,
    eight_gaussians,
    moons,
    pinwheel,
    rings,
    two_spirals,
)

__all__ = [
    "Target",
    "checkerboard",
    "eight_gaussians",
    "fitted_gaussian",
    "gaussian",
    "gaussian_mixture",
    "log_density",
    "moons",
    "pinwheel",
    "rings",
    "two_spirals",
]
