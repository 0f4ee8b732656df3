"""RefineNets on one image: the score networks of NCSN and of NCSNv2.

A backbone of residual blocks goes down through stages. Each stage but the first and the last two
starts with 2x2 mean pooling; the last two dilate their convolutions by 2 and 4 instead. A
cascade of refine blocks comes back up. Each fuses its stage with the output of the block below,
and adds context by chained 5x5 pooling.

`NCSN` is conditional: every normalization, also in refine blocks, has weights for each noise
level, and the pooling is a mean. `NCSNv2` takes no level, has no normalization in its refine
blocks, and pools by maximum. Images are in [-1, 1]; both papers measure sigma for images in
[0, 1], so their ladders are half of those here.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from ebm_jax.nets.refine_blocks import (
    Image,
    Index,
    InstanceNormPlus,
    RefineBlock,
    ResidualBlock,
    convolve,
)
from ebm_jax.types import Scalar


class RefineNet(nn.Module):
    """The cascade that both networks share.

    Attributes:
        channels: as in `NCSN`.
        multiples: as in `NCSN`.
        num_levels: as in `InstanceNormPlus` and `RefineBlock`; None for no conditioning.
        dtype: as in `NCSN`.
        remat: as in `NCSN`.
    """

    channels: int
    multiples: Sequence[int]
    num_levels: int | None = None
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Image, index: Index | None = None) -> Image:
        # Blocks have explicit names, because flax names parameters differently under `remat`.
        residual = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        refine = nn.remat(RefineBlock) if self.remat else RefineBlock
        widths = [self.channels * multiple for multiple in self.multiples]
        dilations = [1] * (len(widths) - 2) + [2, 4]
        rest = (self.num_levels, self.dtype)
        h = convolve(x.astype(self.dtype), widths[0], self.dtype)
        stages = []
        for i, (width, dilation) in enumerate(zip(widths, dilations, strict=True)):
            for j in range(2):
                opens_stage = i > 0 and j == 0
                block = residual(width, opens_stage, dilation, *rest, name=f"residual_{i}_{j}")
                h = block(h, index)
            stages.append(h)
        h = refine(widths[-1], 1, *rest, name=f"refine_{len(widths) - 1}")(stages.pop(), index)
        for i in reversed(range(len(stages))):
            last_units = 1 if i else 3
            block = refine(widths[max(i - 1, 0)], last_units, *rest, name=f"refine_{i}")
            h = block(stages[i], index, h)
        # The output is float32, because its rounding errors would be errors of the score.
        h = nn.elu(InstanceNormPlus(self.num_levels)(h, index))
        return convolve(h, x.shape[-1], jnp.float32)


class NCSN(nn.Module):
    """The noise-conditional score network NCSN: s(image, sigma_i), i = 0 ... num_levels - 1.

    The output is the score itself. At the default sizes it is the network published for
    28x28 and 32x32 images, of 30.1 million parameters on CIFAR-10.

    Called with an image (h, w, c) and an index i, it returns an image.

    Attributes:
        channels: channels of the first stage.
        num_levels: number of noise levels; every normalization has weights for each. An index
            beyond the last level gives NaN.
        multiples: multiples of `channels` in each stage, at least three. Both sides of an image
            must be divisible by 2^(len(multiples) - 3).
        dtype: dtype of the computation, such as jnp.bfloat16; parameters, the statistics of
            normalizations and the output are float32.
        remat: recompute the activations within blocks in the gradient, instead of storing them.

    Raises:
        ValueError: for num_levels below 1, fewer than 2 channels, fewer than three multiples, or
            an image whose sides are not divisible as above.

    References:
        Song & Ermon, arXiv:1907.05600.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import nets
        >>> net, image = nets.NCSN(channels=8, num_levels=10), jnp.zeros((8, 8, 3))
        >>> jax.eval_shape(net.init_with_output, jax.random.key(0), image, 9)[0].shape
        (8, 8, 3)
    """

    channels: int = 128
    num_levels: int = 10
    multiples: Sequence[int] = (1, 2, 2, 2)
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Image, index: Index) -> Image:
        if self.num_levels < 1:
            raise ValueError(f"`NCSN` got num_levels={self.num_levels}: give at least 1.")
        _check_sizes("NCSN", self.channels, self.multiples, x.shape)
        net = RefineNet(self.channels, self.multiples, self.num_levels, self.dtype, self.remat)
        return net(x, index)


class NCSNv2(nn.Module):
    """The unconditional network of NCSNv2: s(image, sigma) = F(image) / sigma (technique 3).

    F ignores the level; `precondition.ncsn` does the division. At the default sizes it is
    the network published for 32x32 and 64x64 images, of 29.7 million parameters on CIFAR-10.
    The deeper published ones have multiples (1, 2, 2, 4, 4) for 96x96 and 128x128 pixels, and
    (1, 2, 2, 2, 4, 4) for 256x256.

    Called with an image (h, w, c) and a level, it returns an image.

    Attributes:
        channels: as in `NCSN`.
        multiples: as in `NCSN`.
        dtype: as in `NCSN`.
        remat: as in `NCSN`.

    Raises:
        ValueError: as `NCSN`.

    References:
        Song & Ermon, arXiv:2006.09011.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import nets
        >>> args = jax.random.key(0), jnp.zeros((32, 32, 3)), jnp.float32(0.0)
        >>> out, params = jax.eval_shape(nets.NCSNv2().init_with_output, *args)
        >>> out.shape, round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6, 1)
        ((32, 32, 3), 29.7)
    """

    channels: int = 128
    multiples: Sequence[int] = (1, 2, 2, 2)
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x: Image, level: Scalar) -> Image:
        _check_sizes("NCSNv2", self.channels, self.multiples, x.shape)
        return RefineNet(self.channels, self.multiples, None, self.dtype, self.remat)(x)


def _check_sizes(
    name: str, channels: int, multiples: Sequence[int], shape: tuple[int, ...]
) -> None:
    if channels < 2:  # InstanceNorm++ needs the variance over channels
        raise ValueError(f"`{name}` got channels={channels}: give at least 2.")
    if len(multiples) < 3 or min(multiples) < 1:
        raise ValueError(
            f"`{name}` got multiples {tuple(multiples)}: give at least three positive numbers."
        )
    side = 2 ** (len(multiples) - 3)
    if shape[0] % side or shape[1] % side:
        raise ValueError(
            f"`{name}` got an image of {shape[0]}x{shape[1]}: with {len(multiples)} stages both "
            f"sides must be divisible by {side}; give fewer `multiples` or pad the image."
        )
