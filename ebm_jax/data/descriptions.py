"""Reads the JSON descriptions of a prepared set as data; no class named in them is imported.

tensorflow-datasets describes a set in dataset_info.json (file format, parts, records per file)
and features.json (the fields of a record). Two features are read here, an image and a class
label. Other features are ignored.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from ebm_jax.data.images import reading, wrong
from ebm_jax.data.memory import check_fits

INFO, FEATURES, NAMES = "dataset_info.json", "features.json", "label.labels.txt"
MEND = "remove the folder and prepare the set again"
_DICT = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
_IMAGE = "tensorflow_datasets.core.features.image_feature.Image"
_LABEL = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
_WORDS: dict[type, str] = {dict: "an object of JSON", list: "a list", str: "a text"}
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


class Part(NamedTuple):
    """One part of a prepared set: its record files and the number of records in them."""

    files: list[Path]
    num_records: int


class Features(NamedTuple):
    """The features that are read from a record.

    Attributes:
        channels: number of color channels, 1 or 3.
        num_classes: number of classes, or None if the set has no label.
        names: class names, or None if the classes are called 0 to K - 1.
    """

    channels: int
    num_classes: int | None
    names: tuple[str, ...] | None


def read_parts(folder: Path) -> dict[str, Part]:
    """Returns the non-empty parts of a prepared set by name, and checks that their files exist."""
    path = folder / INFO
    info = _json(path)
    if (stored := info.get("fileFormat", "tfrecord")) != "array_record":
        mend = "prepare it with file_format='array_record'"
        raise wrong(f"{folder} is stored as {stored}", "array_record", mend)
    name = _get(info, "name", str, path)
    parts = {}
    for split in _get(info, "splits", list, path):
        part = _get(_checked(split, dict, "splits", path), "name", str, path)
        shards = _checked(split.get("shardLengths", []), list, "shardLengths", path)
        lengths = [_whole(length, "shardLengths", path) for length in shards]
        if min(lengths, default=0) < 0:
            raise wrong(f"{path} has the shardLengths {lengths}", "0 or more", MEND)
        if part in parts:
            raise wrong(f"{path} has the part '{part}' twice", "each once", MEND)
        words = {"DATASET": name, "SPLIT": part, "FILEFORMAT": stored}
        template = _checked(split.get("filepathTemplate", _TEMPLATE), str, "filepathTemplate", path)
        files = [
            _file(folder, template or _TEMPLATE, words, i, len(lengths))
            for i, length in enumerate(lengths)
            if length
        ]
        if files:
            parts[part] = Part(files, sum(lengths))
    if "train" not in parts:
        raise wrong(f"{folder} has records of the parts {sorted(parts)}", "'train'", MEND)
    return parts


def read_features(folder: Path) -> Features:
    """Returns the image and label features of a prepared set."""
    path = folder / FEATURES
    top = _json(path)
    if top.get("pythonClassName") != _DICT:
        found = f"{path} describes a {top.get('pythonClassName')!r}"
        raise wrong(found, f"'{_DICT}'", MEND)
    features = _get(_get(top, "featuresDict", dict, path), "features", dict, path)
    if "image" not in features:
        found = f"{folder} has the features {sorted(features)}"
        raise wrong(found, "one named 'image'", "give a set of images")
    image = _checked(features["image"], dict, "image", path)
    if image.get("pythonClassName") != _IMAGE:
        found = f"{path} has 'image' as a {image.get('pythonClassName')!r}"
        raise wrong(found, f"'{_IMAGE}'", "give a set of images")
    channels = _channels(_get(image, "image", dict, path), path)
    label = _checked(features.get("label", {}), dict, "label", path)
    if label.get("pythonClassName") != _LABEL:
        return Features(channels, None, None)
    content = _get(label, "classLabel", dict, path)
    num_classes = _whole(content.get("numClasses", 0), "numClasses", path)
    if num_classes < 1:
        return Features(channels, None, None)
    return Features(channels, num_classes, _class_names(folder / NAMES, num_classes))


def _channels(image: dict[str, Any], path: Path) -> int:
    dimensions = _get(_get(image, "shape", dict, path), "dimensions", list, path)
    shape = tuple(_whole(size, "dimensions", path) for size in dimensions)
    dtype = image.get("dtype", "uint8")
    if len(shape) != 3 or shape[2] not in (1, 3) or dtype != "uint8":
        found = f"{path} has images of shape {shape} and {dtype}"
        raise wrong(found, "(h, w, 1) or (h, w, 3) and uint8", "convert it")
    return shape[2]


def _class_names(path: Path, num_classes: int) -> tuple[str, ...] | None:
    if not path.exists():
        return None
    with reading(path, "a name per line", MEND):
        names = tuple(line.strip() for line in path.read_text("utf-8").split("\n") if line.strip())
    if len(names) != num_classes:
        raise wrong(f"{path} has {len(names)} names", f"{num_classes} as in {FEATURES}", MEND)
    return None if names == tuple(map(str, range(num_classes))) else names


def _file(folder: Path, template: str, words: dict[str, str], index: int, total: int) -> Path:
    """Returns the path of one record file; raises if it is outside the folder of its set."""
    digits = max(5, len(str(total)))
    place, of = f"{index:0{digits}d}", f"{total:0{digits}d}"
    words = words | {"SHARD_INDEX": place, "NUM_SHARDS": of, "SHARD_X_OF_Y": f"{place}-of-{of}"}
    name = re.sub(r"\{(\w+)\}", lambda found: words.get(found[1], found[0]), template)
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise wrong(f"{folder / INFO} names the file {name!r}", f"one in {folder}", MEND)
    file = folder / name
    if not file.is_file():
        raise wrong(f"{file} does not exist", f"the records that {INFO} lists", MEND)
    return file


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise wrong(f"{path} does not exist", "a prepared set", MEND)
    with reading(path, "JSON as tensorflow-datasets writes it", MEND):
        check_fits(path, path.stat().st_size)
        return _checked(json.loads(path.read_bytes()), dict, "its content", path)


def _get(record: dict[str, Any], name: str, kind: type, path: Path) -> Any:
    if name not in record:
        raise wrong(f"{path} has no entry '{name}'", _WORDS[kind], MEND)
    return _checked(record[name], kind, name, path)


def _checked(value: Any, kind: type, name: str, path: Path) -> Any:
    if not isinstance(value, kind):
        raise wrong(f"{path} has {value!r:.60} as {name}", _WORDS[kind], MEND)
    return value


def _whole(value: Any, name: str, path: Path) -> int:
    """Returns a whole number, which the JSON of protocol buffers may write as a string."""
    if isinstance(value, str | int) and re.fullmatch(r"-?\d{1,18}", str(value)):
        return int(value)
    raise wrong(f"{path} has {value!r:.60} in {name}", "a whole number", MEND)
