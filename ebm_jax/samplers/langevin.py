"""Langevin kernels: x' = x + h s(x) + sqrt(2 h T) n, step size h, temperature T.

At T = 1 and h -> 0 the chain's law tends to p(x) ~ exp(-E(x)), s = -grad E; at
another T to p^(1/T). Without a Metropolis step the law at finite h is biased.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax.samplers.kernel import Kernel
from ebm_jax.types import Example, PRNGKey, Scalar, ScoreFn


class LangevinState(NamedTuple):
    """The chain's point."""

    x: Example


class LangevinInfo(NamedTuple):
    """The Euclidean norm of the score at the point that the step left."""

    score_norm: Scalar


def ula(
    score_fn: ScoreFn, *, step_size: float | Scalar, temperature: float | Scalar = 1.0
) -> Kernel:
    """The unadjusted Langevin algorithm: x' = x + h s(x) + sqrt(2 h T) n.

    On N(0, s^2 I) its stationary variance is T s^2 / (1 - h / (2 s^2)) instead of
    T s^2: the bias of a finite step. It diverges for h > 2 s^2.

    Args:
        score_fn: s(x) = grad log p(x), of the shape of x; for an energy use
            `calculus.score_from_energy`.
        step_size: h, positive, in squared units of x.
        temperature: T, not negative; 1 samples p itself.

    Returns:
        A kernel whose state is `LangevinState`.

    Raises:
        ValueError: for a step size or temperature out of range, and from `init`
            when the score's shape is not that of x.

    References:
        Roberts & Tweedie, Exponential convergence of Langevin distributions and
        their discrete approximations, Bernoulli 1996.
    """
    if isinstance(step_size, float | int) and not step_size > 0:
        raise ValueError(f"`ula` got step_size={step_size}: give a positive number.")
    if isinstance(temperature, float | int) and not temperature >= 0:
        raise ValueError(f"`ula` got temperature={temperature}: give 0 or a positive number.")

    def init(x: Example) -> LangevinState:
        shape = jax.eval_shape(score_fn, x).shape
        if shape != x.shape:
            raise ValueError(
                f"`ula` got score_fn(x) of shape {shape}, expected {x.shape}: "
                "functions see one example; batch with jax.vmap."
            )
        return LangevinState(x)

    def draw(key: PRNGKey, state: LangevinState, num_steps: int) -> Array:
        return jax.random.normal(key, (num_steps, *state.x.shape), state.x.dtype)

    def move(noise: Array, state: LangevinState) -> tuple[LangevinState, LangevinInfo]:
        score = score_fn(state.x)
        x = state.x + step_size * score + jnp.sqrt(2 * step_size * temperature) * noise
        return LangevinState(x), LangevinInfo(jnp.sqrt(jnp.sum(score**2)))

    return Kernel(init, draw, move)
