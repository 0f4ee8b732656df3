"""A step of persistent contrastive divergence (PCD) on images, for `benchmarks.energies`.

Chains continue from a replay buffer (or start from noise, one in twenty) by Langevin steps on a
convolutional energy. One step of Adam lowers the energy of the data and raises that of the
chains' ends. The network, `nets.ConvEnergy`, is four 4x4 convolutions of stride 2 with
silu, a linear head and a quadratic; both implementations hold the same weights:

    ebm_jax    `make_step` with the chains as its `prepare`: one compiled call, the buffer
               on the device and donated, chains split over as many simulated devices as
               cores. The step also updates the moving average (EMA) of the weights.
    PyTorch    the same in eager mode, with images and kernels in channels-last layout, no
               gradient of the weights while chains run, and the buffer as a tensor.

The energies of the data at the initial weights must match formulas in NumPy, and chains from
noise must decrease the energy.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import Job

RESTART_SHARE = 0.05


class Problem(NamedTuple):
    """A step on images of side x side x 1 in [-1, 1]."""

    side: int = 28
    batch: int = 64
    chain_steps: int = 60
    buffer: int = 8192
    channels: tuple[int, ...] = (32, 64, 64, 64)
    step_size: float = 0.01
    temperature: float = 0.01


PROBLEMS = {"persistent contrastive divergence": Problem()}


def implementations(problem: Problem) -> dict[str, Callable[[], Job]]:
    """Returns the implementations of this problem, by name."""
    return {"ebm_jax": partial(ebm_jax, problem), "PyTorch": partial(pytorch, problem)}


class Weights(NamedTuple):
    """Kernels (4, 4, inputs, outputs) and biases of the layers, and the head (features,)."""

    layers: list[tuple[np.ndarray, np.ndarray]]
    head: np.ndarray


def weights(problem: Problem) -> Weights:
    """Returns normal weights: standard deviation sqrt(2 / inputs) for kernels, .1 for biases."""
    rng, side, before, layers = np.random.default_rng(1), problem.side, 1, []
    for after in problem.channels:
        kernel = rng.standard_normal((4, 4, before, after)) * np.sqrt(2 / (16 * before))
        bias = 0.1 * rng.standard_normal(after)
        layers.append((kernel.astype(np.float32), bias.astype(np.float32)))
        before, side = after, -(-side // 2)
    return Weights(layers, rng.standard_normal(side * side * before, dtype=np.float32))


def images(problem: Problem, count: int, seed: int) -> np.ndarray:
    """Returns uniform noise in [-1, 1], of shape (count, side, side, 1)."""
    shape = (count, problem.side, problem.side, 1)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@cache
def expected(problem: Problem) -> tuple[float, ...]:
    """Returns the energies of the data at the initial weights, in double precision."""
    x = np.asarray(images(problem, problem.batch, 2), np.float64)
    net, h = weights(problem), x
    for kernel, bias in net.layers:
        odd = h.shape[1] % 2
        padded = np.pad(h, ((0, 0), (1, 1 + odd), (1, 1 + odd), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4), (1, 2))[:, ::2, ::2]
        a = np.einsum("nijcuv,uvco->nijo", windows, kernel, optimize=True) + bias
        h = a / (1 + np.exp(-a))
    quadratic = 0.5 * np.exp(-2.0) * np.sum(x**2, (1, 2, 3))
    return tuple(h.reshape(len(x), -1) @ net.head + quadratic)


def verdict(problem: Problem, rounds: list[dict[str, Any]]) -> str:
    """Returns what is wrong with the network or the chains, or "" if they are right."""
    truth = np.asarray(expected(problem))
    if not np.allclose(rounds[0]["energies"], truth, rtol=1e-3, atol=1e-3 * np.abs(truth).max()):
        return "wrong: another energy"
    if not rounds[0]["chain_energy"] < truth.mean():
        return "wrong: chains climbed"
    return ""


def ebm_jax(problem: Problem) -> Job:
    """This library."""
    import jax
    import jax.numpy as jnp
    import optax

    from ebm_jax import losses, samplers, sharding
    from ebm_jax.calculus import score_from_energy
    from ebm_jax.nets import ConvEnergy
    from ebm_jax.training import init_state, make_step, persistent_chains

    sharding.use_all_cores()
    net = ConvEnergy(problem.channels)
    shape = (problem.side, problem.side, 1)

    def draw(key: Any) -> Any:
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)

    def kernel_of(params: Any) -> samplers.Kernel:
        score = score_from_energy(partial(net.apply, params))
        options = {"step_size": problem.step_size, "temperature": problem.temperature}
        return samplers.boxed(samplers.ula(score, **options), -1.0, 1.0)

    chains = persistent_chains(
        kernel_of, draw, num_steps=problem.chain_steps, restart_share=RESTART_SHARE
    )

    def loss(params: Any, key: Any, pair: Any) -> Any:
        return losses.contrastive_divergence(partial(net.apply, params), *pair)

    optimizer = optax.adam(1e-4)
    step = jax.jit(make_step(loss, optimizer, prepare=chains), donate_argnums=0)
    mesh = sharding.data_mesh(problem.batch)
    data = sharding.split(images(problem, problem.batch, 2), mesh)
    dense = {f"HalvingConv_{i}": dict(zip(("kernel", "bias"), map(jnp.asarray, layer), strict=True))
             for i, layer in enumerate(weights(problem).layers)}  # fmt: skip
    head = {"kernel": jnp.asarray(weights(problem).head)[:, None], "bias": jnp.zeros(1)}
    params = {"params": {**dense, "Dense_0": head, "log_precision": jnp.float32(-2.0)}}

    def prepare(index: int) -> list[Any]:
        buffer = samplers.replay_buffer(jnp.asarray(images(problem, problem.buffer, 3)))
        own = jax.tree.map(jnp.array, params)
        return [sharding.replicate(init_state(own, optimizer, jax.random.key(index), buffer), mesh)]

    def compute(prepared: list[Any]) -> None:
        prepared[0], _ = jax.block_until_ready(step(prepared[0], data))

    @cache
    def check() -> dict[str, Any]:
        state = prepare(0)[0]
        after = step(state, data)[0].memory
        many = jax.jit(jax.vmap(partial(net.apply, params)))
        ends = after.x[np.asarray(after.age) > 0]
        return {"energies": many(data).tolist(), "chain_energy": float(many(ends).mean())}

    return Job(("jax", "jaxlib", "optax"), prepare, compute, lambda _: check())


def pytorch(problem: Problem) -> Job:
    """PyTorch in channels-last layout."""
    import torch
    from torch import nn

    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            side = problem.side
            for kernel, bias in weights(problem).layers:
                before, after = kernel.shape[2:]
                odd = side % 2
                layers += [nn.ZeroPad2d((1, 2, 1, 2))] if odd else []
                conv = nn.Conv2d(before, after, 4, 2, 0 if odd else 1)
                conv.weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
                conv.bias.data = torch.from_numpy(bias.copy())
                layers += [conv, nn.SiLU()]
                side = -(-side // 2)
            self.body = nn.Sequential(*layers)
            self.head = nn.Linear(side * side * after, 1)
            head = weights(problem).head.reshape(side, side, after).transpose(2, 0, 1)
            self.head.weight.data = torch.from_numpy(head.reshape(1, -1).copy())
            self.head.bias.data.zero_()
            self.log_precision = nn.Parameter(torch.tensor(-2.0))

        def forward(self, x: Any) -> Any:
            quadratic = 0.5 * self.log_precision.exp() * x.square().sum((1, 2, 3))
            return self.head(self.body(x).flatten(1))[:, 0] + quadratic

    noise_scale = (2 * problem.step_size * problem.temperature) ** 0.5

    def channels_last(x: Any) -> Any:
        return torch.as_tensor(x).movedim(-1, 1).contiguous(memory_format=torch.channels_last)

    def sample(net: Any, x: Any) -> Any:
        net.requires_grad_(False)
        noise = torch.empty_like(x)
        for _ in range(problem.chain_steps):
            x = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(net(x).sum(), x)
            with torch.no_grad():
                x = x - problem.step_size * gradient + noise_scale * noise.normal_()
                x = x.clamp_(-1, 1)
        net.requires_grad_(True)
        return x.detach()

    data = channels_last(images(problem, problem.batch, 2))

    def prepare(index: int) -> tuple[Any, Any, Any]:
        torch.manual_seed(index)
        net = Energy().to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(net.parameters(), 1e-4)
        return net, optimizer, channels_last(images(problem, problem.buffer, 3))

    def compute(prepared: tuple[Any, Any, Any]) -> Any:
        net, optimizer, buffer = prepared
        places = torch.randperm(problem.buffer)[: problem.batch]
        fresh = torch.rand(problem.batch, 1, 1, 1) < RESTART_SHARE
        x = buffer[places]
        x = sample(net, torch.where(fresh, torch.rand_like(x) * 2 - 1, x))
        buffer[places] = x
        optimizer.zero_grad()
        (net(data) - net(x)).mean().backward()
        optimizer.step()
        return x

    @cache
    def check() -> dict[str, Any]:
        prepared = prepare(0)
        ends = compute(prepared)
        with torch.no_grad():
            net = prepare(0)[0]
            return {"energies": net(data).tolist(), "chain_energy": float(net(ends).mean())}

    return Job(("torch",), prepare, compute, lambda _: check())
