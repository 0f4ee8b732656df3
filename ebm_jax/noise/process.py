"""Noise processes x_t = alpha(t) x_0 + sigma(t) n: VE, EDM, VP, sub-VP and cosine.

The two functions of time determine the forward SDE dx = f(t) x dt + g(t) dw [1]:

    f = alpha' / alpha          g^2 = (sigma^2)' - 2 f sigma^2

Division by alpha puts every process into variance-exploding coordinates,

    x_t / alpha = x_0 + (sigma / alpha) n,

in which one denoiser D(x, sigma) serves all of them [2].

References:
    [1] Song et al., arXiv:2011.13456.
    [2] Karras et al., arXiv:2206.00364.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax._checks import check_positive, check_range
from ebm_jax._precision import normal_for, wide_dtype
from ebm_jax.types import DenoiseFn, Example, NoisyScoreFn, PRNGKey, Scalar

Schedule = Callable[[Scalar], Scalar]
"""A function of the time t, such as alpha(t) or sigma(t)."""


class Process(NamedTuple):
    """A noise process x_t = alpha(t) x_0 + sigma(t) n on times t_min <= t <= t_max.

    Everything else is derived from the two schedules. Both must be differentiable and positive
    on the interval, with alpha / sigma strictly decreasing.

    Attributes:
        alpha: alpha(t), the scale of the clean example.
        sigma: sigma(t), the scale of the noise.
        t_min: the earliest time, where samplers end.
        t_max: the latest time, where samplers start.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import noise
        >>> process = noise.Process(alpha=lambda t: 1 - t, sigma=lambda t: t, t_max=0.99)
        >>> float(process.level(jnp.float32(0.5)))  # sigma / alpha
        1.0
    """

    alpha: Schedule
    sigma: Schedule
    t_min: float = 1e-5
    t_max: float = 1.0

    def drift(self, t: Scalar) -> Scalar:
        """Returns f(t) = alpha'(t) / alpha(t): the drift of the SDE is f(t) x."""
        return jax.grad(lambda t: jnp.log(self.alpha(t)))(t)

    def diffusion(self, t: Scalar) -> Scalar:
        """Returns g(t) = sqrt((sigma^2)'(t) - 2 f(t) sigma(t)^2): the SDE's noise is g(t) dw."""
        growth = jax.grad(lambda t: self.sigma(t) ** 2)(t)
        return jnp.sqrt(growth - 2 * self.drift(t) * self.sigma(t) ** 2)

    def level(self, t: Scalar) -> Scalar:
        """Returns sigma(t) / alpha(t), the noise level of x_t / alpha(t), which denoisers take."""
        return self.sigma(t) / self.alpha(t)

    def time_of_level(self, sigma: Scalar) -> Scalar:
        """Inverse of `level`, by bisection to round-off; clipped to [t_min, t_max]."""
        return self.time_of_log_snr(-2 * jnp.log(sigma))

    def log_snr(self, t: Scalar) -> Scalar:
        """Returns log(alpha(t)^2 / sigma(t)^2), strictly decreasing in t."""
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    def time_of_log_snr(self, log_snr: Scalar) -> Scalar:
        """Inverse of `log_snr`, by bisection to round-off; clipped to [t_min, t_max]."""

        def halve(_: Array, bounds: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
            low, high = bounds
            middle = (low + high) / 2
            too_early = self.log_snr(middle) > log_snr
            return jnp.where(too_early, middle, low), jnp.where(too_early, high, middle)

        bounds = jnp.asarray(self.t_min, jnp.float32), jnp.asarray(self.t_max, jnp.float32)
        low, high = jax.lax.fori_loop(0, 40, halve, bounds)
        return (low + high) / 2

    def perturb(self, key: PRNGKey, x: Example, t: Scalar) -> Example:
        """Draws x_t = alpha(t) x + sigma(t) n given a clean example x."""
        noise = normal_for(key, x)
        return (self.alpha(t) * x + self.sigma(t) * noise).astype(x.dtype)

    def score(self, denoise_fn: DenoiseFn) -> NoisyScoreFn:
        """Returns the score of x_t, as a function of (x_t, t), from a denoiser D(x, sigma).

        With y = x_t / alpha and s = sigma / alpha it is (alpha D(y, s) - x_t) / sigma^2.
        """

        def score(x: Example, t: Scalar) -> Example:
            alpha, sigma = self.alpha(t), self.sigma(t)
            return (alpha * denoise_fn(x / alpha, sigma / alpha) - x) / sigma**2

        return score

    def denoise(self, denoise_fn: DenoiseFn, x: Example, t: Scalar) -> Example:
        """Returns E[x_0 | x_t = x] from a denoiser: D(x / alpha, sigma / alpha)."""
        return denoise_fn(x / self.alpha(t), self.level(t))

    def reverse_drift(self, denoise_fn: DenoiseFn, x: Example, t: Scalar) -> Example:
        """Returns f x - g^2 s, the drift of the reverse-time SDE, whose noise is g dw [1].

        Run with dt < 0, dx = (f x - g^2 s) dt + g dw has the marginals of the forward process. In
        terms of the denoiser, the drift is (alpha'/alpha) x + g^2 (x - alpha D) / sigma^2.
        """
        return self.drift(t) * x - self.diffusion(t) ** 2 * self.score(denoise_fn)(x, t)

    def velocity(self, denoise_fn: DenoiseFn, x: Example, t: Scalar) -> Example:
        """Returns f x - g^2 s / 2, dx/dt of the probability-flow ODE [1].

        It is computed in the equal form sigma'/sigma (x - alpha D) + alpha' D, in which no terms
        cancel at small sigma.
        """
        alpha, alpha_rate = jax.value_and_grad(self.alpha)(t)
        sigma, sigma_rate = jax.value_and_grad(self.sigma)(t)
        denoised = denoise_fn(x / alpha, sigma / alpha)
        return sigma_rate / sigma * (x - alpha * denoised) + alpha_rate * denoised

    def draw_prior(self, key: PRNGKey, x: Example, t: float | Scalar | None = None) -> Example:
        """Draws from N(0, sigma(t)^2 I), the distribution in which samplers start.

        Args:
            key: PRNG key of the draw.
            x: array whose shape and dtype the draw takes.
            t: time at which the sampler starts; t_max by default.
        """
        t = jnp.float32(self.t_max) if t is None else jnp.asarray(t)
        start = t.astype(wide_dtype(t.dtype))
        draw = self.sigma(start) * normal_for(key, x)
        return draw.astype(x.dtype)


def ve(*, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Process:
    """Variance-exploding (VE) process of score SDEs: sigma = sigma_min (sigma_max / sigma_min)^t.

    alpha = 1 and 0 <= t <= 1 (arXiv:2011.13456).

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import noise
        >>> round(float(noise.ve(sigma_min=0.01, sigma_max=100.0).sigma(jnp.float32(0.5))), 4)
        1.0
    """
    check_range("ve", sigma_min, sigma_max)
    return Process(
        alpha=lambda t: jnp.ones_like(t),
        sigma=lambda t: sigma_min * (sigma_max / sigma_min) ** t,
        t_min=0.0,
    )


def edm(*, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Process:
    """Variance-exploding process of EDM, with time as the noise level: alpha = 1, sigma = t.

    Times are sigma_min <= t <= sigma_max (arXiv:2206.00364).
    """
    check_range("edm", sigma_min, sigma_max)
    return Process(
        alpha=lambda t: jnp.ones_like(t), sigma=lambda t: t, t_min=sigma_min, t_max=sigma_max
    )


def vp(*, beta_min: float = 0.1, beta_max: float = 20.0, t_max: float = 1.0) -> Process:
    """Variance-preserving (VP) process: alpha = exp(-B/2), sigma^2 = 1 - exp(-B).

    B(t) = beta_min t + (beta_max - beta_min) t^2 / 2 is the integral of a linear beta
    (arXiv:2011.13456). At t_max = 1 the noise level is 152. The 1,000 levels of a DDPM go up to
    157, which this process reaches at t = 1.004.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import noise
        >>> process, t = noise.vp(), jnp.float32(0.3)
        >>> round(float(process.alpha(t) ** 2 + process.sigma(t) ** 2), 4)
        1.0
        >>> round(float(process.level(jnp.float32(1.0))))
        152
    """
    check_range("vp", beta_min, beta_max)
    check_positive("vp", t_max=t_max)
    integral = _integrated_beta(beta_min, beta_max)
    return Process(
        alpha=lambda t: jnp.exp(-integral(t) / 2),
        sigma=lambda t: jnp.sqrt(-jnp.expm1(-integral(t))),
        t_max=t_max,
    )


def sub_vp(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Process:
    """Sub-variance-preserving (sub-VP) process: alpha = exp(-B/2), sigma = 1 - exp(-B).

    B is that of `vp` (arXiv:2011.13456).
    """
    check_range("sub_vp", beta_min, beta_max)
    integral = _integrated_beta(beta_min, beta_max)
    return Process(
        alpha=lambda t: jnp.exp(-integral(t) / 2),
        sigma=lambda t: -jnp.expm1(-integral(t)),
    )


def cosine(*, offset: float = 0.008) -> Process:
    """Cosine schedule of improved DDPM, variance preserving (arXiv:2102.09672).

        alpha = cos(a) / cos(b),   a = (t + s) / (1 + s) pi / 2,   b = s / (1 + s) pi / 2

    with s = `offset`. sigma^2 = 1 - alpha^2 is computed as sin(a - b) sin(a + b) / cos(b)^2,
    without cancellation. Times end at 0.999, since alpha(1) = 0.

    Raises:
        ValueError: if `offset` is not in [0, 1).
    """
    if not 0 <= offset < 1:
        raise ValueError(f"`cosine` got offset={offset}: give a number in [0, 1).")
    start = offset / (1 + offset) * jnp.pi / 2

    def traveled(t: Scalar) -> Scalar:
        return t / (1 + offset) * jnp.pi / 2

    def alpha(t: Scalar) -> Scalar:
        return jnp.cos(start + traveled(t)) / jnp.cos(start)

    def sigma(t: Scalar) -> Scalar:
        squared = jnp.sin(traveled(t)) * jnp.sin(2 * start + traveled(t))
        return jnp.sqrt(squared) / jnp.cos(start)

    return Process(alpha, sigma, t_max=0.999)


def _integrated_beta(beta_min: float, beta_max: float) -> Schedule:
    return lambda t: beta_min * t + 0.5 * (beta_max - beta_min) * t**2
