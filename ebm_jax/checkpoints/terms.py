"""orbax settings and errors: the save in flight, the preservation policy, failure messages."""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

SECONDS_FOR_OTHERS = 300  # after which processes give up waiting for one whose write failed
A_CENTURY = 3_000_000_000  # no timeout: the wall clock may be set forward during a save


class CheckpointError(RuntimeError):
    """Raised when a checkpoint cannot be written or read; its message is written for users."""


class Save(NamedTuple):
    """A save in flight: its step, the bytes of its state, its metrics and orbax's response."""

    step: int
    size: int
    metrics: Mapping[str, float]
    response: Any = None  # orbax's

    def close(self) -> None:
        """Ends the thread of orbax's response, and raises the error of the save if it failed."""
        if self.response is not None:
            self.response.result()


class NewestAndBest(NamedTuple):
    """Keeps the newest `keep` checkpoints and the best one.

    orbax's BestN treats a NaN or a missing metric as good.
    """

    keep: int
    figures: Mapping[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns for each of `checkpoints` whether to keep it; called by orbax."""
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        kept = {*steps[-self.keep :], lowest(steps, self.figures)}
        return [checkpoint.step in kept for checkpoint in checkpoints]


def checkpointer(folder: Path, kept: NewestAndBest, finish: Callable[[], None]) -> Any:
    """Returns orbax's checkpointer of a folder, which calls `finish` before it renames a save."""
    from orbax.checkpoint import v1 as ocp  # takes a second to import

    logging.getLogger("absl").addFilter(is_not_of_orbax)
    options = ocp.options.AsyncOptions(
        post_finalization_callback=finish,
        create_directories_asynchronously=False,  # avoids minutes of waiting after a failure
        timeout_secs=SECONDS_FOR_OTHERS if jax.process_count() > 1 else A_CENTURY,
    )
    return ocp.training.Checkpointer(
        folder.absolute(),
        context=ocp.Context(async_options=options),
        preservation_policy=kept,
        cleanup_tmp_directories=False,
    )


def lowest(steps: Sequence[int], figures: Mapping[int, float]) -> int | None:
    """Returns the step with the lowest metric, or None if no step has one."""
    return min((s for s in steps if s in figures), key=lambda s: figures[s], default=None)


def reason(error: Exception) -> str:
    """Describes an error of orbax, briefly if the disk is full."""
    for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        if os.strerror(code) in str(error):  # tensorstore wraps it in a long text
            return f"{os.strerror(code)}; make room, or write elsewhere."
    return f"{type(error).__name__}: {error}"


def not_written(
    folder: Path, step: int, size: int, newest: int | None, error: Exception
) -> CheckpointError:
    """Returns the error for a save of `size` bytes that failed."""
    kept = "there is no other yet" if newest is None else f"that of step {newest} is kept"
    free = shutil.disk_usage(folder).free
    return CheckpointError(
        f"the checkpoint of step {step} could not be written to {folder}; {kept}. It takes up to "
        f"{size / 1e6:.1f} MB and {free / 1e6:.1f} MB are free there: {reason(error)}"
    )


def is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Filters out orbax's records in absl's logger: it logs every file, and raises failures."""
    return "orbax" not in record.pathname
