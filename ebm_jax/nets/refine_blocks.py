"""Building blocks of a RefineNet on one image, for `nets.refinenet`.

Channels are normalized by InstanceNorm++, which keeps the relation of the channels' means, which
instance normalization removes (appendix A of arXiv:1907.05600).
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ebm_jax.nets.conv import halve
from ebm_jax.types import PRNGKey

Image = Float[Array, "h w c"]
Index = int | Int[Array, ""]


def near_one(key: PRNGKey, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Draws from N(1, 0.02^2), the published initialization of scales."""
    return 1 + 0.02 * jax.random.normal(key, shape, dtype)


def convolve(
    x: Image,
    channels: int,
    dtype: DTypeLike,
    *,
    side: int = 3,
    dilation: int = 1,
    use_bias: bool = True,
) -> Float[Array, "h w channels"]:
    """Applies a zero-padded convolution of stride 1, whose weights the calling module owns.

    All weights, including biases, start uniform within 1 / sqrt(inputs per output): the default
    of PyTorch, in which both networks were published.
    """
    bound = (side**2 * x.shape[-1]) ** -0.5

    def uniform(key: PRNGKey, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Conv(
        channels,
        (side, side),
        kernel_dilation=dilation,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=uniform,
        bias_init=uniform,
    )(x)


def stretch(x: Image, height: int, width: int) -> Float[Array, "{height} {width} c"]:
    """Bilinear interpolation that aligns corner pixels.

    `jax.image.resize` aligns the outer edges of those pixels instead.
    """

    def weights(new: int, old: int) -> Array:
        places = np.linspace(0, old - 1, new)
        hats = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old)[None]))
        return jnp.asarray(hats, x.dtype)

    if x.shape[:2] == (height, width):
        return x
    rows, columns = weights(height, x.shape[0]), weights(width, x.shape[1])
    return jnp.einsum("ih,jw,hwc->ijc", rows, columns, x)


class InstanceNormPlus(nn.Module):
    """InstanceNorm++: normalizes each channel over the pixels, and the channels' means.

        y_k = gamma_k ((x_k - mu_k) / s_k + alpha_k (mu_k - m) / v) + beta_k

    mu_k and s_k are mean and standard deviation of channel k; m and v are those of
    mu_1 ... mu_c, v with c - 1 in its denominator as in the published code. Appendix A of
    arXiv:1907.05600 writes alpha_k for gamma_k alpha_k. Statistics are float32.

    Attributes:
        num_levels: number of sets of (gamma, alpha, beta), one of which `index` selects; None for
            a single set and no index. An index beyond the last level gives NaN.
        dtype: dtype of the result.
    """

    num_levels: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Image, index: Index | None = None) -> Image:
        def weights(name: str, init: nn.initializers.Initializer) -> Float[Array, " c"]:
            if self.num_levels is None or index is None:
                return self.param(name, init, x.shape[-1:])
            table = self.param(name, init, (self.num_levels, x.shape[-1]))
            return jnp.take(table, index, axis=0)

        gamma, alpha = weights("gamma", near_one), weights("alpha", near_one)
        beta = weights("beta", nn.initializers.zeros)
        x = x.astype(jnp.float32)
        mean, variance = jnp.mean(x, (0, 1)), jnp.var(x, (0, 1))
        unit = (x - mean[None, None]) / jnp.sqrt(variance + 1e-5)[None, None]
        contrast = (mean - jnp.mean(mean, 0)) / jnp.sqrt(jnp.var(mean, 0, ddof=1) + 1e-5)
        unit = unit + (alpha * contrast)[None, None]
        return (gamma[None, None] * unit + beta[None, None]).astype(self.dtype)


class ResidualBlock(nn.Module):
    """Two convolutions, each after normalization and ELU, with a residual path.

    Attributes:
        channels: output channels; those of the input unless the block opens a stage.
        opens_stage: adds a convolution to the residual path. Without dilation it is 1x1, and 2x2
            mean pooling follows; with dilation it is 3x3 and the size stays.
        dilation: dilation of all 3x3 convolutions.
        num_levels: as in `InstanceNormPlus`.
        dtype: dtype of the computation.
    """

    channels: int
    opens_stage: bool = False
    dilation: int = 1
    num_levels: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Image, index: Index | None = None) -> Float[Array, "h2 w2 channels"]:
        h = x
        for channels in (x.shape[-1], self.channels):
            h = nn.elu(InstanceNormPlus(self.num_levels, self.dtype)(h, index))
            h = convolve(h, channels, self.dtype, dilation=self.dilation)
        if not self.opens_stage:
            return x + h
        side = 1 if self.dilation == 1 else 3
        h = h + convolve(x, self.channels, self.dtype, side=side, dilation=self.dilation)
        return halve(h) if self.dilation == 1 else h


class RefineBlock(nn.Module):
    """Residual units on each input, their fusion, chained residual pooling, and final units.

    Published as RefineNet (arXiv:1611.06612). Only the fusion's convolutions have biases.

    Attributes:
        channels: output channels; without a `coarse` input, those of `x`.
        last_units: number of residual units at the end.
        num_levels: as in `InstanceNormPlus`, with mean pooling; None for max pooling and no
            normalization.
        dtype: dtype of the computation.
    """

    channels: int
    last_units: int = 1
    num_levels: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Image,
        index: Index | None = None,
        coarse: Float[Array, "h2 w2 c2"] | None = None,
    ) -> Float[Array, "h w channels"]:
        def normalize(h: Array) -> Array:
            if self.num_levels is None:
                return h
            return InstanceNormPlus(self.num_levels, self.dtype)(h, index)

        def units(h: Array, number: int) -> Array:
            for _ in range(number):
                residual = h
                for _ in range(2):
                    h = nn.elu(normalize(h))
                    h = convolve(h, h.shape[-1], self.dtype, use_bias=False)
                h = residual + h
            return h

        def pool(h: Array) -> Array:
            if self.num_levels is None:
                return nn.max_pool(h, (5, 5), padding="SAME")
            return nn.pool(h, 0.0, jax.lax.add, (5, 5), (1, 1), "SAME") / 25  # counts padding

        h = units(x, 2)
        if coarse is not None:
            h = convolve(normalize(h), self.channels, self.dtype)
            low = convolve(normalize(units(coarse, 2)), self.channels, self.dtype)
            h = h + stretch(low, x.shape[0], x.shape[1])
        h = path = nn.elu(h)
        for _ in range(2):
            path = pool(normalize(path))
            path = convolve(path, self.channels, self.dtype, use_bias=False)
            h = h + path
        return units(h, self.last_units)
