"""A published set of images, by name, made ready for --data NAME of every experiment.

    python -m experiments.prepare --name cifar10
    python -m experiments.prepare --name mnist --originals FOLDER
    python -m experiments.prepare --name celeb_a/64 --originals FOLDER

The first downloads the original files; the others take them from a folder. Each writes the
set once where tensorflow-datasets keeps its sets: TFDS_DATA_DIR, or ~/tensorflow_datasets.
Takes about a minute; celeb_a/64, squares of 64x64 from the middle 140x140 of 202,599 faces, four.
"""

from pathlib import Path

from ebm_jax.data import load_split, prepare
from ebm_jax.runs.command import command
from ebm_jax.runs.endings import say
from ebm_jax.runs.run import Run


def main(
    run: Run,
    *,
    name: str = "mnist",
    originals: str = "",
) -> None:
    """Prepare a set of images, and say what it holds.

    Args:
        run: not begun: the set is kept elsewhere.
        name: mnist, fashion_mnist, kmnist, cifar10, celeb_a (218x178), or celeb_a/SIDE for squares.
        originals: a folder of its files as published; by default they are downloaded.
    """
    folder = prepare(name, Path(originals) if originals else None)
    train, test = load_split(name)
    counts = f"{len(train.pixels)} images of {train.pixels.shape[1:]}, {len(test.pixels)} for test"
    say(f"{name}: {counts}, in {folder}")


if __name__ == "__main__":
    command(main)
