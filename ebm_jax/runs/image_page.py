"""The page of a run on images: samples beside real ones, their origin from noise, and metrics."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from ebm_jax.data import Pixels
from ebm_jax.runs import charts
from ebm_jax.runs.diffusion import NUM_PREVIEWS, stored_previews
from ebm_jax.runs.page import (
    SHOWN,
    beside,
    frames,
    image_grid,
    picture,
    results_table,
    write_report,
)
from ebm_jax.runs.run import Run

SHOWN_TIMES = 20  # frames from noise to samples
NEIGHBOURS = 10  # samples whose nearest training images are shown
MOST_SEARCHED = 60_000  # training images in which they are looked for: those of MNIST
BLOCK = 4096  # images that are compared at once


def image_report(
    run: Run,
    title: str,
    lead: str,
    samples: np.ndarray,
    paths: np.ndarray,
    images: Pixels,
    held_out: Pixels,
    results: dict[str, float],
    names: Sequence[str] | None = None,
) -> None:
    """Writes the page of a run on images.

    Args:
        run: the run.
        title: the page's heading.
        lead: what was trained on what, and how it was sampled.
        samples: uint8 images (n, h, w, c).
        paths: states of the first samples at the sampler's times, uint8 (k, times, h, w, c).
        images: training images.
        held_out: held-out images.
        results: numbers by name.
        names: the classes, if sample i was drawn for the label i mod K.
    """
    sections = {"Samples and held-out images": samples_beside(run, samples, held_out)}
    if names is not None:
        sections["Samples by class"] = by_class(run, samples, names)
    sections["From noise to samples"] = noise_to_samples(run, paths)
    if previews := stored_previews(run.folder):
        last = {int(run.config["num_steps"]): samples[:NUM_PREVIEWS]}
        sections["Through training"] = through_training(previews | last)
    sections |= {
        "Nearest training images": nearest_images(run, samples[:NEIGHBOURS], images),
        "Results": results_table(results),
        "Training": charts.curves(run),
        "Loss by noise level": charts.level_losses(run),
    }
    write_report(run, title, lead, sections, results)


def training_report(run: Run, step: int, num_steps: int) -> None:
    """Writes the page of a run that is still in training."""
    sections = {"Training": charts.curves(run)}
    if any("loss_at_" in name for row in run.rows()[-1:] for name in row):
        sections["Loss by noise level"] = charts.level_losses(run)
    if previews := stored_previews(run.folder):
        sections = {"Samples so far": through_training(previews), **sections}
    title = f"{run.config['experiment']}: step {step:,} of {num_steps:,}"
    lead = "This run is in training. Its page is written anew with every checkpoint: reload it."
    write_report(run, title, lead, sections)


def samples_beside(
    run: Run,
    samples: UInt8[ndarray, "n h w c"],
    held_out: Pixels,
    caption: str = "The first samples; none was chosen.",
) -> str:
    """Returns the first samples beside as many held-out images, at most 100 of each."""
    count = min(SHOWN, len(samples), len(held_out))
    alt = f"A grid of {count} images, 10 in a row: "
    return beside(
        picture(run, "samples", image_grid(samples[:count], 10), f"{alt}samples.", caption),
        picture(run, "held_out", image_grid(held_out[:count], 10), f"{alt}held-out images.",
                "The first held-out images."),
    )  # fmt: skip


def by_class(run: Run, samples: np.ndarray, names: Sequence[str]) -> str:
    """Returns samples in columns, one for each class that they were drawn for."""
    count = min(len(names), len(samples))
    rows = min(SHOWN // count + 1, len(samples) // count)
    shown = ", ".join(names)
    return picture(
        run, "classes", image_grid(samples[: rows * count], count),
        f"A grid of samples with a column per class: {shown}.",
        f"Samples drawn for a label, one column per class: {shown}.",
    )  # fmt: skip


def noise_to_samples(run: Run, paths: UInt8[ndarray, "k times h w c"]) -> str:
    """Returns a slider from noise to the first samples; all frames are in paths.png, too."""
    every = -(-paths.shape[1] // SHOWN_TIMES)
    strip = paths[:, ::-1][:, ::every][:, ::-1]  # the end is among those shown
    sheet = image_grid(strip.reshape(-1, *strip.shape[2:]), strip.shape[1])
    sheet.save(run.folder / "paths.png", optimize=True)
    count = strip.shape[1]
    shown = {f"frame {i + 1} of {count}": _row(strip[:, i]) for i in range(count)}
    return frames(
        shown, "Frame from noise to samples", f"{len(strip)} images on their way from noise",
        "The sampler's states, divided by their scale sqrt(alpha^2 + sigma^2).",
    )  # fmt: skip


def through_training(previews: dict[int, np.ndarray]) -> str:
    """Returns a slider through samples of the same random numbers, drawn as training went on."""
    shown = {f"step {step:,}": _row(images) for step, images in sorted(previews.items())}
    return frames(
        shown, "Training step", f"{NUM_PREVIEWS} samples",
        "Samples from the same random numbers as training goes on.",
    )  # fmt: skip


def nearest_images(run: Run, samples: UInt8[ndarray, "k h w c"], images: Pixels) -> str:
    """Returns samples above their nearest training images, by Euclidean distance."""
    found = images[nearest(samples, images)]
    pairs = np.concatenate([samples, found])
    return picture(
        run, "nearest", image_grid(pairs, len(samples)),
        f"Two rows of {len(samples)} images: samples, and below each the training image nearest "
        "to it.",
        f"Above: the first {len(samples)} samples. Below: the training image nearest to each, by "
        "Euclidean distance. Equal pairs would be copies.",
    )  # fmt: skip


def nearest(samples: UInt8[ndarray, "k h w c"], images: Pixels) -> np.ndarray:
    """Returns the index of the training image that is nearest to each sample."""
    x = samples.reshape(len(samples), -1).astype(np.float32)
    distances = []
    for first in range(0, min(len(images), MOST_SEARCHED), BLOCK):
        block = images[first : min(first + BLOCK, MOST_SEARCHED)]
        y = block.reshape(len(block), -1).astype(np.float32)
        distances.append(np.stack([((y - row) ** 2).sum(-1) for row in x], 1))
    return np.concatenate(distances).argmin(0)


def _row(images: UInt8[ndarray, "k h w c"]) -> Image.Image:
    """Returns images next to each other, eight in a row."""
    return image_grid(images, 8)
