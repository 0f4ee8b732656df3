"""Exponential moving averages (EMA) of parameters: their decays.

    ema_t = b_t ema_(t-1) + (1 - b_t) params_t,    b_t = decay(t - 1) at the t-th step

A `Decay` is a function of the steps already taken.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Int

from ebm_jax._checks import check_positive
from ebm_jax.types import Scalar

Decay = Callable[[Int[Array, ""]], Scalar]


def ramped(decay: float) -> Decay:
    """min(decay, (1 + t) / (10 + t)) after t steps.

    Without the ramp a short run would average in its initial weights.

    Raises:
        ValueError: if `decay` is not in [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"`ramped` got decay={decay}: give a number in [0, 1).")

    def at(taken: Int[Array, ""]) -> Scalar:
        t = taken.astype(jnp.float32)
        return jnp.minimum(decay, (1 + t) / (10 + t))

    return at


def half_life(examples: float | int, batch_size: int, *, ramp_up: float = 0.05) -> Decay:
    """The decay at which a step's weight halves every `examples` examples (arXiv:2206.00364).

    Early on the half-life is at most `ramp_up` times the examples seen.

    Raises:
        ValueError: for a number that is not positive.
    """
    check_positive("half_life", examples=examples, batch_size=batch_size, ramp_up=ramp_up)

    def at(taken: Int[Array, ""]) -> Scalar:
        seen = taken.astype(jnp.float32) * batch_size
        return 0.5 ** (batch_size / jnp.maximum(jnp.minimum(examples, ramp_up * seen), 1e-8))

    return at
