"""Denoising diffusion probabilistic models (DDPM) of images: noise prediction, ancestral sampling.

    python -m experiments.ddpm                  digits bundled with scikit-learn, 8x8
    python -m experiments.ddpm --data mnist/    a folder of MNIST's idx files, of images, or .npz

A network predicts the noise at the 1000 levels of DDPM (arXiv:2006.11239) with the simple loss,
equally weighted at each level. The paper draws levels uniformly; here they are drawn from a
log-normal distribution, more often in the middle, because a third of the levels lie above 10,
where there is nothing left to learn. The loss at each level, and so its minimum, is unchanged.
Samples are drawn by the ancestral sampler with any number of steps, clipped at every step. The
variational bound of held-out images is estimated in bits per dimension, with its three parts.

The default run takes under three minutes on 2 cores.
"""

import math
from functools import partial
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from ebm_jax import likelihood, losses, noise, samplers
from ebm_jax.data import Color, load_split
from ebm_jax.ema import ramped
from ebm_jax.nets import UNet, precondition
from ebm_jax.recipes import DiffusionRecipe, Optimizer, SolverSampler
from ebm_jax.runs.command import command
from ebm_jax.runs.diffusion import begin_images, class_names, train_diffusion
from ebm_jax.runs.drawing import Measure, draw_from, draw_paths, over_images
from ebm_jax.runs.flags import samples_to_draw
from ebm_jax.runs.run import Run
from ebm_jax.types import DenoiseFn, PRNGKey, Scalar

NUM_LEVELS = 1000


