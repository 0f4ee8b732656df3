"""A small convolutional U-Net on one image: the raw field of a score network.

It is a light relative of the DDPM U-Net (arXiv:2006.11239): residual blocks with group
normalization, the level added inside each block, self-attention after the blocks of the lowest
resolution, average pooling on the way down, nearest neighbors on the way up, and skips by
concatenation.

XLA's convolutions run near peak speed on CPU too, also in a sampler's scan. Only their gradient
within a scan does not (jax issue 12868, a hundred times slower). On CPU, train with one compiled
call per step, as `training.fit` does with one_scan=False.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.nets.blocks import Attention, Label, check_label
from ebm_jax.nets.mlp import LevelEmbedding
from ebm_jax.types import Scalar

Image = Float[Array, "h w c"]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalization of one HWC image, correct under `jax.vmap`.

    Groups have at least four channels: in a group of one, normalization would remove what the
    embedding of the level adds to the channel. Without `reduction_axes`, linen reduces over all
    axes but the first, which it takes for the batch.
    """
    return nn.GroupNorm(num_groups=min(8, channels // 4), reduction_axes=(-3, -2, -1))


def halve(x: Image) -> Float[Array, "h//2 w//2 c"]:
    """Returns the mean of every 2x2 pixels."""
    h, w, channels = x.shape
    return x.reshape(h // 2, 2, w // 2, 2, channels).mean((1, 3))


def gather_patches(x: Image, patch: int) -> Float[Array, "h2 w2 c2"]:
    """Merges each square of patch x patch pixels into one pixel with all their channels."""
    h, w, c = x.shape
    squares = x.reshape(h // patch, patch, w // patch, patch, c).transpose(0, 2, 1, 3, 4)
    return squares.reshape(h // patch, w // patch, patch * patch * c)


def scatter_patches(x: Image, patch: int, channels: int) -> Float[Array, "h2 w2 c2"]:
    """Inverse of `gather_patches`."""
    h, w, _ = x.shape
    squares = x.reshape(h, w, patch, patch, channels).transpose(0, 2, 1, 3, 4)
    return squares.reshape(h * patch, w * patch, channels)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a residual path, shifted between them by an embedding.

    Attributes:
        channels: number of output channels, divisible by 8.
    """

    channels: int

    @nn.compact
    def __call__(self, x: Image, embedding: Float[Array, " e"]) -> Float[Array, "h w channels"]:
        h = nn.Conv(self.channels, (3, 3))(nn.silu(group_norm(x.shape[-1])(x)))
        h = group_norm(self.channels)(h + nn.Dense(self.channels)(nn.silu(embedding))[None, None])
        h = nn.Conv(self.channels, (3, 3), kernel_init=nn.initializers.zeros)(nn.silu(h))
        return h + (x if x.shape[-1] == self.channels else nn.Dense(self.channels)(x))


class ConvScore(nn.Module):
    """A raw field F(image, level) of a small U-Net, to be wrapped by `nets.precondition`.

    Called with an image (h, w, c), a level and an optional label, it returns an image.

    Attributes:
        channels: channels at every resolution, each divisible by 8. Each resolution halves the
            one before, so h and w must be divisible by patch * 2^(len(channels) - 1).
        blocks: residual blocks at each resolution, on the way down and again on the way up.
        patch: side of the squares of pixels that are merged into one pixel with more channels;
            2 is four times cheaper at the same width.
        num_classes: None, or the number of labels; one more index means "no label".

    Raises:
        ValueError: for channels that are not multiples of 8, an image whose sides are not
            divisible as above, or a label without num_classes.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import nets
        >>> args = jax.random.key(0), jnp.zeros((8, 8, 1)), jnp.float32(0.0)
        >>> jax.eval_shape(nets.ConvScore().init_with_output, *args)[0].shape
        (8, 8, 1)
    """

    channels: Sequence[int] = (32, 64)
    blocks: int = 2
    patch: int = 1
    num_classes: int | None = None

    @nn.compact
    def __call__(self, x: Image, level: Scalar, label: Label | None = None) -> Image:
        if any(channels % 8 or channels < 8 for channels in self.channels) or not self.channels:
            raise ValueError(
                f"`ConvScore` got channels {tuple(self.channels)}: give multiples of 8."
            )
        side = self.patch * 2 ** (len(self.channels) - 1)
        if x.shape[0] % side or x.shape[1] % side:
            raise ValueError(
                f"`ConvScore` got an image of {x.shape[0]}x{x.shape[1]}: with {len(self.channels)} "
                f"resolutions{f' of patches of {self.patch}' if self.patch > 1 else ''} both sides "
                f"must be divisible by {side}; give fewer `channels`."
            )
        check_label(self, label)
        shape, x = x.shape, gather_patches(x, self.patch)
        embedding = LevelEmbedding(4 * self.channels[0])(level)
        if self.num_classes is not None:
            index = jnp.asarray(self.num_classes if label is None else label)
            embedding += nn.Embed(self.num_classes + 1, 4 * self.channels[0])(index)
        h = nn.Conv(self.channels[0], (3, 3))(x)
        skips: list[Image] = []
        for channels in self.channels:
            if skips:
                h = halve(h)
            for _ in range(self.blocks):
                h = ResBlock(channels)(h, embedding)
                if len(skips) == len(self.channels) - 1:
                    h = Attention(groups=8)(h)
            skips.append(h)
        h = skips.pop()
        for channels in reversed(self.channels[:-1]):
            h = jnp.repeat(jnp.repeat(h, 2, 0), 2, 1)
            h = jnp.concatenate([h, skips.pop()], -1)
            for _ in range(self.blocks):
                h = ResBlock(channels)(h, embedding)
        head = nn.Conv(x.shape[-1], (3, 3), kernel_init=nn.initializers.zeros)
        return scatter_patches(head(nn.silu(group_norm(h.shape[-1])(h))), self.patch, shape[-1])
