"""Trains and samples a published CIFAR-10 model by its recipe.

    python -m experiments.recipe --name ddpm/cifar10 --data cifar10.npz

The names are ncsn, ncsnv2, ncsnpp, ddpm and edm, each with /cifar10. The network, loss, noise
levels, optimizer, EMA and sampler are those of `ebm_jax.recipes`; the data may be any images that
the network takes. The published runs took hundreds of thousands of steps on accelerators. Shorten
them by --num-steps, --batch-size and --num-samples; the run prints the difference.

On CPU this only shows that a recipe runs: a DDPM step takes minutes on 2 cores.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import recipes
from ebm_jax.data import Color, Pixels, load_split
from ebm_jax.recipes import DiffusionRecipe
from ebm_jax.runs.command import command
from ebm_jax.runs.diffusion import begin_images, train_diffusion
from ebm_jax.runs.drawing import draw_images
from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.run import Run


def main(
    run: Run,
    *,
    name: str = "ddpm/cifar10",
    data: str = "",
    resize: int | None = None,
    color: Color | None = None,
    num_steps: int | None = None,
    batch_size: int | None = None,
    num_samples: int = 100,
    bfloat16: bool = False,
    remat: bool = False,
    seed: int = 0,
) -> None:
    """Trains a published recipe and draws samples.

    Args:
        run: the run.
        name: name of the recipe, such as ddpm/cifar10.
        data: an .npz, a folder of images, or idx files by path; 32x32 in color for these recipes.
        resize: side of the squares that a folder's images are cut and resized to.
        color: "gray" or "rgb"; converts the images of a folder.
        num_steps: optimization steps; by default as published.
        batch_size: images per step; by default as published.
        num_samples: number of samples.
        bfloat16: compute the network in bfloat16; its parameters stay float32.
        remat: recompute activations for the gradient instead of storing them.
        seed: seed of all random numbers.
    """
    try:
        published = recipes.recipe(name)
    except ValueError as error:
        raise RunError(f"--name: {error}") from error
    if not data:
        raise RunError("--data is missing: give an .npz or a folder of images, such as CIFAR-10.")
    images, held_out = load_split(data, resize=resize, color=color)
    changes: dict[str, Any] = {"dtype": jnp.bfloat16} if bfloat16 else {}
    if remat:
        changes["remat"] = True
    recipe = published._replace(
        net=published.net.clone(**changes),
        num_steps=num_steps or published.num_steps,
        batch_size=batch_size or published.batch_size,
        shape=images.pixels.shape[1:],
    )
    if not begin_images(run, recipe, images, held_out, judged=False):
        return
    say(f"{name}, as in {recipe.source}")
    here, there = ((r.num_steps, r.batch_size) for r in (recipe, published))
    if here != there:
        say("not as published: {} steps of {}, {} of {}".format(*here, *there))
    model = train_diffusion(run, recipe, images, held_out, seed=seed)
    with run.clock("sample"):
        samples = draw_images(model.draw, num_samples, seed + 1)
        np.savez_compressed(run.folder / "samples.npz", samples=samples)
    report(run, recipe, samples, held_out.pixels)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    counts = {"parameters": parameters, "steps": recipe.num_steps, "samples": len(samples)}
    run.finish({name: float(count) for name, count in counts.items()})


def report(run: Run, recipe: DiffusionRecipe, samples: np.ndarray, held_out: Pixels) -> None:
    """Writes the page: samples beside held-out images, and training curves."""
    from ebm_jax.runs import charts, page
    from ebm_jax.runs.image_page import samples_beside

    sections = {
        "Samples, and held-out images": samples_beside(run, samples, held_out),
        "Training": charts.curves(run),
    }
    page.write_report(run, run.config["name"], f"As in {recipe.source}.", sections)


if __name__ == "__main__":
    command(main)
