"""VERA: adversarial losses for an implicit generator, whose density is unknown.

    q: x = g(z) + sigma n,   z, n ~ N(0, I)

The module `adversarial` states the saddle-point problem that energy and generator share.

References:
    Grathwohl et al., arXiv:2010.04230.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax._checks import check_all_positive, check_count, check_shape
from ebm_jax._precision import level_for, normal_for
from ebm_jax.losses.contrastive_divergence import energy_of_sampler
from ebm_jax.losses.functions import checked, checked_example, checked_level
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar

Latent = Float[Array, "*latent"]
GeneratorFn = Callable[[Latent], Example]


def vera(
    energy_fn: EnergyFn,
    generator_fn: GeneratorFn,
    key: PRNGKey,
    x: Example,
    z: Latent,
    *,
    sigma: float | Scalar,
    proposal_scale: float | Scalar | Latent,
    num_proposals: int,
) -> Scalar:
    """VERA's generator loss: the value E(x) with the gradient of E(x) - H(q).

        q: x = g(z) + sigma n,   z, n ~ N(0, I)
        grad -H(q) = E_q[ grad_x log q(x) . dx/dphi ]

    The score of q is estimated by `implicit_score`, without gradient. With the exact score the
    gradient would be that of `reverse_kl` with the parameters of log q stopped.

    Args:
        energy_fn: E(x); no gradient flows to its parameters.
        generator_fn: g(z), of the shape of x.
        key: PRNG key of the proposals.
        x: g(z) + sigma n, differentiable in the generator's parameters (and in sigma, if it is
            learned).
        z: the latent that x was generated from, a draw of N(0, I).
        sigma: the generator's noise level, positive.
        proposal_scale: eta of `implicit_score`.
        num_proposals: number of proposals of `implicit_score`, at least 1.

    Returns:
        The generator's loss, a scalar. The energy's loss is `contrastive_divergence` at this x.

    Raises:
        ValueError: if `num_proposals` is not positive.

    References:
        Grathwohl et al., arXiv:2010.04230.
    """
    parts = _checked("vera", generator_fn, x, z, sigma, proposal_scale)
    score = _importance_score("vera", key, parts, num_proposals)
    step = parts.x - jax.lax.stop_gradient(parts.x)  # zero in value, with the derivative of x
    energy = energy_of_sampler("vera", energy_fn, x=x)
    return energy + jnp.sum(jax.lax.stop_gradient(score) * step)


def implicit_score(
    generator_fn: GeneratorFn,
    key: PRNGKey,
    x: Example,
    z: Latent,
    *,
    sigma: float | Scalar,
    proposal_scale: float | Scalar | Latent,
    num_proposals: int,
) -> Example:
    """Estimates grad log q(x) of x = g(z) + sigma n by importance sampling around z.

        grad log q(x) = E_{q(z' | x)}[ (g(z') - x) / sigma^2 ]
        z'_i = z + eta n_i,   w_i ~ N(z'_i; 0, I) N(x; g(z'_i), sigma^2 I) / N(n_i; 0, I)

    The weights w_i are normalized to sum to one, which gives a bias of the order of one over the
    number of proposals. Choose eta large enough to cover the posterior q(z' | x). As eta -> 0 only
    z itself is left: `vera` then has the entropy gradient of q(x | z), which is only that of
    d log sigma. `vera_proposal` is a loss for learning eta.

    Args:
        generator_fn: g(z), of the shape of x.
        key: PRNG key of the proposals.
        x: one draw of q.
        z: the latent that x was generated from.
        sigma: the generator's noise level, positive.
        proposal_scale: eta, positive: one for all entries of z or one for each.
        num_proposals: number of proposals z', at least 1; 20 in the paper.

    Returns:
        The estimate, of the shape of x.

    Raises:
        ValueError: if `num_proposals` is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> x, z = jnp.ones(1), jnp.zeros(1)  # g(z) = z and sigma = 1 give q = N(0, 2)
        >>> score = losses.implicit_score(lambda z: z, jax.random.key(0), x, z, sigma=1.0,
        ...                               proposal_scale=1.0, num_proposals=100_000)
        >>> round(float(score[0]), 1)  # -x / 2
        -0.5
    """
    parts = _checked("implicit_score", generator_fn, x, z, sigma, proposal_scale)
    return _importance_score("implicit_score", key, parts, num_proposals)


def vera_proposal(
    generator_fn: GeneratorFn,
    key: PRNGKey,
    x: Example,
    z: Latent,
    *,
    sigma: float | Scalar,
    proposal_scale: Scalar | Latent,
) -> Scalar:
    """Loss of VERA's proposal scale eta: KL(N(z, eta^2 I) || q(z' | x)) up to a constant.

        loss = 1/2 |z'|^2 + |x - g(z')|^2 / (2 sigma^2) - sum log eta,   z' = z + eta n

    For g(z) = A z, its mean over q is minimal at eta_k^2 = 1 / (1 + (A^T A)_kk / sigma^2).

    Args:
        generator_fn: g(z), with its parameters stopped.
        key: PRNG key of n.
        x: one draw of q, with its gradient stopped.
        z: the latent that x was generated from.
        sigma: the generator's noise level, positive, with its gradient stopped.
        proposal_scale: eta, positive: one for all entries of z or one for each. Learn its
            logarithm.

    Returns:
        The loss, a scalar, without terms that do not depend on eta.

    References:
        Grathwohl et al., arXiv:2010.04230.
    """
    parts = _checked("vera_proposal", generator_fn, x, z, sigma, proposal_scale)
    near = parts.z + parts.proposal_scale * normal_for(key, z)
    entropy = jnp.sum(jnp.broadcast_to(jnp.log(parts.proposal_scale), z.shape))
    return -_log_joint(parts, near) - entropy


class _Generator(NamedTuple):
    """The checked arguments of a loss of an implicit generator, in the loss's precision."""

    generator_fn: GeneratorFn
    x: Example
    z: Latent
    sigma: Scalar
    proposal_scale: Scalar | Latent


