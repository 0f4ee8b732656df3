"""Noise levels: ladders of them, draws of them for training, and keys of examples.

A level is sigma of x_0 + sigma n: of a process, sigma(t) / alpha(t).
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from ebm_jax._checks import check_count, check_positive, check_range
from ebm_jax.types import PRNGKey, Scalar

Ladder = Float[Array, " levels"]
"""Noise levels sigma, from the highest to the lowest."""


def geometric(sigma_max: float, sigma_min: float, num_levels: int) -> Ladder:
    """Levels from sigma_max down to sigma_min in a constant ratio (arXiv:1907.05600)."""
    _check_ladder("geometric", sigma_max, sigma_min, num_levels)
    return jnp.geomspace(sigma_max, sigma_min, num_levels, dtype=jnp.float32)


def karras(sigma_max: float, sigma_min: float, num_levels: int, *, rho: float = 7.0) -> Ladder:
    """Levels from sigma_max down to sigma_min, even in sigma^(1/rho) (arXiv:2206.00364)."""
    _check_ladder("karras", sigma_max, sigma_min, num_levels)
    check_positive("karras", rho=rho)
    roots = jnp.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_levels)
    return roots.astype(jnp.float32) ** rho


def draw_uniform(key: PRNGKey, sigmas: Ladder) -> Scalar:
    """One level of the ladder, each with the same probability."""
    return sigmas[jax.random.randint(key, (), 0, sigmas.shape[0])]


def draw_log_normal(key: PRNGKey, *, mean: float = -1.2, std: float = 1.2) -> Scalar:
    """One level sigma = exp(mean + std n), n ~ N(0, 1) (arXiv:2206.00364's training law)."""
    return jnp.exp(mean + std * jax.random.normal(key))


def log_normal_level(u: Scalar, *, mean: float = -1.2, std: float = 1.2) -> Scalar:
    """The quantile of `noise.draw_log_normal` at u: EDM's law of levels, for even draws."""
    return jnp.exp(mean + std * ndtri(jnp.clip(u, 1e-6, 1 - 1e-6)))


def ladder_level(u: Scalar, *, sigmas: Ladder) -> Scalar:
    """Returns the level of a ladder at the share u of its length, u in [0, 1)."""
    return sigmas[(u * sigmas.shape[0]).astype(jnp.int32)]


def log_uniform_level(u: Scalar, *, sigma_min: float, sigma_max: float) -> Scalar:
    """The level sigma_min (sigma_max / sigma_min)^u: log-uniform for u uniform on [0, 1).

    Times whose levels are so distributed are those of importance sampling for the
    likelihood, of density -d log SNR / dt, whatever the process (arXiv:2101.09258).
    """
    check_range("log_uniform_level", sigma_min, sigma_max)
    return sigma_min * (sigma_max / sigma_min) ** u


def draw_low_discrepancy(key: PRNGKey, batch_size: int) -> Float[Array, " batch"]:
    """Times (u + i / B) mod 1 for a whole batch, u ~ U[0, 1) (arXiv:2107.00630).

    Each is uniform on [0, 1); together they are evenly spread, which lowers the
    variance of a batch's mean loss. This one couples the batch by its purpose.
    """
    return (jax.random.uniform(key) + jnp.arange(batch_size) / batch_size) % 1.0


def _check_ladder(name: str, sigma_max: float, sigma_min: float, num_levels: int) -> None:
    check_range(name, sigma_min, sigma_max)
    check_count(name, least=2, num_levels=num_levels)
