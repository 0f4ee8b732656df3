"""Energies made of energies.

    product    prod_k p_k(x)^w_k          E = sum_k w_k E_k
    mixture    sum_k w_k exp(-E_k(x))     E = -log sum_k w_k exp(-E_k)
    tempered   p(x)^(1 / T)               E = E / T
    classifier softmax f(x)               E(x, y) = -f(x)_y,  E(x) = -log sum_y exp f(x)_y

Read as logic (arXiv:2004.06030) a product is "and", a mixture "or", and a product with a
negative weight "and not". None of these is normalized, and a product with a negative weight
may have no finite log Z.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ebm_jax._checks import check_positive
from ebm_jax.types import EnergyFn, Example, Scalar


def product(
    energy_fns: Sequence[EnergyFn], weights: Sequence[float | Scalar] | None = None
) -> EnergyFn:
    """The energy sum_k w_k E_k of the product of p_k^w_k: low where all are low.

    Of Gaussians N(m_k, 1 / a_k) it is a Gaussian with precision a = sum w_k a_k and mean
    sum w_k a_k m_k / a. Its score is the same sum of scores.

    Args:
        energy_fns: E_k, at least 1.
        weights: w_k, one for each, 1 by default; a negative one drives away from its E_k,
            and 0 leaves its E_k out, even where that is infinite.

    Raises:
        ValueError: for no energies, or another number of weights.
    """
    powers = _one_for_each("product", "weights", energy_fns, weights, default=1.0)

    def energy(x: Example) -> Scalar:
        terms = [_times(w, e(x)) for w, e in zip(powers, energy_fns, strict=True)]
        return jnp.sum(jnp.stack(terms), 0)

    return energy


def mixture(
    energy_fns: Sequence[EnergyFn],
    weights: Sequence[float | Scalar] | None = None,
    *,
    log_zs: Sequence[float | Scalar] | None = None,
) -> EnergyFn:
    """The energy -log sum_k w_k exp(-E_k - log Z_k) of a mixture: low where any is low.

    Without `log_zs` the weights are those of the unnormalized densities: component k has
    the share w_k Z_k / sum_j w_j Z_j of the mass, whatever was meant. With them it has
    the share w_k / sum_j w_j, and the mixture's own log Z is log sum_j w_j.

    Args:
        energy_fns: E_k, at least 1.
        weights: w_k > 0, one for each, 1 by default; not scaled to sum to 1.
        log_zs: log Z_k = log int exp(-E_k), one for each.

    Raises:
        ValueError: for no energies, another number of weights or of log Z, or a weight
            that is not positive.
    """
    shares = _one_for_each("mixture", "weights", energy_fns, weights, default=1.0)
    shifts = _one_for_each("mixture", "log_zs", energy_fns, log_zs, default=0.0)
    for weight in shares:
        check_positive("mixture", weight=weight)

    def energy(x: Example) -> Scalar:
        parts = zip(energy_fns, shares, shifts, strict=True)
        return -jax.nn.logsumexp(jnp.stack([jnp.log(w) - e(x) - z for e, w, z in parts]), 0)

    return energy


def tempered(energy_fn: EnergyFn, *, temperature: float | Scalar) -> EnergyFn:
    """The energy E / T of p^(1/T): flatter above T = 1, sharper below.

    A Gaussian's variance is multiplied by T.

    Raises:
        ValueError: for a temperature that is not positive.
    """
    check_positive("tempered", temperature=temperature)

    def energy(x: Example) -> Scalar:
        return energy_fn(x) / temperature

    return energy


def energy_from_classifier(
    logits_fn: Callable[[Example], Float[Array, " classes"]],
) -> EnergyFn:
    """The energy -log sum_y exp f(x)_y of the inputs that a classifier is sure of (JEM).

    A classifier's loss does not see a shift of all logits, which is this energy: it has a
    meaning once it is trained as one.

    Args:
        logits_fn: f(x), one number for each class, of one example.

    Returns:
        E(x), which raises a ValueError for logits of another shape.

    References:
        Grathwohl et al., arXiv:1912.03263.
    """

    def energy(x: Example) -> Scalar:
        return -jax.nn.logsumexp(_logits("energy_from_classifier", logits_fn, x))

    return energy


def joint_energy_from_classifier(
    logits_fn: Callable[[Example], Float[Array, " classes"]],
) -> Callable[[Example, int | Int[Array, ""]], Scalar]:
    """E(x, y) = -f(x)_y, the energy of an input and its label: that of x for a fixed y.

    exp(E(x) - E(x, y)) is the classifier's own p(y | x), with E(x) of
    `energy_from_classifier`. A label that is no class has the energy nan.

    Args:
        logits_fn: f(x), one number for each class, of one example.

    Returns:
        E(x, y), which raises a ValueError for logits of another shape.
    """

    def energy(x: Example, label: int | Int[Array, ""]) -> Scalar:
        logits = _logits("joint_energy_from_classifier", logits_fn, x)
        return -logits.at[label].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    return energy


def _times(weight: float | Scalar, energy: Scalar) -> Scalar:
    """Returns weight * energy, and 0 for a weight of 0 even where the energy is infinite."""
    weight = jnp.asarray(weight, energy.dtype)
    return jnp.where(weight == 0, 0, weight * jnp.where(weight == 0, 0, energy))


def _logits(
    name: str, logits_fn: Callable[[Example], Float[Array, " classes"]], x: Example
) -> Float[Array, " classes"]:
    logits = logits_fn(x)
    if logits.ndim != 1 or not logits.size:
        raise ValueError(
            f"`{name}` got logits of shape {logits.shape}, expected (classes,): "
            "functions see one example; batch with jax.vmap."
        )
    return logits


def _one_for_each(
    name: str,
    argument: str,
    energy_fns: Sequence[EnergyFn],
    values: Sequence[float | Scalar] | None,
    *,
    default: float,
) -> Sequence[float | Scalar]:
    if not energy_fns:
        raise ValueError(f"`{name}` got no energies: give at least 1.")
    values = [default] * len(energy_fns) if values is None else values
    if len(values) != len(energy_fns):
        raise ValueError(
            f"`{name}` got {len(energy_fns)} energies and {len(values)} {argument}: "
            "give one for each."
        )
    return values
