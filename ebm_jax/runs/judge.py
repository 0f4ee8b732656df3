"""Images judged against held-out ones, by features of a small classifier trained here.

A Frechet distance on its last hidden layer is not the FID of the literature, and is named
accordingly. `figures` is what `experiments.evaluate` computes from Inception's features too.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from ebm_jax import metrics
from ebm_jax.data import Images, Pixels, batch_indices, to_unit
from ebm_jax.nets import MLP
from ebm_jax.sharding import spread
from ebm_jax.training import fit, init_state, make_step
from ebm_jax.types import PRNGKey, Scalar

WIDTH = 32  # features of the classifier
MOST_NEIGHBOURS = 10_000  # rows for precision and its like, as usual: they depend on n
MOST_IMAGES = 60_000  # that are looked at as they are, all at once: those of MNIST
LEAST = 8  # rows for what looks at neighbors or at subsets


class Outputs(NamedTuple):
    """What a network says of n images; logits where it knows classes."""

    features: Float[np.ndarray, "n d"]
    logits: Float[np.ndarray, "n classes"] | None


Embed = Callable[[Pixels], Outputs]


def figures(x: Outputs, real: Outputs, *, seed: int) -> dict[str, float]:
    """Images against real ones, by the outputs of one network on both.

    The kernel distance is over 100 subsets of 1,000, or of half of the smaller set; precision,
    recall, density and coverage see the first 10,000 of each. With fewer than 8 images there
    is the Frechet distance alone.
    """
    found = {"Frechet distance": metrics.frechet_distance(x.features, real.features)}
    n = min(len(x.features), len(real.features))
    if n < LEAST:
        return found
    distance = metrics.kernel_distance(
        jax.random.key(seed), x.features, real.features, subset_size=min(1000, n // 2)
    )
    found["kernel distance"], found["kernel distance, standard error"] = map(float, distance)
    near = [real.features[:MOST_NEIGHBOURS], x.features[:MOST_NEIGHBOURS]]
    found |= metrics.precision_recall(*near)._asdict()
    found |= metrics.density_coverage(*near)._asdict()
    return found | class_figures(x)


def class_figures(x: Outputs) -> dict[str, float]:
    """The class score, sharpness x diversity, where there are logits."""
    if x.logits is None or len(x.logits) < LEAST:
        return {}
    order = np.random.default_rng(0).permutation(len(x.logits))  # splits of no one class
    score = metrics.inception_score(x.logits[order], num_splits=min(10, len(order) // 2))
    return {
        "class score": score.mean,
        "class score, deviation over splits": score.standard_deviation,
        "sharpness": score.sharpness,
        "diversity": score.diversity,
    }


def classifier(train: Images, held_out: Images, *, seed: int) -> tuple[Embed, float]:
    """Train a 3-layer classifier on labeled images; its outputs, and held-out accuracy.

    The features are the WIDTH activations before the logits.
    """
    assert train.labels is not None
    assert held_out.labels is not None
    pixels, labels = train.pixels, train.labels
    body, head = MLP((128, WIDTH)), MLP((int(np.max(labels[:])) + 1,))
    key_body, key_head, key_run = jax.random.split(jax.random.key(seed), 3)
    params = {
        "body": body.init(key_body, jnp.zeros(pixels[0].size)),
        "head": head.init(key_head, jnp.zeros(WIDTH)),
    }

    def outputs(params: PyTree, image: Array) -> tuple[Array, Array]:
        features = jnp.tanh(body.apply(params["body"], image.ravel()))
        return features, head.apply(params["head"], features)

    def loss(params: PyTree, key: PRNGKey, example: tuple[Array, Array]) -> Scalar:
        image, label = example
        noisy = image + 0.1 * jax.random.normal(key, image.shape)
        _, logits = outputs(params, noisy)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    def batches(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        index = batch_indices(seed, first, count, len(pixels), 128)
        return to_unit(pixels[index]), labels[index]

    optimizer = optax.adam(3e-3)
    step = make_step(loss, optimizer, ema_decay=0.99)
    start = init_state(params, optimizer, key_run)
    [(state, _)] = fit(step, start, batches, num_steps=500, steps_per_call=500)
    run = spread(partial(outputs, state.ema))

    def embed(pixels: Pixels) -> Outputs:
        return Outputs(*map(np.asarray, run(jnp.asarray(to_unit(pixels[:])))))

    _, logits = run(jnp.asarray(to_unit(held_out.pixels[:MOST_IMAGES])))
    truth = held_out.labels[:MOST_IMAGES]
    return embed, float(np.mean(np.argmax(logits, -1) == truth))


def pixel_features(pixels: Pixels) -> Outputs:
    """The pixels themselves, in [-1, 1], for images without labels or of one class."""
    return Outputs(to_unit(pixels[:]).reshape(len(pixels), -1), None)


def judge_images(
    samples: np.ndarray,
    images: Images,
    held_out: Images,
    seed: int,
    labels_of_samples: np.ndarray | None = None,
) -> dict[str, float]:
    """Compares samples, and as many other training images, with the same held-out images.

    Where the samples were asked for by label, the share of them that the classifier calls by
    their label is among the results.
    """
    n = min(len(samples), len(held_out.pixels), len(images.pixels))
    results: dict[str, float] = {"n": float(n)}
    embed: Embed
    labels = None if held_out.labels is None else images.labels
    if labels is None or np.ptp(labels[:]) == 0:  # of one class nothing can be learned
        embed, name = pixel_features, "pixels"
    else:
        embed, accuracy = classifier(images, held_out, seed=seed)
        name = "classifier features"
        results["classifier accuracy on held-out images"] = accuracy
        logits = embed(samples).logits
        if labels_of_samples is not None and logits is not None:
            called = np.argmax(logits, -1)
            results["samples that it calls by their label"] = float(
                np.mean(called == labels_of_samples)
            )
    real = images.pixels[np.random.default_rng(seed).permutation(len(images.pixels))[:n]]
    reference = embed(held_out.pixels[:n])
    frechet: dict[str, float] = {}
    for who, pixels in {"samples": samples[:n], "real": real}.items():
        if n < 2:  # a single image has no covariance
            continue
        found = figures(embed(pixels), reference, seed=seed)
        frechet[who] = found["Frechet distance"]
        results |= {f"{figure} ({name}), {who}": value for figure, value in found.items()}
    if frechet:
        results["Frechet distance, samples / real"] = frechet["samples"] / frechet["real"]
    compared = samples[:n], held_out.pixels[:n], images.pixels[:MOST_IMAGES]
    near = jax.jit(metrics.memorization)(*(jnp.asarray(to_unit(pixels)) for pixels in compared))
    results["median distance to the training set, samples"] = float(near.samples)
    results["median distance to the training set, held out"] = float(near.held_out)
    results["distance to the training set, samples / held out"] = float(near.ratio)
    return results
