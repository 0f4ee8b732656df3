"""Times several implementations fairly: one process each, taking turns.

A benchmark is a module run by `python -m`, which starts a `Worker` per implementation, and a
worker module that answers it with `serve`. Only one process computes at a time. Rounds are
interleaved and their order rotates, so that a slow minute of the machine affects all alike.
Everything runs on the CPU. The number of threads is never set: each library uses those that it
chooses for the processors that its process may run on, the same for all.

A round repeats a short computation for half a second and records its mean time. It also
measures the load by other processes: busy time of all processors minus the worker's own,
divided by the time of all processors (Linux only).
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"
LEAST_SECONDS = 0.5  # per timed round, since processor time is counted in steps of 10 ms


class Worker:
    """A process that computes on request.

    Attributes:
        name: the implementation.
        hello: first message of the process: {"versions": ...}, or {"missing": why} if it cannot
            run here.
    """

    def __init__(self, module: str, name: str, arguments: dict[str, Any]) -> None:
        command = [sys.executable, "-m", module, name, json.dumps(arguments)]
        settings = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | settings,
        )
        self.hello = self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer; {"missing": why} if the process failed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"missing": "its process ended: see its message above"}


class Job(NamedTuple):
    """A worker's task: `prepare(round)` untimed, `compute(prepared)` timed, `judge(result)`."""

    packages: tuple[str, ...]
    prepare: Callable[[int], Any]
    compute: Callable[[Any], Any]
    judge: Callable[[Any], dict[str, Any]]


def serve(make_job: Callable[[], Job]) -> None:
    """Answers a `Worker`: a first message, then one round for every line on standard input."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keeps library output out of the answers

    def answer(**message: Any) -> None:
        print(json.dumps(message), file=channel, flush=True)

    try:
        job = make_job()
    except ImportError as error:
        return answer(missing=str(error))
    answer(versions={p: version(p) for p in job.packages}, start_mb=peak_memory_mb())
    for line in sys.stdin:
        request = json.loads(line)
        prepared = job.prepare(request["round"])
        result, figures = _timed(lambda: job.compute(prepared), request["least_seconds"])  # noqa: B023
        answer(**figures, **job.judge(result), peak_mb=peak_memory_mb())


def interleave(workers: list[Worker], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Calls every worker once, which compiles, and then in `rounds` rounds in turns."""
    answers: dict[str, list[dict[str, Any]]] = {worker.name: [] for worker in workers}
    alive = list(workers)
    for index in range(rounds + 1):
        turn = index % max(1, len(alive))
        for worker in alive[turn:] + alive[:turn]:
            reply = worker.ask(round=index, least_seconds=LEAST_SECONDS if index else 0.0)
            if "missing" in reply:
                print(f"{worker.name}: left out: {reply['missing']}", flush=True)
                alive.remove(worker)
                del answers[worker.name]
            else:
                answers[worker.name].append(reply)
        print(f"round {index} of {rounds}", file=sys.stderr, flush=True)
    return answers


def measure(
    module: str, names: list[str], arguments: dict[str, Any], rounds: int
) -> dict[str, tuple[list[dict[str, Any]], dict[str, str]]]:
    """Returns the rounds and the versions of each implementation; prints which cannot run here."""
    workers = {name: Worker(module, name, arguments) for name in names}
    for name, worker in list(workers.items()):
        if "missing" in worker.hello:
            print(f"{name}: left out: {worker.hello['missing']}", flush=True)
            worker.close()
            del workers[name]
    answers = interleave(list(workers.values()), rounds)
    for worker in workers.values():
        worker.close()
    return {name: (found, workers[name].hello["versions"]) for name, found in answers.items()}