def main(
    run: Run,
    *,
    data: str = "digits",
    resize: int | None = None,
    color: Color | None = None,
    num_steps: int = 1200,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    ema_decay: float = 0.995,
    level_median: float = 1.0,
    level_spread: float = 1.4,
    channels: int = 24,
    multipliers: tuple[int, ...] = (1, 2),
    blocks: int = 1,
    sample_steps: int = 250,
    variance: Literal["small", "large"] = "large",
    conditional: bool = False,
    label_dropout: float = 0.1,
    guidance_scale: float = 1.0,
    guidance_interval: tuple[float, float] | None = None,
    num_samples: int | None = None,
    num_likelihoods: int = 64,
    seed: int = 0,
) -> None:
    """Trains a DDPM on images, draws samples, and bounds the likelihood of held-out images.

    Args:
        run: the run.
        data: "digits", "mnist", "cifar10", or a path: an .npz, images, or MNIST's idx files.
        resize: side of the squares that a folder's images are cut and resized to.
        color: "gray" or "rgb"; converts the images of a folder.
        num_steps: optimization steps.
        batch_size: images per step.
        learning_rate: peak learning rate of Adam: 5% of the steps warm up, a cosine decays to 0.
        ema_decay: decay of the exponential moving average (EMA) of the parameters.
        level_median: median of the log-normal noise levels of training; each is replaced by the
            nearest of the 1000 levels.
        level_spread: standard deviation of their logarithms.
        channels: channels of the network at the first resolution, a multiple of 4.
        multipliers: factors of `channels` at each resolution, which halves from one to the next.
        blocks: residual blocks at each resolution on the way down, and one more on the way up.
        sample_steps: ancestral steps, spread evenly over the 1000 levels.
        variance: variance of an ancestral step, "small" or "large".
        conditional: train with the classes of labeled data, and draw samples of each in turn.
        label_dropout: probability of dropping the label in training, for classifier-free guidance.
        guidance_scale: scale of classifier-free guidance of the samples; 1 means no guidance.
        guidance_interval: lowest and highest noise level of the guidance; all by default.
        num_samples: number of samples; by default that of held-out images, at most 1000.
        num_likelihoods: number of held-out images whose bound is estimated.
        seed: seed of all random numbers.
    """
    images, held_out = load_split(data, resize=resize, color=color)
    shape, sigmas = images.pixels.shape[1:], noise.ddpm_levels(NUM_LEVELS)
    names = class_names(images) if conditional else None
    num_classes = None if names is None else len(names)
    visited = np.linspace(0, NUM_LEVELS - 1, min(sample_steps, NUM_LEVELS)).round().astype(int)
    process = partial(noise.vp, t_max=1.01)  # the top level of a DDPM is 157
    lowest = shape[0] // 2 ** (len(multipliers) - 1)  # the resolution with attention
    recipe = DiffusionRecipe(
        net=UNet(channels, multipliers, blocks, (lowest,), dropout=0.0, num_classes=num_classes),
        wrap=precondition.vp,
        objective=losses.noise_conditional,
        level=partial(nearest_level, sigmas=sigmas, mean=math.log(level_median), std=level_spread),
        sampler=SolverSampler(
            partial(samplers.ancestral, large_variance=variance == "large"),
            process,
            noise.times_of_levels(process(), sigmas[visited]),
            bounds=(-1.0, 1.0),
        ),
        optimizer=Optimizer(learning_rate, b2=0.99, warm_up=num_steps // 20, decay=True, clip=10.0),
        ema=ramped(ema_decay),
        batch_size=batch_size,
        num_steps=num_steps,
        shape=shape,
        names=names,
        label_dropout=label_dropout,
        source="arXiv:2006.11239",
    )
    if not begin_images(run, recipe, images, held_out, num_samples):
        return
    model = train_diffusion(run, recipe, images, held_out, seed=seed)
    num_samples = samples_to_draw(num_samples, len(held_out.pixels))
    with run.clock("sample"):
        samples, labels = draw_from(
            model,
            num_samples,
            seed + 1,
            guidance_scale=guidance_scale,
            interval=guidance_interval,
        )
        np.savez_compressed(run.folder / "samples.npz", samples=samples)
    results: dict[str, float] = {"evaluations per sample": float(recipe.sampler.evaluations)}
    denoise_fn = model.denoiser()
    with run.clock("likelihood"):
        bits = bound_in_bits(denoise_fn, sigmas)
        found = over_images(bits, held_out.pixels, num_likelihoods, seed + 3)
    parts = ("bound", *likelihood.VariationalBound._fields)
    for name, mean, error in zip(parts, *found, strict=True):
        results[f"bits per dimension, {name}"] = float(mean)
        results[f"bits per dimension, {name}, standard error"] = float(error)
    with run.clock("judge"):
        from ebm_jax.runs.judge import judge_images

        results |= judge_images(samples, images, held_out, seed, labels)
    path = partial(recipe.sampler.path, denoise_fn, like=jnp.zeros(shape))
    from ebm_jax.runs.image_page import image_report

    image_report(
        run,
        "DDPM",
        f"Noise prediction on {len(images.pixels)} images of {data} at {NUM_LEVELS} levels, "
        f"sampled by {len(visited)} ancestral steps.",
        samples,
        draw_paths(path, seed + 1),
        images.pixels,
        held_out.pixels,
        results,
        names,
    )
    run.finish(results)


def nearest_level(u: Scalar, *, sigmas: noise.Ladder, mean: float, std: float) -> Scalar:
    """Returns the level of the ladder nearest to the quantile u of a log-normal distribution."""
    sigma = noise.log_normal_level(u, mean=mean, std=std)
    return sigmas[jnp.argmin(jnp.abs(jnp.log(sigmas / sigma)))]


def bound_in_bits(denoise_fn: DenoiseFn, sigmas: noise.Ladder) -> Measure:
    """Returns measure(key, image): the variational bound and its parts, in bits per dimension."""

    def measure(key: PRNGKey, image: UInt8[Array, "h w c"]) -> Array:
        x = (2 * image.astype(jnp.float32) - 255) / 255
        decoder = likelihood.log_discretized_normal
        parts = jnp.stack(likelihood.variational_bound(denoise_fn, key, x, sigmas, decoder))
        nats = jnp.concatenate([jnp.sum(parts)[None], parts])
        return nats / (image.size * jnp.log(2.0))

    return measure


if __name__ == "__main__":
    command(main)
