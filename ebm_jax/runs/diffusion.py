"""Training of a diffusion recipe on images, from checks of its flags to the saved model.

Pixels are dequantized afresh at every step, so that the data have a density and a likelihood
in bits per dimension means something.
"""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ebm_jax import losses, nets, noise
from ebm_jax.data import Images, Rows, batch_indices, dequantize, fingerprint, to_uint8, to_unit
from ebm_jax.keys import example_keys
from ebm_jax.recipes import DiffusionRecipe
from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.flags import check_judged, check_network
from ebm_jax.runs.folder import write_whole
from ebm_jax.runs.models import FILE, Model, header, save_model
from ebm_jax.runs.run import Run
from ebm_jax.runs.training import train
from ebm_jax.types import Scalar

PREVIEWS = "previews.npz"  # samples drawn during training, by step
NUM_PREVIEWS = 16  # samples in each of them
SHOWN_LEVELS = (0.02, 0.1, 0.3, 1.0, 3.0, 10.0)  # of the loss in metrics.csv


def begin_images(
    run: Run,
    recipe: DiffusionRecipe,
    images: Images,
    held_out: Images,
    num_samples: int | None = None,
    *,
    judged: bool = True,
) -> bool:
    """Checks what a run on images was given and begins it; returns False if it is done.

    Args:
        run: the run, not begun.
        recipe: what is to be trained.
        images: the training images.
        held_out: the images to judge by.
        num_samples: how many samples are to be judged, or None for a default.
        judged: False if no samples are to be judged, so that any number of images will do.

    Raises:
        RunError: for too few images or samples, a network that cannot take these images, a
            batch that cannot be divided, or from `Run.begin`.
    """
    if judged:
        check_judged(images, held_out, num_samples)
    check_recipe(recipe)
    run.machine.mesh_for(recipe.batch_size)
    return run.begin(training_images=fingerprint(images), held_out_images=fingerprint(held_out))


def class_names(images: Images) -> tuple[str, ...]:
    """Returns the names of the classes of images, "0" to "K - 1" where the data name none.

    Raises:
        RunError: for images without labels.
    """
    if images.labels is None:
        raise RunError(
            "--conditional needs labels, and --data has none: give a folder with a folder of "
            "images per class, or an .npz with labels."
        )
    if images.names is not None:
        return images.names
    return tuple(str(i) for i in range(int(np.max(images.labels[:])) + 1))


def pixel_std(images: Images) -> float:
    """Returns the standard deviation of the first 10,000 images' pixels in [-1, 1]."""
    return float(to_unit(images.pixels[:10_000]).std())


def check_recipe(recipe: DiffusionRecipe) -> None:
    """Refuses a network that cannot take images of the recipe's shape; nothing is computed.

    Raises:
        RunError: with the sentence of the network.
    """
    check_network(partial(nets.initial_parameters, recipe.net, recipe.wrap), recipe.shape)
    header(model_of(recipe, ()))  # raises PlainError for what no file could hold


