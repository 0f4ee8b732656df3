"""Placement on eight simulated devices, read off the shards; core counts in a fresh process."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ebm_jax.data import Rows
from ebm_jax.losses import noise_conditional
from ebm_jax.nets import UNet, precondition
from ebm_jax.sharding import (
    data_mesh,
    fetch,
    gather,
    make_mesh,
    memory_plan,
    mesh_shape,
    partition,
    place_parameters,
    replicate,
    split,
    split_or_copy,
    spread,
    use_mesh,
)
from ebm_jax.training import init_state, make_step


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


# ---- meshes of two axes


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("data=4,fsdp=2", {"data": 4, "fsdp": 2}),
        ("fsdp=2, data=3", {"data": 3, "fsdp": 2}),
        ("fsdp=8", {"data": 1, "fsdp": 8}),
        ("data=1", {"data": 1}),
    ],
)
def test_a_mesh_is_read_from_text(text, shape):
    assert mesh_shape(text) == shape


@pytest.mark.parametrize(
    "text", ["", "8", "data", "data=", "data=0", "data=-2", "data=2.0", "model=2", "data=2,data=4"]
)
def test_text_that_is_no_mesh_is_refused(text):
    with pytest.raises(ValueError, match="such as data=4,fsdp=2"):
        mesh_shape(text)


@pytest.mark.parametrize("shape", [{"data": 4}, {"data": 16}, {"data": 3, "fsdp": 2}])
def test_the_context_mesh_takes_all_devices_or_is_refused(shape):
    with pytest.raises(ValueError, match="8 devices in 1 processes"):
        use_mesh(shape)
    assert jax.sharding.get_mesh().empty


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(ValueError, match="8 devices"):
        make_mesh({"data": 3, "fsdp": 3})


def test_the_context_mesh_is_the_data_mesh_and_must_divide_the_batch():
    mesh = make_mesh({"data": 4, "fsdp": 2})
    with jax.set_mesh(mesh):
        assert data_mesh() == data_mesh(16) == mesh
        with pytest.raises(ValueError, match="batch of 12 for 8 devices"):
            data_mesh(12)
    assert data_mesh() != mesh


def test_examples_are_split_over_both_axes():
    x = jnp.arange(16)
    for i, piece in shards(split(x, make_mesh({"data": 4, "fsdp": 2}))).items():
        np.testing.assert_array_equal(piece, x[2 * i : 2 * i + 2])


@pytest.mark.parametrize(
    ("shape", "part"),
    [
        ((3, 3, 8, 16), (3, 3, 8, 4)),  # the longest axis
        ((16, 8), (4, 8)),
        ((8, 8), (8, 2)),  # the last of equals
        ((18, 8), (18, 2)),  # the longest does not divide
        ((4,), (1,)),
        ((6, 3), (6, 3)),  # none divides: copied
        ((), ()),
    ],
)
def test_a_parameter_is_split_along_its_longest_axis_that_divides(shape, part):
    x = jnp.arange(np.prod(shape, dtype=int)).reshape(shape)
    placed = place_parameters(x, make_mesh({"data": 2, "fsdp": 4}))
    pieces = shards(placed)
    assert {piece.shape for piece in pieces.values()} == {part}
    assert len({piece.tobytes() for piece in pieces.values()}) == x.size // np.prod(part, dtype=int)
    np.testing.assert_array_equal(placed, x)


def test_data_parallel_parameters_are_copied():
    assert partition((8, 8), make_mesh({"data": 8})).is_fully_replicated


def test_gathered_parameters_are_whole_and_their_gradient_is_in_parts():
    """sum_i (w . x_i) has the gradient sum_i x_i: from examples on 8 devices, in parts of 4."""
    mesh = make_mesh({"data": 2, "fsdp": 4})
    w = place_parameters(jnp.arange(12.0), mesh)
    x = split(np.arange(16.0 * 12).reshape(16, 12).astype(np.float32), mesh)

    @jax.jit
    def value_and_grad(w, x):
        def loss(w):
            return jnp.sum(x @ gather({"w": w}, mesh)["w"])

        return gather(w, mesh), *jax.value_and_grad(loss)(w)

    whole, value, grad = value_and_grad(w, x)
    assert whole.is_fully_replicated
    assert {piece.shape for piece in shards(grad).values()} == {(3,)}
    np.testing.assert_allclose(grad, np.asarray(x).sum(0))
    np.testing.assert_allclose(value, np.asarray(x).sum(0) @ np.arange(12.0))


def test_chains_are_split_where_their_number_divides_and_else_copied():
    placed = split_or_copy((jnp.zeros((16, 3)), jnp.zeros(6), jnp.int32(0)), data_mesh())
    assert [leaf.is_fully_replicated for leaf in placed] == [False, True, True]


def test_fetched_arrays_are_whole():
    mesh = make_mesh({"fsdp": 8})
    tree = {"a": jnp.arange(16.0), "b": jnp.float32(3)}
    back = fetch(place_parameters(tree, mesh))
    np.testing.assert_array_equal(back["a"], np.arange(16.0))
    assert back["b"] == 3


# ---- reading only what is one's own


class Recorded:
    """An array that notes which of its examples were read."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.read = values, values.shape, values.dtype, []

    def __getitem__(self, index):
        self.read += np.ravel(index).tolist()
        return self.values[index]


