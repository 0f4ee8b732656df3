"""Compares every energy loss of the library on distributions in the plane, by quadrature.

    python -m experiments.compare_losses
    python -m experiments.compare_losses --data moons --only "denoising" "persistent CD"

The distributions are smoothed by sigma = .1, so that all losses share one target, which has a
density. They share one network and one optimizer, and several seeds are trained in parallel on
all cores. A row gives means over seeds with 95% intervals (Student's t):

- KL(data || model) in nats, by quadrature: the ranking;
- squared MMD between the data and exact draws of the model (from the grid, without MCMC);
- Fisher divergence E 1/2 |s_model - s_data|^2 over the data;
- weights: the largest error of the model's mass near a mode (a moon, black square, Gaussian);
- seconds: core-seconds of training per seed (all seeds' time, times cores, over seeds), without
  compilation.

A finished cell is never trained again. The default takes about half an hour on 2 cores, and less
with `--only` or a lower `--effort`. Expect a KL of about .01 nats at best on the checkerboard, and
below .005 on the others.
"""

import time
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ebm_jax import likelihood, losses, metrics, targets
from ebm_jax.calculus import score_from_energy
from ebm_jax.keys import example_keys
from ebm_jax.nets import EnergyMLP
from ebm_jax.recipes import (
    ENERGY_METHODS,
    TRUE_SCORE,
    EnergyMethod,
    EnergyProblem,
    two_player_adam,
)
from ebm_jax.runs.command import command
from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.folder import write_rows
from ebm_jax.runs.progress import progress
from ebm_jax.runs.run import Run
from ebm_jax.sharding import data_mesh, spread
from ebm_jax.targets import Target
from ebm_jax.training import TrainState, init_state, make_step
from ebm_jax.types import Example, PRNGKey, Scalar

HALF_WIDTH, CELLS = 6.0, 400
TEXT = ("data", "loss")  # columns of metrics.csv that hold names
CALLS = 20  # compiled calls per training
Name = Literal["moons", "checkerboard", "eight_gaussians", "rings", "two_spirals"]
FIGURES = ("KL", "squared MMD", "Fisher divergence", "weights")


def main(
    run: Run,
    *,
    data: tuple[Name, ...] = ("moons", "checkerboard", "eight_gaussians"),
    only: tuple[str, ...] = (),
    sigma: float = 0.1,
    widths: tuple[int, ...] = (128, 128),
    batch_size: int = 256,
    learning_rate: float = 6e-3,
    effort: float = 1.0,
    num_seeds: int = 4,
    seed: int = 0,
) -> None:
    """Trains every loss on every distribution and compares the results.

    Args:
        run: the run.
        data: the data distributions.
        only: the losses; all by default.
        sigma: noise level that smooths the distributions.
        widths: hidden widths of the energy's MLP.
        batch_size: fresh examples per step.
        learning_rate: peak learning rate of Adam, decayed to 0 by a cosine.
        effort: factor that multiplies each loss's own number of steps.
        num_seeds: trainings of each loss on each distribution.
        seed: first seed.
    """
    unknown = set(only) - set(ENERGY_METHODS)
    if unknown:
        raise RunError(f"--only got {sorted(unknown)}: give some of {list(ENERGY_METHODS)}.")
    if not run.begin(products=("report.html",)):
        return
    names = only or tuple(ENERGY_METHODS)
    kept = [row for row in run.rows(TEXT) if is_there(run.folder / density_file(row))]
    write_rows(run.folder / "metrics.csv", kept)
    done = {(row["data"], row["loss"]) for row in kept}
    net, last = EnergyMLP(widths), int(kept[-1]["step"]) if kept else 0
    with progress("cells", len(data) * len(names), len(done)) as advance:
        for law in data:
            clean = getattr(targets, law)()
            smooth = clean.smoothed(sigma)
            problem = make_problem(smooth, sigma, net, seed)
            judge, log_p = make_judge(problem, smooth, law)
            np.savez_compressed(run.folder / f"{law}.npz", log_p=log_p)
            for name in names:
                if (law, name) in done:
                    continue
                ema, seconds = train(
                    ENERGY_METHODS[name], problem, (clean, smooth), batch_size, learning_rate,
                    effort, num_seeds, seed,
                )  # fmt: skip
                figures, log_p = judge({"energy": ema["energy"]}, jnp.arange(num_seeds))
                row = summary(figures)
                np.savez_compressed(run.folder / f"{law}-{file_name(name)}.npz", log_p=log_p[0])
                alone = round(seconds * data_mesh().size / num_seeds, 2)
                cell = {"step": last + 1, "data": law, "loss": name, "seconds": alone}
                run.add_row({**cell, **row})
                last += 1
                advance(1, f"{name}: KL {row['KL']:.4f}")
                kl = f"{row['KL']:.4f} +- {row['KL interval']:.4f}"
                say(f"{law}, {name}: KL {kl}, {alone:.0f} s of training a seed")
    rows = run.rows(TEXT)
    report(run, rows, data, names)
    run.finish(best(rows, data))


