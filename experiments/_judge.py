"""Features to judge images by: the last hidden layer of a small classifier trained here.

A Frechet distance on them is not the FID of the literature, and is named accordingly.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

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
