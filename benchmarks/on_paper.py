"""Estimates what a recipe needs on machines that are not at hand: the tables of docs/scale.md.

    python -m benchmarks.on_paper

Three numbers are counted from the program, without running it: parameters; operations of the loss
and its gradient per image (XLA's count for the lowered program); and bytes that the forward pass
keeps per image for the gradient (JAX's list of saved values, with and without `remat`). With the
vendor's specification of a machine they give the memory of a device, the bytes that it sends per
step, and the time of sending and of computing, at an assumed share of peak speed. It takes two
minutes.
"""

import contextlib
import io
import re
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import print_saved_residuals

from benchmarks import harness
from ebm_jax import nets, recipes
from ebm_jax.nets import UNet
from ebm_jax.recipes import DiffusionRecipe

SAVED = re.compile(r"^(f32|bf16|f16|i32|u32|bool)\[([\d,]*)\] (?!from the argument)", re.MULTILINE)
BYTES = {"f32": 4, "i32": 4, "u32": 4, "bf16": 2, "f16": 2, "bool": 1}
SHARE = 0.35  # of peak speed that convolutions reach; an assumption, to be measured
STATE = 16  # bytes per parameter: itself, Adam's two moments and the EMA, in float32


class Count(NamedTuple):
    """Counts of one recipe per image; see the module."""

    parameters: int
    operations: float
    kept: int
    kept_with_remat: int


class Machine(NamedTuple):
    """`devices` of one kind: bytes of memory, operations/s in bfloat16, bytes/s sent by each."""

    name: str
    devices: int
    memory: float
    speed: float
    link: float


# Specifications: NVIDIA H100 SXM data sheet (989 TFLOP/s bf16 dense, 80 GB, NVLink 900 GB/s in
# both directions); Google Cloud TPU v5e (197 TFLOP/s bf16, 16 GB, 1,600 Gbit/s between chips).
MACHINES = (
    Machine("8 H100", 8, 80e9, 989e12, 450e9),
    Machine("256 TPU v5e", 256, 16e9, 197e12, 100e9),
)


def large_recipe() -> DiffusionRecipe:
    """DDPM's network for 256x256 (arXiv:2006.11239, app. B): six resolutions, 114M parameters."""
    net = UNet(multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0)
    return recipes.recipe("ddpm/cifar10")._replace(net=net, batch_size=64, num_steps=500_000)


def count(recipe: DiffusionRecipe, side: int) -> Count:
    """Counts parameters, operations and kept bytes for the gradient of the loss of one image."""
    recipe = recipe._replace(net=recipe.net.clone(dtype=jnp.bfloat16))
    like = jax.ShapeDtypeStruct((side, side, 3), jnp.float32)
    start = partial(nets.initial_parameters, recipe.net, recipe.wrap)
    params = jax.eval_shape(start, jax.random.key(0), like)
    image = jax.ShapeDtypeStruct((side, side, 3), jnp.uint8), jnp.float32(1.0)

    def value(params: Any, image: Any, recipe: DiffusionRecipe = recipe) -> Any:
        return recipe.loss(params, jax.random.key(0), image)

    lowered = jax.jit(jax.grad(value)).lower(params, image)
    remat = recipe._replace(net=recipe.net.clone(remat=True))
    return Count(
        sum(leaf.size for leaf in jax.tree.leaves(params)),
        (lowered.cost_analysis() or {})["flops"],
        kept(value, params, image),
        kept(partial(value, recipe=remat), params, image),
    )


def kept(value: Any, *args: Any) -> int:
    """Returns the bytes that the forward pass keeps for the gradient, without the arguments."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        print_saved_residuals(value, *args)
    found = SAVED.findall(text.getvalue())
    return sum(BYTES[t] * prod(int(n) for n in sizes.split(",") if n) for t, sizes in found)


def plan(machine: Machine, counted: Count, batch: int) -> list[list[str]]:
    """Returns rows of the table: data parallelism, and FSDP with and without remat."""
    n, images = machine.devices, -(-batch // machine.devices)
    rows = []
    for way, fsdp, remat in (("data", 1, False), ("fsdp", n, False), ("fsdp, remat", n, True)):
        state = STATE * counted.parameters / fsdp
        whole = 4 * counted.parameters  # the gradient, or the parameters once gathered
        work = images * (counted.kept_with_remat if remat else counted.kept)
        work += whole if fsdp == 1 else 2 * whole
        sent = 2 * (n - 1) / n * whole  # gradients twice, or gradients and parameters once each
        operations = images * counted.operations * (4 / 3 if remat else 1)
        seconds = operations / (SHARE * machine.speed)
        rows.append(
            [
                machine.name,
                way,
                str(images),
                f"{state / 1e9:.2f}",
                f"{work / 1e9:.2f}",
                f"{100 * (state + work) / machine.memory:.0f}",
                f"{sent / 1e9:.2f}",
                f"{1e3 * sent / machine.link:.2f}",
                f"{1e3 * seconds:.2f}",
                f"{images * n / seconds:.0f}",
            ]
        )
    return rows


def main() -> None:
    """Counts both recipes and prints the tables."""
    given = {
        "ddpm/cifar10": (recipes.recipe("ddpm/cifar10"), 32),
        "ddpm, 256x256": (large_recipe(), 256),
    }
    head = ["machine", "way", "images", "state GB", "work GB", "of memory %", "sends GB"]
    head += ["sends ms", "computes ms", "images/s"]
    for name, (recipe, side) in given.items():
        counted = count(recipe, side)
        say = f"\n{name}: {counted.parameters / 1e6:.1f}M parameters, "
        say += f"{counted.operations / 1e9:.0f} GFLOP an image and step; kept of an image "
        say += f"{counted.kept / 1e6:.0f} MB, with remat {counted.kept_with_remat / 1e6:.0f} MB"
        print(f"{say}; published batch {recipe.batch_size}\n")
        rows = [
            row
            for batch in (recipe.batch_size, 2048)
            for machine in MACHINES
            for row in plan(machine, counted, batch)
        ]
        print(harness.table(head, rows))


if __name__ == "__main__":
    main()