def make_problem(law: Target, sigma: float, net: EnergyMLP, seed: int) -> EnergyProblem:
    """Returns the learning problem of a smoothed distribution, with draws to fit noise to."""
    keys = example_keys(jax.random.key(seed + 1000), jnp.arange(10_000))

    def start(key: PRNGKey) -> Example:
        return jax.random.uniform(key, (2,), minval=-4.0, maxval=4.0)

    return EnergyProblem(net, sigma, jax.jit(jax.vmap(law.draw))(keys), start, law.score)


def train(
    method: EnergyMethod,
    problem: EnergyProblem,
    laws: tuple[Target, Target],
    batch_size: int,
    learning_rate: float,
    effort: float,
    num_seeds: int,
    seed: int,
) -> tuple[PyTree, float]:
    """Trains all seeds; returns their averaged parameters and the seconds without compilation.

    `laws` are the data distribution and its smoothed version.
    """
    objective = method.objective(problem)
    calls = max(1, round(effort * method.num_steps / CALLS))
    optimizer = two_player_adam(objective, learning_rate, calls * CALLS)
    step = make_step(objective.loss, optimizer, ema_decay=0.999, prepare=objective.prepare)
    draw = laws[0].draw if objective.clean else laws[1].draw

    def start(index: Array) -> TrainState:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), index), 3)
        return init_state(objective.init(keys[0]), optimizer, keys[1], objective.memory(keys[2]))

    def advance(state: TrainState) -> tuple[TrainState, Array]:
        def one(state: TrainState, _: None) -> tuple[TrainState, Scalar]:
            key = jax.random.fold_in(jax.random.fold_in(state.key, 1 << 30), state.step)
            batch = jax.vmap(draw)(example_keys(key, jnp.arange(batch_size)))
            state, figures = step(state, batch)
            return state, figures["loss"]

        return jax.lax.scan(one, state, None, length=calls)

    many = spread(advance)
    state = spread(start)(jnp.arange(num_seeds))
    jax.block_until_ready(many(state))  # compiles
    begin = time.perf_counter()
    for _ in range(CALLS):
        state, loss = many(state)
    loss.block_until_ready()
    if not bool(jnp.isfinite(loss).all()):
        say("a training ended on a loss that is not finite: its row says nan")
    return state.ema, time.perf_counter() - begin


def make_judge(problem: EnergyProblem, law: Target, name: str) -> tuple[Any, Array]:
    """Returns judge(params, seeds) -> (metrics, log density on a grid), and that of the data."""
    assert law.energy is not None
    assert law.score is not None
    energy_of_law, score_of_law = law.energy, law.score
    on_grid: dict[str, Any] = {"half_width": HALF_WIDTH, "num_points": CELLS}
    points = likelihood.square_grid(HALF_WIDTH, CELLS)
    nearest, count = regions(name)
    data_keys = example_keys(jax.random.key(77), jnp.arange(2000))
    data = jax.jit(jax.vmap(law.draw))(data_keys)
    bandwidth = jax.jit(metrics.median_distance)(data)
    where = jax.jit(partial(jax.lax.map, nearest, batch_size=4096))(points)

    def masses(log_p: Array) -> Array:
        cell = (2 * HALF_WIDTH / CELLS) ** 2
        return jax.ops.segment_sum(cell * jnp.exp(log_p), where, num_segments=count)

    log_law = jax.jit(partial(likelihood.log_density_on_grid, energy_of_law, **on_grid))()
    truth = jax.jit(masses)(log_law)

    def judge(params: PyTree, index: Array) -> tuple[dict[str, Scalar], Array]:
        energy = problem.energy(params)
        log_p = likelihood.log_density_on_grid(energy, **on_grid)
        key_cell, key_place = jax.random.split(jax.random.fold_in(jax.random.key(78), index))
        total = jnp.cumsum(jnp.exp(log_p))
        cells = jnp.searchsorted(total, total[-1] * jax.random.uniform(key_cell, (2000,)))
        side = 2 * HALF_WIDTH / CELLS
        drawn = points[cells] + side * (jax.random.uniform(key_place, (2000, 2)) - 0.5)
        gap = partial(losses.fisher_divergence, score_from_energy(energy), score_of_law)
        figures = {
            "KL": likelihood.kl_on_grid(energy_of_law, energy, **on_grid),
            "squared MMD": metrics.squared_mmd(drawn, data, bandwidth=bandwidth),
            "Fisher divergence": jnp.mean(jax.vmap(gap)(data)),
            "weights": jnp.max(jnp.abs(masses(log_p) - truth)),
        }
        return figures, log_p

    return spread(judge), log_law


