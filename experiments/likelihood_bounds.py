"""Likelihood of images under a diffusion model: probability-flow ODE and variational bounds.

    python -m experiments.likelihood_bounds

A denoiser is trained as in `experiments.edm`. The density of each held-out image follows from
the probability-flow ODE, with the exact divergence for a few images and random probes for more.
The variational bound of the same model is estimated on ladders of 10 to 1,000 levels. All are in
bits per dimension, with standard errors. Images of other kinds show what a likelihood can and
cannot detect.

The default run takes under three minutes on 2 cores.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8
from matplotlib.figure import Figure

from ebm_jax import likelihood, noise
from ebm_jax.data import Color, dequantize, load_split
from ebm_jax.recipes.small import edm_small
from ebm_jax.runs.command import command
from ebm_jax.runs.diffusion import begin_images, pixel_std, train_diffusion
from ebm_jax.runs.drawing import Measure, flow_bits, over_images
from ebm_jax.runs.endings import RunError
from ebm_jax.runs.flags import check_counts
from ebm_jax.runs.run import Run
from ebm_jax.types import DenoiseFn, PRNGKey, Scalar

CELL = 2 / 255  # width of a pixel value's cell in [-1, 1]
LOW, HIGH = 0.002, 80.0  # noise levels of ODE and bound


def main(
    run: Run,
    *,
    data: str = "digits",
    resize: int | None = None,
    color: Color | None = None,
    num_steps: int = 1000,
    channels: tuple[int, ...] = (32, 64),
    patch: int = 1,
    num_images: int = 64,
    num_exact: int = 8,
    num_probes: tuple[int, ...] = (1, 4),
    bound_levels: tuple[int, ...] = (10, 30, 100, 300, 1000),
    seed: int = 0,
) -> None:
    """Trains a denoiser, then estimates its likelihood in several ways.

    Args:
        run: the run.
        data: "digits", "mnist", "cifar10", or a path: an .npz, images, or MNIST's idx files.
        resize: side of the squares that a folder's images are cut and resized to.
        color: "gray" or "rgb"; converts the images of a folder.
        num_steps: optimization steps.
        channels: channels of the network at each resolution, multiples of 8.
        patch: side of the squares of pixels that the network sees as one.
        num_images: number of images for all estimates but the exact one.
        num_exact: number of images with the exact divergence, which costs as much as d probes.
        num_probes: numbers of random probes to compare.
        bound_levels: numbers of levels of the bound to compare.
        seed: seed of all random numbers.
    """
    if min(bound_levels) < 2:
        raise RunError(f"--bound-levels got {bound_levels}: give numbers of at least 2.")
    if min(num_images, num_exact) < 2:
        raise RunError("--num-images and --num-exact: give at least 2, for a standard error.")
    images, held_out = load_split(data, resize=resize, color=color)
    check_counts(images, held_out)
    sigma_data = pixel_std(images)
    recipe = edm_small(
        images.pixels.shape[1:], sigma_data, channels=channels, patch=patch, num_steps=num_steps
    )
    if not begin_images(run, recipe, images, held_out, judged=False):
        return
    model = train_diffusion(run, recipe, images, held_out, seed=seed)
    denoise_fn = model.denoiser()
    some = held_out.pixels[:num_images]
    one_probe = flow_bits(denoise_fn, sigma_min=LOW, sigma_max=HIGH, num_probes=1)
    figures: dict[str, tuple[float, float]] = {}

    def add(name: str, measure: Measure, pixels: np.ndarray) -> None:
        mean, error = over_images(measure, pixels, len(pixels), seed + 3)
        figures[name] = float(mean), float(error)

    with run.clock("likelihood"):
        add(f"flow, exact divergence, {num_exact} images", exact_bits(denoise_fn), some[:num_exact])
        for k in num_probes:
            probed = flow_bits(denoise_fn, sigma_min=LOW, sigma_max=HIGH, num_probes=k)
            add(f"flow, {k} probes, the same images", probed, some[:num_exact])
        add("flow, 1 probe, held out", one_probe, some)
        add("flow, 1 probe, training images", one_probe, images.pixels[:num_images])
        add("flow, 1 probe, upside down", one_probe, some[:, ::-1].copy())
        uniform = np.random.default_rng(seed).integers(0, 256, some.shape).astype(np.uint8)
        add("flow, 1 probe, uniform noise", one_probe, uniform)
        for count in bound_levels:
            add(f"bound, {count} levels, held out", bound_bits(denoise_fn, count), some)
    results = {}
    for name, (mean, error) in figures.items():
        results[f"bits per dimension, {name}"] = mean
        results[f"bits per dimension, {name}, standard error"] = error
    np.savez_compressed(run.folder / "samples.npz", images=some)
    report(run, figures)
    run.finish(results)


def exact_bits(denoise_fn: DenoiseFn) -> Measure:
    """Returns measure(key, image): bits per dimension by the ODE with the exact divergence."""

    def bits(key: PRNGKey, image: UInt8[Array, "h w c"]) -> Scalar:
        key_pixels, _ = jax.random.split(key)
        x = dequantize(key_pixels, image)
        found = likelihood.flow_log_density(
            denoise_fn, x, sigma_min=LOW, sigma_max=HIGH, rtol=1e-4, atol=1e-4
        )
        return jnp.asarray(likelihood.bits_per_dimension(found.value, image.size, cell_width=CELL))

    return bits


def bound_bits(denoise_fn: DenoiseFn, num_levels: int) -> Measure:
    """Returns measure(key, image): the variational bound in bits per dimension."""
    sigmas = noise.geometric(HIGH, LOW, num_levels)

    def bits(key: PRNGKey, image: UInt8[Array, "h w c"]) -> Scalar:
        key_pixels, key_bound = jax.random.split(key)
        x = dequantize(key_pixels, image)
        parts = likelihood.variational_bound(
            denoise_fn, key_bound, x, sigmas, likelihood.log_normal
        )
        nats = parts.prior + parts.diffusion + parts.decoder
        return jnp.asarray(likelihood.bits_per_dimension(-nats, image.size, cell_width=CELL))

    return bits


def report(run: Run, figures: dict[str, tuple[float, float]]) -> None:
    """Writes the page: the bound against its number of levels, and a table."""
    from ebm_jax.runs import charts, page

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    levels, values, errors = [], [], []
    for name, (mean, error) in figures.items():
        if name.startswith("bound"):
            levels.append(int(name.split()[1]))
            values.append(mean)
            errors.append(2 * error)
    axes.errorbar(levels, values, errors, fmt="o-", ms=3, capsize=2, label="variational bound")
    mean, error = figures["flow, 1 probe, held out"]
    axes.axhspan(mean - 2 * error, mean + 2 * error, color="#cc6622", alpha=0.2)
    axes.axhline(mean, color="#cc6622", lw=1, label="probability flow")
    axes.set(xscale="log", xlabel="levels of the bound", ylabel="bits per dimension, held out")
    axes.legend(frameon=False)
    rows = [[name, f"{mean:.3f}", f"{error:.3f}"] for name, (mean, error) in figures.items()]
    sections = {
        "Bound and flow": page.picture(
            run,
            "bound",
            figure,
            "Bits per dimension of the bound against its number of levels, and those of the flow.",
            "Bars and band: 2 standard errors.",
        ),
        "Bits per dimension": page.wide_table(["measure", "mean", "standard error"], rows),
        "Training": charts.curves(run),
    }
    lead = (
        "The density of images under one denoiser, by its probability flow and by variational "
        "bounds on ladders of different lengths."
    )
    page.write_report(run, "Likelihood of images", lead, sections)


if __name__ == "__main__":
    command(main)
