"""Figures that say how the training of an energy fares, for people to watch.

The value of a contrastive loss is no sign of convergence; these are signs of trouble.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax._checks import check_energy
from ebm_jax._precision import Samples, check_numbers, widened
from ebm_jax.types import EnergyFn, Scalar


class Health(NamedTuple):
    """Means over a batch of data and a batch of the model's samples.

    Attributes:
        energy_gap: E(samples) - E(data); 0 when the samples have the law of the data,
            far from it when the chains do not follow the energy.
        energy_size: |E| over both; growth without end means that nothing holds E.
        gradient_norm: |grad E| at the samples, of the order of sqrt(d) / scale of the data.
        saturation: share of the samples' entries at or beyond the box; near that of data.
    """

    energy_gap: Scalar
    energy_size: Scalar
    gradient_norm: Scalar
    saturation: Scalar


def energy_health(
    energy_fn: EnergyFn,
    x_data: Samples,
    x_model: Samples,
    *,
    low: float = -1.0,
    high: float = 1.0,
) -> Health:
    """The figures of `Health` for one energy.

    Args:
        energy_fn: E(x), a scalar for one example.
        x_data: examples of the data, at least 1.
        x_model: samples of the model, at least 1.
        low: lower side of the box that samples are clipped to.
        high: its upper side.

    Raises:
        ValueError: for an empty batch or an empty box, examples of two shapes, or an energy
            that is no float scalar.
    """
    check_numbers("energy_health", x_data=x_data, x_model=x_model)
    x_data, x_model = widened(x_data), widened(x_model)
    if min(x_data.ndim, x_model.ndim) < 1:
        raise ValueError(
            f"`energy_health` got batches of shapes {x_data.shape} and {x_model.shape}: "
            "give (rows, ...) of both."
        )
    if x_data.shape[1:] != x_model.shape[1:]:
        raise ValueError(
            f"`energy_health` got examples of shapes {x_data.shape[1:]} and {x_model.shape[1:]}: "
            "give one shape."
        )
    n, m = x_data.shape[0], x_model.shape[0]
    if min(n, m) < 1 or not low < high:
        raise ValueError(
            f"`energy_health` got {n} examples, {m} samples and the box [{low}, {high}]: "
            "give at least 1 of each, and low < high."
        )
    check_energy("energy_health", energy_fn, x_data[0])
    data = jax.vmap(energy_fn)(x_data)
    model, slopes = jax.vmap(jax.value_and_grad(energy_fn))(x_model)
    return Health(
        energy_gap=jnp.mean(model) - jnp.mean(data),
        energy_size=jnp.mean(jnp.abs(jnp.concatenate([data, model]))),
        gradient_norm=jnp.mean(jnp.sqrt(jnp.sum(slopes.reshape(m, -1) ** 2, -1))),
        saturation=jnp.mean((x_model <= low) | (x_model >= high)),
    )
