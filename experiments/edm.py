"""A diffusion model of images: EDM's training, sampler and likelihood.

    python -m experiments.edm                     digits bundled with scikit-learn, 8x8
    python -m experiments.edm --data mnist --patch 2 --channels 64 128 --level-median 1.5

A denoiser D(x, sigma) is trained at log-normal noise levels with EDM's preconditioning and
weight (arXiv:2206.00364). Samples follow the probability flow by Heun's method over 18 levels,
35 evaluations each. The same flow gives the exact likelihood of held-out images, in bits a
dimension with its standard error. Samples are judged against held-out images by figures whose
floor is that of other training images against the same.

The default run takes under three minutes on 2 cores.
"""

import math
from functools import partial

import jax.numpy as jnp
import numpy as np

from ebm_jax import losses, noise, samplers
from ebm_jax.data import load_split, to_unit
from ebm_jax.nets import ConvScore, precondition
from ebm_jax.types import Example, PRNGKey
from experiments._denoiser import (
    check_denoiser,
    draw_images,
    draw_paths,
    flow_bits,
    over_images,
    report,
    train_denoiser,
)
from experiments._flags import check_flags, check_judged, described
from experiments._run import Run, command

CHURN = {"gamma": 0.4, "churn_min": 0.3, "churn_max": 20.0}


def main(
    *,
    data: str = "digits",
    out: str = "",
    num_steps: int = 1500,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    ema_decay: float = 0.995,
    level_median: float = 0.3,
    level_spread: float = 1.2,
    channels: tuple[int, ...] = (32, 64),
    blocks: int = 2,
    patch: int = 1,
    num_levels: int = 18,
    churn: bool = False,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    num_samples: int | None = None,
    num_likelihoods: int = 64,
    num_probes: int = 1,
    seed: int = 0,
) -> None:
    """Learn images with a denoiser, draw new ones by Heun's method, and measure its likelihood.

    Args:
        data: "digits", "mnist", "cifar10"; or by path an .npz, images, or MNIST's idx files.
        out: the run's folder; runs/edm by default. The same command resumes it.
        num_steps: optimization steps.
        batch_size: images in a step.
        learning_rate: peak of Adam's, after a warm-up of a twentieth, then a cosine to 0.
        ema_decay: decay of the parameters' moving average, which samples use.
        level_median: median of the log-normal noise levels of training; .3 is EDM's. The
            larger the image, the higher the level that settles its shapes: about 2 for 28x28.
        level_spread: standard deviation of their logarithms.
        channels: channels of the network at each resolution, multiples of 8.
        blocks: residual blocks at each resolution.
        patch: side of the squares of pixels that the network sees as one.
        num_levels: noise levels of the sampler; it takes 2 num_levels - 1 evaluations.
        churn: let every step between levels .3 and 20 first add noise, 1.4 times the level:
            later steps mend what the network got wrong before; wants some 30 levels.
        sigma_min: lowest noise level of sampler and likelihood; pixels lie in [-1, 1].
        sigma_max: highest.
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
    run = Run("edm", out, config)
    if run.is_done():
        return
    num_samples = num_samples or min(len(held_out.pixels), 1000)
    sigma_data = float(to_unit(images.pixels[:10_000]).std())
    denoise = train_denoiser(
        run,
        images,
        held_out,
        net,
        partial(precondition.edm, sigma_data=sigma_data),
        partial(losses.edm, sigma_data=sigma_data),
        partial(noise.log_normal_level, mean=math.log(level_median), std=level_spread),
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        ema_decay=ema_decay,
        seed=seed,
    )
    process = noise.edm(sigma_min=sigma_min, sigma_max=sigma_max)
    sigmas = noise.karras(sigma_max, sigma_min, num_levels)
    solver = samplers.edm(process, **CHURN) if churn else samplers.edm(process)
    like = jnp.zeros(images.pixels.shape[1:])

    def draw(key: PRNGKey) -> Example:
        return samplers.sample(solver, denoise, key, like, sigmas, final_denoise=True)

    with run.clock("sample"):
        samples = draw_images(draw, num_samples, seed + 1)
        np.savez_compressed(run.folder / "samples.npz", samples=samples)
    evaluations = samplers.num_evaluations(solver, sigmas, final_denoise=True)
    results: dict[str, float] = {"evaluations a sample": evaluations}
    with run.clock("likelihood"):
        bits = flow_bits(denoise, sigma_min=sigma_min, sigma_max=sigma_max, num_probes=num_probes)
        mean, error = over_images(bits, held_out.pixels, num_likelihoods, seed + 3)
    results["bits a dimension, held out"] = float(mean)
    results["its standard error"] = float(error)
    with run.clock("judge"):
        from experiments._judge import judge_images

        results |= judge_images(samples, images, held_out, seed)
    paths = draw_paths(solver, denoise, like, sigmas, seed + 1)
    lead = __doc__.split("\n\n")[2]
    report(run, "Diffusion by EDM", lead, samples, paths, held_out.pixels, results)
    run.finish(results)


if __name__ == "__main__":
    command(main)
