"""InceptionV3 as FID, KID and the Inception Score use it, on one image (arXiv:1512.00567).

This is the TensorFlow graph of December 2015 with which arXiv:1706.08500 computed features, not
the InceptionV3 of today's model zoos:

    average pools divide by the number of pixels inside the image, not by 9 at the border;
    the last block uses max pooling where the others use average pooling;
    there are 1008 logits; ImageNet's classes have the indices 1 to 1000;
    pixels become (p - 128) / 128: 0 maps to -1, and 255 to slightly less than 1.

Images are resized to 299x299 by TensorFlow 1's bilinear interpolation, in which output pixel i
reads from i n / 299: it is off by half a pixel and does not antialias. Published values include
both. `metrics.inception.weights.convert` converts the weights.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

SIDE = 299  # input size
EXACT = jax.lax.Precision.HIGHEST  # by default accelerators round factors to 8 or 11 bits

Image = Float32[Array, "h w c"]
Result = Float32[Array, "h2 w2 c2"]


class InceptionOutputs(NamedTuple):
    """Outputs of the network for one image, or for n images with a leading axis n.

    Attributes:
        features: means of the last block over its pixels.
        logits: logits with the bias.
        logits_unbiased: logits without the bias, which the Inception Score uses.
    """

    features: Float32[Array | np.ndarray, "*n 2048"]
    logits: Float32[Array | np.ndarray, "*n 1008"]
    logits_unbiased: Float32[Array | np.ndarray, "*n 1008"]


class Conv(NamedTuple):
    """A row of the tables below: a convolution with bias, then relu.

    Its kernel is (height, width, input channels, channels). Padding keeps the image size, unless
    `valid` or stride 2.
    """

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    valid: bool = False


def _pool(x: Image, start: float, combine: Callable, stride: int) -> Result:
    padding = "SAME" if stride == 1 else "VALID"
    return jax.lax.reduce_window(x, start, combine, (3, 3, 1), (stride, stride, 1), padding)


def max_pool(x: Image, *, stride: int = 1) -> Result:
    """3x3 max pooling; at stride 1 it keeps the size, and padding does not count."""
    return _pool(x, -jnp.inf, jax.lax.max, stride)


def average_pool(x: Image) -> Image:
    """3x3 average pooling of stride 1 over the pixels inside the image."""
    rows, columns = (np.convolve(np.ones(side), np.ones(3), "same") for side in x.shape[:2])
    counts = np.outer(rows, columns).astype(np.float32)[..., None]
    return _pool(x, 0.0, jax.lax.add, 1) / counts


halve = partial(max_pool, stride=2)


Branch = tuple[Conv | Callable[[Image], Result] | tuple["Branch", ...], ...]
# steps in sequence; a tuple among them is a fork, whose branches' channels are concatenated

SQUARE, ROW, COLUMN = (3, 3), (1, 7), (7, 1)


def _chain(name: str, *rows: tuple) -> Branch:
    """Returns the convolutions `name`_1, `name`_2, ... from rows (channels, kernel, stride)."""
    return tuple(Conv(f"{name}_{i}", *row) for i, row in enumerate(rows, start=1))


def _mixed_5(pooled: int) -> Branch:
    branches = (
        (Conv("branch1x1", 64),),
        _chain("branch5x5", (48,), (64, (5, 5))),
        _chain("branch3x3dbl", (64,), (96, SQUARE), (96, SQUARE)),
        (average_pool, Conv("branch_pool", pooled)),
    )
    return (branches,)


def _mixed_6(c: int) -> Branch:
    branches = (
        (Conv("branch1x1", 192),),
        _chain("branch7x7", (c,), (c, ROW), (192, COLUMN)),
        _chain("branch7x7dbl", (c,), (c, COLUMN), (c, ROW), (c, COLUMN), (192, ROW)),
        (average_pool, Conv("branch_pool", 192)),
    )
    return (branches,)


def _mixed_7(pool: Callable[[Image], Result]) -> Branch:
    def cross(name: str) -> tuple[Branch, Branch]:
        return (Conv(f"{name}a", 384, (1, 3)),), (Conv(f"{name}b", 384, (3, 1)),)

    branches = (
        (Conv("branch1x1", 320),),
        (*_chain("branch3x3", (384,)), cross("branch3x3_2")),
        (*_chain("branch3x3dbl", (448,), (384, SQUARE)), cross("branch3x3dbl_3")),
        (pool, Conv("branch_pool", 192)),
    )
    return (branches,)


STEM: Branch = (
    Conv("Conv2d_1a_3x3", 32, SQUARE, stride=2),
    Conv("Conv2d_2a_3x3", 32, SQUARE, valid=True),
    Conv("Conv2d_2b_3x3", 64, SQUARE),
    halve,
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, SQUARE, valid=True),
    halve,
)
MIXED_6A: Branch = (
    (
        (Conv("branch3x3", 384, SQUARE, stride=2),),
        _chain("branch3x3dbl", (64,), (96, SQUARE), (96, SQUARE, 2)),
        (halve,),
    ),
)
MIXED_7A: Branch = (
    (
        _chain("branch3x3", (192,), (320, SQUARE, 2)),
        _chain("branch7x7x3", (192,), (192, ROW), (192, COLUMN), (192, SQUARE, 2)),
        (halve,),
    ),
)
NETWORK: dict[str, Branch] = {  # in order, by the prefix of their convolutions' names
    "": STEM,
    "Mixed_5b.": _mixed_5(32),
    "Mixed_5c.": _mixed_5(64),
    "Mixed_5d.": _mixed_5(64),
    "Mixed_6a.": MIXED_6A,
    "Mixed_6b.": _mixed_6(128),
    "Mixed_6c.": _mixed_6(160),
    "Mixed_6d.": _mixed_6(160),
    "Mixed_6e.": _mixed_6(192),
    "Mixed_7a.": MIXED_7A,
    "Mixed_7b.": _mixed_7(average_pool),
    "Mixed_7c.": _mixed_7(max_pool),
}


class ConvReLU(nn.Module):
    """relu(convolution + bias): one row of the tables, in forms that are fast on CPUs.

    1x1 is a matmul. XLA is three times slower without any padding, so a valid convolution gets a
    row of zeros below, and the result row that includes it is dropped.
    """

    row: Conv

    @nn.compact
    def __call__(self, x: Image) -> Result:
        _, channels, (h, w), stride, valid = self.row
        kernel = self.param("kernel", nn.initializers.he_normal(), (h, w, x.shape[-1], channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))[None, None]
        if h == w == 1:
            return nn.relu(jnp.matmul(x, kernel[0, 0], precision=EXACT) + bias)
        valid, layout = valid or stride == 2, ("NHWC", "HWIO", "NHWC")
        padding = ((0, 1), (0, 0)) if valid else "SAME"
        [out] = jax.lax.conv_general_dilated(
            x[None], kernel, (stride, stride), padding, dimension_numbers=layout, precision=EXACT
        )
        return nn.relu((out[: (len(x) - h) // stride + 1] if valid else out) + bias)


def _run(steps: Branch, x: Image, prefix: str) -> Result:
    for step in steps:
        if isinstance(step, Conv):
            x = ConvReLU(step, name=prefix + step.name)(x)
        elif callable(step):
            x = step(x)
        else:
            x = jnp.concatenate([_run(branch, x, prefix) for branch in step], -1)
    return x


class InceptionV3(nn.Module):
    """InceptionV3 features and logits of one image from `prepare`: 23 833 744 parameters.

    Every batch normalization is folded into the kernel and bias of its convolution.
    """

    @nn.compact
    def __call__(self, x: Float32[Array, "299 299 3"]) -> InceptionOutputs:
        for prefix, steps in NETWORK.items():
            x = _run(steps, x, prefix)
        features = jnp.mean(x, (0, 1))
        head = nn.Dense(1008, precision=EXACT, name="fc")
        logits = head(features)
        return InceptionOutputs(features, logits, logits - head.variables["params"]["bias"])


def _weights_tf1(size: int, target: int) -> Float32[np.ndarray, "target size"]:
    """Returns weights whose row i interpolates pixel i size / target between its neighbors."""
    place = np.arange(target, dtype=np.float32) * np.float32(size / target)
    low = place.astype(int)
    part = place - low.astype(np.float32)
    weights = np.zeros((target, size), np.float32)
    np.add.at(weights, (np.arange(target), low), 1 - part)
    np.add.at(weights, (np.arange(target), np.minimum(low + 1, size - 1)), part)
    return weights


def resize_tf1(image: Image, height: int, width: int) -> Float32[Array, "height width c"]:
    """Bilinear interpolation of TensorFlow 1, without half-pixel centers and antialiasing.

        y[i, j] = x(i h / height, j w / width),   x linear in between, constant beyond its end

    The identity at height, width = h, w.
    """
    rows, columns = _weights_tf1(image.shape[0], height), _weights_tf1(image.shape[1], width)
    return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision=EXACT)


def prepare(pixels: UInt8[Array, "h w c"]) -> Float32[Array, "299 299 3"]:
    """Returns the network's input from pixels: 299x299, (p - 128) / 128, gray repeated as RGB.

    Raises:
        ValueError: for channels other than 1 (gray) or 3 (RGB).
    """
    if pixels.shape[-1] not in (1, 3):
        raise ValueError(
            f"`prepare` got {pixels.shape[-1]} channels: give gray images (1) or RGB (3); "
            "drop an alpha channel."
        )
    image = resize_tf1(pixels.astype(jnp.float32), SIDE, SIDE)
    return (jnp.broadcast_to(image, (SIDE, SIDE, 3)) - 128) / 128
