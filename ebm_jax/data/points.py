"""Reads points of any dimension from .npy, .csv and .npz files, one example per row.

Headers are read first, so a file of the wrong kind or one that is too large is refused at
once. Nothing is unpickled.
"""

import csv
import hashlib
import math
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from ebm_jax.data.arrays import Header, read_array, read_headers
from ebm_jax.data.images import reading, wrong
from ebm_jax.data.memory import check_fits

SOURCE = "a .npy, .csv or .npz file of numbers, one example per row"
LEAST = 20  # rows of a file, including those to be held out
_TRAIN, _TEST = ("x_train", "x"), ("x_test",)
_COPIES = 3  # in memory at once: the file's array, the float64 array, the split parts
_FEWER = "take fewer rows"
_TEXT = 4  # memory to read a .csv, in multiples of its size


class Points(NamedTuple):
    """Training points and held-out points, in the units of the file.

    Attributes:
        train: the training points, of shape (n, d).
        held_out: the points for evaluation, of shape (m, d).
        names: names of the d columns; "x0", "x1", ... if the file has none.
    """

    train: Float64[np.ndarray, "n d"]
    held_out: Float64[np.ndarray, "m d"]
    names: tuple[str, ...]

    def fingerprint(self) -> dict[str, Any]:
        """Returns counts, names and the SHA-256 checksum of all values, as plain JSON."""
        digest = hashlib.sha256()
        for part in (self.train, self.held_out):
            digest.update(np.ascontiguousarray(part).data)
        counts = {"count": len(self.train), "held_out": len(self.held_out)}
        return {**counts, "names": list(self.names), "checksum": digest.hexdigest()}


def load_points(
    path: str | os.PathLike[str], *, held_out: float = 0.25, max_held_out: int = 10_000
) -> Points:
    """Loads points and splits them by one fixed permutation, the same in every run.

    Args:
        path: one of
            a `.npy` with an array of shape (n, d);
            a `.csv`, separated by commas, semicolons or tabs, with or without a header line;
            an `.npz` with one such array, or one named x or x_train. An array named x_test is
                the held-out part.
        held_out: fraction of the rows to hold out if the file has no x_test, in (0, 1).
        max_held_out: upper limit on the number of rows held out this way, at least 1.

    Raises:
        DataError: The path is missing, damaged, too large or of another kind; the file has
            fewer than 20 rows, numbers that are not finite or a column that is constant.

    Examples:
        >>> import tempfile, numpy as np
        >>> from ebm_jax import data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/x.npy", np.random.default_rng(0).normal(size=(100, 3)))
        ...     points = data.load_points(f"{folder}/x.npy")
        >>> points.train.shape, points.held_out.shape, points.names
        ((75, 3), (25, 3), ('x0', 'x1', 'x2'))
    """
    path = Path(path)
    if not path.is_file():
        raise wrong(f"'{path}' does not exist or is a folder", SOURCE, "check its spelling")
    with reading(path, SOURCE):
        readers = {".npy": _read_npy, ".csv": _read_csv, ".npz": _read_npz}
        if path.suffix.lower() not in readers:
            raise wrong(f"{path} ends in '{path.suffix}'", SOURCE, "convert it")
        x, test, names = readers[path.suffix.lower()](path)
    names = names or tuple(f"x{i}" for i in range(x.shape[1]))
    _check_values(x, names, str(path))
    if test is None:
        order = np.random.default_rng(7600).permutation(len(x))
        border = max(2, min(round(held_out * len(x)), max_held_out, len(x) - 2))
        x, test = x[order[border:]], x[order[:border]]
    elif test.shape[1] != x.shape[1]:
        found = f"{path}, array 'x_test', has {test.shape[1]} columns"
        raise wrong(found, f"{x.shape[1]} as in training", "correct it or leave it out")
    else:
        _check_values(test, names, f"{path}, array 'x_test',", least=2)
    _check_varied(x, names, str(path))  # the rows left for training
    return Points(x, test, names)


Read = tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]  # x, x_test, column names


