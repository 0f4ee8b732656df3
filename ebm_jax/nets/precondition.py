"""Preconditioning: a denoiser D(x, sigma) from a raw network F(x, level).

    D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)

with four functions of sigma (table 1 of arXiv:2206.00364). x is in variance-exploding
coordinates. The scaling keeps the network's inputs and targets of order one at every level.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ebm_jax._checks import check_positive, check_range
from ebm_jax.types import DenoiseFn, Example, Scalar

__all__ = ["RawFn", "by_index", "edm", "ncsn", "predicted_noise", "vp"]

RawFn = Callable[[Example, Scalar], Example]


def edm(raw_fn: RawFn, *, sigma_data: float = 0.5) -> DenoiseFn:
    """EDM preconditioning: unit variance of network inputs and targets.

    c_skip = sd^2 / (sigma^2 + sd^2), c_out = sigma sd / sqrt(sigma^2 + sd^2),
    c_in = 1 / sqrt(sigma^2 + sd^2), c_noise = ln(sigma) / 4. With F = 0 it is the
    exact denoiser of N(0, sd^2 I) data (arXiv:2206.00364).

    Args:
        raw_fn: the network F(x, level).
        sigma_data: standard deviation sd of the data.

    Raises:
        ValueError: if `sigma_data` is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax.nets import precondition
        >>> denoise_fn = precondition.edm(lambda x, level: jnp.zeros_like(x), sigma_data=1.0)
        >>> denoise_fn(jnp.array([2.0, -2.0]), jnp.float32(1.0)).tolist()  # x / 2
        [1.0, -1.0]
    """
    check_positive("edm", sigma_data=sigma_data)

    def denoise(x: Example, sigma: Scalar) -> Example:
        total = sigma**2 + sigma_data**2
        out = raw_fn(x / jnp.sqrt(total), jnp.log(sigma) / 4)
        return sigma_data**2 / total * x + sigma * sigma_data / jnp.sqrt(total) * out

    return denoise


def ncsn(raw_fn: RawFn) -> DenoiseFn:
    """NCSNv2 and NCSN++: s(x, sigma) = F(x, ln sigma) / sigma, so D = x + sigma F.

    Source: arXiv:2006.09011.

    Args:
        raw_fn: the network F(x, level), whose level is ln sigma.
    """

    def denoise(x: Example, sigma: Scalar) -> Example:
        return x + sigma * raw_fn(x, jnp.log(sigma))

    return denoise


def vp(raw_fn: RawFn, *, beta_min: float = 0.1, beta_max: float = 20.0) -> DenoiseFn:
    """VP and DDPM: F predicts the noise from x / sqrt(1 + sigma^2) and 999 t.

    D = x - sigma F(x / sqrt(1 + sigma^2), 999 t), where t is the time at which `noise.vp` has
    sigma / alpha equal to this sigma (arXiv:2011.13456).

    Args:
        raw_fn: the network F(x, level), whose level is 999 t.
        beta_min: as in `noise.vp`.
        beta_max: as in `noise.vp`.

    Raises:
        ValueError: if not 0 < beta_min < beta_max.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import noise
        >>> from ebm_jax.nets import precondition
        >>> sigma = noise.vp().level(jnp.float32(0.5))
        >>> denoise_fn = precondition.vp(lambda x, level: level)
        >>> level = -denoise_fn(jnp.float32(0.0), sigma) / sigma  # what F got, 999 t
        >>> round(float(level), 1)
        499.5
    """
    check_range("vp", beta_min, beta_max)
    slope = beta_max - beta_min

    def denoise(x: Example, sigma: Scalar) -> Example:
        integral = jnp.log1p(sigma**2)
        # The root of beta_min t + slope t^2 / 2 = integral, without cancellation at small t.
        t = 2 * integral / (beta_min + jnp.sqrt(beta_min**2 + 2 * slope * integral))
        return x - sigma * raw_fn(x / jnp.sqrt(1 + sigma**2), 999 * t)

    return denoise


def predicted_noise(raw_fn: RawFn) -> DenoiseFn:
    """Returns `vp` for a network whose level is 999 t / 250, from 0 to 4, instead of 999 t.

    This is the range of the logarithm of a noise level, in which `nets.LevelEmbedding` resolves
    levels. `nets.UNet` embeds 999 t itself: use `vp` for it.
    """

    def at_level(x: Example, t: Scalar) -> Example:
        return raw_fn(x, t / 250)

    return vp(at_level)


def by_index(
    score_fn: Callable[[Example, Int[Array, ""]], Example], *, sigmas: Float[Array, " levels"]
) -> DenoiseFn:
    """NCSN: D = x + sigma^2 s(x, i), for a score network that takes the index i of a level.

    The index is that of the level nearest to sigma, in log distance.

    Args:
        score_fn: s(x, i), such as `NCSN`.
        sigmas: the ladder of levels that i indexes, highest first.
    """

    def denoise(x: Example, sigma: Scalar) -> Example:
        nearest = jnp.argmin(jnp.abs(jnp.log(sigmas / sigma))).astype(jnp.int32)
        return x + sigma**2 * score_fn(x, nearest)

    return denoise
