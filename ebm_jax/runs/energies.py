"""Training of an energy recipe, from its first parameters to the saved model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ebm_jax.recipes import EnergyRecipe
from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.models import FILE, Model, header, load, save_model
from ebm_jax.runs.run import Run
from ebm_jax.runs.training import train

VALIDATION = "validation_loss"  # of the rows of metrics.csv


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
    validate: Callable[[Model], float] | None = None,
    roll_backs: int = 0,
) -> Model:
    """Trains, or resumes, a recipe; saves its model in the run's folder.

    Args:
        run: where checkpoints, metrics and the model go.
        recipe: what is trained.
        batches: batches(first_step, count) of examples, in the units that the network sees.
        seed: seed of everything.
        steps_per_call: steps between rows of metrics.csv.
        validate: a loss of the model on examples that are not trained on, measured at every
            row. The model with the lowest one is kept; without it the last one is.
        roll_backs: as for `runs.training.train`.

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

    def save_last(step: int, params: PyTree) -> None:
        if validate is None:
            save(step, params)
        if step < recipe.num_steps:  # then the whole report follows
            from ebm_jax.runs.image_page import training_report

            training_report(run, step, recipe.num_steps)

    def choose(params: PyTree) -> dict[str, float]:
        if validate is None:
            return {}
        past = [float(row[VALIDATION]) for row in run.rows()]
        found = validate(model_of(recipe, params))
        if not past or found < min(past):
            save(steps_per_call * (len(past) + 1), params)
        return {VALIDATION: found}

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
        evaluate=choose,
        prepare=objective.prepare,
        memory=jax.jit(objective.memory)(jax.random.key(seed + 1)),
        roll_backs=roll_backs,
        best=VALIDATION,  # the loss of a batch says nothing of a model with chains
        save=save_last,
    )
    return model_of(recipe, state.ema) if validate is None else load(run.folder)


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
