"""Checkpoints of a training state in one folder: saved whole or not at all.

orbax writes under a temporary name and renames at the end, so that a killed process
leaves its last finished checkpoint; leftovers are removed when a folder is opened.
"""

import logging
from pathlib import Path
from types import TracebackType

import jax
from jaxtyping import PyTree


class CheckpointError(RuntimeError):
    """A checkpoint could not be read; the message is a sentence for people."""


class Checkpoints:
    """The checkpoints of one run, the last `keep` of them kept; a context manager.

    Args:
        folder: where they live; made if missing.
        keep: how many of the newest to keep.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        from orbax.checkpoint import v1 as ocp  # a second of import that --help does not owe

        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every file
        self.folder = folder
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest finished checkpoint, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: PyTree) -> None:
        """Save `state` as the checkpoint of `step`; on return it is on disk."""
        self._checkpointer.save(step, state, force=True)

    def restore(self, like: PyTree) -> PyTree:
        """The newest checkpoint, with the shapes, types and placement of `like`.

        Raises:
            CheckpointError: if there is none, or if it does not fit `like`.
        """
        if self.latest_step is None:
            raise CheckpointError(f"there is no finished checkpoint in {self.folder}.")
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like
        )
        try:
            return self._checkpointer.load(self.latest_step, abstract)
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint of step {self.latest_step} in {self.folder} is damaged or belongs "
                f"to another network ({type(error).__name__}): move the folder away to start anew."
            ) from error
