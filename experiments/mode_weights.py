"""Langevin dynamics loses the weights of separated modes; annealing and tempering keep them.

    python -m experiments.mode_weights

The target is a mixture of two Gaussians in the plane with weights .8 and .2, ten standard
deviations apart. Near a mode the score does not depend on the mode's weight, so chains that start
uniformly stay in the mode they enter: half in each (arXiv:1907.05600, section 3.2.2). Annealed
Langevin dynamics starts at a noise level that merges the modes, and parallel tempering exchanges
states with hot replicas that cross between them; both recover .8. All use the exact score or
energy, so the error is that of the samplers alone.

It takes about half a minute on 2 cores. Expect .51 for `ula` and `mala`, and .80 within .02 for
the others.
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
    """Compares samplers on a mixture whose modes are far apart.

    Args:
        run: the run.
        weight: weight of the left mode; the right one has the rest.
        distance: distance between the modes.
        scale: standard deviation of each mode.
        num_chains: number of chains of each sampler, which give one sample each.
        num_steps: steps per chain, over all levels together for annealing.
        step_size: step size of `ula` and `mala`; that of a replica is multiplied by its
            temperature.
        num_replicas: number of temperatures of parallel tempering, geometric from 1.
        max_temperature: highest temperature.
        num_levels: noise levels of annealed Langevin dynamics.
        step_ratio: its step size divided by sigma^2.
        seed: seed of all random numbers.
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
    """Returns the end of a chain that starts uniformly on a square around both modes."""
    key_start, key_run = jax.random.split(key)
    x = jax.random.uniform(key_start, (2,), minval=-distance, maxval=distance)
    return run_chain(kernel, key_run, kernel.init(x), num_steps)[0].x


def annealed(
    score_fn: NoisyScoreFn, sigmas: Array, steps: int, step_ratio: float, key: PRNGKey
) -> Array:
    """Draws one sample by annealed Langevin dynamics with the exact smoothed score."""
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
    """Writes the page: the samples of all samplers side by side, and the weights with errors."""
    from ebm_jax.runs import page

    figure = page.Figure(figsize=(10, 2.4), layout="constrained")
    axes = figure.subplots(1, len(samples), sharex=True, sharey=True)
    for axis, (name, x) in zip(axes, samples.items(), strict=True):
        axis.plot(*x[:2000].T, ",", color="#225588")
        left = float(np.mean(x[:, 0] < 0))
        axis.set(title=name, xlabel=f"left {left:.2f}, right {1 - left:.2f}", aspect="equal")
    head = ("sampler", "left mode", "standard error", f"error against {weight}", "seconds")
    sections = {
        "Samples": page.picture(
            run,
            "samples",
            figure,
            "Scatter plots of the samples of each method.",
            "The first 2,000 samples of each.",
        ),
        "Weights": page.wide_table(head, rows),
    }
    lead = (
        "A mixture of two Gaussians. Chains of plain Langevin dynamics stay at the mode where "
        "they came in, whatever its weight."
    )
    page.write_report(run, "Weights of separated modes", lead, sections)


if __name__ == "__main__":
    command(main)
