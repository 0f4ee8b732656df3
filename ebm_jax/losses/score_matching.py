"""Score matching: losses whose minimum is the score of the data.

Each returns one example's scalar, summed over dimensions; take the mean of a
`jax.vmap` for a training objective.
"""

import jax
import jax.numpy as jnp

from ebm_jax.types import Example, NoisyScoreFn, PRNGKey, Scalar


def denoising_score_matching(
    score_fn: NoisyScoreFn, key: PRNGKey, x: Example, sigma: Scalar
) -> Scalar:
    """Denoising score matching at one noise level, for one example.

        loss = 1/2 || sigma * s(x + sigma * n, sigma) + n ||^2,   n ~ N(0, I)

    In expectation this is sigma^2 times the Fisher divergence between s(., sigma)
    and the score of the data smoothed by N(0, sigma^2 I), plus a constant [1]. The
    factor sigma^2 keeps the loss of order d at every level [2]. Its minimum is not
    zero: for data N(m, s^2 I) it is d/2 * s^2 / (s^2 + sigma^2).

    Args:
        score_fn: s(x, sigma), returning an array of the shape of `x`.
        key: PRNG key for the one draw of n.
        x: one clean example, of any shape; batch with `jax.vmap`.
        sigma: noise level, positive, in the units of `x`.

    Returns:
        The loss, a scalar. Take the mean over a batch for a training objective.

    References:
        [1] Vincent, A connection between score matching and denoising
            autoencoders, Neural Computation 2011.
        [2] Song & Ermon, arXiv:1907.05600.
    """
    noise = jax.random.normal(key, x.shape, x.dtype)
    score = score_fn(x + sigma * noise, sigma)
    return 0.5 * jnp.sum((sigma * score + noise) ** 2)
