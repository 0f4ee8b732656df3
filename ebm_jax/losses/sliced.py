"""Sliced score matching: the divergence of a score along random directions instead of all d.

If E[v v^T] = I, then v . J v has mean tr J and (v . s)^2 has mean |s|^2, so that

    v . J v + 1/2 (v . s)^2        (sliced)
    v . J v + 1/2 |s|^2            (variance-reduced)

both have the mean of `exact_score_matching` at every x. They have the same minimizer and the
same minimum, which is -d / (2 s^2) for data N(m, s^2 I). A slice (or probe) is any draw of v
with E[v v^T] = I: `rademacher`, `gaussian` or `sphere` of `calculus`. Several slices of one x
share its score and are evaluated one after another, which is faster on CPU than all at once
and takes less memory.

References:
    Song et al., Sliced score matching, arXiv:1905.07088.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax._checks import check_count, check_positive, check_result
from ebm_jax._precision import level_for, widened
from ebm_jax.calculus import rademacher
from ebm_jax.losses.functions import checked_energy, checked_example, checked_field
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar, ScoreFn

DrawProbe = Callable[[PRNGKey, Example], Example]


def sliced_score_matching(
    score_fn: ScoreFn,
    key: PRNGKey,
    x: Example,
    *,
    num_slices: int = 1,
    draw_probe: DrawProbe = rademacher,
) -> Scalar:
    """Sliced score matching (SSM), for one example.

        loss = mean over k slices of v . (ds/dx) v + 1/2 (v . s(x))^2

    For d = 1 and Rademacher slices it is `exact_score_matching`. Prefer
    `variance_reduced_sliced_score_matching`, unless s is available only through its product
    with v.

    Args:
        score_fn: s(x), of the shape of x and differentiable.
        key: PRNG key of the slices.
        x: one example, of any shape; batch with `jax.vmap`.
        num_slices: k, the number of slices to average.
        draw_probe: draw_probe(key, x) -> v with E[v v^T] = I.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: if `num_slices` is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> loss = losses.sliced_score_matching(
        ...     lambda x: -x, jax.random.key(0), jnp.ones(3), num_slices=10_000)
        >>> round(float(loss), 1)  # `exact_score_matching` is -1.5
        -1.5
    """
    name = "sliced_score_matching"
    slices, at = _draw_slices(name, draw_probe, key, x, num_slices)
    score, pull = jax.vjp(checked_field(name, "score_fn(x)", score_fn, x), at)

    def along(v: Example) -> Scalar:
        return jnp.sum(v * pull(v)[0]) + 0.5 * jnp.sum(v * score) ** 2

    return jnp.mean(jax.lax.map(along, slices))


def variance_reduced_sliced_score_matching(
    score_fn: ScoreFn,
    key: PRNGKey,
    x: Example,
    *,
    num_slices: int = 1,
    draw_probe: DrawProbe = rademacher,
) -> Scalar:
    """Variance-reduced sliced score matching (SSM-VR), with |s|^2 in full, for one example.

        loss = 1/2 |s(x)|^2 + mean over k slices of v . (ds/dx) v

    One Rademacher slice is exact where ds/dx is diagonal. For the energy of an MLP,
    `sliced_score_matching_from_curvature` is faster.

    Args:
        score_fn: s(x), of the shape of x and differentiable.
        key: PRNG key of the slices.
        x: one example, of any shape; batch with `jax.vmap`.
        num_slices: k, the number of slices to average.
        draw_probe: draw_probe(key, x) -> v with E[v v^T] = I.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: if `num_slices` is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> key, x = jax.random.key(0), jnp.ones(3)
        >>> float(losses.variance_reduced_sliced_score_matching(lambda x: -x, key, x))
        -1.5
    """
    name = "variance_reduced_sliced_score_matching"
    slices, at = _draw_slices(name, draw_probe, key, x, num_slices)
    score, pull = jax.vjp(checked_field(name, "score_fn(x)", score_fn, x), at)
    divergences = jax.lax.map(lambda v: jnp.sum(v * pull(v)[0]), slices)
    return 0.5 * jnp.sum(score**2) + jnp.mean(divergences)


def sliced_score_matching_from_curvature(
    gradient_and_curvature: Callable[[Example, Array], tuple[Example, Array]],
    key: PRNGKey,
    x: Example,
    *,
    num_slices: int = 1,
    draw_probe: DrawProbe = rademacher,
) -> Scalar:
    """`variance_reduced_sliced_score_matching` for an energy that computes its own derivatives.

        loss = 1/2 |grad E(x)|^2 - mean over k slices of v . (d^2 E/dx^2) v

    The same key gives the same slices.

    Args:
        gradient_and_curvature: (x, slices (k, *d)) -> (grad E(x), v . H v for each slice), such
            as `partial(net.apply, params, method="gradient_and_curvature")` of `EnergyMLP`.
        key: PRNG key of the slices.
        x: one example, of any shape; batch with `jax.vmap`.
        num_slices: k, the number of slices to average.
        draw_probe: draw_probe(key, x) -> v with E[v v^T] = I.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: if `num_slices` is not positive.
    """
    name = "sliced_score_matching_from_curvature"
    slices, _ = _draw_slices(name, draw_probe, key, x, num_slices)
    gradient, curvatures = gradient_and_curvature(x, slices.astype(x.dtype))
    check_result(name, "gradient_and_curvature(x, slices)[0]", gradient, x.shape)
    check_result(name, "gradient_and_curvature(x, slices)[1]", curvatures, (num_slices,))
    return 0.5 * jnp.sum(widened(gradient) ** 2) - jnp.mean(widened(curvatures))


def finite_difference_score_matching(
    energy_fn: EnergyFn,
    key: PRNGKey,
    x: Example,
    *,
    epsilon: float | Scalar,
    num_slices: int = 1,
    draw_probe: DrawProbe = rademacher,
) -> Scalar:
    """Sliced score matching of an energy by finite differences of its values, for one example.

        loss = mean over k slices of
            [2 E(x) - E(x + e v) - E(x - e v)] / e^2 + [E(x + e v) - E(x - e v)]^2 / (8 e^2)

    No derivative in x is taken, which helps where second derivatives are expensive. With D_j the
    j-th derivative of E along v, it is `sliced_score_matching` of the same v plus
    e^2 (D_1 D_3 / 6 - D_4 / 12) + O(e^4), so it is unbiased for a quadratic energy. Float32 adds a
    round-off error of about 1e-7 |E| / e^2. For energies of order 1, e = 0.1 times the scale of the
    data balances the two errors.

    Args:
        energy_fn: E(x), a scalar.
        key: PRNG key of the slices.
        x: one example, of any shape; batch with `jax.vmap`. E receives points in float32 or wider
            even if x is bfloat16, in which the differences would be round-off.
        epsilon: e, positive; a step has length e sqrt(d), in the units of x.
        num_slices: k, the number of slices to average.
        draw_probe: draw_probe(key, x) -> v with E[v v^T] = I.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: if `epsilon` or `num_slices` is not positive.

    References:
        Pang et al., arXiv:2007.03317.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> loss = losses.finite_difference_score_matching(
        ...     lambda x: jnp.sum(x**2) / 2, jax.random.key(0), jnp.ones(1), epsilon=0.1)
        >>> round(float(loss), 2)  # `exact_score_matching`: 1/2 - 1
        -0.5
    """
    name = "finite_difference_score_matching"
    check_positive(name, epsilon=epsilon)
    slices, at = _draw_slices(name, draw_probe, key, x, num_slices)
    energy_fn = checked_energy(name, "energy_fn(x)", energy_fn, at)
    center, epsilon = energy_fn(at), level_for(x, epsilon)

    def along(v: Example) -> Scalar:
        ahead, behind = energy_fn(at + epsilon * v), energy_fn(at - epsilon * v)
        slope = (ahead - behind) / (2 * epsilon)
        return 0.5 * slope**2 - ((ahead - center) - (center - behind)) / epsilon**2

    return jnp.mean(jax.vmap(along)(slices))


def _draw_slices(
    name: str, draw_probe: DrawProbe, key: PRNGKey, x: Example, num_slices: int
) -> tuple[Float[Array, "k *d"], Example]:
    """Checks the arguments, and returns the slices and x in the loss's precision."""
    check_count(name, num_slices=num_slices)
    at = checked_example(name, x=x)

    def draw(key: PRNGKey) -> Example:
        probe = draw_probe(key, at)
        check_result(name, "draw_probe(key, x)", probe, x.shape)
        return widened(probe)

    return jax.vmap(draw)(jax.random.split(key, num_slices)), at
