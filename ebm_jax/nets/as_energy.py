"""Fields read as energies, and the learned size of a loss.

A network F(x, level) of the shape of x has no energy of its own: its Jacobian need not be
symmetric. Two ways to one, for any network of this package:

    `norm_energy`     E = 1/2 |x - F(x, level)|^2       no new parameters
    `ScalarEnergy`    E = w . F(x, level) + b           a linear head

and `calculus.denoiser_from_energy` makes the denoiser whose score is exactly -grad E, which costs
a gradient of the network at every evaluation (arXiv:2302.11552, section 4.1).
"""

import flax.linen as nn
import jax.numpy as jnp

from ebm_jax.nets.mlp import LevelEmbedding
from ebm_jax.nets.precondition import RawFn
from ebm_jax.types import Example, NoisyEnergyFn, Scalar


def norm_energy(raw_fn: RawFn) -> NoisyEnergyFn:
    """E(x, level) = 1/2 |x - F(x, level)|^2: low where F reconstructs x, never negative.

    With F a denoiser of small noise, -grad E is nearly (D - x), sigma^2 times the score.
    """

    def energy(x: Example, level: Scalar) -> Scalar:
        return 0.5 * jnp.sum((x - raw_fn(x, level)) ** 2)

    return energy


class ScalarEnergy(nn.Module):
    """E(x, level) = w . F(x, level) + b of any network F.

    Attributes:
        net: the network, called with (x, level) and keywords.
    """

    net: nn.Module

    @nn.compact
    def __call__(self, x: Example, level: Scalar, **options: bool) -> Scalar:
        return nn.Dense(1, name="head")(self.net(x, level, **options).ravel())[0]


class LogLoss(nn.Module):
    """u(level), the logarithm of a loss's size at a level, for `losses.uncertainty_weighted`.

    It starts at 0: at first losses weigh as they are (arXiv:2312.02696, appendix B.2).

    Attributes:
        features: of the embedding of the level.
    """

    features: int = 128

    @nn.compact
    def __call__(self, level: Scalar) -> Scalar:
        waves = LevelEmbedding(self.features)(level)
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(waves)[0]
