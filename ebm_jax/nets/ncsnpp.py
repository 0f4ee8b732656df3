"""NCSN++ and DDPM++ on one image, the networks of the score SDE paper (arXiv:2011.13456).

Both are U-Nets of residual blocks that resample internally, as in BigGAN, and scale sums by
1 / sqrt(2). NCSN++ resamples with a FIR filter, adds the downsampled image itself to the
features (the residual form of "progressive input") and embeds the level in random Fourier
features. DDPM++ has none of the three.
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

SCALE = 1 / math.sqrt(2)  # factor of every sum of two paths
WEAK = nn.initializers.variance_scaling(0.1, "fan_avg", "uniform")  # for q, k and v


class FourierFeatures(nn.Module):
    """Random Fourier features: sines, then cosines, of 2 pi f level, with fixed random f.

    Attributes:
        features: number of frequencies, half the length of the vector.
        scale: standard deviation of the frequencies.
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

    The defaults are the published network "NCSN++ cont." for CIFAR-10: 62 758 915 parameters.
    Its deep form has blocks=8 and 107 587 075. The published code divides the output by sigma to
    get the score, as `ncsn` does. DDPM++ is

        NCSNpp(fir=False, progressive_input=False, embedding="positional")

    wrapped by `precondition.vp`, whose level is 999 t. The random frequencies are parameters, as
    published, but get no gradient: exclude them from weight decay. Dropout needs one key per
    example.

    Called with an image (h, w, c), a level and an optional label, it returns an image.

    Attributes:
        channels: channels at the first resolution; the embedding has four times as many features.
        multipliers: multiples of `channels`, one per resolution. Each resolution halves the one
            before: h and w must be divisible by 2^(len(multipliers) - 1).
        blocks: residual blocks at each resolution on the way down; one more on the way up.
        attention_sides: heights of the feature map at which attention follows every block on the
            way down and the last block on the way up; the middle always has attention.
        dropout: dropout rate, active only with `train=True`; rng collection "dropout".
        num_classes: None, or the number of labels; one more index means "no label".
        groups: groups of the group norms, at most a quarter of the channels.
        dtype: dtype of convolutions and attention; None is float32.
        remat: recompute the activations within blocks in the gradient, instead of storing them.
        fir: resample with the FIR filter, otherwise by 2x2 means and nearest neighbors.
        progressive_input: add the image, downsampled by convolutions of stride 2, to the features
            at each resolution.
        embedding: embedding of the level, "fourier" (random frequencies) or "positional" (DDPM's).

    Raises:
        ValueError: for an image, attention side, label or embedding that is not supported.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import nets
        >>> net = nets.NCSNpp(channels=16, multipliers=(1, 2), blocks=1, attention_sides=())
        >>> args = jax.random.key(0), jnp.zeros((8, 8, 3)), jnp.float32(0.0)
        >>> jax.eval_shape(net.init_with_output, *args)[0].shape
        (8, 8, 3)
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
        """Returns the image at half its sides, with the channels of the features."""
        conv = partial(Conv, channels, stride=2, dtype=pyramid.dtype, name=f"down_{i}_pyramid")
        if self.fir:
            return conv(padding=(0, 0))(blur_fir(pyramid))
        return conv(padding=(0, 1))(pyramid)
