"""Multilayer perceptrons for small vectors: an energy, and a raw field of x and a level.

Second derivatives of the energy need no second reverse pass. With pre-activations a_l,
h_l = act(a_l), and E linear in the last h, only the activations contribute:

    v . H v = sum_l sum_k (dE/dh_lk) act''(a_lk) (v . grad a_lk)^2

where v . grad a_l is v pushed forward through the layers, and dE/dh_l comes from the single
backward pass of the gradient. The Laplacian is the sum over an orthonormal basis, of which only
the span of the first layer's weights contributes: no more directions than its width.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.types import Example, Scalar


class MLP(nn.Module):
    """Dense layers with an activation between them, none after the last.

    Attributes:
        widths: output widths of all layers, including the last.
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
    """E(x) of one example of any shape: an `MLP` on its entries with a scalar head.

    A learned precision exp(r) adds exp(r) / 2 |x|^2. With it, exp(-E) has a finite integral for
    any weights, if the activation grows at most linearly.

    Attributes:
        widths: hidden widths.
        activation: smooth, of at most linear growth.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import nets
        >>> net = nets.EnergyMLP((16, 16))
        >>> energy, params = jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.zeros(2))
        >>> energy.shape
        ()
    """

    widths: Sequence[int] = (128, 128)
    activation: Callable[[Array], Array] = nn.silu

    @nn.compact
    def __call__(self, x: Example) -> Scalar:
        log_precision = self.param("log_precision", nn.initializers.constant(-2.0), ())
        energy = MLP((*self.widths, 1), self.activation)(x.ravel())[0]
        return energy + 0.5 * jnp.exp(log_precision) * jnp.sum(x**2)

    def gradient_and_curvature(
        self, x: Example, directions: Float[Array, "k *d"]
    ) -> tuple[Example, Float[Array, " k"]]:
        """Returns grad E(x), and v . (d^2 E/dx^2) v for each direction v, in one backward pass.

        For `losses.sliced_score_matching_from_curvature`, as
        `partial(net.apply, params, method="gradient_and_curvature")`.

        Args:
            x: one example, of any shape.
            directions: v_1 ... v_k, each of the shape of `x`.

        Returns:
            The gradient, of the shape of x, and the k curvatures. For a piecewise-linear activation
            (relu) the curvatures are only |v|^2 times the precision almost everywhere: use a
            smooth one.
        """
        gradient, bends = self._gradient_and_bends(x)
        precision = jnp.exp(self.variables["params"]["log_precision"])
        rows = directions.reshape(directions.shape[0], -1)
        curvature = precision * jnp.sum(rows**2, -1)
        for pushed, layer in zip(_push_forward(bends, rows), bends, strict=True):
            curvature = curvature + jnp.sum(pushed**2 * layer.bend[None], -1)
        return gradient, curvature

    def gradient_and_laplacian(self, x: Example, *, chunk_size: int = 16) -> tuple[Example, Scalar]:
        """Returns grad E(x) and the exact Laplacian; equal to `calculus.laplacian`, but faster.

        For `losses.exact_score_matching_from_laplacian`, as
        `partial(net.apply, params, method="gradient_and_laplacian")`. It takes
        min(d, first width) directions, in chunks under `jax.checkpoint`, so time and memory stop
        growing when d exceeds that width. Derivatives of the result are exact at every order in x,
        but only at first order in the parameters.

        Args:
            x: one example, of any shape with d entries.
            chunk_size: number of directions pushed forward at once. Small chunks keep a batch of
                128 in the cache of a CPU; use larger ones on an accelerator.

        Returns:
            The gradient, of the shape of x, and the Laplacian. For a piecewise-linear activation
            (relu) the Laplacian is only d times the precision almost everywhere: use a smooth one.

        Raises:
            ValueError: if `chunk_size` is not positive.
        """
        if chunk_size < 1:
            raise ValueError(
                f"`gradient_and_laplacian` got chunk_size={chunk_size}: give at least 1."
            )
        gradient, bends = self._gradient_and_bends(x)
        precision = jnp.exp(self.variables["params"]["log_precision"])
        basis = orthonormal_basis(self._layers()[0]["kernel"])
        chunk_size = min(chunk_size, basis.shape[0])
        filling = jnp.zeros((-basis.shape[0] % chunk_size, x.size), basis.dtype)
        chunks = jnp.concatenate([basis, filling]).reshape(-1, chunk_size, x.size)

        @jax.checkpoint
        def add_chunk(total: Scalar, rows: Array) -> tuple[Scalar, None]:
            for pushed, layer in zip(_push_forward(bends, rows), bends, strict=True):
                total = total + jnp.sum(pushed**2, 0) @ layer.bend
            return total, None

        return gradient, jax.lax.scan(add_chunk, x.size * precision, chunks)[0]

    def _layers(self) -> list[dict[str, Array]]:
        layers = self.variables["params"]["MLP_0"]
        return [layers[f"Dense_{i}"] for i in range(len(self.widths) + 1)]

    def _gradient_and_bends(self, x: Example) -> tuple[Example, list["_Bend"]]:
        *hidden, head = self._layers()
        h, pushed = x.ravel(), []
        for layer in hidden:
            pushed.append(_derivatives(self.activation, h @ layer["kernel"] + layer["bias"]))
            h = pushed[-1][0]
        pull, bends = head["kernel"][:, 0], []
        for layer, (_, slope, second) in zip(reversed(hidden), reversed(pushed), strict=True):
            bends.append(_Bend(layer["kernel"], slope, pull * second))
            pull = layer["kernel"] @ (slope * pull)
        precision = jnp.exp(self.variables["params"]["log_precision"])
        return pull.reshape(x.shape) + precision * x, bends[::-1]


