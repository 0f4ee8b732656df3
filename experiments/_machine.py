"""Where a run runs, which its numbers do not depend on: flags that every experiment has."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NoReturn

import jax
from tyro.conf import OmitArgPrefixes

from ebm_jax import distributed, sharding

RESUME = "the same command resumes"
SCRATCH: list[TemporaryDirectory[str]] = []  # to be removed however the process ends
SECONDS_FOR_OTHERS = 5.0  # to end by themselves, before the first process does


class RunError(Exception):
    """A run cannot go on; the message is a sentence for people."""


class Stopped(Exception):
    """A run was asked to end, and has saved what it had."""


@dataclass(frozen=True)
class Machine:
    """Devices, processes and what is measured of them: numbers do not depend on these."""

    mesh: str = ""
    """devices by axis, such as data=4,fsdp=2: batches are split over all of them, parameters over
    fsdp. By default all are data. On CPU so many devices are simulated."""
    accumulate: int = 1
    """parts in which a step takes its batch, one after another: less memory, the same result."""
    coordinator: str = ""
    """host:port of the first process of several; with SLURM, Open MPI and Cloud TPU not needed."""
    num_processes: int = 0
    """how many processes there are; likewise."""
    process_id: int = -1
    """which of them this is, from 0; likewise."""
    tensorboard: bool = False
    """write metrics for TensorBoard too, to the run's folder."""
    profile: str = ""
    """first-last: trace these steps with JAX's profiler, to the run's folder."""

    def start(self) -> None:
        """Join the other processes and choose the devices; before any computation.

        Raises:
            RunError: if a flag is no such thing, or --mesh does not fit the devices.
            JoinError: if the processes cannot be joined.
        """
        self.profiled()
        if self.accumulate < 1:
            raise RunError(f"--accumulate got {self.accumulate}: give at least 1.")
        try:
            shape = sharding.mesh_shape(self.mesh) if self.mesh else None
            count = distributed.join(self.coordinator, self.num_processes, self.process_id)
            sharding.use_all_cores(-(-sharding.size(shape) // count) if shape else None)
            if shape or count > 1:
                sharding.use_mesh(shape)
        except ValueError as error:
            raise RunError(f"--mesh: {error}") from error

    def profiled(self) -> range:
        """The steps to be traced.

        Raises:
            RunError: if --profile is not two numbers in their order.
        """
        first, _, last = self.profile.partition("-")
        if not self.profile:
            return range(0)
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise RunError(f"--profile got {self.profile!r}: give two steps, such as 101-110.")
        return range(int(first), int(last) + 1)

    @contextmanager
    def profiler(self, folder: Path, steps_per_call: int) -> Iterator[Callable[[int], None]]:
        """Yields look(done), to be told how many steps are done before every compiled call.

        It traces the calls that hold the steps of --profile, and the one after, which may
        begin before they have ended.
        """
        steps, running, traced = self.profiled(), False, False

        def look(done: int) -> None:
            nonlocal running, traced
            wanted = bool(steps) and done + steps_per_call >= steps.start and done < steps.stop
            if wanted and not running:
                jax.profiler.start_trace(folder)
                traced = True
            elif running and not wanted:
                jax.profiler.stop_trace()
            running = wanted

        try:
            yield look
        finally:
            look(steps.stop)
            if steps and not traced:
                say(f"--profile {self.profile}: no such step was taken here")


ALONE = Machine()
TRAINED = ContextVar("TRAINED", default=False)  # whether `_train.train` was called
MACHINE = ContextVar("MACHINE", default=ALONE)


def on_machine(main: Callable[..., None]) -> Callable[..., None]:
    """`main` with the flags of `Machine` besides its own, run as they say."""
    own = signature(main).parameters.values()
    kind: Any = Annotated[Machine, OmitArgPrefixes]

    @wraps(main)
    def run(machine: Machine, **options: Any) -> None:
        MACHINE.set(machine)
        machine.start()
        if machine.mesh or jax.process_count() > 1:
            mesh = sharding.data_mesh()
            say(f"{mesh.size} devices of {jax.process_count()} processes: {dict(mesh.shape)}")
        main(**options)
        if (machine.accumulate > 1 or machine.profile) and not TRAINED.get():
            say("--accumulate and --profile did nothing: this experiment trains in its own way")
        distributed.wait_for_all("the end")

    last = Parameter("machine", Parameter.KEYWORD_ONLY, default=ALONE, annotation=kind)
    vars(run)["__signature__"] = signature(main).replace(parameters=[*own, last])
    run.__annotations__ = {**main.__annotations__, "machine": kind}
    del vars(run)["__wrapped__"]
    return run


def say(line: str) -> None:
    """Print a line for people, once for all processes."""
    if distributed.is_first():
        print(line, flush=True)


def stop_if_asked() -> None:
    """Raise Stopped if one of several processes received SIGTERM: all of them ask equally often.

    A single process raises it in its own handler of SIGTERM. Training, which saves first, asks
    by itself and is left alone.
    """
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    if several and not distributed.HEEDED.get() and distributed.Termination().asked():
        raise Stopped(f"stopped: {RESUME} from the last checkpoint")


def end(message: str, status: int = 1) -> NoReturn:
    """Print why the program ends, and end it.

    Among several processes the others wait for this one: it leaves without taking leave,
    which they notice and end. The first gives them time to say the same, since they all die
    with it.
    """
    several = jax.distributed.is_initialized() and jax.process_count() > 1
    prefix = f"process {jax.process_index()}: " if several else ""
    with suppress(OSError):
        print(prefix + message, file=sys.stderr, flush=True)
    if several:
        for folder in SCRATCH:
            folder.cleanup()
        with suppress(OSError):
            sys.stdout.flush()
        time.sleep(0.0 if jax.process_index() else SECONDS_FOR_OTHERS)
        os._exit(status)
    end_silently(status)


def end_silently(status: int) -> NoReturn:
    """End the program; what standard output cannot take any more is dropped without a word."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def end_by_sigint(message: str) -> NoReturn:
    """Print why, and end by SIGINT itself, so that a shell's loop over runs ends too."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)
        sys.stdout.flush()
    for folder in SCRATCH:
        folder.cleanup()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    os._exit(130)
