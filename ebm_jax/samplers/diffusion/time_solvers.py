"""Solvers that step in time: the reverse SDE and the probability-flow ODE of any process.

    dx = (f x - g^2 s) dt + g dw         backward in time, the reverse SDE
    dx = (f x - g^2 s / 2) dt            the probability-flow ODE: the same marginals at every t

References:
    Song et al., arXiv:2011.13456; Anderson, Reverse-time diffusion equation models, 1982.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax._checks import check_count, check_positive
from ebm_jax._precision import normal_for
from ebm_jax.noise import Process
from ebm_jax.samplers.diffusion.level_solvers import ancestral
from ebm_jax.samplers.diffusion.solver import Solver, plain_solver
from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar


def euler_maruyama(process: Process) -> Solver:
    """Reverse SDE by the Euler-Maruyama method, of weak order 1; one evaluation per step."""

    def step(denoise_fn: DenoiseFn, key: PRNGKey, x: Example, t: Scalar, t_next: Scalar) -> Example:
        passed = t - t_next
        fresh = normal_for(key, x)
        drift = process.reverse_drift(denoise_fn, x, t)
        return x - passed * drift + process.diffusion(t) * jnp.sqrt(passed) * fresh

    return plain_solver(process, step, 1, deterministic=False)


def euler(process: Process) -> Solver:
    """Probability-flow ODE by Euler's method, of order 1; one evaluation per step."""

    def step(denoise_fn: DenoiseFn, key: PRNGKey, x: Example, t: Scalar, t_next: Scalar) -> Example:
        return x + (t_next - t) * process.velocity(denoise_fn, x, t)

    return plain_solver(process, step, 1, deterministic=True)


def heun(process: Process) -> Solver:
    """Probability-flow ODE by Heun's method, of order 2; two evaluations per step.

    For `noise.edm` it equals `samplers.edm` without churn.
    """

    def step(denoise_fn: DenoiseFn, key: PRNGKey, x: Example, t: Scalar, t_next: Scalar) -> Example:
        passed = t_next - t
        slope = process.velocity(denoise_fn, x, t)
        next_slope = process.velocity(denoise_fn, x + passed * slope, t_next)
        return x + passed * (slope + next_slope) / 2

    return plain_solver(process, step, 2, deterministic=True)


def predictor_corrector(
    process: Process,
    predictor: Callable[[Process], Solver] = ancestral,
    *,
    snr: float,
    num_corrections: int = 1,
) -> Solver:
    """Predictor-corrector sampler (PC): Langevin steps at each time, then a step of `predictor`.

    A correction is x + h s + sqrt(2 h) n with h = 2 (snr sigma)^2. The published
    h = 2 (snr |n| / |s|)^2 [arXiv:2011.13456] takes both norms over a batch, so that a sample
    depends on the others of its batch. Where the score is mostly noise, |n| / |s| is sigma. A step
    size that does not depend on the chain preserves its distribution to first order.

    Args:
        process: the noise process to reverse.
        predictor: makes the predictor of a process: `ancestral`, `euler_maruyama`.
        snr: signal-to-noise ratio of a correction, positive; 0.16 is published for images with
            both VE and VP. Above 1 the corrections diverge.
        num_corrections: number of Langevin steps at each time, at least 1.

    Raises:
        ValueError: if `snr` or `num_corrections` is not positive.

    Examples:
        >>> from ebm_jax import noise, samplers
        >>> process = noise.vp()
        >>> solver, times = samplers.predictor_corrector(process, snr=0.16), noise.uniform_times(
        ...     process, 100)
        >>> samplers.num_evaluations(solver, times, final_denoise=True)
        201
    """
    check_positive("predictor_corrector", snr=snr)
    check_count("predictor_corrector", num_corrections=num_corrections)
    between = predictor(process)

    def step(denoise_fn: DenoiseFn, key: PRNGKey, state: Any, t: Scalar, t_next: Scalar) -> Any:
        key_corrections, key_predictor = jax.random.split(key)
        score_fn = process.score(denoise_fn)
        step_size = 2 * (snr * process.sigma(t)) ** 2

        def correct(x: Example, index: Array) -> tuple[Example, None]:
            key_step = jax.random.fold_in(key_corrections, index)
            fresh = normal_for(key_step, x)
            moved = x + step_size * score_fn(x, t) + jnp.sqrt(2 * step_size) * fresh
            return moved.astype(x.dtype), None

        x, _ = jax.lax.scan(correct, state.x, jnp.arange(num_corrections))
        return between.step(denoise_fn, key_predictor, state._replace(x=x), t, t_next)

    evaluations = num_corrections + between.evaluations
    return Solver(process, between.init, step, evaluations)
