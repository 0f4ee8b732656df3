"""Multilayer perceptrons for small vectors: an energy, and a raw field of x and a level."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.types import Example, Scalar


class MLP(nn.Module):
    """Dense layers with an activation between them, none after the last.

    Attributes:
        widths: outputs of every layer, the last one included.
        activation: silu by default; score matching needs a smooth one.
    """

    widths: Sequence[int]
    activation: Callable[[Array], Array] = nn.silu

    @nn.compact
    def __call__(self, x: Float[Array, " features"]) -> Float[Array, " out"]:
        for width in self.widths[:-1]:
            x = self.activation(nn.Dense(width)(x))
        return nn.Dense(self.widths[-1])(x)


class EnergyMLP(nn.Module):
    """E(x) of one example of any shape, by an `MLP` on its entries with a scalar head.

    The class of densities is right in the tails: a learned precision exp(r) adds
    exp(r) / 2 |x|^2, so that exp(-E) has a finite integral whatever the weights when
    the activation grows at most linearly.

    Attributes:
        widths: hidden widths.
        activation: smooth, of at most linear growth.
    """

    widths: Sequence[int] = (128, 128)
    activation: Callable[[Array], Array] = nn.silu

    @nn.compact
    def __call__(self, x: Example) -> Scalar:
        log_precision = self.param("log_precision", nn.initializers.constant(-2.0), ())
        energy = MLP((*self.widths, 1), self.activation)(x.ravel())[0]
        return energy + 0.5 * jnp.exp(log_precision) * jnp.sum(x**2)


class LevelEmbedding(nn.Module):
    """A vector for a scalar noise level: sines and cosines, then two dense layers.

    Attributes:
        features: the length of the vector, even.
        max_frequency: the highest angular frequency; levels a fraction of its
            inverse apart are told apart.
    """

    features: int
    max_frequency: float = 16.0

    @nn.compact
    def __call__(self, level: Scalar) -> Float[Array, " features"]:
        frequencies = jnp.geomspace(0.25, self.max_frequency, self.features // 2)
        angles = jnp.float32(level) * frequencies
        waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])
        return nn.Dense(self.features)(nn.silu(nn.Dense(self.features)(waves)))


class ScoreMLP(nn.Module):
    """A raw field F(x, level) of the shape of x, to be wrapped by `nets.precondition`.

    Attributes:
        widths: hidden widths; every hidden layer is shifted by the embedded level.
        activation: silu by default.
    """

    widths: Sequence[int] = (128, 128)
    activation: Callable[[Array], Array] = nn.silu

    @nn.compact
    def __call__(self, x: Example, level: Scalar) -> Example:
        embedding = LevelEmbedding(64)(level)
        h = x.ravel()
        for width in self.widths:
            h = self.activation(nn.Dense(width)(h) + nn.Dense(width)(embedding))
        return nn.Dense(x.size)(h).reshape(x.shape)
