"""Placement on eight simulated devices, read off the shards; core counts in a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.sharding import data_mesh, replicate, split, spread


def shards(array):
    """Index of the device -> the piece of the array that it holds."""
    return {shard.device.id: np.asarray(shard.data) for shard in array.addressable_shards}


@pytest.mark.parametrize(
    ("batch_size", "devices"), [(None, 8), (16, 8), (12, 6), (7, 7), (9, 3), (2, 2), (11, 1)]
)
def test_mesh_takes_the_most_devices_that_divide_the_batch(batch_size, devices):
    mesh = data_mesh(batch_size)
    assert mesh.axis_names == ("data",)
    assert list(mesh.devices) == jax.devices()[:devices]


def test_split_gives_every_device_its_run_of_rows():
    tree = {"a": jnp.arange(48.0).reshape(16, 3), "b": jnp.arange(8)}
    placed = split(tree, data_mesh())
    for i in range(8):
        np.testing.assert_array_equal(shards(placed["a"])[i], tree["a"][2 * i : 2 * i + 2])
        np.testing.assert_array_equal(shards(placed["b"])[i], [i])


@pytest.mark.parametrize("axis", [1, -1])
def test_split_takes_another_axis(axis):
    x = jnp.arange(48).reshape(3, 16)
    for i, piece in shards(split(x, data_mesh(), axis=axis)).items():
        np.testing.assert_array_equal(piece, x[:, 2 * i : 2 * i + 2])


def test_replicate_gives_every_device_everything():
    mesh = data_mesh(4)
    pieces = shards(replicate({"w": jnp.arange(5)}, mesh)["w"])
    assert len(pieces) == 4
    for piece in pieces.values():
        np.testing.assert_array_equal(piece, np.arange(5))


@pytest.mark.parametrize(("length", "axis"), [(12, 0), (1, 1)])
def test_split_refuses_lengths_that_do_not_divide(length, axis):
    x = jnp.zeros((length,) if axis == 0 else (8, length))
    with pytest.raises(ValueError, match=f"axis of {length} examples for 8 devices"):
        split(x, data_mesh(), axis=axis)


@pytest.mark.parametrize("count", [1, 8, 13])
def test_spread_is_vmap_for_any_number_of_examples(count):
    def one(x, pair):
        return {"sum": x.sum() + pair[1], "row": x * pair[0]}

    args = jnp.arange(2.0 * count).reshape(count, 2) + 1, (jnp.arange(1.0 * count), jnp.ones(count))
    out, expected = spread(one)(*args), jax.vmap(one)(*args)
    for name, value in expected.items():
        np.testing.assert_allclose(out[name], value)


def test_spread_works_on_every_device():
    out = spread(lambda x: x + 1)(jnp.arange(16.0))
    assert len(out.sharding.device_set) == 8


def device_count(cores, **environment):
    """jax.device_count() after `use_all_cores` in a fresh process that may use these cores."""
    code = (
        f"import os; os.sched_setaffinity(0, {cores}); import jax, ebm_jax.sharding as sharding;"
        "sharding.use_all_cores(); print(jax.device_count())"
    )
    chosen = ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
    inherited = {name: value for name, value in os.environ.items() if name not in chosen}
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True, timeout=60,
        env={**inherited, "JAX_PLATFORMS": "cpu", **environment}, capture_output=True, text=True,
    )  # fmt: skip
    return int(out.stdout)


def test_every_core_that_the_process_may_use_is_a_device():
    cores = os.sched_getaffinity(0)
    assert device_count(cores) == len(cores)
    assert device_count({min(cores)}) == 1


@pytest.mark.parametrize("number", [1, 3])
def test_a_number_of_devices_that_was_chosen_is_kept(number):
    assert device_count(os.sched_getaffinity(0), JAX_NUM_CPU_DEVICES=str(number)) == number
