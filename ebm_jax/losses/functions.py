"""The functions that losses are given: checked where they are called, at no cost.

A function sees an example in the example's own dtype; the loss computes with its result in
float32 or wider. Shapes are those of the results of calls that the loss makes anyway:
nothing is traced twice, and nothing of a check is left in the compiled program.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax._checks import check_positive, check_result
from ebm_jax._precision import level_for, widened
from ebm_jax.types import Example, Scalar

FieldFn = Callable[..., Example]


def checked_example(name: str, **examples: Example) -> Example:
    """Returns one example in the precision to compute in, or raises if it is not of floats."""
    ((argument, x),) = examples.items()
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` got {argument} of type {x.dtype}, expected a float: "
            "convert it, for instance by `data.to_unit` of pixels."
        )
    return widened(x)


def checked_level(name: str, x: Example, **levels: float | Scalar) -> Scalar:
    """Returns one noise level in the precision to compute in, or raises if it is not positive."""
    check_positive(name, **levels)
    (level,) = levels.values()
    return level_for(x, level)


def checked_field(name: str, call: str, fn: FieldFn, x: Example) -> FieldFn:
    """Returns a field that checks its result's shape, sees the dtype of `x` and returns wide.

    Args:
        name: the loss, for the message.
        call: how the loss calls it, such as "score_fn(x, sigma)".
        fn: a function of an example, and perhaps of numbers, with a result of its shape.
        x: the example as the caller gave it.
    """
    return checked(name, call, fn, x, x.shape)


def checked_energy(
    name: str, call: str, fn: Callable[..., Scalar], x: Example
) -> Callable[..., Scalar]:
    """As `checked_field`, of a function whose result is a scalar."""
    return checked(name, call, fn, x, ())


def checked(
    name: str, call: str, fn: Callable[..., Array], x: Example, shape: tuple[int, ...]
) -> Callable[..., Array]:
    """As `checked_field`, of a function whose result has this shape."""

    def with_check(point: Array, *numbers: Scalar) -> Array:
        out = fn(point.astype(x.dtype), *numbers)
        check_result(name, call, out, shape)
        return widened(out)

    return with_check
