"""Exact log-densities of a denoiser, by its probability-flow ODE.

The flow transports p_sigma, the distribution of x_0 + sigma n, between levels. Along it

    d log p / du = -div (y - D(y, e^u)),   u = log sigma,

so that log p at the lowest level is that of N(0, sigma_max^2 I) at the end of the flow plus the
integral of the divergence. It is the density of the model's data with noise of level sigma_min.
For pixels, `dequantize` makes them continuous, and `bits_per_dimension` converts the result to
a code length.

References:
    Song et al., arXiv:2011.13456, section 4.3; Grathwohl et al., arXiv:1810.01367.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ebm_jax._checks import check_count, check_denoiser, check_range
from ebm_jax._precision import wide_dtype, widened
from ebm_jax.calculus import divergence, rademacher
from ebm_jax.samplers.diffusion.probability_flow import STAGES, solve
from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar


class LogDensity(NamedTuple):
    """log p(x) of one example, in nats.

    Attributes:
        value: the estimate.
        standard_error: the standard error over the probes; zero if the divergence is exact, NaN
            for a single probe.
        num_evaluations: number of function evaluations (NFE) of the denoiser and its derivative.
    """

    value: Scalar
    standard_error: Scalar
    num_evaluations: Int[Array, ""]


def flow_log_density(
    denoise_fn: DenoiseFn,
    x: Example,
    *,
    sigma_min: float,
    sigma_max: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> LogDensity:
    """Log-density by the probability flow with exact divergence: d derivatives per evaluation.

    Args:
        denoise_fn: D(x, sigma).
        x: one example, of any shape with d entries.
        sigma_min: the noise level that x is assumed to have: small compared with the detail of
            the data.
        sigma_max: the level at which samples start from N(0, sigma_max^2 I): large compared with
            the data. If the data have mean m, the error is about m / sigma_max nats per dimension,
            of either sign.
        rtol: relative tolerance of a step of the flow.
        atol: absolute tolerance of a step.

    Returns:
        The log-density; NaN for an example whose flow cannot be solved (see `follow_flow`).

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max, or in forward-mode differentiation.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import likelihood
        >>> denoise_fn = lambda y, sigma: y / (1 + sigma**2)  # data N(0, I)
        >>> log_p = jax.jit(lambda x: likelihood.flow_log_density(
        ...     denoise_fn, x, sigma_min=0.01, sigma_max=100.0).value)
        >>> round(float(log_p(jnp.zeros(2))), 2)  # -log(2 pi)
        -1.84
    """
    name = "flow_log_density"
    check_range(name, sigma_min, sigma_max)
    check_denoiser(name, denoise_fn, x)

    def rate(u: Scalar, state: tuple[Example, Scalar]) -> tuple[Example, Scalar]:
        def velocity(y: Example) -> Example:
            return y - denoise_fn(y, jnp.exp(u))

        return velocity(state[0]), divergence(velocity, state[0])

    start = widened(x), jnp.zeros((), wide_dtype(x.dtype))
    (end, integral), steps = solve(name, rate, start, sigma_min, sigma_max, rtol=rtol, atol=atol)
    value = _log_normal(end, sigma_max) + integral
    return LogDensity(value, jnp.zeros_like(value), STAGES * steps)


def estimated_flow_log_density(
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    x: Example,
    *,
    sigma_min: float,
    sigma_max: float,
    num_probes: int,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> LogDensity:
    """Log-density by the probability flow with Hutchinson's estimate of the divergence (FFJORD).

    Each of k probes is fixed along the whole flow. The estimate is unbiased: the mean of the k
    values estimates that of `flow_log_density`, and their spread gives the standard error.

    Args:
        denoise_fn: D(x, sigma).
        key: PRNG key of the Rademacher probes.
        x: one example, of any shape.
        sigma_min: as for `flow_log_density`.
        sigma_max: as for `flow_log_density`.
        num_probes: k; the cost of an evaluation grows with it.
        rtol: relative tolerance of a step of the flow.
        atol: absolute tolerance of a step.

    Returns:
        The log-density, with its standard error.

    Raises:
        ValueError: if `num_probes` is not positive, or unless 0 < sigma_min < sigma_max.
    """
    name = "estimated_flow_log_density"
    check_range(name, sigma_min, sigma_max)
    check_denoiser(name, denoise_fn, x)
    check_count(name, num_probes=num_probes)
    wide = wide_dtype(x.dtype)
    keys = jax.random.split(key, num_probes)
    probes = jax.vmap(lambda key: rademacher(key, x))(keys).astype(wide)

    def rate(u: Scalar, state: tuple[Example, Array]) -> tuple[Example, Array]:
        def velocity(y: Example) -> Example:
            return y - denoise_fn(y, jnp.exp(u))

        value, push = jax.linearize(velocity, state[0])
        return value, jax.lax.map(lambda probe: jnp.sum(probe * push(probe)), probes)

    start = widened(x), jnp.zeros(num_probes, wide)
    (end, integrals), steps = solve(name, rate, start, sigma_min, sigma_max, rtol=rtol, atol=atol)
    value = _log_normal(end, sigma_max) + jnp.mean(integrals)
    spread = (
        jnp.std(integrals, ddof=1) if num_probes > 1 else jnp.full((), jnp.nan, integrals.dtype)
    )
    return LogDensity(value, spread / jnp.sqrt(num_probes), STAGES * steps)


def _log_normal(x: Example, scale: float) -> Scalar:
    """Returns log N(x; 0, scale^2 I)."""
    return -jnp.sum(x**2) / (2 * scale**2) - x.size / 2 * jnp.log(2 * jnp.pi * scale**2)
