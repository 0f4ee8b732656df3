"""Building blocks of the DDPM U-Net and NCSN++: convolutions, residual blocks, attention.

Blocks use group normalization and swish. The second convolution of a residual block and the
projection after an attention start at zero, so both blocks start as their residual path.

Parameters are float32. `dtype` is the dtype of convolutions and attention; group norms, the
embedding of the level and the softmax are always float32.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ebm_jax.types import Scalar

Image = Float[Array, "h w c"]
Label = int | Int[Array, ""]

INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
ZEROS = nn.initializers.zeros


def group_norm(x: Image, groups: int, name: str | None = None) -> Image:
    """Group normalization of one image in float32, correct under `jax.vmap`.

    It has min(groups, c / 4) groups: 32 at every width of the published networks, and at least
    four channels per group in narrow ones.
    """
    channels = x.shape[-1]
    number = min(groups, channels // 4)
    if number < 1 or channels % number:
        raise ValueError(
            f"`group_norm` got {channels} channels to divide into groups={groups}: "
            f"give `channels` in multiples of {max(4, groups)}, or fewer `groups`."
        )
    norm = nn.GroupNorm(number, reduction_axes=(-3, -2, -1), dtype=jnp.float32, name=name)
    return norm(x.astype(jnp.float32))


class Conv(nn.Module):
    """A 3x3 convolution of any stride and padding.

    Attributes:
        channels: number of output channels.
        stride: stride along both sides.
        padding: zeros before and after each side; (1, 1) keeps the size at stride 1.
        kernel_init: initializer of the kernel, (3, 3, input channels, channels).
        dtype: dtype of the computation; parameters are float32.
    """

    channels: int
    stride: int = 1
    padding: tuple[int, int] = (1, 1)
    kernel_init: nn.initializers.Initializer = INIT
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Float[Array, "h2 w2 channels"]:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.channels))
        bias = self.param("bias", ZEROS, (self.channels,)).astype(self.dtype)
        out = jax.lax.conv_general_dilated(
            x[None].astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=(self.padding, self.padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return out[0] + bias[None, None]


class ResBlock(nn.Module):
    """A residual block of two 3x3 convolutions, shifted between them by an embedding.

        h = conv(dropout(swish(norm(conv(R swish(norm(x))) + dense(swish(embedding))))))
        y = scale (R x + h),   R the resampling

    The residual path has a 1x1 convolution if the channels or the sides change.

    Attributes:
        channels: number of output channels.
        dropout: dropout rate, 0 when not training; rng collection "dropout".
        groups: groups of the group norms.
        dtype: dtype of the convolutions.
        resample: function that halves or doubles the sides, or None.
        scale: factor of the sum; 1 / sqrt(2) in NCSN++, which keeps the variance.
    """

    channels: int
    dropout: float = 0.0
    groups: int = 32
    dtype: DTypeLike = jnp.float32
    resample: Callable[[Image], Image] | None = None
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: Image, embedding: Float[Array, " e"]) -> Float[Array, "h2 w2 channels"]:
        conv = partial(Conv, self.channels, dtype=self.dtype)
        h = nn.silu(group_norm(x, self.groups, "norm_0")).astype(self.dtype)
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        shift = nn.Dense(self.channels, kernel_init=INIT, name="shift")(nn.silu(embedding))
        h = conv(name="conv_0")(h) + shift.astype(self.dtype)[None, None]
        h = nn.silu(group_norm(h, self.groups, "norm_1")).astype(self.dtype)
        h = nn.Dropout(self.dropout, deterministic=False)(h)
        h = conv(kernel_init=ZEROS, name="conv_1")(h)
        if self.resample is not None or x.shape[-1] != self.channels:
            x = nn.Dense(self.channels, dtype=self.dtype, kernel_init=INIT, name="shortcut")(x)
        return (x + h) * self.scale


class Attention(nn.Module):
    """Self-attention with one head over the pixels of an image, on a residual path.

        y = scale (x + proj(softmax(q k^T / sqrt(c)) v)),   q, k, v linear in norm(x)

    Attributes:
        groups: groups of the group norm.
        dtype: dtype of the matmuls; the softmax is float32.
        scale: factor of the sum.
        kernel_init: initializer of q, k and v; the projection starts at zero.
    """

    groups: int = 32
    dtype: DTypeLike = jnp.float32
    scale: float = 1.0
    kernel_init: nn.initializers.Initializer = INIT

    @nn.compact
    def __call__(self, x: Image) -> Image:
        channels = x.shape[-1]
        dense = partial(nn.Dense, channels, dtype=self.dtype)
        pixels = group_norm(x, self.groups, "norm").reshape(-1, channels)
        q, k, v = (dense(kernel_init=self.kernel_init, name=name)(pixels) for name in "qkv")
        logits = jnp.einsum("ic,jc->ij", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits * channels**-0.5).astype(self.dtype)
        h = dense(kernel_init=ZEROS, name="projection")(weights @ v)
        return (x + h.reshape(x.shape)) * self.scale


def sinusoids(level: Scalar, features: int) -> Float[Array, " features"]:
    """Returns sines, then cosines, of the level times geometric frequencies from 1 to 1e-4."""
    angles = jnp.float32(level) * jnp.float32(np.geomspace(1.0, 1e-4, features // 2))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


class Conditioning(nn.Module):
    """The embedding of a level: two dense layers on its waves, plus the vector of a label.

    Attributes:
        features: length of the vector.
        num_classes: None without labels; the index num_classes means "no label".
    """

    features: int
    num_classes: int | None = None

    @nn.compact
    def __call__(self, waves: Float[Array, " n"], label: Label | None) -> Float[Array, " e"]:
        dense = partial(nn.Dense, self.features, kernel_init=INIT)
        h = dense(name="dense_1")(nn.silu(dense(name="dense_0")(waves)))
        if self.num_classes is None:
            return h
        index = jnp.asarray(self.num_classes if label is None else label)
        init = nn.initializers.normal(1.0)
        return h + nn.Embed(self.num_classes + 1, self.features, embedding_init=init)(index)


def check_call(net: nn.Module, x: Image, label: Label | None) -> None:
    """Raises ValueError for an image or label that does not fit a network's attributes.

    Raises:
        ValueError: for sides that cannot be halved often enough, attention at a side that never
            occurs, or a label for a network without classes.
    """
    name, stages, (h, w, _) = type(net).__name__, len(net.multipliers), x.shape
    if not stages:
        raise ValueError(f"`{name}` got multipliers (): give one for every resolution.")
    if h % 2 ** (stages - 1) or w % 2 ** (stages - 1):
        raise ValueError(
            f"`{name}` got an image of {h}x{w}: with {stages} resolutions both sides must be "
            f"divisible by {2 ** (stages - 1)}; give fewer `multipliers`."
        )
    heights = [h // 2**i for i in range(stages)]
    if not set(net.attention_sides) <= set(heights):
        raise ValueError(
            f"`{name}` got attention_sides {tuple(net.attention_sides)}: "
            f"this image has the heights {heights}; give some of these, or ()."
        )
    check_label(net, label)


def check_label(net: nn.Module, label: Label | None) -> None:
    """Raises ValueError for a label, if the network was made without classes."""
    if label is not None and net.num_classes is None:
        name = type(net).__name__
        raise ValueError(f"`{name}` got a label with num_classes=None: give their number.")
