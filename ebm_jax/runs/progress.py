"""Progress of long computations: a bar on a terminal, occasional lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ebm_jax.distributed import is_first
from ebm_jax.runs.endings import say, stop_if_asked

SECONDS_BETWEEN_LINES = 10.0  # without a terminal


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Callable[..., None]]:
    """Shows progress with rate and remaining time, from the second call of `advance` on.

    The time until the first call includes compilation, so it does not count towards the rate.
    Among several processes, `advance` also ends the run if one of them received SIGTERM.

    Yields `advance(count, note="")`, to be called each time another `count` items are done.
    """
    first: tuple[int, float] | None = None
    last = time.perf_counter()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[note]}"),
    )
    console = Console()
    shown = console.is_terminal and is_first()
    note = "compiling ..." if done < total else ""
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task(label, total=total, completed=done, rate="", note=note)
        if note and not console.is_terminal:
            say(f"{label}: {note}")

        def advance(count: int, note: str = "") -> None:
            nonlocal done, first, last
            done += count
            now = time.perf_counter()
            rate = forecast(done, total, now, first)
            first = first or (done, now)
            bar.update(task, completed=done, rate=rate, note=note)
            if not console.is_terminal and (now - last > SECONDS_BETWEEN_LINES or done == total):
                say("  ".join(filter(None, (f"{label} {done}/{total}", rate, note))))
                last = now
            stop_if_asked()

        yield advance


def forecast(done: int, total: int, now: float, first: tuple[int, float] | None) -> str:
    """Returns rate and remaining time since `first`, a count and its time, or "" if unknown."""
    if first is None or done == first[0] or now <= first[1]:
        return ""
    rate = (done - first[0]) / (now - first[1])
    left = round((total - done) / rate)
    hours, minutes, seconds = left // 3600, left // 60 % 60, left % 60
    remaining = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    return f"{rate:.1f}/s, {remaining} left" if done < total else f"{rate:.1f}/s"
