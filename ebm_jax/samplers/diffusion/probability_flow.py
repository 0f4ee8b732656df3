"""Adaptive solver of the probability-flow ODE of a denoiser, in either direction.

In variance-exploding coordinates every process has the same probability flow. Over
u = log sigma it is

    dy / du = y - D(y, e^u),

so that a process only determines its ends. `level_solvers` and `time_solvers` have solvers
with fixed steps.

References:
    Song et al., arXiv:2011.13456; the solver is Tsitouras' 5(4) of diffrax
    (Kidger, arXiv:2202.02435).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ebm_jax._checks import check_denoiser, check_positive
from ebm_jax._precision import wide_dtype
from ebm_jax.types import DenoiseFn, Example, Scalar

MAX_STEPS = 4096
SMALLEST_STEP = 1e-6  # relative to the whole interval; below it float32 does not resolve u
STAGES = 6  # evaluations per step: the last of seven stages is the next step's first


class FlowEnd(NamedTuple):
    """The end of a probability flow.

    Attributes:
        x: the example at the other level.
        num_evaluations: number of function evaluations (NFE), rejected steps included.
    """

    x: Example
    num_evaluations: Int[Array, ""]


def follow_flow(
    denoise_fn: DenoiseFn,
    x: Example,
    sigma_from: float | Scalar,
    sigma_to: float | Scalar,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> FlowEnd:
    """Follows the probability-flow ODE from one noise level to another, for one example.

    From the highest level down it samples; for a process, start from x_t / alpha at
    `process.level(t_max)`. From the lowest level up it encodes, and back down it decodes.

    Args:
        denoise_fn: D(x, sigma).
        x: one example at level `sigma_from`, in variance-exploding coordinates.
        sigma_from: noise level of `x`.
        sigma_to: noise level of the result, above or below `sigma_from`.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step, in the units of `x`.

    Returns:
        The other end. It is NaN for an example whose flow cannot be solved: where the example or
        the denoiser is not finite, or after 4,096 steps.

    Raises:
        ValueError: for concrete levels or tolerances that are not positive, a denoiser that
            changes the shape, or forward-mode differentiation (jax.jvp); reverse mode works.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import samplers
        >>> denoise_fn = lambda y, sigma: y / (1 + sigma**2)  # data N(0, I)
        >>> encode = jax.jit(lambda x: samplers.follow_flow(denoise_fn, x, 0.01, 10.0).x)
        >>> [round(float(x), 2) for x in encode(jnp.ones(2))]  # scaled by sqrt(101 / 1.0001)
        [10.05, 10.05]
    """
    check_positive("follow_flow", sigma_from=sigma_from, sigma_to=sigma_to, rtol=rtol, atol=atol)
    check_denoiser("follow_flow", denoise_fn, x)

    def rate(u: Scalar, y: Example) -> Example:
        return y - denoise_fn(y, jnp.exp(u))

    end, num_steps = solve("follow_flow", rate, x, sigma_from, sigma_to, rtol=rtol, atol=atol)
    return FlowEnd(end, STAGES * num_steps)


def solve(
    name: str,
    rate: Callable[[Scalar, PyTree], PyTree],
    start: PyTree,
    sigma_from: float | Scalar,
    sigma_to: float | Scalar,
    *,
    rtol: float,
    atol: float,
) -> tuple[Any, Int[Array, ""]]:
    """Solves dz/du = rate(u, z) over u = log sigma; returns the end and the number of steps.

    The end is NaN where the solver failed: for a start that is not finite, where `rate` becomes
    so, or after MAX_STEPS steps. Under `vmap` the other examples are not affected.

    Raises:
        ValueError: in forward-mode differentiation; reverse mode is supported.
    """
    wide = wide_dtype(jnp.result_type(*jax.tree.leaves(start)))
    u_from, u_to = (jnp.log(jnp.asarray(s, wide)) for s in (sigma_from, sigma_to))
    sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(start)]))
    # With a NaN start, all MAX_STEPS steps would be rejected while the whole batch waits.
    safe = jax.tree.map(lambda x: jnp.where(sound, x, 0).astype(wide), start)
    smallest = SMALLEST_STEP * jnp.abs(u_to - u_from)
    try:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda u, z, _: rate(jnp.asarray(u), z)),
            diffrax.Tsit5(),
            t0=u_from,
            t1=u_to,
            dt0=(u_to - u_from) / 50,
            y0=safe,
            stepsize_controller=diffrax.PIDController(
                rtol=rtol, atol=atol, dtmin=smallest, force_dtmin=False
            ),
            saveat=diffrax.SaveAt(t1=True),
            max_steps=MAX_STEPS,
            throw=False,
        )
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise ValueError(
            f"`{name}` got forward-mode differentiation (jax.jvp, jax.jacfwd, jax.hessian), which "
            "its adaptive solver does not support: use jax.grad, jax.vjp or jax.jacrev, or "
            "`integrate` with a solver of fixed steps."
        ) from error
    sound = sound & (solution.result == diffrax.RESULTS.successful)
    end = jax.tree.map(lambda x, like: _only(sound, x[0], like), solution.ys, start)
    return end, solution.stats["num_steps"]


def _only(sound: Bool[Array, ""], x: Array, like: Array) -> Array:
    return jnp.where(sound, x, jnp.nan).astype(like.dtype)
