"""Inverse problems with a diffusion prior: inpainting and super-resolution of images.

    python -m experiments.inpaint

A denoiser is trained as in `experiments.edm`. Held-out images lose their lower half, or all but
their means over squares of 2x2 pixels. Three conditional denoisers restore them: replacement of
the known part, diffusion posterior sampling (DPS, arXiv:2209.14687), and the Gaussian posterior
with the denoiser's own covariance (arXiv:2310.06721).

The last two differentiate the network inside the sampler's scan, which is slow for convolutions
on CPU (jax issue 12868); hence few images and steps. The default run takes about three minutes
on 2 cores.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ebm_jax import guidance, noise, samplers
from ebm_jax.data import Color, load_split, to_uint8, to_unit
from ebm_jax.keys import example_keys
from ebm_jax.nets.conv import halve
from ebm_jax.recipes.small import edm_small
from ebm_jax.runs.command import command
from ebm_jax.runs.diffusion import begin_images, pixel_std, train_diffusion
from ebm_jax.runs.endings import say
from ebm_jax.runs.flags import UNSTABLE, finite
from ebm_jax.runs.run import Run
from ebm_jax.sharding import spread
from ebm_jax.types import DenoiseFn, Example, PRNGKey

SHOWN = 10  # images per row of the page


def main(
    run: Run,
    *,
    data: str = "digits",
    resize: int | None = None,
    color: Color | None = None,
    num_steps: int = 1000,
    channels: tuple[int, ...] = (32, 64),
    patch: int = 1,
    sample_steps: int = 30,
    num_images: int = 20,
    noise_std: float = 0.05,
    dps_scale: float = 20.0,
    seed: int = 0,
) -> None:
    """Trains a denoiser, then restores held-out images from a part of their data.

    Args:
        run: the run.
        data: "digits", "mnist", "cifar10", or a path: an .npz, images, or MNIST's idx files.
        resize: side of the squares that a folder's images are cut and resized to.
        color: "gray" or "rgb"; converts the images of a folder.
        num_steps: optimization steps.
        channels: channels of the network at each resolution, multiples of 8.
        patch: side of the squares of pixels that the network sees as one.
        sample_steps: ancestral steps, evenly spaced in log-SNR.
        num_images: number of held-out images to restore.
        noise_std: standard deviation of the measurement noise, for pixels in [-1, 1].
        dps_scale: guidance weight of diffusion posterior sampling.
        seed: seed of all random numbers.
    """
    images, held_out = load_split(data, resize=resize, color=color)
    sigma_data = pixel_std(images)
    recipe = edm_small(
        images.pixels.shape[1:], sigma_data, channels=channels, patch=patch, num_steps=num_steps
    )
    if not begin_images(run, recipe, images, held_out, judged=False):
        return
    denoise_fn = train_diffusion(run, recipe, images, held_out, seed=seed).denoiser()
    truth = to_unit(held_out.pixels[:num_images])
    upper = truth.shape[1] // 2
    tasks: dict[str, Callable[[Example], Array]] = {
        "upper half": lambda x: x[:upper],
        "2x2 means": halve,
    }
    process = noise.vp()
    last = process.time_of_level(jnp.float32(0.01))
    times = noise.log_snr_times(process, sample_steps, t_min=float(last))
    solver = samplers.ancestral(process)
    results, shown = {}, {"truth": to_uint8(truth[:SHOWN])}
    keys = example_keys(jax.random.key(seed + 1), jnp.arange(len(truth)))
    with run.clock("restore"):
        for task, measure in tasks.items():
            for name, make in methods(denoise_fn, measure, noise_std, dps_scale).items():

                def one(key: PRNGKey, x: Example, make: Make = make) -> Example:
                    conditional = make(x)
                    return samplers.sample(solver, conditional, key, x, times, final_denoise=True)

                title = f"{task}, {name}"
                drawn = spread(one)(keys, jnp.asarray(truth))
                found = np.clip(finite(f"images of {title}", drawn, UNSTABLE), -1, 1)
                shown[title] = to_uint8(found[:SHOWN])
                misfit = np.asarray(spread(lambda x, m=measure: m(x))(jnp.asarray(found)))
                wanted = np.asarray(spread(lambda x, m=measure: m(x))(jnp.asarray(truth)))
                results[f"error of what was measured, {title}"] = rms(misfit - wanted)
                results[f"error of the image, {title}"] = rms(found - truth)
                say(f"{title}: {results[f'error of the image, {title}']:.3f}")
    mean = truth.mean(0, keepdims=True)
    results["error of the mean image"] = rms(mean - truth)
    np.savez_compressed(run.folder / "samples.npz", **shown)  # type: ignore[arg-type]
    report(run, shown, results)
    run.finish(results)


Make = Callable[[Example], DenoiseFn]


def methods(
    denoise_fn: DenoiseFn, measure: Callable[[Example], Array], noise_std: float, dps_scale: float
) -> dict[str, Make]:
    """Returns, by name, functions from an image to the denoiser conditioned on its measurement."""

    def replace(x: Example) -> DenoiseFn:
        rows = measure(x)
        if rows.shape[1] == x.shape[1]:  # the upper rows
            mask = (jnp.arange(x.shape[0]) < rows.shape[0])[:, None, None]
            return guidance.replaced(denoise_fn, lambda x: jnp.where(mask, x, 0.0), x)

        def means(x: Example) -> Example:
            return jnp.repeat(jnp.repeat(measure(x), 2, 0), 2, 1)

        return guidance.replaced(denoise_fn, means, x)

    return {
        "replacement": replace,
        "diffusion posterior sampling": lambda x: guidance.diffusion_posterior(
            denoise_fn, measure, measure(x), scale=dps_scale
        ),
        "Gaussian posterior": lambda x: guidance.posterior(
            denoise_fn, measure, measure(x), noise_std=noise_std
        ),
    }


def rms(x: np.ndarray) -> float:
    """Returns the root mean square."""
    return float(np.sqrt(np.mean(x**2)))


def report(run: Run, shown: dict[str, np.ndarray], results: dict[str, float]) -> None:
    """Writes the page: a row of restored images per method, and a table."""
    from ebm_jax.runs import page

    sections = {
        name.capitalize(): page.picture(run, name.replace(" ", "_").replace(",", ""),
                                        page.image_grid(images, SHOWN),
                                        f"Images: {name}.", name)
        for name, images in shown.items()
    }  # fmt: skip
    sections["Root mean square errors, pixels in [-1, 1]"] = page.table(results)
    lead = "Held-out images of which a part was lost, drawn back by three conditional denoisers."
    page.write_report(run, "Inverse problems", lead, sections)


if __name__ == "__main__":
    command(main)
