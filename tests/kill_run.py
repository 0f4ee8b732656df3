"""Kill -9 a run again and again, and let it resume: what `tests.test_distributed` looks at.

    python -m tests.kill_run DIR KILLS SEED

Every run is a fork of this process, which has imported everything and computed nothing. It is
killed at a random moment after its start: while it compiles, in a step, in a save, or between.
After each kill the last finished checkpoint is read off the disk: the next must resume there.
At last the run is left alone. Prints one line of JSON: where each run began and was killed.
"""

import json
import os
import random
import re
import signal
import sys
import time
import traceback
from pathlib import Path

from ebm_jax.runs.command import start as run_it
from tests import small_run

FLAGS = {"num_steps": 400, "steps_per_call": 4, "seconds_between_checkpoints": 1e-9}


def start(folder: Path, log: Path) -> int:
    """The process id of a fork that runs, and writes what it says to `log`."""
    log.write_text("")
    child = os.fork()
    if child:
        return child
    try:
        file = os.open(log, os.O_WRONLY)
        os.dup2(file, 1)
        os.dup2(file, 2)
        run_it(small_run.main, str(folder), seconds_a_batch=0.01, **FLAGS)
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def latest(folder: Path) -> int | None:
    """The step of the last finished checkpoint, by the names on disk alone."""
    found = (folder / "checkpoints").glob("*") if (folder / "checkpoints").exists() else ()
    return max((int(path.name) for path in found if path.name.isdecimal()), default=None)


def main(folder: Path, kills: int, seed: int) -> None:
    """Kill, resume, and leave alone."""
    rng, log, rows = random.Random(seed), folder.parent / "log.txt", []
    while True:
        there = latest(folder)
        child = start(folder, log)
        alone = len(rows) == kills
        if not alone:
            early = rng.random() < 0.2  # some die before they have saved anything
            while not early and latest(folder) == there and "error" not in log.read_text().lower():
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 2.0 if early else 0.5))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        said = re.search(r"resumed from step (\d+)", log.read_text())
        rows.append({"there": there, "resumed": said and int(said[1]), "status": status})
        if alone:
            break
    print(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
