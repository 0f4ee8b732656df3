"""One run on any number of devices and processes, and through any interruption."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from ebm_jax import distributed
from ebm_jax.runs import launch
from ebm_jax.runs.command import start
from ebm_jax.runs.endings import RunError
from ebm_jax.runs.machine import ALONE, Machine
from ebm_jax.sharding import make_mesh
from tests import small_run
from tests.begun import begun

ROOT = Path(__file__).parents[1]
QUICK = {  # what a process needs to start quickly, and nothing that a cluster would set
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PLATFORMS": "cpu",
}
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "OMPI"))} | QUICK


class Job:
    """The processes of one run of `tests.small_run`, their output in files beside its folder."""

    def __init__(self, folder: Path, count: int, devices: int, *flags: str):
        self.folder, self.count = folder, count
        self.logs = [folder.parent / f"{folder.name}.{i}.log" for i in range(count)]
        place = ["--coordinator", f"localhost:{launch.free_port()}", "--num-processes", str(count)]
        self.processes = []
        for i, log in enumerate(self.logs):
            command = [sys.executable, "-m", "tests.small_run", "--out", str(folder), *flags]
            command += [*place, "--process-id", str(i)] if count > 1 else []
            environment = {**ENVIRONMENT, "JAX_NUM_CPU_DEVICES": str(devices)}
            with log.open("w") as file:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
                )
            self.processes.append(process)

    def wait_for_step(self, step: int) -> None:
        """Until metrics.csv has come so far, or a process ended."""
        while all(p.poll() is None for p in self.processes):
            if any(row >= step for row in steps_of(self.folder)):
                return
            time.sleep(0.05)
        raise AssertionError(self.said())

    def statuses(self, timeout: float | None = None) -> list[int]:
        """Exit statuses, when all have ended."""
        return [process.wait(timeout) for process in self.processes]

    def said(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)


def steps_of(folder: Path) -> list[int]:
    return [int(row["step"]) for row in rows_of(folder)]


def rows_of(folder: Path) -> list[dict[str, str]]:
    path = folder / "metrics.csv"
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    return [row for row in rows if row["loss"]]  # the last may be half written


def results_of(folder: Path) -> dict[str, np.ndarray]:
    """Losses, and what the run saved."""
    losses = np.array([float(row["loss"]) for row in rows_of(folder)])
    return {"losses": losses, **np.load(folder / "samples.npz")}


def assert_same_run(folder: Path, expected: dict[str, np.ndarray], atol: float) -> None:
    found = results_of(folder)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=atol, rtol=0, err_msg=name)


def run_here(folder: Path, machine: Machine = ALONE, **options: object) -> dict[str, np.ndarray]:
    """The run in this process, on the context mesh."""
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int32
        start(small_run.main, str(folder), machine, **options)
    return results_of(folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run on one device of one process."""
    with jax.set_mesh(make_mesh({"data": 1})):
        return run_here(tmp_path_factory.mktemp("alone") / "run")


# ---- devices


@pytest.mark.parametrize(
    "shape",
    [
        {"data": 2},
        pytest.param({"data": 4}, marks=pytest.mark.slow),
        pytest.param({"data": 8}, marks=pytest.mark.slow),
        pytest.param({"data": 1, "fsdp": 2}, marks=pytest.mark.slow),
        pytest.param({"data": 1, "fsdp": 4}, marks=pytest.mark.slow),
        {"data": 1, "fsdp": 8},
        {"data": 4, "fsdp": 2},
    ],
    ids=str,
)
def test_a_run_is_the_same_on_any_mesh(alone, tmp_path, shape):
    """Losses to 1e-5; values of order 1 in chains, samples and parameters to 100 roundings."""
    with jax.set_mesh(make_mesh(shape)):
        found = run_here(tmp_path / "run")
    np.testing.assert_allclose(found["losses"], alone["losses"], atol=1e-5)
    assert_same_run(tmp_path / "run", alone, atol=1e-5)
    assert np.ptp(alone["losses"]) > 0.1  # the run learns: equal numbers mean something


