"""Noise ladder and step size of annealed Langevin dynamics for given data (NCSNv2).

Three of the five techniques of NCSNv2 (arXiv:2006.09011) are computed: the highest level from the
data's `data.largest_distance` (1), the ratio of neighboring levels from the dimension (2), and
the step size from that ratio and the number of steps per level (4). The third, s = F / sigma, is
`nets.precondition.ncsn`; the fifth is an exponential moving average of the parameters.

The published values for CIFAR-10 (D = 3072, levels 50 to .01 in units of [0, 1]) are 232 levels
with a ratio of 1.0376, which is an overlap of .567 and not the stated .5, and a step of 6.2e-6
for 5 steps per level.
"""

import math

import numpy as np
from jaxtyping import Array, Float
from scipy.special import ndtr

from ebm_jax.data import largest_distance
from ebm_jax.noise import Ladder, geometric


def ladder_ratio(num_dimensions: int, *, overlap: float = 0.5) -> float:
    """Returns the level ratio g = sigma_i / sigma_(i+1) for a given overlap of neighboring levels.

    The radius of N(0, sigma^2 I) in D dimensions is about N(sqrt(D) sigma, sigma^2 / 2).
    The probability that a radius of level sigma lies within three standard deviations of the mean
    radius of level g sigma is

        Phi(sqrt(2 D) (g - 1) + 3 g) - Phi(sqrt(2 D) (g - 1) - 3 g).

    Args:
        num_dimensions: D.
        overlap: that probability.

    Raises:
        ValueError: if `num_dimensions` is below 1 or `overlap` not in (0, 1).

    References:
        Song & Ermon, arXiv:2006.09011, proposition 2 and technique 2.

    Examples:
        >>> from ebm_jax import recipes
        >>> round(recipes.ladder_ratio(3072, overlap=0.567), 4)  # NCSNv2 on CIFAR-10
        1.0376
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
    """Returns a geometric ladder by techniques 1 and 2: largest distance of the data to sigma_min.

    Args:
        data: a sample of clean examples, (n, ...), at least two of them different.
        sigma_min: the lowest level, in the units of the data; .02 for images in [-1, 1].
        overlap: overlap of neighboring levels, as for `ladder_ratio`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import recipes
        >>> data = jnp.array([[0.0, 0.0], [3.0, 4.0]])
        >>> sigmas = recipes.ladder_from_data(data, 0.01)
        >>> round(float(sigmas[0]), 2), round(float(sigmas[-1]), 2)
        (5.0, 0.01)
    """
    sigma_max = float(largest_distance(data))
    ratio = ladder_ratio(math.prod(data.shape[1:]), overlap=overlap)
    num_levels = 1 + round(math.log(sigma_max / sigma_min) / math.log(ratio))
    return geometric(sigma_max, sigma_min, max(2, num_levels))


def annealing_step_ratio(ratio: float, steps_per_level: int) -> float:
    """Returns the step ratio r = h_i / sigma_i^2 of annealed Langevin dynamics by technique 4.

    For data of one point, T steps of size r sigma^2 from noise of variance g^2 sigma^2 leave noise
    of variance

        ((1 - r)^(2 T) (g^2 - q) + q) sigma^2,   q = 2 / (2 - r).

    r is the value at which this is closest to sigma^2, which it cannot reach exactly.

    Args:
        ratio: g = sigma_i / sigma_(i+1), above 1.
        steps_per_level: T.

    Raises:
        ValueError: for numbers out of range.

    References:
        Song & Ermon, arXiv:2006.09011, proposition 3 and technique 4; its epsilon is
        r sigma_L^2.

    Examples:
        >>> from ebm_jax import recipes
        >>> r = recipes.annealing_step_ratio(1.0376, 5)
        >>> round(r * 0.01**2 * 1e6, 1)  # the published epsilon of CIFAR-10, 6.2e-6
        6.2
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
