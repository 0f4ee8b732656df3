"""The folder of a run's checkpoints: saves, keeps, skips damaged ones and restores."""

import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType

import jax
import numpy as np
from jaxtyping import PyTree

from ebm_jax.checkpoints.contents import clear, damage, load, read_metrics, write_contents
from ebm_jax.checkpoints.terms import (
    CheckpointError,
    NewestAndBest,
    Save,
    checkpointer,
    lowest,
    not_written,
)
from ebm_jax.distributed import first_says, is_first, wait_for_all

UNFINISHED = ".orbax-checkpoint-tmp"  # orbax's suffix of a checkpoint that is being written


class Checkpoints:
    """Checkpoints of one run, a context manager that keeps the newest `keep` and the best.

    Leaving the context waits for the save in flight. Several processes must all make the same
    calls. Only `save` changes the folder, so readers may open it while another process saves.

    Args:
        folder: the folder, created if missing, shared by all processes.
        keep: number of newest checkpoints to keep.
        best: metric whose lowest value marks the best checkpoint, which is also kept.
        tell: called with a message when a damaged checkpoint is skipped, and when a save fails
            while another exception is propagating.

    Raises:
        CheckpointError: if the folder cannot be opened.
        ValueError: if `keep` is not positive.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 2,
        best: str = "loss",
        tell: Callable[[str], object] = warnings.warn,
    ) -> None:
        if keep < 1:
            raise ValueError(f"`Checkpoints` got keep={keep}: give at least 1.")
        self.folder = folder
        self._tell = tell
        self._in_flight: Save | None = None
        self._unwritten: OSError | None = None
        self._figures: dict[int, float] = {}
        self._damaged: set[int] = set()
        self._writes = False
        try:
            folder.mkdir(parents=True, exist_ok=True)  # orbax would accept a file
            # a lambda: orbax deep-copies its options, which would copy a bound method's object
            self._checkpointer = checkpointer(
                folder, NewestAndBest(keep, self._figures), lambda: self._finish()
            )
        except OSError as error:
            raise CheckpointError(f"{folder} cannot hold checkpoints: {error}.") from error
        self._best = best
        for step in self._steps():
            self._note(step, read_metrics(folder / str(step)))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and jax.process_count() > 1:
            return  # the other processes may never reach this point: do not wait for them
        try:
            with closing(self._checkpointer):
                self.wait()
        except CheckpointError as failure:
            if error is None:
                raise
            self._tell(str(failure))  # do not hide the exception that is propagating
        finally:
            if self._writes:  # a failed save may have kept writing until it was closed
                clear(self.folder, f"*{UNFINISHED}*")

    @property
    def latest_step(self) -> int | None:
        """The step of the newest finished checkpoint, or None; waits for a save in flight."""
        self.wait()
        return max(self._steps(), default=None)

    @property
    def best_step(self) -> int | None:
        """The step of the finished checkpoint with the lowest `best`, or None; waits likewise."""
        self.wait()
        return lowest(self._steps(), self._figures)

    def save(self, step: int, state: PyTree, metrics: Mapping[str, float | int] = {}) -> None:
        """Saves `state` as the checkpoint of `step`, in the background.

        After it returns, `state` may be donated. Only one save is in flight: the next waits for it.

        Args:
            step: greater than the steps saved so far.
            state: arrays and typed keys, with at least one element each.
            metrics: metrics stored with it. Without a finite `best` it is never the best one.

        Raises:
            CheckpointError: if this or the last save failed; earlier checkpoints are kept.
        """
        newest = self.latest_step
        if newest is not None and step <= newest:
            holds = f"{self.folder} holds the checkpoint of step {newest}"
            mend = "restore that one to go on, or give another folder."
            raise CheckpointError(f"`save` got step {step}, but {holds}: {mend}")
        self._begin_to_write()
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        self._in_flight = Save(step, size, {name: float(v) for name, v in metrics.items()})
        self._note(step, self._in_flight.metrics)
        try:
            # on CPU orbax holds views instead of copies, and jax does not donate viewed arrays
            response = self._checkpointer.save_async(step, state, force=True)
            self._in_flight = self._in_flight._replace(response=response)
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Waits until the save in flight is on disk.

        Raises:
            CheckpointError: if it failed; raised once per failure.
        """
        if self._in_flight is not None:
            try:
                with closing(self._in_flight):
                    self._checkpointer.wait()
                if first_says(self._unwritten is not None):
                    clear(self.folder, f"{self._in_flight.step}")
                    wait_for_all("an unfinished checkpoint is cleared")
                    raise self._unwritten or OSError("process 0 could not write all of it")
            except Exception as error:
                self._unwritten = None
                raise self._failed(error) from error
            self._in_flight = None

    def restore(self, like: PyTree) -> PyTree:
        """Returns the newest intact checkpoint, with the shapes, types and placement of `like`.

        Newer, damaged ones are reported by `tell`; the next `save` renames them.

        Raises:
            CheckpointError: if no checkpoint is intact, or the newest intact one is of another
                architecture.
        """
        self.wait()
        faults: dict[int, str] = {}
        for step in sorted(self._steps(), reverse=True):
            fault = self._fault(step)
            if not fault:
                tree = load(self._checkpointer, step, like)
                self._pass_over(faults, step)
                return tree
            faults[step] = fault
        if not faults:
            raise CheckpointError(f"there is no finished checkpoint in {self.folder}.")
        what = "; ".join(f"step {step}: {fault}" for step, fault in faults.items())
        damaged = f"every checkpoint in {self.folder} is damaged ({what})"
        raise CheckpointError(f"{damaged}: move the folder away to start anew.")

    def restore_best(self, like: PyTree) -> PyTree:
        """Returns the checkpoint of `best_step`, in the form of `restore`.

        Raises:
            CheckpointError: if no step has `best`, or if it is damaged or of another architecture.
        """
        step = self.best_step
        if step is None:
            raise CheckpointError(f"no checkpoint in {self.folder} was saved with `{self._best}`.")
        if fault := self._fault(step):
            best = f"the best checkpoint in {self.folder}, of step {step},"
            raise CheckpointError(f"{best} is damaged: {fault}.")
        return load(self._checkpointer, step, like)

    def _steps(self) -> list[int]:
        steps = {checkpoint.step for checkpoint in self._checkpointer.checkpoints}
        return sorted(steps - self._damaged)

    def _note(self, step: int, metrics: Mapping[str, float]) -> None:
        self._figures.pop(step, None)
        if np.isfinite(metrics.get(self._best, np.nan)):
            self._figures[step] = metrics[self._best]

    def _finish(self) -> None:
        """Adds contents.json; orbax calls it in one process, after writing and before renaming."""
        assert self._in_flight is not None
        step, _, metrics, _ = self._in_flight
        unfinished = self.folder.glob(f"{step}{UNFINISHED}*")
        try:
            write_contents(next(unfinished, self.folder / str(step)), metrics)
        except OSError as error:
            if jax.process_count() == 1:
                raise
            self._unwritten = error  # `wait` raises it in all processes

    def _failed(self, error: Exception) -> CheckpointError:
        """Clears away what the failed save left, and returns the error to raise."""
        assert self._in_flight is not None
        (step, size, *_), self._in_flight = self._in_flight, None
        clear(self.folder, f"*{UNFINISHED}*")
        self._checkpointer.reload()
        return not_written(self.folder, step, size, max(self._steps(), default=None), error)

    def _fault(self, step: int) -> str:
        """Returns the damage to a checkpoint, or ""; process 0 checks, and all agree."""
        fault = damage(self.folder / str(step)) if is_first() else ""
        found = first_says(bool(fault))
        return fault or ("process 0 found it damaged" if found else "")

    def _pass_over(self, faults: Mapping[int, str], used: int) -> None:
        """Reports damaged checkpoints. It renames nothing, since this process may only read."""
        self._damaged |= faults.keys()
        for step, fault in faults.items() if is_first() else ():
            self._tell(
                f"the checkpoint of step {step} in {self.folder} is damaged ({fault}): that of "
                f"step {used} is used instead. The next save renames it to {step}.damaged."
            )

    def _begin_to_write(self) -> None:
        """Removes leftovers of killed writers and renames damaged checkpoints; only writers do."""
        if not self._writes:
            clear(self.folder, f"*{UNFINISHED}*")
        for step in self._damaged if is_first() else ():
            aside = self.folder / f"{step}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(step)).rename(aside)
        if self._damaged or not self._writes:
            wait_for_all("the folder of checkpoints is clean")
            self._checkpointer.reload()
        self._writes, self._damaged = True, set()
