"""Exponential moving averages (EMA) of parameters: decay schedules.

    ema_t = b_t ema_(t-1) + (1 - b_t) params_t,    b_t = decay(t - 1) at the t-th step

A `Decay` is a function of the number of steps already taken.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Int

from ebm_jax._checks import check_positive
from ebm_jax.types import Scalar

Decay = Callable[[Int[Array, ""]], Scalar]


def ramped(decay: float) -> Decay:
    """Returns the decay min(decay, (1 + t) / (10 + t)) after t steps.

    The ramp keeps the initial weights of a short run out of its average.

    Args:
        decay: the final decay.

    Raises:
        ValueError: if `decay` is not in [0, 1).

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import ema
        >>> decay = ema.ramped(0.999)
        >>> round(float(decay(jnp.array(0))), 3), round(float(decay(jnp.array(10**6))), 3)
        (0.1, 0.999)
    """
    if not 0 <= decay < 1:
        raise ValueError(f"`ramped` got decay={decay}: give a number in [0, 1).")

    def at(taken: Int[Array, ""]) -> Scalar:
        t = taken.astype(jnp.float32)
        return jnp.minimum(decay, (1 + t) / (10 + t))

    return at


def half_life(examples: float | int, batch_size: int, *, ramp_up: float = 0.05) -> Decay:
    """Returns the decay at which a step's weight halves every `examples` examples (EDM).

    Early in training, the half-life is at most `ramp_up` times the number of examples seen.

    Args:
        examples: the half-life in examples, such as 500,000.
        batch_size: examples per step.
        ramp_up: the EMA ramp-up ratio of EDM.

    Raises:
        ValueError: for a number that is not positive.

    References:
        Karras et al., arXiv:2206.00364.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import ema
        >>> decay = ema.half_life(1000, 100)
        >>> round(float(decay(jnp.array(10**6)) ** 10), 3)  # ten steps are 1000 examples
        0.5
    """
    check_positive("half_life", examples=examples, batch_size=batch_size, ramp_up=ramp_up)

    def at(taken: Int[Array, ""]) -> Scalar:
        seen = taken.astype(jnp.float32) * batch_size
        return 0.5 ** (batch_size / jnp.maximum(jnp.minimum(examples, ramp_up * seen), 1e-8))

    return at
