"""Samples of images against held-out ones, by features of a small classifier trained here.

A Frechet distance on its last hidden layer is not the FID of the literature, and is named
accordingly.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from ebm_jax import metrics
from ebm_jax.data import Images, batch_indices, to_unit
from ebm_jax.nets import MLP
from ebm_jax.sharding import spread
from ebm_jax.training import fit, init_state, make_step
from ebm_jax.types import PRNGKey, Scalar

Features = Callable[[Float[np.ndarray, "n h w c"]], Float[np.ndarray, "n d"]]
WIDTH = 32


def classifier_features(train: Images, held_out: Images, *, seed: int) -> tuple[Features, float]:
    """Train a 3-layer classifier on labelled images; its features, and held-out accuracy.

    The features are the WIDTH activations before the logits, of images in [-1, 1].
    """
    assert train.labels is not None
    body, head = MLP((128, WIDTH)), MLP((int(train.labels.max()) + 1,))
    x, labels = to_unit(train.pixels), train.labels
    key_body, key_head, key_run = jax.random.split(jax.random.key(seed), 3)
    params = {
        "body": body.init(key_body, jnp.zeros(x[0].size)),
        "head": head.init(key_head, jnp.zeros(WIDTH)),
    }

    def embed(params: PyTree, image: Array) -> Array:
        return jnp.tanh(body.apply(params["body"], image.ravel()))

    def loss(params: PyTree, key: PRNGKey, example: tuple[Array, Array]) -> Scalar:
        image, label = example
        noisy = image + 0.1 * jax.random.normal(key, image.shape)
        logits = head.apply(params["head"], embed(params, noisy))
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    def batches(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        index = batch_indices(seed, first, count, len(x), 128)
        return x[index], labels[index]

    optimizer = optax.adam(3e-3)
    step = make_step(loss, optimizer, ema_decay=0.99)
    start = init_state(params, optimizer, key_run)
    [(state, _)] = fit(step, start, batches, num_steps=500, steps_per_call=500)
    ema = state.ema
    features = spread(partial(embed, ema))
    logits = jax.vmap(partial(head.apply, ema["head"]))(
        features(jnp.asarray(to_unit(held_out.pixels)))
    )
    accuracy = float(np.mean(np.argmax(logits, -1) == held_out.labels))
    return lambda images: np.asarray(features(jnp.asarray(images))), accuracy


def pixel_features(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
    """The pixels themselves, for images without labels."""
    return images.reshape(len(images), -1)


def judge_images(
    samples: np.ndarray, images: Images, held_out: Images, seed: int
) -> dict[str, float]:
    """Samples, and as many other training images, against the same held-out images."""
    n = min(len(samples), len(held_out.pixels), len(images.pixels))
    results: dict[str, float] = {"n": n}
    features: Features
    if images.labels is None or held_out.labels is None:
        features, name = pixel_features, "pixels"
    else:
        features, accuracy = classifier_features(images, held_out, seed=seed)
        name = "classifier features"
        results["classifier accuracy on held-out images"] = accuracy
    real = images.pixels[np.random.default_rng(seed).permutation(len(images.pixels))[:n]]
    reference = features(to_unit(held_out.pixels[:n]))
    bandwidth = jax.jit(metrics.median_distance)(jnp.asarray(reference[:1000]))
    squared_mmd = jax.jit(metrics.squared_mmd)
    for who, pixels in {"samples": samples[:n], "real": real}.items():
        embedded = features(to_unit(pixels))
        frechet = metrics.frechet_distance(embedded, reference)
        mmd = squared_mmd(jnp.asarray(embedded), jnp.asarray(reference), bandwidth=bandwidth)
        results[f"Frechet distance ({name}), {who}"] = frechet
        results[f"squared MMD ({name}), {who}"] = float(mmd)
    results["Frechet distance, samples / real"] = (
        results[f"Frechet distance ({name}), samples"] / results[f"Frechet distance ({name}), real"]
    )
    near = jax.jit(metrics.memorisation)(
        *(jnp.asarray(to_unit(p)) for p in (samples[:n], held_out.pixels[:n], images.pixels))
    )
    results["median distance to the training set, samples"] = float(near.samples)
    results["median distance to the training set, held out"] = float(near.held_out)
    results["distance to the training set, samples / held out"] = float(near.ratio)
    return results