class _Bend(NamedTuple):
    """The derivatives of a hidden layer: W, act'(a), and dE/dh act''(a)."""

    kernel: Float[Array, "before after"]
    slope: Float[Array, " after"]
    bend: Float[Array, " after"]


def _derivatives(
    activation: Callable[[Array], Array], a: Float[Array, " width"]
) -> tuple[Array, Array, Array]:
    """Returns act(a), act'(a), act''(a) of an elementwise function."""
    ones = jnp.ones_like(a)

    def slope(a: Array) -> tuple[Array, Array]:
        h, slope = jax.jvp(activation, (a,), (ones,))
        return slope, h

    first, second, h = jax.jvp(slope, (a,), (ones,), has_aux=True)
    return h, first, second


def _push_forward(bends: list[_Bend], rows: Float[Array, "k d"]) -> list[Array]:
    """Returns (v . grad) a_l of every hidden layer, for each row v."""
    pushed = []
    for kernel, slope, _ in bends:
        pushed.append(rows @ kernel)
        rows = pushed[-1] * slope[None]
    return pushed


def orthonormal_basis(kernel: Float[Array, "d width"]) -> Float[Array, "k d"]:
    """Returns rows that span R^d, or only the columns of `kernel` if d exceeds the width.

    The rows are treated as constants. The trace still has its exact first derivative, because to
    first order a change of the kernel out of its own span does not change tr(Q^T W M W^T Q).
    """
    d, width = kernel.shape
    if d <= width:
        return jnp.eye(d, dtype=kernel.dtype)
    return jnp.linalg.qr(jax.lax.stop_gradient(kernel))[0].T


class LevelEmbedding(nn.Module):
    """An embedding of a scalar noise level: sines and cosines, then two dense layers.

    Attributes:
        features: length of the vector, even.
        max_frequency: the highest angular frequency. Levels can be distinguished down to a
            fraction of its inverse.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import nets
        >>> net = nets.LevelEmbedding(features=64)
        >>> jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.float32(0.0))[0].shape
        (64,)
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
        widths: hidden widths; the embedded level is added to every hidden layer.
        activation: silu by default.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import nets
        >>> args = jax.random.key(0), jnp.zeros(2), jnp.float32(0.0)
        >>> jax.eval_shape(nets.ScoreMLP().init_with_output, *args)[0].shape
        (2,)
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
