"""An energy E(x) of points: distributions in the plane, or your own data of any dimension.

    python -m experiments.energy                          eight Gaussians in the plane
    python -m experiments.energy --data checkerboard
    python -m experiments.energy --data points.csv --loss sliced

An MLP energy is trained by one of the library's losses, denoising score matching by default, on
data with added noise of level sigma. It learns the smoothed distribution, up to a constant.
Samples are drawn by MCMC on E. The columns of a file are standardized, and sigma is in those
units; E, samples and results are in the units of the file again. A tenth of the training rows is
set aside to select the best model seen in training, so that a small file is not memorized:

    energy_fn = ebm_jax.load("runs/energy").energy

Held-out points are evaluated by the exact score-matching loss and by the log-likelihood. Its
log Z comes from annealed importance sampling (AIS): forward from a Gaussian fitted to the data,
and backward from the ends of the chains. If the distribution has a known density, KL(data ||
model) is computed by quadrature on a grid. Expect a KL of about .002 nats on eight_gaussians and
.013 on checkerboard, in a minute or two on 2 cores.
"""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import likelihood, metrics, targets
from ebm_jax.data import Points, load_points
from ebm_jax.nets import EnergyMLP
from ebm_jax.recipes import (
    ENERGY_METHODS,
    EnergyRecipe,
    Objective,
    two_player_adam,
)
from ebm_jax.runs.command import command
from ebm_jax.runs.densities import judge_density, score_matching_losses
from ebm_jax.runs.drawing import draw_finite
from ebm_jax.runs.endings import RunError
from ebm_jax.runs.energies import check_energy, train_energy
from ebm_jax.runs.models import Model
from ebm_jax.runs.points import Task, file_task, law_task
from ebm_jax.runs.run import Run
from ebm_jax.types import EnergyFn

HALF_WIDTH = 6.0  # of the square of quadrature; the distributions lie within about 4
MOST_ANNEALED = 1024  # maximum number of chains of annealed importance sampling
RATE = 6e-3  # learning rate of Adam for an objective whose own rate is 1
Law = Literal["eight_gaussians", "two_spirals", "rings", "moons", "pinwheel", "checkerboard"]
LOSSES = {
    "dsm": "denoising",
    "controlled_dsm": "denoising, controlled",
    "exact": "exact",
    "sliced": "sliced, reduced variance",
    "finite_difference": "finite difference",
    "nce": "noise-contrastive",
    "ranking_nce": "ranking NCE",
    "conditional_nce": "conditional NCE",
    "flow_nce": "flow-contrastive",
    "energy_discrepancy": "energy discrepancy",
    "stein": "learned Stein",
    "adversarial": "adversarial flow",
    "vera": "VERA",
    "cd": "CD-10",
    "persistent_cd": "persistent CD",
    "recovery": "recovery likelihood",
}
Loss = Literal[
    "dsm", "controlled_dsm", "exact", "sliced", "finite_difference", "nce", "ranking_nce",
    "conditional_nce", "flow_nce", "energy_discrepancy", "stein", "adversarial", "vera", "cd",
    "persistent_cd", "recovery",
]  # fmt: skip


def main(
    run: Run,
    *,
    data: str = "eight_gaussians",
    loss: Loss = "dsm",
    sigma: float = 0.1,
    num_steps: int = 15_000,
    batch_size: int = 512,
    learning_rate: float | None = None,
    widths: tuple[int, ...] = (128, 128),
    num_chains: int = 4096,
    chain_steps: int = 1000,
    step_size: float | None = None,
    anneal_levels: int = 1000,
    seed: int = 0,
) -> None:
    """Trains an energy of points, draws samples, and estimates its likelihood.

    Args:
        run: the run.
        data: eight_gaussians, two_spirals, rings, moons, pinwheel or checkerboard; or the path of
            a .npy, .csv or .npz with one point per row.
        loss: loss that trains the energy.
        sigma: noise level that smooths the data. The columns of a file are first scaled to a
            standard deviation of 1.
        num_steps: optimization steps.
        batch_size: examples per step.
        learning_rate: peak learning rate of Adam, decayed to 0 by a cosine; the default depends
            on the loss.
        widths: hidden widths of the energy's MLP.
        num_chains: number of Markov chains, which draw one sample each.
        chain_steps: steps of a chain, from a uniform start on [-4, 4]^2, or for a file from a
            Gaussian fitted to it.
        step_size: step size of the chains, by default .002, or .02 for a file, in units in which
            the covariance of the data is about I.
        anneal_levels: levels of annealed importance sampling.
        seed: seed of all random numbers.
    """
    options: dict[str, Any] = {"sigma": sigma, "batch_size": batch_size, "chain_steps": chain_steps}
    options |= {"step_size": step_size, "seed": seed}
    net = EnergyMLP(widths)
    if data in get_args(Law):
        law = getattr(targets, data)()
        task = law_task(law, net, num_held_out=num_chains, **options)
    else:
        task = file_task(read(data), net, **options)
    objective = make_objective(loss, task)
    rate = learning_rate or float(f"{RATE * objective.rate:.1g}")
    recipe = EnergyRecipe(
        net=net,
        objective=objective.smoothed(sigma),
        optimizer=partial(two_player_adam, objective._replace(rate=1.0), rate),
        ema=0.999,
        batch_size=batch_size,
        num_steps=num_steps,
        shape=task.problem.shape,
        sampler=task.sampler,
        center=task.center,
        scale=task.scale,
    )
    check_energy(run, recipe)
    if not run.begin(**task.facts):
        return
    model = train_energy(
        run, recipe, task.batches, seed=seed,
        steps_per_call=500 if task.validation is None else 100,
        validate=None if task.validation is None else partial(validation_loss, task, seed),
    )  # fmt: skip
    with run.clock("sample"):
        samples = draw_finite(model.draw, num_chains, seed + 2, chunk=num_chains)
    np.savez_compressed(run.folder / "samples.npz", samples=samples, data=task.held_out)
    write_csv(run.folder / "samples.csv", samples, task.names)
    with run.clock("judge"):
        ends = samples[:MOST_ANNEALED]
        results = judge_density(
            model.energy, task.held_out, ends, *task.gaussian,
            num_levels=anneal_levels, seed=seed + 5,
        )  # fmt: skip
        results |= judge(model.energy, task, sigma, samples)
    report(run, model, task, samples, results)
    run.finish(results)


