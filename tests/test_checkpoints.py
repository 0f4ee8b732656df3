"""Checkpoints: what comes back, bit for bit; what is kept; what is told of damage, a full disk,

another architecture; a state donated while it is saved; processes killed, and two at once.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tests.conftest  # noqa: F401  the process to be killed trains under the same settings
from ebm_jax.checkpoints import CheckpointError, Checkpoints
from ebm_jax.checkpoints import folder as folder_module
from ebm_jax.sharding import data_mesh, replicate, split
from ebm_jax.training import fit, init_state, make_step

ROOT = Path(__file__).parents[1]


def tree(scale=1.0):
    params = {"w": scale * jnp.linspace(-1, 1, 16).reshape(8, 2), "half": jnp.ones(3, jnp.bfloat16)}
    return {
        "params": params,
        "optimizer": optax.adam(1e-3).init(params),
        "step": jnp.int32(7),
        "key": jax.random.key(int(scale)),
    }


def bits(tree):
    def of(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()

    return jax.tree.map(of, tree)


def test_a_tree_comes_back_bit_for_bit_with_its_types(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, tree(2.0))
        back = checkpoints.restore(tree())
    assert bits(back) == bits(tree(2.0))
    assert bits(back) != bits(tree())
    assert jax.tree.map(lambda leaf: leaf.dtype, back) == jax.tree.map(lambda x: x.dtype, tree())


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 1), (1, 8)])
def test_a_tree_comes_back_on_the_devices_of_the_tree_it_is_to_be_like(
    tmp_path, saved_on, restored_on
):
    def placed(scale, devices):
        mesh = data_mesh(devices)
        whole = tree(scale)
        weights = split(whole["params"]["w"], mesh)
        whole = replicate(whole, mesh)
        return {**whole, "params": {**whole["params"], "w": weights}}

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, placed(2.0, saved_on))
        back = checkpoints.restore(placed(1.0, restored_on))
    assert bits(back) == bits(tree(2.0))
    assert back["params"]["w"].sharding == placed(1.0, restored_on)["params"]["w"].sharding
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(back)} == {restored_on}


@pytest.mark.parametrize("options", [{}, {"keep": 1}, {"keep": 3}])
def test_the_newest_are_kept_and_the_newest_comes_back(tmp_path, options):
    with Checkpoints(tmp_path / "new" / "folder", **options) as checkpoints:
        assert checkpoints.latest_step is None
        for step in (1, 5, 10, 20):
            checkpoints.save(step, {"step": jnp.int32(step)})
            assert checkpoints.latest_step == step
    with Checkpoints(tmp_path / "new" / "folder", **options) as checkpoints:
        assert checkpoints.restore({"step": jnp.int32(0)})["step"] == 20
    kept = {int(folder.name) for folder in (tmp_path / "new" / "folder").iterdir()}
    assert kept == set([1, 5, 10, 20][-options.get("keep", 2) :])


def test_a_folder_without_a_checkpoint_says_so(tmp_path):
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match=f"no finished checkpoint in {tmp_path}"),
    ):
        checkpoints.restore(tree())


# ---- while a save is in flight


def slowed(monkeypatch, seconds=0.0):
    """Make the end of each save wait for the event that is returned, or for `seconds`."""
    write, may_end = folder_module.write_contents, threading.Event()

    def slow(*args):
        may_end.wait(seconds or 30)
        write(*args)

    monkeypatch.setattr(folder_module, "write_contents", slow)
    return may_end


def test_a_save_returns_before_it_is_on_disk_and_leaving_waits_for_it(tmp_path, monkeypatch):
    may_end = slowed(monkeypatch)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree())
        assert not (tmp_path / "1").exists()
        may_end.set()
    assert (tmp_path / "1").exists()


@pytest.mark.parametrize("ask", ["latest_step", "best_step", "wait", "restore", "save"])
def test_a_save_in_flight_is_waited_for(tmp_path, monkeypatch, ask):
    slowed(monkeypatch, seconds=0.3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree(), {"loss": 1.0})
        if ask.endswith("_step"):
            assert getattr(checkpoints, ask) == 1
        else:
            getattr(checkpoints, ask)(*{"wait": (), "restore": (tree(),), "save": (2, tree())}[ask])
        assert (tmp_path / "1").exists()


@pytest.mark.parametrize("num_devices", [1, 8])
def test_a_state_donated_and_overwritten_at_once_is_saved_as_it_was(tmp_path, num_devices):
    mesh = data_mesh(num_devices)
    state = {
        "split": split(jnp.zeros((8, 20_000)), mesh),
        "whole": replicate(jnp.zeros(80_000), mesh),
    }
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        for count in range(20):
            checkpoints.save(count, state)
            for _ in range(4):
                state = step(state)
            jax.block_until_ready(state)
            back = checkpoints.restore(state)
            assert {float(v) for leaf in back.values() for v in np.unique(leaf)} == {4.0 * count}


# ---- the best one


def test_the_best_is_kept_besides_the_newest_and_known_after_reopening(tmp_path):
    losses = {1: 3.0, 2: np.nan, 3: 1.0, 4: 2.0, 5: -np.inf, 6: None, 7: 2.5, 8: 1.5}
    with Checkpoints(tmp_path) as checkpoints:
        for step, loss in losses.items():
            metrics = {"other": -step} if loss is None else {"loss": loss, "other": -step}
            checkpoints.save(step, {"step": jnp.int32(step)}, metrics)
            finite = {s for s in (1, 3, 4, 7, 8) if s <= step}
            best = min(finite, key=losses.__getitem__)
            assert checkpoints.best_step == best
    assert {folder.name for folder in tmp_path.iterdir()} == {"3", "7", "8"}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best_step == 3
        assert checkpoints.restore_best({"step": jnp.int32(0)})["step"] == 3
        assert checkpoints.restore({"step": jnp.int32(0)})["step"] == 8
        checkpoints.save(9, {"step": jnp.int32(9)}, {"loss": 0.5})
        assert checkpoints.best_step == 9
    assert {folder.name for folder in tmp_path.iterdir()} == {"8", "9"}
    with Checkpoints(tmp_path, best="other") as checkpoints:
        assert checkpoints.best_step == 8


def test_without_the_metric_there_is_no_best(tmp_path):
    with Checkpoints(tmp_path, best="fid") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, tree(), {"loss": step})
        assert checkpoints.best_step is None
        with pytest.raises(CheckpointError, match=f"no checkpoint in {tmp_path} .* with `fid`"):
            checkpoints.restore_best(tree())
    assert {folder.name for folder in tmp_path.iterdir()} == {"2", "3"}


# ---- refusals


A_KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("saved", "like", "sentence"),
    [
        ({"w": jnp.ones(3)}, {"w": jnp.zeros((4, 2))}, r"w is (3,) float32 there and (4, 2) fl"),
        (
            {"w": jnp.ones(3)},
            {"w": jnp.zeros(3, jnp.int32)},
            "w is (3,) float32 there and (3,) int",
        ),
        (
            {"a": [{"w": jnp.ones(3)}]},
            {"a": [{"w": jnp.zeros(3), "v": jnp.zeros(2)}]},
            "a.0.v is absent there and (2,) float32 here",
        ),
        (
            {"v": jnp.ones(2), "w": jnp.ones(3)},
            {"w": jnp.ones(3)},
            "v is (2,) float32 there and abs",
        ),
        ({"w": jnp.ones(3), "m": ()}, {"w": jnp.ones(3)}, "m is empty there and absent here"),
        ({"k": A_KEY}, {"k": jax.random.key_data(A_KEY)}, "k is () key<fry> there and (2,) uint32"),
        (
            {"k": A_KEY},
            {"k": jax.random.key(0, impl="rbg")},
            "k is (2,) uint32 there and (4,) uint",
        ),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused_by_its_leaf(
    tmp_path, saved, like, sentence
):
    """Nor is the older one taken, which would fit; nor the one refused harmed."""
    with Checkpoints(tmp_path, tell=pytest.fail) as checkpoints:
        checkpoints.save(3, like)
        checkpoints.save(4, saved, {"loss": 1.0})
        for restore in (checkpoints.restore, checkpoints.restore_best):
            with pytest.raises(CheckpointError) as caught:
                restore(like)
            assert f"step 4 in {tmp_path} is of another architecture: {sentence}" in str(
                caught.value
            )
        assert bits(checkpoints.restore(saved)) == bits(saved)


@pytest.mark.parametrize("step", [2, 4])
def test_a_step_that_is_not_new_is_refused(tmp_path, step):
    """orbax would write it, and then remove it as the oldest or the new one's predecessor."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, tree())
        with pytest.raises(CheckpointError, match=f"got step {step}, but .* holds .* of step 4"):
            checkpoints.save(step, tree(2.0))
        assert bits(checkpoints.restore(tree())) == bits(tree())


