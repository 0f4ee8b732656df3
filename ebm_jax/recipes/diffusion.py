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
    """Adam's numbers; the learning rate rises linearly over `warm_up` steps.

    Attributes:
        learning_rate: after the warm-up.
        b1: decay of the mean gradient.
        b2: decay of the mean square.
        warm_up: steps.
        decay: True if the rate then falls to 0 by a cosine until the last step.
        clip: largest norm of the gradient, or None.
    """

    learning_rate: float
    b1: float = 0.9
    b2: float = 0.999
    warm_up: int = 0
    decay: bool = False
    clip: float | None = None

    def make(self, num_steps: int) -> optax.GradientTransformation:
        """Returns the optax transformation for a training of `num_steps` steps."""
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
    """A diffusion model of images in [-1, 1], and how it is trained.

    Attributes:
        net: the linen module, net.apply(params, x, level) or (params, x, level, label).
        wrap: makes a denoiser D(x, sigma) of net.apply, one of `nets.precondition`.
        objective: objective(denoise_fn, key, x, sigma), one of `losses`.
        level: the noise level of training for a u that is uniform on [0, 1), one of `noise`.
        sampler: how samples are drawn by default.
        optimizer: Adam's numbers.
        ema: the decay of the moving average of the parameters, of `ema`.
        batch_size: images in a step.
        num_steps: optimization steps.
        shape: the shape of an image.
        names: the names of the classes of a conditional model, or None. The network then has
            num_classes = len(names).
        label_dropout: how often training hides the label, for classifier-free guidance.
        flip: True if training images are mirrored at random.
        source: where the recipe was published.
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
        """D(x, sigma) of these parameters, without a label."""
        return self.wrap(partial(self.net.apply, params))

    def loss(self, params: PyTree, key: PRNGKey, example: tuple[Array, ...]) -> Scalar:
        """The objective on one image, dequantized and mirrored at random: for `make_step`.

        Args:
            params: the parameters of `net`.
            key: PRNG key of the example.
            example: pixels in uint8, a noise level and, of a conditional model, a label.
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
            shown = jnp.where(hidden, len(self.names), label[0])  # the last stands for none

            def conditional(x: Example, level: Scalar) -> Example:
                return apply(x, level, shown, **options)

            return self.objective(self.wrap(conditional), key_noise, x, sigma)
        return self.objective(self.wrap(partial(apply, **options)), key_noise, x, sigma)
