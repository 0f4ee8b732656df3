"""Denoising diffusion probabilistic models on images: noise prediction and ancestral sampling.

    python -m experiments.ddpm                  digits bundled with scikit-learn, 8x8
    python -m experiments.ddpm --data mnist/    a folder of MNIST's idx files, of images, or .npz

A network predicts the noise at the thousand levels of a DDPM (arXiv:2006.11239) with the simple
loss, the same weight at each. Samples are drawn by its ancestral sampler, clipped at every step
and on as many steps as asked for; the variational bound of held-out images is measured
in bits a dimension, with its three parts.

The default run takes under three minutes on 2 cores.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from ebm_jax import likelihood, losses, noise, samplers
from ebm_jax.data import load_split
from ebm_jax.guidance import clamped
from ebm_jax.nets import ConvScore
from ebm_jax.types import DenoiseFn, Example, PRNGKey
from experiments._denoiser import (
    check_denoiser,
    draw_images,
    draw_paths,
    over_images,
    predicted_noise,
    report,
    train_denoiser,
)
from experiments._flags import check_flags, check_judged, described
from experiments._run import Run, command

NUM_LEVELS = 1000


def main(
    *,
    data: str = "digits",
    out: str = "",
    num_steps: int = 1500,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    ema_decay: float = 0.995,
    channels: tuple[int, ...] = (32, 64),
    blocks: int = 2,
    patch: int = 1,
    sample_steps: int = 250,
    variance: Literal["small", "large"] = "large",
    num_samples: int | None = None,
    num_likelihoods: int = 64,
    seed: int = 0,
) -> None:
    """Learn images by predicting noise, draw new ones ancestrally, and bound their likelihood.

    Args:
        data: "digits", "mnist", "cifar10"; or by path an .npz, images, or MNIST's idx files.
        out: the run's folder; runs/ddpm by default. The same command resumes it.
        num_steps: optimization steps.
        batch_size: images in a step.
        learning_rate: peak of Adam's, after a warm-up of a twentieth, then a cosine to 0.
        ema_decay: decay of the parameters' moving average, which samples use.
        channels: channels of the network at each resolution, multiples of 8.
        blocks: residual blocks at each resolution.
        patch: side of the squares of pixels that the network sees as one.
        sample_steps: ancestral steps, spread evenly over the thousand levels.
        variance: of an ancestral step, "small" or "large".
        num_samples: samples to draw; by default as many as images were held out, at most 1000.
        num_likelihoods: held-out images whose bound is measured.
        seed: seed of everything.
    """
    config = {name: value for name, value in locals().items() if name != "out"}
    check_flags(config)
    images, held_out = load_split(data)
    config |= described(images, held_out)
    net = ConvScore(channels, blocks, patch)
    check_judged(images, held_out, num_samples)
    check_denoiser(images, net, batch_size)
    run = Run("ddpm", out, config)
    if run.is_done():
        return
    num_samples = num_samples or min(len(held_out.pixels), 1000)
    sigmas = noise.ddpm_levels(NUM_LEVELS)
    denoise = train_denoiser(
        run,
        images,
        held_out,
        net,
        predicted_noise,
        losses.noise_conditional,
        lambda u: sigmas[(u * NUM_LEVELS).astype(int)],
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        ema_decay=ema_decay,
        seed=seed,
    )
    process = noise.vp()._replace(t_max=1.01)  # the top level of a DDPM is 157
    solver = samplers.ancestral(process, large_variance=variance == "large")
    visited = np.linspace(0, NUM_LEVELS - 1, min(sample_steps, NUM_LEVELS)).round().astype(int)
    times = noise.times_of_levels(process, sigmas[visited])
    like, inside = jnp.zeros(images.pixels.shape[1:]), clamped(denoise)

    def draw(key: PRNGKey) -> Example:
        return samplers.sample(solver, inside, key, like, times, final_denoise=True)

    with run.clock("sample"):
        samples = draw_images(draw, num_samples, seed + 1)
        np.savez_compressed(run.folder / "samples.npz", samples=samples)
    results: dict[str, float] = {
        "evaluations a sample": samplers.num_evaluations(solver, times, final_denoise=True)
    }
    with run.clock("likelihood"):
        mean, error = over_images(
            bound_in_bits(denoise, sigmas), held_out.pixels, num_likelihoods, seed + 3
        )
    for name, m, e in zip(
        ("bound", *likelihood.VariationalBound._fields), mean, error, strict=True
    ):
        results[f"bits a dimension, {name}"] = float(m)
        results[f"its standard error, {name}"] = float(e)
    with run.clock("judge"):
        from experiments._judge import judge_images

        results |= judge_images(samples, images, held_out, seed)
    paths = draw_paths(solver, inside, like, times, seed + 1)
    lead = __doc__.split("\n\n")[2]
    report(run, "DDPM", lead, samples, paths, held_out.pixels, results)
    run.finish(results)


def bound_in_bits(
    denoise_fn: DenoiseFn, sigmas: Array
) -> Callable[[PRNGKey, UInt8[Array, "h w c"]], Array]:
    """measure(key, image): the variational bound and its parts, in bits a dimension."""

    def measure(key: PRNGKey, image: UInt8[Array, "h w c"]) -> Array:
        x = (2 * image.astype(jnp.float32) - 255) / 255
        parts = jnp.stack(
            likelihood.variational_bound(
                denoise_fn, key, x, sigmas, likelihood.log_discretized_normal
            )
        )
        nats = jnp.concatenate([jnp.sum(parts)[None], parts])
        return nats / (image.size * jnp.log(2.0))

    return measure


if __name__ == "__main__":
    command(main)
