"""Assertions on random quantities, in standard errors instead of tolerances."""

import numpy as np
from numpy.typing import ArrayLike


def assert_mean(draws: ArrayLike, expected: ArrayLike, *, standard_errors: float = 5.0) -> None:
    """The mean of independent `draws` over axis 0 is `expected`, within k standard errors.

    At five, a right answer fails once in two million comparisons; seeds are fixed.
    """
    draws, expected = np.asarray(draws, np.float64), np.asarray(expected, np.float64)
    error = draws.mean(0) - expected
    limit = standard_errors * draws.std(0, ddof=1) / np.sqrt(len(draws)) + 1e-12
    assert np.all(np.abs(error) <= limit), (
        f"mean {draws.mean(0)} is {np.max(np.abs(error) / limit) * standard_errors:.1f} "
        f"standard errors from {expected}"
    )


def assert_variance(
    draws: ArrayLike, expected: ArrayLike, *, mean: ArrayLike, standard_errors: float = 5.0
) -> None:
    """The variance of independent `draws` about a known `mean` is `expected`."""
    squares = (np.asarray(draws, np.float64) - np.asarray(mean)) ** 2
    assert_mean(squares, expected, standard_errors=standard_errors)


def assert_normal(draws: ArrayLike, mean: ArrayLike, variance: ArrayLike) -> None:
    """Independent `draws` over axis 0 are N(mean, variance), coordinate by coordinate.

    Two moments, and E cos(z) = exp(-1/2), E cos(2 z) = exp(-2) of the standardized
    draws: bounded, so that heavy tails cannot hide behind the standard error they make.
    """
    assert_mean(draws, mean)
    assert_variance(draws, variance, mean=mean)
    z = (np.asarray(draws, np.float64) - np.asarray(mean)) / np.sqrt(variance)
    assert_mean(np.cos(z), np.exp(-0.5))
    assert_mean(np.cos(2 * z), np.exp(-2.0))
