"""Placement of arrays on devices; no other package names a device.

A mesh has an axis "data" and may have an axis "fsdp". Batches, chains and replay buffers are split
over both, so that every device works on its own examples. Parameters, their moving average and the
optimizer's state are replicated along "data" and split along "fsdp", each array along its longest
axis that divides evenly. Between uses a device holds only a part of them; `gather` assembles an
array where a loss needs it (FSDP, or ZeRO stage 3, arXiv:1910.02054). The program is the same on
any mesh, and so are its results, up to round-off.

`use_mesh` sets JAX's own context mesh (`jax.set_mesh`), which `data_mesh` then returns. Without
one, `data_mesh` uses the available devices.
"""

from jax.sharding import Mesh

from ebm_jax.sharding.mesh import (
    MemoryPlan,
    data_mesh,
    device_names,
    make_mesh,
    memory_plan,
    mesh_shape,
    size,
    use_all_cores,
    use_mesh,
)
from ebm_jax.sharding.placement import (
    fetch,
    gather,
    partition,
    place_parameters,
    replicate,
    split,
    split_or_copy,
    spread,
)

__all__ = [
    "MemoryPlan",
    "Mesh",
    "data_mesh",
    "device_names",
    "fetch",
    "gather",
    "make_mesh",
    "memory_plan",
    "mesh_shape",
    "partition",
    "place_parameters",
    "replicate",
    "size",
    "split",
    "split_or_copy",
    "spread",
    "use_all_cores",
    "use_mesh",
]
