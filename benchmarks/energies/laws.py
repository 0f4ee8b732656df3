"""The target distributions of the samplers in `benchmarks.energies`, and checks of their samples.

One is a mixture of eight Gaussians on a circle, the other exp(-E) of an MLP with random weights.
Chains start from exact draws, so there is no burn-in to choose. After any number of steps their
distribution must still be exp(-E), whose moments are computed on a grid.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from benchmarks.energies import networks

RADIUS, SCALE = 2.83, 0.35
ANGLES = np.arange(8) * np.pi / 4
MEANS = (RADIUS * np.stack([np.cos(ANGLES), np.sin(ANGLES)], -1)).astype(np.float32)
WEIGHTS = networks.random_weights((128, 128), 2, gain=1.5, seed=0)
HALF_WIDTH, CELLS = 12.0, 600  # of the grid of the quadrature


class Problem(NamedTuple):
    """`sampler` is "random walk", "mala" or "hmc"; `law`, the target, is "mixture" or "mlp"."""

    sampler: str
    law: str
    step_size: float
    steps: int
    chains: int = 4096
    leapfrog: int = 10


def energy(law: str, x: np.ndarray) -> np.ndarray:
    """Returns E of points (n, 2), in double precision."""
    if law == "mlp":
        return networks.energy(WEIGHTS, x)
    squares = np.sum((x[:, None] - MEANS) ** 2, -1) / (2 * SCALE**2)
    least = squares.min(-1)
    return least - np.log(np.sum(np.exp(least[:, None] - squares), -1))


@cache
def quadrature(law: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the centers of a grid's cells, of shape (n, 2), and their probabilities."""
    line = HALF_WIDTH * ((np.arange(CELLS) + 0.5) * 2 / CELLS - 1)
    points = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    energies = np.concatenate([energy(law, part) for part in np.array_split(points, 100)])
    heights = np.exp(energies.min() - energies)
    return points, heights / heights.sum()


def start(problem: Problem, index: int) -> np.ndarray:
    """Returns exact draws for round `index`: a cell of the grid, and a uniform point in it."""
    points, shares = quadrature(problem.law)
    rng = np.random.default_rng(index)
    cells = rng.choice(len(points), problem.chains, p=shares)
    places = rng.uniform(-0.5, 0.5, (problem.chains, 2)) * 2 * HALF_WIDTH / CELLS
    return (points[cells] + places).astype(np.float32)


def statistics(law: str, x: np.ndarray) -> np.ndarray:
    """Returns statistics to check: the nearest Gaussian and its squared distance, or moments."""
    x = np.asarray(x, np.float64)
    if law == "mlp":
        return np.concatenate([x, x**2, x[:, :1] * x[:, 1:]], -1)
    squares = np.sum((x[:, None] - MEANS) ** 2, -1)
    nearest = np.argmin(squares, -1)[:, None] == np.arange(8)
    return np.concatenate([nearest, np.min(squares, -1)[:, None]], -1)


@cache
def moments(law: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and variance of the statistics."""
    points, shares = quadrature(law)
    values = statistics(law, points)
    mean = shares @ values
    return mean, shares @ (values - mean) ** 2


def judge(problem: Problem, begin: np.ndarray, end: Any) -> dict[str, Any]:
    """Returns sums of the statistics over chains, and the number of chains that have moved."""
    found = statistics(problem.law, end)
    moved = np.any(np.asarray(end) != begin, -1)
    return {"sums": found.sum(0).tolist(), "chains": len(found), "moved": int(moved.sum())}


def verdict(problem: Problem, rounds: list[dict[str, Any]]) -> str:
    """Returns what is wrong with the samples of all rounds together, or "" if they are right."""
    total = sum(answer["chains"] for answer in rounds)
    if sum(answer["moved"] for answer in rounds) < 0.9 * total:
        return "wrong: chains stayed where they began"
    mean, variance = moments(problem.law)
    limit = 5 * np.sqrt(variance / total) + 1e-4
    error = np.sum([answer["sums"] for answer in rounds], 0) / total - mean
    worst = int(np.argmax(np.abs(error) / limit))
    if np.abs(error[worst]) > limit[worst]:
        return f"wrong: moment {worst} is {mean[worst] + error[worst]:.4f}, not {mean[worst]:.4f}"
    return ""
