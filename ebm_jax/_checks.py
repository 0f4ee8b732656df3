"""Checks of static facts: each raises a ValueError with the name, the value and the fix."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax._precision import wide_dtype
from ebm_jax.types import DenoiseFn, EnergyFn, Example, ScoreFn

# A Python number, or a numpy or JAX scalar. If it is traced, only its shape can be checked.
Number = Any


def holds(condition: Callable[..., Any], *numbers: Number) -> bool:
    """Returns True if a condition holds for concrete numbers, or if a number is traced.

    Args:
        condition: a function of float64 numpy arrays, one for each number, that returns a
            boolean array. All entries must be true.
        numbers: Python numbers, or numpy or JAX arrays.
    """
    if any(isinstance(number, jax.core.Tracer) for number in numbers):
        return True
    return bool(np.all(condition(*(np.asarray(number, np.float64) for number in numbers))))


def check_positive(name: str, **numbers: Number) -> None:
    """Raises a ValueError for a number that is not a scalar, or is concrete and not in (0, inf)."""
    for argument, value in numbers.items():
        check_scalar(name, **{argument: value})
        if not holds(_positive, value):
            raise ValueError(f"`{name}` got {argument}={value}: give a positive number.")


def check_not_negative(name: str, **numbers: Number) -> None:
    """Raises a ValueError for a number that is not a scalar, or is concrete and not in [0, inf)."""
    for argument, value in numbers.items():
        check_scalar(name, **{argument: value})
        if not holds(lambda known: (known >= 0) & np.isfinite(known), value):
            raise ValueError(f"`{name}` got {argument}={value}: give 0 or a positive number.")


def check_all_positive(name: str, **arrays: Number) -> None:
    """Raises a ValueError for an array that is concrete and has an entry not in (0, inf)."""
    for argument, value in arrays.items():
        if not holds(_positive, value):
            raise ValueError(f"`{name}` got {argument}={value}: give positive numbers.")


def check_scalar(name: str, **numbers: Number) -> None:
    """Raises a ValueError for a number whose shape is not ()."""
    for argument, value in numbers.items():
        check_shape(name, argument, value, ())


def check_count(name: str, *, least: int = 1, **counts: Number) -> None:
    """Raises a ValueError for a count that is not a whole number, or is below `least`."""
    for argument, value in counts.items():
        try:
            good = isinstance(value, jax.core.Tracer) or operator.index(value) >= least
        except TypeError:
            good = False
        if not good:
            raise ValueError(
                f"`{name}` got {argument}={value}: give at least {least}, as a whole number."
            )


def check_range(name: str, low: Number, high: Number) -> None:
    """Raises a ValueError for a range that is concrete and not 0 < low < high < infinity."""
    if not holds(lambda low, high: (low > 0) & (low < high) & np.isfinite(high), low, high):
        raise ValueError(f"`{name}` got the range {low} to {high}: give 0 < minimum < maximum.")


def _positive(known: np.ndarray) -> np.ndarray | np.bool:
    return (known > 0) & np.isfinite(known)


def check_ladder(
    name: str,
    argument: str,
    values: Float[Array, " n"],
    *,
    rising: bool = False,
    positive: bool = False,
    least: int = 2,
) -> None:
    """Raises a ValueError for levels or times that are too few or out of order.

    Args:
        name: the function's name, for the message.
        argument: the argument's name.
        values: the ladder. If it is traced, only its shape is checked.
        rising: True for an increasing ladder, False for a decreasing one.
        positive: True if the numbers must be positive, as levels must and times need not.
        least: the smallest number of values.
    """
    wanted = "strictly " + ("increasing" if rising else "decreasing")
    wanted += ", positive and finite" if positive else ""
    if values.ndim != 1 or values.shape[0] < least:
        raise ValueError(
            f"`{name}` got {argument} of shape {values.shape}: give at least {least}, {wanted}."
        )

    def good(known: np.ndarray) -> bool:
        gaps = np.diff(known) if rising else -np.diff(known)
        lowest = known.min() if positive else 1.0
        return bool(np.all(np.isfinite(known)) and np.all(gaps > 0) and lowest > 0)

    if not holds(good, values):
        raise ValueError(f"`{name}` got {argument}={values}: give numbers {wanted}.")


def check_result(name: str, call: str, out: Any, expected: tuple[int, ...]) -> None:
    """Raises a ValueError if the result of `call` is not a float array of the expected shape."""
    check_shape(name, call, out, expected)
    if not jnp.issubdtype(jnp.result_type(out), jnp.floating):
        raise ValueError(
            f"`{name}` got {call} of type {out.dtype}, expected a float: "
            "it has no gradient; convert its result with jnp.float32."
        )


def check_shape(name: str, argument: str, value: Any, expected: tuple[int, ...]) -> None:
    """Raises a ValueError if a value is not an array or number of the expected shape."""
    shape = getattr(value, "shape", () if isinstance(value, float | int) else None)
    if shape != expected:
        raise ValueError(
            f"`{name}` got {argument} of shape {shape}, expected {expected}: "
            "functions see one example; batch with jax.vmap."
        )


def check_energy(name: str, energy_fn: EnergyFn, x: Example) -> None:
    """Raises a ValueError if an energy is not a float scalar of one example."""
    out = jax.eval_shape(energy_fn, x)
    shape = getattr(out, "shape", None)
    if shape != ():
        raise ValueError(
            f"`{name}` got energy_fn(x) of shape {shape} for x of shape {x.shape}, expected (): "
            "functions see one example; batch with jax.vmap."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` got energy_fn(x) of type {out.dtype}, expected a float: "
            "it has no gradient; convert its result with jnp.float32."
        )


def check_score(name: str, score_fn: ScoreFn, x: Example) -> None:
    """Raises a ValueError if a score does not have the shape of its example."""
    shape = getattr(jax.eval_shape(score_fn, x), "shape", None)
    if shape != x.shape:
        raise ValueError(
            f"`{name}` got score_fn(x) of shape {shape}, expected {x.shape}: "
            "functions see one example; batch with jax.vmap."
        )


def check_denoiser(name: str, denoise_fn: DenoiseFn, x: Example) -> None:
    """Raises a ValueError if the result of a denoiser does not have the shape of its example."""
    level = jax.ShapeDtypeStruct((), wide_dtype(x.dtype))
    shape = getattr(jax.eval_shape(denoise_fn, x, level), "shape", None)
    if shape != x.shape:
        raise ValueError(
            f"`{name}` got denoise_fn(x, sigma) of shape {shape}, expected {x.shape}: "
            "functions see one example; batch with jax.vmap."
        )