def test_what_cannot_be_a_folder_of_checkpoints_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file cannot hold checkpoints"):
        Checkpoints(tmp_path / "file")
    with pytest.raises(ValueError, match="got keep=0: give at least 1"):
        Checkpoints(tmp_path, keep=0)


# ---- damage


def data_file(step_folder):
    return max(
        (f for f in step_folder.rglob("*") if f.is_file()), key=lambda file: file.stat().st_size
    )


def truncate(file):
    file.write_bytes(file.read_bytes()[:100])


def flip(file):
    """One bit of the last array's bytes, which orbax reads back as another number."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


DAMAGES = {
    "truncated": lambda folder: truncate(data_file(folder)),
    "a bit flipped": lambda folder: flip(data_file(folder)),
    "a file missing": lambda folder: data_file(folder).unlink(),
    "a list of files truncated": lambda folder: truncate(folder / "contents.json"),
    "another list of files": lambda folder: (folder / "contents.json").write_text("[]"),
    "arrays missing": lambda folder: shutil.rmtree(folder / "state"),
    "everything missing": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
}
NOISE = {"x": jax.random.normal(jax.random.key(1), (2000,)), "step": jnp.int32(0)}


def saved(folder, steps):
    with Checkpoints(folder, keep=9) as checkpoints:
        for step in steps:
            checkpoints.save(step, {**NOISE, "step": jnp.int32(step)}, {"loss": -step})


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_newest_is_told_of_set_aside_and_saved_again(tmp_path, damage):
    saved(tmp_path, (2, 4, 6))
    damage(tmp_path / "6")
    told = []
    with Checkpoints(tmp_path, tell=told.append) as checkpoints:
        back = checkpoints.restore(NOISE)
        assert bits(back) == bits({**NOISE, "step": jnp.int32(4)})
        assert len(told) == 1
        assert told[0].startswith(f"the checkpoint of step 6 in {tmp_path} is damaged (its file ")
        assert "of step 4 is used instead. The next save renames it to 6.damaged." in told[0]
        assert checkpoints.latest_step == checkpoints.best_step == 4
        assert checkpoints.restore(NOISE)["step"] == 4
        assert len(told) == 1  # said once
        assert {folder.name for folder in tmp_path.iterdir()} == {"2", "4", "6"}
        checkpoints.save(5, back, {"loss": -5})
        checkpoints.save(6, back, {"loss": -6})
        assert checkpoints.latest_step == checkpoints.best_step == 6
    assert {folder.name for folder in tmp_path.iterdir()} == {"5", "6", "6.damaged"}
    damage(tmp_path / "6")
    with Checkpoints(tmp_path, tell=told.append) as checkpoints:
        assert checkpoints.restore(NOISE)["step"] == 4
    assert len(told) == 2


def test_two_damaged_ones_are_passed_over_and_by_default_warned_of(tmp_path):
    saved(tmp_path, (2, 4, 6))
    for step in (4, 6):
        truncate(data_file(tmp_path / str(step)))
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.warns(UserWarning, match="of step 6 .* step 2 is used"),
        pytest.warns(UserWarning, match="of step 4 .* step 2 is used"),
    ):
        assert checkpoints.restore(NOISE)["step"] == 2


def test_all_damaged_is_refused_and_nothing_moved(tmp_path):
    saved(tmp_path, (2, 4))
    for step in (2, 4):
        truncate(data_file(tmp_path / str(step)))
    with (
        Checkpoints(tmp_path, tell=pytest.fail) as checkpoints,
        pytest.raises(
            CheckpointError, match=f"every .* in {tmp_path} .*step 4: .*; step 2: its fi"
        ),
    ):
        checkpoints.restore(NOISE)
    assert {folder.name for folder in tmp_path.iterdir()} == {"2", "4"}


def test_a_damaged_best_is_refused(tmp_path):
    saved(tmp_path, (2, 4))
    truncate(data_file(tmp_path / "4"))
    with (
        Checkpoints(tmp_path, tell=pytest.fail) as checkpoints,
        pytest.raises(CheckpointError, match=r"best checkpoint .* of step 4, is damaged: its file"),
    ):
        checkpoints.restore_best(NOISE)


# ---- readers


def test_who_reads_does_not_disturb_a_save_in_flight(tmp_path, monkeypatch):
    """Not by opening, not by restoring, not by leaving; the writer's next save works too."""
    saved(tmp_path, (2, 4))
    truncate(data_file(tmp_path / "4"))
    left = tmp_path / f"3{folder_module.UNFINISHED}-1"
    left.mkdir()
    slowed(monkeypatch, seconds=0.5)
    with Checkpoints(tmp_path, tell=lambda _: None) as writer:
        writer.restore(NOISE)
        writer.save(5, NOISE)
        assert not left.exists()  # of a writer that was killed
        before = {path.name for path in tmp_path.iterdir()}
        assert "4.damaged" in before
        with Checkpoints(tmp_path) as reader:
            assert reader.restore(NOISE)["step"] == 2
        assert {path.name for path in tmp_path.iterdir()} == before
        assert writer.latest_step == 5
        writer.save(6, NOISE)
        assert writer.latest_step == 6


