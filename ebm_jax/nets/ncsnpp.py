"""NCSN++ and DDPM++ on one image (arXiv:2011.13456).

A U-Net of residual blocks that resample inside themselves, as BigGAN's do, with sums scaled
by 1 / sqrt(2). NCSN++ resamples by a FIR filter, carries the image itself down beside the
features (its "progressive input", of the residual kind) and embeds the level by random
Fourier features; DDPM++ has none of the three.
"""

import math
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ebm_jax.nets.blocks import (
    ZEROS,
    Attention,
    Conditioning,
    Conv,
    Image,
    Label,
    ResBlock,
    check_call,
    group_norm,
    sinusoids,
)
from ebm_jax.nets.conv import halve
from ebm_jax.nets.resample import blur_fir, double, downsample_fir, upsample_fir
from ebm_jax.types import Scalar

SCALE = 1 / math.sqrt(2)  # of every sum of two paths
WEAK = nn.initializers.variance_scaling(0.1, "fan_avg", "uniform")  # of q, k and v


class FourierFeatures(nn.Module):
    """Sines, then cosines, of 2 pi times the level times random frequencies, never trained.

    Attributes:
        features: the number of frequencies, half the length of the vector.
        scale: their standard deviation.
    """

    features: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, level: Scalar) -> Float[Array, " waves"]:
        init = nn.initializers.normal(self.scale)
        frequencies = jax.lax.stop_gradient(self.param("frequencies", init, (self.features,)))
        angles = 2 * jnp.pi * jnp.float32(level) * frequencies
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


class NCSNpp(nn.Module):
    """NCSN++: a raw field F(image, ln sigma), to be wrapped by `precondition.ncsn`.

    The defaults are the published network "NCSN++ cont." for CIFAR-10: 62 758 915
    parameters. Its deep form has blocks=8 and 107 587 075. The published code divides the
    output by sigma to make it the score, as `ncsn` does. DDPM++ is

        NCSNpp(fir=False, progressive_input=False, embedding="positional")

    wrapped by `precondition.vp`, whose level is 999 t. The random frequencies are among the
    parameters, as published, but get no gradient: keep weight decay away from them. Dropout
    wants one key per example.

    Attributes:
        channels: at the first resolution; the embedding has four times as many features.
        multipliers: of `channels`, one for every resolution. The resolution halves from one
            to the next: h and w must be divisible by 2^(len(multipliers) - 1).
        blocks: residual blocks at each resolution on the way down; one more on the way up.
        attention_sides: heights of the image at which there is an attention after every
            block on the way down and after the last one on the way up; the middle has one
            in any case.
        dropout: the rate, active with `train=True` alone; rng collection "dropout".
        num_classes: None, or the number of labels; one more stands for "no label".
        groups: of the group norms, at most a quarter of the channels.
        dtype: what convolutions and attention compute in; None is float32.
        remat: keep no activations inside of blocks for the gradient, compute them again.
        fir: resample by the FIR filter, else by means of 2x2 pixels and nearest neighbors.
        progressive_input: carry the image down, by a convolution of stride 2 added to the
            features at each resolution.
        embedding: of the level, "fourier" (random frequencies) or "positional" (DDPM's).
    """

    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    blocks: int = 4
    attention_sides: Sequence[int] = (16,)
    dropout: float = 0.1
    num_classes: int | None = None
    groups: int = 32
    dtype: DTypeLike | None = None
    remat: bool = False
    fir: bool = True
    progressive_input: bool = True
    embedding: str = "fourier"

    @nn.compact
    def __call__(
        self, x: Image, level: Scalar, label: Label | None = None, *, train: bool = False
    ) -> Image:
        check_call(self, x, label)
        dtype = jnp.float32 if self.dtype is None else self.dtype
        remat = nn.remat if self.remat else lambda module: module
        shared = {"groups": self.groups, "dtype": dtype, "scale": SCALE}
        attention = partial(remat(Attention), kernel_init=WEAK, **shared)
        block = partial(remat(ResBlock), dropout=self.dropout if train else 0.0, **shared)
        down, up = (downsample_fir, upsample_fir) if self.fir else (halve, double)

        embedding = Conditioning(4 * self.channels, self.num_classes, name="level")(
            self._waves(level), label
        )
        pyramid = x.astype(dtype)
        skips = [Conv(self.channels, dtype=dtype, name="conv_in")(x)]
        for i, width in enumerate(self.channels * m for m in self.multipliers):
            if i:
                before = skips[-1].shape[-1]
                h = block(before, resample=down, name=f"down_{i}_halve")(skips[-1], embedding)
                if self.progressive_input:
                    pyramid = (self._carry(pyramid, before, i) + h) * SCALE
                    h = pyramid
                skips.append(h)
            for j in range(self.blocks):
                h = block(width, name=f"down_{i}_block_{j}")(skips[-1], embedding)
                if h.shape[0] in self.attention_sides:
                    h = attention(name=f"down_{i}_attention_{j}")(h)
                skips.append(h)
        h = block(width, name="middle_block_0")(skips[-1], embedding)
        h = attention(name="middle_attention")(h)
        h = block(width, name="middle_block_1")(h, embedding)
        for i in reversed(range(len(self.multipliers))):
            width = self.channels * self.multipliers[i]
            for j in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], -1)
                h = block(width, name=f"up_{i}_block_{j}")(h, embedding)
            if h.shape[0] in self.attention_sides:
                h = attention(name=f"up_{i}_attention")(h)
            if i:
                h = block(width, resample=up, name=f"up_{i}_double")(h, embedding)
        h = nn.silu(group_norm(h, self.groups, "norm_out"))
        return Conv(x.shape[-1], kernel_init=ZEROS, name="conv_out")(h)

    def _waves(self, level: Scalar) -> Float[Array, " waves"]:
        if self.embedding == "positional":
            return sinusoids(level, self.channels)
        if self.embedding == "fourier":
            return FourierFeatures(self.channels, name="fourier")(level)
        raise ValueError(
            f'`NCSNpp` got embedding={self.embedding!r}: give "fourier" or "positional".'
        )

    def _carry(self, pyramid: Image, channels: int, i: int) -> Float[Array, "h//2 w//2 channels"]:
        """The image beside the features, at half its sides and with their channels."""
        conv = partial(Conv, channels, stride=2, dtype=pyramid.dtype, name=f"down_{i}_pyramid")
        if self.fir:
            return conv(padding=(0, 0))(blur_fir(pyramid))
        return conv(padding=(0, 1))(pyramid)
