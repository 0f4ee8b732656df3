"""Reads the images at a path: "digits", an .npz, a folder of images or idx files."""

import os
import re
from pathlib import Path

import numpy as np

from ebm_jax.data.arrays import read_npz
from ebm_jax.data.idx import read_mnist
from ebm_jax.data.images import SOURCE, Images, reading, wrong
from ebm_jax.data.pictures import SUFFIXES, Color, read_pictures

_MNIST_IMAGES = r"(train|t10k)-images[-.]idx3-ubyte(\.gz)?"


def read(
    name: str | os.PathLike[str], resize: int | None = None, color: Color | None = None
) -> tuple[Images, Images | None]:
    """Reads the training images, and the test images if they are published.

    Args:
        name: "digits" or a path.
        resize: side to which the images of a folder are resized.
        color: color format to which the images of a folder are converted.
    """
    if resize is not None and resize < 2:
        raise wrong(f"--resize got {resize}", "the side of images, 2 pixels or more", "raise it")
    if name == "digits":
        check_as_they_are(name, resize, color)
        return _read_digits(), None
    path = Path(name)
    with reading(path):
        if not (os.fspath(name) and path.exists()):
            raise wrong(f"'{name}' does not exist", SOURCE, "check its spelling")
        if path.is_dir():
            return _read_folder(path, resize, color)
        if path.suffix.lower() in SUFFIXES or not path.is_file():
            raise wrong(f"{path} is not a set of images", SOURCE, "give the folder it is in")
        check_as_they_are(name, resize, color)
        return read_npz(path) if path.suffix.lower() == ".npz" else (read_mnist([path])[0], None)


def check_as_they_are(name: object, resize: int | None, color: Color | None) -> None:
    """Raises the `DataError` if conversion was requested for data other than image files."""
    if resize is not None or color is not None:
        found = f"--resize or --color was given for '{name}', which is no folder of image files"
        raise wrong(found, "one, such as photos/*.jpg", "leave the flags out")


def _read_digits() -> Images:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        found = f"'digits' come with scikit-learn, which cannot be imported ({error})"
        mend = "pip install scikit-learn, or give images of your own"
        raise wrong(found, "it installed", mend) from error
    values, labels = load_digits(return_X_y=True)
    pixels = np.rint(values * (255 / 16)).astype(np.uint8)  # published values are 0..16
    return Images(pixels.reshape(-1, 8, 8, 1), labels.astype(np.int32))


def _read_folder(
    folder: Path, resize: int | None, color: Color | None
) -> tuple[Images, Images | None]:
    files = sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
    mnist = {m[1]: f for f in files if (m := re.fullmatch(_MNIST_IMAGES, f.name))}
    if "train" not in mnist:
        return read_pictures(folder, resize, color)
    check_as_they_are(folder, resize, color)
    images = read_mnist([mnist[name] for name in ("train", "t10k") if name in mnist])
    return images[0], images[1] if len(images) == 2 else None
