"""Fingerprints of data: equal for equal sets, and different after any one change."""

import json

import numpy as np
import pytest

from ebm_jax.data import Images, Records, fingerprint

PIXELS = np.random.default_rng(0).integers(0, 256, (1000, 4, 5, 3), np.uint8)
LABELS = np.arange(1000, dtype=np.int32) % 3
NAMES = ("cat", "dog", "eel")
FILES = (("train-00000-of-00002", 700), ("train-00001-of-00002", 300))
SET = Images(PIXELS, LABELS, NAMES)


def on_disk(pixels, labels):
    def records(array):
        return Records(
            lambda numbers: array[numbers], np.arange(len(array)), array.shape[1:], array.dtype
        )

    return Images(records(pixels), records(labels), NAMES, "uint8", FILES)


def changed(array, index):
    array = array.copy()
    array[index] = (array[index] + 1) % 3
    return array


def test_a_fingerprint_is_plain_json_with_count_and_shape():
    found = fingerprint(SET)
    assert json.loads(json.dumps(found)) == found
    assert (found["count"], found["shape"], found["dtype"]) == (1000, [4, 5, 3], "uint8")
    assert len(found["checksum"]) == 64


def test_equal_sets_have_equal_fingerprints_however_they_lie_in_memory():
    strided = np.asfortranarray(np.repeat(PIXELS, 2, 1))[:, ::2]
    copy = Images(strided, LABELS.astype(">i4"), tuple(NAMES))
    assert fingerprint(copy) == fingerprint(SET)


@pytest.mark.parametrize(
    "other",
    [
        SET._replace(pixels=changed(PIXELS, (517, 1, 2, 0))),
        SET._replace(labels=changed(LABELS, 517)),
        SET._replace(labels=None),
        SET._replace(names=("cat", "dog", "fox")),
        SET._replace(names=None),
        SET._replace(values="floats in [0, 1]"),
        Images(PIXELS[::-1], LABELS[::-1], NAMES),
        Images(PIXELS[:-1], LABELS[:-1], NAMES),
        Images(PIXELS.reshape(1000, 5, 4, 3), LABELS, NAMES),
    ],
    ids=["pixel", "label", "no labels", "name", "no names", "range", "order", "count", "shape"],
)
def test_one_change_changes_the_fingerprint(other):
    assert fingerprint(other) != fingerprint(SET)


def test_a_prepared_set_has_one_fingerprint_in_memory_and_on_disk_and_few_records_are_read():
    disk = on_disk(PIXELS, LABELS)
    assert fingerprint(disk) == fingerprint(SET._replace(files=FILES))
    read = []

    def note(numbers):
        read.extend(numbers)
        return PIXELS[numbers]

    fingerprint(disk._replace(pixels=Records(note, np.arange(1000), (4, 5, 3), np.uint8)))
    assert len(read) == 256
    assert {0, 999} <= set(read)


@pytest.mark.parametrize(
    "other",
    [
        on_disk(changed(PIXELS, (999, 0, 0, 0)), LABELS),
        on_disk(PIXELS, changed(LABELS, 0)),
        on_disk(PIXELS, LABELS)._replace(files=(FILES[0], ("train-00001-of-00002", 301))),
        on_disk(PIXELS[np.random.default_rng(7).permutation(1000)], LABELS),
        on_disk(PIXELS[:-1], LABELS[:-1]),
    ],
    ids=["pixel", "label", "size of a file", "order", "count"],
)
def test_a_change_of_a_prepared_set_changes_its_fingerprint(other):
    assert fingerprint(other) != fingerprint(on_disk(PIXELS, LABELS))