def test_who_reads_leaves_all_as_it_is(tmp_path):
    saved(tmp_path, (2, 4))
    truncate(data_file(tmp_path / "4"))
    (tmp_path / f"6{folder_module.UNFINISHED}-1").mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    with Checkpoints(tmp_path, tell=lambda _: None) as reader:
        assert reader.restore(NOISE)["step"] == 2
        assert reader.latest_step == 2
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_wall_clock_set_forward_during_a_save_does_no_harm(tmp_path, monkeypatch):
    slowed(monkeypatch, seconds=0.3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, NOISE)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 3600)
        checkpoints.wait()
        assert checkpoints.latest_step == 1


# ---- failures of a save


def fail(*args):
    raise OSError("the cable was pulled")


@pytest.mark.parametrize("end", ["wait", "latest_step", "save", "close"])
def test_a_failed_save_is_said_once_and_the_one_before_it_kept(tmp_path, monkeypatch, end):
    checkpoints = Checkpoints(tmp_path)
    finish = {
        "wait": checkpoints.wait,
        "latest_step": lambda: checkpoints.latest_step,
        "save": lambda: checkpoints.save(3, tree()),
        "close": lambda: checkpoints.__exit__(None, None, None),
    }
    checkpoints.save(0, tree())
    checkpoints.save(1, tree())
    checkpoints.wait()
    sentence = f"of step 2 could not be written to {tmp_path}; that of step 1 is kept.*OSError: "
    with monkeypatch.context() as patch:
        patch.setattr(folder_module, "write_contents", fail)
        checkpoints.save(2, tree(2.0), {"loss": 0.0})
        with pytest.raises(CheckpointError, match=sentence + "the cable was pulled"):
            finish[end]()
    assert {folder.name for folder in tmp_path.iterdir()} == {"0", "1"}
    if end == "close":
        return
    with checkpoints:
        assert (checkpoints.latest_step, checkpoints.best_step) == (1, None)
        assert bits(checkpoints.restore(tree())) == bits(tree())
        checkpoints.save(2, tree(3.0))
        assert bits(checkpoints.restore(tree())) == bits(tree(3.0))
        assert checkpoints.best_step is None  # the figure was of the save that failed
    assert {folder.name for folder in tmp_path.iterdir()} == {"1", "2"}


