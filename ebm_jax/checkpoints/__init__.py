"""Checkpoints of a training state in one folder: saved whole or not at all.

orbax writes under a temporary name and renames at the end, so that a killed process
leaves its last finished checkpoint; leftovers are removed when a folder is opened. It
does not see a flipped byte: each checkpoint carries the sizes and CRC-32 of its files,
and is read only if they are as they were written.
"""

from ebm_jax.checkpoints.folder import Checkpoints
from ebm_jax.checkpoints.terms import CheckpointError

__all__ = ["CheckpointError", "Checkpoints"]
