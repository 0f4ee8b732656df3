"""Device, process and profiling flags. They do not change a run's results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax

from ebm_jax import distributed, sharding
from ebm_jax.runs.endings import RunError, say


@dataclass(frozen=True)
class Machine:
    """Flags of every experiment for devices, processes and profiling."""

    mesh: str = ""
    """devices per mesh axis, such as data=4,fsdp=2: batches are split over all axes, parameters
    over fsdp. By default all devices are on the data axis. On CPU, devices are simulated."""
    accumulate: int = 1
    """number of parts of a batch for gradient accumulation: less memory, the same result."""
    coordinator: str = ""
    """host:port of process 0, for several processes; not needed with SLURM, Open MPI, Cloud TPU."""
    num_processes: int = 0
    """number of processes, with --coordinator."""
    process_id: int = -1
    """index of this process, from 0, with --coordinator."""
    tensorboard: bool = False
    """also write metrics for TensorBoard to the run's folder."""
    profile: str = ""
    """first-last, such as 101-110: trace these steps with JAX's profiler to the run's folder."""

    def start(self) -> None:
        """Joins the other processes and chooses the devices; must precede any computation.

        Raises:
            RunError: A flag is malformed, or --mesh does not fit the devices.
            JoinError: The processes cannot be joined.
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

    def mesh_for(self, batch_size: int) -> sharding.Mesh:
        """Returns `sharding.data_mesh` for a batch.

        Raises:
            RunError: The batch size is not divisible by --accumulate or the devices.
        """
        parts = self.accumulate
        if batch_size % parts:
            raise RunError(
                f"--accumulate got {parts} for a batch of {batch_size}: it must divide it."
            )
        try:
            return sharding.data_mesh(batch_size // parts)
        except ValueError as error:
            of = f"--accumulate {parts} makes " if parts > 1 else "there is "
            remedy = "Or start another number of processes or devices."
            raise RunError(f"{of}{error} {remedy}") from error

    def profiled(self) -> range:
        """Returns the steps to be traced.

        Raises:
            RunError: --profile is not a range of steps.
        """
        first, _, last = self.profile.partition("-")
        if not self.profile:
            return range(0)
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise RunError(f"--profile got {self.profile!r}: give two steps, such as 101-110.")
        return range(int(first), int(last) + 1)

    @contextmanager
    def profiler(self, folder: Path, steps_per_call: int) -> Iterator[Callable[[int], None]]:
        """Yields look(done), to be called with the number of steps done before each compiled call.

        It traces the calls that contain the steps of --profile and the call after them, which may
        begin before they have finished.
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
