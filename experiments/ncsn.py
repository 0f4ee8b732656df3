"""A noise-conditional score network on images, sampled by annealed Langevin dynamics.

    python -m experiments.ncsn                  digits bundled with scikit-learn, 8x8
    python -m experiments.ncsn --data mnist/    a folder of MNIST's idx files, of images, or .npz

The network is trained on denoising at a geometric ladder of noise levels whose top is
the largest distance between two images (arXiv:1907.05600, arXiv:2006.09011), with EDM's
preconditioning and weight (arXiv:2206.00364): the usual weight sigma^2 spends itself on the
lowest levels, while the middle ones decide which digit appears. Samples are judged against
held-out images by figures whose floor is that of other training images against the same.

The default run takes about two minutes on 2 cores; expect a Frechet distance under three
times the floor, and samples about as far from the training set as held-out digits are.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ebm_jax import losses, noise
from ebm_jax.calculus import score_from_denoiser
from ebm_jax.data import (
    Images,
    Rows,
    batch_indices,
    largest_distance,
    load_split,
    to_uint8,
    to_unit,
)
from ebm_jax.keys import example_keys
from ebm_jax.nets import ConvScore, precondition
from ebm_jax.samplers import annealed_langevin_path
from ebm_jax.sharding import spread
from ebm_jax.types import DenoiseFn, PRNGKey, Scalar
from experiments._denoiser import check_denoiser
from experiments._flags import UNSTABLE, check_flags, check_judged, described, finite
from experiments._run import Run, RunError, command, progress, say
from experiments._train import train

SHOWN_PATHS = 8  # chains in the picture of the annealing
CHUNK = 150  # samples drawn in one compiled call


def main(
    *,
    data: str = "digits",
    out: str = "",
    num_steps: int = 1200,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    ema_decay: float = 0.995,
    channels: tuple[int, ...] = (32, 64),
    blocks: int = 2,
    sigma_min: float = 0.1,
    num_levels: int = 20,
    steps_per_level: int = 6,
    step_ratio: float = 0.3,
    num_samples: int | None = None,
    seed: int = 0,
) -> None:
    """Learn images with a noise-conditional score network and draw new ones.

    Args:
        data: "digits", "mnist", "cifar10"; or by path an .npz, images, or MNIST's idx files.
        out: the run's folder; runs/ncsn by default. The same command resumes it.
        num_steps: optimization steps.
        batch_size: images in a step.
        learning_rate: peak of Adam's, after a warm-up of a twentieth, then a cosine to 0.
        ema_decay: decay of the parameters' moving average, which samples use.
        channels: channels of the network at each resolution, multiples of 8.
        blocks: residual blocks at each resolution.
        sigma_min: lowest noise level; pixels lie in [-1, 1].
        num_levels: noise levels, from the largest distance between two images down.
        steps_per_level: Langevin steps at each level.
        step_ratio: Langevin step size over sigma^2.
        num_samples: samples to draw; by default as many as images were held out, at most 1000.
        seed: seed of everything.
    """
    config = {name: value for name, value in locals().items() if name != "out"}
    check_flags(config)
    images, held_out = load_split(data)
    config |= described(images, held_out)
    net = ConvScore(channels, blocks)
    check_judged(images, held_out, num_samples)
    check_denoiser(images, net, batch_size)
    x = to_unit(images.pixels[:])
    try:
        sigmas = noise.geometric(float(largest_distance(x[:2000])), sigma_min, num_levels)
    except ValueError as error:
        raise RunError(f"--sigma-min: {error}") from error
    run = Run("ncsn", out, config)
    if run.is_done():
        return
    num_samples = num_samples or min(len(held_out.pixels), 1000)
    say(f"{len(x)} images of {x.shape[1:]}, {len(held_out.pixels)} held out")
    say(f"levels {sigmas[0]:.3g} to {sigmas[-1]:.3g} in a ratio of {sigmas[0] / sigmas[1]:.3g}")

    like = jax.ShapeDtypeStruct(x[0].shape, x.dtype)
    params = net.lazy_init(jax.random.key(seed), like, jnp.float32(0.0))
    sigma_data = float(x.std())

    def denoiser(params: PyTree) -> DenoiseFn:
        return precondition.edm(partial(net.apply, params), sigma_data=sigma_data)

    def loss(params: PyTree, key: PRNGKey, example: tuple[Array, Scalar]) -> Scalar:
        x, sigma = example
        return losses.edm(denoiser(params), key, x, sigma, sigma_data=sigma_data)

    @jax.jit
    def draw_levels(steps: Array) -> Array:
        """Every batch has each level as often as any other, to within one."""
        keys = example_keys(jax.random.key(seed + 2), steps)
        times = jax.vmap(partial(noise.draw_low_discrepancy, batch_size=batch_size))(keys)
        return sigmas[(times * num_levels).astype(int)]

    def batches(first: int, count: int) -> tuple[Rows, Array]:
        index = batch_indices(seed, first, count, len(x), batch_size)
        return Rows(x, index), draw_levels(first + jnp.arange(count))

    state = train(
        run,
        loss,
        params,
        optax.chain(
            optax.clip_by_global_norm(10.0),
            optax.adam(
                optax.warmup_cosine_decay_schedule(0.0, learning_rate, num_steps // 20, num_steps)
            ),
        ),
        batches,
        num_steps=num_steps,
        batch_size=batch_size,
        seed=seed,
        ema_decay=ema_decay,
        steps_per_call=100,
        one_scan=False,
        evaluate=loss_by_level(denoiser, sigmas, x, to_unit(held_out.pixels[:16])),
    )
    denoise = denoiser(state.ema)
    with run.clock("sample"):
        drawn, paths = draw_samples(
            denoise,
            sigmas,
            x[0],
            num_samples,
            seed,
            steps_per_level=steps_per_level,
            step_ratio=step_ratio,
        )
    samples = to_uint8(drawn)
    np.savez_compressed(run.folder / "samples.npz", samples=samples)
    with run.clock("judge"):
        from experiments._judge import judge_images

        results = judge_images(samples, images, held_out, seed)
    report(run, samples, paths, held_out, np.asarray(sigmas), results)
    run.finish(results)


def loss_by_level(denoiser: Any, sigmas: Array, train: np.ndarray, held_out: np.ndarray) -> Any:
    """The mean loss at every level on 16 training and 16 held-out images, with fixed noise."""

    @jax.jit
    def by_level(params: PyTree, x: Array) -> Array:
        keys = example_keys(jax.random.key(0), jnp.arange(len(x)))
        one = partial(losses.noise_conditional, denoiser(params))
        return jax.lax.map(lambda s: jnp.mean(jax.vmap(one, (0, 0, None))(keys, x, s)), sigmas)

    def evaluate(params: PyTree) -> dict[str, float]:
        sets = {"train": train[:16], "held_out": held_out[:16]}
        return {
            f"{name}_loss_at_{sigma:.3g}": float(value)
            for name, x in sets.items()
            for sigma, value in zip(sigmas, by_level(params, x), strict=True)
        }

    return evaluate


def draw_samples(
    denoise: DenoiseFn,
    sigmas: Array,
    like: np.ndarray,
    count: int,
    seed: int,
    *,
    steps_per_level: int,
    step_ratio: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Samples in [-1, 1], denoised at the end, and the levels' ends of the first SHOWN_PATHS.

    Sample i depends on (seed, i) alone.

    Raises:
        RunError: if some samples are not finite.
    """
    chunk = min(CHUNK, count)

    @spread
    def draw(key: PRNGKey) -> tuple[Array, Array]:
        key_start, key_chain = jax.random.split(key)
        start = sigmas[0] * jax.random.normal(key_start, like.shape)
        path = annealed_langevin_path(
            score_from_denoiser(denoise),
            key_chain,
            start,
            sigmas,
            steps_per_level=steps_per_level,
            step_ratio=step_ratio,
        )
        return denoise(path[-1], sigmas[-1]), path

    samples, paths = [], []
    with progress("sample", count) as advance:
        for first in range(0, count, chunk):
            index = first + jnp.arange(chunk)
            x, path = draw(example_keys(jax.random.key(seed + 1), index))
            samples.append(np.asarray(x))
            paths.append(np.asarray(path[: max(0, SHOWN_PATHS - first)]))
            advance(min(chunk, count - first))
    whole = finite("samples", np.concatenate(samples)[:count], UNSTABLE)
    return whole, np.concatenate(paths)


