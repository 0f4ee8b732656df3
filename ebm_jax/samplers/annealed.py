"""Annealed Langevin dynamics: Langevin chains down a ladder of noise levels.

At level sigma_i the chain takes `steps_per_level` steps of size

    h_i = step_ratio * sigma_i^2

on s(x, sigma_i): the signal-to-noise ratio of a step is then the same at all levels.
The published NCSN step 2e-5 (sigma_i / sigma_L)^2 with sigma_L = .01 is the ratio .2.

References:
    Song & Ermon, arXiv:1907.05600; the final denoising: arXiv:2006.09011.
"""

from functools import partial

import jax
from jaxtyping import Array, Float

from ebm_jax.calculus import denoiser_from_score
from ebm_jax.checks import check_positive
from ebm_jax.samplers.kernel import run
from ebm_jax.samplers.langevin import ula
from ebm_jax.types import Example, NoisyScoreFn, PRNGKey, Scalar


def annealed_langevin(
    score_fn: NoisyScoreFn,
    key: PRNGKey,
    x: Example,
    sigmas: Float[Array, " levels"],
    *,
    steps_per_level: int,
    step_ratio: float,
    temperature: float = 1.0,
    final_denoise: bool,
) -> Example:
    """One sample by annealed Langevin dynamics; len(sigmas) * steps_per_level evaluations.

    Args:
        score_fn: s(x, sigma), of the shape of x.
        key: PRNG key of this chain.
        x: the start, a draw of the law at the top level (`Process.draw_prior`).
        sigmas: noise levels, highest first.
        steps_per_level: Langevin steps at each level, at least 1.
        step_ratio: h_i / sigma_i^2, positive; above 2 the chain diverges at the
            levels where sigma_i is the scale of the law.
        temperature: T of the Langevin steps; 1 samples the model itself.
        final_denoise: whether to return D(x, sigma_L), one more evaluation, in the
            place of the last x, which still carries noise of scale sigma_L.

    Returns:
        The sample, of the shape of `x`.

    Raises:
        ValueError: from `run` and `ula`, for steps, sizes or shapes out of range.
    """
    levels = partial(
        _visit_level, score_fn, steps=steps_per_level, ratio=step_ratio, temperature=temperature
    )
    x, _ = jax.lax.scan(lambda x, visit: (levels(x, *visit), None), x, _visits(key, sigmas))
    return denoiser_from_score(score_fn)(x, sigmas[-1]) if final_denoise else x


def annealed_langevin_path(
    score_fn: NoisyScoreFn,
    key: PRNGKey,
    x: Example,
    sigmas: Float[Array, " levels"],
    *,
    steps_per_level: int,
    step_ratio: float,
    temperature: float = 1.0,
) -> Float[Array, "levels *d"]:
    """The chain of `annealed_langevin` at the end of every level, without the final denoising.

    Takes the arguments of `annealed_langevin`; memory grows with the levels only.
    """
    levels = partial(
        _visit_level, score_fn, steps=steps_per_level, ratio=step_ratio, temperature=temperature
    )
    return jax.lax.scan(lambda x, visit: (levels(x, *visit),) * 2, x, _visits(key, sigmas))[1]


def _visits(key: PRNGKey, sigmas: Float[Array, " levels"]) -> tuple[Array, Array]:
    return jax.random.split(key, sigmas.shape[0]), sigmas


def _visit_level(
    score_fn: NoisyScoreFn,
    x: Example,
    key: PRNGKey,
    sigma: Scalar,
    *,
    steps: int,
    ratio: float,
    temperature: float,
) -> Example:
    check_positive("annealed_langevin", step_ratio=ratio)
    kernel = ula(lambda x: score_fn(x, sigma), step_size=ratio * sigma**2, temperature=temperature)
    state, _ = run(kernel, key, kernel.init(x), steps)
    return state.x
