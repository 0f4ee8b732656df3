"""Converts values made of this library's public functions to JSON and back.

A network, its preconditioning, a noise process or a sampler is written as the public name of a
function or class of this library, with its arguments:

    partial(precondition.edm, sigma_data=0.5)   {"partial": "nets.precondition.edm",
                                                 "with": {"sigma_data": 0.5}}
    ConvScore((32, 64))                         {"make": "nets.ConvScore",
                                                 "with": {"channels": [32, 64], ...}}

A file is data, never a program: reading it looks up names in the `__all__` of a few modules and
calls nothing else. Numbers, text, None, lists (read as tuples), dictionaries, small arrays and
dtypes are written directly; infinities and NaN are written as text, so that the JSON is valid.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import guidance, nets, noise, recipes, samplers
from ebm_jax.nets import precondition

Json = Any
MOST_ENTRIES = 100_000  # of an array written as text: enough for noise levels, not for weights
ACTIVATIONS = ("silu", "gelu", "tanh", "softplus", "relu", "elu", "sigmoid")


class PlainError(ValueError):
    """A value that cannot be written as JSON, or JSON that describes no value of this library."""


def to_plain(value: Any) -> Json:
    """Returns a value as JSON: numbers, text, lists and dictionaries.

    Raises:
        PlainError: The value contains a function or class that is not a public name of this
            library, such as a lambda, or anything else that JSON cannot hold.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _plain_array(np.asarray(value))
    if isinstance(value, partial):
        if value.args:
            raise PlainError(f"{value} has positional arguments: give them by keyword.")
        return {"partial": _name_of(value.func), "with": _plain_items(value.keywords)}
    if hasattr(value, "_asdict"):  # a NamedTuple
        return {"make": _name_of(type(value)), "with": _plain_items(value._asdict())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        fields = {k: v for k, v in fields.items() if k not in ("parent", "name")}  # of linen
        return {"make": _name_of(type(value)), "with": _plain_items(fields)}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {"dict": _plain_items(value)}
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return {"dtype": jnp.dtype(value).name}
    if dtype := getattr(value, "dtype", None):  # jnp.bfloat16 is not a NumPy class
        return {"dtype": jnp.dtype(dtype).name}
    return {"name": _name_of(value)}


def from_plain(plain: Json) -> Any:
    """Returns the value that `to_plain` wrote.

    Raises:
        PlainError: A name is not public in this library, or refuses its arguments.
    """
    if isinstance(plain, list):
        return tuple(from_plain(item) for item in plain)
    if not isinstance(plain, dict):
        return plain
    match plain:
        case {"float": str(text)} if text in ("inf", "-inf", "nan"):
            return float(text)
        case {"array": values, "dtype": str(dtype)}:
            return jnp.asarray(np.array(values, dtype))
        case {"dtype": str(dtype)}:
            return jnp.dtype(dtype)
        case {"dict": dict(items)}:
            return _items(items)
        case {"name": str(name)}:
            return _value_of(name)
        case {"partial": str(name), "with": dict(arguments)}:
            return partial(_value_of(name), **_items(arguments))
        case {"make": str(name), "with": dict(arguments)}:
            return _made(_value_of(name), name, _items(arguments))
    raise PlainError(f"{str(plain)[:200]} is no value of this library.")


def _made(maker: Callable[..., Any], name: str, arguments: dict[str, Any]) -> Any:
    if not isinstance(maker, type):
        raise PlainError(f"{name} is no class of this library.")
    try:
        return maker(**arguments)
    except (TypeError, ValueError) as error:
        raise PlainError(f"{name} refuses its arguments: {error}.") from error


def _plain_items(items: dict[str, Any]) -> dict[str, Json]:
    return {str(name): to_plain(value) for name, value in items.items()}


def _items(items: dict[str, Json]) -> dict[str, Any]:
    return {name: from_plain(value) for name, value in items.items()}


def _plain_array(array: np.ndarray) -> Json:
    if array.size > MOST_ENTRIES or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise PlainError(
            f"an array of shape {array.shape} and type {array.dtype} cannot be written as text: "
            f"give finite numbers, at most {MOST_ENTRIES}."
        )
    return {"array": array.tolist(), "dtype": array.dtype.name}


@cache
def _public() -> dict[str, Any]:
    """Returns the values that a file may name, by their public names."""
    found = {name: value for room in _rooms() for name, value in _public_of(*room)}
    return found | {f"jax.nn.{name}": getattr(jax.nn, name) for name in ACTIVATIONS}


def _rooms() -> tuple[tuple[str, ModuleType], ...]:
    return (
        ("nets", nets),
        ("nets.precondition", precondition),
        ("noise", noise),
        ("samplers", samplers),
        ("guidance", guidance),
        ("recipes", recipes),
    )


def _public_of(room: str, module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            yield f"{room}.{name}", value


def _name_of(value: Any) -> str:
    for name, public in _public().items():
        if public is value:
            return name
    raise PlainError(f"{value!r} is not a public name of this library, which a file could hold.")


def _value_of(name: str) -> Any:
    if name not in _public():
        raise PlainError(f"{name!r} is not a public name of this version of the library.")
    return _public()[name]
