"""Kernel distances between sets of features: KID, when they are Inception's.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)     over distinct rows

the unbiased estimate on subsets, and its mean over subsets: 0 on average where both laws
agree, at any number of rows, and then values below 0 are as likely as above.

A kernel of inner products costs one symmetric matmul of both subsets stacked, half the
work of a full one. It runs in the precision of the features; k and its sums, whose
differences the distance is, run in float64 where it matters: a float32 matmul errs at
random and costs the mean 1e-8 of a kernel of order 1, while sums in float32 would cost
1e-7, a part in ten thousand of a distance of 1e-3.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy import ndarray

from ebm_jax.metrics.features import Features, check_finite, check_rows
from ebm_jax.types import Example, PRNGKey, Scalar

Index = Int[ndarray, "subsets size"]


class KernelDistance(NamedTuple):
    """A mean over subsets of rows.

    Attributes:
        value: the mean, unbiased.
        standard_error: of the mean, by the spread over subsets: what more subsets would
            change. Where they draw every row several times, other rows would change more.
    """

    value: float
    standard_error: float


def cubic(mean_product: Float[ndarray, "n m"]) -> Float[ndarray, "n m"]:
    """(x . y / d + 1)^3, the kernel of KID, of x . y / d."""
    shifted = mean_product + 1
    return shifted * shifted * shifted


def kernel_distance(
    key: PRNGKey,
    x: Features,
    y: Features,
    *,
    subset_size: int = 1000,
    num_subsets: int = 100,
    kernel: Callable[[ndarray], ndarray] = cubic,
) -> KernelDistance:
    """The squared MMD between two sets of features, over random subsets.

    Args:
        key: PRNG key of the subsets, which are drawn without replacement.
        x: the first set; in float64 the matmul is too, at twice the time.
        y: the second set.
        subset_size: rows of each set in a subset, at least 2.
        num_subsets: subsets, at least 2.
        kernel: elementwise, of the table of x . y / d over pairs of rows. For a kernel
            that is no function of inner products see `general_kernel_distance`.

    Raises:
        ValueError: for fewer rows than subset_size, two widths, features that are not
            finite, or too few subsets.

    References:
        Binkowski et al., arXiv:1801.01401.
    """
    _check("kernel_distance", x, y, subset_size, num_subsets)
    return _mean(subset_distances(x, y, *_draw(key, x, y, subset_size, num_subsets), kernel=kernel))


def subset_distances(
    x: Features,
    y: Features,
    index_x: Index,
    index_y: Index,
    *,
    kernel: Callable[[ndarray], ndarray] = cubic,
) -> Float[ndarray, " subsets"]:
    """The squared MMD of every subset, given by its rows: `kernel_distance` before the mean.

    Takes two tables of as many subsets, such as those of another package.
    """
    x, y = (np.asarray(z, np.promote_types(z.dtype, np.float32)) for z in (x, y))
    distances = np.empty(len(index_x))
    for s, (i, j) in enumerate(zip(index_x, index_y, strict=True)):
        rows = np.concatenate([x[i], y[j]])
        products = rows @ rows.T  # numpy sees the transpose and computes one triangle
        distances[s] = _unbiased(kernel(np.divide(products, rows.shape[1], out=products)), len(i))
    return distances


def general_kernel_distance(
    kernel: Callable[[Example, Example], Scalar],
    key: PRNGKey,
    x: Features,
    y: Features,
    *,
    subset_size: int = 1000,
    num_subsets: int = 100,
) -> KernelDistance:
    """`kernel_distance` for any symmetric kernel k(x, y) of two examples, in float32.

    Takes d operations a pair without a matmul: for a kernel of inner products
    `kernel_distance` is many times faster.

    Args:
        kernel: k(x, y), a scalar; symmetric, so that a set needs half of its pairs.
        key: PRNG key of the subsets.
        x: the first set.
        y: the second set.
        subset_size: rows of each set in a subset, at least 2.
        num_subsets: subsets, at least 2.

    Raises:
        ValueError: for what `kernel_distance` refuses.
    """
    _check("general_kernel_distance", x, y, subset_size, num_subsets)
    x, y = jnp.asarray(x), jnp.asarray(y)
    indices = zip(*_draw(key, x, y, subset_size, num_subsets), strict=True)
    distances = np.array([_general(kernel, x[i], y[j]) for i, j in indices], np.float64)
    return _mean(distances)


def _check(name: str, x: Features, y: Features, subset_size: int, num_subsets: int) -> None:
    if min(subset_size, num_subsets) < 2:
        raise ValueError(
            f"`{name}` got subset_size={subset_size} and num_subsets={num_subsets}: "
            "give at least 2 of each."
        )
    check_rows(name, x, y, least=1)
    check_finite(name, np.array([float(end) for z in (x, y) for end in (z.min(), z.max())]))
    n = min(x.shape[0], y.shape[0])
    if n < subset_size:
        raise ValueError(
            f"`{name}` got subset_size={subset_size}, and only {n} rows of features in the "
            "smaller set: give more rows, or a smaller subset_size."
        )


def _draw(key: PRNGKey, x: Features, y: Features, size: int, count: int) -> tuple[Index, Index]:
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    draws = [
        (rng.choice(len(x), size, False), rng.choice(len(y), size, False)) for _ in range(count)
    ]
    index_x, index_y = zip(*draws, strict=True)
    return np.stack(index_x), np.stack(index_y)


def _mean(distances: Float[ndarray, " subsets"]) -> KernelDistance:
    error = np.std(distances, ddof=1) / np.sqrt(len(distances))
    return KernelDistance(float(np.mean(distances)), float(error))


def _unbiased(table: Float[ndarray, "m m"], n: int) -> float:
    """From k over all pairs of rows, the first n of them those of x, the others those of y."""
    m = len(table) - n
    total = partial(np.sum, dtype=np.float64)
    diagonal = np.diagonal(table)
    within_x = total(table[:n, :n]) - total(diagonal[:n])
    within_y = total(table[n:, n:]) - total(diagonal[n:])
    across = total(table[:n, n:])
    return float(within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m))


@partial(jax.jit, static_argnums=0)
def _general(
    kernel: Callable[[Example, Example], Scalar],
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
) -> Scalar:
    across = jax.lax.map(lambda row: jnp.mean(jax.vmap(partial(kernel, row))(y)), x)
    return _within(kernel, x) + _within(kernel, y) - 2 * jnp.mean(across)


def _within(kernel: Callable[[Example, Example], Scalar], x: Float[Array, "n d"]) -> Scalar:
    """The mean over distinct pairs: row i with row i + s, for the shifts s up to half of n.

    Of an even n the last shift meets every pair twice, and counts half.
    """
    n = x.shape[0]
    shifts = jnp.arange(1, n // 2 + 1)
    means = jax.lax.map(lambda s: jnp.mean(jax.vmap(kernel)(x, jnp.roll(x, s, 0))), shifts)
    weights = jnp.where(2 * shifts == n, 0.5, 1.0)
    return jnp.sum(means * weights) / ((n - 1) / 2)
