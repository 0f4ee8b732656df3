"""Starts one experiment as several processes on this machine, as a cluster would.

    ebm-jax launch --num-processes 4 edm --num-steps 200

All flags after the experiment's name belong to the experiment. A cluster needs no launcher:
`srun`, `mpirun` and Cloud TPU start the processes, which find each other. Elsewhere, pass
--coordinator, --num-processes and --process-id to each process.

The cores are divided among the processes, and process i gets GPU i. Ctrl-C and SIGTERM reach
all of them. When one ends with an error, or after SIGTERM, the others have 30 seconds to end.
The exit status is the first that is not 0.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

GRACE = 30.0  # seconds for the others to end by themselves


def main() -> None:
    """Parses the flags, starts the processes and waits for them."""
    parser = argparse.ArgumentParser(prog=sys.argv[0], description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--num-processes", type=int, default=2, help="default: 2")
    parser.add_argument("experiment", help="name of an experiment, such as edm")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="flags of the experiment")
    given = parser.parse_args()
    if given.num_processes < 1:
        parser.error(f"--num-processes is {given.num_processes}: give at least 1")
    sys.exit(wait_for(start(given.num_processes, ["ebm_jax", given.experiment, *given.flags])))


def start(count: int, command: list[str]) -> list[subprocess.Popen[bytes]]:
    """Starts `python -m command` as `count` processes that find each other."""
    cores = max(1, len(os.sched_getaffinity(0)) // count)
    # --mesh determines the number of devices
    chosen = {} if "--mesh" in " ".join(command) else {"JAX_NUM_CPU_DEVICES": str(cores)}
    place = ["--coordinator", f"localhost:{free_port()}", "--num-processes", str(count)]
    return [
        subprocess.Popen(
            [sys.executable, "-m", *command, *place, "--process-id", str(i)],
            env={**chosen, **os.environ, "JAX_LOCAL_DEVICE_IDS": str(i)},
        )
        for i in range(count)
    ]


def free_port() -> int:
    """Returns a port that is not in use."""
    with socket.socket() as door:
        door.bind(("localhost", 0))
        return door.getsockname()[1]


def wait_for(processes: list[subprocess.Popen[bytes]]) -> int:
    """Waits until all have ended; returns the first exit status that is not 0, or else 0."""
    status, ended_at = 0, 0.0

    def failed() -> int:
        return next((process.returncode for process in processes if process.returncode), 0)

    def pass_on(number: int, _: object) -> None:
        nonlocal ended_at
        ended_at = time.monotonic()
        for process in processes:
            process.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to every process
    while any(process.poll() is None for process in processes):
        status = status or failed()
        ended_at = ended_at or (time.monotonic() if status else 0.0)
        if ended_at and time.monotonic() - ended_at > GRACE:
            pass_on(signal.SIGKILL, None)
        time.sleep(0.1)
    status = status or failed()
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    main()
