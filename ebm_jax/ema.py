"""Moving averages of parameters: their decays, and averages chosen after training.

    ema_t = b_t ema_(t-1) + (1 - b_t) params_t,    b_t = decay(t - 1) at the t-th step

A `Decay` is a function of the steps already taken. Under `power` the average weighs step t
like t^gamma, so that its width is a constant share of the run however long it is; and any
such average, of any width, is nearly a linear combination of a few others saved along the
way (`power_combination`), found after training.

References:
    Karras et al., arXiv:2312.02696, section 3 and appendix C.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

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


def power(relative_width: float) -> Decay:
    """(1 - 1/t)^(gamma + 1) at the t-th step, gamma = `power_exponent(relative_width)`.

    Raises:
        ValueError: as `power_exponent`.
    """
    gamma = power_exponent(relative_width)

    def at(taken: Int[Array, ""]) -> Scalar:
        return (1 - 1 / (taken.astype(jnp.float32) + 1)) ** (gamma + 1)

    return at


def power_exponent(relative_width: float) -> float:
    """gamma > 0 of the profile t^gamma on [0, 1] whose standard deviation is `relative_width`.

    The width is sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))); .05 and .10 are usual.

    Raises:
        ValueError: if `relative_width` is not between 0 and that of gamma = 0, .2887.
    """
    if not 0 < relative_width < 12**-0.5:
        raise ValueError(
            f"`power_exponent` got relative_width={relative_width}: give a number between 0 "
            "and .2887."
        )
    a = relative_width**-2  # gamma^3 + 7 gamma^2 + (16 - a) gamma + 12 - a = 0
    return float(np.roots([1, 7, 16 - a, 12 - a]).real.max())


def power_combination(
    saved: Sequence[tuple[float, float]], wanted: tuple[float, float]
) -> Float[np.ndarray, " n"]:
    """Weights by which saved power averages add up to another, as nearly as they can.

    Least squares between profiles of t^gamma on [0, time], in closed form.

    Args:
        saved: (time, relative width) of each average that was saved, in steps or examples;
            two widths at some ten times are enough for any width between them and wider.
        wanted: (time, relative width) of the average to make.

    Returns:
        Weights that sum to about one, for `combine`.

    Raises:
        ValueError: for no saved average, a time that is not positive, or as
            `power_exponent`.
    """
    times = [time for time, _ in (*saved, wanted)]
    if not saved or not min(times) > 0:
        raise ValueError(f"`power_combination` got {len(saved)} averages at times {times[:-1]}.")
    profiles = [(time, power_exponent(width)) for time, width in saved]
    target = wanted[0], power_exponent(wanted[1])
    gram = np.array([[_overlap(a, b) for b in profiles] for a in profiles])
    return np.linalg.lstsq(gram, np.array([_overlap(a, target) for a in profiles]), rcond=None)[0]


def combine(trees: Sequence[PyTree], weights: Float[np.ndarray, " n"]) -> PyTree:
    """The sum of parameters times weights, one tree at a time."""

    def add(*leaves: Array) -> Array:
        return sum(
            (leaf * jnp.asarray(w, leaf.dtype) for leaf, w in zip(leaves, weights, strict=True)),
            jnp.zeros_like(leaves[0]),
        )

    return jax.tree.map(add, *trees)


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The integral of the product of two normalized profiles, scaled against overflow."""
    (time_a, gamma_a), (time_b, gamma_b) = a, b
    shorter = min(time_a, time_b)
    ratio = (shorter / time_a) ** gamma_a * (shorter / time_b) ** gamma_b
    scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return scale * ratio * shorter / (time_a * time_b)
