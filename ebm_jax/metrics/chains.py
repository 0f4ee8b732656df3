"""How much chains tell: mixing across chains, and independent draws they are worth.

Draws of m chains of n steps, one number each (arrays: entry by entry); every chain is
split in halves first, so that a drift looks like chains that disagree:

    W = mean of the halves' variances,  B = variance of their means
    V = (n - 1) / n W + B                           a variance from above, W one from below
    R-hat = sqrt(V / W)                             1 when chains have forgotten their starts
    rho_t = 1 - (W - mean autocovariance at lag t) / V
    tau = 1 + 2 sum_t rho_t,   ESS = m n / tau      variance of the mean: V / ESS

with the sum cut by Geyer's initial monotone positive sequence: pairs rho_2t + rho_2t+1 are
positive and fall for a reversible chain, so that what does not is noise. The cut costs tau
about .03 in a few thousand draws: little, unless tau itself is as small (rho_1 near -1).

Chains that never move are not passed over: all at one value, both figures are nan; at
values of their own, R-hat is infinite and every chain is worth one draw. A nan among the
draws gives nan.

References:
    Vehtari et al., arXiv:1903.08008; Geyer, Practical Markov chain Monte Carlo, 1992.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jax.scipy.stats import rankdata
from jaxtyping import Array, Float, Shaped

from ebm_jax._precision import check_numbers, narrowed

Draws = Shaped[np.ndarray, "_ _ ..."] | Shaped[Array, "_ _ ..."]  # (chains, steps, ...)
Each = Float[Array, "..."]  # a number for every entry


def split_r_hat(draws: Draws) -> Each:
    """R-hat of split chains: 1 where they agree, above 1 where they do not.

    For independent draws it is about 1; below 1.01 is the usual demand. It compares
    means: for laws without a variance take `rank_r_hat`.

    Args:
        draws: at least 4 steps of one chain or more, burn-in left out.

    Raises:
        ValueError: for draws of another shape or fewer steps.
    """
    return _r_hat(_halves("split_r_hat", draws))


def rank_r_hat(draws: Draws) -> Each:
    """R-hat of split chains on normal scores: it sees heavy tails, and scales that differ.

    The larger of two: `split_r_hat` of z = Phi^-1((rank - 3/8) / (m n + 1/4)), and of
    the same for |x - median|, which chains of one mean and unlike scales do not pass.
    Ties share their mean rank.

    Args:
        draws: at least 4 steps of one chain or more, burn-in left out.

    Raises:
        ValueError: for draws of another shape or fewer steps.
    """
    halves = _halves("rank_r_hat", draws)
    folded = jnp.abs(halves - jnp.median(halves, (0, 1), keepdims=True))
    return jnp.maximum(_r_hat(_normal_scores(halves)), _r_hat(_normal_scores(folded)))


def effective_sample_size(draws: Draws) -> Each:
    """The number of independent draws whose mean is as exact as that of these.

    For an autoregression x' = rho x + noise it is m n (1 - rho) / (1 + rho): above m n
    for negative rho, where no more than m n log10(m n) is claimed (arXiv:1903.08008).

    Args:
        draws: at least 4 steps of one chain or more, burn-in left out.

    Returns:
        ESS for every entry; means have the standard error sqrt(variance / ESS).

    Raises:
        ValueError: for draws of another shape or fewer steps.
    """
    tau = _geyer("effective_sample_size", draws)
    return float(draws.shape[0] * draws.shape[1]) / tau


def integrated_autocorrelation(draws: Draws) -> Each:
    """tau = 1 + 2 sum_t rho_t: the steps that one independent draw costs.

    (1 + rho) / (1 - rho) for an autoregression with coefficient rho, 1 for independent
    draws, and m n / `effective_sample_size` always.

    Args:
        draws: at least 4 steps of one chain or more, burn-in left out.

    Raises:
        ValueError: for draws of another shape or fewer steps.
    """
    return _geyer("integrated_autocorrelation", draws)


def _halves(name: str, draws: Draws) -> Array:
    """First and second halves as chains of their own; the middle one of odd steps is left out."""
    if draws.ndim < 2 or draws.shape[0] < 1 or draws.shape[1] < 4:
        raise ValueError(
            f"`{name}` got draws of shape {draws.shape}: "
            "give (chains, steps) or (chains, steps, ...) with at least 4 steps."
        )
    check_numbers(name, draws=draws)
    chains, steps, *shape = draws.shape
    (moved,) = narrowed(draws.reshape(chains * steps, *shape))
    moved, n = moved.reshape(draws.shape), steps // 2
    return jnp.concatenate([moved[:, :n], moved[:, -n:]])


def _variances(x: Array) -> tuple[Array, Array, Array]:
    """W, B and the draws about their chain's mean, exactly 0 in a chain that never moves."""
    start = x[:, :1]
    moved = x - start
    mean = jnp.mean(moved, 1, keepdims=True)
    centered = moved - mean
    within = jnp.mean(jnp.sum(centered**2, 1), 0) / (x.shape[1] - 1)
    between = jnp.var(start - start[:1] + mean, (0, 1), ddof=1)
    return within, between, centered


def _r_hat(x: Array) -> Array:
    within, between, _ = _variances(x)
    n = x.shape[1]
    return jnp.sqrt((n - 1) / n + between / within)


def _geyer(name: str, draws: Draws) -> Array:
    """tau by the initial monotone positive sequence, no less than 1 / log10(m n)."""
    halves = _halves(name, draws)
    n = halves.shape[1]
    within, between, centered = _variances(halves)
    lacking = within[None] - jnp.mean(_autocovariance(centered), 0)
    rho = (1 - lacking / ((n - 1) / n * within + between)[None]).at[0].set(1.0)
    pairs = rho[: n - n % 2 : 2] + rho[1::2]
    trusted = jnp.cumprod(pairs > 0, axis=0, dtype=pairs.dtype)
    tau = 2 * jnp.sum(trusted * jax.lax.cummin(pairs), 0) - 1
    return jnp.maximum(tau, 1 / math.log10(draws.shape[0] * draws.shape[1]))


def _autocovariance(centered: Array) -> Array:
    """sum_i x_i x_{i + t} / n at every lag t of axis 1, by the Wiener-Khinchin theorem."""
    n = centered.shape[1]
    spectrum = jnp.abs(jnp.fft.rfft(centered, 2 * n, axis=1)) ** 2
    return jnp.fft.irfft(spectrum, 2 * n, axis=1)[:, :n] / n


def _normal_scores(x: Array) -> Array:
    count = x.shape[0] * x.shape[1]
    ranks = rankdata(x.reshape(count, *x.shape[2:]), axis=0).reshape(x.shape)
    return ndtri((ranks - 0.375) / (count + 0.25)).astype(x.dtype)
