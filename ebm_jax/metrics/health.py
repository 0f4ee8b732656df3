"""Diagnostics to watch while an energy trains.

The value of a contrastive loss says nothing about convergence; these metrics show trouble.
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
        energy_gap: mean E(samples) - mean E(data). It is 0 if the samples have the distribution
            of the data, and far from 0 if the chains do not follow the energy.
        energy_size: mean |E| over both batches. Unbounded growth means that nothing regularizes E.
        gradient_norm: mean |grad E| at the samples, of the order of sqrt(d) / scale of the data.
        saturation: share of the samples' entries at or outside the bounds of the box. It should
            be near that of the data.
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
    """Returns the diagnostics of `Health` for one energy.

    Args:
        energy_fn: E(x), a scalar for one example.
        x_data: data, (n, ...), at least 1 row.
        x_model: samples of the model, (m, ...), at least 1 row.
        low: lower bound of the box that samples are clipped to.
        high: upper bound of that box.

    Raises:
        ValueError: for an empty batch, low >= high, examples of different shapes, or an energy
            that is not a float scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import metrics
        >>> energy_fn = lambda x: 0.5 * jnp.sum(x**2)
        >>> x_data, x_model = jnp.zeros((4, 2)), jnp.ones((4, 2))
        >>> health = metrics.energy_health(energy_fn, x_data, x_model)
        >>> float(health.energy_gap), float(health.saturation)
        (1.0, 1.0)
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
