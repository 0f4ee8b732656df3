"""The vocabulary: every function of this library speaks of one example.

Conventions, the same everywhere:

    p(x) is proportional to exp(-E(x))        low energy is high probability
    s(x) = grad log p(x) = -grad E(x)         the score
    x_sigma = x_0 + sigma * n, n ~ N(0, I)    a noisy example at noise level sigma
    s(x, sigma) = grad log (p * N(0, sigma^2 I))(x)
    D(x, sigma) = E[x_0 | x_sigma = x] = x + sigma^2 s(x, sigma)

`sigma` and `t` are scalars; a batch is `jax.vmap`. Images are HWC in [-1, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Float, Key

Scalar = Float[Array, ""]
"""One number."""
Example = Float[Array, "*d"]
"""One example of any shape: a point, an image (HWC), a series."""
PRNGKey = Key[Array, ""]
"""One key, as `jax.random.key` makes it."""

EnergyFn = Callable[[Example], Scalar]
"""E(x)."""
NoisyEnergyFn = Callable[[Example, Scalar], Scalar]
"""E(x, sigma)."""
ScoreFn = Callable[[Example], Example]
"""s(x)."""
NoisyScoreFn = Callable[[Example, Scalar], Example]
"""s(x, sigma)."""
DenoiseFn = Callable[[Example, Scalar], Example]
"""D(x, sigma)."""


class Estimate(NamedTuple):
    """A number estimated from random draws, with its standard error.

    Attributes:
        value: the estimate, in the units that the function names.
        standard_error: of `value`: one standard deviation of what other draws would give.
    """

    value: float | Scalar
    standard_error: float | Scalar