def regions(name: str) -> tuple[Any, int]:
    """Returns a function from a point to the index of its nearest mode, and the mode count."""
    if name == "checkerboard":
        cells = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
        centers = 2.0 * jnp.array(cells, jnp.float32) - 3
    elif name == "eight_gaussians":
        angles = jnp.arange(8.0) * jnp.pi / 4
        centers = 2.83 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1)
    elif name == "moons":
        half = jnp.linspace(0, jnp.pi, 64)
        arc = 2 * jnp.stack([jnp.cos(half), jnp.sin(half)], -1)
        shift = jnp.array([1.0, 0.2])
        arcs = jnp.concatenate([arc - shift[None], -arc + jnp.array([[1.0, 0.8]])])
        return lambda x: jnp.argmin(jnp.sum((arcs - x[None]) ** 2, -1)) // 64, 2
    else:  # for rings and spirals, quadrants are enough
        centers = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    return lambda x: jnp.argmin(jnp.sum((centers - x[None]) ** 2, -1)), len(centers)


def summary(figures: dict[str, Array]) -> dict[str, float]:
    """Returns means over seeds and the half-widths of their 95% intervals."""
    import scipy.stats  # takes half a second to import, which --help need not wait for

    row = {}
    for name, values in figures.items():
        n = len(values)
        row[name] = float(np.mean(values))
        error = np.std(values, ddof=1) / np.sqrt(n) if n > 1 else np.nan
        row[f"{name} interval"] = float(scipy.stats.t.ppf(0.975, max(n - 1, 1)) * error)
    return row


def best(rows: list[dict[str, str]], data: tuple[str, ...]) -> dict[str, float]:
    """Returns the lowest KL on each distribution, for losses with and without chains."""
    results = {}
    for law in data:
        for kind, chains in (("without chains", False), ("with chains", True)):
            mine = [r for r in rows if r["data"] == law and r["loss"] != TRUE_SCORE]
            kls = [float(r["KL"]) for r in mine if ENERGY_METHODS[r["loss"]].chains == chains]
            if kls:
                results[f"least KL on {law}, {kind}"] = float(np.nanmin(kls))
    return results


def report(
    run: Run, rows: list[dict[str, str]], data: tuple[str, ...], names: tuple[str, ...]
) -> None:
    """Writes the page: all densities, and a table per distribution, lowest KL first."""
    from ebm_jax.runs import page

    figure = page.Figure(figsize=(1.25 * (len(names) + 1), 1.45 * len(data)), layout="constrained")
    axes = figure.subplots(len(data), len(names) + 1, squeeze=False)
    for row, law in zip(axes, data, strict=True):
        truth = np.load(run.folder / f"{law}.npz")["log_p"]
        shown = {"the law": truth}
        for name in names:
            shown[name] = np.load(run.folder / f"{law}-{file_name(name)}.npz")["log_p"]
        for axis, (name, log_p) in zip(row, shown.items(), strict=True):
            density, extent = page.plane(np.exp(log_p), HALF_WIDTH)
            axis.imshow(density, extent=extent, cmap="magma", vmin=0, vmax=np.exp(truth.max()))
            axis.set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), xticks=[], yticks=[])
            if law == data[0]:
                axis.set_title(name, fontsize=7)
    head = ("loss", "kind", *FIGURES, "seconds", "goal", "why not")
    sections = {
        "Densities": page.picture(
            run,
            "densities",
            figure,
            "The densities that each loss learned, a row per data distribution.",
            "Densities of the first seed, all on one scale.",
        )
    }
    for law in data:
        mine = sorted((r for r in rows if r["data"] == law), key=lambda r: float(r["KL"]))
        sections[law.replace("_", " ")] = page.wide_table(head, map(table_row, mine))
    lead = (
        "Means over seeds and 95% intervals; the goal is a KL of .02 nats without chains, .05 with."
    )
    page.write_report(run, "Losses for energies in the plane", lead, sections)


def table_row(row: dict[str, str]) -> list[str]:
    """Returns one loss on one distribution: metrics with intervals, and whether it met the goal."""
    method = ENERGY_METHODS[row["loss"]]
    figures = [f"{float(row[f]):.4f} ± {float(row[f'{f} interval']):.4f}" for f in FIGURES]
    reached = float(row["KL"]) <= (0.05 if method.chains else 0.02)
    kind = "chains" if method.chains else "no chains"
    why = "" if reached else reason(row)
    return [row["loss"], kind, *figures, row["seconds"], "yes" if reached else "no", why]


def reason(row: dict[str, str]) -> str:
    """Explains a high KL by the other metrics."""
    kl, interval, fisher, weights = (
        float(row[name]) for name in ("KL", "KL interval", "Fisher divergence", "weights")
    )
    reasons = []
    if not np.isfinite(kl):
        return "training diverged"
    if weights > 0.02:
        reasons.append(f"a mode's mass is off by {weights:.2f}")
    if fisher > 1:
        reasons.append("the score is off: detail is missing")
    if interval > kl:
        reasons.append("seeds disagree")
    return "; ".join(reasons) or "a little off everywhere"


def density_file(row: Mapping[str, str]) -> str:
    """Returns the name of the density file for a row of metrics.csv."""
    return f"{row['data']}-{file_name(row['loss'])}.npz"


def is_there(path: Path) -> bool:
    """Returns True if a file holds a complete density."""
    try:
        with np.load(path) as file:
            return file["log_p"].size > 0
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False


def file_name(loss: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in loss)


if __name__ == "__main__":
    command(main)
