"""Metropolis samplers for `benchmarks.energies`: random walk, MALA and HMC on two planar targets.

The targets are the mixture of eight Gaussians on a circle, and exp(-E) of an MLP with random
weights. Every implementation runs the same transition with the same step size on the same number
of chains, from the same start, and keeps only the last points. Each is called as in its
documentation, in its fastest form:

    ebm_jax    `run` of the kernel under `jax.vmap` and one `jax.jit`, with chains split over
               as many simulated devices as cores; `targets.eight_gaussians` or `EnergyMLP`.
    blackjax   the documented loop over many chains (a scan of a vmapped step, with keys split
               at every step) under one `jax.jit`, split over the same devices; the mixture's
               energy is the textbook logsumexp, or that of ebm_jax where stated.
    torchebm   `HamiltonianMonteCarlo`; it has neither of the others.
    ebmkit     `MALA` and `HMC`; it has no random walk.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.energies import networks
from benchmarks.energies.laws import MEANS, RADIUS, SCALE, WEIGHTS, Problem, judge, start, verdict
from benchmarks.harness import Job

__all__ = ["PROBLEMS", "Problem", "implementations", "verdict"]

PROBLEMS = {
    f"{sampler}, {law} ({steps} steps)": Problem(sampler, law, step_size, steps)
    for sampler, law, step_size, steps in [
        ("random walk", "mixture", 0.5, 1000),
        ("mala", "mixture", 0.08, 1000),
        ("hmc", "mixture", 0.25, 100),
        ("random walk", "mlp", 1.0, 200),
        ("mala", "mlp", 0.4, 100),
        ("hmc", "mlp", 0.5, 20),
    ]
}


def implementations(problem: Problem) -> dict[str, Callable[[], Job]]:
    """Returns the implementations of this problem, by name."""
    found = {"ebm_jax": ebm_jax, "blackjax": blackjax}
    if problem.law == "mixture":
        found["blackjax, ebm_jax's energy"] = partial(blackjax, ours=True)
    if problem.sampler != "random walk":
        found["ebmkit"] = ebmkit
    if problem.sampler == "hmc":
        found["torchebm"] = torchebm
    return {name: partial(make, problem) for name, make in found.items()}


def _chain_job(
    problem: Problem,
    place: Callable[[int, np.ndarray], Any],
    compute: Callable[[Any], Any],
    *names: str,
) -> Job:
    """Returns a job whose `compute(place(round, start))` returns the last points of the chains."""
    begin: list[np.ndarray] = []

    def prepare(index: int) -> Any:
        begin[:] = [start(problem, index)]
        return place(index, begin[0])

    return Job(names, prepare, compute, lambda end: judge(problem, begin[0], end))


def ebm_jax(problem: Problem) -> Job:
    """This library."""
    import jax
    import jax.numpy as jnp

    from ebm_jax import samplers, sharding
    from ebm_jax.keys import example_keys
    from ebm_jax.nets import EnergyMLP
    from ebm_jax.targets import eight_gaussians

    sharding.use_all_cores()
    energy_fn: Any = eight_gaussians(radius=RADIUS, scale=SCALE).energy
    if problem.law == "mlp":
        energy_fn = partial(EnergyMLP((128, 128)).apply, networks.jax_params(WEIGHTS))
    options: dict[str, Any] = {"step_size": problem.step_size}
    if problem.sampler == "hmc":
        options["num_leapfrog"] = problem.leapfrog
    kernel = getattr(samplers, problem.sampler.replace(" ", "_"))(energy_fn, **options)

    def one_chain(key: Any, x: Any) -> Any:
        return samplers.run(kernel, key, kernel.init(x), problem.steps)[0].x

    @jax.jit
    def sample(key: Any, x: Any) -> Any:
        return jax.vmap(one_chain)(example_keys(key, jnp.arange(problem.chains)), x)

    return _jax_job(problem, sample, "jax", "jaxlib")


def blackjax(problem: Problem, *, ours: bool = False) -> Job:
    """blackjax; `ours` gives it the energy of `targets.eight_gaussians`."""
    import jax
    import jax.numpy as jnp

    from ebm_jax import sharding
    from ebm_jax.targets import eight_gaussians

    sharding.use_all_cores()
    import blackjax  # not earlier: its import runs JAX, which fixes the number of devices

    layers = [(jnp.asarray(kernel), jnp.asarray(bias)) for kernel, bias in WEIGHTS.layers]
    means = jnp.asarray(MEANS)

    def log_density(x: Any) -> Any:
        if problem.law == "mixture":
            return jax.nn.logsumexp(-jnp.sum((x - means) ** 2, -1) / (2 * SCALE**2))
        *hidden, (head, offset) = layers
        h = x
        for kernel, bias in hidden:
            h = jax.nn.silu(h @ kernel + bias)
        return -(h @ head + offset)[0] - 0.5 * np.exp(WEIGHTS.log_precision) * jnp.sum(x**2)

    if ours:
        energy_fn: Any = eight_gaussians(radius=RADIUS, scale=SCALE).energy
        log_density = lambda x: -energy_fn(x)  # noqa: E731
    if problem.sampler == "random walk":
        proposal = blackjax.mcmc.random_walk.normal(jnp.full(2, problem.step_size))
        sampler = blackjax.additive_step_random_walk(log_density, proposal)
    elif problem.sampler == "mala":
        sampler = blackjax.mala(log_density, problem.step_size)
    else:
        ones = jnp.ones(2)
        sampler = blackjax.hmc(log_density, problem.step_size, ones, problem.leapfrog)

    @jax.jit
    def sample(key: Any, x: Any) -> Any:
        def step(states: Any, key: Any) -> tuple[Any, None]:
            return jax.vmap(sampler.step)(jax.random.split(key, problem.chains), states)[0], None

        states = jax.vmap(sampler.init)(x)
        return jax.lax.scan(step, states, jax.random.split(key, problem.steps))[0].position

    return _jax_job(problem, sample, "blackjax", "jax", "jaxlib")


def _jax_job(problem: Problem, sample: Callable[..., Any], *names: str) -> Job:
    import jax

    from ebm_jax import sharding

    mesh = sharding.data_mesh(problem.chains)

    def place(index: int, x: np.ndarray) -> tuple[Any, Any]:
        return sharding.replicate(jax.random.key(index), mesh), sharding.split(x, mesh)

    return _chain_job(problem, place, lambda placed: jax.block_until_ready(sample(*placed)), *names)


def torchebm(problem: Problem) -> Job:
    """torchebm's Hamiltonian Monte Carlo (HMC)."""
    from torchebm.samplers import HamiltonianMonteCarlo

    model = networks.torchebm_energy(_torch_energy(problem.law))
    sampler = HamiltonianMonteCarlo(
        model, step_size=problem.step_size, n_leapfrog_steps=problem.leapfrog
    )
    return _torch_job(problem, lambda x: sampler.sample(x=x, n_steps=problem.steps), "torchebm")


def ebmkit(problem: Problem) -> Job:
    """ebmkit's MALA and Hamiltonian Monte Carlo (HMC)."""
    import ebm

    energy_fn = _torch_energy(problem.law)
    options: dict[str, Any] = {"step_size": problem.step_size, "steps": problem.steps}
    if problem.sampler == "hmc":
        sampler = ebm.samplers.HMC(leapfrog_steps=problem.leapfrog, **options)
    else:
        sampler = ebm.samplers.MALA(**options)
    return _torch_job(problem, partial(sampler.sample, energy_fn), "ebmkit")


def _torch_energy(law: str) -> Any:
    import torch

    if law == "mlp":
        return networks.torch_energy(WEIGHTS).requires_grad_(False)
    means = torch.from_numpy(MEANS)

    class Mixture(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return -torch.logsumexp(-((x[:, None] - means) ** 2).sum(-1) / (2 * SCALE**2), -1)

    return Mixture()


def _torch_job(problem: Problem, sample: Callable[[Any], Any], name: str) -> Job:
    import torch

    def place(index: int, x: np.ndarray) -> Any:
        torch.manual_seed(index)
        return torch.from_numpy(x)

    return _chain_job(problem, place, sample, name, "torch")
