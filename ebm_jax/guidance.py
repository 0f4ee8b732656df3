"""Guidance and inverse problems: turns a denoiser into that of a conditional distribution.

By Tweedie's formula D = x + sigma^2 s, adding a gradient of log p(y | x_sigma) to the score is
adding sigma^2 times that gradient to the denoiser. The functions here take a denoiser and
return one, so that every sampler and the likelihood work with the result.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from ebm_jax._checks import check_count, check_positive
from ebm_jax.types import DenoiseFn, Example, Scalar, ScoreFn

__all__ = [
    "clamped",
    "classifier_free_guided",
    "classifier_guided",
    "clipped",
    "diffusion_posterior",
    "gray",
    "posterior",
    "replaced",
]


def clamped(denoise_fn: DenoiseFn, low: float = -1.0, high: float = 1.0) -> DenoiseFn:
    """Returns the denoiser clipped to [low, high], as DDPM does at every step (arXiv:2006.11239).

    The distribution that samplers then draw from is no longer exactly the model's.

    Raises:
        ValueError: unless low < high.
    """
    if not low < high:
        raise ValueError(f"`clamped` got the box {low} to {high}: give low < high.")
    return lambda x, sigma: jnp.clip(denoise_fn(x, sigma), low, high)


def clipped(score_fn: ScoreFn, bound: float) -> ScoreFn:
    """Returns the score with every entry clipped to [-bound, bound], no longer a gradient.

    Recipes for images use it to bound the steps of short chains (arXiv:1903.08689).

    Raises:
        ValueError: if `bound` is not positive.
    """
    check_positive("clipped", bound=bound)

    def field(x: Example) -> Example:
        return jnp.clip(score_fn(x), -bound, bound)

    return field


def classifier_guided(
    denoise_fn: DenoiseFn,
    log_prob_fn: Callable[[Example, Scalar], Scalar],
    *,
    scale: float | Scalar = 1.0,
) -> DenoiseFn:
    """Classifier guidance: D + scale sigma^2 grad log p(y | x, sigma).

    At small sigma the distribution is p(x) p(y | x)^scale.

    Args:
        denoise_fn: D(x, sigma) of p(x).
        log_prob_fn: log p(y | x_sigma = x) of the desired class or condition, from a classifier of
            noisy examples.
        scale: 1 is Bayes' rule; above 1 the condition is exaggerated.

    References:
        Dhariwal & Nichol, arXiv:2105.05233.
    """

    def denoise(x: Example, sigma: Scalar) -> Example:
        return denoise_fn(x, sigma) + scale * sigma**2 * jax.grad(log_prob_fn)(x, sigma)

    return denoise


def classifier_free_guided(
    conditional_fn: DenoiseFn,
    unconditional_fn: DenoiseFn,
    *,
    scale: float | Scalar,
    interval: tuple[float, float] = (0.0, float("inf")),
) -> DenoiseFn:
    """Classifier-free guidance (CFG): D_u + scale (D_c - D_u).

    Scale 0 is unconditional, 1 is conditional, and above 1 the condition is exaggerated. The
    paper's weight w is scale - 1 [1]. Guidance at middle noise levels only preserves more of the
    diversity [2]: outside of `interval` the result is D_c, and D_u is not evaluated. Autoguidance
    [3] uses a weaker model of the same distribution as D_u: a smaller network, or one trained for a
    shorter time.

    Args:
        conditional_fn: D_c(x, sigma), of p(x | y).
        unconditional_fn: D_u(x, sigma), of p(x), or of a weaker model.
        scale: the guidance scale.
        interval: the lowest and the highest noise level at which guidance is applied.

    Raises:
        ValueError: unless 0 <= low < high for `interval`.

    References:
        [1] Ho & Salimans, arXiv:2207.12598.
        [2] Kynkaanniemi et al., arXiv:2404.07724.
        [3] Karras et al., arXiv:2406.02507.
    """
    low, high = interval
    if not 0 <= low < high:
        raise ValueError(f"`classifier_free_guided` got interval={interval}: give 0 <= low < high.")

    def guided(x: Example, sigma: Scalar) -> Example:
        unconditional = unconditional_fn(x, sigma)
        return unconditional + scale * (conditional_fn(x, sigma) - unconditional)

    if (low, high) == (0, float("inf")):
        return guided

    def denoise(x: Example, sigma: Scalar) -> Example:
        inside = (sigma >= low) & (sigma <= high)
        return jax.lax.cond(inside, guided, conditional_fn, x, sigma)

    return denoise


def replaced(
    denoise_fn: DenoiseFn, project: Callable[[Example], Example], known: Example
) -> DenoiseFn:
    """Replacement method for inpainting and colorization: D + P (known - D).

    The known part of x_0 replaces its estimate; P is an orthogonal projection. Under every solver
    P x then follows `known` plus noise of the current level, as in arXiv:2011.13456, appendix I. At
    a high level the sample therefore sees little of `known`: unlike `posterior`, it is not exact
    even for Gaussian data, but it adds no cost.

    Args:
        denoise_fn: D(x, sigma).
        project: P(x), such as `lambda x: mask * x` for inpainting or `gray` for colorization.
        known: x_0 wherever P keeps it; other entries are ignored.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import guidance
        >>> mask = jnp.array([1.0, 0.0])
        >>> denoise_fn = guidance.replaced(lambda y, s: 0 * y, lambda x: mask * x, 5 * jnp.ones(2))
        >>> denoise_fn(jnp.ones(2), jnp.float32(1.0)).tolist()
        [5.0, 0.0]
    """

    def denoise(x: Example, sigma: Scalar) -> Example:
        denoised = denoise_fn(x, sigma)
        return denoised + project(known - denoised)

    return denoise


def gray(x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Returns the mean over channels at every channel: the projection of colorization."""
    return jnp.broadcast_to(x.mean(-1, keepdims=True), x.shape)


