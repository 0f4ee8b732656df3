"""A published set of images, by name, made ready for --data NAME of every experiment.

    python -m experiments.prepare --name cifar10
    python -m experiments.prepare --name mnist --originals FOLDER

The first downloads the original files; the second takes them from a folder. Either writes the
set once where tensorflow-datasets keeps its sets: TFDS_DATA_DIR, or ~/tensorflow_datasets.
Takes about a minute.
"""

from pathlib import Path
from typing import Literal

from ebm_jax.data import load_split, prepare
from experiments._run import command, say


def main(
    *,
    name: Literal["mnist", "fashion_mnist", "kmnist", "cifar10"] = "mnist",
    originals: str = "",
) -> None:
    """Prepare a set of images, and say what it holds.

    Args:
        name: of the set.
        originals: a folder of its files as published; by default they are downloaded.
    """
    folder = prepare(name, Path(originals) if originals else None)
    train, test = load_split(name)
    counts = f"{len(train.pixels)} images of {train.pixels.shape[1:]}, {len(test.pixels)} for test"
    say(f"{name}: {counts}, in {folder}")


if __name__ == "__main__":
    command(main)
