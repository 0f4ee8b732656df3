"""A published model of CIFAR-10, trained and sampled as its recipe says.

    python -m experiments.recipe --name ddpm/cifar10 --data cifar10.npz

The names are ncsn, ncsnv2, ncsnpp, ddpm and edm, each with /cifar10. The network, loss, noise
levels, optimizer, average and sampler are those of `ebm_jax.recipes`; the data may be any images
that the network takes. Published runs are of hundreds of thousands of steps on accelerators:
--num-steps, --batch-size and --num-samples make less of them, and the run says so.

On CPU this only shows that a recipe runs: a step of the DDPM takes minutes on 2 cores.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ebm_jax import recipes
from ebm_jax.data import Pixels, dequantize, load_split, mirror
from ebm_jax.nets.precondition import RawFn
from ebm_jax.recipes import DiffusionRecipe
from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar
from experiments._denoiser import draw_images, levelled_batches
from experiments._flags import check_flags, check_network, described
from experiments._run import Run, RunError, command, say
from experiments._train import mesh_for, train


def main(
    *,
    name: str = "ddpm/cifar10",
    data: str = "",
    out: str = "",
    num_steps: int | None = None,
    batch_size: int | None = None,
    num_samples: int = 100,
    bfloat16: bool = False,
    remat: bool = False,
    seed: int = 0,
) -> None:
    """Train a published recipe and draw from it.

    Args:
        name: of the recipe, such as ddpm/cifar10.
        data: an .npz, a folder of images, or idx files by path: 32x32 in color for these.
        out: the run's folder; runs/<name> by default. The same command resumes it.
        num_steps: optimization steps; by default as many as were published.
        batch_size: images in a step; by default as many as were published.
        num_samples: samples to draw.
        bfloat16: whether networks compute in bfloat16; their parameters stay float32.
        remat: whether activations are computed again for the gradient instead of kept.
        seed: seed of everything.
    """
    config = {key: value for key, value in locals().items() if key != "out"}
    check_flags(config)
    try:
        recipe = recipes.recipe(name)
    except ValueError as error:
        raise RunError(f"--name: {error}") from error
    if not data:
        raise RunError("--data is missing: give an .npz or a folder of images, such as CIFAR-10.")
    images, held_out = load_split(data)
    config |= described(images, held_out)
    steps, batch = num_steps or recipe.num_steps, batch_size or recipe.batch_size
    check_network(partial(init, recipe), images.pixels.shape[1:])
    mesh_for(batch)
    run = Run(name.replace("/", "_"), out, config)
    if run.is_done():
        return
    if (steps, batch) != (recipe.num_steps, recipe.batch_size):
        say(
            f"not as published: {steps} steps of {batch}, {recipe.num_steps} of {recipe.batch_size}"
        )
    changes = ({"dtype": jnp.bfloat16} if bfloat16 else {}) | ({"remat": True} if remat else {})
    recipe = recipe._replace(net=recipe.net.clone(**changes))
    like = jnp.zeros(images.pixels.shape[1:])
    params = jax.jit(partial(init, recipe))(jax.random.key(seed), like)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    say(f"{name} ({recipe.source}): {type(recipe.net).__name__} of {count:,} parameters")
    state = train(
        run,
        partial(loss, recipe),
        params,
        optimizer(recipe),
        levelled_batches(images.pixels, recipe.level, batch, seed),
        num_steps=steps,
        batch_size=batch,
        seed=seed,
        ema_decay=recipe.ema,
        steps_per_call=min(100, steps),
        one_scan=False,
    )
    with run.clock("sample"):
        draw = partial(draw_one, recipe, state.ema, like)
        samples = draw_images(draw, num_samples, seed + 1)
    np.savez_compressed(run.folder / "samples.npz", samples=samples)
    report(run, recipe, samples, held_out.pixels)
    run.finish({"parameters": count, "steps": steps, "samples": len(samples)})


def init(recipe: DiffusionRecipe, key: PRNGKey, like: Example) -> PyTree:
    """The network's parameters, by way of the denoiser that decides what it is called with."""

    def call(net: RawFn, x: Example, sigma: Scalar) -> Example:
        return recipe.wrap(net)(x, sigma)

    return nn.init(call, recipe.net)(key, like, jnp.float32(1.0))


def loss(
    recipe: DiffusionRecipe, params: PyTree, key: PRNGKey, example: tuple[Array, Scalar]
) -> Scalar:
    """The recipe's objective on one image, dequantized and mirrored at random."""
    pixels, sigma = example
    key_pixels, key_flip, key_dropout, key_noise = jax.random.split(key, 4)
    x = dequantize(key_pixels, pixels)
    if recipe.flip:
        x = mirror(key_flip, x)
    apply = partial(recipe.net.apply, params)
    if hasattr(recipe.net, "dropout"):
        apply = partial(apply, train=True, rngs={"dropout": key_dropout})
    return recipe.objective(recipe.wrap(apply), key_noise, x, sigma)


def draw_one(recipe: DiffusionRecipe, params: PyTree, like: Example, key: PRNGKey) -> Example:
    """One sample of the recipe's sampler."""
    denoise: DenoiseFn = recipe.wrap(partial(recipe.net.apply, params))
    return recipe.sample(denoise, key, like)


def optimizer(recipe: DiffusionRecipe) -> optax.GradientTransformation:
    """Adam as the recipe has it."""
    rate, b1, b2, warm_up, clip = recipe.optimizer
    schedule = optax.linear_schedule(rate / max(warm_up, 1), rate, warm_up) if warm_up else rate
    adam = optax.adam(schedule, b1=b1, b2=b2)
    return adam if clip is None else optax.chain(optax.clip_by_global_norm(clip), adam)


def report(run: Run, recipe: DiffusionRecipe, samples: np.ndarray, held_out: Pixels) -> None:
    """The page: samples beside held-out images, and curves."""
    from experiments import _report as page

    sections = {
        "Samples, and held-out images": page.samples_beside(run, samples, held_out),
        "Training": page.picture(run, "training", page.curves(run), "Means between rows."),
    }
    page.write_report(run, run.config["name"], f"As in {recipe.source}.", sections)


if __name__ == "__main__":
    command(main)
