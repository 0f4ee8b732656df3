"""Mean and covariance of features in one pass, in float64, however the stream is cut.

Blocks are centered before they are squared, and merged by

    n = n_a + n_b,  delta = m_b - m_a,  m = m_a + delta n_b / n
    S = S_a + S_b + delta delta^T n_a n_b / n,   C = S / (n - 1)

so that features far from 0 lose no digits. A stream is regrouped into blocks of a fixed
size first: the same rows in the same order give the same bits, cut as they may be.

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
        n: rows that they were taken from; None where a file does not say.
        mean: over rows.
        covariance: with n - 1.
    """

    n: int | None
    mean: Float[ndarray, " d"]
    covariance: Float[ndarray, "d d"]


def moments(features: Features | Iterable[Features]) -> Moments:
    """The moments of features, given whole or as batches that need not be kept.

    Args:
        features: (n, d), or an iterable of (n_i, d) such as a generator over images.

    Raises:
        ValueError: for fewer than 2 rows in all, batches of several widths, or features
            that are not finite.
    """
    return moments_for("moments", features)


def moments_for(name: str, features: Features | Iterable[Features]) -> Moments:
    """`moments`, with errors that name the function that was called."""
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
    """The moments of both sets together, as if their rows had come in one stream.

    Raises:
        ValueError: if the size of one is unknown, or their widths differ.
    """
    if a.n is None or b.n is None:
        raise ValueError(f"`merge_moments` got n={a.n} and n={b.n}: both must be known.")
    check_widths("merge_moments", a, b)
    n, delta = a.n + b.n, b.mean - a.mean
    scatter = (a.n - 1) * a.covariance + (b.n - 1) * b.covariance
    scatter += np.outer(delta, delta) * (a.n * b.n / n)
    return Moments(n, a.mean + delta * (b.n / n), scatter / (n - 1))


def check_widths(name: str, a: Moments, b: Moments) -> None:
    """Raise the ValueError of moments of features of two widths."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"`{name}` got moments of {a.mean.size} and of {b.mean.size} features: "
            "take both from one feature function."
        )


def _regrouped(name: str, batches: Iterable[Features]) -> Iterator[Float[ndarray, "m d"]]:
    """The rows of all batches in float64, in blocks of BLOCK; the last one may be shorter.

    Behind every block comes one free row. Both are the caller's until the next is asked for.
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
