"""Parsers of published image sets, which turn their original files into examples with NumPy."""

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ebm_jax.data.idx import read_idx
from ebm_jax.data.pictures import open_image, upright
from ebm_jax.data.views import square

Examples = Iterator[tuple[int | str, dict[str, Any]]]


def _idx_examples(num_examples: int, data_path: str, label_path: str) -> Examples:
    pixels, labels = read_idx(Path(data_path)), read_idx(Path(label_path))
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        yield i, {"image": Image.fromarray(image), "label": int(label)}


def _cifar_examples(split_prefix: str, filepaths: Iterator[str]) -> Examples:
    """Yields the examples of CIFAR-10 files: a label byte, then RGB planes, per image."""
    index = 0
    for path in filepaths:
        for record in np.fromfile(path, np.uint8).reshape(-1, 3073):
            image = Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0))
            name = f"{split_prefix}{index:05d}"
            yield index, {"id": name, "image": image, "label": int(record[0])}
            index += 1


def _celeb_a_examples(
    file_id: int, downloaded_dirs: dict[str, Any], downloaded_images: Any, side: int | None = None
) -> Examples:
    """Yields the JPEGs of a part as published, or squares of them; landmarks are not rescaled."""
    (_, parts), (marks, places), (traits, signs), (_, people) = (
        _celeb_a_table(Path(downloaded_dirs[name]))
        for name in (
            "list_eval_partition", "landmarks_celeba", "list_attr_celeba", "identity_celeba"
        )
    )  # fmt: skip
    with zipfile.ZipFile(downloaded_dirs["img_align_celeba"]) as archive:
        entries = {Path(name).name: name for name in archive.namelist()}
        for name in sorted(name for name, [part] in parts.items() if part == file_id):
            image: Any = io.BytesIO(archive.read(entries[name]))
            if side is not None:
                pixels = np.asarray(upright(open_image(image)).convert("RGB"))
                image = Image.fromarray(square(pixels, side, CROPS["celeb_a"]))
            yield (
                name,
                {
                    "image": image,
                    "landmarks": dict(zip(marks, places[name], strict=True)),
                    "attributes": {k: v > 0 for k, v in zip(traits, signs[name], strict=True)},
                    "identity": {"Identity_No": people[name][0]},
                },
            )


def _celeb_a_table(path: Path) -> tuple[list[str], dict[str, list[int]]]:
    """Reads a table of CelebA: its column names (if it begins with a row count), and its rows."""
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    names, rows = (rows[1], rows[2:]) if len(rows[0]) == 1 else ([], rows)
    return names, {row[0]: [int(word) for word in row[1:]] for row in rows}


PARSERS: dict[str, Callable[..., Examples]] = {
    "mnist": _idx_examples,
    "fashion_mnist": _idx_examples,
    "kmnist": _idx_examples,
    "cifar10": _cifar_examples,
    "celeb_a": _celeb_a_examples,
}
CROPS = {"celeb_a": 140}  # side of the middle square, for sets whose images are not square
