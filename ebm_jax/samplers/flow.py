"""The probability flow of a denoiser, solved to a tolerance, in either direction.

In variance-exploding coordinates every process has the same flow. Over u = log sigma,

    dy / du = y - D(y, e^u),

so that a process only says where it begins and ends. `samplers.sde` and
`samplers.diffusion` have the solvers of fixed steps.

References:
    Song et al., arXiv:2011.13456; the solver is Tsitouras' 5(4) of diffrax
    (Kidger, arXiv:2202.02435).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ebm_jax.checks import check_denoiser, check_positive
from ebm_jax.types import DenoiseFn, Example, Scalar

MAX_STEPS = 4096
STAGES = 6  # evaluations in a step: of seven stages the last is the next step's first


class FlowEnd(NamedTuple):
    """Where the flow leads.

    Attributes:
        x: the example at the other level.
        num_evaluations: of the denoiser, steps that were refused included.
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
    """Carry one example along the probability flow from one noise level to another.

    Down from the highest level it samples: of a process, from x_t / alpha at
    `process.level(t_max)`. Up from the lowest it encodes, and its inverse decodes.

    Args:
        denoise_fn: D(x, sigma).
        x: one example at level `sigma_from`, in variance-exploding coordinates.
        sigma_from: noise level of `x`.
        sigma_to: where to go, above or below.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step, in the units of `x`.

    Raises:
        ValueError: for levels or tolerances that are known and not positive, or a denoiser
            that changes the shape.
    """
    check_positive("follow_flow", sigma_from=sigma_from, sigma_to=sigma_to, rtol=rtol, atol=atol)
    check_denoiser("follow_flow", denoise_fn, x)
    end, num_steps = solve(
        lambda u, y: y - denoise_fn(y, jnp.exp(u)), x, sigma_from, sigma_to, rtol=rtol, atol=atol
    )
    return FlowEnd(end, STAGES * num_steps)


def solve(
    rate: Callable[[Scalar, PyTree], PyTree],
    start: PyTree,
    sigma_from: float | Scalar,
    sigma_to: float | Scalar,
    *,
    rtol: float,
    atol: float,
) -> tuple[Any, Int[Array, ""]]:
    """The end of dz/du = rate(u, z) over u = log sigma, and the number of steps."""
    u_from, u_to = (jnp.log(jnp.asarray(s, jnp.float32)) for s in (sigma_from, sigma_to))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda u, z, _: rate(jnp.asarray(u), z)),
        diffrax.Tsit5(),
        t0=u_from,
        t1=u_to,
        dt0=(u_to - u_from) / 50,
        y0=start,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        saveat=diffrax.SaveAt(t1=True),
        max_steps=MAX_STEPS,
    )
    return jax.tree.map(lambda leaf: leaf[0], solution.ys), solution.stats["num_steps"]
