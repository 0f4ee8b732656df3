"""Chooses another sampler for a trained model: any solver, on the model's own noise levels.

A network depends on the noise level and not on a schedule, so every solver fits every denoiser.
Levels are spaced like those of the sampler saved with the model: another number of levels is
interpolated on the same curve, and another range stretches the curve (both in log sigma).
"""

from collections.abc import Callable
from functools import partial
from math import log, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import noise, samplers
from ebm_jax.recipes import (
    AnnealedSampler,
    FlowSampler,
    SolverSampler,
    annealing_step_ratio,
    ladder_ratio,
)
from ebm_jax.runs.endings import RunError
from ebm_jax.runs.models import Model

SOLVERS: dict[str, Callable[[noise.Process], samplers.Solver]] = {
    "ancestral": samplers.ancestral,
    "ddim": samplers.ddim,
    "dpm_solver_pp_2m": samplers.dpm_solver_pp_2m,
    "edm": samplers.edm,
    "euler": samplers.euler,
    "euler_maruyama": samplers.euler_maruyama,
    "heun": samplers.heun,
    "predictor_corrector": partial(samplers.predictor_corrector, snr=0.16),
}
NAMES = (*SOLVERS, "annealed", "flow")
STEPS_PER_LEVEL = 5  # of annealed Langevin, as in NCSNv2


def sampler_for(
    model: Model,
    solver: str = "",
    steps: int | None = None,
    levels: tuple[float, float] | None = None,
) -> Any:
    """Returns the model's own sampler, or one that is changed as requested.

    Args:
        model: a denoiser, or an energy, which can only use its own sampler.
        solver: one of NAMES; "" for the solver of the model's own sampler.
        steps: number of noise levels, the last of which is followed by a denoising step; for an
            energy, number of steps of its chains. By default that of the model's own sampler.
        levels: lowest and highest noise level; by default the model's own.

    Raises:
        RunError: The solver does not exist or does not fit, a number is out of range, or the
            model was saved without levels.
    """
    if not solver and steps is None and levels is None:
        return model.sampler
    if model.wrap is None:
        if solver or levels is not None or not hasattr(model.sampler, "steps"):
            raise RunError(
                "this model is an energy, which its own chains sample: --solver and --levels are "
                "of denoisers, leave them out."
            )
        return model.sampler._replace(steps=steps)
    if solver and solver not in NAMES:
        raise RunError(f"--solver got {solver}: give one of {', '.join(NAMES)}.")
    if steps is not None and (steps < 2 or solver == "flow"):
        many = "flow chooses its steps by itself" if solver == "flow" else "give at least 2"
        raise RunError(f"--steps got {steps}: {many}.")
    sigmas = spaced(noise_levels(model.sampler, levels), steps, levels)
    own = model.sampler
    if solver == "flow":
        return FlowSampler(float(sigmas[0]), float(sigmas[-1]))
    if solver == "annealed" or (not solver and isinstance(own, AnnealedSampler)):
        return annealed(model, sigmas, steps)
    solve = SOLVERS[solver] if solver else own.solver
    if isinstance(own, SolverSampler) and levels is None:
        same = steps is None
        times = own.times if same else noise.times_of_levels(own.process(), sigmas)
        return own._replace(solver=solve, times=times)
    process = partial(noise.edm, sigma_min=float(sigmas[-1]), sigma_max=float(sigmas[0]))
    return SolverSampler(solve, process, sigmas, getattr(own, "bounds", None))


def noise_levels(sampler: Any, levels: tuple[float, float] | None = None) -> np.ndarray:
    """Returns the noise levels that a sampler visits, highest first, without a level of 0.

    Raises:
        RunError: The sampler has no levels, and no range is given.
    """
    if isinstance(sampler, SolverSampler):
        found = np.asarray(jax.vmap(sampler.process().level)(sampler.times))
    elif isinstance(sampler, AnnealedSampler):
        found = np.asarray(sampler.sigmas)
    elif isinstance(sampler, FlowSampler):
        found = np.asarray(noise.karras(sampler.sigma_max, sampler.sigma_min, 18))
    elif levels is not None:
        found = np.asarray(noise.karras(levels[1], levels[0], 18))
    else:
        raise RunError("the model was saved without noise levels: give them by --levels LOW HIGH.")
    return found[found > 0]


def spaced(own: np.ndarray, steps: int | None, levels: tuple[float, float] | None) -> jax.Array:
    """Returns `steps` levels on the curve of the levels `own`, stretched to a range.

    Raises:
        RunError: The range is empty or not positive.
    """
    low, high = levels or (float(own[-1]), float(own[0]))
    if not 0 < low < high < float("inf"):
        raise RunError(f"--levels got {low} {high}: give a lower and a higher, both positive.")
    count = steps or len(own)
    at = np.linspace(0, len(own) - 1, count)
    logs = np.interp(at, np.arange(len(own)), np.log(own.astype(np.float64)))
    share = (logs - logs[-1]) / (logs[0] - logs[-1])
    sigmas = np.exp(log(low) + share * (log(high) - log(low)))
    sigmas[[0, -1]] = high, low
    return jnp.asarray(sigmas, jnp.float32)


def annealed(model: Model, sigmas: jax.Array, steps: int | None) -> AnnealedSampler:
    """Annealed Langevin dynamics from the highest to the lowest of `sigmas`.

    A model whose own sampler is annealed Langevin keeps its steps per level, on `sigmas`. For
    others the ladder is geometric, of `steps` levels or of the ratio in NCSNv2's technique 2.
    """
    own, high, low = model.sampler, float(sigmas[0]), float(sigmas[-1])
    if isinstance(own, AnnealedSampler):
        per_level, final, ladder = own.steps, own.final_denoise, sigmas
        if ladder.shape == own.sigmas.shape:
            return own._replace(sigmas=ladder)
    else:
        ratio = ladder_ratio(prod(model.shape))
        count = steps or max(2, 1 + round(log(high / low) / log(ratio)))
        per_level, final, ladder = STEPS_PER_LEVEL, True, noise.geometric(high, low, count)
    ratio = (high / low) ** (1 / (len(ladder) - 1))
    return AnnealedSampler(ladder, per_level, annealing_step_ratio(ratio, per_level), final)
