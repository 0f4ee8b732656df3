"""Langevin kernels: x' = x + h s(x) + sqrt(2 h T) n, step size h, temperature T.

At T = 1 and h -> 0 the chain's law tends to p(x) ~ exp(-E(x)), s = -grad E; at
another T to p^(1/T). Without a Metropolis step the law at finite h is biased.
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
    """The chain's point."""

    x: Example


class UnderdampedState(NamedTuple):
    """The chain's point, its velocity, and the score at the point."""

    x: Example
    v: Example
    score: Example


class LangevinInfo(NamedTuple):
    """The Euclidean norm of the score at the point that the step left."""

    score_norm: Scalar


def ula(
    score_fn: ScoreFn, *, step_size: float | Scalar, temperature: float | Scalar = 1.0
) -> Kernel:
    """The unadjusted Langevin algorithm: x' = x + h s(x) + sqrt(2 h T) n.

    On N(0, s^2 I) its stationary variance is T s^2 / (1 - h / (2 s^2)) instead of
    T s^2: the bias of a finite step. It diverges for h > 2 s^2.

    Args:
        score_fn: s(x) = grad log p(x), of the shape of x; for an energy use
            `calculus.score_from_energy`.
        step_size: h, positive, in squared units of x.
        temperature: T, not negative; 1 samples p itself.

    Returns:
        A kernel whose state is `LangevinState`.

    Raises:
        ValueError: for a step size or temperature out of range, and from `init`
            when the score's shape is not that of x.

    References:
        Roberts & Tweedie, Exponential convergence of Langevin distributions and
        their discrete approximations, Bernoulli 1996.
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
    """Langevin in other units: x' = x + h C s(x) + sqrt(2 h T) C^(1/2) n.

    It is `ula` on y = C^(-1/2) x. With C the covariance of a Gaussian law every
    direction has the stationary variance T c / (1 - h / 2) of `ula` on N(0, I).

    Args:
        score_fn: s(x), of the shape of x.
        step_size: h, positive; below 2 where C is the law's covariance.
        preconditioner: C. An array of the shape of x is its diagonal, with positive entries;
            for an x of shape (n,), an array of shape (n, n) is the whole matrix, symmetric
            and positive definite.
        temperature: T, not negative.

    Returns:
        A kernel whose state is `LangevinState`.

    Raises:
        ValueError: as `ula`, and, also from `init`, for a C that is known and not symmetric
            and positive definite.
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
        """How C and its root multiply an array of the shape of x, and that root."""
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
    """Underdamped Langevin dynamics by the splitting BAOAB, one score a step.

        dx = v dt,   dv = s(x) dt - g v dt + sqrt(2 g T) dW

    On N(0, s^2 I) the law of x is exact for every h < 2 s, while v has variance
    T (1 - h^2 / (4 s^2)) instead of T. Chains start at rest.

    Args:
        score_fn: s(x), of the shape of x.
        step_size: h, positive, in units of x (unit mass).
        friction: g, positive; 1 / g is the time over which v is forgotten.
        temperature: T, not negative.

    Returns:
        A kernel whose state is `UnderdampedState`.

    Raises:
        ValueError: as `ula`, for a friction that is not positive, and from `init` (outside
            jit) for a score that is not finite at the starting point.

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
    """A Langevin kernel whose point is clipped to [low, high] after every step.

    Args:
        kernel: one whose state is `LangevinState`.
        low: the least value of every entry.
        high: the greatest, above `low`.

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
