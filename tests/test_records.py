"""Values on disk against the same in a numpy array; batches of several readers against one's."""

import threading
import time

import numpy as np
import pytest

from ebm_jax.data import DataError, Records, batch_indices

pytest.importorskip("grain")
VALUES = np.random.default_rng(0).integers(0, 256, (200, 3, 2, 1), np.uint8)


class Disk:
    """Reads rows of VALUES, and notes which."""

    def __init__(self, values=VALUES):
        self.values, self.opened = values, []

    def __call__(self, numbers):
        self.opened += numbers
        return [self.values[number] for number in numbers]


def on_disk(disk, values=VALUES):
    return Records(disk, np.arange(len(values)), values.shape[1:], values.dtype)


INDICES = {
    "number": 3,
    "numpy number": np.int32(7),
    "from the end": -1,
    "all": slice(None),
    "every third": slice(5, 140, 3),
    "backwards": slice(None, None, -1),
    "none": slice(0, 0),
    "list": [4, 4, 199, -200],
    "steps by batch": np.random.default_rng(1).integers(0, 200, (5, 16), np.int32),
    "three axes": np.arange(24).reshape(2, 3, 4),
    "no steps": np.zeros((0, 4), int),
    "mask": np.arange(200) % 7 == 0,
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("values", [VALUES, VALUES[:, 0, 0, 0].astype(np.int32)], ids=["4d", "1d"])
def test_records_are_indexed_like_the_array_that_they_stand_for(values, index):
    disk = Disk(values)
    records = on_disk(disk, values)
    assert (records.shape, records.dtype, records.ndim, len(records)) == (
        *(values.shape, values.dtype, values.ndim, len(values)),
    )
    found, expected = records[index], values[index]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected, strict=isinstance(expected, np.ndarray))
    assert sorted(disk.opened) == np.sort(np.arange(200)[index], axis=None).tolist()


@pytest.mark.parametrize("index", [200, -201, [0, 200], (0, 0), 0.5])
def test_what_numpy_does_not_index_is_refused(index):
    with pytest.raises(IndexError):
        on_disk(Disk())[index]


def test_a_selection_reads_nothing_and_selections_compose():
    disk = Disk()
    order = np.random.default_rng(2).permutation(200)
    some = on_disk(disk).only(order).only(slice(10, 60))
    assert disk.opened == []
    assert some.shape == (50, 3, 2, 1)
    np.testing.assert_array_equal(some[[3, -1]], VALUES[order][10:60][[3, -1]])
    assert sorted(disk.opened) == sorted([order[13], order[59]])


def test_as_an_array_they_are_all_values():
    records = on_disk(Disk())
    np.testing.assert_array_equal(np.asarray(records), VALUES, strict=True)
    np.testing.assert_array_equal(np.asarray(records, float), VALUES.astype(float), strict=True)
    with pytest.raises(ValueError, match="copy=False"):
        np.asarray(records, copy=False)


def test_several_threads_read_and_the_order_stays():
    names = set()

    def read(numbers):
        names.add(threading.current_thread().name)
        time.sleep(0.02 if numbers[0] == 0 else 0.001)  # the first comes last
        return VALUES[numbers]

    before = threading.active_count()
    np.testing.assert_array_equal(on_disk(read)[:], VALUES)
    assert len(names) > 1
    for _ in range(500):  # its threads end soon after, and so may those of other tests
        if threading.active_count() <= before:
            break
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_what_a_reader_raises_arrives():
    def read(numbers):
        if 150 in numbers:
            raise DataError("record 150 is damaged")
        return VALUES[numbers]

    records = on_disk(read)
    np.testing.assert_array_equal(records[:150], VALUES[:150])
    with pytest.raises(DataError) as caught:
        records[:]
    assert str(caught.value) == "record 150 is damaged"


@pytest.mark.parametrize("readers", [1, 2, 4])
@pytest.mark.parametrize("stored", ["memory", "disk"])
def test_the_stream_depends_on_seed_and_step_and_not_on_the_number_of_readers(readers, stored):
    """Each reader opens its own rows of a global batch; together they are the batch of one."""
    seed, first, steps, batch_size = 3, 10, 4, 24
    alone = VALUES[batch_indices(seed, first, steps, len(VALUES), batch_size)]
    rows = np.split(np.arange(batch_size), readers)
    disks = [Disk() for _ in range(readers)]
    parts = []
    for own, disk in zip(rows, disks, strict=True):  # every one of them a process of its own
        pixels = on_disk(disk) if stored == "disk" else VALUES
        index = batch_indices(seed, first, steps, len(pixels), batch_size)
        parts.append(pixels[index[:, own]])
        if stored == "disk":
            assert sorted(disk.opened) == np.sort(index[:, own], axis=None).tolist()
    np.testing.assert_array_equal(np.concatenate(parts, 1), alone)
    later = [VALUES[batch_indices(seed, first + i, 1, len(VALUES), batch_size)] for i in range(4)]
    np.testing.assert_array_equal(np.concatenate(later), alone)  # nor on where it began
    other = VALUES[batch_indices(seed + 1, first, steps, len(VALUES), batch_size)]
    assert (other != alone).any()