def test_rows_are_the_indexed_array_and_read_no_more_than_is_asked_for():
    source = Recorded(np.random.default_rng(0).normal(size=(20, 3, 2)).astype(np.float32))
    index = np.random.default_rng(1).integers(0, 20, (4, 8))
    rows = Rows(source, index)
    assert (rows.shape, rows.dtype) == ((4, 8, 3, 2), np.float32)
    for key in [np.s_[1:3], np.s_[:, 2:5], np.s_[1, 2:5], np.s_[:2, :, 1:], np.s_[3, 4, 0]]:
        source.read = []
        np.testing.assert_array_equal(rows[key], source.values[index][key])
        asked = index[key[:2] if isinstance(key, tuple) else key]
        assert sorted(source.read) == sorted(np.ravel(asked).tolist())
    np.testing.assert_array_equal(np.asarray(rows), source.values[index])


def test_split_reads_rows_once_for_the_device_that_holds_them():
    source = Recorded(np.arange(100.0, dtype=np.float32))
    index = np.random.default_rng(1).permutation(100)[:32].reshape(2, 16)
    placed = split(Rows(source, index), data_mesh(), axis=1)
    np.testing.assert_array_equal(placed, index)
    assert sorted(source.read) == sorted(index.ravel().tolist())
    for i, piece in shards(placed).items():
        np.testing.assert_array_equal(piece, index[:, 2 * i : 2 * i + 2])


# ---- memory


def plan_of(fn, *args, **options):
    return memory_plan(jax.jit(fn, **options).lower(*args).compile())


def test_the_plan_counts_what_one_device_holds():
    """4096 x 1024 floats over 8 devices are 2 MiB each, and as much more for another such."""
    x, part = split(np.zeros((4096, 1024), np.float32), data_mesh()), 2 * 2**20
    assert plan_of(lambda x: x + 1, x)[:2] == (part, 2 * part)
    assert plan_of(lambda x: x + 1, x, donate_argnums=0)[:2] == (part, part)
    assert plan_of(lambda x: x + 1, x).available > 2**30 / 8


def test_the_plan_counts_what_lives_in_between():
    """(x x^T) x of 1024 x 1024 floats: 4 MiB for x, for the product and for the result."""
    plan = plan_of(lambda x: (x @ x.T) @ x, jnp.zeros((1024, 1024)))
    assert plan.arguments == 4 * 2**20
    assert plan.peak >= 12 * 2**20


def test_the_step_of_a_fully_sharded_unet_holds_an_eighth_of_its_state():
    """Parameters, Adam's moments and the average; what has no axis of eighths is under 2%."""
    mesh, optimizer = make_mesh({"fsdp": 8}), optax.adam(1e-3)
    net = UNet(32, (1, 2), blocks=1, attention_sides=(4,), groups=8, dropout=0.0)

    def loss(params, key, x):
        denoise = precondition.vp(partial(net.apply, gather(params, mesh)))
        return noise_conditional(denoise, key, x, jnp.float32(1.0))

    def start():
        params = net.init(jax.random.key(0), jnp.zeros((8, 8, 3)), jnp.float32(0))
        return init_state(params, optimizer, jax.random.key(1))

    def in_parts(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=partition(leaf.shape, mesh))

    state = jax.tree.map(in_parts, jax.eval_shape(start))
    batch = split(np.zeros((8, 8, 8, 3), np.float32), mesh)
    placement = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jax.jit(make_step(loss, optimizer), donate_argnums=0, out_shardings=(placement, None))
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int32
        plan = memory_plan(step.lower(state, batch).compile())
    whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(state._replace(key=state.step)))
    held = plan.arguments - batch.nbytes // 8
    assert whole / 8 <= held < 1.02 * whole / 8


@pytest.mark.parametrize("shape", [{"data": 8}, {"data": 2, "fsdp": 4}, {"data": 1, "fsdp": 8}])
def test_the_library_alone_trains_in_parts_by_the_mesh_of_a_step(shape):
    """The losses of one device, and parameters that lie in parts before and after."""

    def loss(params, key, x):
        return jnp.sum((jnp.tanh(params["w"] @ x) - 0.3) ** 2) + 0 * jax.random.uniform(key)

    def train(mesh):
        optimizer = optax.sgd(0.1, momentum=0.9)
        params = {"w": jax.random.normal(jax.random.key(0), (16, 4)) / 4}
        state = init_state(params, optimizer, jax.random.key(1), jnp.zeros((16, 3)), mesh=mesh)
        step = jax.jit(make_step(loss, optimizer, mesh=mesh))
        losses = []
        for index in range(4):
            batch = jax.random.normal(jax.random.key(10 + index), (16, 4))
            state, metrics = step(state, batch if mesh is None else split(batch, mesh))
            losses.append(float(metrics["loss"]))
        return state, losses

    mesh = make_mesh(shape)
    state, losses = train(mesh)
    alone, expected = train(None)
    np.testing.assert_allclose(losses, expected, atol=1e-6)
    np.testing.assert_allclose(state.params["w"], alone.params["w"], atol=1e-6)
    assert expected[-1] < expected[0]
    parts = 16 // shape.get("fsdp", 1)
    for leaf in (state.params["w"], state.ema["w"], state.opt_state[0].trace["w"]):
        assert {piece.shape for piece in shards(leaf).values()} == {(parts, 4)}
