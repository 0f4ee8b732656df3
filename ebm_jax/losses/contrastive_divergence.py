"""Maximum likelihood of p(x) = exp(-E(x)) / Z, with draws of the model in the place of Z.

    -grad log p(x) = grad E(x) - E_p[grad E]            gradients in the parameters

`contrastive_divergence` has that gradient in expectation when `x_model` is drawn from p.
A chain of k steps draws from q_k instead, which moves with the parameters too; the part
of the gradient that this leaves out is that of

    KL(q_k || p) = E_q_k[E] - H(q_k) + log Z,

taken through the sampler: `sampler_energy` and minus `nearest_neighbor_entropy` are its
two terms (improved contrastive divergence, arXiv:2012.01316).

Where the chains start is no matter of the loss. The four usual ways:

    CD-k from data            starts = x_data
    CD-k from noise           starts = jax.vmap(draw)(keys)
    persistent (PCD)          starts = draw_starts(draw, key, buffer, batch_size,
                                                   restart_share=0.0).x
    persistent, restarted     the same with a restart_share above 0

with `samplers.draw_starts`; then x_model = the end of k steps of a kernel from each.
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
    """E(x_data) - E(x_model), with no gradient through `x_model`, for one pair.

    Its mean gradient in the parameters of E is that of -log p when x_model ~ p. The
    value is no sign of convergence: at the optimum its mean is 0, and it is 0 as well
    whenever the chains keep up with the energy, however far from the data.

    Args:
        energy_fn: E(x), a scalar for one example.
        x_data: one example of the data.
        x_model: one draw of the model, usually the end of a Markov chain.

    Returns:
        The loss, a scalar. Take the mean over a batch of pairs for a training objective.

    References:
        Hinton, Training products of experts by minimizing contrastive divergence,
        Neural Computation 2002; persistent chains: Tieleman, ICML 2008.
    """
    at_data, at_model = _energies("contrastive_divergence", energy_fn, x_data, x_model)
    return at_data - at_model


def sampler_energy(energy_fn: EnergyFn, x_model: Example) -> Scalar:
    """E(x_model) with the parameters of E held fixed: its gradient flows through x_model alone.

        value E(x_model),   gradient grad_x E(x_model) . d x_model / d parameters

    This is the energy in KL(q || p) of the sampler's law q; the gradient that
    `contrastive_divergence` leaves out. Whatever `energy_fn` closes over is held fixed.

    Args:
        energy_fn: E(x), a scalar for one example.
        x_model: the end of a chain whose last step, or more, was taken with the parameters
            that are differentiated: inside the loss, and not before it. An `x_model`
            without gradient has none here.

    References:
        Du et al., arXiv:2012.01316, equation 8 (through the last Langevin step).
    """
    return energy_of_sampler("sampler_energy", energy_fn, x_model=x_model)


def energy_of_sampler(name: str, energy_fn: EnergyFn, **x: Example) -> Scalar:
    """`sampler_energy`, with errors that name the loss and the argument given to it."""
    (example,), moving = x.values(), checked_example(name, **x)
    at = jax.lax.stop_gradient(moving)
    checked = checked_energy(name, "energy_fn(x)", energy_fn, example)
    energy, slope = jax.lax.stop_gradient(jax.value_and_grad(checked)(at))
    return energy + jnp.sum(slope * (moving - at))


def nearest_neighbor_entropy(x_model: Example, others: Float[Array, "n *d"]) -> Scalar:
    """The entropy of the law of x_model from the distance r to its nearest other draw.

        d log r + log V_d + (1 + 1/2 + ... + 1/n),   V_d the volume of the unit ball

    Its mean tends to -E[log q] as n grows (Kozachenko & Leonenko). Loss terms carry it
    with a minus: chains are driven apart. Improved contrastive divergence takes log r
    alone with weight .3: this with weight .3 / d.

    Args:
        x_model: one draw, with the gradient of the sampler that drew it.
        others: n other draws of the same law, `x_model` itself not among them (that
            would be -inf); no gradient flows through them. This one couples a batch.

    Raises:
        ValueError: if there are no others.

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
    """E(x_data)^2 + E(x_model)^2, a penalty that keeps energies near 0, for one pair.

    Contrastive divergence leaves the constant of E free, and lets E grow without bound
    where chains do not mix; IGEBM adds this with weight 1.

    References:
        Du & Mordatch, arXiv:1903.08689, equation 4.
    """
    at_data, at_model = _energies("squared_energies", energy_fn, x_data, x_model)
    return at_data**2 + at_model**2


def squared_gradient(energy_fn: EnergyFn, x: Example) -> Scalar:
    """|grad E(x)|^2, a penalty that keeps Langevin steps at x of bounded length."""
    checked = checked_energy("squared_gradient", "energy_fn(x)", energy_fn, x)
    return jnp.sum(jax.grad(checked)(checked_example("squared_gradient", x=x)) ** 2)


def _energies(
    name: str, energy_fn: EnergyFn, x_data: Example, x_model: Example
) -> tuple[Scalar, Scalar]:
    """E at both points of a pair, with no gradient through `x_model`."""
    check_shape(name, "x_model", x_model, x_data.shape)
    at_data, at_model = (
        checked_energy(name, "energy_fn(x)", energy_fn, x)(checked_example(name, **{argument: x}))
        for argument, x in (("x_data", x_data), ("x_model", jax.lax.stop_gradient(x_model)))
    )
    return at_data, at_model
