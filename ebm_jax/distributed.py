"""Multi-process runs: joining processes, agreeing on decisions, and stopping together.

Every process runs the same script on the devices of all (`jax.distributed`). Only process 0 writes
reports. If one process dies, the others end too, within `HEARTBEAT` seconds. A running job is
never repaired: it is restarted from its last checkpoint.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

HEARTBEAT = 20  # seconds without a heartbeat after which a process counts as dead


class JoinError(RuntimeError):
    """Raised when processes cannot be joined; its message is written for users."""


def join(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> int:
    """Joins the other processes of this job, if there are any; call it before any computation.

    Jobs started by SLURM or Open MPI and jobs on Cloud TPU are detected. Elsewhere all three
    arguments are needed.

    Args:
        coordinator: host:port of process 0.
        num_processes: number of processes.
        process_id: index of this process, from 0.

    Returns:
        The number of processes.

    Raises:
        JoinError: if some of the three are missing or inconsistent, or the other processes do
            not connect.
    """
    given = (bool(coordinator), num_processes > 0, process_id >= 0)
    if (any(given) and not all(given)) or (given[2] and process_id >= num_processes):
        raise JoinError(
            f"{coordinator=}, {num_processes=}, {process_id=}: give all three, host:port of the "
            "first process, their number, and this one's from 0 up to below that."
        )
    if all(given):
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise JoinError(
                f"{coordinator=}: give host:port of the first process, such as 10.0.0.1:1234."
            )
        _initialize(coordinator, num_processes, process_id)
        return num_processes
    if not started_by_a_cluster():
        return 1
    _initialize()
    return num_in_cluster()


def started_by_a_cluster() -> bool:
    """Returns True if the environment shows other processes of this job, or on a TPU host."""
    chips = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    on_tpu = find_spec("libtpu") is not None and bool(chips)
    return num_in_cluster() > 1 or (on_tpu and os.environ.get("JAX_PLATFORMS") != "cpu")


def num_in_cluster() -> int:
    """Returns the number of processes that SLURM (`srun`) or Open MPI (`mpirun`) started.

    SLURM_NTASKS is not used: a batch script has it too, and is one process.
    """
    return max(_number("SLURM_STEP_NUM_TASKS"), _number("OMPI_COMM_WORLD_SIZE"))


def one_sees_its_own_devices() -> bool:
    """Returns True if a process may use all GPUs it sees: it is alone on its host or sees one."""
    alone = _number("SLURM_STEP_NUM_TASKS") == _number("SLURM_STEP_NUM_NODES")
    alone = alone and _number("OMPI_COMM_WORLD_LOCAL_SIZE") == 1
    return alone or "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ",")


def _number(name: str) -> int:
    return int(os.environ.get(name, "1"))


def _initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    # In a cluster JAX gives each process the one GPU of its local index; [] keeps all of them.
    chosen = "JAX_LOCAL_DEVICE_IDS" in os.environ or not one_sees_its_own_devices()
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            local_device_ids=None if chosen else [],
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        raise JoinError(
            f"the processes of this job cannot be joined ({error}): --coordinator, "
            "--num-processes and --process-id say where they are."
        ) from error


def is_first() -> bool:
    """Returns True in process 0, which writes reports; also True for a single process."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until every process has called this with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def first_says(answer: bool) -> bool:
    """Returns process 0's answer in every process, for decisions that depend on clocks or disks."""
    if jax.process_count() == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(answer)))


HEEDED = ContextVar("HEEDED", default=False)  # True within `heed_sigterm`
ASKED = count(1)  # number of the next sync point: processes must use each number exactly once


class Termination:
    """A flag that is set once any process has received SIGTERM, with one answer for all."""

    def __init__(self) -> None:
        self.came = threading.Event()

    def asked(self) -> bool:
        """Returns True if the program should stop; all processes must call it equally often."""
        if jax.process_count() == 1:
            return self.came.is_set()
        return multihost_utils.reached_preemption_sync_point(next(ASKED))


@contextmanager
def heed_sigterm() -> Iterator[Termination]:
    """Context in which SIGTERM does not kill the process but sets the yielded `Termination`.

    Among several processes, JAX records SIGTERM from the time of joining on, also outside of this
    context, where it has no effect. Signals are handled only in the main thread: in other threads
    SIGTERM keeps its meaning.
    """
    termination, token = Termination(), HEEDED.set(True)
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        try:
            yield termination
        finally:
            HEEDED.reset(token)
        return
    before = signal.signal(signal.SIGTERM, lambda *_: termination.came.set())
    try:
        yield termination
    finally:
        signal.signal(signal.SIGTERM, before)
        HEEDED.reset(token)
