"""Losses of a denoiser D(x, sigma) over many noise levels.

Each is a weighting of one squared error,

    loss = w(sigma) / 2 * || D(x + sigma n, sigma) - x ||^2,   n ~ N(0, I),

whose minimum at every level is D = E[x_0 | x_sigma], whatever the weight. A level is
an argument; `noise.draw_*` draw it.
"""

import jax
import jax.numpy as jnp

from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar


def weighted_denoising(
    denoise_fn: DenoiseFn, key: PRNGKey, x: Example, sigma: Scalar, weight: Scalar
) -> Scalar:
    """The squared error of a denoiser at one level, times `weight` / 2, for one example.

    Its minimum is not zero: for data N(m, s^2 I) it is
    weight / 2 * d * s^2 sigma^2 / (s^2 + sigma^2).

    Args:
        denoise_fn: D(x, sigma), returning an array of the shape of `x`.
        key: PRNG key for the one draw of n.
        x: one clean example, of any shape; batch with `jax.vmap`.
        sigma: noise level, positive, in the units of `x`.
        weight: w(sigma), positive.

    Returns:
        The loss, a scalar.
    """
    noise = jax.random.normal(key, x.shape, x.dtype)
    denoised = denoise_fn(x + sigma * noise, sigma)
    return 0.5 * weight * jnp.sum((denoised - x) ** 2)


def noise_conditional(denoise_fn: DenoiseFn, key: PRNGKey, x: Example, sigma: Scalar) -> Scalar:
    """The objective of noise-conditional score networks at one level, for one example.

    `weighted_denoising` with weight 1 / sigma^2, which is `denoising_score_matching`
    (weight sigma^2 on the score) of s = (D - x) / sigma^2: of order d / 2 at every
    level. Its minimum for data N(m, s^2 I) is d/2 * s^2 / (s^2 + sigma^2).

    Args:
        denoise_fn: D(x, sigma), returning an array of the shape of `x`.
        key: PRNG key for the one draw of n.
        x: one clean example, of any shape; batch with `jax.vmap`.
        sigma: noise level, positive; drawn from a ladder by `noise.draw_uniform`.

    References:
        Song & Ermon, arXiv:1907.05600, equations 5 and 6.
    """
    return weighted_denoising(denoise_fn, key, x, sigma, sigma**-2)


def edm(
    denoise_fn: DenoiseFn, key: PRNGKey, x: Example, sigma: Scalar, *, sigma_data: float = 0.5
) -> Scalar:
    """The objective of EDM at one level, for one example.

    `weighted_denoising` with weight (sigma^2 + sd^2) / (sigma sd)^2, which weighs the
    raw network under `precondition.edm` equally at all levels. Its minimum for data
    N(m, sd^2 I) is d / 2 at every level.

    Args:
        denoise_fn: D(x, sigma), returning an array of the shape of `x`.
        key: PRNG key for the one draw of n.
        x: one clean example, of any shape; batch with `jax.vmap`.
        sigma: noise level, positive; often drawn by `noise.draw_log_normal`.
        sigma_data: sd, the standard deviation of the data.

    References:
        Karras et al., arXiv:2206.00364, table 1.
    """
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    return weighted_denoising(denoise_fn, key, x, sigma, weight)
