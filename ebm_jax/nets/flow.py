"""RealNVP, a normalizing flow: an invertible map of N(0, I) with draws and exact density.

    x = f(z), z ~ N(0, I):   log q(x) = log N(f^-1(x); 0, I) + log |det df^-1/dx|

f is a chain of affine couplings, which move the entries of even and of odd index in turn. One
half stays and determines how the other is scaled and shifted,

    y_b = x_b exp(s(x_a)) + t(x_a),   y_a = x_a,   log |det| = sum s(x_a),

so the inverse and the determinant each cost one pass of the network [1]. |s| is bounded, which
keeps both directions well conditioned.

References:
    [1] Dinh, Sohl-Dickstein & Bengio, arXiv:1605.08803.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax.nets.mlp import MLP
from ebm_jax.types import Example, PRNGKey, Scalar

Half = Float[Array, " half"]
OtherHalf = Float[Array, " other"]


class Coupling(nn.Module):
    """t(x_a) and s(x_a) of one coupling, by an `MLP`; both are 0 at initialization.

    Attributes:
        size: number of entries of the half that is moved.
        widths: hidden widths.
        activation: activation between the layers.
        max_log_scale: the bound on |s|.
    """

    size: int
    widths: Sequence[int]
    activation: Callable[[Array], Array]
    max_log_scale: float

    @nn.compact
    def __call__(self, given: Half) -> tuple[OtherHalf, OtherHalf]:
        hidden = self.activation(MLP(self.widths, self.activation)(given))
        out = nn.Dense(2 * self.size, kernel_init=nn.initializers.zeros)(hidden)
        shift, slope = out[: self.size], out[self.size :] / self.max_log_scale
        return shift, self.max_log_scale * jnp.tanh(slope)


class RealNVP(nn.Module):
    """A RealNVP flow: a distribution with exact density, draws and inverse.

    Called with an example, it returns the energy E(x) = -log q(x), whose log Z is 0, so it can be
    used wherever an energy can. Every method is a plain function of parameters and one example:

        params = net.init(key, x)
        log_q = partial(net.apply, params, method="log_density")(x)
        x = partial(net.apply, params, method="draw")(key)
        x, log_q = partial(net.apply, params, method="draw_with_log_density")(key)

    Draws are differentiable in the parameters, and so are E_q[f(x)] and the entropy
    -E_q[log q(x)]. At initialization f is the identity and q is N(0, I): standardize data that
    are far from it. Couplings are smooth if the activation is.

    Attributes:
        shape: shape of an example, with at least 2 entries.
        num_couplings: number of couplings, at least 2, so that every entry is moved.
        widths: hidden widths of each coupling's network.
        activation: activation of these networks.
        max_log_scale: bound on the log scale of one coupling.

    Raises:
        ValueError: for fewer than 2 entries or 2 couplings.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import nets
        >>> net, x = nets.RealNVP(shape=(2,), num_couplings=2, widths=(8,)), jnp.zeros(2)
        >>> params = net.init(jax.random.key(0), x)
        >>> round(float(net.apply(params, x, method="log_density")), 4)  # of N(0, I): -log(2 pi)
        -1.8379
    """

    shape: tuple[int, ...]
    num_couplings: int = 8
    widths: Sequence[int] = (64, 64)
    activation: Callable[[Array], Array] = nn.silu
    max_log_scale: float = 2.0

    def setup(self) -> None:
        size = int(np.prod(self.shape))
        if size < 2:
            raise ValueError(f"`RealNVP` got shape={self.shape}: give at least 2 entries.")
        if self.num_couplings < 2:
            raise ValueError(
                f"`RealNVP` got num_couplings={self.num_couplings}: give at least 2, "
                "so that every entry is moved."
            )
        self.couplings = [
            Coupling(
                (size + i % 2) // 2,  # half 1, of odd indices, moves first
                self.widths,
                self.activation,
                self.max_log_scale,
            )
            for i in range(self.num_couplings)
        ]

    def __call__(self, x: Example) -> Scalar:
        """Returns the energy E(x) = -log q(x)."""
        return -self.log_density(x)

    def log_density(self, x: Example) -> Scalar:
        """Returns log q(x), normalized."""
        z, log_det = self.inverse(x)
        return log_standard_normal(z) + log_det

    def draw(self, key: PRNGKey) -> Example:
        """Draws one example from q."""
        return self.forward(jax.random.normal(key, self.shape))[0]

    def draw_with_log_density(self, key: PRNGKey) -> tuple[Example, Scalar]:
        """Draws one example x from q, and returns log q(x) without a pass of the inverse."""
        z = jax.random.normal(key, self.shape)
        x, log_det = self.forward(z)
        return x, log_standard_normal(z) - log_det

    def forward(self, z: Example) -> tuple[Example, Scalar]:
        """Returns x = f(z), and log |det df/dz| there."""
        halves, log_det = _split(z), jnp.zeros((), z.dtype)
        for i, coupling in enumerate(self.couplings):
            given, moved = i % 2, 1 - i % 2
            shift, log_scale = coupling(halves[given])
            halves[moved] = halves[moved] * jnp.exp(log_scale) + shift
            log_det += jnp.sum(log_scale)
        return _merge(halves).reshape(z.shape), log_det

    def inverse(self, x: Example) -> tuple[Example, Scalar]:
        """Returns z = f^-1(x), and log |det df^-1/dx| there."""
        halves, log_det = _split(x), jnp.zeros((), x.dtype)
        for i, coupling in reversed(list(enumerate(self.couplings))):
            given, moved = i % 2, 1 - i % 2
            shift, log_scale = coupling(halves[given])
            halves[moved] = (halves[moved] - shift) * jnp.exp(-log_scale)
            log_det -= jnp.sum(log_scale)
        return _merge(halves).reshape(x.shape), log_det


def log_standard_normal(z: Example) -> Scalar:
    """Returns log N(z; 0, I) = -1/2 |z|^2 - d/2 log(2 pi)."""
    return -0.5 * jnp.sum(z**2) - 0.5 * z.size * jnp.log(2 * jnp.pi)


def _split(x: Example) -> list[Array]:
    """Returns the entries of even and those of odd index."""
    flat = x.ravel()
    return [flat[::2], flat[1::2]]


def _merge(halves: list[Array]) -> Float[Array, " size"]:
    even, odd = halves
    padded = jnp.pad(odd, (0, even.size - odd.size))
    return jnp.stack([even, padded], -1).ravel()[: even.size + odd.size]
