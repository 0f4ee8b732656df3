"""Compositions of energies: products, mixtures, tempered energies, and classifiers (JEM).

    product    prod_k p_k(x)^w_k          E = sum_k w_k E_k
    mixture    sum_k w_k exp(-E_k(x))     E = -log sum_k w_k exp(-E_k)
    tempered   p(x)^(1 / T)               E = E / T
    classifier softmax f(x)               E(x, y) = -f(x)_y,  E(x) = -log sum_y exp f(x)_y

In terms of logic (arXiv:2004.06030), a product is "and", a mixture "or", and a product with a
negative weight "and not". The results are not normalized, and a product with a negative weight
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
    """Product of experts: the energy sum_k w_k E_k of prod_k p_k^w_k, low where all E_k are low.

    For Gaussians N(m_k, 1 / a_k) it is a Gaussian with precision a = sum w_k a_k and mean
    sum w_k a_k m_k / a. Its score is the same sum of scores.

    Args:
        energy_fns: E_k, at least 1.
        weights: w_k, one for each, 1 by default. A negative weight repels from its E_k; a weight
            of 0 leaves its E_k out, even where that is infinite.

    Raises:
        ValueError: if there are no energies, or not one weight for each.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import composition
        >>> energy_fn = composition.product([lambda x: jnp.sum(x**2), lambda x: jnp.sum(x)])
        >>> float(energy_fn(jnp.array([3.0])))
        12.0
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
    """Returns the energy -log sum_k w_k exp(-E_k - log Z_k) of a mixture, low where any E_k is low.

    Without `log_zs`, the weights are those of the unnormalized densities: component k has the
    share w_k Z_k / sum_j w_j Z_j of the mass. With `log_zs` it has the share w_k / sum_j w_j, and
    log Z of the mixture is log sum_j w_j.

    Args:
        energy_fns: E_k, at least 1.
        weights: w_k > 0, one for each, 1 by default; they are not normalized.
        log_zs: log Z_k = log int exp(-E_k), one for each.

    Raises:
        ValueError: if there are no energies, not one weight or log Z for each, or a weight that is
            not positive.
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
    """Returns the energy E / T of p^(1/T): flatter for T > 1, sharper for T < 1.

    The variance of a Gaussian is multiplied by T.

    Args:
        energy_fn: E(x), a scalar for one example.
        temperature: T, positive.

    Raises:
        ValueError: if `temperature` is not positive.
    """
    check_positive("tempered", temperature=temperature)

    def energy(x: Example) -> Scalar:
        return energy_fn(x) / temperature

    return energy


def energy_from_classifier(
    logits_fn: Callable[[Example], Float[Array, " classes"]],
) -> EnergyFn:
    """Returns JEM's energy of the inputs of a classifier, -log sum_y exp f(x)_y.

    The cross-entropy of a classifier does not change if all logits are shifted, but this energy
    does: it is meaningful only if the classifier is also trained as an energy-based model.

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
    """Returns JEM's joint energy of an input and its label, E(x, y) = -f(x)_y.

    For a fixed y it is the energy of x given y. exp(E(x) - E(x, y)) is the classifier's own
    p(y | x), with E(x) from `energy_from_classifier`. For a label that is not a class, the energy
    is NaN.

    Args:
        logits_fn: f(x), one number for each class, of one example.

    Returns:
        E(x, y), which raises a ValueError for logits of another shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import composition
        >>> logits_fn = lambda x: jnp.stack([x[0], 0 * x[0]])
        >>> joint = composition.joint_energy_from_classifier(logits_fn)
        >>> marginal, x = composition.energy_from_classifier(logits_fn), jnp.log(jnp.array([3.0]))
        >>> round(float(jnp.exp(marginal(x) - joint(x, 0))), 4)  # softmax([log 3, 0])[0]
        0.75
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
