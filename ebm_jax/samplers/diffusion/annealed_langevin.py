"""Annealed Langevin dynamics (NCSN): Langevin chains along a decreasing ladder of noise levels.

At level sigma_i the chain takes `steps_per_level` Langevin steps with s(x, sigma_i), of size

    h_i = step_ratio * sigma_i^2,

so that the signal-to-noise ratio of a step is the same at all levels. The step size
2e-5 (sigma_i / sigma_L)^2, sigma_L = 0.01, of NCSN is the ratio 0.2 if it is h in
x + h s + sqrt(2 h) n, as in the authors' code.

References:
    Song & Ermon, arXiv:1907.05600; the final denoising: arXiv:2006.09011.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax._checks import check_ladder, check_positive, check_score
from ebm_jax._precision import normal_for, safe_sqrt
from ebm_jax.calculus import denoiser_from_score
from ebm_jax.samplers.mcmc.kernel import run
from ebm_jax.samplers.mcmc.langevin import ula
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
    """Draws one sample by annealed Langevin dynamics.

    The number of function evaluations (NFE) is len(sigmas) * steps_per_level, plus 1 for the final
    denoising.

    Args:
        score_fn: s(x, sigma), of the shape of x.
        key: PRNG key of this chain.
        x: the start, a draw from the distribution at the highest level (`Process.draw_prior`).
        sigmas: noise levels, highest first.
        steps_per_level: Langevin steps at each level, at least 1.
        step_ratio: h_i / sigma_i^2, positive; above 2 the chain diverges at the levels at which
            sigma_i is the scale of the distribution.
        temperature: T of the Langevin steps; 1 samples the model itself.
        final_denoise: True to return D(x, sigma_L), at the cost of one more evaluation, instead of
            the last x, which still carries noise of scale sigma_L.

    Returns:
        The sample, of the shape of `x`.

    Raises:
        ValueError: for concrete levels that are not positive and decreasing, and for steps, step
            sizes or shapes that `run` or `ula` refuses.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import noise, samplers
        >>> score_fn = lambda x, sigma: (1 - x) / sigma**2  # all data at 1
        >>> x = samplers.annealed_langevin(
        ...     score_fn, jax.random.key(0), jnp.zeros(2), noise.geometric(10.0, 0.01, 10),
        ...     steps_per_level=5, step_ratio=0.2, final_denoise=True)
        >>> [round(float(entry), 2) for entry in x]
        [1.0, 1.0]
    """
    check_ladder("annealed_langevin", "sigmas", sigmas, positive=True, least=1)
    levels = partial(
        _visit_level, score_fn, steps=steps_per_level, ratio=step_ratio, temperature=temperature
    )
    x, _ = jax.lax.scan(lambda x, visit: (levels(x, *visit), None), x, _visits(key, sigmas))
    return _denoised(score_fn, x, sigmas[-1]) if final_denoise else x


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
    """Returns the chain of `annealed_langevin` at the end of every level, without final denoising.

    The arguments are those of `annealed_langevin`; memory grows with the number of levels only.
    """
    check_ladder("annealed_langevin_path", "sigmas", sigmas, positive=True, least=1)
    levels = partial(
        _visit_level, score_fn, steps=steps_per_level, ratio=step_ratio, temperature=temperature
    )
    return jax.lax.scan(lambda x, visit: (levels(x, *visit),) * 2, x, _visits(key, sigmas))[1]


def consistent_annealed_langevin(
    score_fn: NoisyScoreFn,
    key: PRNGKey,
    x: Example,
    sigmas: Float[Array, " levels"],
    *,
    step_ratio: float,
    final_denoise: bool,
) -> Example:
    """Consistent annealed sampling: one step per level, which adds just the noise that is missing.

        x' = x + h_i s(x, sigma_i) + b sigma_(i+1) n,   h_i = step_ratio sigma_i^2,
        b^2 = 1 - ((1 - step_ratio) sigma_i / sigma_(i+1))^2

    If D is the clean example, x' carries noise of exactly sigma_(i+1), where a Langevin step
    carries more. With step_ratio = 1 - (sigma_(i+1) / sigma_i)^2 it is `ancestral` with the small
    variance; with step_ratio = 1 - sigma_(i+1) / sigma_i it is `ddim`.

    Args:
        score_fn: s(x, sigma), of the shape of x.
        key: PRNG key of this chain.
        x: the start, a draw from the distribution at the highest level.
        sigmas: noise levels, highest first, at least two.
        step_ratio: h_i / sigma_i^2, with |1 - step_ratio| at most every sigma_(i+1) / sigma_i.
        final_denoise: as for `annealed_langevin`.

    Returns:
        The sample, of the shape of `x`.

    Raises:
        ValueError: for fewer than two levels, or for concrete levels at which the step ratio needs
            noise of negative variance.

    References:
        Jolicoeur-Martineau et al., arXiv:2009.05475.
    """
    name = "consistent_annealed_langevin"
    check_positive(name, step_ratio=step_ratio)
    check_ladder(name, "sigmas", sigmas, positive=True)
    check_score(name, lambda x: score_fn(x, sigmas[0]), x)
    if not isinstance(sigmas, jax.core.Tracer):
        least = float(np.min(np.asarray(sigmas)[1:] / np.asarray(sigmas)[:-1]))
        if abs(1 - step_ratio) > least * (1 + 1e-5):
            raise ValueError(
                f"`{name}` got step_ratio={step_ratio} for levels in a ratio of {least:.4g}: "
                f"give between {1 - least:.4g} and {1 + least:.4g}."
            )

    def step(x: Example, visit: tuple[Array, Scalar, Scalar]) -> tuple[Example, None]:
        index, sigma, lower = visit
        kept = (1 - step_ratio) * sigma
        added = safe_sqrt((lower - kept) * (lower + kept))
        noise = normal_for(jax.random.fold_in(key, index), x)
        moved = x + step_ratio * sigma**2 * score_fn(x, sigma) + added * noise
        return moved.astype(x.dtype), None

    visits = (jnp.arange(sigmas.shape[0] - 1), sigmas[:-1], sigmas[1:])
    x, _ = jax.lax.scan(step, x, visits)
    return _denoised(score_fn, x, sigmas[-1]) if final_denoise else x


def _denoised(score_fn: NoisyScoreFn, x: Example, sigma: Scalar) -> Example:
    return denoiser_from_score(score_fn)(x, sigma).astype(x.dtype)


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