def test_an_exception_is_not_hidden_by_a_failed_save_which_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "write_contents", fail)
    told = []

    def interrupted():
        with Checkpoints(tmp_path, tell=told.append) as checkpoints:
            checkpoints.save(1, tree())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(told) == 1
    assert "step 1 could not be written" in told[0]


def test_an_exception_waits_for_the_save_in_flight(tmp_path, monkeypatch):
    slowed(monkeypatch, seconds=0.3)

    def interrupted():
        with Checkpoints(tmp_path, tell=pytest.fail) as checkpoints:
            checkpoints.save(1, tree())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "1").exists()


def test_a_state_that_orbax_cannot_write_is_said_at_once(tmp_path):
    """And leaves no thread behind: one that waits for what never comes holds up the exit."""

    def started():
        new = set(threading.enumerate()) - before
        return [thread for thread in new if thread.name.startswith("Thread-")]

    before = set(threading.enumerate())
    with Checkpoints(tmp_path) as checkpoints:
        sentence = r"step 1 could not .*; there is no other yet.* zero size"
        with pytest.raises(CheckpointError, match=sentence):
            checkpoints.save(1, {"w": jnp.zeros(0)})
        assert started() == []
        assert list(tmp_path.iterdir()) == []
        checkpoints.save(1, tree())
    assert started() == []


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import jax
from ebm_jax.checkpoints import CheckpointError, Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
states = [{"x": jax.random.bits(jax.random.key(0), (n,))} for n in (1_000, 250_000)]
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    checkpoints.save(1, states[0])
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    checkpoints.save(2, states[1])
    try:
        checkpoints.wait()
    except CheckpointError as error:
        print(error)
    checkpoints.save(3, states[0])
