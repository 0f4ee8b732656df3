"""Prepares images once: a folder of image files as one .npz, or a published set by its name.

    ebm-jax prepare photos --resize 32 --out photos32.npz      then --data photos32.npz
    ebm-jax prepare cifar10                                    then --data cifar10
    ebm-jax prepare celeb_a/64 --originals FOLDER              64x64 squares, without a network

A published set is downloaded, or read from a folder of its original files, and verified by the
published checksums. It is stored in the folder of tensorflow-datasets: TFDS_DATA_DIR, or
~/tensorflow_datasets.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from ebm_jax.data import Color, DataError, Images, load_split, prepare
from ebm_jax.data.named import is_name
from ebm_jax.data.readers import read
from ebm_jax.runs.command import tool
from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.folder import UNFINISHED


def main(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER_OR_NAME")],
    *,
    resize: int | None = None,
    color: Color | None = None,
    out: str = "",
    originals: str = "",
) -> None:
    """Prepares a folder of image files, or a published set.

    Args:
        source: a folder of image files, in which subfolders are classes; or mnist,
            fashion_mnist, kmnist, cifar10, celeb_a (218x178) or celeb_a/SIDE for squares.
        resize: side of the squares that are cut from the middle of the images and resized.
        color: gray or rgb; by default resized images are rgb unless all files are gray, and
            others stay as they are.
        out: the .npz to write; by default FOLDER.npz beside the folder.
        originals: for a published set, a folder of its files as published; they are downloaded
            by default.
    """
    if is_name(source):
        if out or resize is not None or color is not None:
            raise RunError(
                f"--out, --resize and --color are for folders, and '{source}' is a published "
                "set, which has a place of its own: leave them out."
            )
        folder = prepare(source, Path(originals) if originals else None)
        train, test = load_split(source)
        say(f"{counts(train, test)}, in {folder}; train on it by --data {source}")
        return
    if originals:
        raise RunError(f"--originals is for a published set, and '{source}' is none: leave it out.")
    place = Path(out) if out else Path(os.path.abspath(source) + ".npz")
    if place.suffix != ".npz":
        raise RunError(f"--out got {place}: give a file that ends in .npz.")
    if place.exists():
        raise RunError(f"{place} exists: remove it, or give another --out.")
    if not Path(source).is_dir():
        raise DataError(f"'{source}' is no folder, expected one of image files: correct it.")
    parts = read(source, resize, color)
    write(place, *parts)
    say(f"{counts(*parts)}, in {place}; train on it by --data {place}")


def write(path: Path, train: Images, test: Images | None) -> None:
    """Writes images and their class names to an .npz, completely or not at all."""
    arrays: dict[str, Any] = {}
    for part, images in ("train", train), ("test", test):
        if images is None:
            continue
        arrays[f"x_{part}"] = images.pixels
        if images.labels is not None:
            arrays[f"y_{part}"] = (
                images.labels if images.names is None else np.array(images.names)[images.labels]
            )
    unfinished = path.with_name(path.name + UNFINISHED)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with unfinished.open("wb") as stream:
            np.savez(stream, **arrays)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def counts(train: Images, test: Images | None) -> str:
    """Describes the number and size of the images and the number of classes, in words."""
    shape = "x".join(map(str, train.pixels.shape[1:]))
    held_out = "" if test is None else f" and {len(test.pixels)} test images"
    classes = "" if train.names is None else f" of {len(train.names)} classes"
    return f"{len(train.pixels)} images{held_out} of {shape}{classes}"


if __name__ == "__main__":
    tool(main)
