"""Wrappers that check the functions given to a loss where they are called.

A function receives an example in the example's own dtype; the loss computes with its result in
float32 or wider. The checks read the shapes of results that the loss needs anyway: nothing is
traced twice, and no check remains in the compiled program.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax._checks import check_positive, check_result
from ebm_jax._precision import level_for, widened
from ebm_jax.types import Example, Scalar

FieldFn = Callable[..., Example]


def checked_example(name: str, **examples: Example) -> Example:
    """Returns one example in the loss's precision; raises a ValueError if it is not of floats."""
    ((argument, x),) = examples.items()
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` got {argument} of type {x.dtype}, expected a float: "
            "convert it, for instance by `data.to_unit` of pixels."
        )
    return widened(x)


def checked_level(name: str, x: Example, **levels: float | Scalar) -> Scalar:
    """Returns one level in the loss's precision; raises a ValueError if it is not positive."""
    check_positive(name, **levels)
    (level,) = levels.values()
    return level_for(x, level)


def checked_field(name: str, call: str, fn: FieldFn, x: Example) -> FieldFn:
    """Wraps a field: checks the shape of its result, passes it x's dtype and returns a wide result.

    Args:
        name: the loss, for the message.
        call: how the loss calls the function, such as "score_fn(x, sigma)".
        fn: a function of an example, and perhaps of numbers, whose result has the example's shape.
        x: the example as the caller passed it.
    """
    return checked(name, call, fn, x, x.shape)


def checked_energy(
    name: str, call: str, fn: Callable[..., Scalar], x: Example
) -> Callable[..., Scalar]:
    """`checked_field` for a function whose result is a scalar."""
    return checked(name, call, fn, x, ())


def checked(
    name: str, call: str, fn: Callable[..., Array], x: Example, shape: tuple[int, ...]
) -> Callable[..., Array]:
    """`checked_field` for a function whose result has the given shape."""

    def with_check(point: Array, *numbers: Scalar) -> Array:
        out = fn(point.astype(x.dtype), *numbers)
        check_result(name, call, out, shape)
        return widened(out)

    return with_check
