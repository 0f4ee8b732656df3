"""Langevin dynamics forgets the weights of separated modes; annealing and tempering do not.

    python -m experiments.mode_weights

The law is a mixture of two Gaussians in the plane with weights .8 and .2, ten standard
deviations apart. Its score near a mode does not know the mode's weight, so that chains
started uniformly stay where they came in: half and half (arXiv:1907.05600, section 3.2.2).
Annealed Langevin dynamics comes down from a noise level at which the modes are one, and
parallel tempering exchanges points with hot replicas that cross: both recover .8. All use
the exact score or energy: what is shown is the samplers' error alone.

About half a minute on 2 cores; expect .51 for `ula` and `mala`, .80 within .02 for the others.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ebm_jax.keys import example_keys
from ebm_jax.noise import geometric
from ebm_jax.runs.command import command
from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.flags import UNSTABLE, finite
from ebm_jax.runs.run import Run
from ebm_jax.samplers import Kernel, annealed_langevin, mala, parallel_tempering, ula
from ebm_jax.samplers import run as run_chain
from ebm_jax.sharding import spread
from ebm_jax.targets import gaussian_mixture
from ebm_jax.types import NoisyScoreFn, PRNGKey

Sampler = Callable[[PRNGKey], Array]


def main(
    run: Run,
    *,
    weight: float = 0.8,
    distance: float = 4.0,
    scale: float = 0.4,
    num_chains: int = 8192,
    num_steps: int = 4000,
    step_size: float = 0.02,
    num_replicas: int = 6,
    max_temperature: float = 16.0,
    num_levels: int = 20,
    step_ratio: float = 0.1,
    seed: int = 0,
) -> None:
    """Compare samplers on a mixture whose modes are far apart.

    Args:
        run: the run.
        weight: weight of the left mode; the right one has the rest.
        distance: between the modes.
        scale: standard deviation of each mode.
        num_chains: chains of every sampler, each giving one sample.
        num_steps: steps of every chain, over all levels together where there are several.
        step_size: of `ula` and `mala`; a replica's is multiplied by its temperature.
        num_replicas: temperatures of parallel tempering, geometric from 1.
        max_temperature: the highest of them.
        num_levels: noise levels of annealed Langevin dynamics.
        step_ratio: its step size over sigma^2.
        seed: seed of everything.
    """
    if 2 * distance <= scale / 5:
        raise RunError(f"--distance got {distance}: give more than a tenth of --scale {scale}.")
    if not run.begin():
        return
    means = jnp.array([[-distance / 2, 0.0], [distance / 2, 0.0]])
    weights = jnp.array([weight, 1 - weight])
    law = gaussian_mixture(means, scale, weights)
    assert law.energy is not None
    assert law.score is not None
    energy = law.energy

    def smoothed_score(x: Array, sigma: Array) -> Array:
        variance = scale**2 + sigma**2
        logs = jnp.log(weights) - jnp.sum((x[None] - means) ** 2, -1) / (2 * variance)
        return (jax.nn.softmax(logs) @ means - x) / variance

    ladder = jnp.geomspace(1.0, max_temperature, num_replicas)
    tempered = parallel_tempering(
        lambda t: mala(energy, step_size=step_size * t, temperature=t), ladder
    )
    samplers: dict[str, Sampler] = {
        "exact draws": law.draw,
        "ula": partial(chain, ula(law.score, step_size=step_size), num_steps, distance),
        "mala": partial(chain, mala(law.energy, step_size=step_size), num_steps, distance),
        "annealed Langevin": partial(
            annealed, smoothed_score, geometric(2 * distance, scale / 5, num_levels),
            max(1, num_steps // num_levels), step_ratio,
        ),
        "parallel tempering": partial(chain, tempered, num_steps, distance),
    }  # fmt: skip
    samples: dict[str, Any] = {}
    results, rows = {}, []
    keys = example_keys(jax.random.key(seed), jnp.arange(num_chains))
    for name, sampler in samplers.items():
        draw = spread(sampler)
        jax.block_until_ready(draw(keys))  # compiles
        start = time.perf_counter()
        x = finite(f"chains of {name}", draw(keys), UNSTABLE)
        seconds = time.perf_counter() - start
        left = np.mean(x[:, 0] < 0)
        error = np.sqrt(left * (1 - left) / num_chains)
        say(f"{name:20s} weight of the left mode {left:.3f} +- {error:.3f} in {seconds:.2f} s")
        results[f"weight of the left mode, {name}"] = float(left)
        rows.append(
            (name, f"{left:.3f}", f"{error:.3f}", f"{left - weight:+.3f}", f"{seconds:.2f}")
        )
        samples[name] = x
    np.savez_compressed(run.folder / "samples.npz", **samples)
    report(run, samples, rows, weight)
    run.finish(results)


def chain(kernel: Kernel, num_steps: int, distance: float, key: PRNGKey) -> Array:
    """The end of a chain that starts uniformly on a square over both modes."""
    key_start, key_run = jax.random.split(key)
    x = jax.random.uniform(key_start, (2,), minval=-distance, maxval=distance)
    return run_chain(kernel, key_run, kernel.init(x), num_steps)[0].x


def annealed(
    score_fn: NoisyScoreFn, sigmas: Array, steps: int, step_ratio: float, key: PRNGKey
) -> Array:
    """One sample by annealed Langevin dynamics on the exact smoothed score."""
    key_start, key_run = jax.random.split(key)
    start = sigmas[0] * jax.random.normal(key_start, (2,))
    return annealed_langevin(
        score_fn, key_run, start, sigmas,
        steps_per_level=steps, step_ratio=step_ratio, final_denoise=True,
    )  # fmt: skip


def report(
    run: Run,
    samples: dict[str, np.ndarray],
    rows: Sequence[Sequence[str]],
    weight: float,
) -> None:
    """The page: the samples of every sampler side by side, and the weights with errors."""
    from ebm_jax.runs import page

    figure = page.Figure(figsize=(10, 2.4), layout="constrained")
    axes = figure.subplots(1, len(samples), sharex=True, sharey=True)
    for axis, (name, x) in zip(axes, samples.items(), strict=True):
        axis.plot(*x[:2000].T, ",", color="#225588")
        left = float(np.mean(x[:, 0] < 0))
        axis.set(title=name, xlabel=f"left {left:.2f}, right {1 - left:.2f}", aspect="equal")
    head = ("sampler", "left mode", "standard error", f"error against {weight}", "seconds")
    sections = {
        "Samples": page.picture(run, "samples", figure, "The first 2,000 samples of each."),
        "Weights": page.wide_table(head, rows),
    }
    lead = (
        "A mixture of two Gaussians. Chains of plain Langevin dynamics stay at the mode where "
        "they came in, whatever its weight."
    )
    page.write_report(run, "Weights of separated modes", lead, sections)


if __name__ == "__main__":
    command(main)
