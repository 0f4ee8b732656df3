"""What every experiment shares: its command, its folder, its clock and its progress.

A run owns one folder: config.json, metrics.csv, samples.npz, figures, checkpoints/,
results.json and report.html. The same command again resumes it or says that it is done.
"""

import csv
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ebm_jax.checkpoints import CheckpointError
from ebm_jax.data import DataError
from ebm_jax.sharding import use_all_cores
from ebm_jax.training import TrainingDiverged

SECONDS_BETWEEN_LINES = 10.0  # of progress, where there is no terminal


class RunError(Exception):
    """A run cannot go on; the message is a sentence for people."""


def command(main: Callable[..., None]) -> None:
    """Run an experiment's `main` with flags from its signature; a failure is a sentence."""
    try:
        use_all_cores()
        tyro.cli(main)
    except (RunError, DataError, CheckpointError, TrainingDiverged) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped: the same command resumes from the last checkpoint")


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
        if not path.exists():
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise RunError(
                    f"{self.folder} is not empty and holds no run: give another folder by --out."
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.config, indent=2))
        there = json.loads(path.read_text())
        names = sorted({n for n in {*there, *self.config} if there.get(n) != self.config.get(n)})
        if names:
            changes = "; ".join(
                f"{n} {there.get(n)} there, {self.config.get(n)} now" for n in names
            )
            raise RunError(
                f"{self.folder} holds a run of another configuration ({changes}): "
                "give the same flags, or another folder by --out."
            )

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
        (self.folder / "results.json").write_text(json.dumps(results, indent=2))
        say_results(results)
        say("seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in self.seconds.items()))
        say(f"report: {self.folder / 'report.html'}")

    def rows(self) -> list[dict[str, str]]:
        """The rows of metrics.csv so far."""
        path = self.folder / "metrics.csv"
        return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []

    def keep_rows_until(self, step: int) -> None:
        """Drop the rows of steps after `step`, which a resumed run takes again."""
        rows = [row for row in self.rows() if int(row["step"]) <= step]
        (self.folder / "metrics.csv").unlink(missing_ok=True)
        for row in rows:
            self.add_row(row)

    def add_row(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.csv."""
        path = self.folder / "metrics.csv"
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def say(line: str) -> None:
    """Print a line for people."""
    print(line, flush=True)


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
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
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
