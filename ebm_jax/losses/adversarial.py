"""Adversarial losses: a generator q stands for samples of the energy.

For every law q, log Z >= E_q[-E] + H(q), with equality at q = p ~ exp(-E) alone. Hence the
likelihood is a saddle point,

    max_E E_data[log p] = max_E min_q { -E_data[E] + E_q[E] - H(q) }:

the energy takes `contrastive_divergence(energy_fn, x, x_model)` with x_model drawn from
q, and the generator lowers E_q[E] - H(q) = KL(q || p) - log Z. Without the entropy q
would collapse on the lowest energy; what differs below is how its gradient is had.

One training step sums the losses of both players; `optax.multi_transform` gives them
learning rates of their own:

    def loss(params, key, x):   # params = {"energy": ..., "generator": ...}
        energy_fn = partial(net.apply, params["energy"])
        draw = partial(flow.apply, params["generator"], method="draw_with_log_density")
        x_model, log_q = draw(key)
        return contrastive_divergence(energy_fn, x, x_model) + reverse_kl(energy_fn, x_model, log_q)

One draw serves both: `contrastive_divergence` has no gradient through x_model, and the
generator's losses here have none in what `energy_fn` closes over. The generator must keep
up, or the energy runs away: give it the larger rate, and Adam a beta1 of .5 or less.

References:
    Kim & Bengio, arXiv:1606.03439; Kumar et al., arXiv:1901.08508; section 5 of
    Song & Kingma, arXiv:2101.03288.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.checks import check_count
from ebm_jax.losses.likelihood import sampler_energy
from ebm_jax.losses.noise_contrastive import LogDensityFn, noise_contrastive
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar

Latent = Float[Array, "*latent"]
GeneratorFn = Callable[[Latent], Example]


def reverse_kl(energy_fn: EnergyFn, x: Example, log_q: Scalar) -> Scalar:
    """E(x) + log q(x) at one draw of a generator: KL(q || p) - log Z in expectation.

    Its minimum is -log Z, attained with no variance at q = p. The gradient in the
    generator's parameters flows through x and through `log_q`; pass log q(x) of the
    generator with its parameters stopped, and the mean gradient is the same, its
    variance zero at q = p (arXiv:1703.09194).

    Args:
        energy_fn: E(x); its parameters are held fixed.
        x: one draw of q as a differentiable function of its parameters.
        log_q: log q(x), normalised.

    Returns:
        The generator's loss, a scalar.
    """
    return sampler_energy(energy_fn, x) + log_q


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
    """A loss of the value E(x) with the gradient of E(x) - H(q), for an implicit generator.

        q: x = g(z) + sigma n,   z, n ~ N(0, I)
        grad -H(q) = E_q[ grad_x log q(x) . dx/dphi ]

    The score of q comes from `implicit_score`, its gradient stopped. With the exact score
    the gradient would be that of `reverse_kl` with log q's parameters stopped.

    Args:
        energy_fn: E(x); its parameters are held fixed.
        generator_fn: g(z), of the shape of x.
        key: PRNG key of the proposals.
        x: g(z) + sigma n as a differentiable function of the generator's parameters
            (of sigma too, if it is learned).
        z: the latent that x came from, a draw of N(0, I).
        sigma: the generator's noise level, positive.
        proposal_scale: eta of `implicit_score`.
        num_proposals: proposals of `implicit_score`.

    Returns:
        The generator's loss, a scalar. The energy's is `contrastive_divergence` at this x.

    Raises:
        ValueError: if `num_proposals` is not positive.

    References:
        Grathwohl et al., arXiv:2010.04230.
    """
    score = implicit_score(
        generator_fn,
        key,
        x,
        z,
        sigma=sigma,
        proposal_scale=proposal_scale,
        num_proposals=num_proposals,
    )
    step = x - jax.lax.stop_gradient(x)  # zero, with the derivative of x
    return sampler_energy(energy_fn, x) + jnp.sum(jax.lax.stop_gradient(score) * step)


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
    """grad log q(x) of the law of g(z) + sigma n, by importance sampling around z.

        grad log q(x) = E_{q(z' | x)}[ (g(z') - x) / sigma^2 ]
        z'_i = z + eta n_i,   w_i ~ N(z'_i; 0, I) N(x; g(z'_i), sigma^2 I) / N(n_i; 0, I)

    with weights scaled to sum to one: biased by the inverse of the number of proposals.
    eta should cover the posterior q(z' | x): as eta -> 0 only z itself is left, and
    `vera` has the gradient of the entropy of q(x | z) alone, that of d log sigma.
    `vera_proposal` is a loss that learns it.

    Args:
        generator_fn: g(z), of the shape of x.
        key: PRNG key of the proposals.
        x: one draw of q.
        z: the latent that x came from.
        sigma: the generator's noise level, positive.
        proposal_scale: eta, positive, one for all or one for each entry of z.
        num_proposals: how many z' are weighed, at least 1; 20 in the paper.

    Returns:
        The estimate, of the shape of x.

    Raises:
        ValueError: if `num_proposals` is not positive.
    """
    check_count("implicit_score", num_proposals=num_proposals)

    def weigh(noise: Latent) -> tuple[Scalar, Example]:
        near = z + proposal_scale * noise
        log_weight = _log_joint(generator_fn, x, near, sigma) + 0.5 * jnp.sum(noise**2)
        return log_weight, (generator_fn(near) - x) / sigma**2

    noises = jax.random.normal(key, (num_proposals, *z.shape), z.dtype)
    log_weights, scores = jax.vmap(weigh)(noises)
    return jnp.tensordot(jax.nn.softmax(log_weights), scores, 1)


def vera_proposal(
    generator_fn: GeneratorFn,
    key: PRNGKey,
    x: Example,
    z: Latent,
    *,
    sigma: float | Scalar,
    proposal_scale: Scalar | Latent,
) -> Scalar:
    """The loss of VERA's proposal scale eta: KL(N(z, eta^2 I) || q(z' | x)) and a constant.

        loss = 1/2 |z'|^2 + |x - g(z')|^2 / (2 sigma^2) - sum log eta,   z' = z + eta n

    For g(z) = A z its mean over q is lowest at eta_k^2 = 1 / (1 + (A^T A)_kk / sigma^2).

    Args:
        generator_fn: g(z), with parameters stopped.
        key: PRNG key of n.
        x: one draw of q, its gradient stopped.
        z: the latent that x came from.
        sigma: the generator's noise level, positive; stopped too.
        proposal_scale: eta, positive, one for all or one for each entry of z; learn its
            logarithm.

    Returns:
        The loss, a scalar, without the constants that eta does not move.

    References:
        Grathwohl et al., arXiv:2010.04230.
    """
    near = z + proposal_scale * jax.random.normal(key, z.shape, z.dtype)
    entropy = jnp.sum(jnp.broadcast_to(jnp.log(proposal_scale), z.shape))
    return -_log_joint(generator_fn, x, near, sigma) - entropy


def _log_joint(generator_fn: GeneratorFn, x: Example, z: Latent, sigma: float | Scalar) -> Scalar:
    """log q(x, z) = log N(z; 0, I) + log N(x; g(z), sigma^2 I), without constants."""
    return -0.5 * jnp.sum(z**2) - 0.5 * jnp.sum(((x - generator_fn(z)) / sigma) ** 2)


def flow_contrastive(
    energy_fn: EnergyFn,
    log_noise_fn: LogDensityFn,
    x_data: Example,
    x_noise: Float[Array, "nu *d"],
    log_z: float | Scalar,
) -> Scalar:
    """The flow's loss in flow-contrastive estimation: minus `noise_contrastive`.

    The energy learns by `noise_contrastive` against draws of a flow q; the flow makes
    that question as hard as it can. For nu = 1 and the best energy the flow's mean loss
    is 2 JS(data || q) - 2 log 2, so that both end at the law of the data. Where the energy
    tells all draws apart the flow learns nothing: start it by maximum likelihood,
    -log q(x_data), which may also be added to this or take its place.

    Args:
        energy_fn: E(x); its parameters are held fixed, and so is `log_z`.
        log_noise_fn: log q(x), normalised, as a function of the flow's parameters too.
        x_data: one example of the data; batch with `jax.vmap`.
        x_noise: nu draws of q as differentiable functions of its parameters. For
            `noise_contrastive` stop the gradient of these and of `log_noise_fn`.
        log_z: the current estimate of log Z.

    Returns:
        The flow's loss, a scalar.

    Raises:
        ValueError: from `noise_contrastive`, for noise of another shape.

    References:
        Gao et al., arXiv:1912.00589.
    """
    fixed = partial(sampler_energy, energy_fn)
    return -noise_contrastive(fixed, log_noise_fn, x_data, x_noise, jax.lax.stop_gradient(log_z))
