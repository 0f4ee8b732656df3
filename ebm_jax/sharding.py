"""Placement: the only file that names a device.

A mesh has one axis, "data": batches and chains are split over it, parameters are
copied to every device. The compiled program is the same on any number of devices.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree


def use_all_cores() -> None:
    """Simulate one device a CPU core, so that a run on CPU uses every core.

    Call it before the first computation. It changes nothing where there is an
    accelerator, nor where `JAX_NUM_CPU_DEVICES` or an earlier setting chose a number.
    """
    if jax.config.values["jax_num_cpu_devices"] < 1:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def data_mesh(batch_size: int | None = None) -> Mesh:
    """A mesh over the devices at hand, or over the most of them that divide `batch_size`."""
    devices = jax.devices()
    count = len(devices)
    while batch_size is not None and batch_size % count:
        count -= 1
    return jax.make_mesh((count,), ("data",), devices=devices[:count], axis_types=(AxisType.Auto,))


def split(tree: PyTree, mesh: Mesh, *, axis: int = 0) -> PyTree:
    """Place every array of `tree` with its axis `axis` split over the mesh.

    Raises:
        ValueError: if the axis' length is not a multiple of the number of devices.
    """

    def place(leaf: Any) -> jax.Array:
        if leaf.shape[axis] % mesh.size:
            raise ValueError(
                f"`split` got an axis of {leaf.shape[axis]} examples for {mesh.size} devices: "
                f"give a multiple of {mesh.size}."
            )
        spec = PartitionSpec(*[None] * (axis % leaf.ndim), "data")
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Place a copy of every array of `tree` on every device of the mesh."""
    return jax.tree.map(partial(jax.device_put, device=NamedSharding(mesh, PartitionSpec())), tree)


def spread(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`jax.vmap(fn)`, compiled and spread over all devices, for any number of examples.

    Every argument is a pytree with the examples on its first axis. Their number is
    filled up to a multiple of the devices with copies of the first, which are dropped
    from the result.
    """
    compiled = jax.jit(jax.vmap(fn))

    def spread_fn(*args: PyTree) -> PyTree:
        mesh = data_mesh()
        count = jax.tree.leaves(args)[0].shape[0]
        filling = -count % mesh.size

        def fill(leaf: jax.Array) -> jax.Array:
            return jnp.concatenate([leaf, jnp.repeat(leaf[:1], filling, 0)]) if filling else leaf

        out = compiled(*split(jax.tree.map(fill, args), mesh))
        return jax.tree.map(lambda leaf: leaf[:count], out)

    return spread_fn
