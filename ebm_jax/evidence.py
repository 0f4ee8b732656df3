"""What an unnormalised model says of data: quadrature in two dimensions.

    log Z = log int exp(-E(x)) dx
    KL(p || q) = int p (log p - log q) dx,   log p = -E_p - log Z_p

by the midpoint rule on a square, whose error falls faster than any power of the cell
for smooth densities that vanish at the border (Trefethen & Weideman, The exponentially
convergent trapezoidal rule, SIAM Review 2014).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.types import EnergyFn, Scalar


def square_grid(half_width: float, num_points: int) -> Float[Array, "cells 2"]:
    """The midpoints of num_points x num_points cells of [-half_width, half_width]^2.

    The first coordinate varies slowest. Errors: ValueError for a width or a number
    that is not positive.
    """
    if half_width <= 0 or num_points < 1:
        raise ValueError(
            f"`square_grid` got half_width={half_width}, num_points={num_points}: "
            "give positive numbers."
        )
    cells = (jnp.arange(float(num_points)) + 0.5) / num_points
    axis = half_width * (2 * cells - 1)
    return jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def log_z_on_grid(energy_fn: EnergyFn, *, half_width: float, num_points: int = 400) -> Scalar:
    """log Z = log int exp(-E(x)) dx over a square of the plane.

    Args:
        energy_fn: E(x) for x of shape (2,).
        half_width: half the side of the square centred at 0; mass outside is ignored.
        num_points: cells along a side; a cell should be below the law's finest scale.
    """
    log_p = -_energy_on_grid(energy_fn, half_width, num_points)
    return jax.nn.logsumexp(log_p) + 2 * jnp.log(2 * half_width / num_points)


def log_density_on_grid(
    energy_fn: EnergyFn, *, half_width: float, num_points: int = 400
) -> Float[Array, " cells"]:
    """log p at the midpoints of `square_grid`, normalised by `log_z_on_grid`.

    Takes the arguments of `log_z_on_grid`.
    """
    energy = _energy_on_grid(energy_fn, half_width, num_points)
    log_cell = 2 * jnp.log(2 * half_width / num_points)
    return -energy - (jax.nn.logsumexp(-energy) + log_cell)


def kl_on_grid(
    energy_p: EnergyFn, energy_q: EnergyFn, *, half_width: float, num_points: int = 400
) -> Scalar:
    """KL(p || q) in nats of two unnormalised models over a square of the plane.

    Both are normalised on the square. Where p is zero the integrand is zero; the
    result is infinite if q is zero where p is not.

    Args:
        energy_p: the energy of the law that the mean is over, usually the data's.
        energy_q: the energy of the model.
        half_width: half the side of the square centred at 0.
        num_points: cells along a side.
    """
    log_p, log_q = (
        log_density_on_grid(energy, half_width=half_width, num_points=num_points)
        for energy in (energy_p, energy_q)
    )
    p = jnp.exp(log_p)
    cell = (2 * half_width / num_points) ** 2
    return cell * jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0.0))


def _energy_on_grid(
    energy_fn: EnergyFn, half_width: float, num_points: int
) -> Float[Array, " cells"]:
    points = square_grid(half_width, num_points)
    return jax.lax.map(energy_fn, points, batch_size=min(4096, points.shape[0]))
