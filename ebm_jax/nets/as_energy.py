"""Energies from networks F(x, level), and a learned log loss per noise level.

A field F(x, level) of the shape of x is not the gradient of an energy in general, since its
Jacobian need not be symmetric. Two ways to define an energy from any network of this package:

    `norm_energy`     E = 1/2 |x - F(x, level)|^2       no new parameters
    `ScalarEnergy`    E = w . F(x, level) + b           a linear head

`calculus.denoiser_from_energy` makes the denoiser whose score is exactly -grad E. It costs a
gradient of the network per evaluation (arXiv:2302.11552, section 4.1).
"""

import flax.linen as nn
import jax.numpy as jnp

from ebm_jax.nets.mlp import LevelEmbedding
from ebm_jax.nets.precondition import RawFn
from ebm_jax.types import Example, NoisyEnergyFn, Scalar


def norm_energy(raw_fn: RawFn) -> NoisyEnergyFn:
    """Returns E(x, level) = 1/2 |x - F(x, level)|^2: low where F reconstructs x, never negative.

    If F is a denoiser of small noise, -grad E is nearly D - x, which is sigma^2 times the score.

    Args:
        raw_fn: F(x, level), of the shape of x.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import nets
        >>> energy_fn = nets.norm_energy(lambda x, level: jnp.zeros_like(x))
        >>> float(energy_fn(jnp.array([3.0, 4.0]), jnp.float32(0.0)))
        12.5
    """

    def energy(x: Example, level: Scalar) -> Scalar:
        return 0.5 * jnp.sum((x - raw_fn(x, level)) ** 2)

    return energy


class ScalarEnergy(nn.Module):
    """The energy E(x, level) = w . F(x, level) + b of any network F.

    Attributes:
        net: the network F, called with (x, level) and keyword options.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import nets
        >>> net, x, level = nets.ScalarEnergy(nets.ScoreMLP()), jnp.ones(2), jnp.float32(0.0)
        >>> jax.eval_shape(net.init_with_output, jax.random.key(0), x, level)[0].shape
        ()
    """

    net: nn.Module

    @nn.compact
    def __call__(self, x: Example, level: Scalar, **options: bool) -> Scalar:
        return nn.Dense(1, name="head")(self.net(x, level, **options).ravel())[0]


class LogLoss(nn.Module):
    """The learned log u(level) of the loss at a noise level, for `losses.uncertainty_weighted`.

    It starts at 0, so all losses have weight 1 at first (arXiv:2312.02696, appendix B.2).

    Attributes:
        features: length of the embedding of the level.
    """

    features: int = 128

    @nn.compact
    def __call__(self, level: Scalar) -> Scalar:
        waves = LevelEmbedding(self.features)(level)
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(waves)[0]
