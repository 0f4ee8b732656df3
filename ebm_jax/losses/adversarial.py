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

import jax
from jaxtyping import Array, Float

from ebm_jax._checks import check_scalar
from ebm_jax._precision import level_for
from ebm_jax.losses.contrastive_divergence import energy_of_sampler
from ebm_jax.losses.noise_contrastive import LogDensityFn, logistic_contrast
from ebm_jax.types import EnergyFn, Example, Scalar


def reverse_kl(energy_fn: EnergyFn, x: Example, log_q: Scalar) -> Scalar:
    """E(x) + log q(x) at one draw of a generator: KL(q || p) - log Z in expectation.

    Its minimum is -log Z, attained with no variance at q = p. The gradient in the
    generator's parameters flows through x and through `log_q`; pass log q(x) of the
    generator with its parameters stopped, and the mean gradient is the same, its
    variance zero at q = p (arXiv:1703.09194).

    Args:
        energy_fn: E(x); its parameters are held fixed.
        x: one draw of q as a differentiable function of its parameters.
        log_q: log q(x), normalized.

    Returns:
        The generator's loss, a scalar.
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
    """The flow's loss in flow-contrastive estimation: minus `noise_contrastive`.

    The energy learns by `noise_contrastive` against draws of a flow q; the flow makes
    that question as hard as it can. For nu = 1 and the best energy the flow's mean loss
    is 2 JS(data || q) - 2 log 2, so that both end at the law of the data. Where the energy
    tells all draws apart the flow learns nothing: start it by maximum likelihood,
    -log q(x_data), which may also be added to this or take its place.

    Args:
        energy_fn: E(x); its parameters are held fixed, and so is `log_z`.
        log_noise_fn: log q(x), normalized, as a function of the flow's parameters too.
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
    name, log_z = "flow_contrastive", jax.lax.stop_gradient(log_z)

    def fixed(x: Example) -> Scalar:
        return energy_of_sampler(name, energy_fn, x=x)

    return -logistic_contrast(name, fixed, log_noise_fn, x_data, x_noise, log_z)
