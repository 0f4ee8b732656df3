"""Cost of MCMC as the dimension grows: random walk, Langevin (MALA) and Hamiltonian (HMC).

    python -m experiments.mixing

The target is a Gaussian of independent coordinates with standard deviations from .5 to 1. The
step size of each kernel is tuned by `warm_up` to its optimal acceptance rate (.234, .574, .65)
and then frozen.

- cost of a nat: chains start from the target shifted by two standard deviations along its widest
  coordinate, which is KL = 2 nats in any dimension. The cost is the number of evaluations of
  energy or gradient per chain until that coordinate's KL is 1. In theory it grows as d for the
  random walk, d^(1/3) for MALA and d^(1/4) for HMC (Roberts & Rosenthal 2001; arXiv:1001.4460).
- ESS per second: effective sample size of that coordinate, from chains started in the target,
  divided by the time of the compiled run.

It takes about a minute and a half on 2 cores. Expect fitted exponents near 1, 1/3 and 1/4.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ebm_jax import metrics
from ebm_jax.keys import example_keys
from ebm_jax.runs.command import command
from ebm_jax.runs.endings import say
from ebm_jax.runs.flags import UNSTABLE, finite
from ebm_jax.runs.progress import progress
from ebm_jax.runs.run import Run
from ebm_jax.samplers import Kernel, hmc, mala, random_walk, warm_up
from ebm_jax.samplers import run as run_chain
from ebm_jax.sharding import spread
from ebm_jax.targets import Target, gaussian
from ebm_jax.types import EnergyFn, PRNGKey, Scalar

SHIFT = 2.0  # standard deviations: KL = SHIFT^2 / 2


class Method(NamedTuple):
    """A kernel, and the theory of its cost.

    Attributes:
        make: make(energy, dimension, step size) returns the kernel.
        target: acceptance rate that its step size is tuned to.
        exponent: theoretical exponent of the dimension in the number of evaluations.
        evaluations: evaluations of energy or gradient per step, as a function of the dimension.
        steps: approximate correlation length of the chain in steps, as a function of the
            dimension.
    """

    make: Callable[[EnergyFn, int, Scalar], Kernel]
    target: float
    exponent: float
    evaluations: Callable[[int], int]
    steps: Callable[[int], int]


def path_length(dimension: int) -> int:
    """Returns the leapfrog steps of a path: about a quarter of the widest coordinate's period."""
    return round(1.5 * dimension**0.25)


METHODS = {
    "random walk": Method(
        lambda energy, d, h: random_walk(energy, step_size=h), 0.234, 1.0, lambda d: 1,
        lambda d: 2 * d + 20,
    ),
    "mala": Method(
        lambda energy, d, h: mala(energy, step_size=h), 0.574, 1 / 3, lambda d: 1,
        lambda d: round(6 * d ** (1 / 3)) + 10,
    ),
    "hmc": Method(
        lambda energy, d, h: hmc(energy, step_size=h, num_leapfrog=path_length(d)), 0.65, 1 / 4,
        path_length, lambda d: 20,
    ),
}  # fmt: skip


def main(
    run: Run,
    *,
    dimensions: tuple[int, ...] = (2, 8, 32, 128, 512),
    num_chains: int = 2048,
    num_long_chains: int = 32,
    memories: int = 30,
    warm_up_steps: int = 1000,
    seed: int = 0,
) -> None:
    """Measures the cost of a nat and the effective samples per second as the dimension grows.

    Args:
        run: the run.
        dimensions: dimensions of the Gaussian.
        num_chains: number of chains for the cost of a nat.
        num_long_chains: number of chains for the effective sample size.
        memories: length of the latter, in multiples of the correlation length.
        warm_up_steps: steps for tuning the step size.
        seed: seed of all random numbers.
    """
    if not run.begin(products=("report.html",)):
        return
    run.keep_rows_until(0)  # everything is measured anew
    rows: list[dict[str, Any]] = []
    with progress("mixing", len(METHODS) * len(dimensions)) as advance:
        for name, method in METHODS.items():
            for d in dimensions:
                row = measure(method, d, num_chains, num_long_chains, memories, warm_up_steps, seed)
                rows.append({"method": name, "dimension": d, **row})
                run.add_row({"step": len(rows), **rows[-1]})
                advance(1, f"{name}, {d} dimensions")
    results = {}
    for name, method in METHODS.items():
        costs = {r["dimension"]: r["cost of a nat"] for r in rows if r["method"] == name}
        results[f"exponent of the cost of a nat, {name}"] = slope(costs)
        results[f"exponent by theory, {name}"] = method.exponent
    say(table(rows))
    report(run, rows, results)
    run.finish(results)


