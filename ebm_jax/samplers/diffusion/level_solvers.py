"""Solvers that depend on a process only through its noise levels: DDIM, DDPM, EDM, DPM-Solver++.

A solver takes x_t to x_t' for t' < t, for any `noise.Process` and any denoiser. With

    y = x_t / alpha,   s = sigma / alpha,   D = D(y, s),   eps = (y - D) / s

and primes for the values at t', the solvers are

    ddim        y' = D + sqrt(s'^2 - v) eps + sqrt(v) n,   v = eta^2 s'^2 (s^2 - s'^2) / s^2
    ancestral   y' = D + s'^2 / s eps + sqrt(v) n,         v is either variance of DDPM
    edm         Heun's method on dy/ds = eps, after raising the level a little
    dpm_solver_pp_2m   DPM-Solver++(2M): y' = D~ + s' / s (y - D~), D~ extrapolated

Over the same levels, every process therefore gives the same samples, except with the larger
variance of DDPM. The module `time_solvers` has the solvers that step in time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax._checks import holds
from ebm_jax._precision import normal_for, safe_sqrt, wide_dtype
from ebm_jax.noise import Process
from ebm_jax.samplers.diffusion.solver import Solver, plain_solver
from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar


class DPMSolverState(NamedTuple):
    """State of DPM-Solver++(2M).

    Attributes:
        x: x_t.
        denoised: D at the previous step.
        log_step: h = log(s / s') of the previous step; 0 before the first step.
    """

    x: Example
    denoised: Example
    log_step: Scalar


def ddim(process: Process, *, eta: float | Scalar = 0.0) -> Solver:
    """DDIM: deterministic for eta = 0, equal to `ancestral` for eta = 1; one evaluation per step.

    With eta = 0 it is Euler's method on dy/ds = eps, of first order in the levels, and the same
    for every process up to scale.

    Args:
        process: the noise process to reverse.
        eta: the share of fresh noise, in [0, 1].

    Raises:
        ValueError: if `eta` is not in [0, 1].

    References:
        Song, Meng & Ermon, arXiv:2010.02502, equation 12.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import noise, samplers
        >>> process = noise.edm(sigma_min=0.01, sigma_max=10.0)
        >>> times = noise.times_of_levels(process, noise.karras(10.0, 0.01, 10))
        >>> denoise_fn = lambda y, sigma: jnp.ones(2)  # all data at (1, 1)
        >>> x = samplers.sample(samplers.ddim(process), denoise_fn, jax.random.key(0), jnp.zeros(2),
        ...                     times, final_denoise=True)
        >>> x.tolist()
        [1.0, 1.0]
    """
    if not holds(lambda eta: (eta >= 0) & (eta <= 1), eta):
        raise ValueError(f"`ddim` got eta={eta}: give a number in [0, 1].")
    deterministic = not isinstance(eta, jax.core.Tracer) and float(eta) == 0

    def step(denoise_fn: DenoiseFn, key: PRNGKey, x: Example, t: Scalar, t_next: Scalar) -> Example:
        denoised, noise = _denoised_and_noise(process, denoise_fn, x, t)
        level, next_level = process.level(t), process.level(t_next)
        if deterministic:
            return process.alpha(t_next) * (denoised + next_level * noise)
        scale = jnp.minimum(eta * _posterior_scale(level, next_level), next_level)
        kept = safe_sqrt((next_level - scale) * (next_level + scale))
        fresh = normal_for(key, x)
        return process.alpha(t_next) * (denoised + kept * noise + scale * fresh)

    return plain_solver(process, step, 1, deterministic=deterministic)


def ancestral(process: Process, *, large_variance: bool = False) -> Solver:
    """Ancestral sampling of DDPM; one evaluation per step.

    The mean is that of q(x_t' | x_t, x_0 = D). The variance is by default also that of q,
    s'^2 (s^2 - s'^2) / s^2 ("fixed small"), which is right for data at a single point. With
    `large_variance` it is that of q(x_t | x_t'), sigma^2 - (alpha sigma' / alpha')^2
    ("fixed large"), which is right for data N(0, I) under a variance-preserving process. They
    differ where steps are long.

    Args:
        process: the noise process to reverse.
        large_variance: True for the larger variance.

    References:
        Ho, Jain & Abbeel, arXiv:2006.11239, section 3.2; for variance-exploding processes
        arXiv:2011.13456, appendix F.
    """

    def step(denoise_fn: DenoiseFn, key: PRNGKey, x: Example, t: Scalar, t_next: Scalar) -> Example:
        denoised, noise = _denoised_and_noise(process, denoise_fn, x, t)
        level, next_level = process.level(t), process.level(t_next)
        alpha = process.alpha(t_next)
        if large_variance:
            difference = (level - next_level) * (level + next_level)
            scale = process.alpha(t) * safe_sqrt(difference)
        else:
            scale = alpha * _posterior_scale(level, next_level)
        fresh = normal_for(key, x)
        return alpha * (denoised + next_level**2 / level * noise) + scale * fresh

    return plain_solver(process, step, 1, deterministic=False)


def edm(
    process: Process,
    *,
    gamma: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = float("inf"),
    noise_scale: float = 1.0,
) -> Solver:
    """EDM sampler: Heun's method in the noise level, of second order; two evaluations per step.

    Between the levels `churn_min` and `churn_max`, a step first adds noise to raise the level s
    to s (1 + gamma). The paper's gamma is min(S_churn / N, sqrt(2) - 1). Its algorithms 1 and 2
    end with `final_denoise`: 18 levels take 35 evaluations.

    Args:
        process: the noise process to reverse.
        gamma: relative increase of the level before a step; 0 is deterministic.
        churn_min: lowest level at which noise is added (S_tmin).
        churn_max: highest level at which noise is added (S_tmax).
        noise_scale: standard deviation of the added noise (S_noise).

    Raises:
        ValueError: if `gamma` is not in [0, sqrt(2) - 1].

    References:
        Karras et al., arXiv:2206.00364.

    Examples:
        >>> from ebm_jax import noise, samplers
        >>> process = noise.edm()
        >>> times = noise.times_of_levels(process, noise.karras(80.0, 0.002, 18))
        >>> samplers.num_evaluations(samplers.edm(process), times, final_denoise=True)
        35
    """
    if not 0 <= gamma <= 2**0.5 - 1 + 1e-6:
        raise ValueError(f"`edm` got gamma={gamma}: give a number in [0, sqrt(2) - 1].")

    def step(denoise_fn: DenoiseFn, key: PRNGKey, x: Example, t: Scalar, t_next: Scalar) -> Example:
        level, next_level = process.level(t), process.level(t_next)
        y = x / process.alpha(t)
        if gamma:
            inside = (level >= churn_min) & (level <= churn_max)
            added = noise_scale * level * jnp.where(inside, (gamma * (2 + gamma)) ** 0.5, 0.0)
            y = y + added * normal_for(key, x)
            level = level * jnp.where(inside, 1 + gamma, 1.0)
        slope = (y - denoise_fn(y, level)) / level
        guess = y + (next_level - level) * slope
        next_slope = (guess - denoise_fn(guess, next_level)) / next_level
        y = y + (next_level - level) * (slope + next_slope) / 2
        return process.alpha(t_next) * y

    return plain_solver(process, step, 2, deterministic=not gamma)


def dpm_solver_pp_2m(process: Process) -> Solver:
    """DPM-Solver++(2M), a multistep solver of second order; one evaluation per step.

    It extrapolates from the last two denoised examples to D~ = D + (D - D_before) / (2 r), with
    lambda = -log s, h = lambda' - lambda and r = h_before / h. The first step is that of `ddim`.

    Args:
        process: the noise process to reverse.

    References:
        Lu et al., arXiv:2211.01095, algorithm 2.
    """

    def init(x: Example) -> DPMSolverState:
        return DPMSolverState(x, jnp.zeros_like(x), jnp.zeros((), wide_dtype(x.dtype)))

    def step(
        denoise_fn: DenoiseFn, key: PRNGKey, state: DPMSolverState, t: Scalar, t_next: Scalar
    ) -> DPMSolverState:
        level, next_level = process.level(t), process.level(t_next)
        log_step = jnp.log(level) - jnp.log(next_level)
        y = state.x / process.alpha(t)
        denoised = denoise_fn(y, level)
        is_first = state.log_step == 0  # or after a step of length 0
        inverse_ratio = jnp.where(is_first, 0, log_step / jnp.where(is_first, 1, state.log_step))
        ahead = denoised + inverse_ratio / 2 * (denoised - state.denoised)
        y = ahead + next_level / level * (y - ahead)
        return DPMSolverState(process.alpha(t_next) * y, denoised, log_step)

    return Solver(process, init, step, 1, deterministic=True)


def _denoised_and_noise(
    process: Process, denoise_fn: DenoiseFn, x: Example, t: Scalar
) -> tuple[Example, Example]:
    """Returns D and eps at x_t."""
    y, level = x / process.alpha(t), process.level(t)
    denoised = denoise_fn(y, level)
    return denoised, (y - denoised) / level


def _posterior_scale(level: Scalar, next_level: Scalar) -> Scalar:
    """Returns the standard deviation of y' given y and x_0: s' sqrt(s^2 - s'^2) / s."""
    return next_level / level * safe_sqrt((level - next_level) * (level + next_level))
