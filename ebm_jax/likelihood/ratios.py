"""Log-density ratios and bits per dimension (BPD), in units that can be compared between models.

log p(x) / p(y) = E(y) - E(x)                    no normalizer
bits/dim = -log2 p(x) / d - log2 cell            a density as a code length
"""

import math

from ebm_jax.types import EnergyFn, Example, Scalar


def log_ratio(energy_fn: EnergyFn, x: Example, y: Example) -> Scalar:
    """Returns log p(x) - log p(y) = E(y) - E(x) in nats, for which Z is not needed.

    Args:
        energy_fn: E(x), a scalar for one example.
        x: the example in the numerator.
        y: the example in the denominator.
    """
    return energy_fn(y) - energy_fn(x)


def bits_per_dimension(
    log_density: float | Scalar, num_dimensions: int, *, cell_width: float = 2 / 255
) -> float | Scalar:
    """Bits per dimension (BPD): code length of discrete data under a density of dequantized values.

        bits/dim = -log p(x) / (d log 2) - log2(cell_width)

    A value u of 0..255 stands for a cell of x, and p(u) >= exp E[log p(x)] cell_width^d for x
    uniform on the cell: the mean over such x is an upper bound of the true code length. The
    default, 2/255, is the cell of this library's images, in which 0 is -1 and 255 is 1,
    dequantized as x = -1 + (2 u + 2 U - 1) / 255 with U uniform on [0, 1) (`dequantize`). The
    uniform density over all cells, on [-1 - 1/255, 1 + 1/255]^d, has 8 bits per dimension. For
    x = -1 + 2 (u + U) / 256 cells are 2/256 wide; for data scaled to [0, 1] as (u + U) / 256 they
    are 1/256.

    Args:
        log_density: log p(x) of one example, in nats, normalized.
        num_dimensions: d, the number of entries of an example.
        cell_width: the width of a cell, in the units of x.

    Returns:
        The bits per dimension.

    Raises:
        ValueError: if `num_dimensions` or `cell_width` is not positive.

    References:
        Theis et al., arXiv:1511.01844.

    Examples:
        >>> import math
        >>> from ebm_jax import likelihood
        >>> log_uniform = -3072 * math.log(2 + 2 / 255)  # the uniform density over all cells
        >>> round(likelihood.bits_per_dimension(log_uniform, 3072), 6)
        8.0
    """
    if num_dimensions < 1 or not cell_width > 0:
        raise ValueError(
            f"`bits_per_dimension` got num_dimensions={num_dimensions}, "
            f"cell_width={cell_width}: give positive numbers."
        )
    return -log_density / (num_dimensions * math.log(2)) - math.log2(cell_width)
