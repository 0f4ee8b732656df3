"""Gaussians and Gaussian mixtures, with everything in closed form, also when smoothed."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax._checks import check_all_positive
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar, ScoreFn


class Target(NamedTuple):
    """A distribution: how to draw from it, and what is known of its density.

    Attributes:
        draw: draws one example from a key.
        energy: E(x), or None if no density is known.
        score: -grad E(x), or None if it does not exist or is not known.
        log_z: log int exp(-E(x)) dx of that energy, or None.
        smoothed: returns the target convolved with N(0, sigma^2 I) for a sigma > 0, or None.
    """

    draw: Callable[[PRNGKey], Example]
    energy: EnergyFn | None = None
    score: ScoreFn | None = None
    log_z: float | None = None
    smoothed: Callable[[float], "Target"] | None = None


def log_density(law: Target) -> Callable[[Example], Scalar]:
    """Returns log p(x) = -E(x) - log Z of a target whose energy and log Z are known.

    Raises:
        ValueError: if the target's energy or log Z is None.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import targets
        >>> log_p = targets.log_density(targets.gaussian(jnp.zeros(2), 1.0))
        >>> round(float(log_p(jnp.zeros(2))), 3)  # -log(2 pi)
        -1.838
    """
    energy, log_z = law.energy, law.log_z
    if energy is None or log_z is None:
        raise ValueError("`log_density` got a target without energy or log Z: it has no density.")
    return lambda x: -energy(x) - log_z


def gaussian(mean: Example, scale: Example | float) -> Target:
    """Gaussian with independent coordinates, N(mean, diag(scale^2)).

    E = 1/2 |(x - mean) / scale|^2, log Z = d/2 log(2 pi) + sum log scale.

    Args:
        mean: the mean, which sets the shape of an example.
        scale: the standard deviation, one for all coordinates or one for each; positive.

    Raises:
        ValueError: if a scale is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import targets
        >>> target = targets.gaussian(jnp.zeros(2), 3.0).smoothed(4.0)
        >>> round(float(target.score(jnp.ones(2))[0]), 3)  # -x / (3^2 + 4^2)
        -0.04
    """
    mean = jnp.asarray(mean, jnp.float32)
    scale = jnp.broadcast_to(jnp.asarray(scale, jnp.float32), mean.shape)
    check_all_positive("gaussian", scale=scale)
    return Target(
        draw=lambda key: mean + scale * jax.random.normal(key, mean.shape),
        energy=lambda x: 0.5 * jnp.sum(((x - mean) / scale) ** 2),
        score=lambda x: (mean - x) / scale**2,
        log_z=float(0.5 * mean.size * np.log(2 * np.pi) + jnp.sum(jnp.log(scale))),
        smoothed=lambda sigma: gaussian(mean, jnp.sqrt(scale**2 + sigma**2)),
    )


def fitted_gaussian(x: Float[Array, "n d"]) -> Target:
    """Maximum-likelihood Gaussian of data, with their mean and full covariance.

        E = 1/2 |L^-1 (x - m)|^2,   L L^T = 1/n sum_i (x_i - m)(x_i - m)^T

    log Z = d/2 log(2 pi) + log det L. The factor L is computed in double precision.

    Args:
        x: n examples that span d dimensions, so at least d + 1.

    Raises:
        ValueError: if an example is not finite, or the covariance is singular.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import targets
        >>> target = targets.fitted_gaussian(jnp.array([[-1.0], [3.0]]))
        >>> float(target.score(jnp.zeros(1))[0])  # mean 1, variance 4
        0.25
    """
    points = np.asarray(x, np.float64)
    bad = int((~np.isfinite(points).all(-1)).sum())
    if bad:
        raise ValueError(
            f"`fitted_gaussian` got {bad} of {len(points)} examples that are not finite: drop them."
        )
    covariance = np.atleast_2d(np.cov(points, rowvar=False, bias=True))
    spread = np.linalg.eigvalsh(covariance)
    if not spread[0] > 1e-10 * spread[-1]:
        n, d = points.shape
        raise ValueError(
            f"`fitted_gaussian` got {n} examples of {d} entries whose covariance is singular "
            f"(eigenvalues {spread[0]:.2g} to {spread[-1]:.2g}): give at least {d + 1} examples, "
            "and drop or add noise to entries that the others determine."
        )
    return _correlated_gaussian(points.mean(0), covariance)


def _correlated_gaussian(mean: np.ndarray, covariance: np.ndarray) -> Target:
    d, factor = len(mean), np.linalg.cholesky(covariance)
    center, scale = jnp.float32(mean), jnp.float32(factor)
    whiten = jnp.float32(np.linalg.inv(factor))
    return Target(
        draw=lambda key: center + scale @ jax.random.normal(key, (d,)),
        energy=lambda x: 0.5 * jnp.sum((whiten @ (x - center)) ** 2),
        score=lambda x: whiten.T @ (whiten @ (center - x)),
        log_z=float(0.5 * d * np.log(2 * np.pi) + np.log(np.diag(factor)).sum()),
        smoothed=lambda sigma: _correlated_gaussian(mean, covariance + sigma**2 * np.eye(d)),
    )


def gaussian_mixture(
    means: Float[Array, "k d"],
    scales: Float[Array, " k"] | float,
    weights: Float[Array, " k"] | None = None,
) -> Target:
    """Mixture of k isotropic Gaussians, with energy and score in closed form.

        E = -log sum_k w_k scale_k^-d exp(-|x - m_k|^2 / (2 scale_k^2))

    so that log Z = d/2 log(2 pi). Components and coordinates are unrolled, so that a batch of
    chains compiles to one fused loop. The program grows with k d: keep k d below 1,000.

    Args:
        means: m_k.
        scales: scale_k, positive: one for all components or one for each.
        weights: w_k, positive; normalized to sum to 1; equal by default.

    Raises:
        ValueError: if a scale or weight is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import targets
        >>> target = targets.gaussian_mixture(jnp.array([[-2.0], [2.0]]), 0.5)
        >>> float(target.score(jnp.zeros(1))[0])  # the score vanishes between two equal modes
        0.0
    """
    means = jnp.asarray(means, jnp.float32)
    k, d = means.shape
    scales = jnp.broadcast_to(jnp.asarray(scales, jnp.float32), (k,))
    weights = jnp.ones(k) if weights is None else jnp.asarray(weights, jnp.float32)
    check_all_positive("gaussian_mixture", scales=scales, weights=weights)
    log_weights = jnp.log(weights / weights.sum())
    energy, score = _mixture_formulas(log_weights - d * jnp.log(scales), scales**-2, means)

    def draw(key: PRNGKey) -> Example:
        key_component, key_noise = jax.random.split(key)
        i = jax.random.categorical(key_component, log_weights)
        return means[i] + scales[i] * jax.random.normal(key_noise, (d,))

    return Target(
        draw=draw,
        energy=energy,
        score=score,
        log_z=float(0.5 * d * np.log(2 * np.pi)),
        smoothed=lambda sigma: gaussian_mixture(means, jnp.sqrt(scales**2 + sigma**2), weights),
    )


def _mixture_formulas(
    log_heights: Float[Array, " k"], precisions: Float[Array, " k"], means: Float[Array, "k d"]
) -> tuple[EnergyFn, ScoreFn]:
    """Returns energy and score for log-heights h, precisions p and means m, unrolled to scalars.

        E = -log sum_k exp(h_k - p_k / 2 |x - m_k|^2),   s = sum_k r_k p_k (m_k - x)

    where r_k is the share of component k in the sum. Each function takes one exp per component.
    """
    heights = [float(h) for h in log_heights]
    widths = [float(p) for p in precisions]
    centers = [[float(c) for c in mean] for mean in means]

    def components(x: Example) -> tuple[Scalar, list[Scalar]]:
        xs = list(x)
        logs = [
            h - 0.5 * p * sum((xj - c) ** 2 for xj, c in zip(xs, center, strict=True))
            for h, p, center in zip(heights, widths, centers, strict=True)
        ]
        top = jax.lax.stop_gradient(jax.tree.reduce(jnp.maximum, logs))  # cancels exactly
        return top, [jnp.exp(log - top) for log in logs]

    def energy(x: Example) -> Scalar:
        top, shares = components(x)
        return -top - jnp.log(sum(shares))

    def score(x: Example) -> Example:
        _, shares = components(x)
        pulls = [share * p for share, p in zip(shares, widths, strict=True)]
        pull, total = sum(pulls), sum(shares)
        forces = [
            sum(f * c for f, c in zip(pulls, column, strict=True)) - pull * xj
            for xj, column in zip(list(x), zip(*centers, strict=True), strict=True)
        ]
        return jnp.stack([force / total for force in forces])

    return energy, score
