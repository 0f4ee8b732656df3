"""Estimates the likelihood of images under the model of a run, in bits per dimension.

    ebm-jax likelihood runs/edm --num-images 256 --num-probes 4

The probability-flow ODE of the denoiser carries each image, dequantized at random, to the
highest noise level. Random probes estimate the change of its log density (Hutchinson's
estimator). The estimate of image i depends only on the seed and on i.
"""

from pathlib import Path
from typing import Annotated

import tyro

from ebm_jax.data import Images, load_split
from ebm_jax.runs.command import tool
from ebm_jax.runs.drawing import flow_bits, over_images
from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.flags import check_flags
from ebm_jax.runs.folder import as_json, write_whole
from ebm_jax.runs.models import Model, load
from ebm_jax.runs.solvers import noise_levels


def main(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    data: str = "",
    num_images: int = 64,
    num_probes: int = 1,
    levels: tuple[float, float] | None = None,
    out: str = "",
    seed: int = 0,
) -> None:
    """Estimates the likelihood of held-out images under the model of a run.

    Args:
        run: the run's folder, or its model file.
        data: data set whose held-out images are used; by default the run's own.
        num_images: maximum number of images.
        num_probes: random probes of the divergence per image.
        levels: lowest and highest noise level of the flow; by default those of the model's
            sampler.
        out: JSON file for the result.
        seed: seed of the dequantization and the probes.
    """
    check_flags({"num_images": num_images, "num_probes": num_probes, "seed": seed})
    model = load(run)
    if model.wrap is None:
        raise RunError(
            f"{run} holds an energy, which has no probability flow: its likelihood needs log Z, "
            "which `ebm_jax.likelihood` estimates."
        )
    low, high = levels or [float(noise_levels(model.sampler)[end]) for end in (-1, 0)]
    if not 0 < low < high < float("inf"):
        raise RunError(f"--levels got {low} {high}: give a lower and a higher, both positive.")
    held_out = images_for(model, data)
    bits = flow_bits(model.denoiser(), sigma_min=low, sigma_max=high, num_probes=num_probes)
    mean, error = over_images(bits, held_out.pixels, num_images, seed)
    count = min(num_images, len(held_out.pixels))
    say(f"{float(mean):.4f} bits per dimension, standard error {float(error):.4f}, {count} images")
    if out:
        found = {
            "bits per dimension": float(mean),
            "bits per dimension, standard error": float(error),
            "images": count,
            "probes": num_probes,
            "levels": [low, high],
        }
        write_whole(Path(out), as_json(found))


def images_for(model: Model, data: str) -> Images:
    """Returns the held-out images of `data`, by default of the data the model was trained on.

    Raises:
        RunError: The images and the model differ in shape, or the model does not record what it
            was trained on.
        DataError: As for `load_split`.
    """
    config = model.about.get("config", {})
    own = str(config.get("data", ""))
    if not (data or own):
        raise RunError("the model does not say what it was trained on: give --data.")
    as_in_training = {} if data else {name: config.get(name) for name in ("resize", "color")}
    data = data or own
    held_out = load_split(data, **as_in_training)[1]
    if held_out.pixels.shape[1:] != tuple(model.shape):
        raise RunError(
            f"--data {data} holds images of {held_out.pixels.shape[1:]}, the model is of "
            f"{tuple(model.shape)}: give images of that shape."
        )
    return held_out


if __name__ == "__main__":
    tool(main)
