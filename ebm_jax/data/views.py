"""Transformations of single images: the middle square and random mirroring."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt8
from PIL import Image

from ebm_jax.types import PRNGKey


def square(
    image: UInt8[np.ndarray, "h w 3"], side: int, crop: int | None = None
) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """Cuts the middle crop x crop pixels of an image and resizes them to side x side.

    The resize is bilinear, with the filter widened by the scale against aliasing. With crop 140
    and side 64 this prepares the aligned faces of CelebA as for NCSN and score SDEs [1, 2].

    Args:
        image: an RGB image, uint8 of shape (h, w, 3).
        side: side of the returned square in pixels.
        crop: side of the square that is cut out, at most h and w; the smaller of them by
            default.

    Raises:
        ValueError: If `crop` is out of range.

    References:
        [1] Song & Ermon, arXiv:1907.05600.
        [2] Song et al., arXiv:2011.13456.

    Examples:
        >>> import numpy as np
        >>> from ebm_jax import data
        >>> data.square(np.zeros((218, 178, 3), np.uint8), 64, crop=140).shape
        (64, 64, 3)
    """
    height, width = image.shape[:2]
    crop = min(height, width) if crop is None else crop
    if not 1 <= crop <= min(height, width):
        raise ValueError(f"`square` got {crop=}, expected 1 to {min(height, width)}: cut less.")
    top, left = (height - crop) // 2, (width - crop) // 2
    middle = Image.fromarray(image[top : top + crop, left : left + crop])
    return np.asarray(middle.resize((side, side), Image.Resampling.BILINEAR))


def mirror(key: PRNGKey, image: Shaped[Array | np.ndarray, "h w c"]) -> Shaped[Array, "h w c"]:
    """Flips an image left to right with probability 1/2.

    Args:
        key: PRNG key for the one draw.
        image: an image of shape (h, w, c), of any dtype.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import data
        >>> image = jnp.arange(3.0).reshape(1, 3, 1)
        >>> seen = [data.mirror(jax.random.key(i), image) for i in range(20)]
        >>> sorted({tuple(flipped.ravel().tolist()) for flipped in seen})
        [(0.0, 1.0, 2.0), (2.0, 1.0, 0.0)]
    """
    image = jnp.asarray(image)
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)
