"""Training steps of score matching for `benchmarks.energies`.

One step of Adam on an MLP energy, from one batch: exact, sliced (one slice) or denoising score
matching. Every implementation trains the same weights on the same data, and is called as in its
documentation, in its fastest form:

    ebm_jax    `make_step` in one compiled scan, as `fit` runs it; the losses of an
               `EnergyMLP` that computes its own derivatives, and those of any energy where
               stated. A step also updates the moving average (EMA) of the weights and the
               gradient norm. It runs on one device, whose matmuls use all cores; for the
               exact loss, which is mostly not matmuls, the batch is split over as many
               simulated devices as cores.
    torchebm   `ScoreMatching` (exact), `SlicedScoreMatching` (Rademacher),
               `DenoisingScoreMatching`, and torch's Adam.
    ebmkit     `ExactScoreMatching`, `SlicedScoreMatching` (variance-reduced, Gaussian),
               `DenoisingScoreMatching`, and torch's Adam.

The mean of each loss at the initial weights must match formulas in double precision. Slices are
unbiased, so the sliced loss has the mean of the exact one. The other libraries' denoising losses
are ours divided by sigma^2.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.energies import networks
from benchmarks.harness import Job

SIGMA = 0.5
DRAWS = 200  # evaluations of a random loss, whose mean is checked


class Problem(NamedTuple):
    """A `loss`, "exact", "sliced" or "denoising"; one call makes `steps` training steps."""

    loss: str
    dimension: int
    steps: int = 10
    batch: int = 128
    widths: tuple[int, ...] = (256, 256, 256)


PROBLEMS = {
    f"{loss}, d = {dimension} ({steps} steps)": Problem(loss, dimension, steps)
    for loss, steps in (("exact", 1), ("sliced", 10), ("denoising", 10))
    for dimension in (2, 64, 784)
}


def implementations(problem: Problem) -> dict[str, Callable[[], Job]]:
    """Returns the implementations of this problem, by name."""
    found: dict[str, Callable[[Problem], Job]] = {"ebm_jax": ebm_jax}
    if problem.loss != "denoising":
        found["ebm_jax, any energy"] = partial(ebm_jax, any_energy=True)
    found |= {"torchebm": torchebm, "ebmkit": ebmkit}
    return {name: partial(make, problem) for name, make in found.items()}


def weights(problem: Problem) -> networks.Weights:
    """Returns the initial weights."""
    return networks.random_weights(tuple(problem.widths), problem.dimension, gain=1.5, seed=1)


def batches(problem: Problem) -> np.ndarray:
    """Returns standard normal data, of shape (steps, batch, d)."""
    shape = (problem.steps, problem.batch, problem.dimension)
    return np.random.default_rng(2).standard_normal(shape, dtype=np.float32)


@cache
def expected(problem: Problem) -> tuple[float, float]:
    """Returns the loss of the first batch at the initial weights, and its standard error."""
    net, x = weights(problem), batches(problem)[0]
    if problem.loss != "denoising":
        gradient, laplacian = networks.gradient_and_laplacian(net, x)
        return float(np.mean(0.5 * np.sum(gradient**2, -1) - laplacian)), 0.0
    rng = np.random.default_rng(3)
    values = []
    for _ in range(DRAWS):
        noise = rng.standard_normal(x.shape)
        error = noise - SIGMA * networks.gradient(net, x + SIGMA * noise)
        values.append(0.5 * np.mean(np.sum(error**2, -1)))
    return _mean(values)


def verdict(problem: Problem, rounds: list[dict[str, Any]]) -> str:
    """Returns what is wrong with the mean of the loss, or "" if it is right."""
    value, error = rounds[0]["value"], rounds[0]["error"]
    truth, truth_error = expected(problem)
    if abs(value - truth) > 5 * np.hypot(error, truth_error) + 1e-3 * abs(truth):
        return f"wrong: the loss is {value:.4g}, not {truth:.4g}"
    return ""


def _mean(values: Any) -> tuple[float, float]:
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))


def ebm_jax(problem: Problem, *, any_energy: bool = False) -> Job:
    """This library; `any_energy` uses only losses that take any network."""
    import jax
    import jax.numpy as jnp
    import optax

    from ebm_jax import losses, sharding
    from ebm_jax.calculus import score_from_energy
    from ebm_jax.nets import EnergyMLP
    from ebm_jax.training import init_state, make_step

    if problem.loss == "exact":
        sharding.use_all_cores()
    net = EnergyMLP(problem.widths)

    def loss(params: Any, key: Any, x: Any) -> Any:
        score = score_from_energy(partial(net.apply, params))
        if problem.loss == "denoising":
            sigma = jnp.float32(SIGMA)
            return losses.denoising_score_matching(lambda x, _: score(x), key, x, sigma)
        if problem.loss == "exact":
            if any_energy:
                return losses.exact_score_matching(score, x)
            derivatives = partial(net.apply, params, method="gradient_and_laplacian")
            return losses.exact_score_matching_from_laplacian(derivatives, x)
        if any_energy:
            return losses.variance_reduced_sliced_score_matching(score, key, x)
        curvature = partial(net.apply, params, method="gradient_and_curvature")
        return losses.sliced_score_matching_from_curvature(curvature, key, x)

    optimizer = optax.adam(1e-3)
    train = jax.jit(partial(jax.lax.scan, make_step(loss, optimizer)), donate_argnums=0)
    mesh = sharding.data_mesh(problem.batch)
    data = sharding.split(batches(problem), mesh, axis=1)

    def prepare(index: int) -> list[Any]:
        params = networks.jax_params(weights(problem))
        return [sharding.replicate(init_state(params, optimizer, jax.random.key(index)), mesh)]

    def compute(prepared: list[Any]) -> list[Any]:
        prepared[0], _ = jax.block_until_ready(train(prepared[0], data))
        return prepared

    @cache
    def check() -> dict[str, float]:
        keys = jax.random.split(jax.random.key(0), (_draws(problem), problem.batch))

        @jax.jit
        def values(params: Any, x: Any) -> Any:
            return jax.lax.map(lambda k: jnp.mean(jax.vmap(partial(loss, params))(k, x)), keys)

        value, error = _mean(values(networks.jax_params(weights(problem)), data[0]))
        return {"value": value, "error": error}

    return Job(("jax", "jaxlib", "optax"), prepare, compute, lambda _: check())


def torchebm(problem: Problem) -> Job:
    """torchebm's losses."""
    from torchebm import losses

    def make(energy: Any) -> Callable[[Any], Any]:
        model = networks.torchebm_energy(energy)
        if problem.loss == "exact":
            return losses.ScoreMatching(model)
        if problem.loss == "sliced":
            return losses.SlicedScoreMatching(model, n_projections=1)
        return losses.DenoisingScoreMatching(model, noise_scale=SIGMA)

    return _torch_job(problem, make, "torchebm")


