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
Example = Float[Array, "*d"]
PRNGKey = Key[Array, ""]

EnergyFn = Callable[[Example], Scalar]
NoisyEnergyFn = Callable[[Example, Scalar], Scalar]
ScoreFn = Callable[[Example], Example]
NoisyScoreFn = Callable[[Example, Scalar], Example]
DenoiseFn = Callable[[Example, Scalar], Example]


class Estimate(NamedTuple):
    """A number estimated from random draws, with its standard error.

    Attributes:
        value: the estimate, in the units that the function names.
        standard_error: of `value`: one standard deviation of what other draws would give.
    """

    value: float | Scalar
    standard_error: float | Scalar
