"""Devices, meshes, and the memory of devices."""

import math
import os
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp")
MOST_SIMULATED = 1024  # devices per process: each has threads of its own


def use_all_cores(num_devices: int | None = None) -> None:
    """Simulates devices on CPU, one per core by default, so that a CPU run uses every core.

    Call it before the first computation. It has no effect on accelerators, or if
    `JAX_NUM_CPU_DEVICES` or an earlier setting chose a number.

    Args:
        num_devices: number of devices; by default, the number of cores.

    Raises:
        ValueError: for more than 1,024, which a process cannot simulate.
    """
    if num_devices is not None and num_devices > MOST_SIMULATED:
        raise ValueError(
            f"{num_devices} devices in one process: give at most {MOST_SIMULATED}, or start more "
            "processes."
        )
    if jax.config.values["jax_num_cpu_devices"] < 1:
        count = num_devices or len(os.sched_getaffinity(0))
        jax.config.update("jax_num_cpu_devices", count)


def mesh_shape(text: str) -> dict[str, int]:
    """Parses the shape of a mesh, such as "data=4,fsdp=2": devices by axis.

    Raises:
        ValueError: for anything else.

    Examples:
        >>> from ebm_jax import sharding
        >>> sharding.mesh_shape("fsdp=2")
        {'data': 1, 'fsdp': 2}
    """
    pairs = [part.strip().partition("=") for part in text.split(",")]
    shape = {name: int(count) for name, _, count in pairs if count.isdecimal() and int(count)}
    if len(shape) != len(pairs) or not set(shape) <= set(AXES):
        raise ValueError(
            f"a mesh of {text!r}: give a number of devices for 'data', for 'fsdp' or for both, "
            "such as data=4,fsdp=2."
        )
    return {"data": 1, **shape}


def size(shape: dict[str, int]) -> int:
    """Returns the number of devices of a mesh of this shape."""
    return math.prod(shape.values())


def make_mesh(shape: dict[str, int]) -> Mesh:
    """Returns a mesh of the first devices, across processes if it takes all devices.

    Args:
        shape: number of devices by axis, as from `mesh_shape`.

    Raises:
        ValueError: if there are fewer devices.
    """
    count, devices = size(shape), jax.devices()
    if count > len(devices):
        raise ValueError(f"a mesh of {shape} for {len(devices)} devices: they must be as many.")
    types = (AxisType.Auto,) * len(shape)
    return jax.make_mesh(
        tuple(shape.values()), tuple(shape), devices=devices[:count], axis_types=types
    )


def use_mesh(shape: dict[str, int] | None = None) -> None:
    """Makes a mesh over all devices of all processes the context mesh of later code.

    Args:
        shape: number of devices by axis, as from `mesh_shape`; by default all are "data".

    Raises:
        ValueError: if its size is not the number of devices.
    """
    count = jax.device_count()
    shape = shape or {"data": count}
    if size(shape) != count:
        raise ValueError(
            f"a mesh of {shape} for {count} devices in {jax.process_count()} processes: "
            "the product must be their number."
        )
    jax.set_mesh(make_mesh(shape))


def data_mesh(batch_size: int | None = None) -> Mesh:
    """Returns the context mesh; without one, a mesh of the available devices.

    Args:
        batch_size: without a context mesh, the mesh has the largest number of devices that
            divides it; None for all devices.

    Raises:
        ValueError: if `batch_size` is not a multiple of the context mesh's devices.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        count = jax.device_count()
        while batch_size is not None and batch_size % count:
            count -= 1
        return make_mesh({"data": count})
    if batch_size is not None and batch_size % mesh.size:
        raise ValueError(
            f"a batch of {batch_size} for {mesh.size} devices: give a multiple of {mesh.size}."
        )
    return mesh


def device_names() -> str:
    """Returns the number and the kind of the devices in words, such as "8 x TPU v4 (tpu)"."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"


class MemoryPlan(NamedTuple):
    """The memory that a compiled program needs on one device, in bytes.

    Attributes:
        arguments: memory of its arguments, such as state and batch.
        peak: peak memory, including the arguments.
        available: memory of the device; for a simulated one, its share of the machine's.
    """

    arguments: int
    peak: int
    available: int


def memory_plan(compiled: jax.stages.Compiled) -> MemoryPlan:
    """Returns the memory that `compiled` will need, as the compiler reports it."""
    found: Any = compiled.memory_analysis()
    given, made = found.argument_size_in_bytes, found.output_size_in_bytes
    peak = given + made - found.alias_size_in_bytes + found.temp_size_in_bytes
    device = jax.local_devices()[0]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
    return MemoryPlan(given, peak, (device.memory_stats() or {}).get("bytes_limit", machine))
