"""Noise-contrastive estimation (NCE): a density is learned by telling data from noise.

With log p(x) = -E(x) - log Z and noise of known, normalized density q, the log-ratio of one
point is

    r(x) = log p(x) - log q(x) = -E(x) - log Z - log q(x).

The losses differ in the classification problem that the log-ratio solves:

    `noise_contrastive`               is this point data or noise? log Z is learned
    `ranking_noise_contrastive`       which of these points is the data? log Z cancels
    `conditional_noise_contrastive`   which point of a pair came first? log Z cancels

The data x and the noise y are arguments: the caller draws the noise. The noise must have
support wherever there are data. Where log q(x) = -inf the classification is trivial and carries
no information about E: the loss at such data is NaN, and `check_noise` reports them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax._checks import check_scalar, check_shape
from ebm_jax._precision import level_for
from ebm_jax.losses.functions import checked_energy, checked_example
from ebm_jax.types import EnergyFn, Example, Scalar

LogDensityFn = Callable[[Example], Scalar]


def noise_contrastive(
    energy_fn: EnergyFn,
    log_noise_fn: LogDensityFn,
    x_data: Example,
    x_noise: Float[Array, "nu *d"],
    log_z: float | Scalar,
) -> Scalar:
    """Noise-contrastive estimation (NCE) of one data point against nu noise points [1, 2].

        loss = softplus(-g(x)) + sum_i softplus(g(y_i)),   g = -E - log_z - log q - log nu

    This is the logistic loss of classifying 1 data point and nu noise points. E and log_z are
    learned together. At the minimum exp(-E - log_z) is the density of the data, hence
    log_z = log int exp(-E(x)) dx, for any nu. A constant in E can be traded for log_z: fix one of
    them if you need the value of the other.

    Its minimum is not zero. If noise and data have the same distribution it is
    (1 + nu) log(1 + nu) - nu log nu, which is 2 log 2 for nu = 1. Any other noise is easier to
    tell from data, and the minimum is lower.

    Args:
        energy_fn: E(x), a scalar for one example.
        log_noise_fn: log q(x), normalized: `targets.log_density` of a target, or the method
            `log_density` of a flow.
        x_data: one data example; batch with `jax.vmap`.
        x_noise: nu independent draws of q.
        log_z: the current estimate of log Z, a parameter to be learned.

    Returns:
        The loss, a scalar; NaN if log q is -inf at a point.

    Raises:
        ValueError: if `x_noise` is empty or its points do not have the shape of `x_data`.

    References:
        [1] Gutmann & Hyvarinen, Noise-contrastive estimation, AISTATS 2010.
        [2] Gutmann & Hyvarinen, Noise-contrastive estimation of unnormalized statistical
            models, JMLR 13, 2012.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import losses, targets
        >>> p = targets.gaussian(jnp.zeros(2), 1.0)
        >>> x, y, log_q = jnp.ones(2), jnp.zeros((1, 2)), targets.log_density(p)
        >>> round(float(losses.noise_contrastive(p.energy, log_q, x, y, p.log_z)), 3)  # 2 log 2
        1.386
    """
    name = "noise_contrastive"
    return logistic_contrast(name, energy_fn, log_noise_fn, x_data, x_noise, log_z)


def logistic_contrast(
    name: str,
    energy_fn: EnergyFn,
    log_noise_fn: LogDensityFn,
    x_data: Example,
    x_noise: Float[Array, "nu *d"],
    log_z: float | Scalar,
) -> Scalar:
    """`noise_contrastive`, with errors that name the loss that was called."""
    data, noise = _log_ratios(name, energy_fn, log_noise_fn, x_data, x_noise)
    check_scalar(name, log_z=log_z)
    offset = level_for(x_data, log_z) + float(np.log(x_noise.shape[0]))
    return jax.nn.softplus(offset - data) + jnp.sum(jax.nn.softplus(noise - offset))


def ranking_noise_contrastive(
    energy_fn: EnergyFn,
    log_noise_fn: LogDensityFn,
    x_data: Example,
    x_noise: Float[Array, "nu *d"],
) -> Scalar:
    """Ranking noise-contrastive estimation (InfoNCE): which of 1 + nu points is the data [1]?

        loss = log sum_{u in x, y_1, ..., y_nu} exp(r(u)) - r(x),   r = -E - log q

    This is the cross-entropy of a softmax; with r a free critic it is InfoNCE [2]. log Z cancels,
    so E is learned up to a constant. For an unconditional model the minimizer is the distribution
    of the data for every nu. The minimum is log(1 + nu) if noise and data have the same
    distribution, and lower for any other noise.

    Args:
        energy_fn: E(x), a scalar for one example.
        log_noise_fn: log q(x); its constant cancels too.
        x_data: one data example; batch with `jax.vmap`.
        x_noise: nu independent draws of q.

    Returns:
        The loss, a scalar; NaN if log q is -inf at a point.

    Raises:
        ValueError: if `x_noise` is empty or its points do not have the shape of `x_data`.

    References:
        [1] Ma & Collins, arXiv:1809.01812.
        [2] van den Oord, Li & Vinyals, arXiv:1807.03748.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import losses, targets
        >>> p = targets.gaussian(jnp.zeros(2), 1.0)
        >>> x, y, log_q = jnp.ones(2), jnp.zeros((3, 2)), targets.log_density(p)
        >>> round(float(losses.ranking_noise_contrastive(p.energy, log_q, x, y)), 3)  # log 4
        1.386
    """
    data, noise = _log_ratios("ranking_noise_contrastive", energy_fn, log_noise_fn, x_data, x_noise)
    return jax.nn.logsumexp(jnp.append(noise, data)) - data


def conditional_noise_contrastive(energy_fn: EnergyFn, x_data: Example, x_noise: Example) -> Scalar:
    """Conditional noise-contrastive estimation: which point of a pair came first [1]?

        loss = softplus(E(x) - E(y)),   y ~ q(y | x) with q(y | x) = q(x | y)

    For instance y = x + sigma n, n ~ N(0, I). The density of the noise is not needed, and log Z
    cancels. The loss is half the objective of [1]. It is log 2 for a constant energy; its minimum,
    at the distribution of the data, is lower. As sigma -> 0 it becomes score matching:

        E[loss] = log 2 + sigma^2 / 4 * E[1/2 |s(x)|^2 + div s(x)] + O(sigma^4),  s = -grad E.

    There the signal is of order sigma^2 and its noise of order sigma. Average over
    y = x + sigma n and y = x - sigma n, which cancels the noise of that order.

    Args:
        energy_fn: E(x), a scalar for one example.
        x_data: one data example x; batch with `jax.vmap`.
        x_noise: one y, drawn given x from a symmetric distribution. For several, take the mean.

    Returns:
        The loss, a scalar.

    References:
        [1] Ceylan & Gutmann, arXiv:1806.03664.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> flat = lambda x: 0.0 * jnp.sum(x)
        >>> x, y = jnp.ones(2), jnp.zeros(2)
        >>> round(float(losses.conditional_noise_contrastive(flat, x, y)), 3)  # log 2
        0.693
    """
    name = "conditional_noise_contrastive"
    check_shape(name, "x_noise", x_noise, x_data.shape)
    energy_fn = checked_energy(name, "energy_fn(x)", energy_fn, x_data)
    first, second = checked_example(name, x_data=x_data), checked_example(name, x_noise=x_noise)
    return jax.nn.softplus(energy_fn(first) - energy_fn(second))


def check_noise(log_noise_fn: LogDensityFn, x_data: Float[Array, "n *d"]) -> None:
    """Raises a ValueError unless the noise has support at every example. Call it outside jit.

    Args:
        log_noise_fn: log q(x) of one example.
        x_data: n data examples.

    Raises:
        ValueError: if log q is not finite at some examples; the message counts them.
    """
    log_q = checked_energy("check_noise", "log_noise_fn(x)", log_noise_fn, x_data)
    points = checked_example("check_noise", x_data=x_data)
    bad = ~np.isfinite(np.asarray(jax.jit(jax.vmap(log_q))(points)))
    if bad.any():
        raise ValueError(
            f"`check_noise` got noise whose log density is not finite at {bad.sum()} of "
            f"{bad.size} examples, first at example {bad.argmax()}: give noise with support "
            "wherever data lie, for instance `targets.fitted_gaussian` of these data."
        )


def _log_ratios(
    name: str,
    energy_fn: EnergyFn,
    log_noise_fn: LogDensityFn,
    x_data: Example,
    x_noise: Array,
) -> tuple[Scalar, Float[Array, " nu"]]:
    """Returns -E - log q at data and noise; NaN, not infinity, where q has no support."""
    if x_noise.shape[:1] == (0,) or x_noise.shape[1:] != x_data.shape:
        expected = "(" + ", ".join(map(str, ("nu", *x_data.shape))) + ")"
        raise ValueError(
            f"`{name}` got x_noise of shape {x_noise.shape} for x_data of shape {x_data.shape}: "
            f"give {expected} with nu at least 1."
        )

    energy_fn = checked_energy(name, "energy_fn(x)", energy_fn, x_data)
    log_noise_fn = checked_energy(name, "log_noise_fn(x)", log_noise_fn, x_data)

    def log_ratio(x: Example) -> Scalar:
        log_q = log_noise_fn(x)
        return jnp.where(jnp.isneginf(log_q), jnp.nan, -energy_fn(x) - log_q)

    data, noise = checked_example(name, x_data=x_data), checked_example(name, x_noise=x_noise)
    return log_ratio(data), jax.vmap(log_ratio)(noise)
