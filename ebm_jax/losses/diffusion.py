"""Denoising losses for a denoiser D(x, sigma) over many noise levels: NCSN, DDPM, EDM, velocity.

Each is a weighted squared error,

    loss = w(sigma) / 2 * || D(x + sigma n, sigma) - x ||^2,   n ~ N(0, I),

whose minimizer at every level is D = E[x_0 | x_sigma], whatever the weight. The level is an
argument; `noise.draw_*` draw it. Every quantity that a network may predict converts to D (see
`calculus`), and the squared error of each prediction is one of these losses:

    prediction                w(sigma)               loss
    score, times sigma        1 / sigma^2            `noise_conditional`
    noise (DDPM)              1 / sigma^2            `noise_conditional`
    clean example             1                      `clean_prediction`
    velocity                  1 + 1 / sigma^2        `velocity_prediction`
    raw network of EDM        1 / sd^2 + 1 / sigma^2 `edm`
    likelihood, t uniform     -d SNR / dt            `likelihood_weighted`
    likelihood, log-uniform   1 / sigma^2            `noise_conditional`, times a constant
"""

from collections.abc import Callable

import jax.numpy as jnp

from ebm_jax._checks import check_not_negative, check_positive, check_scalar, holds
from ebm_jax._precision import level_for, normal_for, widened
from ebm_jax.losses.functions import checked_example, checked_field, checked_level
from ebm_jax.noise import Process
from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar


def weighted_denoising(
    denoise_fn: DenoiseFn, key: PRNGKey, x: Example, sigma: Scalar, weight: Scalar
) -> Scalar:
    """Weighted squared error of a denoiser at one noise level, for one example.

        loss = weight / 2 * || D(x + sigma n, sigma) - x ||^2,   n ~ N(0, I)

    Its minimum is not zero: for data N(m, s^2 I) it is
    weight / 2 * d * s^2 sigma^2 / (s^2 + sigma^2).

    Args:
        denoise_fn: D(x, sigma), returning an array of the shape of `x`.
        key: PRNG key for the one draw of n.
        x: one clean example, of any shape; batch with `jax.vmap`.
        sigma: noise level, positive, in the units of `x`.
        weight: w(sigma), zero or positive.

    Returns:
        The loss, a scalar.
    """
    check_not_negative("weighted_denoising", weight=weight)
    return _weighted(
        "weighted_denoising", denoise_fn, key, x, sigma, lambda _: level_for(x, weight)
    )


def noise_conditional(denoise_fn: DenoiseFn, key: PRNGKey, x: Example, sigma: Scalar) -> Scalar:
    """Loss of noise-conditional score networks (NCSN) and DDPM at one noise level, for one example.

    This is `weighted_denoising` with weight 1 / sigma^2. It equals `denoising_score_matching`
    (weight sigma^2 on the score) of s = (D - x) / sigma^2, and is of order d / 2 at every level.
    Its minimum for data N(m, s^2 I) is d/2 * s^2 / (s^2 + sigma^2).

    It is also half of DDPM's L_simple, 1/2 |eps(x + sigma n, sigma) - n|^2, for the noise eps that
    follows from D; DDPM draws levels uniformly from `noise.ddpm_levels`. With sigma log-uniform
    between two levels and the result times 2 log(sigma_max / sigma_min), it is the diffusion term
    of the variational bound, in nats: importance sampling of `likelihood_weighted`, with much less
    variance.

    Args:
        denoise_fn: D(x, sigma), returning an array of the shape of `x`.
        key: PRNG key for the one draw of n.
        x: one clean example, of any shape; batch with `jax.vmap`.
        sigma: noise level, positive; for NCSN drawn from a ladder by `noise.draw_uniform`.

    Returns:
        The loss, a scalar.

    References:
        Song & Ermon, arXiv:1907.05600, equations 5 and 6; Ho, Jain & Abbeel, arXiv:2006.11239,
        equation 14; the distribution of sigma: arXiv:2101.09258, arXiv:2107.00630.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> denoise_fn = lambda y, sigma: y / (1 + sigma**2)  # exact for data N(0, I)
        >>> keys, x = jax.random.split(jax.random.key(0), 100_000), jax.random.normal(
        ...     jax.random.key(1), (100_000, 1))
        >>> loss = lambda key, x: losses.noise_conditional(denoise_fn, key, x, jnp.float32(1.0))
        >>> round(float(jax.vmap(loss)(keys, x).mean()), 2)  # d/2 * s^2 / (s^2 + sigma^2)
        0.25
    """
    return _weighted("noise_conditional", denoise_fn, key, x, sigma, lambda s: s**-2)


def edm(
    denoise_fn: DenoiseFn, key: PRNGKey, x: Example, sigma: Scalar, *, sigma_data: float = 0.5
) -> Scalar:
    """Loss of EDM at one noise level, for one example.

    This is `weighted_denoising` with weight (sigma^2 + sd^2) / (sigma sd)^2, which weights the
    raw network under `precondition.edm` equally at all levels. Its minimum for data N(m, sd^2 I)
    is d / 2 at every level.

    Args:
        denoise_fn: D(x, sigma), returning an array of the shape of `x`.
        key: PRNG key for the one draw of n.
        x: one clean example, of any shape; batch with `jax.vmap`.
        sigma: noise level, positive; often drawn by `noise.draw_log_normal`.
        sigma_data: sd, the standard deviation of the data.

    References:
        Karras et al., arXiv:2206.00364, table 1.
    """
    check_positive("edm", sigma_data=sigma_data)

    def weight(level: Scalar) -> Scalar:
        return (level**2 + sigma_data**2) / (level * sigma_data) ** 2

    return _weighted("edm", denoise_fn, key, x, sigma, weight)


