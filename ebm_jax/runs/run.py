"""A run: one folder with its configuration, metrics, checkpoints, model, samples and report.

The same command again resumes it or says that it is done. Among several processes, which all
run the same program, process 0 writes the folder and prints; the others work on a temporary
copy of its files and share its checkpoints.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax

from ebm_jax.distributed import first_says, is_first, wait_for_all
from ebm_jax.runs import folder as files
from ebm_jax.runs.endings import SCRATCH, RunError, say
from ebm_jax.runs.flags import check_flags
from ebm_jax.runs.machine import ALONE, Machine

SAVED = "saved"  # an empty file of a run of which a checkpoint was saved
TRAINS_ON = (
    "{0} holds a run of {1} steps, which now trains on to {2}: the learning rate rises again"
)
OPEN: list["Run"] = []  # runs whose folders this process has claimed


def give_up() -> None:
    """Releases the folders of this process's runs."""
    while OPEN:
        OPEN.pop().give_up()


class Run:
    """One run: its folder, its clock, and its devices.

    Nothing is written before `begin`, so that an experiment can refuse what it is given
    first. From then on the folder is locked until `finish`, or until the process ends.

    Args:
        experiment: the name of the experiment.
        out: the folder; runs/<experiment> by default.
        options: the experiment's flags, on which its results depend.
        machine: the flags on which they do not depend.

    Attributes:
        folder: where the run's files are.
        checkpoints: where its checkpoints are.
        config: what its results depend on, as JSON: the flags and, from `begin` on, the data.
        machine: devices, processes, profiling.
        command: the command line that repeats it.
        seconds: how long each part took; compiling is counted separately.
        trains: True once the run has trained by `runs.train`.

    Raises:
        RunError: if `check_flags` refuses a number.
    """

    def __init__(
        self,
        experiment: str,
        out: str = "",
        options: Mapping[str, Any] = {},
        machine: Machine = ALONE,
    ) -> None:
        check_flags(options)
        self.folder = Path(out or f"runs/{experiment}")
        self.checkpoints = self.folder / "checkpoints"  # which all processes share
        self.config = {"experiment": experiment, **json.loads(json.dumps(dict(options)))}
        self.machine = machine
        self.command = f"python -m experiments.{experiment}"
        self.seconds: dict[str, float] = {"compile": 0.0}
        self.trains = False
        self._writer: Any = None
        self._is_new = False

    def begin(
        self, *, products: Sequence[str] = ("report.html", "samples.npz"), **facts: Any
    ) -> bool:
        """Claims the folder; returns False, and prints the results, if the run is done.

        Args:
            products: files that a finished run must have; a missing one is computed again.
            facts: what else the results depend on, such as fingerprints of the data.

        Raises:
            RunError: if the folder holds a run of another configuration, or something else,
                or if another process is at work in it.
        """
        self.config |= json.loads(json.dumps(facts))
        jax.monitoring.register_event_duration_secs_listener(self._on_event)
        self._refuse_another()
        wait_for_all("the run's folder is looked at")
        refusal = self._claim() if is_first() else ""
        if first_says(bool(refusal)):
            raise RunError(refusal or f"the first process could not claim {self.folder}.")
        OPEN.append(self)
        if not is_first():
            self._work_on_a_copy()
        wait_for_all("the run's folder is copied")
        return not self._is_done(products)

    def _refuse_another(self) -> None:
        """Raises RunError if the folder holds something other than this run."""
        path = self.folder / "config.json"
        try:
            if not path.exists():
                if not files.holds_nothing(self.folder):
                    raise RunError(
                        f"{self.folder} is not empty and holds no run: give another --out."
                    )
                return
        except OSError as error:
            raise RunError(f"cannot read the run folder {self.folder}: {error}.") from error
        there = files.read_object(path)
        if there is None:
            raise RunError(
                f"{path} is damaged, and with it what the run was: give another folder by --out, "
                "or remove this one."
            )
        if self._trains_on(there):
            return
        if changes := files.differences(there, self.config):
            raise RunError(
                f"{self.folder} holds a run of another configuration ({'; '.join(changes)}): "
                "give the same flags, or another folder by --out."
            )

    def _trains_on(self, there: Mapping[str, Any]) -> bool:
        """Returns True if the run of this folder was saved, and is asked for more steps alone."""
        old, new = there.get("num_steps"), self.config.get("num_steps")
        if not (isinstance(old, int) and isinstance(new, int) and new > old):
            return False
        same = not files.differences(there, self.config | {"num_steps": old})
        return same and (self.folder / SAVED).exists()

    def _claim(self) -> str:
        """Locks the folder and writes config.json if there is none; returns why not, or ""."""
        path = self.folder / "config.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.hold(self.folder)
            self._refuse_another()  # another process may have come first
            there = files.read_object(path)
            self._is_new = there is None
            if there and self._trains_on(there):
                say(TRAINS_ON.format(self.folder, there["num_steps"], self.config["num_steps"]))
                (self.folder / "results.json").unlink(missing_ok=True)  # first: it says done
            if there != self.config:
                files.write_whole(path, json.dumps(self.config, indent=2))
        except OSError as error:
            return f"cannot write to the run folder {self.folder}: {error}."
        except RunError as error:
            return str(error)
        return ""

    def give_up(self) -> None:
        """Lets go of the folder, and removes it if this call made it and nothing came of it."""
        kept = {"config.json", files.LOCK}
        names = {path.name for path in self.folder.rglob("*")}
        if is_first() and self._is_new and names <= {*kept, "checkpoints"}:
            shutil.rmtree(self.folder, ignore_errors=True)
        files.release(self.folder)

    def _work_on_a_copy(self) -> None:
        if not (self.folder / "config.json").exists():
            raise RunError(
                f"the first process made {self.folder}, which this one does not see: give a "
                "folder by --out on a file system that all processes share."
            )
        scratch = TemporaryDirectory(prefix="ebm_jax")
        SCRATCH.append(scratch)
        for file in filter(Path.is_file, self.folder.iterdir()):
            shutil.copy(file, scratch.name)
        self.folder = Path(scratch.name)

    def _on_event(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.seconds["compile"] += duration_secs

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Adds the time inside to `seconds[name]`, without the time of compiling."""
        start, compiled = time.perf_counter(), self.seconds["compile"]
        yield
        passed = time.perf_counter() - start - (self.seconds["compile"] - compiled)
        self.seconds[name] = self.seconds.get(name, 0.0) + passed

    def _is_done(self, products: Sequence[str]) -> bool:
        """Returns True if the run has finished and its products are there; prints its results."""
        path = self.folder / "results.json"
        if not path.exists():
            return False
        results = files.read_results(path)
        missing = [name for name in products if not (self.folder / name).is_file()]
        if results is None or missing:
            what = f"{path} cannot be read" if results is None else f"{missing[0]} is missing"
            say(f"{self.folder} was finished, but {what}: it is computed again")
            return False
        files.release(self.folder)
        say(f"{self.folder} is done: its report is {self.folder / 'report.html'}")
        say_results(results)
        return True

    def finish(self, results: dict[str, float]) -> None:
        """Writes results.json, which marks the run as finished, and prints the results."""
        files.write_whole(self.folder / "results.json", files.as_json(results))
        if self._writer is not None:
            self._writer.close()
        files.release(self.folder)
        say_results(results)
        say("seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in self.seconds.items()))
        say(f"report: {self.folder / 'report.html'}")

    def rows(self, text: Sequence[str] = ()) -> list[dict[str, str]]:
        """Returns the sound rows of metrics.csv; the columns in `text` need not hold numbers."""
        return files.read_rows(self.folder / "metrics.csv", text)

    def keep_rows_until(self, step: int) -> None:
        """Drops unsound rows and those of steps after `step`, which a resumed run repeats."""
        rows = [row for row in self.rows() if int(row["step"]) <= step]
        files.write_rows(self.folder / "metrics.csv", rows)

    def add_row(self, row: dict[str, Any]) -> None:
        """Appends one row to metrics.csv."""
        files.add_row(self.folder / "metrics.csv", row)
        if self.machine.tensorboard and is_first():
            self._add_to_tensorboard(row)

    def _add_to_tensorboard(self, row: dict[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        if self._writer is None:
            folder, step = self.folder / "tensorboard", row["step"]
            self._writer = SummaryWriter(str(folder), purge_step=step)
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()


def say_results(results: dict[str, float]) -> None:
    """Prints results, a line each."""
    width = max(map(len, results), default=0)
    for name, value in results.items():
        say(f"  {name:<{width}}  {value:.4g}")
