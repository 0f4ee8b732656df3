"""Score-based generative modeling by stochastic differential equations (score SDE), on images.

    python -m experiments.score_sde                                  VE, predictor-corrector
    python -m experiments.score_sde --process vp --sampler flow      VP, probability-flow ODE

A score network is trained along a process (arXiv:2011.13456) at uniform times with weight
sigma^2. Samplers are the reverse SDE by Euler-Maruyama; predictor-corrector, which alternates
ancestral steps and Langevin corrections; and the probability-flow ODE, by Heun's method or with
adaptive steps. The likelihood is estimated by the same ODE.

The default run takes under three minutes on 2 cores.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from ebm_jax import losses, noise, samplers
from ebm_jax.data import Color, load_split
from ebm_jax.ema import ramped
from ebm_jax.nets import ConvScore, precondition
from ebm_jax.recipes import DiffusionRecipe, FlowSampler, Optimizer, SolverSampler
from ebm_jax.runs.command import command
from ebm_jax.runs.diffusion import begin_images, train_diffusion
from ebm_jax.runs.drawing import draw_images, draw_paths, flow_bits, over_images
from ebm_jax.runs.flags import samples_to_draw
from ebm_jax.runs.run import Run
from ebm_jax.types import Scalar

PROCESSES: dict[str, Callable[[], noise.Process]] = {
    "ve": noise.ve,
    "vp": noise.vp,
    "sub_vp": noise.sub_vp,
}
SOLVERS: dict[str, Callable[[noise.Process], samplers.Solver]] = {
    "em": samplers.euler_maruyama,
    "pc": partial(samplers.predictor_corrector, snr=0.16),
    "flow": samplers.heun,
    "adaptive": samplers.heun,  # for the pictures of sample paths
}
LOWEST = 0.01  # noise level at which samplers stop; less is invisible in 256 gray values


def main(
    run: Run,
    *,
    data: str = "digits",
    resize: int | None = None,
    color: Color | None = None,
    process: Literal["ve", "vp", "sub_vp"] = "ve",
    sampler: Literal["pc", "em", "flow", "adaptive"] = "pc",
    num_steps: int = 1500,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    ema_decay: float = 0.995,
    channels: tuple[int, ...] = (32, 64),
    blocks: int = 2,
    patch: int = 1,
    sample_steps: int = 150,
    num_samples: int | None = None,
    num_likelihoods: int = 64,
    num_probes: int = 1,
    seed: int = 0,
) -> None:
    """Trains scores along a process, samples by its reverse, and estimates the likelihood.

    Args:
        run: the run.
        data: "digits", "mnist", "cifar10", or a path: an .npz, images, or MNIST's idx files.
        resize: side of the squares that a folder's images are cut and resized to.
        color: "gray" or "rgb"; converts the images of a folder.
        process: "ve", "vp" or "sub_vp".
        sampler: "pc" predictor-corrector, "em" Euler-Maruyama, "flow" probability-flow ODE by
            Heun's method, "adaptive" the same ODE to a tolerance of 1e-4.
        num_steps: optimization steps.
        batch_size: images per step.
        learning_rate: peak learning rate of Adam: 5% of the steps warm up, a cosine decays to 0.
        ema_decay: decay of the exponential moving average (EMA) of the parameters.
        channels: channels of the network at each resolution, multiples of 8.
        blocks: residual blocks at each resolution.
        patch: side of the squares of pixels that the network sees as one.
        sample_steps: steps of the solver, evenly spaced in log-SNR.
        num_samples: number of samples; by default that of held-out images, at most 1000.
        num_likelihoods: number of held-out images whose likelihood is estimated.
        num_probes: random probes of the divergence per image.
        seed: seed of all random numbers.
    """
    images, held_out = load_split(data, resize=resize, color=color)
    shape = images.pixels.shape[1:]
    times, low, high = visited(PROCESSES[process](), sample_steps)
    solver = SolverSampler(SOLVERS[sampler], PROCESSES[process], times)
    drawn_by: Any = FlowSampler(high, low) if sampler == "adaptive" else solver
    recipe = DiffusionRecipe(
        net=ConvScore(channels, blocks, patch),
        wrap=precondition.ncsn if process == "ve" else precondition.predicted_noise,
        objective=losses.noise_conditional,
        level=partial(level_at_share, process=PROCESSES[process]()),
        sampler=drawn_by,
        optimizer=Optimizer(learning_rate, b2=0.99, warm_up=num_steps // 20, decay=True, clip=10.0),
        ema=ramped(ema_decay),
        batch_size=batch_size,
        num_steps=num_steps,
        shape=shape,
        source="arXiv:2011.13456",
    )
    if not begin_images(run, recipe, images, held_out, num_samples):
        return
    model = train_diffusion(run, recipe, images, held_out, seed=seed)
    num_samples = samples_to_draw(num_samples, len(held_out.pixels))
    with run.clock("sample"):
        samples = draw_images(model.draw, num_samples, seed + 1)
        np.savez_compressed(run.folder / "samples.npz", samples=samples)
    results: dict[str, float] = {}
    if sampler != "adaptive":
        results["evaluations per sample"] = float(solver.evaluations)
    denoise_fn = model.denoiser()
    with run.clock("likelihood"):
        bits = flow_bits(denoise_fn, sigma_min=low, sigma_max=high, num_probes=num_probes)
        mean, error = over_images(bits, held_out.pixels, num_likelihoods, seed + 3)
    results["bits per dimension, held out"] = float(mean)
    results["bits per dimension, standard error"] = float(error)
    with run.clock("judge"):
        from ebm_jax.runs.judge import judge_images

        results |= judge_images(samples, images, held_out, seed)
    path = partial(solver.path, denoise_fn, like=jnp.zeros(shape))
    from ebm_jax.runs.image_page import image_report

    image_report(
        run,
        f"Score SDE: {process}, {sampler}",
        f"Scores learned on {len(images.pixels)} images of {data} along the process {process}, "
        f"sampled by its reverse.",
        samples,
        draw_paths(path, seed + 1),
        images.pixels,
        held_out.pixels,
        results,
    )
    run.finish(results)


def visited(process: noise.Process, num_steps: int) -> tuple[noise.Times, float, float]:
    """Returns the times of the solver, even in log-SNR, and the lowest and highest noise level."""
    last = process.time_of_level(jnp.float32(LOWEST))
    times = noise.log_snr_times(process, num_steps, t_min=float(last))
    return times, float(process.level(times[-1])), float(process.level(times[0]))


def level_at_share(u: Scalar, *, process: noise.Process) -> Scalar:
    """Returns the noise level at the fraction u of the process's time range."""
    share = jnp.clip(u, 1e-3, 1.0)
    return process.level(process.t_min + (process.t_max - process.t_min) * share)


if __name__ == "__main__":
    command(main)