def ebmkit(problem: Problem) -> Job:
    """ebmkit's losses."""
    from ebm.losses import score_matching as losses

    def make(energy: Any) -> Callable[[Any], Any]:
        if problem.loss == "exact":
            loss = losses.ExactScoreMatching()
        elif problem.loss == "sliced":
            loss = losses.SlicedScoreMatching()
        else:
            loss = losses.DenoisingScoreMatching(SIGMA)
        return lambda x: loss(energy, x).loss

    return _torch_job(problem, make, "ebmkit")


def _torch_job(problem: Problem, make: Callable[[Any], Callable[[Any], Any]], name: str) -> Job:
    import torch

    data = torch.from_numpy(batches(problem))

    def prepare(index: int) -> tuple[Any, Any]:
        torch.manual_seed(index)
        energy = networks.torch_energy(weights(problem))
        return make(energy), torch.optim.Adam(energy.parameters(), 1e-3)

    def compute(prepared: tuple[Any, Any]) -> None:
        loss, optimizer = prepared
        for batch in data:
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()

    @cache
    def check() -> dict[str, float]:
        loss = make(networks.torch_energy(weights(problem)))
        value, error = _mean([loss(data[0]).item() for _ in range(_draws(problem))])
        scale = SIGMA**2 if problem.loss == "denoising" else 1.0
        return {"value": scale * value, "error": scale * error}

    return Job((name, "torch"), prepare, compute, lambda _: check())


def _draws(problem: Problem) -> int:
    return 1 if problem.loss == "exact" else DRAWS
