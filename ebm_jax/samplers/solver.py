"""A step of a reverse process, and the one driver that runs it on a grid of times.

A run ends at the grid's last time, with noise of that level left; the denoised end, where
asked for, is one more evaluation. `samplers.diffusion` and `samplers.sde` have the solvers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.checks import check_denoiser
from ebm_jax.noise import Process, Times
from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar

SolverState = Any  # a NamedTuple with a field `x`


class Solver(NamedTuple):
    """A step of a reverse process.

    Attributes:
        process: the process that it runs back.
        init: init(x) -> state, whose field `x` is x_t, in the process' own scale.
        step: step(denoise_fn, key, state, t, t_next) -> state.
        evaluations: of the denoiser in one step.
    """

    process: Process
    init: Callable[[Example], SolverState]
    step: Callable[[DenoiseFn, PRNGKey, SolverState, Scalar, Scalar], SolverState]
    evaluations: int


class PlainState(NamedTuple):
    """The state of a solver without memory."""

    x: Example


def integrate(
    solver: Solver,
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    x: Example,
    times: Times,
    *,
    final_denoise: bool,
) -> Example:
    """One example from x_t at times[0] to times[-1], as one scan.

    Memory does not grow with the steps. The number of evaluations is that of
    `num_evaluations`.

    Args:
        solver: the step, such as `ddim(noise.vp())`.
        denoise_fn: D(x, sigma), in variance-exploding coordinates as everywhere.
        key: PRNG key of this example.
        x: x_t at times[0], in the process' scale: a draw of `process.draw_prior`, or data
            under `process.perturb`.
        times: at least two, latest first: `noise.uniform_times`, `log_snr_times`,
            `times_of_levels`.
        final_denoise: whether to return D, one more evaluation, in the place of the last
            x_t, which still carries noise of the last level.

    Returns:
        The sample, of the shape of `x`: an estimate of x_0, or x_t at times[-1].

    Raises:
        ValueError: for fewer than two times, or a denoiser that changes the shape.
    """
    x, _ = _scan("integrate", solver, denoise_fn, key, x, times, lambda state: None)
    return solver.process.denoise(denoise_fn, x, times[-1]) if final_denoise else x


def integrate_path(
    solver: Solver, denoise_fn: DenoiseFn, key: PRNGKey, x: Example, times: Times
) -> Float[Array, "times *d"]:
    """x_t of `integrate` at every time of the grid, the start included; for pictures."""
    _, path = _scan("integrate_path", solver, denoise_fn, key, x, times, lambda state: state.x)
    return jnp.concatenate([x[None], path])


def sample(
    solver: Solver,
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    like: Example,
    times: Times,
    *,
    final_denoise: bool,
) -> Example:
    """One sample: a draw of the process' prior at times[0], then `integrate`.

    Args:
        solver: the step.
        denoise_fn: D(x, sigma).
        key: PRNG key of this sample.
        like: an array of the shape and type of a sample.
        times: as for `integrate`.
        final_denoise: as for `integrate`.
    """
    key_start, key_steps = jax.random.split(key)
    x = solver.process.draw_prior(key_start, like, times[0])
    return integrate(solver, denoise_fn, key_steps, x, times, final_denoise=final_denoise)


def num_evaluations(solver: Solver, times: Times, *, final_denoise: bool) -> int:
    """NFE: how often a run of `integrate` evaluates the denoiser."""
    return solver.evaluations * (times.shape[0] - 1) + final_denoise


def plain_solver(
    process: Process,
    step: Callable[[DenoiseFn, PRNGKey, Example, Scalar, Scalar], Example],
    evaluations: int,
) -> Solver:
    """The `Solver` of a step(denoise_fn, key, x, t, t_next) -> x that keeps no memory."""

    def on_state(
        denoise_fn: DenoiseFn, key: PRNGKey, state: PlainState, t: Scalar, t_next: Scalar
    ) -> PlainState:
        return PlainState(step(denoise_fn, key, state.x, t, t_next))

    return Solver(process, PlainState, on_state, evaluations)


def _scan(
    name: str,
    solver: Solver,
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    x: Example,
    times: Times,
    collect: Callable[[SolverState], Any],
) -> tuple[Example, Any]:
    """The last x_t, and what `collect` returned of the state after every step, stacked."""
    if times.shape[0] < 2:
        raise ValueError(f"`{name}` got {times.shape[0]} times: give at least 2, latest first.")
    check_denoiser(name, denoise_fn, x)

    def body(state: SolverState, visit: tuple[Array, Scalar, Scalar]) -> tuple[SolverState, Any]:
        index, t, t_next = visit
        state = solver.step(denoise_fn, jax.random.fold_in(key, index), state, t, t_next)
        return state, collect(state)

    visits = (jnp.arange(times.shape[0] - 1), times[:-1], times[1:])
    state, collected = jax.lax.scan(body, solver.init(x), visits)
    return state.x, collected
