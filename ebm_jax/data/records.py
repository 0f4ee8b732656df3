"""Arrays that stay on disk: values are read by grain's threads when indexed, and not kept.

A set that does not fit in memory is indexed like one that does. Anything that visits it in the
order of `batch_indices` sees the same images, whichever process reads them.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

Values = Sequence[Any] | np.ndarray
MOST_THREADS = 16
MOST_AT_ONCE = 32  # records that a thread reads per request


class Records:
    """An array of n values on disk, one per record, each read when it is indexed.

    `records[index]` equals the same index of the NumPy array of all values, for a whole number,
    a slice, or an array of whole numbers of any shape. `only(index)` selects without reading.
    `np.asarray(records)` reads everything.

    Examples:
        >>> import numpy as np
        >>> from ebm_jax import data
        >>> squares = data.Records(lambda n: [i * i for i in n], np.arange(10), (), np.int32)
        >>> squares.shape, squares[2:5].tolist(), squares.only([9, 3])[:].tolist()
        ((10,), [4, 9, 16], [81, 9])
    """

    def __init__(
        self,
        read: Callable[[list[int]], Values],
        numbers: np.ndarray,
        shape: tuple[int, ...],
        dtype: np.typing.DTypeLike,
    ):
        """Creates an array of the records `numbers`, a one-dimensional array of whole numbers.

        Args:
            read: read(numbers) returns the values of those records, each of shape `shape`. It is
                called from several threads at once.
            numbers: the number of each record, in the order of the array.
            shape: shape of one value.
            dtype: dtype of the values.
        """
        self._read, self._numbers = read, numbers
        self.shape, self.dtype = (len(numbers), *shape), np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
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
        """Selects records by a slice or a one-dimensional array, without reading them."""
        return Records(self._read, self._numbers[index], self.shape[1:], self.dtype)


def _in_parallel(
    read: Callable[[list[int]], Values], numbers: np.ndarray
) -> Iterator[tuple[int, Values]]:
    """Yields pairs of a position in `numbers` and the values read from there on, in order."""
    threads = min(MOST_THREADS, 2 * (os.cpu_count() or 1))  # some are waiting for the disk
    size = max(1, min(MOST_AT_ONCE, -(-len(numbers) // threads)))
    starts = range(0, len(numbers), size)

    def read_from(start: int) -> tuple[int, Values]:
        return start, read(numbers[start : start + size].tolist())

    if len(starts) <= 1:  # too little to start threads for
        yield from map(read_from, starts)
        return
    import grain

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    chunks = grain.MapDataset.source(starts).map(read_from).to_iter_dataset(options)
    with closing(iter(chunks)) as iterator:
        yield from iterator
