"""Converts labels of any kind to class numbers, 0 to K - 1."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from ebm_jax.data.images import wrong

Names = tuple[str, ...]


def check_label_shape(
    shape: tuple[int, ...], dtype: np.typing.DTypeLike, count: int, where: str
) -> None:
    """Raises the `DataError` for an array that cannot hold one label per image."""
    if shape not in ((count,), (count, 1)) or np.dtype(dtype).kind not in "biufSU":
        found = f"{where} has shape {shape} and dtype {np.dtype(dtype)}"
        mend = "correct it or leave it out"
        raise wrong(found, f"{count} whole numbers or names, one per image", mend)


def as_labels(array: np.ndarray, count: int, where: str) -> np.ndarray:
    """Returns the labels of `count` images as a flat array of whole numbers or words."""
    check_label_shape(array.shape, array.dtype, count, where)
    labels = array.reshape(count)
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8")
    if labels.dtype.kind == "f":
        whole = labels.astype(np.int64) if np.abs(labels).max(initial=0) < 2**53 else labels[:0]
        if not np.array_equal(whole, labels):  # True for NaN as well
            found = f"{where} has dtype {array.dtype} and values that are no whole numbers"
            raise wrong(found, "whole numbers or names", "correct it or leave it out")
        return whole
    return labels


def number_classes(
    parts: Sequence[np.ndarray | None], where: object
) -> tuple[list[Int32[np.ndarray, "..."] | None], Names | None]:
    """Numbers the labels of all parts jointly: the sorted distinct values become 0 to K - 1.

    Args:
        parts: flat arrays of whole numbers or words, such as the labels of training and test
            images; None for a part without labels. A class may occur in one part only.
        where: source of the labels, for error messages.

    Returns:
        The class numbers of each part, and the K values as words, or None if the values are
        0 to K - 1 already.

    Raises:
        DataError: One part has numbers and another has words.
    """
    distinct = [None if part is None else np.unique(part, return_inverse=True) for part in parts]
    values = {value for pair in distinct if pair is not None for value in pair[0].tolist()}
    if len({isinstance(value, str) for value in values}) > 1:
        found = f"{where} has numbers as labels in one part and words in another"
        raise wrong(found, "the same labels in both", "convert either")
    order = sorted(values)
    number = {value: i for i, value in enumerate(order)}
    numbered = [
        None
        if pair is None
        else np.array([number[value] for value in pair[0].tolist()], np.int32)[pair[1]]
        for pair in distinct
    ]
    return numbered, None if order == list(range(len(order))) else tuple(map(str, order))
