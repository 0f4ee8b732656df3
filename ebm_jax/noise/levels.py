"""Noise levels: ladders of them, draws of them for training, and keys of examples.

A level is sigma of x_0 + sigma n: of a process, sigma(t) / alpha(t).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ebm_jax._checks import check_count, check_positive, check_range
from ebm_jax._precision import Samples, centered, check_numbers
from ebm_jax.types import PRNGKey, Scalar

Ladder = Float[Array, " levels"]


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


def geometric_from_data(data: Samples, sigma_min: float, num_levels: int) -> Ladder:
    """A `geometric` ladder whose top is the data's `largest_distance` (arXiv:2006.09011).

    At that level a Langevin chain can walk from any example to any other.

    Args:
        data: a sample of clean examples, at least two of them different.
        sigma_min: the lowest level, in the units of the data.
        num_levels: the number of levels.
    """
    return geometric(float(largest_distance(data)), sigma_min, num_levels)


def largest_distance(data: Samples) -> Scalar:
    """The largest Euclidean distance between two rows, in O(n) memory and O(n^2) time.

    Args:
        data: rows of booleans, integers or floats, of NumPy or JAX; at least two.

    Raises:
        ValueError: if there are fewer than two rows, or they are no numbers.
    """
    check_numbers("largest_distance", data=data)
    if data.ndim < 1 or data.shape[0] < 2:
        raise ValueError(
            f"`largest_distance` got data of shape {data.shape}: give at least 2 examples."
        )
    (rows,) = centered(data.reshape(data.shape[0], -1))
    squares = jnp.sum(rows**2, axis=-1)

    def farthest(row: Array) -> Scalar:
        # Found by a matmul, up to its round-off; measured without cancellation.
        other = rows[jnp.argmax(squares - 2 * rows @ row)]
        return jnp.sum((other - row) ** 2)

    return jnp.sqrt(jnp.max(jax.lax.map(farthest, rows, batch_size=256)))


def draw_uniform(key: PRNGKey, sigmas: Ladder) -> Scalar:
    """One level of the ladder, each with the same probability."""
    return sigmas[jax.random.randint(key, (), 0, sigmas.shape[0])]


def draw_log_normal(key: PRNGKey, *, mean: float = -1.2, std: float = 1.2) -> Scalar:
    """One level sigma = exp(mean + std n), n ~ N(0, 1) (arXiv:2206.00364's training law)."""
    return jnp.exp(mean + std * jax.random.normal(key))


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


def example_keys(key: PRNGKey, indices: Int[Array, " n"]) -> Key[Array, " n"]:
    """One key for each example or chain, folded from its own index.

    Example i's key, and all that is drawn from it, is the same alone, in any batch and on
    any number of devices. Only threefry keys keep that promise: under `jax.vmap` the
    numbers of an "rbg" or "unsafe_rbg" key depend on the batch. From such a key this
    function returns threefry keys.

    Args:
        key: the key of all examples, of any implementation.
        indices: the number of each example, from 0 to 2^32 - 1.
    """
    return jax.vmap(partial(jax.random.fold_in, _threefry(key)))(indices)


def _threefry(key: PRNGKey) -> PRNGKey:
    """Returns a threefry key that depends on all the data of `key`."""
    if str(jax.random.key_impl(key)) == "threefry2x32":
        return key
    data = jax.random.key_data(key)
    folded = jax.random.wrap_key_data(data[:2], impl="threefry2x32")
    for word in data[2:]:
        folded = jax.random.fold_in(folded, word)
    return folded


def _check_ladder(name: str, sigma_max: float, sigma_min: float, num_levels: int) -> None:
    check_range(name, sigma_min, sigma_max)
    check_count(name, least=2, num_levels=num_levels)
