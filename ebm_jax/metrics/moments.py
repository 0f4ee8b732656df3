"""Mean and covariance of features in one pass, in float64.

Blocks are centered before they are squared, and merged by

    n = n_a + n_b,  delta = m_b - m_a,  m = m_a + delta n_b / n
    S = S_a + S_b + delta delta^T n_a n_b / n,   C = S / (n - 1)

so features far from 0 lose no digits. A stream is first regrouped into blocks of a fixed size:
the same rows in the same order give the same bits, whatever batches they come in.

References:
    Chan, Golub & LeVeque, Updating formulae and a pairwise algorithm for computing
    sample variances, 1979.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.linalg.blas import dsyrk

from ebm_jax.metrics.features import Features, check_finite, check_rows

BLOCK = 4096  # rows in float64 at once: 64 MiB at 2,048 features


class Moments(NamedTuple):
    """Mean and covariance of a set of features, both in float64.

    Attributes:
        n: number of rows; None if the file that the moments come from does not record it.
        mean: mean over rows, (d,).
        covariance: covariance normalized by n - 1, (d, d).
    """

    n: int | None
    mean: Float[ndarray, " d"]
    covariance: Float[ndarray, "d d"]


def moments(features: Features | Iterable[Features]) -> Moments:
    """Returns the moments of features, given as one array or as batches that need not be kept.

    Args:
        features: (n, d), or an iterable of (n_i, d) such as a generator over images.

    Raises:
        ValueError: for fewer than 2 rows in all, batches of different widths, or features
            that are not finite.

    Examples:
        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> x = np.random.default_rng(0).normal(size=(1000, 3))
        >>> n, mean, covariance = metrics.moments(x[i : i + 100] for i in range(0, 1000, 100))
        >>> n, bool(np.allclose(covariance, np.cov(x.T)))
        (1000, True)
    """
    return moments_for("moments", features)


def moments_for(name: str, features: Features | Iterable[Features]) -> Moments:
    """Returns `moments`; errors name the function `name`, which the user called."""
    batches = (features,) if isinstance(features, ndarray | jax.Array) else features
    n, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for block in _regrouped(name, batches):
        m = len(block) - 1
        with np.errstate(invalid="ignore"):
            block_mean = np.mean(block[:m], 0)
        check_finite(name, block_mean)
        if not n:
            mean, scatter = np.zeros_like(block_mean), np.zeros((block_mean.size,) * 2, order="F")
        delta = block_mean - mean
        block[:m] -= block_mean
        block[m] = delta * np.sqrt(n * m / (n + m))  # delta delta^T comes in as one more row
        scatter = dsyrk(1.0, block.T, beta=1.0, c=scatter, overwrite_c=True)
        mean += delta * (m / (n + m))
        n += m
    if n < 2:
        raise ValueError(f"`{name}` got {n} rows of features: give at least 2.")
    upper = np.triu(scatter) / (n - 1)  # the half that dsyrk computes
    return Moments(n, mean, upper + np.triu(upper, 1).T)


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Returns the moments of two sets together, as if their rows had come in one stream.

    Args:
        a: moments of the first set.
        b: moments of the second set.

    Raises:
        ValueError: if the size of one is unknown, or their widths differ.

    Examples:
        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> x, y = np.random.default_rng(0).normal(size=(2, 50, 3))
        >>> both = metrics.merge_moments(metrics.moments(x), metrics.moments(y))
        >>> both.n, bool(np.allclose(both.covariance, np.cov(np.concatenate([x, y]).T)))
        (100, True)
    """
    if a.n is None or b.n is None:
        raise ValueError(f"`merge_moments` got n={a.n} and n={b.n}: both must be known.")
    check_widths("merge_moments", a, b)
    n, delta = a.n + b.n, b.mean - a.mean
    scatter = (a.n - 1) * a.covariance + (b.n - 1) * b.covariance
    scatter += np.outer(delta, delta) * (a.n * b.n / n)
    return Moments(n, a.mean + delta * (b.n / n), scatter / (n - 1))


def check_widths(name: str, a: Moments, b: Moments) -> None:
    """Raises the ValueError for moments of different widths."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"`{name}` got moments of {a.mean.size} and of {b.mean.size} features: "
            "take both from one feature function."
        )


def _regrouped(name: str, batches: Iterable[Features]) -> Iterator[Float[ndarray, "m d"]]:
    """Yields the rows of all batches in float64, in blocks of BLOCK; the last may be shorter.

    Each block has one spare row at its end. The caller may overwrite the block until it asks for
    the next.
    """
    buffer, filled = np.zeros((0, 0)), 0
    for batch in batches:
        check_rows(name, batch, *([buffer] if buffer.size else []), least=0)
        if not buffer.size:
            buffer = np.empty((BLOCK + 1, batch.shape[1]))
        start = 0
        while start < batch.shape[0]:
            rows = batch[start : start + BLOCK - filled]
            buffer[filled : filled + len(rows)] = rows
            start, filled = start + len(rows), filled + len(rows)
            if filled == BLOCK:
                yield buffer
                filled = 0
    if filled:
        yield buffer[: filled + 1]
