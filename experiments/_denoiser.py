"""What experiments on images share: training a denoiser, drawing from it, the pictures.

Pixels are dequantised afresh at every step (`evidence.dequantise`), so that the data have a
density and a likelihood in bits a dimension means something.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import ndtri
from jaxtyping import Array, PyTree

from ebm_jax import evidence, losses, noise
from ebm_jax.data import Images, batch_indices, to_uint8
from ebm_jax.nets.precondition import RawFn
from ebm_jax.sharding import spread
from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar
from experiments._run import Run, RunError, progress, say
from experiments._train import train

CHUNK = 250  # images in one compiled call of a sampler
SHOWN_LEVELS = (0.02, 0.1, 0.3, 1.0, 3.0, 10.0)  # of the loss in metrics.csv

Objective = Callable[[DenoiseFn, PRNGKey, Example, Scalar], Scalar]


def train_denoiser(
    run: Run,
    images: Images,
    held_out: Images,
    net: nn.Module,
    precondition: Callable[[RawFn], DenoiseFn],
    objective: Objective,
    level: Callable[[Scalar], Scalar],
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    ema_decay: float,
    seed: int,
) -> DenoiseFn:
    """Train, or resume, a network on images; the denoiser of its averaged parameters.

    Args:
        run: where checkpoints and metrics go.
        images: the training images.
        held_out: others, whose loss by level is measured besides.
        net: net.apply(params, x, level) of the shape of x.
        precondition: makes a denoiser of that, such as `nets.precondition.edm`.
        objective: objective(denoise_fn, key, x, sigma), one of `losses`.
        level: the noise level of a u that is uniform on [0, 1).
        num_steps: optimisation steps.
        batch_size: images in a step.
        learning_rate: peak of Adam's, after a warm-up of a twentieth, then a cosine to 0.
        ema_decay: decay of the parameters' moving average.
        seed: seed of everything.

    Raises:
        RunError: if the network cannot take these images, or training diverged.
    """
    pixels = images.pixels
    like = jax.ShapeDtypeStruct(pixels.shape[1:], jnp.float32)
    try:
        params = net.lazy_init(jax.random.key(seed), like, 0.0)
    except ValueError as error:
        raise RunError(str(error)) from error
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    say(f"{len(pixels)} images of {like.shape}, {len(held_out.pixels)} held out")
    say(f"{type(net).__name__} of {count:,} parameters")

    def denoiser(params: PyTree) -> DenoiseFn:
        return precondition(partial(net.apply, params))

    def loss(params: PyTree, key: PRNGKey, example: tuple[Array, Scalar]) -> Scalar:
        pixels, sigma = example
        key_pixels, key_noise = jax.random.split(key)
        x = evidence.dequantise(key_pixels, pixels)
        return objective(denoiser(params), key_noise, x, sigma)

    @jax.jit
    def draw_levels(steps: Array) -> Array:
        """Evenly spread over each batch."""
        keys = noise.example_keys(jax.random.key(seed + 2), steps)
        u = jax.vmap(partial(noise.draw_low_discrepancy, batch_size=batch_size))(keys)
        return jax.vmap(jax.vmap(level))(u)

    def batches(first: int, count: int) -> tuple[np.ndarray, Array]:
        index = batch_indices(seed, first, count, len(pixels), batch_size)
        return pixels[index], draw_levels(first + jnp.arange(count))

    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, num_steps // 20, num_steps)
    state = train(
        run,
        loss,
        params,
        optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate, b2=0.99)),
        batches,
        num_steps=num_steps,
        batch_size=batch_size,
        seed=seed,
        ema_decay=ema_decay,
        steps_per_call=min(50, max(1, num_steps // 10)),
        one_scan=False,
        evaluate=_loss_by_level(denoiser, pixels, held_out.pixels),
    )
    return denoiser(state.ema)


def log_normal_level(u: Scalar, *, mean: float = -1.2, std: float = 1.2) -> Scalar:
    """The quantile of `noise.draw_log_normal` at u: EDM's law of levels for even draws."""
    inside = jnp.clip(u, 1e-6, 1 - 1e-6)
    return jnp.exp(mean + std * ndtri(inside))


def _loss_by_level(denoiser: Callable[[PyTree], DenoiseFn], *pixels: np.ndarray) -> Callable:
    """sigma^-2 times the squared error at SHOWN_LEVELS on 16 training and held-out images."""

    @jax.jit
    def by_level(params: PyTree, pixels: Array) -> Array:
        def one(sigma: Scalar, index: Array, pixels: Array) -> Scalar:
            key_pixels, key = jax.random.split(jax.random.fold_in(jax.random.key(0), index))
            x = evidence.dequantise(key_pixels, pixels)
            return losses.noise_conditional(denoiser(params), key, x, sigma)

        index = jnp.arange(len(pixels))
        at = jax.vmap(one, (None, 0, 0))
        return jax.lax.map(lambda s: jnp.mean(at(s, index, pixels)), jnp.array(SHOWN_LEVELS))

    def evaluate(params: PyTree) -> dict[str, float]:
        return {
            f"{name}_loss_at_{sigma:.3g}": float(value)
            for name, some in zip(("train", "held_out"), pixels, strict=True)
            for sigma, value in zip(SHOWN_LEVELS, by_level(params, some[:16]), strict=True)
        }

    return evaluate


def draw_images(
    draw: Callable[[PRNGKey], Array], count: int, seed: int, label: str = "sample"
) -> np.ndarray:
    """`count` images as uint8, of draw(key) in [-1, 1]; image i depends on (seed, i) alone."""
    many, drawn = spread(draw), []
    with progress(label, count) as advance:
        for first in range(0, count, CHUNK):
            keys = noise.example_keys(jax.random.key(seed), first + jnp.arange(CHUNK))
            drawn.append(to_uint8(np.asarray(many(keys))))
            advance(min(CHUNK, count - first))
    return np.concatenate(drawn)[:count]


def bits_per_dimension(
    log_density: Callable[[PRNGKey, Example], Scalar], pixels: np.ndarray, count: int, seed: int
) -> tuple[float, float]:
    """The mean code length of the first `count` images, dequantised, and its standard error.

    Args:
        log_density: log p(x) in nats, or a lower bound, from a key and an example.
        pixels: images as uint8.
        count: how many of them.
        seed: of dequantisation and probes; image i depends on (seed, i) alone.
    """

    def one(key: PRNGKey, image: Array) -> Scalar:
        key_pixels, key_density = jax.random.split(key)
        return log_density(key_density, evidence.dequantise(key_pixels, image))

    many, values, count = spread(one), [], min(count, len(pixels))
    with progress("likelihood", count) as advance:
        for first in range(0, count, 64):
            some = jnp.asarray(pixels[first : min(first + 64, count)])
            keys = noise.example_keys(jax.random.key(seed), first + jnp.arange(len(some)))
            values.append(np.asarray(many(keys, some)))
            advance(len(some))
    size = pixels[0].size
    bits = -np.concatenate(values) / (size * np.log(2)) - np.log2(2 / 255)
    return float(bits.mean()), float(bits.std(ddof=1) / np.sqrt(len(bits)))