def train_diffusion(
    run: Run, recipe: DiffusionRecipe, images: Images, held_out: Images, *, seed: int
) -> Model:
    """Trains, or resumes, a recipe on images; saves its model in the run's folder.

    Args:
        run: where checkpoints, metrics and the model go.
        recipe: what is trained.
        images: the training images, with labels if the recipe has names of classes.
        held_out: others, whose loss by noise level is measured besides.
        seed: seed of everything.

    Returns:
        The model of the averaged parameters.

    Raises:
        RunError: if training diverged.
    """
    like = jnp.zeros(recipe.shape)
    start = partial(nets.initial_parameters, recipe.net, recipe.wrap)
    params = jax.jit(start)(jax.random.key(seed), like)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    say(f"{len(images.pixels)} images of {recipe.shape}, {len(held_out.pixels)} held out")
    say(f"{type(recipe.net).__name__} of {count:,} parameters")

    def save(step: int, params: PyTree) -> None:
        about = {"config": run.config, "steps": step, "source": recipe.source}
        save_model(run.folder / FILE, model_of(recipe, params)._replace(about=about))
        if step < recipe.num_steps:  # then the whole report follows
            from ebm_jax.runs.image_page import training_report

            add_preview(run, step, lambda: preview(params))
            training_report(run, step, recipe.num_steps)

    @jax.jit
    def draw(params: PyTree, keys: Array, labels: Array | None) -> Array:
        model = model_of(recipe, params)
        return jax.vmap(lambda key, label: model.draw(key, label=label))(keys, labels)

    def preview(params: PyTree) -> np.ndarray:
        index = jnp.arange(NUM_PREVIEWS)
        labels = None if recipe.names is None else index % len(recipe.names)
        return to_uint8(draw(params, example_keys(jax.random.key(seed + 1), index), labels))

    state = train(
        run,
        recipe.loss,
        params,
        recipe.optimizer.make(recipe.num_steps),
        levelled_batches(recipe, images, seed),
        num_steps=recipe.num_steps,
        batch_size=recipe.batch_size,
        seed=seed,
        ema_decay=recipe.ema,
        steps_per_call=min(100, max(1, recipe.num_steps // 10)),
        one_scan=False,
        evaluate=_loss_by_level(recipe, images.pixels[:16], held_out.pixels[:16]),
        best="held_out_loss",
        save=save,
    )
    return model_of(recipe, state.ema)


def add_preview(run: Run, step: int, draw: Callable[[], np.ndarray]) -> None:
    """Draws samples into previews.npz, if the last ones are of less than half of this step."""
    past = {at: x for at, x in stored_previews(run.folder).items() if at < step}
    if not past or step >= 2 * max(past):
        past[step] = draw()
        content = io.BytesIO()
        arrays: dict[str, Any] = {str(at): x for at, x in past.items()}
        np.savez_compressed(content, **arrays)
        write_whole(run.folder / PREVIEWS, content.getvalue())


def stored_previews(folder: Path) -> dict[int, np.ndarray]:
    """Returns the samples that were drawn during training by step; {} if there are none."""
    try:
        with np.load(folder / PREVIEWS, allow_pickle=False) as archive:
            return {int(name): archive[name] for name in archive.files}
    except Exception:  # whatever a damaged archive raises; the rest of the run is sound
        return {}


def model_of(recipe: DiffusionRecipe, params: PyTree) -> Model:
    """Returns the model that outlives the training of a recipe."""
    return Model(recipe.net, params, recipe.shape, recipe.wrap, recipe.sampler, names=recipe.names)


def levelled_batches(
    recipe: DiffusionRecipe, images: Images, seed: int
) -> Callable[[int, int], tuple[Any, ...]]:
    """The `batches` of `train`: images, noise levels evenly spread over each batch, labels."""

    @jax.jit
    def draw_levels(steps: Array) -> Array:
        keys = example_keys(jax.random.key(seed + 2), steps)
        spread = partial(noise.draw_low_discrepancy, batch_size=recipe.batch_size)
        return jax.vmap(jax.vmap(recipe.level))(jax.vmap(spread)(keys))

    def batches(first: int, count: int) -> tuple[Any, ...]:
        index = batch_indices(seed, first, count, len(images.pixels), recipe.batch_size)
        batch = Rows(images.pixels, index), draw_levels(first + jnp.arange(count))
        return batch if recipe.names is None else (*batch, Rows(images.labels, index))

    return batches


def _loss_by_level(
    recipe: DiffusionRecipe, *pixels: np.ndarray
) -> Callable[[PyTree], dict[str, float]]:
    """Half of sigma^-2 times the squared error at SHOWN_LEVELS, on training and held-out images."""

    @jax.jit
    def by_level(params: PyTree, pixels: Array) -> Array:
        def one(sigma: Scalar, index: Array, pixels: Array) -> Scalar:
            key_pixels, key = jax.random.split(jax.random.fold_in(jax.random.key(0), index))
            x = dequantize(key_pixels, pixels)
            return losses.noise_conditional(recipe.denoiser(params), key, x, sigma)

        index = jnp.arange(len(pixels))
        at = jax.vmap(one, (None, 0, 0))
        return jax.lax.map(lambda s: jnp.mean(at(s, index, pixels)), jnp.array(SHOWN_LEVELS))

    def evaluate(params: PyTree) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, some in zip(("train", "held_out"), pixels, strict=True):
            values = np.asarray(by_level(params, some))
            found[f"{name}_loss"] = float(values.mean())
            names = (f"{name}_loss_at_{sigma:.3g}" for sigma in SHOWN_LEVELS)
            found |= dict(zip(names, values.tolist(), strict=True))
        return found

    return evaluate