def test_a_run_is_the_same_step_by_step_and_in_parts(alone, tmp_path):
    run_here(tmp_path / "run", Machine(accumulate=4), one_scan=False)
    assert_same_run(tmp_path / "run", alone, atol=1e-5)


# ---- processes


@pytest.mark.parametrize(
    ("count", "devices", "mesh"),
    [
        pytest.param(2, 2, "data=2,fsdp=2", marks=pytest.mark.slow),
        pytest.param(4, 1, "", marks=pytest.mark.slow),
        (2, 1, "fsdp=2"),
    ],
)
def test_a_run_is_the_same_in_several_processes(alone, tmp_path, count, devices, mesh):
    job = Job(tmp_path / "run", count, devices, *(["--mesh", mesh] if mesh else []))
    assert job.statuses() == [0] * count, job.said()
    assert_same_run(tmp_path / "run", alone, atol=1e-5)
    first, *others = (log.read_text() for log in job.logs)
    assert "train 60/60" in first
    assert not any("train" in other for other in others)  # the first alone speaks


LONG = ("--num-steps", "300")
SLOWLY = (*LONG, "--seconds-a-batch", "0.05")  # so that there is time to interrupt it


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A run of 300 steps that nobody interrupts."""
    with jax.set_mesh(make_mesh({"data": 1})):
        return run_here(tmp_path_factory.mktemp("long") / "run", num_steps=300)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 2])
def test_when_one_process_of_four_is_killed_the_others_end_and_two_go_on(long, tmp_path, killed):
    job = Job(tmp_path / "run", 4, 1, *SLOWLY, "--seconds-between-checkpoints", "1e-9")
    job.wait_for_step(30)
    job.processes[killed].kill()
    statuses = job.statuses(timeout=60)
    assert 0 not in statuses, job.said()
    again = Job(tmp_path / "run", 2, 1, *LONG)
    assert again.statuses() == [0, 0], again.said()
    [step] = re.findall(r"resumed from step (\d+)", again.said())
    assert int(step) >= 25
    assert_same_run(tmp_path / "run", long, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("how", ["--one-scan", "--no-one-scan"])
def test_sigterm_saves_and_ends_and_the_same_command_goes_on(tmp_path, count, how):
    folder = tmp_path / "run"
    job = Job(folder, count, 1, *SLOWLY, how)
    job.wait_for_step(20)
    job.processes[-1].send_signal(signal.SIGTERM)  # one is told, all end
    assert job.statuses(timeout=60) == [143] * count, job.said()
    [step] = set(re.findall(r"stopped at step (\d+), which is saved", job.said()))
    assert 20 <= int(step) < 300
    assert "Traceback" not in job.said()
    again = Job(folder, count, 1, *LONG, how)
    assert again.statuses() == [0] * count, again.said()
    assert f"resumed from step {step}" in again.said()
    whole = Job(tmp_path / "whole", count, 1, *LONG, how)
    assert whole.statuses() == [0] * count, whole.said()
    expected = results_of(tmp_path / "whole")
    del expected["losses"]  # means over the rows' steps, one of which was cut
    found = {name: np.load(folder / "samples.npz")[name] for name in expected}
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)  # to the bit


@pytest.mark.slow
def test_kill_9_at_twenty_moments_costs_no_more_than_the_save_in_flight(tmp_path):
    command = [sys.executable, "-m", "tests.kill_run", str(tmp_path / "run"), "20", "7"]
    one_device = {**ENVIRONMENT, "JAX_NUM_CPU_DEVICES": "1"}  # as the whole run below has
    done = subprocess.run(command, cwd=ROOT, env=one_device, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *kills, last = json.loads(done.stdout)
    assert len(kills) == 20
    assert all(kill["status"] == signal.SIGKILL for kill in kills)
    assert last["status"] == 0
    for row in kills:  # those killed early may not have come so far as to resume
        assert row["resumed"] in (row["there"], None)
    assert last["resumed"] == last["there"] > 0
    assert len({row["there"] for row in kills}) > 10
    whole = Job(tmp_path / "whole", 1, 1, "--num-steps", "400", "--steps-per-call", "4")
    assert whole.statuses() == [0], whole.said()
    assert steps_of(tmp_path / "run") == steps_of(tmp_path / "whole")
    for name, values in np.load(tmp_path / "whole/samples.npz").items():
        np.testing.assert_array_equal(np.load(tmp_path / "run/samples.npz")[name], values)


# ---- the run's folder


def test_a_damaged_configuration_is_a_sentence(tmp_path):
    (tmp_path / "config.json").write_text("")
    with pytest.raises(RunError, match=r"config.json is damaged"):
        begun("test", str(tmp_path), {})


def test_files_of_a_run_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """A process that dies before a file is renamed leaves the old one."""
    run = begun("test", str(tmp_path), {})
    for step in (1, 2, 3):
        run.add_row({"step": step, "loss": 0.5})

    def die(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    for write in (partial(run.keep_rows_until, 1), partial(run.finish, {"a": 1.0})):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert [row["step"] for row in run.rows()] == ["1", "2", "3"]
    assert not (tmp_path / "results.json").exists()
    monkeypatch.undo()
    run.keep_rows_until(2)
    assert [row["step"] for row in run.rows()] == ["1", "2"]


# ---- joining


@pytest.mark.parametrize(
    "place", [("", 2, 0), ("here:1", 0, 0), ("here:1", 2, -1), ("here:1", 2, 2), ("", 0, 1)]
)
def test_half_a_place_is_refused(place):
    with pytest.raises(distributed.JoinError, match="give all three"):
        distributed.join(*place)


@pytest.mark.parametrize("coordinator", ["junk", "junk:", ":1234", "here:0", "here:65536", "a:b"])
def test_what_is_no_address_is_refused_at_once(coordinator):
    with pytest.raises(distributed.JoinError, match=r"give host:port of the first process"):
        distributed.join(coordinator, 2, 0)


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, 1),  # a batch script, no step of `srun`
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}, 8),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
    ],
    ids=str,
)
def test_clusters_tell_how_many_processes_they_started(monkeypatch, environment, count):
    for name in [*os.environ]:
        if name.startswith(("SLURM", "OMPI")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed.num_in_cluster() == count
    assert distributed.started_by_a_cluster() == (count > 1)


@pytest.mark.parametrize(
    ("environment", "alone"),
    [
        ({}, True),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "4"}, True),
        ({"SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "4"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
        ({"SLURM_STEP_NUM_TASKS": "8", "CUDA_VISIBLE_DEVICES": "0"}, True),  # its only one
        ({"SLURM_STEP_NUM_TASKS": "8", "CUDA_VISIBLE_DEVICES": "0,1"}, False),
    ],
    ids=str,
)
def test_a_process_takes_all_gpus_that_it_sees_if_no_other_sees_them(
    monkeypatch, environment, alone
):
    for name in [*os.environ]:
        if name.startswith(("SLURM", "OMPI", "CUDA")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed.one_sees_its_own_devices() == alone


@pytest.mark.slow
def test_two_processes_that_slurm_started_find_each_other(alone, tmp_path):
    """The environment that `srun -n 2` gives; job numbers choose the port."""
    slurm = {
        "SLURM_JOB_ID": str(launch.free_port() % 4096), "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NODELIST": "localhost", "JAX_NUM_CPU_DEVICES": "1",
    }  # fmt: skip
    jobs = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.small_run", "--out", str(tmp_path / "run")],
            env={**ENVIRONMENT, **slurm, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    said = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert_same_run(tmp_path / "run", alone, atol=1e-5)
