"""Hamiltonian Monte Carlo (HMC): proposals by leapfrog paths of H(x, p) = E(x) + |p|^2 / 2.

    p <- p - h/2 grad E(x);   x <- x + h p;   p <- p - h/2 grad E(x)

preserves volume and is reversible under p -> -p. A path from p ~ N(0, T I) is therefore a
symmetric proposal, accepted with probability min(1, exp((H - H') / T)) (arXiv:1206.1901).
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
    """Hamiltonian Monte Carlo (HMC) with paths of fixed length; exact for every step size.

    With one leapfrog step of size h it is `mala` with step size h^2 / 2. The optimal acceptance
    rate is near 0.65. On a Gaussian, a path as long as a whole period returns to its start: avoid
    an h L near a period.

    Args:
        energy_fn: E(x), a scalar for one example.
        step_size: h > 0 of the leapfrog, in the units of x.
        num_leapfrog: L, the number of leapfrog steps and of gradients per transition, at least 1.
        temperature: T > 0; 1 samples p itself.

    Returns:
        A kernel whose state is `GradientState` and whose info is `MetropolisInfo`.

    Raises:
        ValueError: in the cases of `random_walk`, and if `num_leapfrog` is below 1.

    References:
        Duane et al. 1987; Neal, arXiv:1206.1901; Beskos et al., arXiv:1001.4460 (0.65).

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import samplers
        >>> kernel = samplers.hmc(lambda x: jnp.sum(x**2) / 8, step_size=1.0, num_leapfrog=3)
        >>> state, xs = samplers.run(kernel, jax.random.key(0), kernel.init(jnp.zeros(1)), 20_000,
        ...                          collect=lambda state, info: state.x)
        >>> round(float(xs.std()), 1)  # E = x^2 / 8 is that of N(0, 4)
        2.0
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
