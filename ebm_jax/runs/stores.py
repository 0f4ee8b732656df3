"""Writes samples as they are drawn, to a folder of PNGs or to one .npz.

    FOLDER/000000.png, 000001.png, ... and FOLDER/sampling.json
    FILE.npz; until it is complete, FILE.npz.parts/000000000.npz, ... and its sampling.json

Every file is written completely or not at all, with the configuration of the samples in it or
beside it. An interrupted call can therefore resume, and samples of another configuration are
never mixed in.
"""

import io
import json
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ebm_jax.runs import folder as files
from ebm_jax.runs.endings import RunError

CONFIG = "sampling.json"
Config = Mapping[str, Any]


class Pictures:
    """A folder of images, each a PNG named by its index.

    Attributes:
        there: indices of the samples written so far.
    """

    def __init__(self, out: Path, config: Config, shape: tuple[int, ...]) -> None:
        if not is_image(shape):
            raise RunError(
                f"samples of shape {shape} are no images: give --out a file that ends in .npz."
            )
        self.folder = out
        kept = files.read_object(out / CONFIG) if (out / CONFIG).exists() else {}
        if not kept and not files.holds_nothing(out):
            kept = None
        _refuse_another(out, kept, config)
        self.there = {int(p.stem) for p in out.glob("*.png") if re.fullmatch(r"\d{6,}", p.stem)}
        _claim(out, config)

    def add(self, index: np.ndarray, samples: np.ndarray) -> None:
        """Writes samples[j] as sample number index[j]."""
        for number, pixels in zip(index.tolist(), samples, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
            files.write_whole(self.folder / f"{number:06d}.png", buffer.getvalue())
            self.there.add(number)

    def finish(self) -> None:
        """Releases the folder."""
        files.release(self.folder)


class Archive:
    """An .npz with the array "samples", in the order of their indices.

    Attributes:
        there: indices of the samples written so far.
    """

    def __init__(self, out: Path, config: Config, shape: tuple[int, ...]) -> None:
        self.out, self.config = out, config
        self.folder = out.with_name(f"{out.name}.parts")
        kept: dict[str, Any] | None = {}
        if out.exists():
            kept = _read(out)[0]
        elif (self.folder / CONFIG).exists():
            kept = files.read_object(self.folder / CONFIG)
        elif not files.holds_nothing(self.folder):
            kept = None
        _refuse_another(out, kept, config)
        self.parts: dict[int, Path] = {}
        for path in sorted(self.folder.glob("[0-9]*.npz")):
            self.parts |= dict.fromkeys(_read(path)[1].tolist(), path)
        whole = _read(out)[1] if out.exists() else np.arange(0)
        self.there = {*self.parts, *whole.tolist()}
        _claim(self.folder, config)

    def add(self, index: np.ndarray, samples: np.ndarray) -> None:
        """Writes samples[j] as sample number index[j], for now to a part file."""
        path = self.folder / f"{index[0]:09d}.npz"
        files.write_whole(path, _npz(self.config, index, samples))
        self.parts |= dict.fromkeys(index.tolist(), path)
        self.there |= set(self.parts)

    def finish(self) -> None:
        """Merges the parts into one file, and removes them."""
        if self.parts:
            paths = [*([self.out] if self.out.exists() else []), *{*self.parts.values()}]
            read = [_read(path) for path in paths]
            index = np.concatenate([part[1] for part in read])
            samples = np.concatenate([part[2] for part in read])
            index, first = np.unique(index, return_index=True)
            files.write_whole(self.out, _npz(self.config, index, samples[first]))
        files.release(self.folder)
        shutil.rmtree(self.folder)


def open_store(out: Path, config: Config, shape: tuple[int, ...]) -> Pictures | Archive:
    """Returns the store for samples of this shape at `out`, locked until `finish`.

    Args:
        out: a file that ends in .npz, or a folder for PNGs.
        config: everything that the samples depend on except their number, as JSON.
        shape: shape of a sample.

    Raises:
        RunError: `out` holds samples of another configuration or something else, is used by
            another process, or cannot be written; or PNGs cannot hold such samples.
    """
    try:
        return (Archive if out.suffix == ".npz" else Pictures)(out, config, shape)
    except OSError as error:
        raise RunError(f"cannot write samples to {out}: {error}.") from error


def is_image(shape: tuple[int, ...]) -> bool:
    """Returns True for the shape (h, w, c) of a gray or RGB image."""
    return len(shape) == 3 and shape[-1] in (1, 3)


def samples_of(path: str) -> str:
    """Returns the path of the images to evaluate; for a run's folder, that of its samples.

    Args:
        path: a run's folder, or any other source of images, which is returned unchanged.

    Raises:
        RunError: The run has drawn no samples yet.
    """
    if not (Path(path) / "config.json").is_file():
        return path
    if not (drawn := Path(path) / "samples.npz").is_file():
        raise RunError(
            f"the run in {path} has drawn no samples yet: draw some by `ebm-jax sample {path} "
            "--out FOLDER`, and give that folder."
        )
    return str(drawn)


def _refuse_another(out: Path, kept: Config | None, config: Config) -> None:
    """Raises a RunError unless `kept` is empty or equals this configuration."""
    if kept is None:
        raise RunError(f"{out} holds something else than samples: give another --out.")
    if kept and (changes := files.differences(kept, config)):
        raise RunError(
            f"{out} holds samples of another configuration ({'; '.join(changes)}): "
            "give the same flags, or another --out."
        )


def _claim(folder: Path, config: Config) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files.hold(folder)
    files.write_whole(folder / CONFIG, files.as_json(config))


def _npz(config: Config, index: np.ndarray, samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    text = np.asarray(files.as_json(config))
    np.savez_compressed(buffer, samples=samples, index=index, sampling=text)
    return buffer.getvalue()


def _read(path: Path) -> tuple[dict[str, Any] | None, np.ndarray, np.ndarray]:
    """Returns the configuration (None if the .npz is invalid), indices and samples."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return json.loads(str(archive["sampling"])), archive["index"], archive["samples"]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile, EOFError):
        return None, np.arange(0), np.arange(0)
