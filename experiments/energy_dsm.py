"""Denoising score matching of an energy in the plane: the simple case, with its numbers.

    python -m experiments.energy_dsm --data checkerboard

An MLP energy E(x) is trained at one noise level sigma (Vincent 2011), so that what it
learns is the law smoothed by sigma: its score -grad E is matched, its constant stays free.
Langevin dynamics on E draws samples. Four panels: data, samples, energy, score field.

Where the smoothed law has a known density, KL(data || model) is exact to quadrature on a
grid; elsewhere there are the MMD and the support. At most a minute on 2 cores; expect a
KL of about .01 nats on eight_gaussians and .02 on checkerboard.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ebm_jax import likelihood, losses, metrics, targets
from ebm_jax.calculus import score_from_energy
from ebm_jax.keys import example_keys
from ebm_jax.nets import EnergyMLP
from ebm_jax.samplers import run as run_chain
from ebm_jax.samplers import ula
from ebm_jax.sharding import spread
from ebm_jax.targets import Target
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar
from experiments._flags import UNSTABLE, check_flags, finite
from experiments._run import Run, command
from experiments._train import fresh_batches, mesh_for, train

HALF_WIDTH = 6.0  # of the square of quadrature; the laws lie within about 4
Name = Literal["eight_gaussians", "two_spirals", "rings", "moons", "pinwheel", "checkerboard"]


def main(
    *,
    data: Name = "eight_gaussians",
    out: str = "",
    sigma: float = 0.1,
    num_steps: int = 15_000,
    batch_size: int = 512,
    learning_rate: float = 2e-3,
    widths: tuple[int, ...] = (128, 128),
    num_chains: int = 4096,
    chain_steps: int = 1000,
    step_size: float = 2e-3,
    seed: int = 0,
) -> None:
    """Learn an energy in the plane by denoising score matching and sample it.

    Args:
        data: the law to learn.
        out: the run's folder; runs/energy_dsm-<data> by default.
        sigma: noise level; the energy learns the law smoothed by it.
        num_steps: optimization steps.
        batch_size: fresh examples in a step.
        learning_rate: peak of Adam's, decayed to 0 by a cosine.
        widths: hidden widths of the energy's MLP.
        num_chains: Langevin chains, and draws of data to compare with.
        chain_steps: Langevin steps from uniform starts on [-4, 4]^2.
        step_size: Langevin step size, below sigma^2.
        seed: seed of everything.
    """
    config = {name: value for name, value in locals().items() if name != "out"}
    check_flags(config)
    mesh_for(batch_size)
    run = Run(f"energy_dsm-{data}", out, config)
    if run.is_done():
        return
    target: Target = getattr(targets, data)()
    net = EnergyMLP(widths)

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        score_fn = score_from_energy(partial(net.apply, params))
        return losses.denoising_score_matching(lambda x, _: score_fn(x), key, x, jnp.float32(sigma))

    state = train(
        run,
        loss,
        jax.jit(net.init)(jax.random.key(seed), jnp.zeros(2)),
        optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps)),
        fresh_batches(target.draw, seed + 1, batch_size),
        num_steps=num_steps,
        batch_size=batch_size,
        seed=seed,
        ema_decay=0.999,
        steps_per_call=500,
    )
    energy: EnergyFn = jax.jit(partial(net.apply, state.ema))
    with run.clock("sample"):
        samples = sample(energy, num_chains, chain_steps, step_size, seed)
    with run.clock("judge"):
        keys = example_keys(jax.random.key(seed + 3), jnp.arange(num_chains))
        noisy = spread(target.draw)(keys) + sigma * jax.random.normal(
            jax.random.key(seed + 4), (num_chains, 2)
        )
        results = judge(energy, target, sigma, samples, noisy)
    np.savez_compressed(run.folder / "samples.npz", samples=samples, data=noisy)
    report(run, energy, np.asarray(samples), np.asarray(noisy), results)
    run.finish(results)


def sample(energy: EnergyFn, count: int, steps: int, step_size: float, seed: int) -> Array:
    """The ends of `count` Langevin chains; chain i depends on (seed, i) alone."""
    kernel = ula(score_from_energy(energy), step_size=step_size)

    @spread
    def chain(key: PRNGKey) -> Example:
        key_start, key_chain = jax.random.split(key)
        start = kernel.init(jax.random.uniform(key_start, (2,), minval=-4.0, maxval=4.0))
        state, _ = run_chain(kernel, key_chain, start, steps)
        return state.x

    ends = chain(example_keys(jax.random.key(seed + 2), jnp.arange(count)))
    return jnp.asarray(finite("chains", ends, UNSTABLE))


def judge(
    energy: EnergyFn, target: Target, sigma: float, samples: Array, data: Array
) -> dict[str, float]:
    """KL by quadrature, MMD, and the share of samples in the support.

    The support is where the smoothed density exceeds the level that 99% of data exceed,
    or, without a density, what lies as near to data as 99% of data do to other data.
    """
    results = {}
    half = len(data) // 2
    if target.smoothed is not None:
        law = target.smoothed(sigma)
        assert law.energy is not None
        kl = jax.jit(partial(likelihood.kl_on_grid, law.energy, energy, half_width=HALF_WIDTH))
        results["KL(smoothed data || model), nats"] = float(kl())
        inside = jax.jit(jax.vmap(law.energy))
        level = jnp.quantile(inside(data), 0.99)
        shares = {"samples": inside(samples) <= level, "data": inside(data) <= level}
    else:
        nearest = jax.jit(metrics.nearest_distance)
        far = jnp.quantile(nearest(data[:half], data[half:]), 0.99)
        near = {
            name: nearest(x[:half], data[half:])
            for name, x in (("samples", samples), ("data", data))
        }
        shares = {name: distance <= far for name, distance in near.items()}
    for name, share in shares.items():
        results[f"share in the support, {name}"] = float(jnp.mean(share))
    bandwidth = jax.jit(metrics.median_distance)(data[:half])
    mmd = jax.jit(partial(metrics.squared_mmd, bandwidth=bandwidth))
    results["squared MMD, samples against data"] = float(mmd(samples[half:], data[:half]))
    results["squared MMD, data against data"] = float(mmd(data[half:], data[:half]))
    return results


def report(
    run: Run, energy: EnergyFn, samples: np.ndarray, data: np.ndarray, results: dict[str, float]
) -> None:
    """The page: the four panels, the curves, the figures."""
    from experiments import _report as page

    panels = page.Figure(figsize=(10, 2.8), layout="constrained")
    axes = panels.subplots(1, 4, sharex=True, sharey=True)
    for axis, title, points in ((axes[0], "data", data), (axes[1], "samples", samples)):
        axis.plot(*points.T, ",", color="#225588", alpha=0.6)
        axis.set_title(title)
    log_density = partial(likelihood.log_density_on_grid, energy, num_points=200)
    log_p = jax.jit(partial(log_density, half_width=HALF_WIDTH))()
    shown, extent = page.plane(np.maximum(-np.asarray(log_p), 0.0), HALF_WIDTH)
    axes[2].imshow(np.minimum(shown, shown.min() + 8), extent=extent, cmap="viridis")
    axes[2].set_title("energy, least to least + 8")
    grid = likelihood.square_grid(4.5, 22)
    score = np.asarray(jax.jit(jax.vmap(score_from_energy(energy)))(grid))
    length = np.linalg.norm(score, axis=-1, keepdims=True)
    arrows = score / length * np.minimum(length, 10.0)
    axes[3].quiver(*np.asarray(grid).T, *arrows.T, color="#225588", width=0.004)
    axes[3].set_title("score, arrows cut at 10")
    for axis in axes:
        axis.set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), aspect="equal")
    sections = {
        "Panels": page.picture(run, "panels", panels, "Data smoothed by sigma, and the model."),
        "Figures": page.table(results),
        "Training": page.picture(run, "training", page.curves(run), "Means over a compiled call."),
    }
    lead = f"An energy for {run.config['data']}, learned by denoising score matching."
    page.write_report(run, "Denoising score matching of an energy", lead, sections)


if __name__ == "__main__":
    command(main)