def _checked(
    name: str,
    generator_fn: GeneratorFn,
    x: Example,
    z: Latent,
    sigma: float | Scalar,
    proposal_scale: float | Scalar | Latent,
) -> _Generator:
    at, latent = checked_example(name, x=x), checked_example(name, z=z)
    level, scale = checked_level(name, x, sigma=sigma), level_for(z, proposal_scale)
    check_all_positive(name, proposal_scale=proposal_scale)
    if scale.shape:
        check_shape(name, "proposal_scale", scale, z.shape)
    return _Generator(
        checked(name, "generator_fn(z)", generator_fn, z, x.shape), at, latent, level, scale
    )


def _importance_score(name: str, key: PRNGKey, parts: _Generator, num_proposals: int) -> Example:
    check_count(name, num_proposals=num_proposals)
    generator_fn, x, z, sigma, proposal_scale = parts

    def weigh(noise: Latent) -> tuple[Scalar, Example]:
        near = z + proposal_scale * noise
        log_weight = _log_joint(parts, near) + 0.5 * jnp.sum(noise**2)
        return log_weight, (generator_fn(near) - x) / sigma**2

    noises = jax.random.normal(key, (num_proposals, *z.shape), z.dtype)
    log_weights, scores = jax.vmap(weigh)(noises)
    return jnp.tensordot(jax.nn.softmax(log_weights), scores, 1)


def _log_joint(parts: _Generator, z: Latent) -> Scalar:
    """Returns log q(x, z) = log N(z; 0, I) + log N(x; g(z), sigma^2 I), without constants."""
    gap = (parts.x - parts.generator_fn(z)) / parts.sigma
    return -0.5 * jnp.sum(z**2) - 0.5 * jnp.sum(gap**2)
