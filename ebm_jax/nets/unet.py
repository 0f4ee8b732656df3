"""The DDPM U-Net on one image (arXiv:2006.11239).

It has residual blocks, with self-attention at chosen resolutions; convolutions of stride 2 on the
way down; nearest neighbors and a convolution on the way up; and a skip from every stage of the way
down, its first convolution included. The last convolution starts at zero, so the output does too.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

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
from ebm_jax.nets.resample import double
from ebm_jax.types import Scalar


class UNet(nn.Module):
    """The DDPM U-Net: a raw field F(image, level), to be wrapped by `precondition.vp`.

    The defaults are the published network for CIFAR-10: 35 746 307 parameters. The level enters
    as its sines and cosines, so it should run over 0 .. 999 (`vp` passes 999 t). The convolutions
    of stride 2 pad like TensorFlow's "SAME" does for even sides: no zeros before, one row and
    column after. Dropout needs one key per example.

    Called with an image (h, w, c), a level and an optional label, it returns an image.

    Attributes:
        channels: channels at the first resolution; the embedding has four times as many features.
        multipliers: multiples of `channels`, one per resolution. Each resolution halves the one
            before: h and w must be divisible by 2^(len(multipliers) - 1).
        blocks: residual blocks at each resolution on the way down; one more on the way up.
        attention_sides: heights of the feature map at which every block is followed by
            attention; the middle always has attention.
        dropout: dropout rate, active only with `train=True`; rng collection "dropout".
        num_classes: None, or the number of labels; one more index means "no label".
        groups: groups of the group norms, at most a quarter of the channels.
        dtype: dtype of convolutions and attention; None is float32.
        remat: recompute the activations within blocks in the gradient, instead of storing them.

    Raises:
        ValueError: for an image, attention side or label that does not fit the attributes.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import nets
        >>> args = jax.random.key(0), jnp.zeros((32, 32, 3)), jnp.float32(0.0)
        >>> out, params = jax.eval_shape(nets.UNet().init_with_output, *args)
        >>> out.shape, sum(leaf.size for leaf in jax.tree.leaves(params))
        ((32, 32, 3), 35746307)
    """

    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    blocks: int = 2
    attention_sides: Sequence[int] = (16,)
    dropout: float = 0.1
    num_classes: int | None = None
    groups: int = 32
    dtype: DTypeLike | None = None
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Image, level: Scalar, label: Label | None = None, *, train: bool = False
    ) -> Image:
        check_call(self, x, label)
        dtype = jnp.float32 if self.dtype is None else self.dtype
        remat = nn.remat if self.remat else lambda module: module
        shared = {"groups": self.groups, "dtype": dtype}
        attention = partial(remat(Attention), **shared)
        block = partial(remat(ResBlock), dropout=self.dropout if train else 0.0, **shared)
        conv = partial(Conv, dtype=dtype)
        halve = partial(conv, stride=2, padding=(0, 1))

        waves = sinusoids(level, self.channels)
        embedding = Conditioning(4 * self.channels, self.num_classes, name="level")(waves, label)
        skips = [conv(self.channels, name="conv_in")(x)]
        for i, width in enumerate(self.channels * m for m in self.multipliers):
            if i:
                skips.append(halve(skips[-1].shape[-1], name=f"down_{i}_halve")(skips[-1]))
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
                    h = attention(name=f"up_{i}_attention_{j}")(h)
            if i:
                h = conv(width, name=f"up_{i}_double")(double(h))
        h = nn.silu(group_norm(h, self.groups, "norm_out"))
        return Conv(x.shape[-1], kernel_init=ZEROS, name="conv_out")(h)
