"""Laws to learn and to be judged by: draws, and the exact energy where it is known.

A target smoothed by sigma is the law of x + sigma n, n ~ N(0, I): what denoising
score matching at sigma really learns.
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
