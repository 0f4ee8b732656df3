"""One implementation of Langevin dynamics on the mixture of eight Gaussians, to be timed.

Every implementation runs x' = x + h s(x) + sqrt(2 h) n on the same distribution with the same h,
number of chains and steps, from the same start, and keeps only the last points. Each is called
as in its documentation, in its fastest form:

    ebm_jax    `run` of `ula` under `jax.vmap` and one `jax.jit`, with chains split over as many
               simulated devices as cores (as in its experiments on a CPU) and one key per
               chain. Energy and score are those of `targets.eight_gaussians`.
    blackjax   `blackjax.sgld`, its unadjusted (overdamped) Langevin dynamics, whose gradient
               estimator is the exact gradient here; the documented loop over many chains
               (a scan of a vmapped step, with keys split at every step) under one `jax.jit`,
               split over the same simulated devices, which makes it faster. The energy is
               the textbook logsumexp, the score the textbook softmax of it; "ebm_jax's
               score" is blackjax with the score of `targets.eight_gaussians`.
    torchebm   `LangevinDynamics` with its default Euler-Maruyama step; the energy is a
               `BaseModel`, the score overrides its `gradient`.
    ebmkit     `LangevinDynamics` with its own `GaussianMixtureEnergy`; it takes no score.

"noise" is ebm_jax with a score of 0. It is the floor, since every step needs its noise. Imports
are inside the functions: a process loads only the library that it times.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import Job, serve


class Problem(NamedTuple):
    """A mixture of eight equal Gaussians on a circle, and the chains to run on it."""

    chains: int = 4096
    steps: int = 1000
    step_size: float = 0.01
    radius: float = 2.83
    scale: float = 0.35

    def means(self) -> np.ndarray:
        """Returns the means of the Gaussians, of shape (8, 2)."""
        angles = np.arange(8) * np.pi / 4
        return (self.radius * np.stack([np.cos(angles), np.sin(angles)], -1)).astype(np.float32)

    def start(self, index: int) -> np.ndarray:
        """Returns the initial states of the chains in round `index`, from N(0, I)."""
        generator = np.random.default_rng(index)
        return generator.standard_normal((self.chains, 2), dtype=np.float32)


def judge(problem: Problem, x: Any) -> dict[str, Any]:
    """Returns the number of chains at each Gaussian, and their mean squared distance from it."""
    squares = np.sum((np.asarray(x, np.float64)[:, None] - problem.means()) ** 2, -1)
    nearest = np.min(squares, -1)
    counts = np.bincount(np.argmin(squares, -1), minlength=8)
    return {"counts": counts.tolist(), "square": float(nearest.mean()), "chains": len(nearest)}


def ebm_jax(problem: Problem, gradient: str) -> Job:
    """This library; `gradient` is "score", "energy" or "noise"."""
    import jax
    import jax.numpy as jnp

    from ebm_jax import sharding
    from ebm_jax.calculus import score_from_energy
    from ebm_jax.keys import example_keys
    from ebm_jax.samplers import run, ula
    from ebm_jax.targets import eight_gaussians

    sharding.use_all_cores()
    target = eight_gaussians(radius=problem.radius, scale=problem.scale)
    assert target.score is not None
    assert target.energy is not None
    scores = {
        "score": target.score,
        "energy": score_from_energy(target.energy),
        "noise": jnp.zeros_like,
    }
    kernel = ula(scores[gradient], step_size=problem.step_size)

    def one_chain(key: Any, x: Any) -> Any:
        return run(kernel, key, kernel.init(x), problem.steps)[0].x

    @jax.jit
    def sample(key: Any, x: Any) -> Any:
        return jax.vmap(one_chain)(example_keys(key, jnp.arange(problem.chains)), x)

    return _jax_job(problem, sample, ("jax", "jaxlib"))


def blackjax(problem: Problem, gradient: str) -> Job:
    """blackjax's unadjusted Langevin; `gradient` is "score", "energy" or "ebm_jax's score"."""
    import jax
    import jax.numpy as jnp

    from ebm_jax import sharding
    from ebm_jax.targets import eight_gaussians

    sharding.use_all_cores()
    import blackjax  # not earlier: its import runs JAX, which fixes the number of devices

    means, variance = jnp.asarray(problem.means()), problem.scale**2

    def log_density(x: Any) -> Any:
        return jax.nn.logsumexp(-jnp.sum((x - means) ** 2, -1) / (2 * variance))

    def score(x: Any) -> Any:
        weights = jax.nn.softmax(-jnp.sum((x - means) ** 2, -1) / (2 * variance))
        return (weights @ means - x) / variance

    scores: dict[str, Any] = {
        "score": score,
        "energy": jax.grad(log_density),
        "ebm_jax's score": eight_gaussians(radius=problem.radius, scale=problem.scale).score,
    }
    sgld = blackjax.sgld(lambda x, _: scores[gradient](x))

    @jax.jit
    def sample(key: Any, x: Any) -> Any:
        def step(x: Any, key: Any) -> tuple[Any, None]:
            keys = jax.random.split(key, problem.chains)
            return jax.vmap(lambda k, x: sgld.step(k, x, None, problem.step_size))(keys, x), None

        return jax.lax.scan(step, x, jax.random.split(key, problem.steps))[0]

    return _jax_job(problem, sample, ("blackjax", "jax", "jaxlib"))