def run(
    name: str,
    about: str | None,
    problems: Mapping[str, Callable[[int], dict[str, Any]]],
    report: Callable[[dict[str, dict[str, Any]]], str],
    *,
    rounds: int,
    wrong: str,
) -> None:
    """Runs the command of a benchmark: its flags, all problems, the table and the JSON.

    Args:
        name: name of the module and the JSON file.
        about: text for --help.
        problems: by title, functions from a number of rounds to the measurements of a problem.
        report: function that returns the table of these measurements, by title.
        rounds: default number of rounds.
        wrong: error message if the check of an implementation is not "right".
    """
    flags = _flags(name, about, list(problems), rounds)
    found = {}
    for title, measure_problem in problems.items():
        if flags.only in title:
            found[title] = measure_problem(flags.rounds)
            print(report({title: found[title]}), flush=True)
    everything = {"hardware": hardware(), "rounds": flags.rounds, "problems": found}
    print()
    print(report(found))
    print(f"written to {save(flags.out, name, everything)}")
    laws = [r["law"] for by_name in found.values() for r in by_name["results"].values()]
    if any(law != "right" for law in laws):
        raise SystemExit(wrong)


def _flags(name: str, about: str | None, titles: list[str], rounds: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=rounds, help="timed rounds, after a first")
    parser.add_argument("--only", default="", help="only problems whose title contains this")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    flags = parser.parse_args()
    if flags.rounds < 1:
        parser.error(f"--rounds is {flags.rounds}: give at least 1")
    if not any(flags.only in title for title in titles):
        parser.error(f"--only is {flags.only!r}: give a part of one of {titles}")
    return flags


def summary(rounds: list[dict[str, Any]], law: str) -> dict[str, Any]:
    """Returns medians of the timed rounds, the extra time of the first call, and the verdict."""
    first, *timed = rounds
    seconds = [answer["seconds"] for answer in timed]
    return {
        "seconds": median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "compile_seconds": max(0.0, first["seconds"] - median(seconds)),
        "peak_mb": timed[-1]["peak_mb"],
        "others": median(answer["others"] for answer in timed),
        "law": law,
        "rounds": timed,
    }


def warning(summaries: list[dict[str, Any]]) -> str:
    """Returns a line to print under a table if other processes took over a tenth of the machine."""
    busiest = max((result["others"] for result in summaries), default=0.0)
    return "\nOther processes were busy: repeat this on a quiet machine." if busiest > 0.1 else ""


def hardware() -> dict[str, Any]:
    """Returns the processor, the cores this process may use, memory, system and Python version."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _proc("cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": cores,
        "memory_gb": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def save(folder: Path, name: str, result: dict[str, Any]) -> Path:
    """Writes `result` as JSON, in a file named after the processor and the number of cores."""
    machine = result["hardware"]
    words = f"{name}-{machine['processor']}-{machine['cores']}-cores".lower()
    path = folder / ("-".join("".join(c if c.isalnum() else " " for c in words).split()) + ".json")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def table(head: list[str], rows: list[list[str]]) -> str:
    """Formats a table as plain text: the first column left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    pads = [str.ljust] + [str.rjust] * (len(head) - 1)
    return "\n".join(
        "  ".join(pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True))
        for row in lines
    )


def peak_memory_mb() -> float:
    """Returns the peak memory of this process in MiB (Linux; 0 elsewhere)."""
    return int((_proc("self/status", "VmHWM") or "0 kB").split()[0]) / 1024


def _timed(compute: Callable[[], Any], least_seconds: float) -> tuple[Any, dict[str, float]]:
    """Returns the result with seconds per call, own CPU seconds per call, and the others' share."""
    machine, own, start = _machine_seconds(), time.process_time(), time.perf_counter()
    calls = 0
    while calls == 0 or time.perf_counter() - start < least_seconds:
        result = compute()
        calls += 1
    seconds, own = time.perf_counter() - start, time.process_time() - own
    busy, total = (
        after - before for before, after in zip(machine, _machine_seconds(), strict=True)
    )
    others = max(0.0, busy - own) / total if total > 0 else 0.0
    return result, {"seconds": seconds / calls, "own_seconds": own / calls, "others": others}


def _machine_seconds() -> tuple[float, float]:
    """Returns busy and total seconds of all processors since boot."""
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except OSError:
        return 0.0, 0.0
    hertz = os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - ticks[3] - ticks[4]) / hertz, sum(ticks) / hertz


def _proc(file: str, field: str) -> str | None:
    try:
        lines = Path("/proc", file).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), None)
