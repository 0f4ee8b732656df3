"""Maximum likelihood of p(x) = exp(-E(x)) / Z, with samples of the model instead of Z.

    -grad log p(x) = grad E(x) - E_p[grad E]            gradients in the parameters

`contrastive_divergence` has this gradient in expectation if `x_model` is drawn from p. A chain
of k steps draws from a distribution q_k instead, which also depends on the parameters. The
part of the gradient that this leaves out is that of

    KL(q_k || p) = E_q_k[E] - H(q_k) + log Z,

taken through the sampler. Its two terms are `sampler_energy` and minus
`nearest_neighbor_entropy` (improved contrastive divergence, arXiv:2012.01316).

The loss does not depend on where the chains start. The four usual choices are

    CD-k from data            starts = x_data
    CD-k from noise           starts = jax.vmap(draw)(keys)
    persistent (PCD)          starts = draw_starts(draw, key, buffer, batch_size,
                                                   restart_share=0.0).x
    persistent, restarted     the same with a restart_share above 0

with `samplers.draw_starts`. In each case x_model is the end of k steps of a kernel.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax._checks import check_shape
from ebm_jax.losses.functions import checked_energy, checked_example
from ebm_jax.types import EnergyFn, Example, Scalar


def contrastive_divergence(energy_fn: EnergyFn, x_data: Example, x_model: Example) -> Scalar:
    """Contrastive divergence (CD) loss for one pair: E(x_data) - E(x_model).

    No gradient flows through `x_model`. If x_model ~ p, the mean gradient in the parameters of E
    is that of -log p. The value does not indicate convergence: its mean is 0 at the optimum, but
    also, for instance, for a constant energy, however far the model is from the data.

    Args:
        energy_fn: E(x), a scalar for one example.
        x_data: one data example.
        x_model: one sample of the model, usually the end of a Markov chain.

    Returns:
        The loss, a scalar. Take the mean over a batch of pairs for a training objective.

    References:
        Hinton, Training products of experts by minimizing contrastive divergence,
        Neural Computation 2002; persistent chains (PCD): Tieleman, ICML 2008.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> def loss(theta):
        ...     energy_fn = lambda x: theta * jnp.sum(x**2)
        ...     return losses.contrastive_divergence(energy_fn, jnp.ones(2), jnp.zeros(2))
        >>> float(jax.grad(loss)(1.0))  # |x_data|^2 - |x_model|^2
        2.0
    """
    at_data, at_model = _energies("contrastive_divergence", energy_fn, x_data, x_model)
    return at_data - at_model


def sampler_energy(energy_fn: EnergyFn, x_model: Example) -> Scalar:
    """Returns E(x_model), whose gradient flows through `x_model` only.

        value E(x_model),   gradient grad_x E(x_model) . d x_model / d parameters

    This is the energy term of KL(q || p), where q is the distribution of the sampler, whose
    gradient `contrastive_divergence` leaves out. The parameters of `energy_fn` get no gradient.

    Args:
        energy_fn: E(x), a scalar for one example.
        x_model: the end of a chain, of which at least the last step is differentiable in the
            parameters. Take that step inside the loss: an `x_model` computed outside it is
            constant and gives no gradient.

    Returns:
        The energy, a scalar.

    References:
        Du et al., arXiv:2012.01316, equation 8 (through the last Langevin step).
    """
    return energy_of_sampler("sampler_energy", energy_fn, x_model=x_model)


def energy_of_sampler(name: str, energy_fn: EnergyFn, **x: Example) -> Scalar:
    """`sampler_energy`, with errors that name the calling loss and its argument."""
    (example,), moving = x.values(), checked_example(name, **x)
    at = jax.lax.stop_gradient(moving)
    checked = checked_energy(name, "energy_fn(x)", energy_fn, example)
    energy, slope = jax.lax.stop_gradient(jax.value_and_grad(checked)(at))
    return energy + jnp.sum(slope * (moving - at))


def nearest_neighbor_entropy(x_model: Example, others: Float[Array, "n *d"]) -> Scalar:
    """Nearest-neighbor (Kozachenko-Leonenko) estimate of the entropy of a sampler.

        d log r + log V_d + (1 + 1/2 + ... + 1/n)

    Here r is the distance from `x_model` to the nearest of the other draws and V_d the volume of
    the unit ball. The mean tends to the entropy -E[log q] as n grows. A loss includes it with a
    minus sign, which drives chains apart. Improved contrastive divergence uses log r alone with
    weight 0.3, which is this estimate with weight 0.3 / d.

    Args:
        x_model: one draw, differentiable through the sampler that drew it.
        others: n other draws of the same distribution, without `x_model` itself (which would give
            -inf). No gradient flows through them. This function couples the examples of a batch.

    Returns:
        The estimate in nats, a scalar.

    Raises:
        ValueError: if `others` is empty or its points do not have the shape of `x_model`.

    References:
        Kozachenko & Leonenko, Problems of Information Transmission 1987; Du et al.,
        arXiv:2012.01316, equation 9.
    """
    n, d = others.shape[0], x_model.size
    if n == 0:
        raise ValueError("`nearest_neighbor_entropy` got no other draws: give at least one.")
    name = "nearest_neighbor_entropy"
    check_shape(name, "others", others, (n, *x_model.shape))
    point, rest = checked_example(name, x_model=x_model), checked_example(name, others=others)
    gaps = (point[None] - jax.lax.stop_gradient(rest)).reshape(n, d)
    log_distance = 0.5 * jnp.log(jnp.min(jnp.sum(gaps**2, axis=1)))
    log_volume = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    return d * log_distance + log_volume + float(np.sum(1 / np.arange(1, n + 1)))


def squared_energies(energy_fn: EnergyFn, x_data: Example, x_model: Example) -> Scalar:
    """Energy regularization for one pair: E(x_data)^2 + E(x_model)^2.

    Contrastive divergence does not determine the constant of E, and lets E grow without bound if
    the chains do not mix. IGEBM adds this penalty with weight 1. No gradient flows through
    `x_model`.

    Args:
        energy_fn: E(x), a scalar for one example.
        x_data: one data example.
        x_model: one sample of the model.

    Returns:
        The penalty, a scalar.

    References:
        Du & Mordatch, arXiv:1903.08689, equation 4.
    """
    at_data, at_model = _energies("squared_energies", energy_fn, x_data, x_model)
    return at_data**2 + at_model**2


def squared_gradient(energy_fn: EnergyFn, x: Example) -> Scalar:
    """Gradient penalty |grad E(x)|^2, which bounds the length of Langevin steps at x.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> float(losses.squared_gradient(lambda x: jnp.sum(x**2) / 2, jnp.array([3.0, 4.0])))
        25.0
    """
    checked = checked_energy("squared_gradient", "energy_fn(x)", energy_fn, x)
    return jnp.sum(jax.grad(checked)(checked_example("squared_gradient", x=x)) ** 2)


def _energies(
    name: str, energy_fn: EnergyFn, x_data: Example, x_model: Example
) -> tuple[Scalar, Scalar]:
    """Returns E at both points of a pair, with no gradient through `x_model`."""
    check_shape(name, "x_model", x_model, x_data.shape)
    at_data, at_model = (
        checked_energy(name, "energy_fn(x)", energy_fn, x)(checked_example(name, **{argument: x}))
        for argument, x in (("x_data", x_data), ("x_model", jax.lax.stop_gradient(x_model)))
    )
    return at_data, at_model
