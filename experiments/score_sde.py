"""Score-based generative modeling by stochastic differential equations, on images.

    python -m experiments.score_sde                                  VE, predictor-corrector
    python -m experiments.score_sde --process vp --sampler flow      VP, probability flow

A score network is trained along a process (arXiv:2011.13456) at uniform times, weight sigma^2,
and sampled by its reverse: the SDE by Euler and Maruyama, ancestral steps with Langevin
corrections, or the probability flow by Heun's method or solved to a tolerance. Its likelihood
is measured by the same flow.

The default run takes under three minutes on 2 cores.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np

from ebm_jax import losses, noise, samplers
from ebm_jax.data import load_split
from ebm_jax.nets import ConvScore, precondition
from ebm_jax.noise import Process
from ebm_jax.types import Example, PRNGKey
from experiments._denoiser import (
    check_denoiser,
    draw_images,
    draw_paths,
    flow_bits,
    over_images,
    predicted_noise,
    report,
    train_denoiser,
)
from experiments._flags import check_flags, check_judged, described
from experiments._run import Run, command

PROCESSES = {
    "ve": noise.ve(),
    "vp": noise.vp(),
    "sub_vp": noise.sub_vp(),
}
SOLVERS: dict[str, Callable[[Process], samplers.Solver]] = {
    "em": samplers.euler_maruyama,
    "pc": lambda process: samplers.predictor_corrector(process, samplers.ancestral, snr=0.16),
    "flow": samplers.heun,
    "adaptive": samplers.heun,  # for the pictures of the way
}


def main(
    *,
    data: str = "digits",
    process: Literal["ve", "vp", "sub_vp"] = "ve",
    sampler: Literal["pc", "em", "flow", "adaptive"] = "pc",
    out: str = "",
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
    """Learn images along a process, draw new ones by its reverse, and measure their likelihood.

    Args:
        data: "digits", "mnist", "cifar10"; or by path an .npz, images, or MNIST's idx files.
        process: "ve", "vp" or "sub_vp".
        sampler: "pc" predictor-corrector, "em" Euler-Maruyama, "flow" Heun's method,
            "adaptive" the flow to a tolerance of 1e-4.
        out: the run's folder; runs/score_sde by default. The same command resumes it.
        num_steps: optimization steps.
        batch_size: images in a step.
        learning_rate: peak of Adam's, after a warm-up of a twentieth, then a cosine to 0.
        ema_decay: decay of the parameters' moving average, which samples use.
        channels: channels of the network at each resolution, multiples of 8.
        blocks: residual blocks at each resolution.
        patch: side of the squares of pixels that the network sees as one.
        sample_steps: steps of the solver, even in log-SNR.
        num_samples: samples to draw; by default as many as images were held out, at most 1000.
        num_likelihoods: held-out images whose likelihood is measured.
        num_probes: random probes of the divergence for each.
        seed: seed of everything.
    """
    config = {name: value for name, value in locals().items() if name != "out"}
    check_flags(config)
    images, held_out = load_split(data)
    config |= described(images, held_out)
    net = ConvScore(channels, blocks, patch)
    check_judged(images, held_out, num_samples)
    check_denoiser(images, net, batch_size)
    run = Run("score_sde", out, config)
    if run.is_done():
        return
    num_samples = num_samples or min(len(held_out.pixels), 1000)
    law = PROCESSES[process]
    scaled = precondition.ncsn if process == "ve" else predicted_noise
    denoise = train_denoiser(
        run,
        images,
        held_out,
        net,
        scaled,
        losses.noise_conditional,
        lambda u: law.level(law.t_min + (law.t_max - law.t_min) * jnp.clip(u, 1e-3, 1.0)),
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        ema_decay=ema_decay,
        seed=seed,
    )
    solver, like = SOLVERS[sampler](law), jnp.zeros(images.pixels.shape[1:])
    # Below a level of .01 there is nothing to see in 256 gray values.
    last = law.time_of_level(jnp.float32(0.01))
    times = noise.log_snr_times(law, sample_steps, t_min=float(last))
    low, high = float(law.level(times[-1])), float(law.level(times[0]))

    def draw(key: PRNGKey) -> Example:
        if sampler != "adaptive":
            return samplers.sample(solver, denoise, key, like, times, final_denoise=True)
        start = law.draw_prior(key, like, times[0]) / law.alpha(times[0])
        end = samplers.follow_flow(denoise, start, high, low, rtol=1e-4, atol=1e-4).x
        return denoise(end, jnp.float32(low))

    with run.clock("sample"):
        samples = draw_images(draw, num_samples, seed + 1)
        np.savez_compressed(run.folder / "samples.npz", samples=samples)
    results: dict[str, float] = {}
    if sampler != "adaptive":
        taken = samplers.num_evaluations(solver, times, final_denoise=True)
        results["evaluations a sample"] = taken
    with run.clock("likelihood"):
        bits = flow_bits(denoise, sigma_min=low, sigma_max=high, num_probes=num_probes)
        mean, error = over_images(bits, held_out.pixels, num_likelihoods, seed + 3)
    results["bits a dimension, held out"] = float(mean)
    results["its standard error"] = float(error)
    with run.clock("judge"):
        from experiments._judge import judge_images

        results |= judge_images(samples, images, held_out, seed)
    paths = draw_paths(solver, denoise, like, times, seed + 1)
    lead = __doc__.split("\n\n")[2]
    report(run, f"Score SDE: {process}, {sampler}", lead, samples, paths, held_out.pixels, results)
    run.finish(results)


if __name__ == "__main__":
    command(main)
