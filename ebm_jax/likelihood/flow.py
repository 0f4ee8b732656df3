"""Exact log-densities of a denoiser, by its probability flow.

The flow carries p_sigma, the law of x_0 + sigma n, from level to level. Along it

    d log p / du = -div (y - D(y, e^u)),   u = log sigma,

so that log p at the lowest level is that of N(0, sigma_max^2 I) at the flow's end plus the
integral of the divergence. It is the density of the model's data with noise of sigma_min
left: of pixels, `dequantize` puts them on a continuum and `bits_per_dimension` reads the
result as a code length.

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
        standard_error: over the probes; zero where the divergence is exact, NaN for a
            single probe, which cannot tell.
        num_evaluations: of the denoiser and its derivative.
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
    """log p(x) with the exact divergence: d directional derivatives an evaluation.

    Args:
        denoise_fn: D(x, sigma).
        x: one example, of any shape with d entries.
        sigma_min: the level at which x is taken to be: small against the data's detail.
        sigma_max: the level at which samples start from N(0, sigma_max^2 I): large against
            the data. A mean m of the data's makes an error of about m / sigma_max nats a
            dimension, of either sign.
        rtol: relative tolerance of a step of the flow.
        atol: absolute tolerance.

    Returns:
        The log-density, NaN for an example whose flow cannot be solved (`follow_flow`).

    Raises:
        ValueError: if not 0 < sigma_min < sigma_max, or in forward-mode differentiation.
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
    """log p(x) with Hutchinson's divergence by k probes, each kept along the whole flow.

    It is unbiased: the probes' k values average to that of `flow_log_density`, and their
    scatter is the standard error. Takes its arguments, and:

    Args:
        denoise_fn: D(x, sigma).
        key: PRNG key of the probes, fair signs.
        x: one example, of any shape.
        sigma_min: as for `flow_log_density`.
        sigma_max: as for `flow_log_density`.
        num_probes: k; the cost of an evaluation grows with it.
        rtol: relative tolerance of a step of the flow.
        atol: absolute tolerance.

    Raises:
        ValueError: if `num_probes` is not positive, or not 0 < sigma_min < sigma_max.
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
    """log N(x; 0, scale^2 I)."""
    return -jnp.sum(x**2) / (2 * scale**2) - x.size / 2 * jnp.log(2 * jnp.pi * scale**2)