def read(path: str) -> Points:
    """Reads the points of a file; raises a RunError with all choices if there is no such file."""
    if not Path(path).exists():
        raise RunError(
            f"--data got {path}, which does not exist: give one of {', '.join(get_args(Law))}, or "
            "the path of a .npy, .csv or .npz."
        )
    return load_points(path)


def make_objective(loss: Loss, task: Task) -> Objective:
    """Returns the objective of a loss, or raises a RunError if it does not fit these points."""
    try:
        return ENERGY_METHODS[LOSSES[loss]].objective(task.problem)
    except ValueError as error:
        raise RunError(f"--loss {loss}: {error}") from error


def validation_loss(task: Task, seed: int, model: Model) -> float:
    """Mean score-matching loss of the validation points, in standardized units."""
    assert task.validation is not None
    inside = model._replace(center=None, scale=None).energy
    return float(jnp.mean(score_matching_losses(inside, task.inside(task.validation), seed)))


def judge(energy_fn: EnergyFn, task: Task, sigma: float, samples: np.ndarray) -> dict[str, float]:
    """Returns KL by quadrature, MMD, and the fraction of samples in the support of the data.

    The support is where the smoothed density exceeds its 1% quantile over the data. Without a
    density, it is all points as near to the data as 99% of other data are.
    """
    results = {}
    count = min(len(samples), len(task.held_out))
    x, data = (jnp.asarray(task.inside(points[:count])) for points in (samples, task.held_out))
    half = count // 2
    if task.law is not None and task.law.smoothed is not None:
        smooth = task.law.smoothed(sigma).energy
        assert smooth is not None
        kl = jax.jit(partial(likelihood.kl_on_grid, smooth, energy_fn, half_width=HALF_WIDTH))
        results["KL(smoothed data || model), nats"] = float(kl())
        inside = jax.jit(jax.vmap(smooth))
        level = jnp.quantile(inside(data), 0.99)
        shares = {"samples": inside(x) <= level, "data": inside(data) <= level}
    else:
        nearest = jax.jit(metrics.nearest_distance)
        far = jnp.quantile(nearest(data[:half], data[half:]), 0.99)
        shares = {
            name: nearest(some[:half], data[half:]) <= far
            for name, some in (("samples", x), ("data", data))
        }
    for name, share in shares.items():
        results[f"share in the support, {name}"] = float(jnp.mean(share))
    bandwidth = jax.jit(metrics.median_distance)(data[:half])
    mmd = jax.jit(partial(metrics.squared_mmd, bandwidth=bandwidth))
    results["squared MMD, samples against data"] = float(mmd(x[half:], data[:half]))
    results["squared MMD, data against data"] = float(mmd(data[half:], data[:half]))
    return results


def write_csv(path: Path, samples: np.ndarray, names: Sequence[str]) -> None:
    """Writes samples as text, with a header line."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(samples.tolist())


def report(
    run: Run, model: Model, task: Task, samples: np.ndarray, results: dict[str, float]
) -> None:
    """Writes the page: panels of the plane or pairs of columns, metrics and training curves."""
    from ebm_jax.runs import charts, page, scatter

    energies = lambda x: np.asarray(jax.jit(jax.vmap(model.energy))(x))  # noqa: E731
    if len(task.names) == 2:
        energy_fn = model._replace(center=None, scale=None).energy
        points = (task.inside(x) for x in (task.held_out, samples))
        figure = scatter.planar_panels(energy_fn, *points, half_width=HALF_WIDTH)
        units = "" if model.scale is None else " In standardized units."
        alt = "Held-out data, samples, the energy and its score field, side by side."
        caption = f"Held-out data, and the model.{units}"
    else:
        figure = scatter.pair_plots(task.held_out, samples, task.names)
        alt = f"Scatter plots of pairs of columns, and their histograms: {', '.join(task.names)}."
        caption = "Held-out data (orange, below) and samples (blue, above), at most five columns."
    sections = {
        "Data and samples": page.picture(run, "panels", figure, alt, caption),
        "Energies": charts.histograms(
            {"held-out data": energies(task.held_out), "samples": energies(samples)},
            x="energy",
            caption="Energies of data and of samples. Samples of the model that was learned from "
            "these data have the same histogram.",
        ),
        "Results": page.results_table(results),
        "Training": charts.curves(run),
    }
    name = LOSSES[run.config["loss"]]
    lead = f"An energy for {run.config['data']}, trained by this loss: {name}."
    page.write_report(run, "An energy of points", lead, sections, results)


if __name__ == "__main__":
    command(main)
