"""Two-dimensional targets, with exact energies where known.

Their shapes and scales are those of the density-estimation literature (arXiv:1810.01367),
within about 4 of the origin.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, log_ndtr
from jaxtyping import Array, Float

from ebm_jax._checks import check_all_positive, check_positive
from ebm_jax.targets.gaussian import Target, gaussian_mixture
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar


def eight_gaussians(*, radius: float = 2.83, scale: float = 0.35) -> Target:
    """Mixture of eight equal Gaussians on a circle.

    Args:
        radius: the radius of the circle of means.
        scale: the standard deviation of each Gaussian.
    """
    angles = jnp.arange(8.0) * jnp.pi / 4
    return gaussian_mixture(radius * jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1), scale)


def rings(*, radii: tuple[float, ...] = (0.75, 1.5, 2.25, 3.0), scale: float = 0.08) -> Target:
    """Concentric rings of equal weight, each a uniform circle plus N(0, scale^2 I).

        E = -log mean_k exp(-(|x| - r_k)^2 / (2 scale^2)) i0e(|x| r_k / scale^2)

    with i0e(z) = exp(-|z|) I_0(z), exact for every scale; log Z = log(2 pi scale^2).

    Raises:
        ValueError: if `scale` or a radius is not positive.
    """
    radius = jnp.asarray(radii, jnp.float32)
    check_all_positive("rings", radii=radius)
    check_positive("rings", scale=scale)

    def energy(x: Example) -> Scalar:
        distance = jnp.sqrt(jnp.sum(x**2) + 1e-12)  # keeps the gradient at 0 finite
        logs = -0.5 * ((distance - radius) / scale) ** 2
        logs = logs + jnp.log(i0e(distance * radius / scale**2))
        return jnp.log(radius.size) - jax.nn.logsumexp(logs)

    def draw(key: PRNGKey) -> Example:
        key_ring, key_angle, key_noise = jax.random.split(key, 3)
        angle = jax.random.uniform(key_angle, maxval=2 * jnp.pi)
        circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        r = jax.random.choice(key_ring, radius)
        return r * circle + scale * jax.random.normal(key_noise, (2,))

    return _differentiated(
        draw,
        energy,
        float(np.log(2 * np.pi * scale**2)),
        lambda sigma: rings(radii=radii, scale=float(np.hypot(scale, sigma))),
    )


def checkerboard() -> Target:
    """Uniform distribution on the eight black squares of side 2 of a board on [-4, 4]^2.

    E is 0 on black squares and infinite elsewhere, and log Z = log 32; there is no score. In the
    smoothed target, each square is a product of differences of normal distribution functions.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import targets
        >>> board = targets.checkerboard()
        >>> [float(board.energy(jnp.array([x, -3.0]))) for x in (-3.0, -1.0)]  # black, white
        [0.0, inf]
    """
    edges = jnp.array([-4.0, -2.0, 0.0, 2.0])
    black = jnp.array([[i, j] for i in range(4) for j in range(4) if (i + j) % 2 == 0])

    def energy(x: Example) -> Scalar:
        cells = jnp.floor((x + 4) / 2)
        inside = jnp.all((cells >= 0) & (cells < 4)) & (jnp.sum(cells) % 2 == 0)
        return jnp.where(inside, 0.0, jnp.inf)

    def draw(key: PRNGKey) -> Example:
        key_cell, key_place = jax.random.split(key)
        corner = edges[black[jax.random.randint(key_cell, (), 0, 8)]]
        return corner + 2 * jax.random.uniform(key_place, (2,))

    def smoothed(sigma: float) -> Target:
        check_positive("checkerboard().smoothed", sigma=sigma)

        def smooth_energy(x: Example) -> Scalar:
            past_edge = x[:, None] - edges[None, :]
            log_mass = _log_normal_mass((past_edge - 2) / sigma, past_edge / sigma)
            return -jax.nn.logsumexp(log_mass[0, black[:, 0]] + log_mass[1, black[:, 1]])

        return _smoothed_by_draws(draw, sigma, smooth_energy, float(np.log(32.0)))

    return Target(draw, energy, None, float(np.log(32.0)), smoothed)


def moons(*, scale: float = 0.2) -> Target:
    """Two interleaved half circles of radius 2, uniform along the arc, plus N(0, scale^2 I).

    Examples:
        >>> import jax
        >>> from ebm_jax import targets
        >>> draw = jax.jit(jax.vmap(targets.moons().draw))
        >>> draw(jax.random.split(jax.random.key(0), 1000)).shape
        (1000, 2)
    """
    nodes, weights = _gauss_legendre(np.pi, 64)
    upper = np.stack([2 * np.cos(nodes) - 1, 2 * np.sin(nodes) - 0.2], -1)
    lower = np.stack([1 - 2 * np.cos(nodes), 0.8 - 2 * np.sin(nodes)], -1)

    def curve(key: PRNGKey) -> Example:
        key_arc, key_angle = jax.random.split(key)
        t = jax.random.uniform(key_angle, maxval=jnp.pi)
        sign = jnp.where(jax.random.bernoulli(key_arc), 1.0, -1.0)
        turned = sign * jnp.stack([2 * jnp.cos(t), 2 * jnp.sin(t)])
        return turned + jnp.stack([-sign, 0.3 - 0.5 * sign])

    return _noisy_curve(curve, np.concatenate([upper, lower]), np.tile(weights, 2), scale)


def two_spirals(*, scale: float = 0.1) -> Target:
    """Two spiral arms of 540 degrees plus N(0, scale^2 I).

    The radius along an arm is 3.14 times the square root of a uniform draw. The uniform jitter of
    some versions is left out, so that the density is exact.
    """
    nodes, weights = _gauss_legendre(3 * np.pi, 400)
    arm = np.stack([-np.cos(nodes) * nodes, np.sin(nodes) * nodes], -1) / 3

    def curve(key: PRNGKey) -> Example:
        key_arm, key_angle = jax.random.split(key)
        t = 3 * jnp.pi * jnp.sqrt(jax.random.uniform(key_angle))
        sign = jnp.where(jax.random.bernoulli(key_arm), 1.0, -1.0)
        return sign * t / 3 * jnp.stack([-jnp.cos(t), jnp.sin(t)])

    return _noisy_curve(curve, np.concatenate([arm, -arm]), np.tile(weights * nodes, 2), scale)


def pinwheel(*, num_arms: int = 5) -> Target:
    """Bent Gaussian arms, five by default. Samples only: the density has no closed form."""
    turns = 2 * jnp.pi * (jnp.arange(num_arms) / num_arms)

    def draw(key: PRNGKey) -> Example:
        key_arm, key_noise = jax.random.split(key)
        along, across = jnp.array([0.3, 0.1]) * jax.random.normal(key_noise, (2,))
        angle = jax.random.choice(key_arm, turns) + 0.25 * jnp.exp(1 + along)
        c, s = jnp.cos(angle), jnp.sin(angle)
        return 2 * jnp.stack([c * (1 + along) + s * across, c * across - s * (1 + along)])

    return Target(draw)


def _noisy_curve(
    draw_curve: Callable[[PRNGKey], Example],
    nodes: Float[np.ndarray, "k 2"],
    weights: Float[np.ndarray, " k"],
    scale: float,
) -> Target:
    """Returns the target of a planar curve plus N(0, scale^2 I), by Gauss-Legendre quadrature.

    It is exact to float32 while the nodes are closer to each other than the scale.
    """
    check_positive("a curve", scale=scale)
    places = jnp.asarray(nodes, jnp.float32)
    log_weights = jnp.log(jnp.asarray(weights / weights.sum(), jnp.float32))

    def energy(x: Example) -> Scalar:
        squares = jnp.sum((x[None, :] - places) ** 2, -1)
        return -jax.nn.logsumexp(log_weights - squares / (2 * scale**2))

    def draw(key: PRNGKey) -> Example:
        key_curve, key_noise = jax.random.split(key)
        return draw_curve(key_curve) + scale * jax.random.normal(key_noise, (2,))

    def smoothed(sigma: float) -> Target:
        return _noisy_curve(draw_curve, nodes, weights, float(np.hypot(scale, sigma)))

    log_z = float(np.log(2 * np.pi * scale**2))
    return _differentiated(draw, energy, log_z, smoothed)


def _smoothed_by_draws(
    draw: Callable[[PRNGKey], Example], sigma: float, energy: EnergyFn, log_z: float
) -> Target:
    def noisy(key: PRNGKey) -> Example:
        key_clean, key_noise = jax.random.split(key)
        clean = draw(key_clean)
        return clean + sigma * jax.random.normal(key_noise, clean.shape)

    return _differentiated(noisy, energy, log_z)


def _differentiated(
    draw: Callable[[PRNGKey], Example],
    energy: EnergyFn,
    log_z: float,
    smoothed: Callable[[float], Target] | None = None,
) -> Target:
    """Returns a target whose score is the derivative of its energy."""
    return Target(draw, energy, lambda x: -jax.grad(energy)(x), log_z, smoothed)


def _log_normal_mass(lower: Array, upper: Array) -> Array:
    """Returns log(Phi(upper) - Phi(lower)) for lower < upper, without cancellation in the tails."""
    flip = lower + upper > 0
    low, high = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
    log_low, log_high = log_ndtr(low), log_ndtr(high)
    return log_high + jnp.log1p(-jnp.exp(log_low - log_high))


def _gauss_legendre(length: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nodes on [0, length], and their weights up to a common factor."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return length * (nodes + 1) / 2, weights
