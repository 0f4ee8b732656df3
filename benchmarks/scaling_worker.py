"""The training step of `benchmarks.scaling` on one mesh, in its own process."""

import json
import re
import sys
from functools import cache, partial
from math import prod
from typing import Any, NamedTuple

from benchmarks.diffusion_worker import LEARNING_RATE, images
from benchmarks.diffusion_worker import Problem as Images
from benchmarks.harness import Job, serve

CHECKED_STEPS = 3
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
SHAPE = re.compile(r"(pred|[suf]\d+|bf16)\[([\d,]*)\]")


class Problem(NamedTuple):
    """A step of the U-Net of `benchmarks.diffusion` on one batch, for any mesh."""

    batch: int = 16
    base: int = 64


def collective_bytes(program: str) -> dict[str, int]:
    """Returns the bytes of the results of a compiled program's collectives per device, by kind."""
    found: dict[str, int] = {}
    for shapes, kind in COLLECTIVE.findall(program):
        for dtype, sizes in SHAPE.findall(shapes):
            bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
            count = prod(int(size) for size in sizes.split(",") if size)
            found[kind] = found.get(kind, 0) + count * bits // 8
    return found


def make_job(mesh_text: str, problem: Problem) -> Job:
    """Returns the step on simulated devices: noise-conditional loss, Adam, and EMA."""
    import jax
    import jax.numpy as jnp
    import optax

    from ebm_jax import losses, noise, sharding
    from ebm_jax.nets import UNet, precondition
    from ebm_jax.training import init_state, make_step

    shape = sharding.mesh_shape(mesh_text)
    sharding.use_all_cores(sharding.size(shape))
    mesh = sharding.make_mesh(shape)
    net, sigmas = UNet(problem.base, dropout=0.0), noise.ddpm_levels()
    data = sharding.split(images(Images(problem.batch)), mesh)

    def loss(params: Any, key: Any, x: Any) -> Any:
        key_level, key_noise = jax.random.split(key)
        sigma = noise.draw_uniform(key_level, sigmas)
        denoise = precondition.vp(partial(net.apply, sharding.gather(params, mesh)))
        return losses.noise_conditional(denoise, key_noise, x, sigma) / x.size

    optimizer = optax.adam(LEARNING_RATE)
    params = net.lazy_init(jax.random.key(0), jax.ShapeDtypeStruct((32, 32, 3), jnp.float32), 0.0)

    def fresh() -> Any:
        own = jax.tree.map(jnp.array, params)
        state = init_state(own, optimizer, jax.random.key(1))
        return sharding.place_parameters(state, mesh)

    state = fresh()
    placement = jax.tree.map(lambda leaf: leaf.sharding, state), state.step.sharding
    jitted = jax.jit(make_step(loss, optimizer), donate_argnums=0, out_shardings=placement)
    step = jitted.lower(state, data).compile()
    plan = sharding.memory_plan(step)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state._replace(key=state.step)))
    trained = [state]

    def compute(_: Any) -> None:
        trained[0], _ = jax.block_until_ready(step(trained[0], data))

    @cache
    def check() -> dict[str, Any]:
        state, found = fresh(), []
        for _ in range(CHECKED_STEPS):
            state, metrics = step(state, data)
            found.append(float(metrics["loss"]))
        return {
            "losses": found,
            "whole_state": whole,
            "state": plan.arguments - data.nbytes // mesh.size,
            "peak": plan.peak,
            "collectives": collective_bytes(step.as_text() or ""),
        }

    return Job(("jax", "jaxlib", "flax", "optax"), lambda _: None, compute, lambda _: check())


if __name__ == "__main__":
    serve(lambda: make_job(sys.argv[1], Problem(**json.loads(sys.argv[2]))))
