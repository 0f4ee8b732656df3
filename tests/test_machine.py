"""The flags of the machine: what they refuse, what they write, what a full memory says."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

from ebm_jax.runs import launch, training
from ebm_jax.runs.command import command, start
from ebm_jax.runs.endings import RunError
from ebm_jax.runs.machine import ALONE, Machine
from ebm_jax.runs.run import Run
from tests import small_run

ROOT = Path(__file__).parents[1]


def run_small(folder, machine=ALONE, **options):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int32
        return start(small_run.main, str(folder), machine, num_steps=20, **options)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--mesh", "magic"), "--mesh: a mesh of 'magic'"),
        (("--mesh", "data=4", "--batch-size", "6"), "a batch of 6 for 4 devices"),
        (("--accumulate", "0"), "--accumulate got 0"),
        (("--accumulate", "5"), "--accumulate got 5 for a batch of 16"),
        (("--accumulate", "8", "--mesh", "data=4"), "--accumulate 8 makes a batch of 2 for"),
        (("--profile", "9-3"), "--profile got '9-3'"),
        (("--num-processes", "2"), "give all three"),
        (("--mesh", "data=100000"), "--mesh: 100000 devices in one process: give at most 1024"),
        (("--coordinator", "junk", "--num-processes", "2", "--process-id", "0"), "give host:port"),
    ],
)
def test_flags_that_do_not_fit_are_refused_in_one_sentence(flags, word, tmp_path):
    command = [sys.executable, "-m", "tests.small_run", "--out", str(tmp_path / "run"), *flags]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stderr.startswith("error: ")
    assert word in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("text", "steps"), [("", range(0)), ("3-3", range(3, 4)), ("101-110", range(101, 111))]
)
def test_steps_to_profile_are_read(text, steps):
    assert Machine(profile=text).profiled() == steps


@pytest.mark.parametrize("text", ["3", "3-", "0-2", "-3", "a-b", "5-4", "1-2-3"])
def test_steps_that_are_none_are_refused(text):
    with pytest.raises(RunError, match="give two steps, such as 101-110"):
        Machine(profile=text).profiled()


@pytest.mark.parametrize(
    ("stride", "calls", "traced"),
    [
        (1, range(20), {4, 5, 6, 7}),  # steps 5 to 7, and the call after
        (5, range(0, 20, 5), {0, 5}),  # the calls of steps 1 to 5 and 6 to 10
        (20, [0], {0}),
    ],
)
def test_the_calls_that_hold_the_steps_are_traced(monkeypatch, tmp_path, stride, calls, traced):
    log, now = [], []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: now.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", now.clear)
    with Machine(profile="5-7").profiler(tmp_path, stride) as look:
        for done in calls:
            look(done)
            log += [done] if now else []
    assert set(log) == traced
    assert not now  # it has been stopped


def test_a_run_writes_its_profile_and_its_figures_for_tensorboard(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    run = run_small(tmp_path / "run", Machine(profile="6-8", tensorboard=True), one_scan=False)
    assert list((tmp_path / "run/profile").rglob("*.xplane.pb"))
    [file] = (tmp_path / "run/tensorboard").iterdir()
    data, events = file.read_bytes(), []
    while data:  # length, its checksum, the event, its checksum
        length = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    values = {(e.step, v.tag): v.simple_value for e in events for v in e.summary.value}
    rows = run.rows()
    assert {step for step, _ in values} == {int(row["step"]) for row in rows} == {5, 10, 15, 20}
    for row in rows:
        assert values[int(row["step"]), "loss"] == pytest.approx(float(row["loss"]), rel=1e-6)


def test_a_run_says_what_a_step_takes_of_memory(tmp_path, capsys):
    run_small(tmp_path / "run")
    assert "GiB at the peak of a step" in capsys.readouterr().out


def test_a_step_that_does_not_fit_says_what_to_try(monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying ...")
        yield

    monkeypatch.setattr(training, "fit", full)
    with pytest.raises(RunError, match=r"does not fit .* --accumulate 2 .* --mesh fsdp=N"):
        run_small(tmp_path / "run")


def test_another_error_of_the_devices_is_not_mistaken_for_it(monkeypatch, tmp_path):
    def broken(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
        yield

    monkeypatch.setattr(training, "fit", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        run_small(tmp_path / "run")


# ---- the launcher


def test_the_launcher_passes_flags_on_and_ends_with_the_status_of_the_first_that_failed():
    command = [sys.executable, "-m", "ebm_jax", "launch", "--num-processes", "2", "edm"]
    answer = subprocess.run(
        [*command, "--data", "no/such/place"], cwd=ROOT, capture_output=True, text=True
    )
    assert answer.returncode == 1
    assert answer.stderr.count("does not exist, expected") == 2  # each process for itself
    assert "process 1: error:" in answer.stderr


def test_a_port_is_free():
    import socket

    with socket.socket() as door:
        door.bind(("localhost", launch.free_port()))


def test_machine_flags_do_not_change_what_main_gets(tmp_path):
    seen = {}

    def main(run: Run, *, data: str = "digits", num_steps: int = 3) -> None:
        """Do it.

        Args:
            run: the run.
            data: which.
            num_steps: how many.
        """
        seen.update(data=data, num_steps=num_steps)

    command(main, ["--data", "mnist", "--accumulate", "4", "--out", str(tmp_path / "run")])
    assert seen == {"data": "mnist", "num_steps": 3}
    assert list(tmp_path.iterdir()) == []  # nothing is written before a run begins
