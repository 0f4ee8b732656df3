"""Variational bound (negative ELBO) of a diffusion model, as a code length in three parts.

For levels s_1 < ... < s_T and y_i = x + s_i n, and the reverse steps of a DDPM whose variance
is that of q(y_(i-1) | y_i, x) ("fixed small"), the mean of -log p(x) is at most

    prior           KL(q(y_T | x) || N(0, s_T^2 I)) = |x|^2 / (2 s_T^2)
    + diffusion     sum over i = 2..T of 1/2 (1/s_(i-1)^2 - 1/s_i^2) E|x - D(y_i, s_i)|^2
    + decoder       -E log p(x | y_1)

in nats. The bound depends on the process only through its levels.

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
    """The three parts of an upper bound of -log p(x), in nats. Their sum is the bound.

    Attributes:
        prior: the KL divergence at the highest level.
        diffusion: the sum over the reverse steps.
        decoder: minus the log-probability of x given the lowest level.
    """

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
    """Unbiased estimate of the variational bound of -log p(x), for one example.

    One draw of noise is taken per level.

    Args:
        denoise_fn: D(x, sigma), evaluated once per level.
        key: PRNG key of the draws.
        x: one example, of any shape.
        sigmas: s_T > ... > s_1, highest first, at least two: `noise.ddpm_levels()`, any
            ladder, or `process.level` of any time grid.
        log_decoder: log p(x | mean, std): `log_discretized_normal` for pixels, `log_normal` for
            continuous data. The mean is D(y_1, s_1). The standard deviation is s_1, that of x given
            y_1 wherever the density is flat on the scale of s_1. (DDPM uses that of
            q(y_1 | y_2, x), which is 0.87 s_1 on its own levels.)

    Returns:
        The three parts of the bound, in nats.

    Raises:
        ValueError: for fewer than two levels, concrete levels that are not positive and
            decreasing, or a denoiser that changes the shape.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import likelihood, noise
        >>> oracle = lambda y, sigma: jnp.ones(3)  # knows the example
        >>> bound = likelihood.variational_bound(oracle, jax.random.key(0), jnp.ones(3),
        ...     noise.geometric(10.0, 0.1, 20), likelihood.log_normal)
        >>> round(float(bound.prior), 3), float(bound.diffusion)  # 3 / (2 * 10^2)
        (0.015, 0.0)
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
    """Returns log N(x; mean, std^2 I), a density."""
    scaled = jnp.sum(((x - mean) / std) ** 2)
    return -scaled / 2 - x.size * (jnp.log(std) + 0.5 * jnp.log(2 * jnp.pi))


def log_discretized_normal(x: Example, mean: Example, std: Scalar) -> Scalar:
    """Returns the log-probability that N(mean, std^2 I) gives the cells of the pixels x.

    Cells are 2/255 wide, around the 256 values from -1 to 1. The first and the last extend to
    infinity, so that the 256 probabilities of a pixel sum to one (arXiv:2006.11239, equation 13).

    Args:
        x: pixels in [-1, 1], as from `data.to_unit`.
        mean: the mean, of the shape of x.
        std: the standard deviation, positive.

    Returns:
        The log-probability of all pixels together, a scalar.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import likelihood
        >>> value = lambda x: likelihood.log_discretized_normal(x, jnp.zeros(1), jnp.float32(0.3))
        >>> pixels = jnp.linspace(-1, 1, 256)[:, None]
        >>> round(float(jnp.exp(jax.vmap(value)(pixels)).sum()), 3)
        1.0
    """
    upper = jnp.where(x > 1 - 1 / 255, jnp.inf, (x - mean + 1 / 255) / std)
    lower = jnp.where(x < -1 + 1 / 255, -jnp.inf, (x - mean - 1 / 255) / std)
    # Flip both to the side of 0 on which log_ndtr is accurate.
    flip = lower > 0
    low, high = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
    log_high, log_low = log_ndtr(high), log_ndtr(low)
    return jnp.sum(log_high + jnp.log(-jnp.expm1(log_low - log_high)))
