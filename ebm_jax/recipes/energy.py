"""An energy E(x) and its training as one plain value.

Parameters are a dictionary. Those of the energy are under "energy"; a loss that learns more, such
as log Z, a flow or a critic, adds entries. Only the energy is kept after training.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from ebm_jax.ema import Decay
from ebm_jax.keys import example_keys
from ebm_jax.recipes.samplers import ChainSampler
from ebm_jax.training import Prepare
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar, ScoreFn


class Objective(NamedTuple):
    """A loss that trains an energy, with everything it needs.

    Attributes:
        loss: loss(params, key, example).
        init: makes parameters from a key; those of the energy are under "energy".
        prepare: what moves chains before the loss, as in `training.make_step`, or None.
        memory: makes the first memory of `prepare` from a key.
        clean: True if the loss adds noise itself and takes clean examples.
        rate: learning rate of the energy, relative to the best one for exact score matching.
        speed: learning rate of the other parameters, relative to that of the energy.
        momentum: Adam's first beta; two-player games need a small one.
    """

    loss: Callable[[Any, PRNGKey, Any], Scalar]
    init: Callable[[PRNGKey], PyTree]
    prepare: Prepare | None = None
    memory: Callable[[PRNGKey], PyTree] = lambda key: ()
    clean: bool = False
    rate: float = 1.0
    speed: float = 1.0
    momentum: float = 0.9

    def smoothed(self, sigma: float) -> "Objective":
        """Returns this objective for clean examples: it adds N(0, sigma^2 I) to them at every step.

        An objective that adds its own noise is returned unchanged.
        """
        if self.clean:
            return self

        def blur(key: PRNGKey, x: Example) -> Example:
            return x + sigma * jax.random.normal(key, x.shape, x.dtype)

        def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
            key_noise, key_loss = jax.random.split(key)
            return self.loss(params, key_loss, blur(key_noise, x))

        if self.prepare is None:
            return self._replace(loss=loss, clean=True)
        prepare_noisy = self.prepare

        def prepare(params: PyTree, key: PRNGKey, memory: PyTree, x: Array) -> Any:
            key_noise, key_chains = jax.random.split(key)
            keys = example_keys(key_noise, jnp.arange(x.shape[0]))
            return prepare_noisy(params, key_chains, memory, jax.vmap(blur)(keys, x))

        return self._replace(prepare=prepare, clean=True)


class EnergyRecipe(NamedTuple):
    """An energy E(x), p(x) ~ exp(-E(x)), and its training.

    Attributes:
        net: linen module, E(x) = net.apply(params["energy"], x).
        objective: the loss and what it needs, from `recipes.energy_losses` or your own.
        optimizer: makes an optax transformation for a number of steps, such as
            `Optimizer(1e-3).make` or `partial(two_player_adam, objective, 6e-3)`.
        ema: decay of the exponential moving average of the parameters: a number, or one of
            `ema`.
        batch_size: examples per step.
        num_steps: optimization steps.
        shape: shape of an example.
        sampler: default sampler.
        center: array that is subtracted from data before the network sees them, or None.
        scale: array by which the result is divided, or None.
        source: publication of the recipe.
    """

    net: Any
    objective: Objective
    optimizer: Callable[[int], optax.GradientTransformation]
    ema: float | Decay
    batch_size: int
    num_steps: int
    shape: tuple[int, ...]
    sampler: ChainSampler
    center: Array | None = None
    scale: Array | None = None
    source: str = ""

    def energy(self, params: PyTree) -> EnergyFn:
        """Returns E(x) of these parameters, in the units of the network's input."""
        return partial(self.net.apply, params["energy"])


class EnergyProblem(NamedTuple):
    """A learning problem for the losses of `recipes.energy_losses`.

    Attributes:
        net: module of the energy, such as `nets.EnergyMLP`.
        sigma: standard deviation of the noise by which the distribution is smoothed.
        draws: draws from the smoothed distribution, to which noise distributions are fitted.
        start: makes the start of a new persistent chain from a key.
        score: score of the smoothed distribution if it is known, or None.
    """

    net: Any
    sigma: float
    draws: Float[Array, "n d"]
    start: Callable[[PRNGKey], Example]
    score: ScoreFn | None = None

    @property
    def dimension(self) -> int:
        """The dimension d of an example."""
        return self.draws.shape[1]

    @property
    def shape(self) -> tuple[int]:
        """The shape of an example, (d,)."""
        return (self.dimension,)

    def energy(self, params: PyTree) -> EnergyFn:
        """Returns E(x) of these parameters."""
        return partial(self.net.apply, params["energy"])

    def init(self, key: PRNGKey) -> dict[str, PyTree]:
        """Returns initial parameters of the energy."""
        return {"energy": self.net.init(key, jnp.zeros(self.shape))}


def two_player_adam(
    objective: Objective, learning_rate: float, num_steps: int
) -> optax.GradientTransformation:
    """Returns Adam for two-player training: the energy and log Z, and all other parameters.

    Each part has its own learning rate, which falls to 0 along a cosine, and its gradient is
    clipped to norm 10.

    Args:
        objective: sets `rate`, `speed` and `momentum`.
        learning_rate: the first learning rate for `rate` 1.
        num_steps: number of training steps.
    """

    def labels(params: PyTree) -> dict[str, str]:
        return {name: "model" if name in ("energy", "log_z") else "other" for name in params}

    def adam(rate: float) -> optax.GradientTransformation:
        schedule = optax.cosine_decay_schedule(rate * learning_rate, num_steps)
        return optax.chain(
            optax.clip_by_global_norm(10.0), optax.adam(schedule, objective.momentum)
        )

    rate, other = objective.rate, objective.rate * objective.speed
    return optax.multi_transform({"model": adam(rate), "other": adam(other)}, labels)


def log_uniform(key: PRNGKey, low: float, high: float) -> Scalar:
    """Draws a number in [low, high) whose logarithm is uniform."""
    return jnp.exp(jax.random.uniform(key, minval=jnp.log(low), maxval=jnp.log(high)))
