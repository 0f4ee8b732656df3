"""Checks of static facts at factories and doors: a sentence with the name, the value, the mend."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax._precision import wide_dtype
from ebm_jax.types import DenoiseFn, EnergyFn, Example, ScoreFn

# A number is a Python number or a numpy or JAX scalar. The value of a traced one is not known
# until the program runs, so that only its shape is checked.
Number = Any


def holds(condition: Callable[..., Any], *numbers: Number) -> bool:
    """Returns whether a condition holds for known numbers; True if one is traced.

    Args:
        condition: a function of float64 numpy arrays, one for each number, that returns a
            boolean array. All entries must be true.
        numbers: Python numbers, or numpy or JAX arrays.
    """
    if any(isinstance(number, jax.core.Tracer) for number in numbers):
        return True
    return bool(np.all(condition(*(np.asarray(number, np.float64) for number in numbers))))


def check_positive(name: str, **numbers: Number) -> None:
    """Raise the ValueError of a number that is no scalar, or is known and not in (0, inf)."""
    for argument, value in numbers.items():
        check_scalar(name, **{argument: value})
        if not holds(_positive, value):
            raise ValueError(f"`{name}` got {argument}={value}: give a positive number.")


def check_not_negative(name: str, **numbers: Number) -> None:
    """Raise the ValueError of a number that is no scalar, or is known and not in [0, inf)."""
    for argument, value in numbers.items():
        check_scalar(name, **{argument: value})
        if not holds(lambda known: (known >= 0) & np.isfinite(known), value):
            raise ValueError(f"`{name}` got {argument}={value}: give 0 or a positive number.")


def check_all_positive(name: str, **arrays: Number) -> None:
    """Raise the ValueError of an array that is known and has an entry not in (0, inf)."""
    for argument, value in arrays.items():
        if not holds(_positive, value):
            raise ValueError(f"`{name}` got {argument}={value}: give positive numbers.")


def check_scalar(name: str, **numbers: Number) -> None:
    """Raise the ValueError of a number that has a shape other than ()."""
    for argument, value in numbers.items():
        check_shape(name, argument, value, ())


def check_count(name: str, *, least: int = 1, **counts: Number) -> None:
    """Raise the ValueError of a count that is not a whole number, or is below `least`."""
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
    """Raise the ValueError of a range that is known and not 0 < low < high < infinity."""
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
    """Raises the ValueError of a ladder of levels or times that is too short or out of order.

    Args:
        name: the function's name, for the message.
        argument: the argument's name.
        values: the ladder. If it is traced only its shape is checked.
        rising: True for an increasing ladder, False for a decreasing one.
        positive: True if the numbers must be positive: levels, not times.
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
    """Raise the ValueError of a result of `call` that is no array of floats of this shape."""
    check_shape(name, call, out, expected)
    if not jnp.issubdtype(jnp.result_type(out), jnp.floating):
        raise ValueError(
            f"`{name}` got {call} of type {out.dtype}, expected a float: "
            "it has no gradient; convert its result with jnp.float32."
        )


def check_shape(name: str, argument: str, value: Any, expected: tuple[int, ...]) -> None:
    """Raise the ValueError of an array that has another shape, or of what is no array."""
    shape = getattr(value, "shape", () if isinstance(value, float | int) else None)
    if shape != expected:
        raise ValueError(
            f"`{name}` got {argument} of shape {shape}, expected {expected}: "
            "functions see one example; batch with jax.vmap."
        )


def check_energy(name: str, energy_fn: EnergyFn, x: Example) -> None:
    """Raise the ValueError of an energy that is no float scalar of one example."""
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
    """Raise the ValueError of a score that is not of the shape of its example."""
    shape = getattr(jax.eval_shape(score_fn, x), "shape", None)
    if shape != x.shape:
        raise ValueError(
            f"`{name}` got score_fn(x) of shape {shape}, expected {x.shape}: "
            "functions see one example; batch with jax.vmap."
        )


def check_denoiser(name: str, denoise_fn: DenoiseFn, x: Example) -> None:
    """Raise the ValueError of a denoiser whose result is not of the shape of its example."""
    level = jax.ShapeDtypeStruct((), wide_dtype(x.dtype))
    shape = getattr(jax.eval_shape(denoise_fn, x, level), "shape", None)
    if shape != x.shape:
        raise ValueError(
            f"`{name}` got denoise_fn(x, sigma) of shape {shape}, expected {x.shape}: "
            "functions see one example; batch with jax.vmap."
        )