def posterior(
    denoise_fn: DenoiseFn,
    measure: Callable[[Example], Array],
    measured: Array,
    *,
    noise_std: float | Scalar,
    num_iterations: int = 10,
) -> DenoiseFn:
    """Returns the denoiser of p(x_0 | y) for a linear measurement y = A x_0 + noise_std n.

        D + sigma^2 J^T A^T (noise_std^2 I + sigma^2 A J A^T)^(-1) (y - A D),   J = dD/dx

    sigma^2 J is the covariance of x_0 given x_sigma. p(x_0 | x_sigma) is approximated by the
    Gaussian with that covariance, which is exact for Gaussian data at every level. The system is
    solved by conjugate gradients; each iteration takes one product with the transpose of J.

    Args:
        denoise_fn: D(x, sigma), of a model whose J is symmetric or nearly so.
        measure: A(x), linear.
        measured: y, of the shape of A(x).
        noise_std: standard deviation of the measurement noise, positive.
        num_iterations: maximum number of iterations; exact if as large as the size of y.

    Raises:
        ValueError: if `noise_std` or `num_iterations` is concrete and not positive.

    References:
        Boys et al., arXiv:2310.06721; Rozet et al., arXiv:2405.13712, for the iterations.
    """
    check_positive("posterior", noise_std=noise_std)
    check_count("posterior", num_iterations=num_iterations)

    def denoise(x: Example, sigma: Scalar) -> Example:
        denoised, pull = jax.vjp(lambda x: denoise_fn(x, sigma), x)
        _, transpose = jax.vjp(measure, x)  # A is linear: any point will do

        def spread(residual: Array) -> Example:
            return sigma**2 * pull(transpose(residual)[0])[0]

        def system(residual: Array) -> Array:
            return noise_std**2 * residual + measure(spread(residual))

        error = measured - measure(denoised)
        return denoised + spread(cg(system, error, maxiter=num_iterations)[0])

    return denoise


def diffusion_posterior(
    denoise_fn: DenoiseFn,
    measure: Callable[[Example], Array],
    measured: Array,
    *,
    scale: float | Scalar,
) -> DenoiseFn:
    """Diffusion posterior sampling (DPS): D - scale sigma^2 grad |y - A(D(x))|.

    The published step subtracts scale * grad |y - A(D)| from each of a thousand x_t. Here it is a
    term of the score, the same for any number of steps. It approximates p(x_0 | x_sigma) by a
    point, so the posterior is not exact even for Gaussian data. A may be nonlinear.

    Args:
        denoise_fn: D(x, sigma).
        measure: A(x).
        measured: y, of the shape of A(x).
        scale: weight of the gradient of the norm, positive.

    Raises:
        ValueError: if `scale` is concrete and not positive.

    References:
        Chung et al., arXiv:2209.14687, algorithm 1.
    """
    check_positive("diffusion_posterior", scale=scale)

    def denoise(x: Example, sigma: Scalar) -> Example:
        denoised, pull = jax.vjp(lambda x: denoise_fn(x, sigma), x)
        misfit, pull_misfit = jax.vjp(lambda d: measured - measure(d), denoised)
        norm = jnp.sqrt(jnp.sum(misfit**2) + jnp.finfo(misfit.dtype).tiny)
        (gradient,) = pull(pull_misfit(misfit / norm)[0])
        return denoised - scale * sigma**2 * gradient

    return denoise
