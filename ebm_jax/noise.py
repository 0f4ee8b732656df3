"""Noise: processes x_t = alpha(t) x_0 + sigma(t) n, ladders of levels, draws of levels and keys.

Two functions of time determine the forward SDE dx = f(t) x dt + g(t) dw [1]:

    f = alpha' / alpha          g^2 = (sigma^2)' - 2 f sigma^2

Dividing by alpha puts every process into variance-exploding coordinates,

    x_t / alpha = x_0 + (sigma / alpha) n,

where one denoiser D(x, sigma) serves them all [2].

References:
    [1] Song et al., arXiv:2011.13456.
    [2] Karras et al., arXiv:2206.00364.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ebm_jax.types import DenoiseFn, Example, NoisyScoreFn, PRNGKey, Scalar

Schedule = Callable[[Scalar], Scalar]
Ladder = Float[Array, " levels"]


class Process(NamedTuple):
    """A noising process x_t = alpha(t) x_0 + sigma(t) n on times t_min <= t <= t_max.

    Both schedules must be differentiable, positive on the interval, with
    alpha / sigma strictly decreasing. Everything else is derived from them.
    """

    alpha: Schedule
    sigma: Schedule
    t_min: float = 1e-5
    t_max: float = 1.0

    def drift(self, t: Scalar) -> Scalar:
        """f(t) = alpha'(t) / alpha(t): the SDE's drift is f(t) x."""
        return jax.grad(lambda t: jnp.log(self.alpha(t)))(t)

    def diffusion(self, t: Scalar) -> Scalar:
        """g(t) = sqrt((sigma^2)'(t) - 2 f(t) sigma(t)^2): the SDE's noise is g(t) dw."""
        growth = jax.grad(lambda t: self.sigma(t) ** 2)(t)
        return jnp.sqrt(growth - 2 * self.drift(t) * self.sigma(t) ** 2)

    def log_snr(self, t: Scalar) -> Scalar:
        """log(alpha(t)^2 / sigma(t)^2), strictly decreasing in t."""
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    def time_of_log_snr(self, log_snr: Scalar) -> Scalar:
        """The inverse of `log_snr`, by bisection to round-off; clipped to [t_min, t_max]."""

        def halve(_: Array, bounds: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
            low, high = bounds
            middle = (low + high) / 2
            too_early = self.log_snr(middle) > log_snr
            return jnp.where(too_early, middle, low), jnp.where(too_early, high, middle)

        bounds = jnp.asarray(self.t_min, jnp.float32), jnp.asarray(self.t_max, jnp.float32)
        low, high = jax.lax.fori_loop(0, 40, halve, bounds)
        return (low + high) / 2

    def perturb(self, key: PRNGKey, x: Example, t: Scalar) -> Example:
        """One draw of x_t = alpha(t) x + sigma(t) n given a clean example x."""
        noise = jax.random.normal(key, x.shape, x.dtype)
        return self.alpha(t) * x + self.sigma(t) * noise

    def score(self, denoise_fn: DenoiseFn) -> NoisyScoreFn:
        """The score of x_t as a function of (x_t, t), from a denoiser D(x, sigma).

        With y = x_t / alpha and s = sigma / alpha it is (alpha D(y, s) - x_t) / sigma^2.
        """

        def score(x: Example, t: Scalar) -> Example:
            alpha, sigma = self.alpha(t), self.sigma(t)
            return (alpha * denoise_fn(x / alpha, sigma / alpha) - x) / sigma**2

        return score

    def draw_prior(self, key: PRNGKey, x: Example) -> Example:
        """One draw of N(0, sigma(t_max)^2 I) of the shape and type of `x`: where samplers start."""
        t_max = jnp.asarray(self.t_max, jnp.float32)
        return self.sigma(t_max) * jax.random.normal(key, x.shape, x.dtype)


def ve(*, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Process:
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t [1]."""
    _check_range("ve", sigma_min, sigma_max)
    return Process(
        alpha=lambda t: jnp.ones_like(t),
        sigma=lambda t: sigma_min * (sigma_max / sigma_min) ** t,
        t_min=0.0,
    )


def vp(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    """Variance preserving: alpha = exp(-B/2), sigma^2 = 1 - exp(-B) (arXiv:2011.13456).

    B(t) = beta_min t + (beta_max - beta_min) t^2 / 2 is the integral of a linear beta.
    """
    _check_range("vp", beta_min, beta_max)
    integral = _integrated_beta(beta_min, beta_max)
    return Process(
        alpha=lambda t: jnp.exp(-integral(t) / 2),
        sigma=lambda t: jnp.sqrt(-jnp.expm1(-integral(t))),
    )


def sub_vp(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    """Sub-variance preserving: alpha = exp(-B/2), sigma = 1 - exp(-B) (arXiv:2011.13456)."""
    _check_range("sub_vp", beta_min, beta_max)
    integral = _integrated_beta(beta_min, beta_max)
    return Process(
        alpha=lambda t: jnp.exp(-integral(t) / 2),
        sigma=lambda t: -jnp.expm1(-integral(t)),
    )


def cosine(*, offset: float = 0.008) -> Process:
    """The cosine schedule of arXiv:2102.09672, variance preserving.

        alpha = cos(a) / cos(b),   a = (t + s) / (1 + s) pi / 2,   b = s / (1 + s) pi / 2

    with s = `offset`, and sigma^2 = 1 - alpha^2 = sin(a - b) sin(a + b) / cos(b)^2, the
    form without cancellation. alpha(1) = 0, so times end at 0.999.
    """
    if not 0 <= offset < 1:
        raise ValueError(f"`cosine` got offset={offset}: give a number in [0, 1).")
    start = offset / (1 + offset) * jnp.pi / 2

    def travelled(t: Scalar) -> Scalar:
        return t / (1 + offset) * jnp.pi / 2

    def alpha(t: Scalar) -> Scalar:
        return jnp.cos(start + travelled(t)) / jnp.cos(start)

    def sigma(t: Scalar) -> Scalar:
        squared = jnp.sin(travelled(t)) * jnp.sin(2 * start + travelled(t))
        return jnp.sqrt(squared) / jnp.cos(start)

    return Process(alpha, sigma, t_max=0.999)


def geometric(sigma_max: float, sigma_min: float, num_levels: int) -> Ladder:
    """Levels from sigma_max down to sigma_min in a constant ratio (arXiv:1907.05600)."""
    _check_ladder("geometric", sigma_max, sigma_min, num_levels)
    return jnp.geomspace(sigma_max, sigma_min, num_levels, dtype=jnp.float32)


def karras(sigma_max: float, sigma_min: float, num_levels: int, *, rho: float = 7.0) -> Ladder:
    """Levels evenly spaced in sigma^(1/rho), from sigma_max down to sigma_min [2]."""
    _check_ladder("karras", sigma_max, sigma_min, num_levels)
    if rho <= 0:
        raise ValueError(f"`karras` got rho={rho}: give a positive number.")
    roots = jnp.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_levels)
    return roots.astype(jnp.float32) ** rho


def geometric_from_data(data: Float[Array, "n *d"], sigma_min: float, num_levels: int) -> Ladder:
    """A `geometric` ladder whose top is the data's `largest_distance` (arXiv:2006.09011).

    At that level a Langevin chain can walk from any example to any other.

    Args:
        data: a sample of clean examples, at least two of them different.
        sigma_min: the lowest level, in the units of the data.
        num_levels: the number of levels.
    """
    return geometric(float(largest_distance(data)), sigma_min, num_levels)


def largest_distance(data: Float[Array, "n *d"]) -> Scalar:
    """The largest Euclidean distance between two rows, in O(n) memory and O(n^2) time.

    Raises:
        ValueError: if there are fewer than two rows.
    """
    if data.shape[0] < 2:
        raise ValueError(f"`largest_distance` got {data.shape[0]} examples: give at least 2.")
    rows = data.reshape(data.shape[0], -1)
    squares = jnp.sum(rows**2, axis=-1)

    def farthest(row: Array) -> Scalar:
        return jnp.max(squares + jnp.sum(row**2) - 2 * rows @ row)

    return jnp.sqrt(jnp.max(jax.lax.map(farthest, rows, batch_size=256)))


def draw_uniform(key: PRNGKey, sigmas: Ladder) -> Scalar:
    """One level of the ladder, each with the same probability."""
    return sigmas[jax.random.randint(key, (), 0, sigmas.shape[0])]


def draw_log_normal(key: PRNGKey, *, mean: float = -1.2, std: float = 1.2) -> Scalar:
    """One level sigma = exp(mean + std n), n ~ N(0, 1) (arXiv:2206.00364's training law)."""
    return jnp.exp(mean + std * jax.random.normal(key))


def draw_low_discrepancy(key: PRNGKey, batch_size: int) -> Float[Array, " batch"]:
    """Times (u + i / B) mod 1 for a whole batch, u ~ U[0, 1) (arXiv:2107.00630).

    Each is uniform on [0, 1); together they are evenly spread, which lowers the
    variance of a batch's mean loss. This one couples the batch by its purpose.
    """
    return (jax.random.uniform(key) + jnp.arange(batch_size) / batch_size) % 1.0


def example_keys(key: PRNGKey, indices: Int[Array, " n"]) -> Key[Array, " n"]:
    """One key for each example or chain, folded from its own index.

    Example i's key is the same alone, in any batch and on any number of devices.
    """
    return jax.vmap(partial(jax.random.fold_in, key))(indices)


def _integrated_beta(beta_min: float, beta_max: float) -> Schedule:
    return lambda t: beta_min * t + 0.5 * (beta_max - beta_min) * t**2


def _check_range(name: str, low: float, high: float) -> None:
    if not 0 < low < high:
        raise ValueError(f"`{name}` got the range {low} to {high}: give 0 < minimum < maximum.")


def _check_ladder(name: str, sigma_max: float, sigma_min: float, num_levels: int) -> None:
    _check_range(name, sigma_min, sigma_max)
    if num_levels < 2:
        raise ValueError(f"`{name}` got num_levels={num_levels}: a ladder has at least 2.")
