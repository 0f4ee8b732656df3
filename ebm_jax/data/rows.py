"""Lazy indexing, by which each process reads only its own examples."""

from typing import Any

import numpy as np
from jaxtyping import Int


class Rows:
    """A lazy `source[index]`: each process reads only the rows that its own devices hold.

    It is sliced like the array that it stands for; `sharding.split` does so.

    Args:
        source: an array of examples, or anything that can be indexed by an integer array.
        index: indices of the examples, such as the (steps, batch) array of `batch_indices`.

    Examples:
        >>> import numpy as np
        >>> from ebm_jax import data
        >>> rows = data.Rows(np.arange(20).reshape(10, 2), np.array([[9, 0], [4, 4]]))
        >>> rows.shape, rows[0].tolist()
        ((2, 2, 2), [[18, 19], [0, 1]])
    """

    def __init__(self, source: Any, index: Int[np.ndarray, "..."]) -> None:
        self.source, self.index = source, index
        self.shape = (*index.shape, *source.shape[1:])
        self.dtype = source.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        slices = key if isinstance(key, tuple) else (key,)
        depth = self.index.ndim
        picked = self.index[slices[:depth]]
        rest = (slice(None),) * picked.ndim + slices[depth:]
        return np.asarray(self.source[picked])[rest]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads all rows."""
        return np.asarray(self.source[self.index], dtype)
