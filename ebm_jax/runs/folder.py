"""Reads and writes the files of a run's folder; every file is written completely or not at all.

A process that dies, a full disk or an editor may damage files. The readers use what is intact:
they return None, or fewer rows, and raise no error for the rest.
"""

import csv
import fcntl
import io
import json
import math
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ebm_jax.runs.endings import RunError

LOCK = "run.lock"
UNFINISHED = ".tmp"  # suffix of a file that is being written
HELD: dict[Path, int] = {}  # locks held by this process


def hold(folder: Path) -> None:
    """Locks a run's folder until `release`, or until this process ends in any way.

    The lock belongs to the operating system, so a dead process holds none; the lock file names
    the process. On a file system without locks the folder is used unlocked.

    Raises:
        RunError: Another process holds the lock; the message names it.
        OSError: The folder cannot be written.
    """
    path = (folder / LOCK).absolute()
    if path in HELD and path.exists():
        return
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        who = os.read(file, 200).decode(errors="replace").strip() or "another process"
        os.close(file)
        raise RunError(
            f"{folder} is in use by {who}: wait until that has ended, stop it, or give another "
            "folder by --out."
        ) from error
    except OSError:  # the file system has no locks
        pass
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    HELD[path] = file


def release(folder: Path) -> None:
    """Releases the lock of a run's folder, if this process holds it."""
    file = HELD.pop((folder / LOCK).absolute(), None)
    if file is not None:
        os.close(file)


def holds_nothing(folder: Path) -> bool:
    """Returns True if the folder is missing, or holds only leftovers of a process killed early."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return names <= {LOCK, f"config.json{UNFINISHED}"}


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file completely or not at all, even if the process dies or the disk is full."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(unfinished, path)
    except OSError:
        if unfinished.is_file():
            unfinished.unlink()
        raise


def as_json(value: Any) -> str:
    """Returns JSON in which numbers that are not finite, which JSON lacks, are null."""

    def finite(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, Mapping):
            return {name: finite(inner) for name, inner in value.items()}
        return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value

    return json.dumps(finite(value), indent=2)


def read_object(path: Path) -> dict[str, Any] | None:
    """Returns the object of a JSON file, or None if the file holds anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns "name A there, B now" for each name whose values differ, also in nested objects."""
    found = []
    for name in sorted({*there, *now}):
        old, new = there.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{name} {inner}" for inner in differences(old, new)]
        elif old != new:
            old, new = (str(v)[:12] if name == "checksum" else v for v in (old, new))
            found.append(f"{name} {old} there, {new} now")
    return found


def read_results(path: Path) -> dict[str, float] | None:
    """Returns the metrics of results.json, null as NaN, or None if it holds anything else."""
    found = read_object(path)
    if found is None or any(isinstance(v, bool | str | list | dict) for v in found.values()):
        return None
    return {name: math.nan if value is None else float(value) for name, value in found.items()}


def read_rows(path: Path, text: Sequence[str] = ()) -> list[dict[str, str]]:
    """Returns the valid rows of metrics.csv, with ascending steps; invalid rows are skipped.

    A row is valid if its line is complete, it has as many cells as the header, whose first is
    "step", and each cell is a number, except in the columns in `text`.
    """
    try:
        content = path.read_bytes().decode("utf-8", errors="replace").replace("\r\n", "\n")
    except OSError:
        return []
    header, *lines = content[: content.rfind("\n") + 1].splitlines() or [""]
    names = next(csv.reader([header]), [])
    if names[:1] != ["step"] or len(set(names)) < len(names):
        return []
    found: list[dict[str, str]] = []
    for line in lines:
        cells = next(csv.reader([line]), []) if "\0" not in line else []
        row = dict(zip(names, cells, strict=False))
        if len(cells) != len(names) or not _is_sound(row, text):
            continue
        if not found or int(row["step"]) > int(found[-1]["step"]):
            found.append(row)
    return found


def _is_sound(row: Mapping[str, str], text: Sequence[str]) -> bool:
    try:
        for name, cell in row.items():
            if name not in text:
                float(cell)
        return int(row["step"]) > 0
    except ValueError:
        return False


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes metrics.csv anew, or removes it if there are no rows."""
    rows, text = list(rows), io.StringIO()
    if not rows:
        path.unlink(missing_ok=True)
        return
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def add_row(path: Path, row: Mapping[str, Any]) -> None:
    """Appends a row to metrics.csv, which is started anew if its columns have changed."""
    head, line = io.StringIO(), io.StringIO()
    csv.DictWriter(head, row).writeheader()
    csv.DictWriter(line, row).writerow(row)
    there = b""
    if path.exists():
        with path.open("rb") as opened:
            there = opened.readline()
    is_new = there != head.getvalue().encode()
    if is_new:
        path.unlink(missing_ok=True)
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write((head.getvalue() if is_new else "") + line.getvalue())
