"""What every experiment shares: its command, its folder, its clock and its progress.

A run owns one folder: config.json, metrics.csv, samples.npz, figures, checkpoints/,
results.json and report.html. The same command again resumes it or says that it is done.

Among several processes, all run the same script, the first alone owns the folder and speaks;
the others have a copy of its files that nobody sees, and share its checkpoints.
"""

import json
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import tyro

from ebm_jax.checkpoints import CheckpointError
from ebm_jax.data import DataError
from ebm_jax.distributed import JoinError, first_says, is_first, wait_for_all
from ebm_jax.training import TrainingDiverged
from experiments import _folder as files
from experiments._flags import check_flags
from experiments._machine import (
    MACHINE,
    RESUME,
    SCRATCH,
    RunError,
    Stopped,
    end,
    end_by_sigint,
    end_silently,
    on_machine,
    say,
)
from experiments._progress import progress

__all__ = ["RESUME", "Run", "RunError", "Stopped", "command", "progress", "say"]
OPEN: list["Run"] = []  # runs whose folders this process has claimed


def command(main: Callable[..., None]) -> None:
    """Run an experiment's `main` with flags from its signature; a failure is a sentence."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # `experiments` set that for its imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _stop)
    try:
        tyro.cli(on_machine(main))
    except Stopped as stop:
        end(str(stop), 143)  # as of a process that SIGTERM killed
    except KeyboardInterrupt:
        end_by_sigint(f"\nstopped: {RESUME} from the last checkpoint")
    except BrokenPipeError:
        end_silently(141)  # as of a process that SIGPIPE killed
    except (RunError, DataError, CheckpointError, JoinError, TrainingDiverged) as error:
        give_up()
        end(f"error: {error}")
    except OSError as error:  # a full or failing disk, wherever it shows
        give_up()
        end(f"error: {type(error).__name__}: {error}; {RESUME}")
    except Exception:
        give_up()
        end(traceback.format_exc())


def _stop(*_: object) -> None:
    """The handler of SIGTERM outside of training, which has its own."""
    raise Stopped(f"stopped: {RESUME} from the last checkpoint")


def give_up() -> None:
    """Let go of the folders of this process's runs."""
    while OPEN:
        OPEN.pop().give_up()


class Run:
    """One run's folder and its clock; the folder is locked until `finish`, or the process ends.

    Args:
        experiment: its name; the folder is runs/<experiment> unless `out` says another.
        out: the folder, or the empty string.
        config: everything that the run's numbers depend on.

    Raises:
        RunError: if `check_flags` refuses a number, if the folder holds a run of another
            configuration, or something else, or if another process is at work in it.
    """

    def __init__(self, experiment: str, out: str, config: dict[str, Any]) -> None:
        check_flags(config)
        self.folder = Path(out or f"runs/{experiment}")
        self.checkpoints = self.folder / "checkpoints"
        self._writer: Any = None
        self._is_new = False
        self.config = {"experiment": experiment, **json.loads(json.dumps(config))}
        self.seconds: dict[str, float] = {"compile": 0.0}
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

    def _refuse_another(self) -> None:
        """Raise RunError if the folder is of something else than this run."""
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
        if changes := files.differences(there, self.config):
            raise RunError(
                f"{self.folder} holds a run of another configuration ({'; '.join(changes)}): "
                "give the same flags, or another folder by --out."
            )

    def _claim(self) -> str:
        """Lock the folder and write config.json if there is none; returns why not, or ""."""
        path = self.folder / "config.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.hold(self.folder)
            self._refuse_another()  # another process may have come first
            if not path.exists():
                files.write_whole(path, json.dumps(self.config, indent=2))
                self._is_new = True
        except OSError as error:
            return f"cannot write to the run folder {self.folder}: {error}."
        except RunError as error:
            return str(error)
        return ""

    def give_up(self) -> None:
        """Let go of the folder, and remove it if this call made it and nothing came of it."""
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
        """Count the time inside as `name`, what was spent on compiling apart."""
        start, compiled = time.perf_counter(), self.seconds["compile"]
        yield
        passed = time.perf_counter() - start - (self.seconds["compile"] - compiled)
        self.seconds[name] = self.seconds.get(name, 0.0) + passed

    def is_done(self, products: Sequence[str] = ("report.html", "samples.npz")) -> bool:
        """Whether the run has finished and its `products` are there; prints its figures if so.

        What is lost or cannot be read is computed again, from the last checkpoint on.
        """
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
        """Write results.json, the mark of a finished run, and print what came out."""
        files.write_whole(self.folder / "results.json", files.as_json(results))
        if self._writer is not None:
            self._writer.close()
        files.release(self.folder)
        say_results(results)
        say("seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in self.seconds.items()))
        say(f"report: {self.folder / 'report.html'}")

    def rows(self, text: Sequence[str] = ()) -> list[dict[str, str]]:
        """The sound rows of metrics.csv so far; the columns in `text` hold other than numbers."""
        return files.read_rows(self.folder / "metrics.csv", text)

    def keep_rows_until(self, step: int) -> None:
        """Drop unsound rows and those of steps after `step`, which a resumed run takes again."""
        rows = [row for row in self.rows() if int(row["step"]) <= step]
        files.write_rows(self.folder / "metrics.csv", rows)

    def add_row(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.csv."""
        files.add_row(self.folder / "metrics.csv", row)
        if MACHINE.get().tensorboard and is_first():
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
    """Print a table of figures."""
    width = max(map(len, results), default=0)
    for name, value in results.items():
        say(f"  {name:<{width}}  {value:.4g}")
