"""Noise contrast: an unnormalized density learned by telling data from noise of a known law.

With log p(x) = -E(x) - log Z and noise of normalized density q, the log-ratio of one
point is

    r(x) = log p(x) - log q(x) = -E(x) - log Z - log q(x),

and the losses differ in the question that it must answer: is this point data or noise
(`noise_contrastive`, where log Z is learned as a number of its own), which of these
points is the data (`ranking_noise_contrastive`), which of a pair came first
(`conditional_noise_contrastive`); in the last two log Z cancels.

Data x and noise y are arguments: the caller draws the noise. Its law must have support
wherever data lie. Where log q(x) = -inf the question answers itself, and no loss could
say what E should be there: the loss of such data is NaN, and `check_noise` says which.
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
    """Noise-contrastive estimation: one data point against its nu noise points [1, 2].

        loss = softplus(-g(x)) + sum_i softplus(g(y_i)),   g = -E - log_z - log q - log nu

    the logistic loss of "data or noise?" among 1 data point and nu of noise. E and log_z
    are learned together: the minimum is where exp(-E - log_z) is the density of the data,
    hence log_z = log int exp(-E(x)) dx, for any nu. A constant in E trades against log_z:
    fix one of them if you read the other.

    Its minimum is not zero. For noise of the law of the data it is
    (1 + nu) log(1 + nu) - nu log nu, that is 2 log 2 for nu = 1; any other noise is told
    more easily, and the minimum is below that.

    Args:
        energy_fn: E(x), a scalar for one example.
        log_noise_fn: log q(x), normalized: `targets.log_density` of a target, of a flow its
            method `log_density`.
        x_data: one example of the data; batch with `jax.vmap`.
        x_noise: nu independent draws of q.
        log_z: the current estimate of log Z, a parameter to be learned.

    Returns:
        The loss, a scalar; NaN if log q is -inf at a point.

    Raises:
        ValueError: if `x_noise` is empty or its points are not of the shape of `x_data`.

    References:
        [1] Gutmann & Hyvarinen, Noise-contrastive estimation, AISTATS 2010.
        [2] Gutmann & Hyvarinen, Noise-contrastive estimation of unnormalized statistical
            models, JMLR 13, 2012.
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
    """Ranking noise-contrastive estimation: which of 1 + nu points is the data [1]?

        loss = log sum_{u in x, y_1, ..., y_nu} exp(r(u)) - r(x),   r = -E - log q

    the cross-entropy of a softmax; with r a free critic it is InfoNCE [2]. Any log Z
    cancels, so E is learned up to a constant. For an unconditional law the minimum is at
    the law of the data for every nu. It is log(1 + nu) for noise of the law of the data,
    and below that for any other.

    Args:
        energy_fn: E(x), a scalar for one example.
        log_noise_fn: log q(x); its constant cancels too.
        x_data: one example of the data; batch with `jax.vmap`.
        x_noise: nu independent draws of q.

    Returns:
        The loss, a scalar; NaN if log q is -inf at a point.

    Raises:
        ValueError: if `x_noise` is empty or its points are not of the shape of `x_data`.

    References:
        [1] Ma & Collins, arXiv:1809.01812.
        [2] van den Oord, Li & Vinyals, arXiv:1807.03748.
    """
    data, noise = _log_ratios("ranking_noise_contrastive", energy_fn, log_noise_fn, x_data, x_noise)
    return jax.nn.logsumexp(jnp.append(noise, data)) - data


def conditional_noise_contrastive(energy_fn: EnergyFn, x_data: Example, x_noise: Example) -> Scalar:
    """Conditional noise-contrastive estimation: which of a pair came first [1]?

        loss = softplus(E(x) - E(y)),   y ~ q(y | x) with q(y | x) = q(x | y)

    for instance y = x + sigma n, n ~ N(0, I): no density of the noise is needed, and log Z
    cancels. The loss is half the objective of [1]. It is log 2 for a constant energy, and
    its minimum at the law of the data is below that. As sigma -> 0 it becomes score
    matching:

        E[loss] = log 2 + sigma^2 / 4 * E[1/2 |s(x)|^2 + div s(x)] + O(sigma^4),  s = -grad E.

    There the signal is of order sigma^2 and its noise of order sigma: mean over
    y = x + sigma n and y = x - sigma n, which cancels that order.

    Args:
        energy_fn: E(x), a scalar for one example.
        x_data: one example x of the data; batch with `jax.vmap`.
        x_noise: one y, drawn given x by a symmetric law. For several, take the mean.

    Returns:
        The loss, a scalar.

    References:
        [1] Ceylan & Gutmann, arXiv:1806.03664.
    """
    name = "conditional_noise_contrastive"
    check_shape(name, "x_noise", x_noise, x_data.shape)
    energy_fn = checked_energy(name, "energy_fn(x)", energy_fn, x_data)
    first, second = checked_example(name, x_data=x_data), checked_example(name, x_noise=x_noise)
    return jax.nn.softplus(energy_fn(first) - energy_fn(second))


def check_noise(log_noise_fn: LogDensityFn, x_data: Float[Array, "n *d"]) -> None:
    """Raise unless a noise law has support at every example; for the door, outside jit.

    Args:
        log_noise_fn: log q(x) of one example.
        x_data: n examples of the data.

    Raises:
        ValueError: if log q is not finite somewhere; it counts the examples.
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
    """-E - log q at data and noise; NaN, not infinity, where q has no support."""
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
