"""What orbax is told, and what it says: what is in flight, what to keep, why it failed."""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

SECONDS_FOR_OTHERS = 300  # until the other processes give up on one whose write failed
A_CENTURY = 3_000_000_000  # orbax reads the wall clock, which may be set forward during a save


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message is a sentence for people."""


class Save(NamedTuple):
    """A save in flight: its step, the bytes of its state, its metrics."""

    step: int
    size: int
    metrics: Mapping[str, float]
    response: Any = None  # orbax's

    def close(self) -> None:
        """End the thread that orbax's response has; an error of the save is raised."""
        if self.response is not None:
            self.response.result()


class NewestAndBest(NamedTuple):
    """What to keep. orbax's own BestN takes a NaN, or no figure at all, for a good one."""

    keep: int
    figures: Mapping[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether to keep each of `checkpoints`, as orbax asks it."""
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        kept = {*steps[-self.keep :], lowest(steps, self.figures)}
        return [checkpoint.step in kept for checkpoint in checkpoints]


def checkpointer(folder: Path, kept: NewestAndBest, finish: Callable[[], None]) -> Any:
    """Returns orbax's checkpointer of a folder, which calls `finish` before it renames a save."""
    from orbax.checkpoint import v1 as ocp  # a second of import that --help does not owe

    logging.getLogger("absl").addFilter(is_not_of_orbax)
    options = ocp.options.AsyncOptions(
        post_finalization_callback=finish,
        create_directories_asynchronously=False,  # minutes of waiting for one that failed
        timeout_secs=SECONDS_FOR_OTHERS if jax.process_count() > 1 else A_CENTURY,
    )
    return ocp.training.Checkpointer(
        folder.absolute(),
        context=ocp.Context(async_options=options),
        preservation_policy=kept,
        cleanup_tmp_directories=False,
    )


def lowest(steps: Sequence[int], figures: Mapping[int, float]) -> int | None:
    """The step of the lowest figure, None if no step has one."""
    return min((s for s in steps if s in figures), key=lambda s: figures[s], default=None)


def reason(error: Exception) -> str:
    """Why orbax could not write or read; no space in few words, whoever says it."""
    for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        if os.strerror(code) in str(error):  # tensorstore raises a ValueError with a long text
            return f"{os.strerror(code)}; make room, or write elsewhere."
    return f"{type(error).__name__}: {error}"


def not_written(
    folder: Path, step: int, size: int, newest: int | None, error: Exception
) -> CheckpointError:
    """The sentence on a save of so many bytes that failed."""
    kept = "there is no other yet" if newest is None else f"that of step {newest} is kept"
    free = shutil.disk_usage(folder).free
    return CheckpointError(
        f"the checkpoint of step {step} could not be written to {folder}; {kept}. It takes up to "
        f"{size / 1e6:.1f} MB and {free / 1e6:.1f} MB are free there: {reason(error)}"
    )


def is_not_of_orbax(record: logging.LogRecord) -> bool:
    """For the logger of absl: orbax narrates every file, and its failures are raised anyway."""
    return "orbax" not in record.pathname
