"""Checks of static facts at factories and doors: a sentence with the name, the value, the mend."""

import jax
import jax.numpy as jnp

from ebm_jax.types import DenoiseFn, EnergyFn, Example, Scalar, ScoreFn


def check_positive(name: str, **numbers: float | int | Scalar) -> None:
    """Raise the ValueError of a function one of whose numbers is known and not positive."""
    for argument, value in numbers.items():
        if isinstance(value, float | int) and not value > 0:
            raise ValueError(f"`{name}` got {argument}={value}: give a positive number.")


def check_energy(name: str, energy_fn: EnergyFn, x: Example) -> None:
    """Raise the ValueError of an energy that is no float scalar of one example."""
    out = jax.eval_shape(energy_fn, x)
    shape = getattr(out, "shape", None)
    if shape != ():
        raise ValueError(
            f"`{name}` got energy_fn(x) of shape {shape} for x of shape {x.shape}, expected (): "
            "functions see one example; batch with jax.vmap."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` got energy_fn(x) of type {out.dtype}, expected a float: "
            "it has no gradient; convert its result with jnp.float32."
        )


def check_score(name: str, score_fn: ScoreFn, x: Example) -> None:
    """Raise the ValueError of a score that is not of the shape of its example."""
    shape = getattr(jax.eval_shape(score_fn, x), "shape", None)
    if shape != x.shape:
        raise ValueError(
            f"`{name}` got score_fn(x) of shape {shape}, expected {x.shape}: "
            "functions see one example; batch with jax.vmap."
        )


def check_denoiser(name: str, denoise_fn: DenoiseFn, x: Example) -> None:
    """Raise the ValueError of a denoiser whose result is not of the shape of its example."""
    level = jax.ShapeDtypeStruct((), x.dtype)
    shape = getattr(jax.eval_shape(denoise_fn, x, level), "shape", None)
    if shape != x.shape:
        raise ValueError(
            f"`{name}` got denoise_fn(x, sigma) of shape {shape}, expected {x.shape}: "
            "functions see one example; batch with jax.vmap."
        )
