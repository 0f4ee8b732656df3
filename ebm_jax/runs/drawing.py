"""Draws many samples, or evaluates many images, in chunks and with a progress bar.

Results that are not finite raise a `RunError`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree, UInt8

from ebm_jax import likelihood
from ebm_jax.data import Pixels, dequantize, to_uint8
from ebm_jax.keys import example_keys
from ebm_jax.runs.flags import UNSTABLE, finite
from ebm_jax.runs.models import Model
from ebm_jax.runs.progress import progress
from ebm_jax.sharding import spread
from ebm_jax.types import DenoiseFn, PRNGKey, Scalar

CHUNK = 250  # maximum number of draws in one compiled call of a sampler
SHOWN_PATHS = 8  # samples whose paths are shown

Measure = Callable[[PRNGKey, UInt8[Array, "h w c"]], Array]


def draw_images(
    draw: Callable[..., Array], count: int, seed: int, label: str = "sample", *more: Array
) -> np.ndarray:
    """Returns `count` draws of draw(key, ...) in [-1, 1] as uint8 images.

    Takes the arguments of `draw_finite`, which refuses NaN; in uint8 it would appear as black.
    """
    return to_uint8(draw_finite(draw, count, seed, label, *more))


def draw_finite(
    draw: Callable[..., PyTree],
    count: int,
    seed: int,
    label: str = "sample",
    *more: Array,
    chunk: int = CHUNK,
) -> np.ndarray:
    """Returns `count` draws as one array; draw i depends only on (seed, i).

    Args:
        draw: draw(key, ...) returns one draw.
        count: number of draws.
        seed: seed of the keys.
        label: label of the progress bar.
        more: arrays of `count` rows, such as labels; draw i gets row i of each after its key.
        chunk: maximum number of draws in one compiled call.

    Raises:
        RunError: Some draws are not finite.
    """
    many, drawn, chunk = spread(draw), [], min(chunk, count)
    with progress(label, count) as advance:
        for first in range(0, count, chunk):
            index = first + jnp.arange(chunk)
            rows = (jnp.asarray(array)[index % count] for array in more)
            drawn.append(np.asarray(many(example_keys(jax.random.key(seed), index), *rows)))
            advance(min(chunk, count - first))
    what = "samples" if label == "sample" else f"samples of {label}"
    return finite(what, np.concatenate(drawn)[:count], UNSTABLE)


def draw_from(
    model: Model,
    count: int,
    seed: int,
    *,
    guidance_scale: float = 1.0,
    interval: tuple[float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns images drawn from a model and, for a conditional one, the requested labels.

    Sample i is conditioned on the label i mod K.

    Args:
        model: a denoiser with a sampler.
        count: number of images.
        seed: seed of the keys, as in `draw_images`.
        guidance_scale: scale of classifier-free guidance towards the label; 1 means no guidance.
        interval: noise levels between which the guidance acts; all by default.

    Raises:
        RunError: Some samples are not finite.
    """
    if model.names is None:
        return draw_images(model.draw, count, seed), None
    labels = np.arange(count) % len(model.names)
    between = interval or (0.0, float("inf"))

    def draw(key: PRNGKey, label: Int[Array, ""]) -> Array:
        return model.draw(key, label=label, guidance_scale=guidance_scale, interval=between)

    return draw_images(draw, count, seed, "sample", jnp.asarray(labels)), labels


def over_images(
    measure: Measure,
    pixels: Pixels,
    count: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of measure(key, image) over the first `count` images, and its standard error.

    The key of image i depends only on (seed, i). Raises a `RunError` if some values are not
    finite.
    """
    many, values, count = spread(measure), [], min(count, len(pixels))
    with progress("likelihood", count) as advance:
        for first in range(0, count, 64):
            some = jnp.asarray(pixels[first : min(first + 64, count)])
            keys = example_keys(jax.random.key(seed), first + jnp.arange(len(some)))
            values.append(np.asarray(many(keys, some)))
            advance(len(some))
    found = finite("likelihoods", np.concatenate(values), UNSTABLE)
    if len(found) < 2:  # one value has no standard error
        return np.asarray(found[0]), np.full_like(found[0], np.nan)
    return np.asarray(found.mean(0)), np.asarray(found.std(0, ddof=1) / np.sqrt(len(found)))


def flow_bits(
    denoise_fn: DenoiseFn, *, sigma_min: float, sigma_max: float, num_probes: int
) -> Measure:
    """Returns measure(key, image): bits per dimension of an image, by the probability-flow ODE."""

    def bits(key: PRNGKey, image: UInt8[Array, "h w c"]) -> Scalar:
        key_pixels, key_probes = jax.random.split(key)
        found = likelihood.estimated_flow_log_density(
            denoise_fn, key_probes, dequantize(key_pixels, image), sigma_min=sigma_min,
            sigma_max=sigma_max, num_probes=num_probes, rtol=1e-4, atol=1e-4,
        )  # fmt: skip
        return jnp.asarray(
            likelihood.bits_per_dimension(found.value, image.size, cell_width=2 / 255)
        )

    return bits


def draw_paths(path: Callable[[PRNGKey], Array], seed: int) -> np.ndarray:
    """Returns the paths of the first SHOWN_PATHS samples of `draw_images`, as uint8.

    Args:
        path: path(key) returns the states of one sample, each in units of its scale.
        seed: as in `draw_images`.
    """
    keys = example_keys(jax.random.key(seed), jnp.arange(SHOWN_PATHS))
    return to_uint8(np.asarray(jax.jit(jax.vmap(path))(keys)))