def _read_npy(path: Path) -> Read:
    with path.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in read:
            raise wrong(f"{path} holds records", SOURCE, "save a plain array by numpy.save")
        shape, _, dtype = read[version](stream)
        _check_header(Header(shape, dtype), str(path))
        check_fits(path, _COPIES * 8 * math.prod(shape), _FEWER)
        stream.seek(0)
        array = np.lib.format.read_array(stream, allow_pickle=False)
    return array.astype(np.float64), None, ()


def _read_npz(path: Path) -> Read:
    with path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise wrong(f"{path} is damaged or no archive", SOURCE, "save it by numpy.savez")
        with zipfile.ZipFile(stream) as archive:
            headers = read_headers(archive, path)
            found = [name for name in _TRAIN if name in headers] or [
                name for name in headers if _is_table(headers[name]) and name not in _TEST
            ]
            if not found or (len(found) > 1 and found[0] not in _TRAIN):
                have = f"{path} has {len(found)} arrays of points among {list(headers)}"
                raise wrong(have, "one array of shape (n, d), or one named x", "rename it x")
            names = [found[0], *(name for name in _TEST if name in headers)]
            for name in names:
                _check_header(headers[name], f"{path}, array '{name}',")
            size = sum(math.prod(headers[name].shape) for name in names)
            check_fits(path, _COPIES * 8 * size, _FEWER)
            x, *test = (read_array(archive, name).astype(np.float64) for name in names)
    return x, test[0] if test else None, ()


def _read_csv(path: Path) -> Read:
    check_fits(path, _TEXT * path.stat().st_size, _FEWER)
    with path.open(encoding="utf-8-sig", newline="") as stream:
        line = stream.readline()
        if not line.strip():
            raise wrong(f"{path} begins with an empty line", SOURCE, "remove it")
        separator = max(",;\t", key=line.count)
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
        numbers = sum(map(_is_number, cells))
        if 0 < numbers < len(cells):
            found = f"{path}, line 1, has {numbers} numbers in {len(cells)} columns"
            raise wrong(found, "names of the columns, or numbers alone", "correct it")
        if not numbers and not any(line.strip() for line in stream):
            raise wrong(f"{path} has no rows", SOURCE, "add some")
    x = np.loadtxt(
        path, delimiter=separator, skiprows=0 if numbers else 1, ndmin=2, comments=None,
        encoding="utf-8-sig", quotechar='"',
    )  # fmt: skip
    if x.shape[1] != len(cells):
        found = f"{path} has {len(cells)} names and {x.shape[1]} columns"
        raise wrong(found, "one name per column", "correct the first line")
    return x, None, () if numbers else tuple(cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_table(header: Header) -> bool:
    return len(header.shape) == 2 and header.dtype.kind in "biuf"


def _check_header(header: Header, where: str) -> None:
    if header.dtype.kind not in "biuf":
        raise wrong(f"{where} has dtype {header.dtype}", "numbers", "convert it by array.astype")
    if len(header.shape) != 2 or not header.shape[1]:
        raise wrong(
            f"{where} has shape {header.shape}", "(n, d), one example per row", "reshape it"
        )


def _check_values(x: np.ndarray, names: tuple[str, ...], where: str, least: int = LEAST) -> None:
    """Raises the `DataError` for too few rows, or numbers that are not finite in float32."""
    if len(x) < least:
        raise wrong(f"{where} has {len(x)} rows", f"at least {least}", "give more")
    bad = ~(np.abs(x) <= np.finfo(np.float32).max)  # NaN counts as bad
    if bad.any():
        row, column = np.argwhere(bad)[0]
        found = f"{where} has {int(bad.any(1).sum())} of {len(x)} rows that are not finite"
        first = f"(first row {row + 1}, column '{names[column]}')"
        raise wrong(f"{found} {first}", "finite numbers alone", "drop or fill them")


def _check_varied(x: np.ndarray, names: tuple[str, ...], where: str) -> None:
    """Raises the `DataError` for a column that is constant, or nearly so in float32."""
    resolved = 16 * np.spacing(np.abs(x).max(0).astype(np.float32)).astype(np.float64)
    for name, spread, least in zip(names, x.std(0), resolved, strict=True):
        if not spread > least:
            found = f"{where}, column '{name}', is constant or varies by {spread:.2g} alone"
            raise wrong(found, f"more than {least:.2g}", "drop it, or subtract its mean")
