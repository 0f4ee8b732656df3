"""Checks of features: tables of numbers from Inception or any other function.

Float32 features can take hundreds of megabytes. Functions that need float64 convert them block
by block and never hold a second copy.
"""

import numpy as np
from jaxtyping import Array, Float, Shaped
from numpy import ndarray

from ebm_jax._precision import check_numbers

# (rows, features) of any numeric dtype, NumPy or JAX. The sizes are unnamed because
# `check_rows` compares widths itself, with a readable message.
Features = Shaped[ndarray, "_ _"] | Shaped[Array, "_ _"]


def check_rows(name: str, *sets: Features, least: int, what: str = "features") -> None:
    """Raises the ValueError for sets with too few rows, or of different widths."""
    for features in sets:
        check_numbers(name, **{what: features})
        if features.ndim != 2 or features.shape[0] < least:
            raise ValueError(
                f"`{name}` got {what} of shape {features.shape}: "
                f"give (rows, {what}) with at least {least} rows."
            )
    widths = [features.shape[1] for features in sets]
    if len(set(widths)) > 1:
        raise ValueError(
            f"`{name}` got features of widths {widths[0]} and {widths[1]}: "
            "take both from one feature function."
        )


def check_finite(name: str, sums: Float[ndarray, "..."], what: str = "features") -> None:
    """Raises the ValueError for features that are not finite, given sums over all of them."""
    if not np.isfinite(sums).all():
        raise ValueError(
            f"`{name}` got {what} that are not finite: "
            "look for nan and infinity in the images and in the network."
        )
