"""Integrals of unnormalized models by quadrature, in one, two or a few dimensions.

    log Z = log int exp(-E(x)) dx
    E f = int p(x) f(x) dx,   KL(p || q) = int p (log p - log q) dx,   log p = -E - log Z

The midpoint rule is used on the cube [-half_width, half_width]^d. Its error decreases faster
than any power of the cell size for smooth densities that vanish at the border (Trefethen &
Weideman, The exponentially convergent trapezoidal rule, SIAM Review 2014).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.types import EnergyFn, Example, Scalar

MAX_CELLS = 10**8  # a few gigabytes: points, energies and some arrays of their size


def line_grid(half_width: float, num_points: int) -> Float[Array, "cells 1"]:
    """Returns the midpoints of `num_points` cells of [-half_width, half_width], shape (cells, 1).

    Raises:
        ValueError: if `half_width` or `num_points` is not positive.
    """
    return _grid("`line_grid`", half_width, num_points, 1)


def square_grid(half_width: float, num_points: int) -> Float[Array, "cells 2"]:
    """Returns the midpoints of num_points x num_points cells of [-half_width, half_width]^2.

    The first coordinate varies slowest.

    Raises:
        ValueError: if `half_width` or `num_points` is not positive.
    """
    return _grid("`square_grid`", half_width, num_points, 2)


def log_z_on_grid(
    energy_fn: EnergyFn, *, half_width: float, num_points: int = 400, num_dimensions: int = 2
) -> Scalar:
    """Returns log Z = log int exp(-E(x)) dx over a line, square or cube around 0.

    Args:
        energy_fn: E(x) for x of shape (num_dimensions,).
        half_width: half the side of the cube; mass outside is ignored.
        num_points: number of cells along a side; a cell should be smaller than the finest scale
            of the distribution.
        num_dimensions: dimension of x: 1, 2 or a few. There are num_points^num_dimensions cells.

    Raises:
        ValueError: for a number that is not positive, or more than 10^8 cells.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import likelihood
        >>> log_z = likelihood.log_z_on_grid(lambda x: jnp.sum(x**2) / 2, half_width=8.0)
        >>> round(float(log_z), 3)  # log(2 pi)
        1.838
    """
    log_p = -_energy_on_grid(energy_fn, half_width, num_points, num_dimensions)
    return jax.nn.logsumexp(log_p) + num_dimensions * jnp.log(2 * half_width / num_points)


def log_density_on_grid(
    energy_fn: EnergyFn, *, half_width: float, num_points: int = 400, num_dimensions: int = 2
) -> Float[Array, " cells"]:
    """Returns log p at the midpoints of `line_grid` or `square_grid`, normalized on the cube.

    The arguments are those of `log_z_on_grid`.
    """
    energy = _energy_on_grid(energy_fn, half_width, num_points, num_dimensions)
    log_cell = num_dimensions * jnp.log(2 * half_width / num_points)
    return -energy - (jax.nn.logsumexp(-energy) + log_cell)


def expectation_on_grid(
    energy_fn: EnergyFn,
    fn: Callable[[Example], Array],
    *,
    half_width: float,
    num_points: int = 400,
    num_dimensions: int = 2,
) -> Array:
    """Returns the expectation of f(x) over p ~ exp(-E), normalized on the cube.

    The mass of a region is the expectation of its indicator. The edge of an indicator causes an
    error of up to a cell: place edges between midpoints. Points where p is zero do not count, even
    if f is infinite there.

    Args:
        energy_fn: E(x) for x of shape (num_dimensions,).
        fn: f(x), a number or a small array; booleans count as 0 and 1.
        half_width: half the side of the cube.
        num_points: number of cells along a side.
        num_dimensions: dimension of x.

    Returns:
        The mean, of the shape of f(x).

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import likelihood
        >>> mean = likelihood.expectation_on_grid(
        ...     lambda x: jnp.sum(x**2) / 8, lambda x: x**2, half_width=20.0, num_dimensions=1)
        >>> round(float(mean[0]), 3)  # the variance of N(0, 4)
        4.0
    """
    shares = jax.nn.softmax(-_energy_on_grid(energy_fn, half_width, num_points, num_dimensions))
    values = _on_grid(fn, half_width, num_points, num_dimensions).astype(shares.dtype)
    shares = shares.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.sum(jnp.where(shares > 0, shares * values, 0.0), 0)


def kl_on_grid(
    energy_p: EnergyFn,
    energy_q: EnergyFn,
    *,
    half_width: float,
    num_points: int = 400,
    num_dimensions: int = 2,
) -> Scalar:
    """Returns KL(p || q) in nats of two unnormalized models over a line, square or cube around 0.

    Both models are normalized on the cube. Where p is zero the integrand is zero; the result is
    infinite if q is zero where p is not.

    Args:
        energy_p: the energy of p, over which the mean is taken, usually that of the data.
        energy_q: the energy of the model.
        half_width: half the side of the cube.
        num_points: number of cells along a side.
        num_dimensions: dimension of x.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import likelihood
        >>> kl = likelihood.kl_on_grid(
        ...     lambda x: jnp.sum(x**2) / 2, lambda x: jnp.sum((x - 1) ** 2) / 2, half_width=8.0)
        >>> round(float(kl), 3)  # |(1, 1)|^2 / 2
        1.0
    """
    log_p, log_q = (
        log_density_on_grid(
            energy, half_width=half_width, num_points=num_points, num_dimensions=num_dimensions
        )
        for energy in (energy_p, energy_q)
    )
    p = jnp.exp(log_p)
    cell = (2 * half_width / num_points) ** num_dimensions
    return cell * jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0.0))


def _grid(
    name: str, half_width: float, num_points: int, num_dimensions: int
) -> Float[Array, "cells d"]:
    _check_grid(name, half_width, num_points, num_dimensions)
    cells = (jnp.arange(float(num_points)) + 0.5) / num_points
    axes = [half_width * (2 * cells - 1)] * num_dimensions
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, num_dimensions)


def _check_grid(name: str, half_width: float, num_points: int, num_dimensions: int) -> None:
    if not (0 < half_width < jnp.inf and num_points >= 1 and num_dimensions >= 1):
        raise ValueError(
            f"{name} got half_width={half_width}, num_points={num_points}, in "
            f"{num_dimensions} dimensions: give positive numbers."
        )
    if num_points**num_dimensions > MAX_CELLS:
        fits = int(MAX_CELLS ** (1 / num_dimensions))
        raise ValueError(
            f"{name} got num_points={num_points} in {num_dimensions} dimensions, which are "
            f"{float(num_points) ** num_dimensions:.2g} cells: give num_points of at most {fits}, "
            "or estimate log Z by annealed importance sampling (`annealed_log_weight`)."
        )


def _energy_on_grid(
    energy_fn: EnergyFn, half_width: float, num_points: int, num_dimensions: int
) -> Float[Array, " cells"]:
    energy = _on_grid(energy_fn, half_width, num_points, num_dimensions)
    if energy.ndim != 1:
        raise ValueError(
            f"quadrature got energy_fn(x) of shape {energy.shape[1:]}, expected (): "
            "functions see one example, and its energy is a scalar."
        )
    return energy


def _on_grid(
    fn: Callable[[Example], Array], half_width: float, num_points: int, num_dimensions: int
) -> Array:
    points = _grid("quadrature", half_width, num_points, num_dimensions)
    return jax.lax.map(fn, points, batch_size=min(4096, points.shape[0]))
