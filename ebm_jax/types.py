"""Type aliases. Every function type takes one example; a batch is `jax.vmap`.

Conventions, the same everywhere:

    p(x) is proportional to exp(-E(x))        low energy is high probability
    s(x) = grad log p(x) = -grad E(x)         the score
    x_sigma = x_0 + sigma * n, n ~ N(0, I)    a noisy example at noise level sigma
    s(x, sigma) = grad log (p * N(0, sigma^2 I))(x)
    D(x, sigma) = E[x_0 | x_sigma = x] = x + sigma^2 s(x, sigma)

`sigma` and `t` are scalars. Images are HWC in [-1, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Float, Key

Scalar = Float[Array, ""]
"""A scalar array."""
Example = Float[Array, "*d"]
"""One example of any shape: a point, an image (HWC), a time series."""
PRNGKey = Key[Array, ""]
"""One typed PRNG key, as made by `jax.random.key`."""

EnergyFn = Callable[[Example], Scalar]
"""An energy E(x)."""
NoisyEnergyFn = Callable[[Example, Scalar], Scalar]
"""An energy E(x, sigma) of noisy examples."""
ScoreFn = Callable[[Example], Example]
"""A score s(x)."""
NoisyScoreFn = Callable[[Example, Scalar], Example]
"""A score s(x, sigma) of noisy examples."""
DenoiseFn = Callable[[Example, Scalar], Example]
"""A denoiser D(x, sigma)."""


class Estimate(NamedTuple):
    """A number estimated from random draws, with its standard error.

    Attributes:
        value: the estimate, in the units that the function states.
        standard_error: the standard deviation of `value` over repeated draws, estimated.
    """

    value: float | Scalar
    standard_error: float | Scalar
