"""Examples that are read when and where they are asked for."""

from typing import Any

import numpy as np
from jaxtyping import Int


class Rows:
    """source[index], of which each process reads what its devices hold, and no more.

    Slices are taken of it as of the array that it stands for; `sharding.split` does so.

    Args:
        source: an array of examples, or anything that an integer array may index so.
        index: which examples, such as the (steps, batch) of `batch_indices`.
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
        """Everything, as numpy asks for it."""
        return np.asarray(self.source[self.index], dtype)
