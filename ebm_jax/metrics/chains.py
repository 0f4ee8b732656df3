"""MCMC convergence diagnostics: R-hat, effective sample size (ESS) and autocorrelation time.

Draws are m chains of n steps, one number each (arrays are treated entry by entry). Every chain
is first split in halves, so that a drift shows as chains that disagree:

    W = mean of the halves' variances,  B = variance of their means
    V = (n - 1) / n W + B                           V overestimates the variance, W underestimates
    R-hat = sqrt(V / W)                             1 when chains have forgotten their starts
    rho_t = 1 - (W - mean autocovariance at lag t) / V
    tau = 1 + 2 sum_t rho_t,   ESS = m n / tau      variance of the mean: V / ESS

Geyer's initial monotone positive sequence truncates the sum: for a reversible chain, the pairs
rho_2t + rho_2t+1 are positive and decreasing, so pairs that are not are noise. The truncation
changes tau by about .03 in a few thousand draws, which matters only if tau itself is that small
(rho_1 near -1).

Chains that never move are not ignored. If all are at one value, R-hat and ESS are nan; if they
are at different values, R-hat is infinite and every chain counts as one draw. A nan among the
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
Each = Float[Array, "..."]  # one number per entry


def split_r_hat(draws: Draws) -> Each:
    """Returns R-hat of split chains: 1 if they agree, above 1 if they do not.

    It is about 1 for independent draws, and values below 1.01 are usually required. It compares
    means: for distributions without a variance use `rank_r_hat`.

    Args:
        draws: (chains, steps, ...), at least 1 chain of 4 steps, without burn-in.

    Returns:
        One value per entry, of shape (...).

    Raises:
        ValueError: for draws of another shape or fewer steps.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import metrics
        >>> draws = jax.random.normal(jax.random.key(0), (4, 1000))
        >>> bool(metrics.split_r_hat(draws) < 1.01)
        True
        >>> apart = draws + 5 * jnp.arange(4.0)[:, None]  # each chain in a mode of its own
        >>> bool(metrics.split_r_hat(apart) > 2)
        True
    """
    return _r_hat(_halves("split_r_hat", draws))


def rank_r_hat(draws: Draws) -> Each:
    """Returns rank-normalized R-hat, which also detects heavy tails and different scales.

    It is the larger of two values: `split_r_hat` of z = Phi^-1((rank - 3/8) / (m n + 1/4)), and
    the same for |x - median|, which detects chains of equal means and different scales. Tied
    draws get their mean rank.

    Args:
        draws: (chains, steps, ...), at least 1 chain of 4 steps, without burn-in.

    Returns:
        One value per entry, of shape (...).

    Raises:
        ValueError: for draws of another shape or fewer steps.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import metrics
        >>> draws = jax.random.normal(jax.random.key(0), (2, 1000))
        >>> scaled = draws * jnp.array([[1.0], [10.0]])  # equal means, different scales
        >>> bool(jax.jit(metrics.rank_r_hat)(scaled) > 1.2)
        True
    """
    halves = _halves("rank_r_hat", draws)
    folded = jnp.abs(halves - jnp.median(halves, (0, 1), keepdims=True))
    return jnp.maximum(_r_hat(_normal_scores(halves)), _r_hat(_normal_scores(folded)))


def effective_sample_size(draws: Draws) -> Each:
    """Returns the number of independent draws whose mean has the same error as that of these.

    For an autoregression x' = rho x + noise it is m n (1 - rho) / (1 + rho). That is above m n
    for negative rho; the estimate is capped at m n log10(m n) (arXiv:1903.08008).

    Args:
        draws: (chains, steps, ...), at least 1 chain of 4 steps, without burn-in.

    Returns:
        ESS per entry, of shape (...). A mean over draws has the standard error
        sqrt(variance / ESS).

    Raises:
        ValueError: for draws of another shape or fewer steps.

    Examples:
        Repeating every draw ten times adds no information.

        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import metrics
        >>> draws = jnp.repeat(jax.random.normal(jax.random.key(0), (4, 1000)), 10, axis=1)
        >>> draws.size, bool(3000 < jax.jit(metrics.effective_sample_size)(draws) < 5000)
        (40000, True)
    """
    tau = _geyer("effective_sample_size", draws)
    return float(draws.shape[0] * draws.shape[1]) / tau


def integrated_autocorrelation(draws: Draws) -> Each:
    """Returns the autocorrelation time tau = 1 + 2 sum_t rho_t: steps per independent draw.

    It is 1 for independent draws, (1 + rho) / (1 - rho) for an autoregression with coefficient
    rho, and always m n / `effective_sample_size`.

    Args:
        draws: (chains, steps, ...), at least 1 chain of 4 steps, without burn-in.

    Returns:
        tau per entry, of shape (...).

    Raises:
        ValueError: for draws of another shape or fewer steps.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import metrics
        >>> draws = jnp.repeat(jax.random.normal(jax.random.key(0), (4, 1000)), 10, axis=1)
        >>> bool(8 < jax.jit(metrics.integrated_autocorrelation)(draws) < 12)
        True
    """
    return _geyer("integrated_autocorrelation", draws)


def _halves(name: str, draws: Draws) -> Array:
    """Returns both halves of each chain as chains; an odd number of steps drops the middle one."""
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
    """Returns W, B and the draws minus their chain's mean (exactly 0 if a chain never moves)."""
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
    """Returns tau by the initial monotone positive sequence, at least 1 / log10(m n)."""
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
    """Returns sum_i x_i x_{i + t} / n at every lag t of axis 1, by the Wiener-Khinchin theorem."""
    n = centered.shape[1]
    spectrum = jnp.abs(jnp.fft.rfft(centered, 2 * n, axis=1)) ** 2
    return jnp.fft.irfft(spectrum, 2 * n, axis=1)[:, :n] / n


def _normal_scores(x: Array) -> Array:
    count = x.shape[0] * x.shape[1]
    ranks = rankdata(x.reshape(count, *x.shape[2:]), axis=0).reshape(x.shape)
    return ndtri((ranks - 0.375) / (count + 0.25)).astype(x.dtype)
