"""Pictures of points: an energy in the plane, and pairs of columns in more dimensions."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from ebm_jax import likelihood
from ebm_jax.calculus import score_from_energy
from ebm_jax.runs.page import plane
from ebm_jax.types import EnergyFn

COLORS = {"data": "#cc6622", "samples": "#225588"}
MOST_COLUMNS = 5  # of pair plots
MOST_POINTS = 2000  # in one of them


def planar_panels(
    energy_fn: EnergyFn,
    data: Float[np.ndarray, "n 2"],
    samples: Float[np.ndarray, "m 2"],
    *,
    half_width: float,
) -> Figure:
    """Data, samples, the energy and its score field, side by side on a square about 0."""
    panels = Figure(figsize=(10, 2.8), layout="constrained")
    axes = panels.subplots(1, 4, sharex=True, sharey=True)
    for axis, title, points in ((axes[0], "data", data), (axes[1], "samples", samples)):
        axis.plot(*points.T, ",", color="#225588", alpha=0.6)
        axis.set_title(title)
    log_density = partial(likelihood.log_density_on_grid, energy_fn, num_points=200)
    log_p = jax.jit(partial(log_density, half_width=half_width))()
    shown, extent = plane(np.maximum(-np.asarray(log_p), 0.0), half_width)
    axes[2].imshow(np.minimum(shown, shown.min() + 8), extent=extent, cmap="viridis")
    axes[2].set_title("energy, least to least + 8")
    limit = 0.75 * half_width
    grid = likelihood.square_grid(limit, 22)
    score = np.asarray(jax.jit(jax.vmap(score_from_energy(energy_fn)))(grid))
    length = np.linalg.norm(score, axis=-1, keepdims=True)
    arrows = score / np.maximum(length, 1e-12) * np.minimum(length, 10.0)
    axes[3].quiver(*np.asarray(grid).T, *arrows.T, color="#225588", width=0.004)
    axes[3].set_title("score, arrows cut at 10")
    for axis in axes:
        axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    return panels


def pair_plots(
    data: Float[np.ndarray, "n d"], samples: Float[np.ndarray, "m d"], names: Sequence[str]
) -> Figure:
    """Histograms of the first five columns, and every pair of them: data below, samples above."""
    count = min(len(names), MOST_COLUMNS)
    figure = Figure(figsize=(1.9 * count + 0.6,) * 2, layout="constrained")
    axes = figure.subplots(count, count, squeeze=False)
    low, high = np.quantile(np.concatenate([data, samples]), (0.001, 0.999), axis=0)
    edges = [np.linspace(low[i], high[i], 41) for i in range(count)]
    for i in range(count):
        for j in range(count):
            axis = axes[i, j]
            if i == j:
                for name, x in (("data", data), ("samples", samples)):
                    axis.hist(x[:, i], edges[i], density=True, histtype="step", color=COLORS[name])
            else:
                name, x = ("data", data) if i > j else ("samples", samples)
                axis.plot(*x[:MOST_POINTS, [j, i]].T, ",", color=COLORS[name])
                axis.set(xlim=(low[j], high[j]), ylim=(low[i], high[i]))
            axis.tick_params(labelsize=6)
            if i == count - 1:
                axis.set_xlabel(names[j])
            if j == 0:
                axis.set_ylabel(names[i])
    return figure