def clean_prediction(denoise_fn: DenoiseFn, key: PRNGKey, x: Example, sigma: Scalar) -> Scalar:
    """Squared error of the clean example: `weighted_denoising` with weight 1.

    Its minimum for data N(m, s^2 I) is d/2 * s^2 sigma^2 / (s^2 + sigma^2), so high levels
    dominate.

    Args:
        denoise_fn: D(x, sigma), returning an array of the shape of `x`.
        key: PRNG key for the one draw of n.
        x: one clean example, of any shape; batch with `jax.vmap`.
        sigma: noise level, positive.
    """
    return _weighted("clean_prediction", denoise_fn, key, x, sigma, jnp.ones_like)


def velocity_prediction(denoise_fn: DenoiseFn, key: PRNGKey, x: Example, sigma: Scalar) -> Scalar:
    """Squared error of v-prediction, for one example: weight 1 + 1 / sigma^2.

        loss = 1/2 |v(x_sigma, sigma) - (n - sigma x) / sqrt(1 + sigma^2)|^2

    with the v of `calculus.velocity_from_denoiser`. Its minimum for data N(m, I) is d / 2 at every
    level. It equals `edm` with sigma_data = 1.

    Args:
        denoise_fn: D(x, sigma), returning an array of the shape of `x`.
        key: PRNG key for the one draw of n.
        x: one clean example, of any shape; batch with `jax.vmap`.
        sigma: noise level, positive.

    References:
        Salimans & Ho, arXiv:2202.00512.
    """
    return _weighted("velocity_prediction", denoise_fn, key, x, sigma, lambda s: 1 + s**-2)


def likelihood_weighted(
    denoise_fn: DenoiseFn, key: PRNGKey, x: Example, t: Scalar, *, process: Process
) -> Scalar:
    """Diffusion term of the variational bound in continuous time, for one example.

        loss = (t_max - t_min) g^2 / 2 | s(x_t, t) - grad log p(x_t | x) |^2

    For t uniform on [t_min, t_max], its mean in nats plus a constant is an upper bound on
    -log p(x). In terms of the denoiser the weight is (t_max - t_min) g^2 alpha^2 / sigma^4, which
    is -(t_max - t_min) d(1/level^2)/dt. Near t_min the weight is huge, and so is the variance:
    prefer `noise_conditional` at log-uniform levels, which has the same mean up to its constant.

    Args:
        denoise_fn: D(x, sigma), returning an array of the shape of `x`.
        key: PRNG key for the one draw of n.
        x: one clean example, of any shape; batch with `jax.vmap`.
        t: time, drawn uniformly between the process' t_min and t_max.
        process: the noise process.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: for a concrete t outside the process' times.

    References:
        Song et al., arXiv:2101.09258, theorem 1 and equation 7.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import losses, noise
        >>> process, t = noise.ve(sigma_min=0.01, sigma_max=100.0), jnp.float32(0.3)
        >>> denoise_fn, key, x = lambda y, sigma: y / (1 + sigma**2), jax.random.key(0), jnp.ones(3)
        >>> a = losses.likelihood_weighted(denoise_fn, key, x, t, process=process)
        >>> b = losses.noise_conditional(denoise_fn, key, x, process.level(t))
        >>> round(float(a / b), 2)  # times of `ve` are log-uniform levels: 2 log(100 / 0.01)
        18.42
    """
    name, low, high = "likelihood_weighted", process.t_min, process.t_max
    check_scalar(name, t=t)
    if not holds(lambda t: (low * (1 - 1e-6) <= t) & (t <= high * (1 + 1e-6)), t):
        raise ValueError(f"`{name}` got t={t}: give a time of the process, from {low} to {high}.")
    t = level_for(x, t)
    alpha, sigma = process.alpha(t), process.sigma(t)
    weight = (process.diffusion(t) * alpha / sigma**2) ** 2 * (high - low)
    return _weighted(name, denoise_fn, key, x, sigma / alpha, lambda _: weight)


def uncertainty_weighted(loss: Scalar, log_scale: Scalar) -> Scalar:
    """Loss scaled by a learned log-uncertainty u of its noise level: loss / e^u + u.

    The minimum over u is at u = log E[loss], which makes all levels contribute equally, whatever
    the weight of `loss`. u(sigma) is a small network that is trained along and then discarded.

    Args:
        loss: the loss of one example at a level, not negative.
        log_scale: u(sigma) at that level.

    Returns:
        The weighted loss, a scalar.

    References:
        Karras et al., arXiv:2312.02696, section 2.2 and equation 16; Kendall & Gal,
        arXiv:1703.04977.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> slope = jax.grad(losses.uncertainty_weighted, argnums=1)
        >>> round(float(slope(jnp.float32(2.0), jnp.log(2.0))), 4)  # zero at u = log(loss)
        0.0
    """
    check_scalar("uncertainty_weighted", loss=loss, log_scale=log_scale)
    log_scale = level_for(loss, log_scale)
    return widened(loss) * jnp.exp(-log_scale) + log_scale


def _weighted(
    name: str,
    denoise_fn: DenoiseFn,
    key: PRNGKey,
    x: Example,
    sigma: Scalar,
    weight_fn: Callable[[Scalar], Scalar],
) -> Scalar:
    clean = checked_example(name, x=x)
    level = checked_level(name, x, sigma=sigma)
    denoise_fn = checked_field(name, "denoise_fn(x, sigma)", denoise_fn, x)
    denoised = denoise_fn(clean + level * normal_for(key, x), level)
    return 0.5 * weight_fn(level) * jnp.sum((denoised - clean) ** 2)