def measure(
    method: Method, d: int, num_chains: int, num_long: int, memories: int, warm: int, seed: int
) -> dict[str, float]:
    """Returns step size, acceptance, cost of a nat and ESS per second in one dimension."""
    law = gaussian(jnp.zeros(d), jnp.linspace(1.0, 0.5, d))
    assert law.energy is not None
    energy, key = law.energy, jax.random.key(seed)

    @jax.jit
    def tune(key: PRNGKey) -> Scalar:
        key_start, key_run = jax.random.split(key)
        make = lambda h: method.make(energy, d, h)  # noqa: E731
        start = law.draw(key_start)
        return warm_up(make, key_run, start, num_steps=warm, target=method.target, initial=0.1)[2]

    step_size = jnp.exp(jnp.mean(jnp.log(jax.vmap(tune)(jax.random.split(key, 8)))))
    kernel = method.make(energy, d, step_size)
    memory, evaluations = method.steps(d), method.evaluations(d)
    first = trace(kernel, law, jnp.zeros(d).at[0].set(SHIFT), 2 * memory)
    path, _ = first(example_keys(jax.random.fold_in(key, 1), jnp.arange(num_chains)))
    finite("chains", path, UNSTABLE)
    draw = trace(kernel, law, jnp.zeros(d), memories * memory)
    keys = example_keys(jax.random.fold_in(key, 2), jnp.arange(num_long))
    jax.block_until_ready(draw(keys))  # compiles
    start = time.perf_counter()
    long, accepted = jax.block_until_ready(draw(keys))
    seconds = time.perf_counter() - start
    finite("chains", long, UNSTABLE)
    ess = float(metrics.effective_sample_size(long))
    return {
        "step size": float(step_size),
        "acceptance": float(jnp.mean(accepted)),
        "cost of a nat": evaluations * steps_to_one_nat(np.asarray(path)),
        "ESS": ess,
        "ESS a second": ess / seconds,
        "ESS an evaluation": ess / (evaluations * long.size),
    }


def trace(kernel: Kernel, law: Target, shift: Array, num_steps: int) -> Callable[[Array], Array]:
    """Returns a function that runs chains from exact draws plus `shift`; records coordinate 0."""

    @spread
    def one(key: PRNGKey) -> tuple[Array, Scalar]:
        key_start, key_run = jax.random.split(key)
        start = kernel.init(law.draw(key_start) + shift)
        _, (x, accepted) = run_chain(
            kernel, key_run, start, num_steps, collect=lambda s, i: (s.x[0], i.accept_prob)
        )
        return jnp.append(start.x[0], x), jnp.mean(accepted)

    return one


def steps_to_one_nat(path: np.ndarray) -> float:
    """Returns when KL(chains || N(0, 1)) falls to one nat, for paths of shape (chains, steps)."""
    variance = path.var(0)
    kl = (variance - 1 - np.log(variance) + path.mean(0) ** 2) / 2
    below = np.flatnonzero(kl <= 1)
    if not below.size or below[0] == 0:
        return float("nan")
    after = below[0]
    return float(after - (1 - kl[after]) / (kl[after - 1] - kl[after]))


def slope(costs: dict[int, float]) -> float:
    """Returns the exponent of a power law fitted to the three highest dimensions."""
    dimensions = sorted(costs)[-3:]
    if len(dimensions) < 2:
        return float("nan")
    logs = np.log([costs[d] for d in dimensions])
    return float(np.polyfit(np.log(dimensions), logs, 1)[0])


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the measurements as plain text."""
    head = list(rows[0])
    lines = [" ".join(f"{name:>17}" for name in head)]
    for row in rows:
        cells = [v if isinstance(v, str) else f"{v:.4g}" for v in row.values()]
        lines.append(" ".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)


def report(run: Run, rows: list[dict[str, Any]], results: dict[str, float]) -> None:
    """Writes the page: cost of a nat and effective samples per second against the dimension."""
    from ebm_jax.runs import page

    figure = page.Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots(1, 2)
    for (name, method), color in zip(
        METHODS.items(), ("#cc6622", "#225588", "#228855"), strict=True
    ):
        mine = [row for row in rows if row["method"] == name]
        d = np.array([row["dimension"] for row in mine])
        for axis, quantity in zip(axes, ("cost of a nat", "ESS a second"), strict=True):
            axis.loglog(d, [row[quantity] for row in mine], "o-", color=color, label=name)
            axis.set(xlabel="dimension", title=quantity)
        last = mine[-1]["cost of a nat"]
        axes[0].loglog(d, last * (d / d[-1]) ** method.exponent, ":", color=color, lw=1)
    axes[0].legend(frameon=False)
    axes[0].set(ylabel="evaluations a chain")
    head = list(rows[0])
    cells = [[v if isinstance(v, str) else f"{v:.4g}" for v in row.values()] for row in rows]
    sections = {
        "Mixing": page.picture(
            run,
            "mixing",
            figure,
            "Two plots against the dimension, a line per sampler: the cost of a nat, and the "
            "effective samples per second.",
            "Dotted: the exponent of theory, through the last point.",
        ),
        "Exponents": page.table(results),
        "Measurements": page.wide_table(head, cells),
    }
    lead = (
        "A Gaussian of independent coordinates with standard deviations from .5 to 1. Every "
        "kernel's step size is tuned to its best acceptance and frozen."
    )
    page.write_report(run, "Mixing as the dimension grows", lead, sections)


if __name__ == "__main__":
    command(main)
