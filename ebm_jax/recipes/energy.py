"""An energy E(x) and its training as one plain value.

Parameters are a dictionary: the energy's are under "energy", and a loss that learns more, such
as log Z, a flow or a critic, keeps that beside them. Only the energy outlives the training.
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
    """How one loss trains an energy.

    Attributes:
        loss: loss(params, key, example).
        init: parameters from a key; those of the energy are under "energy".
        prepare: as in `training.make_step`: what moves chains before the loss, or None.
        memory: the first memory of `prepare`, from a key.
        clean: True if the loss adds noise by itself: its examples are of the clean law.
        rate: learning rate of the energy, over the one that suits exact score matching.
        speed: learning rate of the other parameters, over that of the energy.
        momentum: Adam's first beta; games of two players want little.
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
        """The same for clean examples, to which N(0, sigma^2 I) is added at every step.

        An objective that adds its own noise is returned as it is.
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
    """An energy E(x), p(x) ~ exp(-E(x)), and how it is trained.

    Attributes:
        net: the linen module, E(x) = net.apply(params["energy"], x).
        objective: the loss and what it needs, from `recipes.energy_losses` or by hand.
        optimizer: makes an optax transformation for a number of steps, such as
            `Optimizer(1e-3).make` or `partial(two_player_adam, objective, 6e-3)`.
        ema: decay of the moving average of the parameters: a number, or one of `ema`.
        batch_size: examples in a step.
        num_steps: optimization steps.
        shape: the shape of an example.
        sampler: how samples are drawn by default.
        center: what is taken off an example of the data before the network sees it, or None.
        scale: what the result is divided by, or None.
        source: where the recipe was published.
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
        """E(x) of these parameters, in the units that the network sees."""
        return partial(self.net.apply, params["energy"])


class EnergyProblem(NamedTuple):
    """What an energy is to learn, for the losses of `recipes.energy_losses`.

    Attributes:
        net: the energy's module, such as `nets.EnergyMLP`.
        sigma: the noise by which the law is smoothed.
        draws: draws of the smoothed law, which noise laws are fitted to.
        start: where persistent chains begin anew, from a key.
        score: the score of the smoothed law where it is known, or None.
    """

    net: Any
    sigma: float
    draws: Float[Array, "n d"]
    start: Callable[[PRNGKey], Example]
    score: ScoreFn | None = None

    @property
    def dimension(self) -> int:
        """d, the numbers in an example."""
        return self.draws.shape[1]

    @property
    def shape(self) -> tuple[int]:
        """The shape of an example."""
        return (self.dimension,)

    def energy(self, params: PyTree) -> EnergyFn:
        """E(x) of these parameters."""
        return partial(self.net.apply, params["energy"])

    def init(self, key: PRNGKey) -> dict[str, PyTree]:
        """The first parameters of the energy."""
        return {"energy": self.net.init(key, jnp.zeros(self.shape))}


def two_player_adam(
    objective: Objective, learning_rate: float, num_steps: int
) -> optax.GradientTransformation:
    """Adam on a cosine for the energy and log Z, and at its own speed for all else.

    Args:
        objective: what says `rate`, `speed` and `momentum`.
        learning_rate: the first rate where `rate` is 1; it falls to 0 by a cosine.
        num_steps: steps of the training.
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
    """A positive number whose logarithm is uniform."""
    return jnp.exp(jax.random.uniform(key, minval=jnp.log(low), maxval=jnp.log(high)))
