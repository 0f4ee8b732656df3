"""Many processes that run one program: joining them, agreeing, and ending together.

Every process runs the same script on the devices of all (`jax.distributed`). The first one
alone writes reports. When one dies the others end too, after `HEARTBEAT` seconds at the most:
nothing is mended while a job runs, it starts anew from its last checkpoint.
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

HEARTBEAT = 20  # seconds without a sign of life after which a process counts as dead


class JoinError(RuntimeError):
    """Processes could not be joined; the message is a sentence for people."""


def join(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> int:
    """Join the other processes of this job, if it has any; before any computation.

    A job that SLURM or Open MPI started, or one on Cloud TPU, says by itself how many it has;
    elsewhere all three arguments are needed.

    Args:
        coordinator: host:port of the first process.
        num_processes: how many there are.
        process_id: which of them this is, from 0.

    Returns:
        The number of processes.

    Raises:
        JoinError: if some of the three are missing or do not fit, or the others do not come.
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
    """Whether the environment tells of other processes of this job, or this is a TPU host."""
    chips = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    on_tpu = find_spec("libtpu") is not None and bool(chips)
    return num_in_cluster() > 1 or (on_tpu and os.environ.get("JAX_PLATFORMS") != "cpu")


def num_in_cluster() -> int:
    """How many processes SLURM (`srun`) or Open MPI (`mpirun`) say that they started.

    SLURM_NTASKS is no sign of it: a batch script has that too, and is one process.
    """
    return max(_number("SLURM_STEP_NUM_TASKS"), _number("OMPI_COMM_WORLD_SIZE"))


def one_sees_its_own_devices() -> bool:
    """Whether a process may take all GPUs that it sees: it is alone on its host, or sees one."""
    alone = _number("SLURM_STEP_NUM_TASKS") == _number("SLURM_STEP_NUM_NODES")
    alone = alone and _number("OMPI_COMM_WORLD_LOCAL_SIZE") == 1
    return alone or "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ",")


def _number(name: str) -> int:
    return int(os.environ.get(name, "1"))


def _initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    # JAX gives a cluster's process the one GPU of its number on the host; [] restricts nothing
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
    """Whether this process is the one that writes reports; true where it is the only one."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Return when every process has called this with the same name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def first_says(answer: bool) -> bool:
    """The answer of the first process, in every process: for what clocks and disks decide."""
    if jax.process_count() == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(answer)))


HEEDED = ContextVar("HEEDED", default=False)  # whether this is within `heed_sigterm`
ASKED = count(1)  # others agree on a number that is to come: none may be left out or come twice


class Termination:
    """Whether SIGTERM has come to any process: all learn of it at the same time of asking."""

    def __init__(self) -> None:
        self.came = threading.Event()

    def asked(self) -> bool:
        """Whether to stop here; every process asks as often as any other."""
        if jax.process_count() == 1:
            return self.came.is_set()
        return multihost_utils.reached_preemption_sync_point(next(ASKED))


@contextmanager
def heed_sigterm() -> Iterator[Termination]:
    """Within it SIGTERM does not kill, and is noted.

    Among several processes JAX notes it from the joining on, and outside of this it has no
    effect. Only a program's main thread can heed signals: elsewhere SIGTERM keeps its meaning.
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