def report(
    run: Run,
    samples: np.ndarray,
    paths: np.ndarray,
    held_out: Images,
    sigmas: np.ndarray,
    results: dict[str, float],
) -> None:
    """The page: samples beside held-out images, the annealing, curves, figures."""
    from experiments import _report as page

    # A chain at level sigma has scale sqrt(1 + sigma^2): shown in units of that.
    scale = np.sqrt(1 + sigmas**2)[:, None, None, None]
    strip = to_uint8((paths / scale).reshape(-1, *paths.shape[2:]))
    sections = {
        "Samples, and held-out images": page.samples_beside(
            run, samples, held_out.pixels, "The first samples, none chosen."
        ),
        "Annealing": page.picture(
            run,
            "annealing",
            page.image_grid(strip, len(sigmas)),
            f"Chains at the end of every level, sigma {sigmas[0]:.3g} to {sigmas[-1]:.3g}, "
            "divided by sqrt(1 + sigma^2).",
        ),
        "Figures": page.table(results),
        "Training": page.picture(run, "training", page.curves(run), "Means over a compiled call."),
        "Loss by level": page.picture(
            run, "levels", page.level_losses(run), "Of the averaged parameters, at the last step."
        ),
    }
    page.write_report(run, "Noise-conditional score network", __doc__.split("\n\n")[2], sections)


if __name__ == "__main__":
    command(main)