"""


def test_a_full_disk_is_a_sentence_and_the_earlier_checkpoint_stays(tmp_path):
    """A limit on the size of files stands for the disk: to the writer they differ by errno."""
    command = [sys.executable, "-c", FULL_DISK, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    start = f"the checkpoint of step 2 could not be written to {tmp_path}; that of step 1 is kept. "
    assert done.stdout.startswith(start + "It takes up to 1.0 MB and ")
    assert done.stdout.endswith(
        "MB are free there: File too large; make room, or write elsewhere.\n"
    )
    assert {folder.name for folder in tmp_path.iterdir()} == {"1", "3"}
    with Checkpoints(tmp_path) as checkpoints:
        expected = {"x": jax.random.bits(jax.random.key(0), (1_000,))}
        assert bits(checkpoints.restore(expected)) == bits(expected)


# ---- several processes


TWO_PROCESSES = """
import sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import NamedSharding, PartitionSpec
from ebm_jax.checkpoints import CheckpointError, Checkpoints
from ebm_jax.checkpoints import folder as folder_module
from ebm_jax.sharding import data_mesh

def full(*args):
    raise OSError("no room")

def state(step):
    whole = np.arange(8, dtype=np.float32) + step
    def place(*spec):
        sharding = NamedSharding(data_mesh(), PartitionSpec(*spec))
        return jax.make_array_from_callback((8,), sharding, lambda index: whole[index])
    return {"split": place("data"), "copied": place()}

def is_of(tree, step):
    return all(
        (np.asarray(shard.data) == np.asarray(expected.data)).all()
        for name, leaf in tree.items()
        for shard, expected in zip(
            leaf.addressable_shards, state(step)[name].addressable_shards, strict=True
        )
    )

