"""Hamiltonian Monte Carlo: proposals by a leapfrog path of H(x, p) = E(x) + |p|^2 / 2.

    p <- p - h/2 grad E(x);   x <- x + h p;   p <- p - h/2 grad E(x)

keeps volume and runs backward under p -> -p, so that a path from p ~ N(0, T I) is a
symmetric proposal, accepted with min(1, exp((H - H') / T)) (arXiv:1206.1901).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax._checks import check_count, check_positive
from ebm_jax.samplers.mcmc.kernel import Kernel, same_dtypes, scan
from ebm_jax.samplers.mcmc.metropolis import (
    GradientState,
    MetropolisInfo,
    accept,
    draw_proposals,
    start_with_gradient,
)
from ebm_jax.types import EnergyFn, Scalar


def hmc(
    energy_fn: EnergyFn,
    *,
    step_size: float | Scalar,
    num_leapfrog: int,
    temperature: float | Scalar = 1.0,
) -> Kernel:
    """Hamiltonian Monte Carlo with a path of fixed length; exact for every step size.

    One leapfrog step is `mala` at step size h^2 / 2. The best acceptance is near .65. On
    a Gaussian a path of a whole period comes back to its start: do not aim h L at one.

    Args:
        energy_fn: E(x), a scalar for one example.
        step_size: h > 0 of the leapfrog, in units of x.
        num_leapfrog: L, leapfrog steps and gradients in one transition, at least 1.
        temperature: T > 0; 1 samples p itself.

    Returns:
        A kernel whose state is `GradientState` and whose info is `MetropolisInfo`.

    Raises:
        ValueError: as `random_walk`, and for `num_leapfrog` below 1.

    References:
        Duane et al. 1987; Neal, arXiv:1206.1901; Beskos et al., arXiv:1001.4460 (.65).
    """
    check_positive("hmc", step_size=step_size, temperature=temperature)
    check_count("hmc", num_leapfrog=num_leapfrog)

    def leapfrog(state: tuple[GradientState, Array], _: Array) -> tuple[Any, None]:
        point, momentum = state
        momentum = momentum - 0.5 * step_size * point.grad
        x = (point.x + step_size * momentum).astype(point.x.dtype)
        point = GradientState(x, *jax.value_and_grad(energy_fn)(x))
        moved = point, momentum - 0.5 * step_size * point.grad
        return same_dtypes(moved, state), None

    def move(noise: tuple[Array, Array], old: GradientState) -> tuple[Any, MetropolisInfo]:
        unit_momentum, log_uniform = noise
        momentum = jnp.sqrt(jnp.asarray(temperature)) * unit_momentum
        (new, end), _ = scan(
            leapfrog, (old, momentum.astype(old.x.dtype)), jnp.arange(num_leapfrog)
        )
        kinetic = 0.5 * jnp.sum(momentum**2) - 0.5 * jnp.sum(end**2)
        return accept(log_uniform, (old.energy - new.energy + kinetic) / temperature, new, old)

    return Kernel(start_with_gradient("hmc", energy_fn), draw_proposals, move)
