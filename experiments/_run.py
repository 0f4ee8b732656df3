"""What every experiment shares: its command, its folder, its clock and its progress.

A run owns one folder: config.json, metrics.csv, samples.npz, figures, checkpoints/,
results.json and report.html. The same command again resumes it or says that it is done.

Among several processes, all run the same script, the first alone owns the folder and speaks;
the others have a copy of its files that nobody sees, and share its checkpoints.
"""

import csv
import io
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ebm_jax.checkpoints import CheckpointError
from ebm_jax.data import DataError
from ebm_jax.distributed import JoinError, is_first, wait_for_all
from ebm_jax.training import TrainingDiverged
from experiments._machine import MACHINE, RunError, end, on_machine, say

RESUME = "the same command resumes"
SECONDS_BETWEEN_LINES = 10.0  # of progress, where there is no terminal


class Stopped(Exception):
    """A run was asked to end, and has saved what it had."""


def command(main: Callable[..., None]) -> None:
    """Run an experiment's `main` with flags from its signature; a failure is a sentence."""
    try:
        tyro.cli(on_machine(main))
    except Stopped as stop:
        end(str(stop), 143)  # as of a process that SIGTERM killed
    except (RunError, DataError, CheckpointError, JoinError, TrainingDiverged) as error:
        end(f"error: {error}")
    except KeyboardInterrupt:
        end(f"\nstopped: {RESUME} from the last checkpoint")
    except Exception:
        end(traceback.format_exc())


class Run:
    """One run's folder and its clock.

    Args:
        experiment: its name; the folder is runs/<experiment> unless `out` says another.
        out: the folder, or the empty string.
        config: everything that the run's numbers depend on.

    Raises:
        RunError: if a number other than the seed is not positive, or if the folder holds
            a run of another configuration, or something else.
    """

    def __init__(self, experiment: str, out: str, config: dict[str, Any]) -> None:
        self.folder = Path(out or f"runs/{experiment}")
        self.checkpoints = self.folder / "checkpoints"
        self._writer: Any = None
        self.config = {"experiment": experiment, **json.loads(json.dumps(config))}
        self.seconds: dict[str, float] = {"compile": 0.0}
        for name, value in config.items():
            values = value if isinstance(value, tuple) else (value,)
            numbers = [v for v in values if isinstance(v, int | float) and v is not False]
            if name != "seed" and any(v <= 0 for v in numbers):
                flag = name.replace("_", "-")
                raise RunError(f"--{flag} got {value}: give a positive number.")
        jax.monitoring.register_event_duration_secs_listener(self._on_event)
        try:
            self._claim()
        except OSError as error:
            raise RunError(f"cannot write to the run folder {self.folder}: {error}.") from error

    def _claim(self) -> None:
        path = self.folder / "config.json"
        if not path.exists() and self.folder.is_dir() and any(self.folder.iterdir()):
            raise RunError(
                f"{self.folder} is not empty and holds no run: give another folder by --out."
            )
        there = self.config
        if path.exists():
            try:
                there = json.loads(path.read_text())
            except ValueError as error:
                raise RunError(f"{path} is damaged ({error}): give another --out.") from error
        names = sorted({n for n in {*there, *self.config} if there.get(n) != self.config.get(n)})
        if names:
            changes = "; ".join(
                f"{n} {there.get(n)} there, {self.config.get(n)} now" for n in names
            )
            raise RunError(
                f"{self.folder} holds a run of another configuration ({changes}): "
                "give the same flags, or another folder by --out."
            )
        wait_for_all("the run's folder is looked at")
        if is_first() and not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(path, json.dumps(self.config, indent=2))
        wait_for_all("the run's folder is there")
        if not is_first():
            self._work_on_a_copy()
        wait_for_all("the run's folder is copied")

    def _work_on_a_copy(self) -> None:
        if not (self.folder / "config.json").exists():
            raise RunError(
                f"the first process made {self.folder}, which this one does not see: give a "
                "folder by --out on a file system that all processes share."
            )
        self._scratch = TemporaryDirectory(prefix="ebm_jax")
        for file in filter(Path.is_file, self.folder.iterdir()):
            shutil.copy(file, self._scratch.name)
        self.folder = Path(self._scratch.name)

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

    def is_done(self) -> bool:
        """Whether the run has finished; says so, with its figures."""
        if not (self.folder / "results.json").exists():
            return False
        results = json.loads((self.folder / "results.json").read_text())
        say(f"{self.folder} is done: its report is {self.folder / 'report.html'}")
        say_results(results)
        return True

    def finish(self, results: dict[str, float]) -> None:
        """Write results.json, the mark of a finished run, and say what came out."""
        _write(self.folder / "results.json", json.dumps(results, indent=2))
        if self._writer is not None:
            self._writer.close()
        say_results(results)
        say("seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in self.seconds.items()))
        say(f"report: {self.folder / 'report.html'}")

    def rows(self) -> list[dict[str, str]]:
        """The rows of metrics.csv so far."""
        path = self.folder / "metrics.csv"
        return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []

    def keep_rows_until(self, step: int) -> None:
        """Drop the rows of steps after `step`, which a resumed run takes again."""
        rows, text = self.rows(), io.StringIO()
        if rows:
            writer = csv.DictWriter(text, rows[0])
            writer.writeheader()
            writer.writerows(row for row in rows if int(row["step"]) <= step)
            _write(self.folder / "metrics.csv", text.getvalue())

    def add_row(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.csv."""
        path = self.folder / "metrics.csv"
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if is_new:
                writer.writeheader()
            writer.writerow(row)
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


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, whenever the process dies."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(text, newline="")
    os.replace(unfinished, path)


def say_results(results: dict[str, float]) -> None:
    """Print a table of figures."""
    width = max(map(len, results))
    for name, value in results.items():
        say(f"  {name:<{width}}  {value:.4g}")


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """A bar with rate and remaining time on a terminal, a line now and then elsewhere.

    Yields `advance(count, note="")`, to be called after every `count` things done.
    """
    start, before, last = time.perf_counter(), done, time.perf_counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    console = Console()
    shown = console.is_terminal and is_first()
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task(label, total=total, completed=done, rate="", note="")

        def advance(count: int, note: str = "") -> None:
            nonlocal done, last
            done += count
            now = time.perf_counter()
            rate = (done - before) / (now - start)
            bar.update(task, completed=done, rate=f"{rate:.1f}/s", note=note)
            if not console.is_terminal and (now - last > SECONDS_BETWEEN_LINES or done == total):
                left = (total - done) / rate
                say(f"{label} {done}/{total}, {rate:.1f}/s, {left:.0f} s left  {note}")
                last = now

        yield advance
