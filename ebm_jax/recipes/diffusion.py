"""A diffusion model and its training as one plain value."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ebm_jax.data import dequantize, mirror
from ebm_jax.ema import Decay
from ebm_jax.nets.precondition import RawFn
from ebm_jax.recipes.samplers import Sampler
from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar


class Optimizer(NamedTuple):
    """Adam with a linear warm-up and optional cosine decay.

    Attributes:
        learning_rate: learning rate after the warm-up.
        b1: decay of the mean gradient.
        b2: decay of the mean squared gradient.
        warm_up: number of steps over which the learning rate rises linearly.
        decay: True if the learning rate then falls to 0 along a cosine until the last step.
        clip: largest global norm of the gradient, or None.
    """

    learning_rate: float
    b1: float = 0.9
    b2: float = 0.999
    warm_up: int = 0
    decay: bool = False
    clip: float | None = None

    def make(self, num_steps: int) -> optax.GradientTransformation:
        """Returns the optax transformation for a training run of `num_steps` steps."""
        rate, warm_up = self.learning_rate, self.warm_up
        schedule: Any = rate
        if self.decay:
            schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warm_up, num_steps)
        elif warm_up:
            schedule = optax.linear_schedule(rate / warm_up, rate, warm_up)
        adam = optax.adam(schedule, b1=self.b1, b2=self.b2)
        return (
            adam if self.clip is None else optax.chain(optax.clip_by_global_norm(self.clip), adam)
        )


class DiffusionRecipe(NamedTuple):
    """A diffusion model of images in [-1, 1] and its training.

    Attributes:
        net: linen module, net.apply(params, x, level) or (params, x, level, label).
        wrap: function from `nets.precondition` that makes a denoiser D(x, sigma) of net.apply.
        objective: objective(denoise_fn, key, x, sigma), from `losses`.
        level: function from `noise` that maps u, uniform on [0, 1), to a noise level of training.
        sampler: default sampler.
        optimizer: settings of Adam.
        ema: decay of the exponential moving average of the parameters, from `ema`.
        batch_size: images per step.
        num_steps: optimization steps.
        shape: shape of an image.
        names: class names of a conditional model, whose network has num_classes = len(names); or
            None.
        label_dropout: probability that training hides the label, for classifier-free guidance.
        flip: True if training images are mirrored at random.
        source: publication of the recipe.
    """

    net: Any
    wrap: Callable[[RawFn], DenoiseFn]
    objective: Callable[[DenoiseFn, PRNGKey, Example, Scalar], Scalar]
    level: Callable[[Scalar], Scalar]
    sampler: Sampler
    optimizer: Optimizer
    ema: Decay
    batch_size: int
    num_steps: int
    shape: tuple[int, ...] = (32, 32, 3)
    names: tuple[str, ...] | None = None
    label_dropout: float = 0.1
    flip: bool = False
    source: str = ""

    def denoiser(self, params: PyTree) -> DenoiseFn:
        """Returns D(x, sigma) of these parameters, without a label."""
        return self.wrap(partial(self.net.apply, params))

    def loss(self, params: PyTree, key: PRNGKey, example: tuple[Array, ...]) -> Scalar:
        """Returns the objective on one image, dequantized and mirrored at random: for `make_step`.

        Args:
            params: the parameters of `net`.
            key: PRNG key of the example.
            example: uint8 pixels, a noise level and, for a conditional model, a label.
        """
        pixels, sigma, *label = example
        key_pixels, key_flip, key_dropout, key_label, key_noise = jax.random.split(key, 5)
        x = dequantize(key_pixels, pixels)
        if self.flip:
            x = mirror(key_flip, x)
        options: dict[str, Any] = {}
        if getattr(self.net, "dropout", 0.0):
            options = {"train": True, "rngs": {"dropout": key_dropout}}
        apply = partial(self.net.apply, params)
        if self.names is not None:
            hidden = jax.random.bernoulli(key_label, self.label_dropout)
            shown = jnp.where(hidden, len(self.names), label[0])  # the last index means no label

            def conditional(x: Example, level: Scalar) -> Example:
                return apply(x, level, shown, **options)

            return self.objective(self.wrap(conditional), key_noise, x, sigma)
        return self.objective(self.wrap(partial(apply, **options)), key_noise, x, sigma)
