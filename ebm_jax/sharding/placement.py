"""Sharding of arrays: examples split over devices, parameters replicated or split."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ebm_jax.sharding.mesh import data_mesh

# ---- examples


def split(tree: PyTree, mesh: Mesh, *, axis: int = 0) -> PyTree:
    """Places every array of `tree` with its axis `axis` split over the mesh.

    A leaf may be any object with a shape that can be sliced. Unless it is a `jax.Array`, only
    the slices of this process' devices are read.

    Args:
        tree: pytree of arrays, or of objects with `shape` and `__getitem__`.
        mesh: the devices.
        axis: the axis of the examples.

    Raises:
        ValueError: if the length of the axis is not a multiple of the number of devices.
    """

    def place(leaf: Any) -> jax.Array:
        if leaf.shape[axis] % mesh.size:
            raise ValueError(
                f"`split` got an axis of {leaf.shape[axis]} examples for {mesh.size} devices: "
                f"give a multiple of {mesh.size}."
            )
        spec = PartitionSpec(*[None] * (axis % len(leaf.shape)), mesh.axis_names)
        sharding = NamedSharding(mesh, spec)
        if isinstance(leaf, jax.Array):
            return _put(leaf, sharding)
        return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)

    return jax.tree.map(place, tree)


def split_or_copy(tree: PyTree, mesh: Mesh) -> PyTree:
    """Splits each array along its first axis if that divides evenly; replicates it otherwise."""

    def place(leaf: Any) -> jax.Array:
        divides = len(leaf.shape) and leaf.shape[0] % mesh.size == 0
        return split(leaf, mesh) if divides else replicate(leaf, mesh)

    return jax.tree.map(place, tree)


def spread(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Returns `jax.vmap(fn)`, compiled and spread over all devices, for any number of examples.

    Every argument is a pytree with the examples on its first axis. If their number is not a
    multiple of the devices, copies fill it up and are dropped from the result. Among several
    processes, each gets all results.

    Args:
        fn: a function of one example.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import sharding
        >>> sharding.spread(lambda x: x**2)(jnp.arange(5)).tolist()
        [0, 1, 4, 9, 16]
    """
    compiled = jax.jit(jax.vmap(fn))

    def spread_fn(*args: PyTree) -> PyTree:
        mesh = data_mesh()
        count = jax.tree.leaves(args)[0].shape[0]
        filling = -count % mesh.size

        def fill(leaf: jax.Array) -> jax.Array:
            return leaf[np.arange(count + filling) % count] if filling else leaf

        out = compiled(*split(jax.tree.map(fill, args), mesh))
        out = out if jax.process_count() == 1 else replicate(out, mesh)
        return jax.tree.map(lambda leaf: leaf[:count], out)

    return spread_fn


# ---- parameters


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Places a copy of every array of `tree` on every device of the mesh."""
    return jax.tree.map(lambda leaf: _put(leaf, _everywhere(mesh)), tree)


def partition(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a parameter of this shape.

    The longest axis that "fsdp" divides is split over it; among equally long axes, the last one
    is. An array without such an axis is replicated.
    """
    parts = mesh.shape.get("fsdp", 1)
    axes = [axis for axis, length in enumerate(shape) if length % parts == 0]
    if parts == 1 or not axes:
        return _everywhere(mesh)
    longest = max(axes, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))


def place_parameters(tree: PyTree, mesh: Mesh) -> PyTree:
    """Places parameters, and arrays of their shapes, with the sharding of `partition`."""
    return jax.tree.map(lambda leaf: _put(leaf, partition(leaf.shape, mesh)), tree)


def gather(params: PyTree, mesh: Mesh) -> PyTree:
    """Returns parameters replicated on every device, for computation under `jax.jit` (FSDP).

    In the backward pass the gradient is summed over the devices and split again, so no device
    keeps a whole gradient.
    """

    @jax.custom_vjp
    def whole(leaf: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(leaf, _everywhere(mesh))

    def forward(leaf: jax.Array) -> tuple[jax.Array, None]:
        return whole(leaf), None

    def backward(_: None, cotangent: jax.Array) -> tuple[jax.Array]:
        part = partition(cotangent.shape, mesh)
        return (jax.lax.with_sharding_constraint(cotangent, part),)

    whole.defvjp(forward, backward)
    return params if mesh.shape.get("fsdp", 1) == 1 else jax.tree.map(whole, params)


def fetch(tree: PyTree) -> PyTree:
    """Returns the same arrays, each whole in this process, wherever its parts were."""

    def whole(leaf: Any) -> jax.Array | np.ndarray:
        here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        if here and getattr(leaf, "is_fully_replicated", True):
            return leaf
        return np.asarray(_put(leaf, _everywhere(leaf.sharding.mesh)))

    return jax.tree.map(whole, tree)


def _everywhere(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _put(leaf: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    """Applies `jax.device_put`; among processes, where that cannot move keys, a constraint."""
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    return _constrained(leaf, sharding)


@partial(jax.jit, static_argnums=1)
def _constrained(leaf: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(leaf, sharding)
