"""The ladder and the step of annealed Langevin dynamics that suit a set of data.

Three of the five techniques of NCSNv2 (arXiv:2006.09011) are computed: the highest level from the
data's `data.largest_distance` (1), the ratio of neighboring levels from the dimension (2), and
the step size from that ratio and the steps at each level (4). The third, s = F / sigma, is
`nets.precondition.ncsn`, and the fifth an average of parameters.

The published values for CIFAR-10 (D = 3072, levels 50 to .01 in units of [0, 1]) are 232 levels in
a ratio of 1.0376, which is an overlap of .567 and not the stated .5, and a step of 6.2e-6 for 5
steps a level.
"""

import math

import numpy as np
from jaxtyping import Array, Float
from scipy.special import ndtr

from ebm_jax.data import largest_distance
from ebm_jax.noise import Ladder, geometric


def ladder_ratio(num_dimensions: int, *, overlap: float = 0.5) -> float:
    """g = sigma_i / sigma_(i+1) at which neighboring levels share `overlap` of their radii.

    The radius of N(0, sigma^2 I) in D dimensions is about N(sqrt(D) sigma, sigma^2 / 2).
    The probability that one of level g sigma lies within three deviations of that of
    sigma is

        Phi(sqrt(2 D) (g - 1) + 3 g) - Phi(sqrt(2 D) (g - 1) - 3 g).

    Raises:
        ValueError: if `num_dimensions` is below 1 or `overlap` not in (0, 1).

    References:
        Song & Ermon, arXiv:2006.09011, proposition 2 and technique 2.
    """
    if num_dimensions < 1 or not 0 < overlap < 1:
        raise ValueError(
            f"`ladder_ratio` got num_dimensions={num_dimensions}, overlap={overlap}: "
            "give at least 1, and a share between 0 and 1."
        )
    low, high = 1.0, 1.0 + 10 / math.sqrt(num_dimensions) + 10.0
    for _ in range(200):
        middle = (low + high) / 2
        shift = math.sqrt(2 * num_dimensions) * (middle - 1)
        shared = ndtr(shift + 3 * middle) - ndtr(shift - 3 * middle)
        low, high = (middle, high) if shared > overlap else (low, middle)
    return low


def ladder_from_data(
    data: Float[Array, "n *d"], sigma_min: float, *, overlap: float = 0.5
) -> Ladder:
    """A geometric ladder by techniques 1 and 2: from the largest distance down to sigma_min.

    Args:
        data: a sample of clean examples, at least two of them different.
        sigma_min: the lowest level, in the units of the data; .02 for images in [-1, 1].
        overlap: of neighboring levels, as for `ladder_ratio`.
    """
    sigma_max = float(largest_distance(data))
    ratio = ladder_ratio(math.prod(data.shape[1:]), overlap=overlap)
    num_levels = 1 + round(math.log(sigma_max / sigma_min) / math.log(ratio))
    return geometric(sigma_max, sigma_min, max(2, num_levels))


def annealing_step_ratio(ratio: float, steps_per_level: int) -> float:
    """r = h_i / sigma_i^2 of annealed Langevin that keeps the noise nearest to each level's.

    For data of one point, T steps of size r sigma^2 from noise of variance g^2 sigma^2 leave

        ((1 - r)^(2 T) (g^2 - q) + q) sigma^2,   q = 2 / (2 - r),

    and r is where this is closest to sigma^2, which it cannot reach exactly.

    Args:
        ratio: g = sigma_i / sigma_(i+1), above 1.
        steps_per_level: T.

    Raises:
        ValueError: for numbers out of range.

    References:
        Song & Ermon, arXiv:2006.09011, proposition 3 and technique 4; its epsilon is
        r sigma_L^2.
    """
    if not ratio > 1 or steps_per_level < 1:
        raise ValueError(
            f"`annealing_step_ratio` got ratio={ratio}, steps_per_level={steps_per_level}: "
            "give a ratio above 1 and at least 1 step."
        )
    r = np.linspace(1e-5, 1, 100_000)
    q = 2 / (2 - r)
    left = (1 - r) ** (2 * steps_per_level) * (ratio**2 - q) + q
    return float(r[np.argmin(np.abs(left - 1))])
