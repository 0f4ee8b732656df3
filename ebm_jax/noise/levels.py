"""Noise levels: ladders of levels, and draws of levels for training.

A noise level is sigma of x_0 + sigma n. For a process it is sigma(t) / alpha(t).
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
    """Returns levels from sigma_max down to sigma_min in a constant ratio (arXiv:1907.05600).

    Examples:
        >>> from ebm_jax import noise
        >>> [round(float(sigma), 2) for sigma in noise.geometric(10.0, 0.1, 3)]
        [10.0, 1.0, 0.1]
    """
    _check_ladder("geometric", sigma_max, sigma_min, num_levels)
    return jnp.geomspace(sigma_max, sigma_min, num_levels, dtype=jnp.float32)


def karras(sigma_max: float, sigma_min: float, num_levels: int, *, rho: float = 7.0) -> Ladder:
    """Returns levels from sigma_max down to sigma_min, even in sigma^(1/rho) (arXiv:2206.00364).

    Examples:
        >>> from ebm_jax import noise
        >>> [round(float(sigma), 2) for sigma in noise.karras(80.0, 0.1, 4)]
        [80.0, 16.05, 1.99, 0.1]
    """
    _check_ladder("karras", sigma_max, sigma_min, num_levels)
    check_positive("karras", rho=rho)
    roots = jnp.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_levels)
    return roots.astype(jnp.float32) ** rho


def draw_uniform(key: PRNGKey, sigmas: Ladder) -> Scalar:
    """Draws one level of the ladder uniformly."""
    return sigmas[jax.random.randint(key, (), 0, sigmas.shape[0])]


def draw_log_normal(key: PRNGKey, *, mean: float = -1.2, std: float = 1.2) -> Scalar:
    """Draws one level sigma = exp(mean + std n), n ~ N(0, 1): EDM training (arXiv:2206.00364)."""
    return jnp.exp(mean + std * jax.random.normal(key))


def log_normal_level(u: Scalar, *, mean: float = -1.2, std: float = 1.2) -> Scalar:
    """Returns the quantile u of the levels that `draw_log_normal` draws.

    Stratified or low-discrepancy u give stratified levels.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import noise
        >>> round(float(noise.log_normal_level(jnp.float32(0.5))), 4)  # the median, exp(-1.2)
        0.3012
    """
    return jnp.exp(mean + std * ndtri(jnp.clip(u, 1e-6, 1 - 1e-6)))


def ladder_level(u: Scalar, *, sigmas: Ladder) -> Scalar:
    """Returns the level of a ladder at the share u of its length, u in [0, 1)."""
    return sigmas[(u * sigmas.shape[0]).astype(jnp.int32)]


def log_uniform_level(u: Scalar, *, sigma_min: float, sigma_max: float) -> Scalar:
    """Returns sigma_min (sigma_max / sigma_min)^u: a log-uniform level for u uniform on [0, 1).

    For any process, the times of such levels are those of likelihood importance sampling, with
    density -d log SNR / dt (arXiv:2101.09258).

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.
    """
    check_range("log_uniform_level", sigma_min, sigma_max)
    return sigma_min * (sigma_max / sigma_min) ** u


def draw_low_discrepancy(key: PRNGKey, batch_size: int) -> Float[Array, " batch"]:
    """Draws times (u + i / B) mod 1 for a whole batch, u ~ U[0, 1) (arXiv:2107.00630).

    Each time is uniform on [0, 1). Together they are evenly spread, which lowers the variance
    of a batch's mean loss; this is why the function draws for the whole batch.

    Examples:
        >>> import jax
        >>> from ebm_jax import noise
        >>> times = noise.draw_low_discrepancy(jax.random.key(0), 4)
        >>> sorted((4 * times).astype(int).tolist())  # one time in each quarter of [0, 1)
        [0, 1, 2, 3]
    """
    return (jax.random.uniform(key) + jnp.arange(batch_size) / batch_size) % 1.0


def _check_ladder(name: str, sigma_max: float, sigma_min: float, num_levels: int) -> None:
    check_range(name, sigma_min, sigma_max)
    check_count(name, least=2, num_levels=num_levels)
