"""Features for judging images: a classifier's where there are classes to tell apart."""

import jax
import numpy as np
import pytest

from ebm_jax.data import Images
from ebm_jax.runs import judge as _judge

RNG = np.random.default_rng(0)


def images(count, labels):
    pixels = RNG.integers(0, 256, (count, 4, 4, 1), np.uint8)
    return Images(pixels, None if labels is None else np.resize(np.int32(labels), count))


@pytest.mark.parametrize("labels", [None, [0], [3]], ids=["none", "one class", "one late class"])
def test_without_two_classes_pixels_are_the_features(labels, monkeypatch):
    monkeypatch.setattr(_judge, "classifier", lambda *_, **__: pytest.fail("nothing to learn"))
    found = _judge.judge_images(images(20, None).pixels, images(40, labels), images(20, labels), 0)
    assert "Frechet distance (pixels), samples" in found
    assert not [name for name in found if "classifier" in name]


def test_a_class_of_the_held_out_images_alone_counts_as_an_error():
    """Two classes are black and white; the third is in no training image, so 2 of 3 are right."""
    train = Images(np.zeros((60, 4, 4, 1), np.uint8), np.resize(np.int32([0, 1]), 60))
    train.pixels[1::2] = 255
    held_out = Images(np.zeros((30, 4, 4, 1), np.uint8), np.resize(np.int32([0, 1, 2]), 30))
    held_out.pixels[1::3] = 255
    with jax.numpy_dtype_promotion("standard"):  # for optax
        found = _judge.judge_images(train.pixels, train, held_out, 0)
    assert found["classifier accuracy on held-out images"] == pytest.approx(2 / 3)
