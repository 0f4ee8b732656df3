"""One denoiser sampled along five noise schedules, without retraining.

    python -m experiments.schedule_swap

A denoiser D(x, sigma) is trained once, at EDM's levels. It is then sampled along VE, VP, sub-VP,
cosine and EDM's own process, by the same solver with the same number of steps. In
variance-exploding coordinates these processes differ only in the levels they visit. All start
from the same random numbers and end on nearly the same images.

The default run takes under three minutes on 2 cores.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from ebm_jax import noise, samplers
from ebm_jax.data import Color, load_split
from ebm_jax.recipes import SolverSampler
from ebm_jax.recipes.small import edm_small
from ebm_jax.runs.command import command
from ebm_jax.runs.diffusion import begin_images, pixel_std, train_diffusion
from ebm_jax.runs.drawing import draw_images
from ebm_jax.runs.flags import samples_to_draw
from ebm_jax.runs.run import Run

PROCESSES: dict[str, Callable[[], noise.Process]] = {
    "edm": noise.edm,
    "ve": noise.ve,
    "vp": noise.vp,
    "sub_vp": noise.sub_vp,
    "cosine": noise.cosine,
}
SHOWN = 50  # samples of each process in its grid
LOWEST = 0.01  # noise level at which every process stops


def main(
    run: Run,
    *,
    data: str = "digits",
    resize: int | None = None,
    color: Color | None = None,
    num_steps: int = 1000,
    channels: tuple[int, ...] = (32, 64),
    patch: int = 1,
    sample_steps: int = 40,
    num_samples: int | None = None,
    seed: int = 0,
) -> None:
    """Trains one denoiser, samples it along five processes, and evaluates each.

    Args:
        run: the run.
        data: "digits", "mnist", "cifar10", or a path: an .npz, images, or MNIST's idx files.
        resize: side of the squares that a folder's images are cut and resized to.
        color: "gray" or "rgb"; converts the images of a folder.
        num_steps: optimization steps.
        channels: channels of the network at each resolution, multiples of 8.
        patch: side of the squares of pixels that the network sees as one.
        sample_steps: steps of DPM-Solver++(2M), evenly spaced in log-SNR.
        num_samples: samples per process; by default that of held-out images, at most 1000.
        seed: seed of all random numbers.
    """
    images, held_out = load_split(data, resize=resize, color=color)
    sigma_data = pixel_std(images)
    along = {name: sampler_along(name, sample_steps) for name in PROCESSES}
    recipe = edm_small(
        images.pixels.shape[1:], sigma_data, channels=channels, patch=patch, num_steps=num_steps
    )._replace(sampler=along["edm"])
    if not begin_images(run, recipe, images, held_out, num_samples):
        return
    model = train_diffusion(run, recipe, images, held_out, seed=seed)
    num_samples = samples_to_draw(num_samples, len(held_out.pixels))
    drawn: dict[str, np.ndarray] = {}
    with run.clock("sample"):
        for name, sampler in along.items():
            draw = model._replace(sampler=sampler).draw
            drawn[name] = draw_images(draw, num_samples, seed + 1, name)
    np.savez_compressed(run.folder / "samples.npz", **drawn)  # type: ignore[arg-type]
    results: dict[str, float] = {}
    with run.clock("judge"):
        from ebm_jax.runs.judge import judge_images

        for name, samples in drawn.items():
            judged = judge_images(samples, images, held_out, seed)
            ratio = "Frechet distance, samples / real"
            results[f"{ratio}, {name}"] = judged[ratio]
            apart = np.abs(samples.astype(float) - drawn["edm"]).mean() / 255
            results[f"mean difference from edm's samples, {name}"] = float(apart)
    report(run, drawn, results)
    run.finish(results)


def sampler_along(name: str, num_steps: int) -> SolverSampler:
    """Returns DPM-Solver++(2M) along a process, with steps even in log-SNR down to LOWEST."""
    process = PROCESSES[name]()
    last = process.time_of_level(jnp.float32(LOWEST))
    times = noise.log_snr_times(process, num_steps, t_min=float(last))
    return SolverSampler(samplers.dpm_solver_pp_2m, PROCESSES[name], times)


def report(run: Run, drawn: dict[str, np.ndarray], results: dict[str, float]) -> None:
    """Writes the page: a grid of samples per process, in the same order."""
    from ebm_jax.runs import charts, page

    grids = [
        page.picture(
            run, name, page.image_grid(samples[:SHOWN], 10), f"Samples of the process {name}.", name
        )
        for name, samples in drawn.items()
    ]
    sections = {
        "The same random numbers along every process": page.beside(*grids),
        "Metrics": page.table(results),
        "Training": charts.curves(run),
    }
    lead = (
        f"One denoiser, trained at EDM's levels on {run.config['data']}, sampled along five "
        "processes by the same solver from the same random numbers."
    )
    page.write_report(run, "One network, every process", lead, sections)


if __name__ == "__main__":
    command(main)
