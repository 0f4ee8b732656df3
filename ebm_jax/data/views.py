"""One image seen otherwise: its middle as a square, its mirror image."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt8
from PIL import Image

from ebm_jax.types import PRNGKey


def square(
    image: UInt8[np.ndarray, "h w 3"], side: int, crop: int | None = None
) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """The middle of an image, crop x crop pixels, resized to side x side.

    Bilinearly, with the filter widened by the scale against aliasing. With 140 and 64 this is
    how the aligned faces of CelebA are prepared for NCSN and score SDEs [1, 2].

    Args:
        image: red, green and blue.
        side: of the square that is returned, in pixels.
        crop: side of the square that is cut out, at most h and w; by default the smaller one.

    References:
        [1] Song & Ermon, arXiv:1907.05600.
        [2] Song et al., arXiv:2011.13456.
    """
    height, width = image.shape[:2]
    crop = min(height, width) if crop is None else crop
    if not 1 <= crop <= min(height, width):
        raise ValueError(f"`square` got {crop=}, expected 1 to {min(height, width)}: cut less.")
    top, left = (height - crop) // 2, (width - crop) // 2
    middle = Image.fromarray(image[top : top + crop, left : left + crop])
    return np.asarray(middle.resize((side, side), Image.Resampling.BILINEAR))


def mirror(key: PRNGKey, image: Shaped[Array | np.ndarray, "h w c"]) -> Shaped[Array, "h w c"]:
    """The image or, as a fair coin of `key` falls, its mirror image, left and right exchanged."""
    image = jnp.asarray(image)
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)
