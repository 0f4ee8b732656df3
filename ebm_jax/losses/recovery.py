"""Diffusion recovery likelihood: learn p(x at one noise level | x at a higher one).

In variance-exploding coordinates, at two levels sigma < sigma~ of one diffusion,

    x_sigma = x_0 + sigma n,   x~ = x_sigma + tau n',   tau^2 = sigma~^2 - sigma^2,

and with the marginal energy E(x, sigma) of x_sigma, the energy of x_sigma given x~ is

    E(x | x~) = E(x, sigma) + |x~ - x|^2 / (2 tau^2).

For small tau this distribution is nearly Gaussian around x~, with one mode, and easy to sample
by a short chain from x~. Maximizing its likelihood at every level is contrastive divergence,

    x, x_noisy = recovery_pair(key, x_0, sigma, sigma_noisy)
    conditional = recovery_energy(energy_fn, x_noisy, sigma, sigma_noisy)
    loss = contrastive_divergence(conditional, x, x_model)

with x_model drawn from exp(-conditional). A Langevin step size of tau^2 / 10 is reasonable
where the energy is smooth on the scale of tau. Sampling goes down the levels: each draw is the
next x~. A single level with sigma = 0 identifies E up to a constant, but it hardly determines
the weights of modes that are many tau apart, since each conditional has only one mode.

The paper's x_{t+1} = alpha x_t + sigma_{t+1} eps, with its energy of y = alpha x_t, takes this
form after division by the product of the alphas up to t + 1: y becomes x_sigma.

References:
    Gao et al., arXiv:2012.08125; the conditional at a single level: Bengio et al.,
    arXiv:1305.6663.
"""

import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ebm_jax._checks import check_not_negative, check_shape, holds
from ebm_jax._precision import level_for, normal_for
from ebm_jax.losses.functions import checked_energy, checked_example
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar

NoisyEnergyFn = Callable[[Example, Scalar], Scalar]


def recovery_pair(
    key: PRNGKey, x: Example, sigma: Scalar, sigma_noisy: Scalar
) -> tuple[Example, Example]:
    """Draws one example at two noise levels of one diffusion: x + sigma n, and that plus tau n'.

    Args:
        key: PRNG key of n and n'.
        x: one clean example, of any shape; batch with `jax.vmap`.
        sigma: the lower noise level, zero or positive.
        sigma_noisy: the upper noise level, above `sigma`.

    Returns:
        The example at `sigma` and at `sigma_noisy`, each of the shape and dtype of `x`.

    Raises:
        ValueError: if a level is not a scalar, or for concrete levels unless
            0 <= sigma < sigma_noisy.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> x, low, high = jnp.zeros(10_000), jnp.float32(1.0), jnp.float32(2.0)
        >>> a, b = losses.recovery_pair(jax.random.key(0), x, low, high)
        >>> round(float(a.std()), 1), round(float(b.std()), 1)
        (1.0, 2.0)
    """
    sigma, tau_squared = _levels("recovery_pair", x, sigma, sigma_noisy)
    key_low, key_high = jax.random.split(key)
    low = checked_example("recovery_pair", x=x) + sigma * normal_for(key_low, x)
    noisy = low + jnp.sqrt(tau_squared) * normal_for(key_high, x)
    return low.astype(x.dtype), noisy.astype(x.dtype)


def recovery_energy(
    energy_fn: NoisyEnergyFn, x_noisy: Example, sigma: Scalar, sigma_noisy: Scalar
) -> EnergyFn:
    """Conditional energy E(x | x~) = E(x, sigma) + |x~ - x|^2 / (2 (sigma~^2 - sigma^2)).

    For data N(m, s^2 I) and v = s^2 + sigma^2 the conditional is Gaussian, with mean
    (tau^2 m + v x~) / (tau^2 + v) and variance tau^2 v / (tau^2 + v).

    Args:
        energy_fn: E(x, sigma), the energy of the data smoothed by sigma, a scalar.
        x_noisy: x~, one example at `sigma_noisy`.
        sigma: the lower noise level, zero or positive.
        sigma_noisy: sigma~, the upper noise level, above `sigma`.

    Returns:
        The energy of one example at `sigma` given `x_noisy`, for samplers and for
        `contrastive_divergence`.

    Raises:
        ValueError: for levels as in `recovery_pair`. The returned function raises it for an
            energy that is not a scalar, or an x whose shape is not that of `x_noisy`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> normal = lambda x, sigma: jnp.sum(x**2) / (2 * (1 + sigma**2))  # data N(0, I)
        >>> conditional = losses.recovery_energy(
        ...     normal, jnp.ones(2), jnp.float32(0.0), jnp.float32(1.0))
        >>> float(conditional(jnp.zeros(2)))
        1.0
    """
    name = "recovery_energy"
    level, tau_squared = _levels(name, x_noisy, sigma, sigma_noisy)
    end = checked_example(name, x_noisy=x_noisy)

    def conditional(x: Example) -> Scalar:
        check_shape(name, "x", x, x_noisy.shape)
        checked = checked_energy(name, "energy_fn(x, sigma)", energy_fn, x)
        here = checked_example(name, x=x)
        return checked(here, level) + jnp.sum((end - here) ** 2) / (2 * tau_squared)

    return conditional


def _levels(name: str, x: Example, sigma: Scalar, sigma_noisy: Scalar) -> tuple[Scalar, Scalar]:
    """Returns the lower level, and the difference of the squared levels."""
    check_not_negative(name, sigma=sigma, sigma_noisy=sigma_noisy)
    if not holds(operator.lt, sigma, sigma_noisy):
        raise ValueError(
            f"`{name}` got sigma={sigma}, sigma_noisy={sigma_noisy}: give sigma < sigma_noisy."
        )
    low, high = level_for(x, sigma), level_for(x, sigma_noisy)
    return low, high**2 - low**2
