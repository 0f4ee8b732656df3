"""What a density says of examples, in units that can be compared.

log p(x) / p(y) = E(y) - E(x)                    no normalizer
bits/dim = -log2 p(x) / d - log2 cell            a density as a code length
"""

import math

from ebm_jax.types import EnergyFn, Example, Scalar


def log_ratio(energy_fn: EnergyFn, x: Example, y: Example) -> Scalar:
    """log p(x) - log p(y) = E(y) - E(x), in nats: how much likelier x is, without Z.

    Args:
        energy_fn: E(x), a scalar for one example.
        x: the example above the bar.
        y: the example below it.
    """
    return energy_fn(y) - energy_fn(x)


def bits_per_dimension(
    log_density: float | Scalar, num_dimensions: int, *, cell_width: float = 2 / 255
) -> float | Scalar:
    """The code length of discrete data under a density of their dequantized values.

        bits/dim = -log p(x) / (d log 2) - log2(cell_width)

    A value u of 0..255 stands for a cell of x, and p(u) >= exp E log p(x) cell_width^d,
    x uniform on the cell: the mean over such x bounds the true code length from above.
    The default, 2/255, is the cell of this library's images, where 0 is -1 and 255 is 1,
    dequantized as x = -1 + (2 u + 2 U - 1) / 255 with U uniform on [0, 1) (`dequantize`):
    the uniform density over all cells, on [-1 - 1/255, 1 + 1/255]^d, needs 8 bits. For
    x = -1 + 2 (u + U) / 256 cells are 2/256 wide, for data scaled to [0, 1] as
    (u + U) / 256 they are 1/256.

    Args:
        log_density: log p(x) of one example, in nats, normalized.
        num_dimensions: d, the numbers in an example.
        cell_width: the width of a cell in the units of x.

    Raises:
        ValueError: for a number that is not positive.

    References:
        Theis et al., arXiv:1511.01844.
    """
    if num_dimensions < 1 or not cell_width > 0:
        raise ValueError(
            f"`bits_per_dimension` got num_dimensions={num_dimensions}, "
            f"cell_width={cell_width}: give positive numbers."
        )
    return -log_density / (num_dimensions * math.log(2)) - math.log2(cell_width)
