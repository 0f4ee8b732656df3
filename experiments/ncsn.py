"""A noise-conditional score network (NCSN) of images, sampled by annealed Langevin dynamics.

    python -m experiments.ncsn                  digits bundled with scikit-learn, 8x8
    python -m experiments.ncsn --data mnist/    a folder of MNIST's idx files, of images, or .npz

Scores s(x, sigma) = F(x, ln sigma) / sigma are learned on a geometric ladder of noise levels
whose top is the largest distance between two images (arXiv:1907.05600, arXiv:2006.09011). The
objective is the sum over the ladder of denoising score matching losses, each weighted by
sigma^2, with a random level per image. The levels of a batch are evenly spread over the ladder,
which lowers the variance of the loss and keeps its mean. Samples are compared with held-out
images. Each metric has a floor, its value for other training images in place of samples.

The network is a small NCSN++ (arXiv:2011.13456), the third of these papers' networks. On digits
the second, NCSNv2, is worse at every level after the same time; it normalizes each channel by its
mean and standard deviation over the pixels, which are few.

The default run takes about two and a half minutes on 2 cores.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np

from ebm_jax import losses, noise
from ebm_jax.data import Color, largest_distance, load_split, to_unit
from ebm_jax.ema import ramped
from ebm_jax.nets import NCSNpp, precondition
from ebm_jax.recipes import AnnealedSampler, DiffusionRecipe, Optimizer
from ebm_jax.runs.command import command
from ebm_jax.runs.diffusion import begin_images, train_diffusion
from ebm_jax.runs.drawing import draw_images, draw_paths
from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.flags import check_judged, samples_to_draw
from ebm_jax.runs.run import Run


def main(
    run: Run,
    *,
    data: str = "digits",
    resize: int | None = None,
    color: Color | None = None,
    num_steps: int = 1000,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    ema_decay: float = 0.995,
    channels: int = 24,
    multipliers: tuple[int, ...] = (1, 2),
    blocks: int = 1,
    sigma_min: float = 0.1,
    num_levels: int = 20,
    steps_per_level: int = 6,
    step_ratio: float = 0.2,
    num_samples: int | None = None,
    seed: int = 0,
) -> None:
    """Trains a noise-conditional score network on images and draws samples.

    Args:
        run: the run.
        data: "digits", "mnist", "cifar10", or a path: an .npz, images, or MNIST's idx files.
        resize: side of the squares that a folder's images are cut and resized to.
        color: "gray" or "rgb"; converts the images of a folder.
        num_steps: optimization steps.
        batch_size: images per step.
        learning_rate: peak learning rate of Adam: 5% of the steps warm up, a cosine decays to 0.
        ema_decay: decay of the exponential moving average (EMA) of the parameters.
        channels: channels of the network at the first resolution, a multiple of 4.
        multipliers: factors of `channels` at each resolution, which halves from one to the next.
        blocks: residual blocks at each resolution on the way down, and one more on the way up.
        sigma_min: lowest noise level, for pixels in [-1, 1].
        num_levels: number of noise levels, from the largest distance between two images down.
        steps_per_level: Langevin steps at each level.
        step_ratio: Langevin step size divided by sigma^2.
        num_samples: number of samples; by default that of held-out images, at most 1000.
        seed: seed of all random numbers.
    """
    images, held_out = load_split(data, resize=resize, color=color)
    check_judged(images, held_out, num_samples)
    shape = images.pixels.shape[1:]
    try:
        sigma_max = float(largest_distance(to_unit(images.pixels[:2000])))
        sigmas = noise.geometric(sigma_max, sigma_min, num_levels)
    except ValueError as error:
        raise RunError(f"--sigma-min: {error}") from error
    recipe = DiffusionRecipe(
        net=small_ncsnpp(shape[0], channels, multipliers, blocks),
        wrap=precondition.ncsn,
        objective=losses.noise_conditional,
        level=partial(noise.ladder_level, sigmas=sigmas),
        sampler=AnnealedSampler(sigmas, steps_per_level, step_ratio),
        optimizer=Optimizer(learning_rate, b2=0.99, warm_up=num_steps // 20, decay=True, clip=10.0),
        ema=ramped(ema_decay),
        batch_size=batch_size,
        num_steps=num_steps,
        shape=shape,
        source="arXiv:1907.05600",
    )
    if not begin_images(run, recipe, images, held_out, num_samples):
        return
    say(f"levels {sigmas[0]:.3g} to {sigmas[-1]:.3g} in a ratio of {sigmas[0] / sigmas[1]:.3g}")
    model = train_diffusion(run, recipe, images, held_out, seed=seed)
    num_samples = samples_to_draw(num_samples, len(held_out.pixels))
    with run.clock("sample"):
        samples = draw_images(model.draw, num_samples, seed + 1)
        np.savez_compressed(run.folder / "samples.npz", samples=samples)
    results: dict[str, float] = {"evaluations per sample": float(recipe.sampler.evaluations)}
    with run.clock("judge"):
        from ebm_jax.runs.judge import judge_images

        results |= judge_images(samples, images, held_out, seed)
    path = partial(recipe.sampler.path, model.denoiser(), like=jnp.zeros(shape))
    from ebm_jax.runs.image_page import image_report

    image_report(
        run,
        "Noise-conditional score network",
        f"Scores learned on {len(images.pixels)} images of {data} at {num_levels} noise levels, "
        f"sampled by annealed Langevin dynamics of {steps_per_level} steps at each.",
        samples,
        draw_paths(path, seed + 1),
        images.pixels,
        held_out.pixels,
        results,
    )
    run.finish(results)


def small_ncsnpp(side: int, channels: int, multipliers: tuple[int, ...], blocks: int) -> NCSNpp:
    """Returns an NCSN++ with attention at the lowest resolution.

    Its positional embedding of ln sigma is smooth in the level, so other samplers may use levels
    between those of the ladder.
    """
    lowest = side // 2 ** (len(multipliers) - 1)
    return NCSNpp(
        channels, multipliers, blocks, (lowest,), dropout=0.0,
        fir=False, progressive_input=False, embedding="positional",
    )  # fmt: skip


if __name__ == "__main__":
    command(main)
