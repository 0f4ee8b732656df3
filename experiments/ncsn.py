"""A noise-conditional score network on images, sampled by annealed Langevin dynamics.

    python -m experiments.ncsn                  digits bundled with scikit-learn, 8x8
    python -m experiments.ncsn --data mnist/    a folder of MNIST's idx files, of images, or .npz

A RefineNet learns scores s(x, sigma) = F(x) / sigma on a geometric ladder of noise levels whose
top is the largest distance between two images (arXiv:1907.05600, arXiv:2006.09011). Its
objective is the sum over the ladder of denoising losses, each weighted by sigma^2, with the
level of every image drawn at random. Samples are judged against held-out images by metrics
whose floor is that of other training images against the same.

The default run takes two to three minutes on 2 cores.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np

from ebm_jax import losses, noise
from ebm_jax.data import largest_distance, load_split, to_unit
from ebm_jax.ema import ramped
from ebm_jax.nets import NCSNv2, precondition
from ebm_jax.recipes import AnnealedSampler, DiffusionRecipe, Optimizer
from ebm_jax.runs.command import command
from ebm_jax.runs.diffusion import begin_images, train_diffusion
from ebm_jax.runs.drawing import draw_images, draw_paths
from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.flags import check_judged
from ebm_jax.runs.run import Run


def main(
    run: Run,
    *,
    data: str = "digits",
    num_steps: int = 1000,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    ema_decay: float = 0.995,
    channels: int = 16,
    multiples: tuple[int, ...] = (1, 2, 2, 2),
    sigma_min: float = 0.1,
    num_levels: int = 20,
    steps_per_level: int = 6,
    step_ratio: float = 0.3,
    num_samples: int | None = None,
    seed: int = 0,
) -> None:
    """Learn images with a noise-conditional score network and draw new ones.

    Args:
        run: the run.
        data: "digits", "mnist", "cifar10"; or by path an .npz, images, or MNIST's idx files.
        num_steps: optimization steps.
        batch_size: images in a step.
        learning_rate: peak of Adam's, after a warm-up of a twentieth, then a cosine to 0.
        ema_decay: decay of the parameters' moving average, which samples use.
        channels: channels of the network's first stage.
        multiples: of `channels` in every stage, at least three. The first and the last two
            keep the resolution, each of the others halves it.
        sigma_min: lowest noise level; pixels lie in [-1, 1].
        num_levels: noise levels, from the largest distance between two images down.
        steps_per_level: Langevin steps at each level.
        step_ratio: Langevin step size over sigma^2.
        num_samples: samples to draw; by default as many as images were held out, at most 1000.
        seed: seed of everything.
    """
    images, held_out = load_split(data)
    check_judged(images, held_out, num_samples)
    shape = images.pixels.shape[1:]
    try:
        sigma_max = float(largest_distance(to_unit(images.pixels[:2000])))
        sigmas = noise.geometric(sigma_max, sigma_min, num_levels)
    except ValueError as error:
        raise RunError(f"--sigma-min: {error}") from error
    recipe = DiffusionRecipe(
        net=NCSNv2(channels, multiples),
        wrap=precondition.ncsn,
        objective=losses.noise_conditional,
        level=partial(noise.ladder_level, sigmas=sigmas),
        sampler=AnnealedSampler(sigmas, steps_per_level, step_ratio),
        optimizer=Optimizer(learning_rate, warm_up=num_steps // 20, decay=True, clip=10.0),
        ema=ramped(ema_decay),
        batch_size=batch_size,
        num_steps=num_steps,
        shape=shape,
        source="arXiv:2006.09011",
    )
    if not begin_images(run, recipe, images, held_out, num_samples):
        return
    say(f"levels {sigmas[0]:.3g} to {sigmas[-1]:.3g} in a ratio of {sigmas[0] / sigmas[1]:.3g}")
    model = train_diffusion(run, recipe, images, held_out, seed=seed)
    num_samples = num_samples or min(len(held_out.pixels), 1000)
    with run.clock("sample"):
        samples = draw_images(model.draw, num_samples, seed + 1)
        np.savez_compressed(run.folder / "samples.npz", samples=samples)
    results: dict[str, float] = {"evaluations per sample": float(recipe.sampler.evaluations)}
    with run.clock("judge"):
        from ebm_jax.runs.judge import judge_images

        results |= judge_images(samples, images, held_out, seed)
    path = partial(recipe.sampler.path, model.denoiser(), like=jnp.zeros(shape))
    from ebm_jax.runs.page import image_report

    image_report(
        run,
        "Noise-conditional score network",
        f"Scores learned on {len(images.pixels)} images of {data} at {num_levels} noise levels, "
        f"sampled by annealed Langevin dynamics of {steps_per_level} steps at each.",
        samples,
        draw_paths(path, seed + 1),
        held_out.pixels,
        results,
    )
    run.finish(results)


if __name__ == "__main__":
    command(main)
