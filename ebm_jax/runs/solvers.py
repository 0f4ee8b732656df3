"""Other samplers for a trained model: any solver, on the noise levels of the model's own.

A network knows noise levels and no schedule, so that every solver fits every denoiser. The
levels are spaced as those of the sampler that the model was saved with: another number of
them is read off the same curve, and another range stretches it (both in log sigma).
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
STEPS_PER_LEVEL = 5  # of annealed Langevin, as NCSNv2


def sampler_for(
    model: Model,
    solver: str = "",
    steps: int | None = None,
    levels: tuple[float, float] | None = None,
) -> Any:
    """Returns the model's own sampler, or the one that is asked for.

    Args:
        model: a denoiser, or an energy, which has its own sampler alone.
        solver: one of NAMES; "" for the solver of the model's own sampler.
        steps: noise levels that are visited, the last of which is denoised, or the steps of an
            energy's chains; by default as many as the model's own sampler has.
        levels: the lowest and the highest of them; by default the model's own.

    Raises:
        RunError: for a solver that does not exist or does not fit, numbers out of range, and a
            model that was saved without levels.
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
        RunError: for a sampler without levels, unless a range is given.
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
        RunError: for a range that is none.
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
    """Annealed Langevin between the same levels: NCSNv2's ladder and step, unless it is the own.

    Its ladder is geometric. Without `steps` neighbors overlap as in NCSNv2's technique 2.
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
