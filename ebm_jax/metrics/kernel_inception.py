"""Kernel distances between sets of features: KID, when the features are Inception's.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)     over distinct rows

The estimate is unbiased on each subset, and averaged over subsets. If both distributions agree,
its expectation is 0 at any number of rows, and it is as likely to be negative as positive.

A kernel of inner products is computed by XLA matmuls; within a subset they cost little more than
half of all pairs. Matmuls and k run in the precision of the features. Sums run in float64,
because the distance is a small difference of them: float32 matmuls have random errors, which
change the mean by 1e-8 for a kernel of order 1, while float32 sums would change it by 1e-7, a
ten-thousandth of a distance of 1e-3.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy import ndarray

from ebm_jax._checks import check_count
from ebm_jax._precision import widened
from ebm_jax.metrics.features import Features, check_finite, check_rows
from ebm_jax.types import Estimate, Example, PRNGKey, Scalar

Index = Int[ndarray, "subsets size"]
Strips = list[Float[Array, "_ _"]]  # each: BLOCK rows against themselves and all later rows

BLOCK = 512  # rows of a strip: fewer compute fewer pairs twice, more make faster matmuls


def cubic(mean_product: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """The polynomial kernel of KID, (x . y / d + 1)^3, as a function of x . y / d."""
    shifted = mean_product + 1
    return shifted * shifted * shifted


def kernel_distance(
    key: PRNGKey,
    x: Features,
    y: Features,
    *,
    subset_size: int = 1000,
    num_subsets: int = 100,
    kernel: Callable[[Array], Array] = cubic,
) -> Estimate:
    """Returns the squared MMD between two sets of features over random subsets: KID.

    Args:
        key: PRNG key of the subsets, which are drawn without replacement.
        x: the first set, (n, d). Float64 features use a float64 matmul, at twice the time; that
            pays off only if their mean is at least a hundred times their spread.
        y: the second set, (m, d).
        subset_size: rows of each set in a subset, at least 2.
        num_subsets: number of subsets, at least 2.
        kernel: elementwise jax.numpy function of a table of x . y / d over pairs of rows. For a
            kernel that is not a function of inner products see `general_kernel_distance`.

    Returns:
        The mean over subsets and its standard error over subsets.

    Raises:
        ValueError: for fewer rows than subset_size, sets of different widths, features that
            are not finite, or fewer than 2 subsets.

    References:
        Binkowski et al., arXiv:1801.01401.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> x, y = np.random.default_rng(0).normal(size=(2, 300, 8)).astype(np.float32)
        >>> kid = metrics.kernel_distance(jax.random.key(0), x, y, subset_size=100)
        >>> shifted = metrics.kernel_distance(jax.random.key(0), x, y + 1, subset_size=100)
        >>> abs(kid.value) < 0.1 < shifted.value
        True
    """
    _check("kernel_distance", x, y, subset_size, num_subsets)
    return _mean(subset_distances(x, y, *_draw(key, x, y, subset_size, num_subsets), kernel=kernel))


def subset_distances(
    x: Features,
    y: Features,
    index_x: Index,
    index_y: Index,
    *,
    kernel: Callable[[Array], Array] = cubic,
) -> Float[ndarray, " subsets"]:
    """Returns the squared MMD of each given subset: `kernel_distance` before the mean.

    Use it with the subsets of another package.

    Args:
        x: the first set of features, (n, d).
        y: the second set of features, (m, d).
        index_x: rows of x in each subset, integers of shape (subsets, size).
        index_y: rows of y in each subset, with as many subsets.
        kernel: as in `kernel_distance`.

    Raises:
        ValueError: for features of different widths, or tables that do not hold equally many
            subsets of at least 2 existing rows.
    """
    check_rows("subset_distances", x, y, least=2)
    tables = np.asarray(index_x), np.asarray(index_y)
    for table, features in zip(tables, (x, y), strict=True):
        if (
            table.ndim != 2
            or len(table) != len(tables[0])
            or table.shape[1] < 2
            or (table.size and not -1 < table.min() <= table.max() < len(features))
        ):
            raise ValueError(
                f"`subset_distances` got tables of shapes {tables[0].shape} and {tables[1].shape} "
                f"for {len(x)} and {len(y)} rows: give (subsets, size) of rows from 0 on for both, "
                "with as many subsets, and at least 2 rows in each."
            )
    x, y = (np.asarray(z, np.promote_types(z.dtype, np.float32)) for z in (x, y))
    subsets = zip(index_x, index_y, strict=True)
    with jax.enable_x64(True):  # one subset at a time: `float` waits for it
        return np.array([float(_unbiased(kernel, *_mean_products(x[i], y[j]))) for i, j in subsets])


def general_kernel_distance(
    kernel: Callable[[Example, Example], Scalar],
    key: PRNGKey,
    x: Features,
    y: Features,
    *,
    subset_size: int = 1000,
    num_subsets: int = 100,
) -> Estimate:
    """Returns `kernel_distance` for any symmetric kernel k(x, y) of two examples, in float32.

    Each pair takes d operations outside of a matmul: for a kernel of inner products,
    `kernel_distance` is many times faster.

    Args:
        kernel: k(x, y), a scalar. It must be symmetric, since only half of the pairs within a
            set are evaluated.
        key: PRNG key of the subsets.
        x: the first set, (n, d).
        y: the second set, (m, d).
        subset_size: rows of each set in a subset, at least 2.
        num_subsets: number of subsets, at least 2.

    Returns:
        The mean over subsets and its standard error over subsets.

    Raises:
        ValueError: for the arguments that `kernel_distance` rejects.
    """
    _check("general_kernel_distance", x, y, subset_size, num_subsets)
    x, y = widened(x), widened(y)
    indices = zip(*_draw(key, x, y, subset_size, num_subsets), strict=True)
    distances = np.array([_general(kernel, x[i], y[j]) for i, j in indices], np.float64)
    return _mean(distances)


def _check(name: str, x: Features, y: Features, subset_size: int, num_subsets: int) -> None:
    check_count(name, least=2, subset_size=subset_size, num_subsets=num_subsets)
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


def _mean(distances: Float[ndarray, " subsets"]) -> Estimate:
    error = np.std(distances, ddof=1) / np.sqrt(len(distances))
    return Estimate(float(np.mean(distances)), float(error))


@jax.jit
def _mean_products(
    x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> tuple[Strips, Strips, Float[Array, "n m"]]:
    """Returns x . y / d over pairs of rows: x with x in strips, y with y in strips, x with y.

    This is a program of its own: fused with the sums of `_unbiased`, XLA's matmul takes twice
    the time.
    """

    def table(a: Float[Array, "a d"], b: Float[Array, "b d"]) -> Float[Array, "a b"]:
        return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST) / a.shape[1]

    def strips(rows: Float[Array, "_ d"]) -> Strips:
        return [table(rows[i : i + BLOCK], rows[i:]) for i in range(0, len(rows), BLOCK)]

    return strips(x), strips(y), table(x, y)


@partial(jax.jit, static_argnums=0)
def _unbiased(
    kernel: Callable[[Array], Array],
    within_x: Strips,
    within_y: Strips,
    across: Float[Array, "n m"],
) -> Scalar:
    """Returns the squared MMD: means of k over pairs, distinct ones within x and within y."""
    total = partial(jnp.sum, dtype=jnp.float64)

    def over_distinct_pairs(strips: Strips) -> Scalar:
        n, sums = strips[0].shape[1], jnp.float64(0)
        for strip in map(kernel, strips):
            square = strip[:, : len(strip)]  # holds its pairs twice; the rest holds them once
            sums += 2 * total(strip) - total(square) - total(jnp.diagonal(square))
        return sums / (n * (n - 1))

    mean_across = total(kernel(across)) / across.size
    return over_distinct_pairs(within_x) + over_distinct_pairs(within_y) - 2 * mean_across


@partial(jax.jit, static_argnums=0)
def _general(
    kernel: Callable[[Example, Example], Scalar],
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
) -> Scalar:
    across = jax.lax.map(lambda row: jnp.mean(jax.vmap(partial(kernel, row))(y)), x)
    return _within(kernel, x) + _within(kernel, y) - 2 * jnp.mean(across)


def _within(kernel: Callable[[Example, Example], Scalar], x: Float[Array, "n d"]) -> Scalar:
    """Returns the mean of k over distinct pairs: row i with row i + s, for shifts s up to n / 2.

    For an even n the last shift meets every pair twice, and has half the weight.
    """
    n = x.shape[0]
    shifts = jnp.arange(1, n // 2 + 1)
    means = jax.lax.map(lambda s: jnp.mean(jax.vmap(kernel)(x, jnp.roll(x, s, 0))), shifts)
    weights = jnp.where(2 * shifts == n, 0.5, 1.0)
    return jnp.sum(means * weights) / ((n - 1) / 2)
