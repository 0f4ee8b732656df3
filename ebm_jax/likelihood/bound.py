"""The variational bound of a diffusion model: a code length in three parts.

For levels s_1 < ... < s_T and y_i = x + s_i n, and the reverse steps of a DDPM whose variance
is that of q(y_(i-1) | y_i, x) ("fixed small"), -log p(x) is in the mean at most

    prior           KL(q(y_T | x) || N(0, s_T^2 I)) = |x|^2 / (2 s_T^2)
    + diffusion     sum over i = 2..T of 1/2 (1/s_(i-1)^2 - 1/s_i^2) E|x - D(y_i, s_i)|^2
    + decoder       -E log p(x | y_1)

in nats. It depends on the process through its levels alone.

References:
    Ho, Jain & Abbeel, arXiv:2006.11239; in this form Kingma et al., arXiv:2107.00630.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from ebm_jax._checks import check_denoiser, check_ladder
from ebm_jax._precision import normal_for
from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar

Decoder = Callable[[Example, Example, Scalar], Scalar]


class VariationalBound(NamedTuple):
    """Three parts of an upper bound of -log p(x), in nats; their sum is the bound."""

    prior: Scalar
    diffusion: Scalar
    decoder: Scalar


def variational_bound(
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    x: Example,
    sigmas: Float[Array, " levels"],
    log_decoder: Decoder,
) -> VariationalBound:
    """An unbiased estimate of the bound for one example: one draw of noise a level.

    Args:
        denoise_fn: D(x, sigma), evaluated once a level.
        key: PRNG key of the draws.
        x: one example, of any shape.
        sigmas: s_T > ... > s_1, highest first, at least two: `noise.ddpm_levels()`, any
            ladder, or `process.level` of any grid of times.
        log_decoder: log p(x | mean, std): `log_discretized_normal` for pixels,
            `log_normal` for data on a continuum. It is given the mean D(y_1, s_1) and the
            standard deviation s_1: that of x given y_1 wherever the density is flat on the
            scale of s_1 (DDPM takes that of q(y_1 | y_2, x), .87 s_1 on its own levels).

    Raises:
        ValueError: for fewer than two levels, levels that are known and not positive and
            decreasing, or a denoiser that changes the shape.
    """
    check_ladder("variational_bound", "sigmas", sigmas, positive=True)
    check_denoiser("variational_bound", denoise_fn, x)
    key_levels, key_decoder = jax.random.split(key)

    def term(visit: tuple[Array, Scalar, Scalar]) -> Scalar:
        index, sigma, lower = visit
        noise = normal_for(jax.random.fold_in(key_levels, index), x)
        error = jnp.sum((x - denoise_fn(x + sigma * noise, sigma)) ** 2)
        weight = (sigma - lower) * (sigma + lower) / (sigma * lower) ** 2
        return weight / 2 * error

    steps = jnp.arange(sigmas.shape[0] - 1)
    lowest = sigmas[-1]
    noise = normal_for(key_decoder, x)
    mean = denoise_fn(x + lowest * noise, lowest)
    return VariationalBound(
        prior=jnp.sum(x**2) / (2 * sigmas[0] ** 2),
        diffusion=jnp.sum(jax.lax.map(term, (steps, sigmas[:-1], sigmas[1:]))),
        decoder=-log_decoder(x, mean, lowest),
    )


def log_normal(x: Example, mean: Example, std: Scalar) -> Scalar:
    """log N(x; mean, std^2 I), a density."""
    scaled = jnp.sum(((x - mean) / std) ** 2)
    return -scaled / 2 - x.size * (jnp.log(std) + 0.5 * jnp.log(2 * jnp.pi))


def log_discretized_normal(x: Example, mean: Example, std: Scalar) -> Scalar:
    """log of the probability that N(mean, std^2 I) gives the cells of the pixels x.

    Cells are 2/255 wide about the 256 values from -1 to 1; the first and the last go on to
    infinity, so that each pixel's 256 probabilities sum to one (arXiv:2006.11239,
    equation 13).

    Args:
        x: pixels in [-1, 1], as of `data.to_unit`.
        mean: of the shape of x.
        std: the standard deviation, positive.
    """
    upper = jnp.where(x > 1 - 1 / 255, jnp.inf, (x - mean + 1 / 255) / std)
    lower = jnp.where(x < -1 + 1 / 255, -jnp.inf, (x - mean - 1 / 255) / std)
    # Both on the side of 0 where log_ndtr resolves them.
    flip = lower > 0
    low, high = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
    log_high, log_low = log_ndtr(high), log_ndtr(low)
    return jnp.sum(log_high + jnp.log(-jnp.expm1(log_low - log_high)))
