"""The interface of solvers of reverse processes, and the driver that runs one over a time grid.

A run ends at the last time of the grid, where noise of that level is left. Denoising the
result, if asked for, is one more evaluation. The solvers are in `level_solvers` and
`time_solvers`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax._checks import check_denoiser, check_ladder
from ebm_jax._precision import wide_dtype
from ebm_jax.noise import Process, Times
from ebm_jax.samplers.mcmc.kernel import same_dtypes
from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar

SolverState = Any  # a NamedTuple with a field `x`
SLACK = 1e-4  # relative round-off allowed at the ends of a grid


class Solver(NamedTuple):
    """A solver of a reverse process, as one step.

    Attributes:
        process: the noise process that it reverses.
        init: init(x) -> state, whose field `x` is x_t in the scale of the process.
        step: step(denoise_fn, key, state, t, t_next) -> state.
        evaluations: number of evaluations of the denoiser per step.
        deterministic: True for a step that draws no noise, which can therefore also run upward in
            time, from data to noise (`invert`).
    """

    process: Process
    init: Callable[[Example], SolverState]
    step: Callable[[DenoiseFn, PRNGKey, SolverState, Scalar, Scalar], SolverState]
    evaluations: int
    deterministic: bool = False


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
    """Runs a solver for one example from x_t at times[0] to times[-1], as one scan.

    Memory does not grow with the number of steps. `num_evaluations` returns the number of function
    evaluations (NFE).

    Args:
        solver: the solver, such as `ddim(noise.vp())`.
        denoise_fn: D(x, sigma), in variance-exploding coordinates as everywhere.
        key: PRNG key of this example.
        x: x_t at times[0] in the scale of the process: a draw of `process.draw_prior`, or data
            after `process.perturb`.
        times: at least two, strictly decreasing, within the interval of the process:
            `noise.uniform_times`, `log_snr_times`, or `times_of_levels` of a ladder of noise
            levels. A deterministic solver also takes increasing times; see `invert`.
        final_denoise: True to return D, at the cost of one more evaluation, instead of the last
            x_t, which still carries noise of the last level.

    Returns:
        The sample, of the shape of `x`: an estimate of x_0, or x_t at times[-1].

    Raises:
        ValueError: for fewer than two times, concrete times that are out of order or outside the
            interval of the process, or a denoiser that changes the shape.
    """
    x, _ = _scan("integrate", solver, denoise_fn, key, x, times, lambda state: None)
    if not final_denoise:
        return x
    return solver.process.denoise(denoise_fn, x, times[-1]).astype(x.dtype)


def integrate_path(
    solver: Solver, denoise_fn: DenoiseFn, key: PRNGKey, x: Example, times: Times
) -> Float[Array, "times *d"]:
    """Returns x_t of `integrate` at every time of the grid, the start included, for plots."""
    _, path = _scan("integrate_path", solver, denoise_fn, key, x, times, lambda state: state.x)
    return jnp.concatenate([x[None], path])


def invert(solver: Solver, denoise_fn: DenoiseFn, x: Example, times: Times) -> Example:
    """Runs a deterministic solver from data to noise: the inverse of `integrate`.

    `integrate` with the same times reversed leads back to `x`, up to the error of the steps.

    Args:
        solver: a deterministic solver: `ddim`, `edm` without churn, `euler`, `heun` or
            `dpm_solver_pp_2m`.
        denoise_fn: D(x, sigma).
        x: x_t at times[0] in the scale of the process; at t_min, a clean example is close to one.
        times: at least two, strictly increasing, within the interval of the process.

    Returns:
        x_t at times[-1], of the shape of `x`.

    Raises:
        ValueError: for a solver that draws noise, and in the cases of `integrate`.

    References:
        Song, Meng & Ermon, arXiv:2010.02502, section 4.3.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import noise, samplers
        >>> process = noise.vp()
        >>> solver, times = samplers.heun(process), noise.log_snr_times(process, 50)
        >>> denoise_fn, x = lambda y, sigma: y / (1 + 4 * sigma**2), jnp.ones(2)
        >>> z = samplers.invert(solver, denoise_fn, x, times[::-1])
        >>> back = samplers.integrate(solver, denoise_fn, jax.random.key(0), z, times,
        ...                           final_denoise=False)
        >>> bool(abs(back - x).max() < 0.01)
        True
    """
    if not solver.deterministic:
        raise ValueError("`invert` got a solver that draws noise: give one without, such as ddim.")
    _check_times("invert", solver.process, times, upward=True)
    return integrate(solver, denoise_fn, jax.random.key(0), x, times, final_denoise=False)


def sample(
    solver: Solver,
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    like: Example,
    times: Times,
    *,
    final_denoise: bool,
) -> Example:
    """Draws one sample: a draw of the process' prior at times[0], then `integrate`.

    Args:
        solver: the solver.
        denoise_fn: D(x, sigma).
        key: PRNG key of this sample.
        like: an array of the shape and dtype of a sample.
        times: as for `integrate`, decreasing.
        final_denoise: as for `integrate`.

    Returns:
        The sample, of the shape of `like`.

    Raises:
        ValueError: in the cases of `integrate`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import noise, samplers
        >>> process = noise.vp()
        >>> solver, times = samplers.dpm_solver_pp_2m(process), noise.log_snr_times(process, 20)
        >>> denoise_fn = lambda y, sigma: y / (1 + sigma**2)  # data N(0, I)
        >>> def draw(key):
        ...     return samplers.sample(solver, denoise_fn, key, jnp.zeros(2), times,
        ...                            final_denoise=False)
        >>> samples = jax.vmap(draw)(jax.random.split(jax.random.key(0), 5000))
        >>> round(float(samples.std()), 1)
        1.0
    """
    _check_times("sample", solver.process, times)
    key_start, key_steps = jax.random.split(key)
    x = solver.process.draw_prior(key_start, like, times[0])
    return integrate(solver, denoise_fn, key_steps, x, times, final_denoise=final_denoise)


def num_evaluations(solver: Solver, times: Times, *, final_denoise: bool) -> int:
    """Returns the number of function evaluations (NFE) of the denoiser in one `integrate`."""
    return solver.evaluations * (times.shape[0] - 1) + final_denoise


def plain_solver(
    process: Process,
    step: Callable[[DenoiseFn, PRNGKey, Example, Scalar, Scalar], Example],
    evaluations: int,
    *,
    deterministic: bool,
) -> Solver:
    """Makes a `Solver` of a step(denoise_fn, key, x, t, t_next) -> x that keeps no memory."""

    def on_state(
        denoise_fn: DenoiseFn, key: PRNGKey, state: PlainState, t: Scalar, t_next: Scalar
    ) -> PlainState:
        return PlainState(step(denoise_fn, key, state.x, t, t_next))

    return Solver(process, PlainState, on_state, evaluations, deterministic)


def _scan(
    name: str,
    solver: Solver,
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    x: Example,
    times: Times,
    collect: Callable[[SolverState], Any],
) -> tuple[Example, Any]:
    """Returns the last x_t, and the stacked results of `collect` on the state after every step."""
    _check_times(name, solver.process, times, upward=solver.deterministic and _rises(times))
    check_denoiser(name, denoise_fn, x)

    def body(state: SolverState, visit: tuple[Array, Scalar, Scalar]) -> tuple[SolverState, Any]:
        index, t, t_next = visit
        moved = solver.step(denoise_fn, jax.random.fold_in(key, index), state, t, t_next)
        state = same_dtypes(moved, state)
        return state, collect(state)

    times = times.astype(wide_dtype(times.dtype))
    visits = (jnp.arange(times.shape[0] - 1), times[:-1], times[1:])
    state, collected = jax.lax.scan(body, solver.init(x), visits)
    return state.x, collected


def _rises(times: Times) -> bool:
    """Returns True for concrete times whose last is later than the first."""
    if isinstance(times, jax.core.Tracer) or times.shape[0] < 2:
        return False
    known = np.asarray(times)  # operations of jnp would be traced under jit
    return bool(known[-1] > known[0])


def _check_times(name: str, process: Process, times: Times, *, upward: bool = False) -> None:
    """Raises a ValueError for a grid that is too short, out of order or outside the interval."""
    check_ladder(name, "times", times, rising=upward)
    if isinstance(times, jax.core.Tracer):
        return
    low, high = np.sort(np.asarray(times))[[0, -1]]
    if not (low >= process.t_min * (1 - SLACK) and high <= process.t_max * (1 + SLACK)):
        raise ValueError(
            f"`{name}` got times from {low:.6g} to {high:.6g} for a process on "
            f"[{process.t_min:.6g}, {process.t_max:.6g}]: noise levels are made into times by "
            "`noise.times_of_levels`, and the step to level 0 is `final_denoise`."
        )