def _jax_job(problem: Problem, sample: Callable[..., Any], packages: tuple[str, ...]) -> Job:
    import jax

    from ebm_jax import sharding

    mesh = sharding.data_mesh(problem.chains)

    def prepare(index: int) -> tuple[Any, Any]:
        key = sharding.replicate(jax.random.key(index), mesh)
        return key, sharding.split(problem.start(index), mesh)

    def compute(prepared: tuple[Any, Any]) -> Any:
        return jax.block_until_ready(sample(*prepared))

    return Job(packages, prepare, compute, partial(judge, problem))


def torchebm(problem: Problem, gradient: str) -> Job:
    """torchebm's Langevin sampler; `gradient` is "score" or "energy"."""
    import torch
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    means, variance = torch.from_numpy(problem.means()), problem.scale**2

    class Mixture(BaseModel):
        def forward(self, x: Any) -> Any:
            squares = ((x[:, None] - means) ** 2).sum(-1)
            return -torch.logsumexp(-squares / (2 * variance), -1)

    class MixtureWithScore(Mixture):
        def gradient(self, x: Any) -> Any:
            squares = ((x[:, None] - means) ** 2).sum(-1)
            return (x - torch.softmax(-squares / (2 * variance), -1) @ means) / variance

    model = {"score": MixtureWithScore, "energy": Mixture}[gradient]()
    sampler = LangevinDynamics(model, step_size=problem.step_size)
    return _torch_job(problem, lambda x: sampler.sample(x=x, n_steps=problem.steps), "torchebm")


def ebmkit(problem: Problem, gradient: str) -> Job:
    """ebmkit's Langevin sampler; `gradient` is "energy"."""
    import ebm
    import torch

    energy = ebm.nets.GaussianMixtureEnergy(torch.from_numpy(problem.means()), std=problem.scale)
    sampler = ebm.LangevinDynamics(step_size=problem.step_size, steps=problem.steps)
    return _torch_job(problem, lambda x: sampler.sample(energy, x), "ebmkit")


def _torch_job(problem: Problem, sample: Callable[[Any], Any], package: str) -> Job:
    import torch

    def prepare(index: int) -> Any:
        torch.manual_seed(index)
        return torch.from_numpy(problem.start(index))

    return Job((package, "torch"), prepare, sample, partial(judge, problem))


IMPLEMENTATIONS: dict[str, tuple[Callable[[Problem, str], Job], str]] = {
    "ebm_jax, score": (ebm_jax, "score"),
    "ebm_jax, energy": (ebm_jax, "energy"),
    "blackjax, score": (blackjax, "score"),
    "blackjax, energy": (blackjax, "energy"),
    "blackjax, ebm_jax's score": (blackjax, "ebm_jax's score"),
    "torchebm, score": (torchebm, "score"),
    "torchebm, energy": (torchebm, "energy"),
    "ebmkit, energy": (ebmkit, "energy"),
    "ebm_jax, noise": (ebm_jax, "noise"),
}


def main() -> None:
    """Serves the implementation named first, on the problem given second as JSON."""
    implementation, gradient = IMPLEMENTATIONS[sys.argv[1]]
    serve(lambda: implementation(Problem(**json.loads(sys.argv[2])), gradient))


if __name__ == "__main__":
    main()
