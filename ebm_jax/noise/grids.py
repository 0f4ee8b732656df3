"""Time grids, latest time first: the times at which reverse-process solvers take their steps.

`times_of_levels` turns any ladder of noise levels into a grid of any process. For `noise.edm`,
whose time is the noise level, a ladder already is a grid.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax._checks import check_count
from ebm_jax.noise.process import Process

Times = Float[Array, " times"]
"""Times of a process, strictly decreasing."""


def uniform_times(process: Process, num_steps: int, *, t_min: float | None = None) -> Times:
    """Returns `num_steps` + 1 times evenly spaced from t_max down to t_min.

    Args:
        process: the process whose times are wanted.
        num_steps: number of steps between times, at least 1.
        t_min: the last time; the process' own t_min by default.

    Raises:
        ValueError: if `num_steps` is not positive, or `t_min` is below the process' own or not
            below t_max.

    Examples:
        >>> from ebm_jax import noise
        >>> noise.uniform_times(noise.cosine(), 4).shape
        (5,)
    """
    end = _end("uniform_times", process, num_steps, t_min)
    return jnp.linspace(process.t_max, end, num_steps + 1, dtype=jnp.float32)


def log_snr_times(process: Process, num_steps: int, *, t_min: float | None = None) -> Times:
    """Returns `num_steps` + 1 times evenly spaced in log(alpha^2 / sigma^2).

    Their noise levels form a `geometric` ladder. This is the grid of the DPM-Solver papers
    (arXiv:2206.00927).

    Args:
        process: the process whose times are wanted.
        num_steps: number of steps between times, at least 1.
        t_min: the last time; the process' own t_min by default.

    Raises:
        ValueError: as `uniform_times`.

    Examples:
        >>> from ebm_jax import noise
        >>> times = noise.log_snr_times(noise.edm(sigma_min=0.01, sigma_max=100.0), 4)
        >>> [round(float(t), 2) for t in times]  # the time of edm is its noise level
        [100.0, 10.0, 1.0, 0.1, 0.01]
    """
    end = _end("log_snr_times", process, num_steps, t_min)
    first, last = (process.log_snr(jnp.float32(t)) for t in (process.t_max, end))
    inner = jax.vmap(process.time_of_log_snr)(jnp.linspace(first, last, num_steps + 1))
    return inner.at[0].set(process.t_max).at[-1].set(end)


def times_of_levels(process: Process, sigmas: Float[Array, " levels"]) -> Times:
    """Returns the times at which x_t / alpha has these noise levels: a grid of any process.

    Levels outside the process' own range are clipped to its first or last time. If concrete
    levels are clipped to the same time, it is kept only once, so the result may be shorter than
    `sigmas`; traced levels keep such duplicates, as steps of length 0.

    Args:
        process: the process whose times are wanted.
        sigmas: noise levels, highest first, such as `karras` or `ddpm_levels`.

    Raises:
        ValueError: for concrete levels that are negative or NaN.

    Examples:
        >>> from ebm_jax import noise
        >>> process = noise.vp()
        >>> times = noise.times_of_levels(process, noise.karras(80.0, 0.1, 5))
        >>> round(float(process.level(times[0])), 2), round(float(process.level(times[-1])), 2)
        (80.0, 0.1)
    """
    if isinstance(sigmas, jax.core.Tracer):
        return jax.vmap(process.time_of_level)(sigmas)
    known = np.asarray(sigmas)
    if not np.all(known >= 0):
        raise ValueError(f"`times_of_levels` got sigmas={known}: give numbers of 0 or more.")
    with jax.ensure_compile_time_eval():
        times = np.asarray(jax.vmap(process.time_of_level)(jnp.asarray(sigmas)))
    return jnp.asarray(times[np.append(True, np.diff(times) != 0)])


def ddpm_levels(
    num_steps: int = 1000, *, beta_min: float = 1e-4, beta_max: float = 0.02
) -> Float[Array, " levels"]:
    """Returns the noise levels of a DDPM, highest first: sqrt(1 / abar - 1) (arXiv:2006.11239).

    abar_t is the product of 1 - beta_i, i <= t, for `num_steps` betas evenly spaced from
    beta_min to beta_max, computed in float64. `times_of_levels` turns the levels into a grid of
    `vp`, whose continuous beta is N times theirs. The final abar is 4.0e-5 here, and 4.3e-5
    for `vp`.

    Args:
        num_steps: number N of levels.
        beta_min: the first beta.
        beta_max: the last beta.

    Raises:
        ValueError: if `num_steps` is not positive, or not 0 < beta_min <= beta_max < 1.

    Examples:
        >>> from ebm_jax import noise
        >>> levels = noise.ddpm_levels()
        >>> round(float(levels[0])), round(float(levels[-1]), 2)
        (157, 0.01)
    """
    check_count("ddpm_levels", num_steps=num_steps)
    if not 0 < beta_min <= beta_max < 1:
        raise ValueError(
            f"`ddpm_levels` got the range {beta_min} to {beta_max}: "
            "give 0 < beta_min <= beta_max < 1."
        )
    log_abar = np.cumsum(np.log1p(-np.linspace(beta_min, beta_max, num_steps)))
    return jnp.asarray(np.sqrt(np.expm1(-log_abar))[::-1], jnp.float32)


def _end(name: str, process: Process, num_steps: int, t_min: float | None) -> float:
    """Checks the arguments of a grid and returns its last time."""
    check_count(name, num_steps=num_steps)
    end = process.t_min if t_min is None else t_min
    if not process.t_min <= end < process.t_max:
        raise ValueError(
            f"`{name}` got t_min={end} for a process on [{process.t_min}, {process.t_max}]: "
            "give a time inside, or the process another `t_min` by `_replace`."
        )
    return end
