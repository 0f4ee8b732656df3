"""Langevin kernels: x' = x + h s(x) + sqrt(2 h T) n with step size h and temperature T.

At T = 1 and h -> 0 the chain's distribution tends to p(x) ~ exp(-E(x)), where s = -grad E; at
another T it tends to p^(1/T). Without a Metropolis step, it is biased at finite h.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax._checks import check_not_negative, check_positive, check_score, holds
from ebm_jax._precision import safe_sqrt
from ebm_jax.samplers.mcmc.kernel import (
    Kernel,
    check_start,
    langevin_scale,
    standard_normals,
)
from ebm_jax.types import Example, PRNGKey, Scalar, ScoreFn


class LangevinState(NamedTuple):
    """The point of the chain."""

    x: Example


class UnderdampedState(NamedTuple):
    """The point of the chain, its velocity, and the score at the point."""

    x: Example
    v: Example
    score: Example


class LangevinInfo(NamedTuple):
    """The Euclidean norm of the score at the point before the step."""

    score_norm: Scalar


def ula(
    score_fn: ScoreFn, *, step_size: float | Scalar, temperature: float | Scalar = 1.0
) -> Kernel:
    """Unadjusted Langevin algorithm (ULA): x' = x + h s(x) + sqrt(2 h T) n.

    On N(0, s^2 I) its stationary variance is T s^2 / (1 - h / (2 s^2)) instead of T s^2, the bias
    of a finite step. It diverges for h > 2 s^2.

    Args:
        score_fn: s(x) = grad log p(x), such as `calculus.score_from_energy` of an energy.
        step_size: h, positive, in squared units of x.
        temperature: T, not negative; 1 samples p itself.

    Returns:
        A kernel whose state is `LangevinState`.

    Raises:
        ValueError: for numbers out of range, and from `init` for a score of another shape than x.

    References:
        Roberts & Tweedie, Exponential convergence of Langevin distributions ..., Bernoulli 1996.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import samplers
        >>> kernel = samplers.ula(lambda x: -x, step_size=1.0)
        >>> start = kernel.init(jnp.zeros(1))
        >>> _, found = samplers.moments(kernel, jax.random.key(0), start, 20_000)
        >>> round(float(found.variance[0]), 1)  # 1 / (1 - h / 2)
        2.0
    """
    _check_numbers("ula", step_size, temperature)

    def init(x: Example) -> LangevinState:
        check_score("ula", score_fn, x)
        return LangevinState(x)

    def move(noise: Array, state: LangevinState) -> tuple[LangevinState, LangevinInfo]:
        score = score_fn(state.x)
        x = state.x + step_size * score + langevin_scale(step_size, temperature) * noise
        return LangevinState(x), LangevinInfo(safe_sqrt(jnp.sum(score**2)))

    return Kernel(init, _draw_normals, move)


def preconditioned(
    score_fn: ScoreFn,
    *,
    step_size: float | Scalar,
    preconditioner: Example | Float[Array, "n n"],
    temperature: float | Scalar = 1.0,
) -> Kernel:
    """Preconditioned Langevin: x' = x + h C s(x) + sqrt(2 h T) C^(1/2) n.

    It is `ula` on y = C^(-1/2) x. If C is the covariance of a Gaussian target, a direction of
    variance c has the stationary variance T c / (1 - h / 2), as for `ula` on N(0, I).

    Args:
        score_fn: s(x), of the shape of x.
        step_size: h, positive; below 2 if C is the covariance of the target.
        preconditioner: C. An array of the shape of x is its diagonal, with positive entries. For
            an x of shape (n,), an array of shape (n, n) is the whole matrix, symmetric and
            positive definite.
        temperature: T, not negative.

    Returns:
        A kernel whose state is `LangevinState`.

    Raises:
        ValueError: in the cases of `ula`, and for a concrete C that is not positive definite.
    """
    _check_numbers("preconditioned", step_size, temperature)
    square = preconditioner.ndim == 2 and len(set(preconditioner.shape)) == 1
    factor = jnp.linalg.cholesky(preconditioner) if square else None  # once, not at every step
    good_diagonal = holds(lambda c: (c > 0) & np.isfinite(c), preconditioner)
    good_matrix = square and holds(
        lambda c, factor: np.isfinite(factor) & np.isclose(c, c.T), preconditioner, factor
    )

    def check_definite(good: bool) -> None:
        if not good:
            raise ValueError(
                f"`preconditioned` got preconditioner={preconditioner}: "
                "give positive numbers, or a symmetric positive definite matrix."
            )

    check_definite(good_diagonal or good_matrix)

    def root_for(x: Example) -> tuple[Callable[[Array, Array], Array], Array]:
        """Returns the product of C or its root with an array of the shape of x, and that root."""
        if preconditioner.shape == x.shape:
            return jnp.multiply, jnp.sqrt(preconditioner)
        if factor is not None and preconditioner.shape == x.shape * 2:
            return jnp.matmul, factor
        raise ValueError(
            f"`preconditioned` got a preconditioner of shape {preconditioner.shape} for x of "
            f"shape {x.shape}: give that shape, or a square matrix for a vector."
        )

    def init(x: Example) -> LangevinState:
        check_score("preconditioned", score_fn, x)
        times, _ = root_for(x)
        check_definite(good_diagonal if times is jnp.multiply else good_matrix)
        return LangevinState(x)

    def move(noise: Array, state: LangevinState) -> tuple[LangevinState, LangevinInfo]:
        times, root = root_for(state.x)
        score = score_fn(state.x)
        drift = step_size * times(preconditioner, score)
        x = state.x + drift + langevin_scale(step_size, temperature) * times(root, noise)
        return LangevinState(x), LangevinInfo(safe_sqrt(jnp.sum(score**2)))

    return Kernel(init, _draw_normals, move)


def underdamped(
    score_fn: ScoreFn,
    *,
    step_size: float | Scalar,
    friction: float | Scalar,
    temperature: float | Scalar = 1.0,
) -> Kernel:
    """Underdamped Langevin dynamics by the BAOAB splitting; one score per step.

        dx = v dt,   dv = s(x) dt - g v dt + sqrt(2 g T) dW

    On N(0, s^2 I) the distribution of x is exact for every h < 2 s, while v has variance
    T (1 - h^2 / (4 s^2)) instead of T. Chains start at rest.

    Args:
        score_fn: s(x), of the shape of x.
        step_size: h, positive, in the units of x (unit mass).
        friction: g, positive; 1 / g is the time in which v is forgotten.
        temperature: T, not negative.

    Returns:
        A kernel whose state is `UnderdampedState`.

    Raises:
        ValueError: in the cases of `ula`, for a friction that is not positive, and from `init`
            (outside jit) for a score that is not finite at the starting point.

    References:
        Leimkuhler & Matthews, arXiv:1203.5428.
    """
    _check_numbers("underdamped", step_size, temperature)
    check_positive("underdamped", friction=friction)
    keep = jnp.exp(-jnp.asarray(friction) * step_size)
    kick = jnp.sqrt(1 - keep**2) * jnp.sqrt(jnp.asarray(temperature))

    def init(x: Example) -> UnderdampedState:
        check_score("underdamped", score_fn, x)
        score = score_fn(x)
        check_start("underdamped", "score", score)
        return UnderdampedState(x, jnp.zeros_like(x), score)

    def move(noise: Array, state: UnderdampedState) -> tuple[UnderdampedState, LangevinInfo]:
        v = state.v + 0.5 * step_size * state.score
        x = state.x + 0.5 * step_size * v
        v = keep * v + kick * noise
        x = (x + 0.5 * step_size * v).astype(state.x.dtype)
        score = score_fn(x)
        info = LangevinInfo(safe_sqrt(jnp.sum(state.score**2)))
        return UnderdampedState(x, v + 0.5 * step_size * score, score), info

    return Kernel(init, _draw_normals, move)


def boxed(kernel: Kernel, low: float | Scalar, high: float | Scalar) -> Kernel:
    """Returns a Langevin kernel whose point is clipped to [low, high] after every step.

    Args:
        kernel: a kernel whose state is `LangevinState`.
        low: the smallest value of every entry.
        high: the largest value of every entry, above `low`.

    Raises:
        ValueError: if low >= high, and from `init` if the state caches more than x.
    """
    if not holds(operator.lt, low, high):
        raise ValueError(f"`boxed` got low={low}, high={high}: give low < high.")

    def init(x: Example) -> LangevinState:
        state = kernel.init(jnp.clip(x, low, high))
        if not isinstance(state, LangevinState):
            raise ValueError(
                f"`boxed` got a kernel with the state {type(state).__name__}, which caches more "
                "than x: give `ula` or `preconditioned`."
            )
        return state

    def move(noise: Array, state: LangevinState) -> tuple[LangevinState, Any]:
        state, info = kernel.move(noise, state)
        return LangevinState(jnp.clip(state.x, low, high)), info

    return Kernel(init, kernel.draw, move)


def _draw_normals(key: PRNGKey, state: Any, num_steps: int) -> Array:
    return standard_normals(key, state.x, num_steps)


def _check_numbers(name: str, step_size: float | Scalar, temperature: float | Scalar) -> None:
    check_positive(name, step_size=step_size)
    check_not_negative(name, temperature=temperature)
