"""Checkpoints of a training state in one folder, each written completely or not at all.

orbax writes under a temporary name and renames at the end, so a killed process leaves its last
finished checkpoint. The first save removes leftovers. orbax does not detect flipped bytes:
each checkpoint therefore stores the sizes and CRC-32 of its files, and is read only if they match.
"""

from ebm_jax.checkpoints.folder import Checkpoints
from ebm_jax.checkpoints.terms import CheckpointError

__all__ = ["CheckpointError", "Checkpoints"]
