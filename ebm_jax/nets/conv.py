"""A small convolutional U-Net on one image: the raw field of a score network.

It is a light relative of the DDPM U-Net (arXiv:2006.11239): residual blocks with
group normalisation, the level added inside each block, average pooling down and
nearest neighbours up, skips by concatenation, no attention.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.nets.mlp import LevelEmbedding
from ebm_jax.types import Scalar

Image = Float[Array, "h w c"]


def group_norm() -> nn.GroupNorm:
    """Group normalisation of one HWC image, also right under `jax.vmap`.

    Without `reduction_axes` linen reduces over all axes but the first, which it
    takes for the batch.
    """
    return nn.GroupNorm(num_groups=8, reduction_axes=(-3, -2, -1))


class Conv3x3(nn.Module):
    """A 3x3 convolution of stride 1, zero-padded, as nine shifted copies and one matmul.

    XLA's own convolution gradient, inside a `lax.scan` on CPU, falls back to a plain
    loop, a hundred times slower at these sizes (jax issue 12868); this form is a
    matmul in every pass.

    Attributes:
        channels: output channels.
        kernel_init: initialiser of the (9 * input channels, channels) kernel.
    """

    channels: int
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Image) -> Float[Array, "h w channels"]:
        h, w, _ = x.shape
        padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
        shifted = [padded[i : i + h, j : j + w] for i in range(3) for j in range(3)]
        return nn.Dense(self.channels, kernel_init=self.kernel_init)(jnp.concatenate(shifted, -1))


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a residual path, shifted in between by an embedding.

    Attributes:
        channels: output channels, divisible by 8.
    """

    channels: int

    @nn.compact
    def __call__(self, x: Image, embedding: Float[Array, " e"]) -> Float[Array, "h w channels"]:
        h = Conv3x3(self.channels)(nn.silu(group_norm()(x)))
        h = group_norm()(h + nn.Dense(self.channels)(nn.silu(embedding)))
        h = Conv3x3(self.channels, nn.initializers.zeros)(nn.silu(h))
        return h + (x if x.shape[-1] == self.channels else nn.Dense(self.channels)(x))


class ConvScore(nn.Module):
    """A raw field F(image, level) of the image's shape, to be wrapped by `nets.precondition`.

    Attributes:
        channels: channels at every resolution, each divisible by 8; the resolution
            halves from one to the next, so that h and w must be divisible by
            2^(len(channels) - 1).
        blocks: residual blocks at each resolution on the way down; one more on the
            way up.
    """

    channels: Sequence[int] = (32, 64)
    blocks: int = 1

    @nn.compact
    def __call__(self, x: Image, level: Scalar) -> Image:
        side = 2 ** (len(self.channels) - 1)
        if x.shape[0] % side or x.shape[1] % side:
            raise ValueError(
                f"`ConvScore` got an image of {x.shape[0]}x{x.shape[1]}: with {len(self.channels)} "
                f"resolutions both sides must be divisible by {side}; give fewer `channels`."
            )
        embedding = LevelEmbedding(4 * self.channels[0])(level)
        h = Conv3x3(self.channels[0])(x)
        skips = [h]
        for depth, channels in enumerate(self.channels):
            if depth:
                h = nn.avg_pool(h, (2, 2), strides=(2, 2))
                skips.append(h)
            for _ in range(self.blocks):
                h = ResBlock(channels)(h, embedding)
                skips.append(h)
        for depth, channels in reversed(list(enumerate(self.channels))):
            for _ in range(self.blocks + 1):
                h = ResBlock(channels)(jnp.concatenate([h, skips.pop()], -1), embedding)
            if depth:
                h = jnp.repeat(jnp.repeat(h, 2, 0), 2, 1)
        return Conv3x3(x.shape[-1], nn.initializers.zeros)(nn.silu(group_norm()(h)))
