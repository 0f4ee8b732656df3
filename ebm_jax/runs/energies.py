"""Training of an energy recipe, from its first parameters to the saved model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ebm_jax.recipes import EnergyRecipe
from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.models import FILE, Model, header, save_model
from ebm_jax.runs.run import Run
from ebm_jax.runs.training import train


def check_energy(run: Run, recipe: EnergyRecipe) -> None:
    """Refuses a recipe that cannot be trained or saved; nothing is computed.

    Raises:
        RunError: with the sentence of the network, the loss or the devices.
    """
    try:
        params = jax.eval_shape(recipe.objective.init, jax.random.key(0))
        like = jax.ShapeDtypeStruct(recipe.shape, jnp.float32)
        jax.eval_shape(lambda params, x: recipe.energy(params)(x), params, like)
    except (ValueError, TypeError) as error:
        raise RunError(str(error)) from error
    header(model_of(recipe, {"energy": ()}))  # raises PlainError for what no file could hold
    run.machine.mesh_for(recipe.batch_size)


def train_energy(
    run: Run,
    recipe: EnergyRecipe,
    batches: Callable[[int, int], PyTree],
    *,
    seed: int,
    steps_per_call: int = 50,
    evaluate: Callable[[Model], dict[str, float]] = lambda model: {},
    roll_backs: int = 0,
    best: str = "",
) -> Model:
    """Trains, or resumes, a recipe; saves its model in the run's folder.

    Args:
        run: where checkpoints, metrics and the model go.
        recipe: what is trained.
        batches: batches(first_step, count) of examples, in the units that the network sees.
        seed: seed of everything.
        steps_per_call: steps between rows of metrics.csv.
        evaluate: metrics of the model that a row holds besides.
        roll_backs: as for `runs.training.train`.
        best: likewise; a loss with chains says nothing of the model.

    Returns:
        The model of the averaged parameters.

    Raises:
        RunError: if training diverged.
    """
    objective = recipe.objective
    params = jax.jit(objective.init)(jax.random.key(seed))
    count = sum(leaf.size for leaf in jax.tree.leaves(params["energy"]))
    say(f"{type(recipe.net).__name__} of {count:,} parameters on examples of {recipe.shape}")

    def save(step: int, params: PyTree) -> None:
        about = {"config": run.config, "steps": step, "source": recipe.source}
        save_model(run.folder / FILE, model_of(recipe, params)._replace(about=about))

    state = train(
        run,
        objective.loss,
        params,
        recipe.optimizer(recipe.num_steps),
        batches,
        num_steps=recipe.num_steps,
        batch_size=recipe.batch_size,
        seed=seed,
        ema_decay=recipe.ema,
        steps_per_call=steps_per_call,
        evaluate=lambda params: evaluate(model_of(recipe, params)),
        prepare=objective.prepare,
        memory=jax.jit(objective.memory)(jax.random.key(seed + 1)),
        roll_backs=roll_backs,
        best=best,
        save=save,
    )
    return model_of(recipe, state.ema)


def model_of(recipe: EnergyRecipe, params: PyTree) -> Model:
    """Returns the model that outlives the training of a recipe."""
    return Model(
        recipe.net,
        params["energy"],
        recipe.shape,
        sampler=recipe.sampler,
        center=recipe.center,
        scale=recipe.scale,
    )
