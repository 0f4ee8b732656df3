"""Metropolis-Hastings kernels, which keep p^(1/T) ~ exp(-E / T) exactly for every step size.

A proposal x' ~ q(. | x) is accepted with probability

    min(1, exp((E(x) - E(x')) / T) q(x | x') / q(x' | x)),

else the chain stays (Metropolis et al. 1953, Hastings 1970). If the ratio is NaN, the proposal
is rejected and the info is flagged; a chain that starts at a NaN stays there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ebm_jax._checks import check_energy, check_positive
from ebm_jax.samplers.mcmc.kernel import (
    Kernel,
    check_start,
    langevin_scale,
    log_uniforms,
    standard_normals,
)
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar


class MetropolisInfo(NamedTuple):
    """Information about one proposal.

    Attributes:
        accept_prob: the acceptance probability.
        accepted: True if the chain moved.
        failed: True if the ratio was NaN, because an energy or gradient was not finite at the
            proposal or at the chain's own point. Count these over a run.
    """

    accept_prob: Scalar
    accepted: Bool[Array, ""]
    failed: Bool[Array, ""]


class WalkState(NamedTuple):
    """The point of the chain and its energy."""

    x: Example
    energy: Scalar


class GradientState(NamedTuple):
    """The point of the chain, its energy, and the gradient of the energy there."""

    x: Example
    energy: Scalar
    grad: Example


def random_walk(
    energy_fn: EnergyFn, *, step_size: float | Scalar, temperature: float | Scalar = 1.0
) -> Kernel:
    """Random-walk Metropolis: x' = x + h n, accepted with min(1, exp((E(x) - E(x')) / T)).

    It needs no gradient. In d dimensions the optimal step size is proportional to d^(-1/2), with
    an acceptance rate near 0.234.

    Args:
        energy_fn: E(x), a scalar for one example; it may be infinite outside the support.
        step_size: h > 0, the standard deviation of the proposal, in the units of x.
        temperature: T > 0; 1 samples p itself.

    Returns:
        A kernel whose state is `WalkState` and whose info is `MetropolisInfo`.

    Raises:
        ValueError: for numbers out of range, and from `init` for an energy that is not a float
            scalar or, outside jit, for an energy that is not finite at the starting point.

    References:
        Roberts, Gelman & Gilks, Weak convergence and optimal scaling of random walk
        Metropolis algorithms, Annals of Applied Probability 1997.
    """
    check_positive("random_walk", step_size=step_size, temperature=temperature)

    def init(x: Example) -> WalkState:
        check_energy("random_walk", energy_fn, x)
        state = WalkState(x, energy_fn(x))
        check_start("random_walk", "energy", state.energy)
        return state

    def move(noise: tuple[Array, Array], old: WalkState) -> tuple[WalkState, MetropolisInfo]:
        jump, log_uniform = noise
        x = (old.x + step_size * jump).astype(old.x.dtype)
        new = WalkState(x, energy_fn(x))
        return accept(log_uniform, (old.energy - new.energy) / temperature, new, old)

    return Kernel(init, draw_proposals, move)


def mala(
    energy_fn: EnergyFn, *, step_size: float | Scalar, temperature: float | Scalar = 1.0
) -> Kernel:
    """Metropolis-adjusted Langevin algorithm (MALA): `ula` proposals with their bias removed.

        x' = x - h grad E(x) + sqrt(2 h T) n

    It is exact for every h, at one gradient per step. The optimal step size is proportional to
    d^(-1/3), with an acceptance rate near 0.574.

    Args:
        energy_fn: E(x), a scalar for one example.
        step_size: h > 0, in squared units of x.
        temperature: T > 0; 1 samples p itself.

    Returns:
        A kernel whose state is `GradientState` and whose info is `MetropolisInfo`.

    Raises:
        ValueError: in the cases of `random_walk`, and from `init`, outside jit, for a gradient
            that is not finite at the starting point.

    References:
        Roberts & Rosenthal, Optimal scaling of discrete approximations to Langevin
        diffusions, JRSS B 1998.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import samplers
        >>> kernel = samplers.mala(lambda x: jnp.sum(x**2) / 2, step_size=1.0)
        >>> state, xs = samplers.run(kernel, jax.random.key(0), kernel.init(jnp.zeros(1)), 20_000,
        ...                          collect=lambda state, info: state.x)
        >>> round(float(xs.var()), 1)  # `ula` has 2.0
        1.0
    """
    check_positive("mala", step_size=step_size, temperature=temperature)

    def log_q(to: GradientState, start: GradientState) -> Scalar:
        error = to.x - start.x + step_size * start.grad
        return -jnp.sum(error**2) / (4 * step_size * temperature)

    def move(noise: tuple[Array, Array], old: GradientState) -> tuple[Any, MetropolisInfo]:
        jump, log_uniform = noise
        x = old.x - step_size * old.grad + langevin_scale(step_size, temperature) * jump
        x = x.astype(old.x.dtype)  # the energy is that of the point that the chain keeps
        new = GradientState(x, *jax.value_and_grad(energy_fn)(x))
        log_ratio = (old.energy - new.energy) / temperature + log_q(old, new) - log_q(new, old)
        return accept(log_uniform, log_ratio, new, old)

    return Kernel(start_with_gradient("mala", energy_fn), draw_proposals, move)


def start_with_gradient(name: str, energy_fn: EnergyFn) -> Callable[[Example], GradientState]:
    """Returns the `init` of a kernel that caches the energy and its gradient."""

    def init(x: Example) -> GradientState:
        check_energy(name, energy_fn, x)
        state = GradientState(x, *jax.value_and_grad(energy_fn)(x))
        check_start(name, "energy", state.energy)
        check_start(name, "gradient", state.grad)
        return state

    return init


def draw_proposals(key: PRNGKey, state: Any, num_steps: int) -> tuple[Array, Array]:
    """Returns standard normals of the shape of x, and logarithms of uniforms on (0, 1]."""
    key_noise, key_accept = jax.random.split(key)
    noise = standard_normals(key_noise, state.x, num_steps)
    return noise, log_uniforms(key_accept, (num_steps,))


def accept(
    log_uniform: Scalar, log_ratio: Scalar, new: Any, old: Any
) -> tuple[Any, MetropolisInfo]:
    """Returns the new state with probability min(1, exp(log_ratio)), else the old one."""
    accepted = log_uniform <= log_ratio.astype(log_uniform.dtype)  # False for a NaN
    failed = jnp.isnan(log_ratio)
    prob = jnp.where(failed, 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
    state = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)
    return state, MetropolisInfo(prob, accepted, failed)
