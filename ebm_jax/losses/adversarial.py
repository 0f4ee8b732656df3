"""Adversarial losses: a generator q is trained to draw samples of the energy-based model.

For every distribution q, log Z >= E_q[-E] + H(q), with equality only at q = p ~ exp(-E).
Maximum likelihood is therefore a saddle-point problem,

    max_E E_data[log p] = max_E min_q { -E_data[E] + E_q[E] - H(q) }.

The energy is trained with `contrastive_divergence(energy_fn, x, x_model)`, where x_model is a
draw of q. The generator minimizes E_q[E] - H(q) = KL(q || p) - log Z; without the entropy it
would collapse onto the lowest energy. The losses here and in `implicit` differ in how they
obtain the gradient of the entropy.

One training step sums the losses of both players; `optax.multi_transform` gives each its own
learning rate:

    def loss(params, key, x):   # params = {"energy": ..., "generator": ...}
        energy_fn = partial(net.apply, params["energy"])
        draw = partial(flow.apply, params["generator"], method="draw_with_log_density")
        x_model, log_q = draw(key)
        return contrastive_divergence(energy_fn, x, x_model) + reverse_kl(energy_fn, x_model, log_q)

One draw serves both players: `contrastive_divergence` has no gradient through x_model, and the
generator's losses have none in the parameters of `energy_fn`. The energy diverges if the
generator lags behind: give the generator the larger learning rate, and Adam a beta1 of at most
0.5.

References:
    Kim & Bengio, arXiv:1606.03439; Kumar et al., arXiv:1901.08508; section 5 of
    Song & Kingma, arXiv:2101.03288.
"""

import jax
from jaxtyping import Array, Float

from ebm_jax._checks import check_scalar
from ebm_jax._precision import level_for
from ebm_jax.losses.contrastive_divergence import energy_of_sampler
from ebm_jax.losses.noise_contrastive import LogDensityFn, logistic_contrast
from ebm_jax.types import EnergyFn, Example, Scalar


def reverse_kl(energy_fn: EnergyFn, x: Example, log_q: Scalar) -> Scalar:
    """Reverse KL loss of a generator: E(x) + log q(x) at one draw x ~ q.

    In expectation this is KL(q || p) - log Z. Its minimum is -log Z, attained with zero variance
    at q = p. The gradient in the generator's parameters flows through x and through `log_q`. If
    `log_q` is computed with the generator's parameters stopped, the gradient has the same mean,
    and zero variance at q = p (arXiv:1703.09194).

    Args:
        energy_fn: E(x); no gradient flows to its parameters.
        x: one draw of q, differentiable in the generator's parameters.
        log_q: log q(x), normalized.

    Returns:
        The generator's loss, a scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import losses, targets
        >>> target = targets.gaussian(jnp.zeros(2), 1.0)
        >>> x = jnp.array([0.3, -1.2])
        >>> log_q = targets.log_density(target)(x)
        >>> round(float(losses.reverse_kl(target.energy, x, log_q)), 3)  # q = p: -log Z at every x
        -1.838
    """
    check_scalar("reverse_kl", log_q=log_q)
    return energy_of_sampler("reverse_kl", energy_fn, x=x) + level_for(x, log_q)


def flow_contrastive(
    energy_fn: EnergyFn,
    log_noise_fn: LogDensityFn,
    x_data: Example,
    x_noise: Float[Array, "nu *d"],
    log_z: float | Scalar,
) -> Scalar:
    """Generator loss of flow-contrastive estimation (FCE): minus `noise_contrastive`.

    The energy learns by `noise_contrastive` against draws of a flow q, and the flow maximizes the
    same loss. For nu = 1 and the optimal energy, the flow's mean loss is
    2 JS(data || q) - 2 log 2, so that energy and flow both converge to the distribution of the
    data. Where the energy separates data from draws perfectly, the flow's gradient vanishes: train
    the flow by maximum likelihood first. Its loss -log q(x_data) may also be added to this one, or
    replace it.

    Args:
        energy_fn: E(x); no gradient flows to its parameters or to `log_z`.
        log_noise_fn: log q(x), normalized, differentiable in the flow's parameters.
        x_data: one data example; batch with `jax.vmap`.
        x_noise: nu draws of q, differentiable in the flow's parameters. For the energy's
            `noise_contrastive`, stop the gradients of these draws and of `log_noise_fn`.
        log_z: the current estimate of log Z.

    Returns:
        The flow's loss, a scalar.

    Raises:
        ValueError: if `x_noise` is empty or its points do not have the shape of `x_data`.

    References:
        Gao et al., arXiv:1912.00589.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import losses, targets
        >>> p = targets.gaussian(jnp.zeros(2), 1.0)
        >>> log_q = targets.log_density(p)  # the flow equals the model
        >>> x, y = jnp.ones(2), jnp.zeros((1, 2))
        >>> round(float(losses.flow_contrastive(p.energy, log_q, x, y, p.log_z)), 3)  # -2 log 2
        -1.386
    """
    name, log_z = "flow_contrastive", jax.lax.stop_gradient(log_z)

    def fixed(x: Example) -> Scalar:
        return energy_of_sampler(name, energy_fn, x=x)

    return -logistic_contrast(name, fixed, log_noise_fn, x_data, x_noise, log_z)
