"""Evaluates an energy of points on held-out data: score matching and log-likelihood, in nats."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax import losses
from ebm_jax.calculus import score_from_energy
from ebm_jax.keys import example_keys
from ebm_jax.likelihood import log_z_from_gaussian
from ebm_jax.runs.flags import UNSTABLE, finite
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar

MOST_EXACT = 64  # dimensions up to which the Laplacian is exact
SLICES = 16  # random directions of its estimate in higher dimensions
AT_ONCE = 512  # points evaluated at once


def score_matching_losses(
    energy_fn: EnergyFn, x: Float[np.ndarray, "n d"], seed: int
) -> Float[Array, " n"]:
    """Score-matching loss 1/2 |s|^2 + div s of each point; sliced above 64 dimensions."""
    score_fn = score_from_energy(energy_fn)

    def one(pair: tuple[PRNGKey, Example]) -> Scalar:
        key, at = pair
        if at.size <= MOST_EXACT:
            return losses.exact_score_matching(score_fn, at)
        return losses.variance_reduced_sliced_score_matching(score_fn, key, at, num_slices=SLICES)

    keys = example_keys(jax.random.key(seed), jnp.arange(len(x)))
    many = jax.jit(lambda keys, x: jax.lax.map(one, (keys, x), batch_size=AT_ONCE))
    return many(keys, jnp.asarray(x, jnp.float32))


def judge_density(
    energy_fn: EnergyFn,
    held_out: Float[np.ndarray, "n d"],
    ends: Float[np.ndarray, "m d"],
    center: Float[Array, " d"],
    factor: Float[Array, "d d"] | Float[Array, " d"],
    *,
    num_levels: int,
    seed: int,
) -> dict[str, float]:
    """Score-matching loss and log-likelihood of held-out points, with log Z by annealing.

    Args:
        energy_fn: E(x), in the units of the points.
        held_out: held-out points.
        ends: samples of the model, from which the reverse annealing starts.
        center: mean of a Gaussian near the model, from which the forward annealing starts.
        factor: its factor, with factor factor^T the covariance, or its standard deviations.
        num_levels: number of annealing levels.
        seed: seed of all random numbers.

    Returns:
        Means over the points and their standard errors, which for the log-likelihood include
        that of log Z. The log-likelihood is too high in expectation by forward annealing, and
        too low by reverse annealing. If the two agree, both are right.

    Raises:
        RunError: Losses or energies are not finite.
    """
    kind = "exact" if held_out.shape[1] <= MOST_EXACT else f"by {SLICES} slices"
    results = {}
    found = score_matching_losses(energy_fn, held_out, seed)
    mean, error = _mean(finite("score-matching losses", found, UNSTABLE))
    results[f"score-matching loss ({kind}), held out"] = mean
    results["score-matching loss, standard error"] = error
    many = jax.jit(lambda x: jax.lax.map(energy_fn, x, batch_size=AT_ONCE))
    energies = finite("energies", many(jnp.asarray(held_out, jnp.float32)), UNSTABLE)
    mean, error = _mean(energies)
    bracket = jax.jit(log_z_from_gaussian, static_argnums=0, static_argnames="num_levels")(
        energy_fn, jax.random.key(seed), jnp.asarray(ends, jnp.float32), center,
        factor if factor.ndim == 2 else jnp.diag(factor),
        num_levels=num_levels,
    )  # fmt: skip
    for name, bound in (("forward", bracket.lower), ("reverse", bracket.upper)):
        of_z = float(bound.standard_error)
        results[f"log-likelihood by {name} annealing, held out, nats"] = -mean - float(bound.value)
        results[f"log-likelihood by {name} annealing, standard error"] = math.hypot(error, of_z)
        results[f"log Z by {name} annealing"] = float(bound.value)
        results[f"log Z by {name} annealing, standard error"] = of_z
        results[f"effective chains of {name} annealing"] = float(bound.effective)
    return results


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Returns the mean in double precision and its standard error."""
    wide = np.asarray(values, np.float64)
    return float(wide.mean()), float(wide.std(ddof=1) / math.sqrt(len(wide)))
