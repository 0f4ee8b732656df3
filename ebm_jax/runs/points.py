"""Training tasks for energies of points: a known distribution in the plane, or rows of a file."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ebm_jax import recipes, samplers
from ebm_jax.data import Points, Rows, batch_indices
from ebm_jax.keys import example_keys
from ebm_jax.recipes import ChainSampler, EnergyProblem
from ebm_jax.runs.training import fresh_batches
from ebm_jax.targets import Target
from ebm_jax.types import Example, PRNGKey

MOST_CORRELATED = 300  # columns up to which a full covariance is fitted
JITTER = 1e-4  # added to a correlation matrix, which may be singular
BOX = 4.0  # half the side of the square in which chains start, for a known distribution
VALIDATED, MOST_VALIDATED = 10, 2000  # one row in ten of a file, at most 2000
STEPS = {"law": 2e-3, "file": 2e-2}  # step sizes of the chains, for about unit covariance


class Task(NamedTuple):
    """A training task for an energy of points, and the data to evaluate it on.

    Attributes:
        problem: the problem given to the losses, in the units of the network.
        batches: batches(first_step, count) of clean examples, in the units of the network.
        held_out: points for evaluation, in the units of the data.
        names: names of their columns.
        sampler: MCMC sampler, in the units of the data.
        gaussian: mean and covariance factor of a Gaussian fitted to the smoothed data, in the
            units of the data.
        center: array subtracted from a point before the network, or None.
        scale: array by which the result is divided, or None.
        validation: points of a file, in the units of the data, that select the best model seen
            in training. None for a known distribution, whose draws are always fresh.
        facts: data identity for the configuration.
        law: the known distribution, or None.
    """

    problem: EnergyProblem
    batches: Callable[[Any, int], PyTree]
    held_out: Float[np.ndarray, "n d"]
    names: tuple[str, ...]
    sampler: ChainSampler
    gaussian: tuple[Array, Array]
    center: Float[Array, " d"] | None = None
    scale: Float[Array, " d"] | None = None
    validation: Float[np.ndarray, "k d"] | None = None
    facts: dict[str, Any] = {}  # noqa: RUF012  never changed
    law: Target | None = None

    def inside(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Converts points from the units of the data to those of the network."""
        if self.center is None or self.scale is None:
            return x
        return (x - np.asarray(self.center)) / np.asarray(self.scale)


def law_task(
    law: Target,
    net: Any,
    *,
    sigma: float,
    batch_size: int,
    num_held_out: int,
    chain_steps: int,
    step_size: float | None,
    seed: int,
) -> Task:
    """Returns the task of learning a known distribution in the plane, from fresh draws.

    Held-out points are smoothed by sigma. Chains are unadjusted Langevin dynamics from uniform
    starts on [-4, 4]^2.
    """
    keys = example_keys(jax.random.key(seed + 1000), jnp.arange(10_000))
    noise = sigma * jax.random.normal(jax.random.key(seed + 1001), (10_000, 2))
    draws = jax.jit(jax.vmap(law.draw))(keys) + noise
    start = partial(recipes.uniform_start, low=-BOX, high=BOX)
    keys = example_keys(jax.random.key(seed + 3), jnp.arange(num_held_out))
    noise = sigma * jax.random.normal(jax.random.key(seed + 4), (num_held_out, 2))
    kernel = partial(recipes.langevin_kernel, step_size=step_size or STEPS["law"])
    return Task(
        problem=EnergyProblem(net, sigma, draws, partial(start, like=jnp.zeros(2))),
        batches=fresh_batches(law.draw, seed + 1, batch_size),
        held_out=np.asarray(jax.jit(jax.vmap(law.draw))(keys) + noise),
        names=("x0", "x1"),
        sampler=ChainSampler(kernel, chain_steps, start),
        gaussian=fitted_factor(np.asarray(draws)),
        law=law,
    )


def file_task(
    points: Points,
    net: Any,
    *,
    sigma: float,
    batch_size: int,
    chain_steps: int,
    step_size: float | None,
    seed: int,
) -> Task:
    """Returns the task of learning the rows of a file, standardized by the training rows.

    Held-out rows keep their units. One in ten of the training rows is set aside as validation
    data, to select the model by. Chains are MALA, preconditioned by and started from the
    Gaussian fitted to the data.
    """
    order = np.random.default_rng(7601).permutation(len(points.train))
    border = min(max(2, len(order) // VALIDATED), MOST_VALIDATED)
    train, validation = points.train[order[border:]], points.train[order[:border]]
    center, scale = train.mean(0), train.std(0)
    x = ((train - center) / scale).astype(np.float32)
    noise = sigma * jax.random.normal(jax.random.key(seed + 1001), x.shape)
    draws = jnp.asarray(x) + noise
    mean, factor = fitted_factor(np.asarray(draws))

    def start(key: PRNGKey) -> Example:
        z = jax.random.normal(key, mean.shape)
        return mean + (factor @ z if factor.ndim == 2 else factor * z)

    def batches(first: int, count: int) -> Rows:
        return Rows(x, batch_indices(seed, first, count, len(x), batch_size))

    gaussian = fitted_factor(center + scale * np.asarray(draws, np.float64))
    kernel = partial(samplers.mala, step_size=step_size or STEPS["file"])
    return Task(
        problem=EnergyProblem(net, sigma, draws, start),
        batches=batches,
        held_out=points.held_out.astype(np.float32),
        names=points.names,
        sampler=ChainSampler(kernel, chain_steps, recipes.normal_start, *gaussian),
        gaussian=gaussian,
        center=jnp.float32(center),
        scale=jnp.float32(scale),
        validation=validation.astype(np.float32),
        facts={"points": points.fingerprint()},
    )


def fitted_factor(x: Float[np.ndarray, "n d"]) -> tuple[Array, Array]:
    """Returns the mean of points and a lower triangular factor of their covariance.

    Above 300 columns, the factor is the standard deviation of each column instead.
    """
    wide = np.asarray(x, np.float64)
    mean, spread = jnp.float32(wide.mean(0)), wide.std(0)
    if wide.shape[1] > MOST_CORRELATED:
        return mean, jnp.float32(spread)
    correlation = np.atleast_2d(np.corrcoef(wide, rowvar=False)) + JITTER * np.eye(len(spread))
    return mean, jnp.float32(spread[:, None] * np.linalg.cholesky(correlation))
