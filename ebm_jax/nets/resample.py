"""Resampling of one image by a factor of 2: nearest neighbors, and StyleGAN2's FIR filter.

The filter has the taps f = (1, 3, 3, 1) / 8 along each side (arXiv:1904.11486,
arXiv:1912.04958), with zeros outside the image. Along one side

    down:  y[i] = (x[2i - 1] + 3 x[2i] + 3 x[2i + 1] + x[2i + 2]) / 8
    up:    y[2i] = (x[i - 1] + 3 x[i]) / 4,   y[2i + 1] = (3 x[i] + x[i + 1]) / 4

so both preserve constants away from the border, and `upsample_fir` is 4 times the transpose of
`downsample_fir`. Pixel i of the small image is centered between the pixels 2i and 2i + 1 of the
large one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Image = Float[Array, "h w c"]
Doubled = Float[Array, "2*h 2*w c"]
Halved = Float[Array, "h//2 w//2 c"]


def double(x: Image) -> Doubled:
    """Repeats every pixel as 2x2 pixels."""
    return jnp.repeat(jnp.repeat(x, 2, 0), 2, 1)


def upsample_fir(x: Image) -> Doubled:
    """Doubles the sides with the FIR filter. The sum grows fourfold if the border is zero."""
    for axis in (0, 1):
        side = x.shape[axis]
        padded = _pad(x, axis, 1, 1)
        before, at, after = (jax.lax.slice_in_dim(padded, i, i + side, axis=axis) for i in range(3))
        pairs = jnp.stack([(before + 3 * at) / 4, (3 * at + after) / 4], axis + 1)
        x = jax.lax.collapse(pairs, axis, axis + 2)
    return x


def downsample_fir(x: Image) -> Halved:
    """Halves the sides, which must be even, with the FIR filter.

    The sum becomes a quarter if the border is zero.
    """
    for axis in (0, 1):
        x = _filter(_pad(x, axis, 1, 1), axis, stride=2)
    return x


def blur_fir(x: Image) -> Float[Array, "h+1 w+1 c"]:
    """Filters at every pixel and one beyond, as input of a 3x3 convolution of stride 2.

    Entry i reads x[i - 2 .. i + 1]. Without padding, the convolution reads the entries
    2i .. 2i + 2, which are centered between the pixels 2i and 2i + 1 as above.
    """
    for axis in (0, 1):
        x = _filter(_pad(x, axis, 2, 2), axis, stride=1)
    return x


def _pad(x: Array, axis: int, before: int, after: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths)


def _filter(x: Array, axis: int, stride: int) -> Array:
    last = (x.shape[axis] - 4) // stride * stride
    a, b, c, d = (jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(4))
    return (a + 3 * b + 3 * c + d) / 8
