"""Where arrays lie: examples split over devices, parameters whole or in parts."""

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
    """Place every array of `tree` with its axis `axis` split over the mesh.

    Anything with a shape that slices can be taken of may stand for an array: where it is not
    a `jax.Array`, only the slices of this process' devices are taken.

    Raises:
        ValueError: if the axis' length is not a multiple of the number of devices.
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
    """`split` along the first axis where that divides, a copy on every device where not."""

    def place(leaf: Any) -> jax.Array:
        divides = len(leaf.shape) and leaf.shape[0] % mesh.size == 0
        return split(leaf, mesh) if divides else replicate(leaf, mesh)

    return jax.tree.map(place, tree)


def spread(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`jax.vmap(fn)`, compiled and spread over all devices, for any number of examples.

    Every argument is a pytree with the examples on its first axis. Their number is
    filled up to a multiple of the devices with copies, which are dropped from the
    result. Among several processes, each gets all results.
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
    """Place a copy of every array of `tree` on every device of the mesh."""
    return jax.tree.map(lambda leaf: _put(leaf, _everywhere(mesh)), tree)


def partition(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """How a parameter of this shape lies on the mesh.

    Its longest axis that "fsdp" divides, the last of equals, is split over it; an array that
    has none is copied.
    """
    parts = mesh.shape.get("fsdp", 1)
    axes = [axis for axis, length in enumerate(shape) if length % parts == 0]
    if parts == 1 or not axes:
        return _everywhere(mesh)
    longest = max(axes, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))


def place_parameters(tree: PyTree, mesh: Mesh) -> PyTree:
    """Place parameters, and whatever has their shapes, as `partition` says."""
    return jax.tree.map(lambda leaf: _put(leaf, partition(leaf.shape, mesh)), tree)


def gather(params: PyTree, mesh: Mesh) -> PyTree:
    """Whole parameters on every device, to be computed with under `jax.jit`.

    What flows back is the gradient of the parts: it is summed over the devices and split
    again, so that no device keeps a whole one.
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
    """The same arrays, each whole in this process, whatever devices of others held parts."""

    def whole(leaf: Any) -> jax.Array | np.ndarray:
        here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        if here and getattr(leaf, "is_fully_replicated", True):
            return leaf
        return np.asarray(_put(leaf, _everywhere(leaf.sharding.mesh)))

    return jax.tree.map(whole, tree)


def _everywhere(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def _put(leaf: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    """`jax.device_put`, which does not move keys between processes."""
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    return _constrained(leaf, sharding)


@partial(jax.jit, static_argnums=1)
def _constrained(leaf: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(leaf, sharding)
