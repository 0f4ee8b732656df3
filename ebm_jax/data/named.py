"""Published image sets by name, prepared by tensorflow-datasets without TensorFlow.

A set is prepared once as array_record, from the network or from a folder of its original
files, in the folder of tensorflow-datasets (TFDS_DATA_DIR, by default ~/tensorflow_datasets),
where other programs find it too. The builders of tensorflow-datasets parse the original files
with TensorFlow. The subclass here keeps their URLs, checksums and descriptions, and parses
with NumPy.
"""

import gzip
import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import Any

from ebm_jax.data.descriptions import INFO
from ebm_jax.data.images import DataError, reading, wrong
from ebm_jax.data.network import no_answer
from ebm_jax.data.parsers import CROPS, PARSERS, Examples
from ebm_jax.data.prepared import tensorflow_datasets


def is_name(path: object) -> bool:
    """Returns True for the name of a set, such as "mnist", or "celeb_a/64" for 64x64 squares."""
    return isinstance(path, str) and (path in PARSERS or _squares(path)[1] is not None)


def _squares(name: str) -> tuple[str, int | None]:
    """Splits a name into the set and the side of its squares, None if the name has no side."""
    found = re.fullmatch(rf"({'|'.join(CROPS)})/([1-9]\d*)", name)
    return (found[1], int(found[2])) if found else (name, None)


def prepare(name: str, originals: Path | None = None) -> Path:
    """Writes a published set as array_record, unless it has been prepared already.

    Args:
        name: one of `NAMES`, or "celeb_a/64" for squares of 64x64: the middle 140x140 pixels,
            resized.
        originals: a folder with the files as published; they are downloaded by default.

    Returns:
        The folder of the prepared set.

    Raises:
        DataError: tensorflow-datasets is missing, or the original files cannot be obtained.
    """
    if not is_name(name):
        raise wrong(f"'{name}' names no set", " ".join([*PARSERS, "celeb_a/64"]), "correct it")
    folder = _folder(name)
    if (folder / INFO).exists():  # `read_prepared` checks its files
        return folder
    if folder.exists():
        found = f"{folder} is there without its {INFO}"
        raise wrong(found, "a prepared set or no folder", "remove the folder and try again")
    with tempfile.TemporaryDirectory() as scratch:
        builder = _builder(name, originals, Path(scratch))
        if originals is None and (why := no_answer(next(iter(builder.url_infos)))):
            mend = f"give its files: ebm-jax prepare {name} --originals DIR"
            raise wrong(f"'{name}' cannot be downloaded: {why}", "a network", mend)
        try:
            builder.download_and_prepare()
        except DataError:
            raise
        except Exception as error:
            why = shorten(str(error), 300)
            found = f"'{name}' cannot be prepared ({type(error).__name__}: {why})"
            mend = f"prepare it once: ebm-jax prepare {name} --originals DIR"
            raise wrong(found, "its original files, whole, from the network", mend) from error
    return folder


def _folder(name: str) -> Path:
    """Returns the folder in which tensorflow-datasets keeps the set."""
    version = tensorflow_datasets().builder_cls(_squares(name)[0]).VERSION
    home = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(home).expanduser() / name / str(version)


def _builder(name: str, originals: Path | None, scratch: Path) -> Any:
    """Returns a tensorflow-datasets builder with the set's URLs and description, and our parser.

    It overrides the methods `_info`, `_split_generators` and `_generate_examples`.

    Args:
        name: name of the set, with or without the side of squares.
        originals: a folder with the files as published, or None to download them.
        scratch: a folder for files unpacked from the originals.
    """
    tfds, (base, side) = tensorflow_datasets(), _squares(name)
    published = tfds.builder_cls(base)
    configs = (
        ()
        if side is None
        else (tfds.core.BuilderConfig(name=str(side), version=published.VERSION),)
    )

    class Parsed(published, skip_registration=True):  # type: ignore
        name, url_infos = base, published.url_infos
        BUILDER_CONFIGS = configs

        def _info(self) -> Any:
            if side is None:
                return super()._info()
            image = tfds.features.Image(shape=(side, side, 3))
            features = tfds.features.FeaturesDict({**super()._info().features, "image": image})
            return self.dataset_info_from_configs(features=features)

        def _split_generators(self, manager: Any, *_: Any, **__: Any) -> Any:
            files = _LocalFiles(originals, scratch, self) if originals else _Downloads(manager)
            return super()._split_generators(files)

        def _generate_examples(self, *args: Any, **options: Any) -> Examples:
            squares = {} if side is None else {"side": side}
            return PARSERS[base](*args, **options, **squares)

    home = os.environ.get("TFDS_DATA_DIR") or None  # the default
    options: dict[str, Any] = {} if side is None else {"config": str(side)}
    return Parsed(data_dir=home, file_format="array_record", **options)


class _Downloads:
    """The download manager, except that archives are left to our parsers, without TensorFlow."""

    def __init__(self, manager: Any):
        self.download, self.download_and_extract = manager.download, manager.download_and_extract

    def iter_archive(self, archive: Any) -> tuple[()]:
        """Returns nothing; our parsers open archives themselves."""
        return ()


class _LocalFiles:
    """Stands in for the download manager when the published files are in a local folder."""

    def __init__(self, folder: Path, scratch: Path, builder: Any):
        self.folder, self.scratch, self.infos = folder, scratch, builder.url_infos

    def download(self, urls: dict[str, Any]) -> dict[str, str]:
        """Returns the paths of the files, in the structure of their URLs."""
        return {key: str(self._find(url)) for key, url in urls.items()}

    def download_and_extract(self, urls: Any) -> Any:
        """Returns the paths of the unpacked files, in the structure of their URLs."""
        if isinstance(urls, dict):
            return {key: self.download_and_extract(url) for key, url in urls.items()}
        packed = self._find(urls)
        unpacked = self.scratch / packed.name.removesuffix(".gz")
        if packed.name.endswith(".tar.gz"):
            with tarfile.open(packed) as archive:
                _unpack(archive, packed, unpacked)
        else:
            with gzip.open(packed) as source, unpacked.open("wb") as target:
                shutil.copyfileobj(source, target)
        return str(unpacked)

    def iter_archive(self, archive: Any) -> tuple[()]:
        """Returns nothing; our parsers open archives themselves."""
        return ()

    def _find(self, url: Any) -> Path:
        info = self.infos[str(url)]
        path = self.folder / info.filename
        if not path.exists():
            raise wrong(f"{path} does not exist", f"a copy of {url}", "put it there")
        _check_published(path, url, info.checksum)
        return path


def _check_published(path: Path, url: object, checksum: str) -> None:
    """Raises the `DataError` if the checksum of a file is not the published one."""
    with reading(path), path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != checksum:
        expected = f"{checksum} as published at {url}"
        raise wrong(f"{path} has the SHA-256 checksum {found}", expected, "download it again")


def _unpack(archive: tarfile.TarFile, path: Path, folder: Path) -> None:
    """Writes the files of an archive below a new folder; refuses links and paths outside of it.

    Python 3.11.4 and later have a filter for this; earlier versions do not.
    """
    for member in archive:
        name = PurePosixPath(member.name)
        if not (member.isreg() or member.isdir()) or name.is_absolute() or ".." in name.parts:
            found = f"{path} holds {member.name!r}, a link or a path that leaves its folder"
            raise wrong(found, "plain files", "download it again")
        if member.isdir():
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = archive.extractfile(member)
        assert source is not None  # a regular file
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