told = []
folder = Path(sys.argv[3])
with Checkpoints(folder, tell=told.append) as checkpoints:
    for step in (1, 2, 3, 4):
        checkpoints.save(step, state(step), {"loss": abs(step - 2)})
    assert (checkpoints.latest_step, checkpoints.best_step) == (4, 2)
    assert is_of(checkpoints.restore(state(0)), 4)
    assert is_of(checkpoints.restore_best(state(0)), 2)
    try:
        checkpoints.restore({"split": state(0)["split"]})
    except CheckpointError as error:
        assert "copied is (8,) float32 there and absent here" in str(error)
    sync_global_devices("read")
    if jax.process_index() == 0:
        next(file for file in (folder / "4").rglob("d/*") if file.is_file()).write_text("")
    sync_global_devices("damaged")
    assert is_of(checkpoints.restore(state(0)), 3)
    assert len(told) == 1 - jax.process_index(), told
    write = folder_module.write_contents
    if jax.process_index() == 0:  # it alone has no room: both are told, at once
        folder_module.write_contents = full
    checkpoints.save(4, state(6))
    try:
        checkpoints.wait()
    except CheckpointError as error:
        assert "step 4 could not be written" in str(error)
    else:
        raise AssertionError
    folder_module.write_contents = write
    assert checkpoints.latest_step == 3
    checkpoints.save(4, state(5))
"""


def test_two_processes_save_and_restore_what_is_split_over_them(tmp_path):
    """Then one process reads it, on other devices; a hang is ended by the time limit."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, address, str(index), tmp_path],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        for index in range(2)
    ]
    try:
        errors = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    like = {"split": split(jnp.zeros(8), data_mesh()), "copied": jnp.zeros(8)}
    with Checkpoints(tmp_path) as checkpoints:
        for leaf in checkpoints.restore(like).values():
            np.testing.assert_array_equal(leaf, np.arange(8) + 5)


# ---- a killed run


MOMENTUM = optax.sgd(1e-2, momentum=0.9)


def wander(params, key, memory, x):
    """A random walk that the examples lean on: a run whose memory is lost ends elsewhere."""
    memory = memory + 0.1 * jax.random.normal(key, (4, 3)) - 0.01 * params["w"][None]
    return memory, x + memory, {}


def loss(params, key, x):
    return jnp.sum((params["w"] - x + 0.1 * jax.random.normal(key, (3,))) ** 2)


def new_state():
    return init_state({"w": jnp.zeros(3)}, MOMENTUM, jax.random.key(0), jnp.zeros((4, 3)))


def batches(first, count):
    steps = jnp.arange(first * 12, (first + count) * 12, dtype=jnp.float32)
    return jnp.sin(steps).reshape(count, 4, 3)


def train(folder: Path | None, num_steps: int):
    """Train to `num_steps`, from the newest checkpoint if there is a folder, saving each call."""
    step, state = make_step(loss, MOMENTUM, prepare=wander), new_state()
    if folder is None:
        *_, (state, _) = fit(step, state, batches, num_steps=num_steps, steps_per_call=2)
        return state
    with Checkpoints(folder) as checkpoints:
        if checkpoints.latest_step is not None:
            state = checkpoints.restore(state)
        for state, _ in fit(step, state, batches, num_steps=num_steps, steps_per_call=2):  # noqa: B020
            checkpoints.save(int(state.step), state)
    return state


def test_a_run_killed_while_it_saves_resumes_to_the_same_bits(tmp_path):
    code = f"import tests.test_checkpoints as t; t.train(t.Path({str(tmp_path)!r}), 10**6)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while True:
            names = [folder.name for folder in tmp_path.iterdir()]
            if sum(name.isdigit() for name in names) >= 2 and not all(map(str.isdigit, names)):
                break  # two finished, a third in flight
            assert time.monotonic() < deadline, names
            assert process.poll() is None
    finally:
        process.kill()
    assert process.wait() == -9
    with Checkpoints(tmp_path) as checkpoints:
        taken = checkpoints.latest_step
    assert taken >= 4
    resumed, whole = train(tmp_path, taken + 6), train(None, taken + 6)
    assert bits(resumed) == bits(whole)
    # orbax clears what the killed save left in the background, and waits for it before a save
    assert [folder.name for folder in tmp_path.iterdir() if not folder.name.isdigit()] == []
