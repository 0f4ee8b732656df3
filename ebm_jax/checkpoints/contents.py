"""The contents of a checkpoint: metrics, files and leaves, and checks for damage."""

import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from ebm_jax.checkpoints.terms import CheckpointError, reason
from ebm_jax.distributed import is_first

CONTENTS = "contents.json"


def write_contents(folder: Path, metrics: Mapping[str, float]) -> None:
    """Adds contents.json to a checkpoint: `metrics`, and the size and CRC-32 of its files.

    Files at the top level are left out: orbax still writes to them, and can read without them.
    """
    files = {
        str(file.relative_to(folder)): _size_and_sum(file)
        for file in folder.rglob("*")
        if file.is_file() and file.parent != folder
    }
    (folder / CONTENTS).write_text(json.dumps({"metrics": dict(metrics), "files": files}))


def clear(folder: Path, pattern: str) -> None:
    """Removes the checkpoints in `folder` whose names match; only process 0 does."""
    for path in folder.glob(pattern) if is_first() else ():
        shutil.rmtree(path, ignore_errors=True)


def read_metrics(folder: Path) -> dict[str, float]:
    """Returns the metrics of a checkpoint, or {} if its contents.json is damaged."""
    try:
        return dict(_read(folder)["metrics"])
    except (OSError, ValueError):
        return {}


def damage(folder: Path) -> str:
    """Returns a description of the damage to a checkpoint, or "" if its files are intact."""
    name = CONTENTS
    try:
        for name, written in _read(folder)["files"].items():
            if _size_and_sum(folder / name) != written:
                return f"its file {name} is not as it was written"
    except (OSError, ValueError) as error:
        return f"its file {name} cannot be read: {type(error).__name__}"
    return ""


def difference(there: PyTree, here: PyTree) -> str:
    """Describes the first leaf whose name, shape or type differs; returns "" if none does.

    The types of the nodes may differ: orbax stores only their names, and whether a node is empty.
    """

    def leaves(tree: PyTree) -> dict[str, str]:
        flat = jax.tree.leaves_with_path(tree, is_leaf=lambda node: not jax.tree.leaves(node))
        return {
            jax.tree_util.keystr(path, simple=True, separator="."): (
                f"{leaf.shape} {leaf.dtype}" if hasattr(leaf, "dtype") else "empty"
            )
            for path, leaf in flat
        }

    saved, given = leaves(there), leaves(here)
    for name in (*given, *saved):
        was, now = saved.get(name, "absent"), given.get(name, "absent")
        if was != now:
            return f"{name} is {was} there and {now} here"
    return ""


def load(checkpointer: Any, step: int, like: PyTree) -> PyTree:
    """Reads an undamaged checkpoint, with the shapes, types and placement of `like`.

    Args:
        checkpointer: the checkpointer of orbax.
        step: step of the checkpoint.
        like: a tree of arrays, or of objects with shape, dtype and sharding.

    Raises:
        CheckpointError: if it is of another architecture, or if orbax cannot read it.
    """
    name = f"the checkpoint of step {step} in {checkpointer.directory}"
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like
    )
    try:
        there = checkpointer.metadata(step).metadata
        differs = difference(there, jax.tree.map(_stored, abstract))  # orbax would cast silently
        tree = None if differs else checkpointer.load(step, abstract)
    except Exception as error:
        raise CheckpointError(
            f"{name} cannot be read, though its files are as they were written: {reason(error)}"
        ) from error
    if differs := differs or difference(tree, abstract):  # reveals a key's implementation
        raise CheckpointError(
            f"{name} is of another architecture: {differs}. Give the network and the optimizer "
            "that it was saved with, or another folder."
        )
    return tree


def _stored(leaf: Any) -> Any:
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.eval_shape(jax.random.key_data, leaf) if is_key else leaf


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    contents = json.loads((folder / CONTENTS).read_text())
    match contents:
        case {"metrics": dict(), "files": dict()}:
            return contents
    raise ValueError(f"{CONTENTS} is not what was written")


def _size_and_sum(file: Path) -> list[int]:
    total = 0
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            total = zlib.crc32(block, total)
    return [file.stat().st_size, total]
