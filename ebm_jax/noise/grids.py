"""Grids of times, latest first: where the solvers of a reverse process stop.

Any ladder of levels is a grid of any process, by `times_of_levels`; of `noise.edm` it is
one as it stands.
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
    """`num_steps` + 1 times evenly spaced from t_max down to t_min, the process' own by default.

    Raises:
        ValueError: if `num_steps` is not positive, or `t_min` not at least the process' own
            and below t_max.
    """
    end = _end("uniform_times", process, num_steps, t_min)
    return jnp.linspace(process.t_max, end, num_steps + 1, dtype=jnp.float32)


def log_snr_times(process: Process, num_steps: int, *, t_min: float | None = None) -> Times:
    """`uniform_times` in another measure: even in log(alpha^2 / sigma^2).

    Their levels are a `geometric` ladder (arXiv:2206.00927, whose solvers use it).

    Raises:
        ValueError: as `uniform_times`.
    """
    end = _end("log_snr_times", process, num_steps, t_min)
    first, last = (process.log_snr(jnp.float32(t)) for t in (process.t_max, end))
    inner = jax.vmap(process.time_of_log_snr)(jnp.linspace(first, last, num_steps + 1))
    return inner.at[0].set(process.t_max).at[-1].set(end)


def times_of_levels(process: Process, sigmas: Float[Array, " levels"]) -> Times:
    """The times at which x_t / alpha has these noise levels: a grid of any process.

    Levels beyond the process' own are clipped to its first or last time. Equal times that
    this makes of known levels are one time in the result, which may then be shorter than
    `sigmas`; of traced levels they stay, as steps of length 0.

    Args:
        process: the process whose times are wanted.
        sigmas: noise levels, highest first, such as `karras` or `ddpm_levels`.

    Raises:
        ValueError: for known levels that are negative or NaN.
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
    """The noise levels of a DDPM, highest first: sqrt(1 / abar - 1) (arXiv:2006.11239).

    abar_t is the product of 1 - beta_i, i <= t, for `num_steps` betas evenly spaced from
    beta_min to beta_max, taken in float64. `times_of_levels` makes them a grid of `vp`,
    whose continuous beta N times theirs is: abar is 4.0e-5 at the end, and 4.3e-5 there.

    Raises:
        ValueError: if `num_steps` is not positive or not 0 < beta_min <= beta_max < 1.
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
    """The last time of a grid, once its arguments are checked."""
    check_count(name, num_steps=num_steps)
    end = process.t_min if t_min is None else t_min
    if not process.t_min <= end < process.t_max:
        raise ValueError(
            f"`{name}` got t_min={end} for a process on [{process.t_min}, {process.t_max}]: "
            "give a time inside, or the process another `t_min` by `_replace`."
        )
    return end
