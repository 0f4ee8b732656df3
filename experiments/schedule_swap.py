"""One network, every process: a denoiser does not know the schedule it was trained on.

    python -m experiments.schedule_swap

A denoiser D(x, sigma) is trained once, at EDM's levels. Then it is sampled along VE, VP, sub-VP,
cosine and EDM's own process, by the same solver over the same number of steps: in
variance-exploding coordinates they differ in the levels they visit, and in nothing else. All
start from the same random numbers, and end on nearly the same images.

The default run takes under three minutes on 2 cores.
"""

import jax.numpy as jnp
import numpy as np

from ebm_jax import noise, samplers
from ebm_jax.data import load_split
from ebm_jax.types import Example, PRNGKey
from experiments._denoiser import check_edm, draw_images, train_edm
from experiments._flags import check_flags, check_judged, described
from experiments._run import Run, command

PROCESSES = {
    "edm": noise.edm(),
    "ve": noise.ve(),
    "vp": noise.vp(),
    "sub_vp": noise.sub_vp(),
    "cosine": noise.cosine(),
}
SHOWN = 50  # samples of each process in its grid
LOWEST = 0.01  # the level at which every process stops


def main(
    *,
    data: str = "digits",
    out: str = "",
    num_steps: int = 1000,
    channels: tuple[int, ...] = (32, 64),
    patch: int = 1,
    sample_steps: int = 40,
    num_samples: int | None = None,
    seed: int = 0,
) -> None:
    """Train one denoiser, sample it along five processes, judge each.

    Args:
        data: "digits", "mnist", "cifar10"; or by path an .npz, images, or MNIST's idx files.
        out: the run's folder; runs/schedule_swap by default. The same command resumes it.
        num_steps: optimization steps.
        channels: channels of the network at each resolution, multiples of 8.
        patch: side of the squares of pixels that the network sees as one.
        sample_steps: steps of DPM-Solver++(2M), even in log-SNR.
        num_samples: samples of each; by default as many as images were held out, at most 1000.
        seed: seed of everything.
    """
    config = {name: value for name, value in locals().items() if name != "out"}
    check_flags(config)
    images, held_out = load_split(data)
    config |= described(images, held_out)
    check_judged(images, held_out, num_samples)
    check_edm(images, channels=channels, patch=patch)
    run = Run("schedule_swap", out, config)
    if run.is_done():
        return
    num_samples = num_samples or min(len(held_out.pixels), 1000)
    denoise = train_edm(
        run, images, held_out, channels=channels, patch=patch, num_steps=num_steps, seed=seed
    )
    like, drawn = jnp.zeros(images.pixels.shape[1:]), {}
    with run.clock("sample"):
        for name, process in PROCESSES.items():
            last = process.time_of_level(jnp.float32(LOWEST))
            times = noise.log_snr_times(process, sample_steps, t_min=float(last))
            solver = samplers.dpm_solver_pp_2m(process)

            def draw(
                key: PRNGKey, solver: samplers.Solver = solver, times: noise.Times = times
            ) -> Example:
                return samplers.sample(solver, denoise, key, like, times, final_denoise=True)

            drawn[name] = draw_images(draw, num_samples, seed + 1, name)
    np.savez_compressed(run.folder / "samples.npz", **drawn)  # type: ignore[arg-type]
    results: dict[str, float] = {}
    with run.clock("judge"):
        from experiments._judge import judge_images

        for name, samples in drawn.items():
            judged = judge_images(samples, images, held_out, seed)
            ratio = "Frechet distance, samples / real"
            results[f"{ratio}, {name}"] = judged[ratio]
            apart = np.abs(samples.astype(float) - drawn["edm"]).mean() / 255
            results[f"mean difference from edm's samples, {name}"] = float(apart)
    report(run, drawn, results)
    run.finish(results)


def report(run: Run, drawn: dict[str, np.ndarray], results: dict[str, float]) -> None:
    """The page: a grid of samples for every process, in the same order."""
    from experiments import _report as page

    grids = [
        page.picture(run, name, page.image_grid(samples[:SHOWN], 10), name)
        for name, samples in drawn.items()
    ]
    sections = {
        "The same random numbers along every process": page.beside(*grids),
        "Figures": page.table(results),
        "Training": page.picture(run, "training", page.curves(run), "Means between rows."),
    }
    page.write_report(run, "One network, every process", __doc__.split("\n\n")[2], sections)


if __name__ == "__main__":
    command(main)
