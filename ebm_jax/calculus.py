"""Derivatives of energies and fields, and conversions between score, denoiser, noise, velocity.

    s = -grad E          div s = tr(ds/dx)          lap E = tr(d^2 E/dx^2) = -div s
    E_v[v . J v] = tr J  for E[v v^T] = I           (Hutchinson 1990)

At noise level sigma, x = x_0 + sigma n, these four determine each other:

    denoiser   D = E[x_0 | x]
    score      s = (D - x) / sigma^2                (Tweedie's formula)
    noise      eps = E[n | x] = (x - D) / sigma
    velocity   v = (eps - sigma D) / sqrt(1 + sigma^2)

The velocity is the v-prediction of arXiv:2202.00512 (v = a eps - b x_0 with
a^2 + b^2 = 1), written for x in variance-exploding coordinates: b / a = sigma.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax._checks import check_count
from ebm_jax.types import (
    DenoiseFn,
    EnergyFn,
    Example,
    NoisyEnergyFn,
    NoisyScoreFn,
    PRNGKey,
    Scalar,
    ScoreFn,
)


def score_from_energy(energy_fn: EnergyFn) -> ScoreFn:
    """Returns the score function s(x) = -grad E(x) of p(x) ~ exp(-E(x)).

    Args:
        energy_fn: E(x), a scalar for one example.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import calculus
        >>> score_fn = calculus.score_from_energy(lambda x: jnp.sum(x**2) / 2)
        >>> score_fn(jnp.array([1.0, -2.0])).tolist()
        [-1.0, 2.0]
    """

    def score(x: Example) -> Example:
        return -jax.grad(energy_fn)(x)

    return score


def hessian_vector_product(energy_fn: EnergyFn, x: Example, v: Example) -> Example:
    """Returns (d^2 E/dx^2) v at x, at the cost of a few gradients (forward over reverse mode).

    Args:
        energy_fn: E(x), a scalar for one example.
        x: one example, of any shape.
        v: a direction, of the shape of `x`.
    """
    return jax.jvp(jax.grad(energy_fn), (x,), (v,))[1]


def divergence(field: ScoreFn, x: Example, *, chunk_size: int = 64) -> Scalar:
    """Returns the exact divergence sum_i d field_i / d x_i, by d directional derivatives.

    The directions are evaluated in chunks of `chunk_size` under `jax.checkpoint`, so that memory
    does not grow with d, even for a gradient through this function.

    Args:
        field: a function from an example to an array of its shape.
        x: one example, of any shape with d entries.
        chunk_size: number of directions evaluated at once.

    Raises:
        ValueError: if `chunk_size` is not positive.
    """
    check_count("divergence", chunk_size=chunk_size)
    size = x.size
    chunk_size = min(chunk_size, size)
    num_chunks = -(-size // chunk_size)

    def along(index: Array) -> Scalar:
        basis = jnp.zeros(size, x.dtype).at[index].set(1.0, mode="drop").reshape(x.shape)
        return jnp.sum(basis * jax.jvp(field, (x,), (basis,))[1])

    @jax.checkpoint
    def add_chunk(total: Scalar, indices: Array) -> tuple[Scalar, None]:
        return total + jnp.sum(jax.vmap(along)(indices)), None

    indices = jnp.arange(num_chunks * chunk_size).reshape(num_chunks, chunk_size)
    return jax.lax.scan(add_chunk, jnp.zeros((), x.dtype), indices)[0]


def laplacian(energy_fn: EnergyFn, x: Example, *, chunk_size: int = 64) -> Scalar:
    """Returns the exact Laplacian tr(d^2 E/dx^2): the `divergence` of grad E.

    A network with piecewise-linear activations (relu) has Laplacian zero almost
    everywhere: use a smooth activation (silu, softplus).

    Args:
        energy_fn: E(x), a scalar for one example.
        x: one example, of any shape.
        chunk_size: number of directions evaluated at once.
    """
    return divergence(jax.grad(energy_fn), x, chunk_size=chunk_size)


def rademacher(key: PRNGKey, x: Example) -> Example:
    """Draws a probe of independent fair signs, of the shape and dtype of `x`.

    For a symmetric matrix H, v . H v has variance 2 sum_{i != j} H_ij^2, the smallest
    of all probes with independent entries.
    """
    return jax.random.rademacher(key, x.shape, x.dtype)


def gaussian(key: PRNGKey, x: Example) -> Example:
    """Draws a probe v ~ N(0, I) of the shape and dtype of `x`; v . H v has variance 2 |H|_F^2."""
    return jax.random.normal(key, x.shape, x.dtype)


def sphere(key: PRNGKey, x: Example) -> Example:
    """Draws a probe uniform on the sphere of radius sqrt(d), so that E[v v^T] = I.

    v . H v has variance 2 d / (d + 2) (|H|_F^2 - tr(H)^2 / d): zero for H = c I.
    """
    noise = jax.random.normal(key, x.shape, x.dtype)
    return noise * jnp.sqrt(x.size / jnp.sum(noise**2))


def hutchinson_divergence(
    field: ScoreFn,
    key: PRNGKey,
    x: Example,
    *,
    num_probes: int = 1,
    draw_probe: Callable[[PRNGKey, Example], Example] = rademacher,
) -> Scalar:
    """Hutchinson's unbiased estimate of `divergence`: the mean of v . (d field/dx) v over probes.

    Args:
        field: a function from an example to an array of its shape.
        key: PRNG key of the probes.
        x: one example, of any shape.
        num_probes: number of probes to average.
        draw_probe: `rademacher`, `gaussian`, `sphere`, or any draw with E[v v^T] = I.

    Raises:
        ValueError: if `num_probes` is not positive.
    """
    check_count("hutchinson_divergence", num_probes=num_probes)

    def along(key: PRNGKey) -> Scalar:
        probe = draw_probe(key, x)
        return jnp.sum(probe * jax.jvp(field, (x,), (probe,))[1])

    return jnp.mean(jax.vmap(along)(jax.random.split(key, num_probes)))


def hutchinson_laplacian(
    energy_fn: EnergyFn,
    key: PRNGKey,
    x: Example,
    *,
    num_probes: int = 1,
    draw_probe: Callable[[PRNGKey, Example], Example] = rademacher,
) -> Scalar:
    """Hutchinson's unbiased estimate of `laplacian`: the `hutchinson_divergence` of grad E.

    Args:
        energy_fn: E(x), a scalar for one example.
        key: PRNG key of the probes.
        x: one example, of any shape.
        num_probes: number of probes to average.
        draw_probe: `rademacher`, `gaussian`, `sphere`, or any draw with E[v v^T] = I.
    """
    return hutchinson_divergence(
        jax.grad(energy_fn), key, x, num_probes=num_probes, draw_probe=draw_probe
    )


def denoiser_from_score(score_fn: NoisyScoreFn) -> DenoiseFn:
    """Returns the denoiser D(x, sigma) = x + sigma^2 s(x, sigma) (Tweedie's formula)."""

    def denoise(x: Example, sigma: Scalar) -> Example:
        return x + sigma**2 * score_fn(x, sigma)

    return denoise


def score_from_denoiser(denoise_fn: DenoiseFn) -> NoisyScoreFn:
    """Returns the score s(x, sigma) = (D(x, sigma) - x) / sigma^2."""

    def score(x: Example, sigma: Scalar) -> Example:
        return (denoise_fn(x, sigma) - x) / sigma**2

    return score


def denoiser_from_noise(noise_fn: NoisyScoreFn) -> DenoiseFn:
    """Returns the denoiser D(x, sigma) = x - sigma eps(x, sigma), from a noise predictor."""

    def denoise(x: Example, sigma: Scalar) -> Example:
        return x - sigma * noise_fn(x, sigma)

    return denoise


def noise_from_denoiser(denoise_fn: DenoiseFn) -> NoisyScoreFn:
    """Returns eps(x, sigma) = (x - D(x, sigma)) / sigma, the expected unit noise."""

    def noise(x: Example, sigma: Scalar) -> Example:
        return (x - denoise_fn(x, sigma)) / sigma

    return noise


def denoiser_from_velocity(velocity_fn: NoisyScoreFn) -> DenoiseFn:
    """Returns the denoiser (x - sigma sqrt(1 + sigma^2) v(x, sigma)) / (1 + sigma^2), from v."""

    def denoise(x: Example, sigma: Scalar) -> Example:
        velocity = velocity_fn(x, sigma)
        return (x - sigma * jnp.sqrt(1 + sigma**2) * velocity) / (1 + sigma**2)

    return denoise


def velocity_from_denoiser(denoise_fn: DenoiseFn) -> NoisyScoreFn:
    """Returns the velocity (eps - sigma D) / sqrt(1 + sigma^2), with eps = (x - D) / sigma."""

    def velocity(x: Example, sigma: Scalar) -> Example:
        denoised = denoise_fn(x, sigma)
        return ((x - denoised) / sigma - sigma * denoised) / jnp.sqrt(1 + sigma**2)

    return velocity


def denoiser_from_energy(energy_fn: NoisyEnergyFn) -> DenoiseFn:
    """Returns the denoiser D(x, sigma) = x - sigma^2 grad E(x, sigma), whose score is -grad E."""

    def denoise(x: Example, sigma: Scalar) -> Example:
        return x - sigma**2 * jax.grad(energy_fn)(x, sigma)

    return denoise
