"""One implementation of the DDPM U-Net of `benchmarks.diffusion`, in its own process."""

import json
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import Job, serve

LEARNING_RATE = 2e-4
CHECKED_STEPS = 4  # steps over which the loss must fall


class Problem(NamedTuple):
    """A training step on `batch` images, or `steps` steps of DDIM if `steps` is positive."""

    batch: int = 16
    base: int = 64
    steps: int = 0


def images(problem: Problem) -> np.ndarray:
    """Returns smooth color gradients in [-1, 1], of shape (batch, 32, 32, 3)."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(-1, 1, (problem.batch, 2, 2, 3))
    ramp = np.stack([np.linspace(1, 0, 32), np.linspace(0, 1, 32)])
    return np.einsum("nabc,ah,bw->nhwc", corners, ramp, ramp).astype(np.float32)


def ebm_jax(problem: Problem) -> Job:
    """This library: `make_step` and `samplers.sample`, the batch split over simulated devices."""
    import jax
    import jax.numpy as jnp
    import optax

    from ebm_jax import losses, noise, samplers, sharding
    from ebm_jax.nets import UNet, precondition
    from ebm_jax.training import init_state, make_step

    sharding.use_all_cores()
    net = UNet(problem.base, dropout=0.0)
    mesh = sharding.data_mesh(problem.batch)
    data = sharding.split(images(problem), mesh)
    process, sigmas = noise.vp(), noise.ddpm_levels()

    def denoiser(params: Any) -> Any:
        return precondition.vp(partial(net.apply, params))

    def loss(params: Any, key: Any, x: Any) -> Any:
        key_level, key_noise = jax.random.split(key)
        sigma = noise.draw_uniform(key_level, sigmas)
        return losses.noise_conditional(denoiser(params), key_noise, x, sigma) / x.size

    optimizer = optax.adam(LEARNING_RATE)
    like = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)
    params = net.lazy_init(jax.random.key(0), like, 0.0)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    step = jax.jit(make_step(loss, optimizer), donate_argnums=0)

    def fresh() -> Any:
        own = jax.tree.map(jnp.array, params)
        return sharding.replicate(init_state(own, optimizer, jax.random.key(1)), mesh)

    times = noise.uniform_times(process, max(problem.steps, 1), t_min=1e-3)

    def draw(params: Any, key: Any) -> Any:
        return samplers.sample(
            samplers.ddim(process), denoiser(params), key, jnp.zeros((32, 32, 3)), times,
            final_denoise=False,
        )  # fmt: skip

    many = jax.jit(jax.vmap(draw, (None, 0)))
    keys = sharding.split(jax.random.split(jax.random.key(2), problem.batch), mesh)
    trained = [fresh()]

    def compute(_: Any) -> None:
        if problem.steps:
            jax.block_until_ready(many(trained[0].params, keys))
        else:
            trained[0], _ = jax.block_until_ready(step(trained[0], data))

    @cache
    def check() -> dict[str, Any]:
        state, losses = fresh(), []
        for _ in range(CHECKED_STEPS):
            state, metrics = step(state, data)
            losses.append(float(metrics["loss"]))
        compiled = (
            many.lower(trained[0].params, keys) if problem.steps else step.lower(state, data)
        ).compile()
        per_device = (compiled.cost_analysis() or {}).get("flops", 0.0)
        operations = per_device * mesh.size * max(problem.steps, 1)  # XLA counts a scan's body once
        figures = {"parameters": count, "start": losses[0], "end": losses[-1]}
        return figures | {"operations": operations, "peak_speed": matmul_speed()}

    def matmul_speed() -> float:
        """Returns operations per second of a large matmul on every device at once."""
        side = 2048
        x = sharding.split(jnp.ones((mesh.size, side, side)), mesh)
        product = jax.jit(lambda x: x @ x)
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            jax.block_until_ready(product(x))
            seconds.append(time.perf_counter() - start)
        return 2 * side**3 * mesh.size / median(seconds[1:])

    return Job(("jax", "jaxlib", "flax", "optax"), lambda _: None, compute, lambda _: check())


def diffusers(problem: Problem) -> Job:
    """diffusers' UNet2DModel in PyTorch, channels-last, with its DDIM scheduler."""
    import torch
    from diffusers import DDIMScheduler, UNet2DModel

    wide = 2 * problem.base
    torch.manual_seed(0)

    def network() -> Any:
        net = UNet2DModel(
            sample_size=32, block_out_channels=(problem.base, wide, wide, wide),
            layers_per_block=2, norm_num_groups=min(32, problem.base), attention_head_dim=None,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        return net.to(memory_format=torch.channels_last)

    scheduler = DDIMScheduler(1000)
    abar = scheduler.alphas_cumprod

    def channels_last(x: Any) -> Any:
        return torch.as_tensor(x).movedim(-1, 1).contiguous(memory_format=torch.channels_last)

    data = channels_last(images(problem))

    def fresh() -> tuple[Any, Any, list[Any]]:
        net = network()
        parameters = [p.detach().clone() for p in net.parameters()]
        return net, torch.optim.Adam(net.parameters(), LEARNING_RATE), parameters

    def step(net: Any, optimizer: Any, average: list[Any]) -> float:
        t = torch.randint(0, 1000, (problem.batch,))
        noise = torch.randn_like(data)
        a = abar[t].sqrt()[:, None, None, None]
        noisy = a * data + (1 - a**2).sqrt() * noise
        loss = torch.nn.functional.mse_loss(net(noisy, t).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(net.parameters()), 0.001)
        return loss.item()

    trained = fresh()

    def compute(_: Any) -> None:
        if not problem.steps:
            step(*trained)
            return
        scheduler.set_timesteps(problem.steps)
        with torch.no_grad():
            x = torch.randn_like(data)
            for t in scheduler.timesteps:
                x = scheduler.step(trained[0](x, t).sample, t, x).prev_sample

    @cache
    def check() -> dict[str, Any]:
        state = fresh()
        losses = [step(*state) for _ in range(CHECKED_STEPS)]
        count = sum(p.numel() for p in state[0].parameters())
        return {"parameters": count, "start": losses[0], "end": losses[-1]}

    return Job(("torch", "diffusers"), lambda _: None, compute, lambda _: check())


IMPLEMENTATIONS: dict[str, Callable[[Problem], Job]] = {"ebm_jax": ebm_jax, "diffusers": diffusers}


def main() -> None:
    """Serves the implementation named first, on the problem given second as JSON."""
    problem = Problem(**json.loads(sys.argv[2]))
    serve(partial(IMPLEMENTATIONS[sys.argv[1]], problem))


if __name__ == "__main__":
    main()
