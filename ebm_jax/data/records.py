"""Arrays that stay on disk: what is asked for is read, by grain's threads, and forgotten.

A set that does not fit in memory is indexed like one that does, so that whatever visits it in
the order of `batch_indices` sees the same images, whichever process reads which of them.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

Values = Sequence[Any] | np.ndarray
MOST_THREADS = 16
MOST_AT_ONCE = 32  # records that a thread reads before it hands them over


class Records:
    """n values of one shape, each in a record of its own that is read when it is indexed.

    `records[index]` is what numpy would give for the array of all values: for a whole number,
    a slice, or an array of whole numbers of any shape. `only(index)` selects without reading.
    `np.asarray(records)` reads everything.
    """

    def __init__(
        self,
        read: Callable[[list[int]], Values],
        numbers: np.ndarray,
        shape: tuple[int, ...],
        dtype: np.typing.DTypeLike,
    ):
        """Values of the records `numbers`, a one-dimensional array of whole numbers.

        Args:
            read: read(numbers), the values of those records, each of shape `shape`; it is
                called by several threads at once.
            numbers: which records, in the order of the array that this stands for.
            shape: of one value.
            dtype: of the values.
        """
        self._read, self._numbers = read, numbers
        self.shape, self.dtype = (len(numbers), *shape), np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """Axes, as of the array that this stands for."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> np.ndarray:
        numbers = np.asarray(self._numbers[index])
        flat = numbers.ravel()
        values = np.empty((flat.size, *self.shape[1:]), self.dtype)
        for start, some in _in_parallel(self._read, flat):
            values[start : start + len(some)] = some
        return values.reshape((*numbers.shape, *self.shape[1:]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("Records lie on disk: asarray(records, copy=False) cannot be.")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def only(self, index: Any) -> "Records":
        """The records that a slice or a one-dimensional array picks, unread."""
        return Records(self._read, self._numbers[index], self.shape[1:], self.dtype)


def _in_parallel(
    read: Callable[[list[int]], Values], numbers: np.ndarray
) -> Iterator[tuple[int, Values]]:
    """Pairs of a position in `numbers` and the values read from there on, in order."""
    threads = min(MOST_THREADS, 2 * (os.cpu_count() or 1))  # some wait for the disk
    size = max(1, min(MOST_AT_ONCE, -(-len(numbers) // threads)))
    starts = range(0, len(numbers), size)

    def read_from(start: int) -> tuple[int, Values]:
        return start, read(numbers[start : start + size].tolist())

    if len(starts) <= 1:  # a thread is not worth its start
        yield from map(read_from, starts)
        return
    import grain

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    chunks = grain.MapDataset.source(starts).map(read_from).to_iter_dataset(options)
    with closing(iter(chunks)) as iterator:
        yield from iterator
