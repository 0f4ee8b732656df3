"""A square against ramps, which bilinear resizing keeps; a mirror image against Pillow's."""

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

from ebm_jax.data import mirror, square, to_unit
from tests.statistics import assert_mean

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.mark.parametrize("side", [64, 35])
def test_a_square_is_the_middle_at_another_scale(side):
    """A ramp c is linear in the place: resized, pixel i has its value at (i + 1/2) crop / side.

    The aligned faces of CelebA are 218 x 178; of them 140 x 140 are kept, from (39, 19) on.
    """
    rows, columns = np.mgrid[:218, :178].astype(np.uint8)
    found = square(np.stack([rows, columns, 255 - rows], -1), side, 140)
    place = (np.arange(side) + 0.5) * 140 / side - 0.5
    inner = slice(2, -2)  # at the border the filter is cut off, and with it the ramp's balance
    for channel, (ramp, axis) in enumerate([(39 + place, 0), (19 + place, 1), (216 - place, 0)]):
        expected = np.broadcast_to(np.expand_dims(ramp, 1 - axis), (side, side))
        error = np.abs(found[..., channel] - expected)
        assert error[inner, inner].max() <= 0.6  # half a gray level, and Pillow's fixed point


def test_a_square_at_its_own_scale_is_the_cut_alone():
    np.testing.assert_array_equal(square(IMAGE, 5), IMAGE[:, 1:6])
    np.testing.assert_array_equal(square(IMAGE.transpose(1, 0, 2), 5), IMAGE[:, 1:6].swapaxes(0, 1))
    np.testing.assert_array_equal(square(IMAGE, 3, 3), IMAGE[1:4, 2:5])


def test_a_square_does_not_alias():
    """Stripes of one pixel, black and white, become gray at a quarter of their resolution."""
    stripes = np.broadcast_to(np.arange(64)[:, None, None] % 2 * 255, (64, 64, 3))
    assert np.abs(square(stripes.astype(np.uint8), 16)[1:-1].astype(float) - 127.5).max() <= 10


@pytest.mark.parametrize("crop", [0, 6])
def test_a_crop_that_the_image_does_not_hold_is_refused(crop):
    with pytest.raises(ValueError, match=rf"crop={crop}, expected 1 to 5"):
        square(IMAGE, 4, crop)


@pytest.mark.parametrize(
    "image", [IMAGE, to_unit(IMAGE), IMAGE[..., :1]], ids=["rgb", "floats", "gray"]
)
def test_an_image_is_mirrored_half_of_the_time_and_else_kept(image):
    keys = jax.random.split(jax.random.key(0), 10_000)
    found = np.asarray(jax.vmap(mirror, (0, None))(keys, image))
    assert found.dtype == image.dtype
    kept = (found == image).all((1, 2, 3))
    channels = [np.asarray(ImageOps.mirror(Image.fromarray(c))) for c in np.moveaxis(image, -1, 0)]
    mirrored = (found == np.stack(channels, -1)).all((1, 2, 3))
    assert (kept ^ mirrored).all()
    assert_mean(mirrored.astype(float), 0.5)


def test_mirrored_twice_is_the_image():
    keys = jax.random.split(jax.random.key(1), 16)
    once = np.asarray(jax.vmap(mirror, (0, None))(keys, IMAGE))
    twice = jax.vmap(mirror)(jax.random.clone(keys), once)
    assert (once != IMAGE).any()
    np.testing.assert_array_equal(twice, np.broadcast_to(IMAGE, twice.shape))
