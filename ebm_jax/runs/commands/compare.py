"""Compare runs on one page: their results, flags, loss curves and samples side by side.

ebm-jax compare runs/edm runs/ddpm --out comparison.html
"""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from ebm_jax.runs import charts
from ebm_jax.runs import folder as files
from ebm_jax.runs.command import tool
from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.page import SHOWN, beside, drawn, embedded, image_grid, wide_table, write_page
from ebm_jax.runs.stores import is_image

ABSENT = "-"
Rows = list[list[str]]


class Past(NamedTuple):
    """The files of a run that are compared.

    Attributes:
        name: what it is called here.
        config: its flags and data, one level deep.
        results: its results; without them the run has not finished.
        rows: its metrics by step.
        samples: what it drew, or None.
    """

    name: str
    config: dict[str, Any]
    results: dict[str, float]
    rows: list[dict[str, str]]
    samples: np.ndarray | None


def main(
    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")],
    *,
    out: str = "comparison.html",
) -> None:
    """Compare runs in one table and on one page.

    Args:
        runs: the folders of the runs, two or more, finished or running.
        out: the page.
    """
    if len(runs) < 2:
        raise RunError(f"`compare` got {len(runs)} run: give the folders of two or more.")
    past = [read(path, name) for path, name in zip(runs, names(runs), strict=True)]
    head = ["", *(run.name for run in past)]
    results, flags = result_rows(past), differing(past)
    sections = {
        "Results": wide_table(head, results),
        "Flags that differ": wide_table(head, flags) if flags else "<p>None.</p>",
        "Loss": charts.lines(
            {run.name: charts.column(run.rows, "loss") for run in past},
            x="step",
            y="loss",
            alt="A line per run of its loss against the training step.",
            caption="Mean loss between rows of metrics.csv.",
        ),
        "Samples": beside(*map(samples_of, past)),
    }
    lead = "The losses of two objectives are of different scales: compare the results instead."
    write_page(Path(out), f"Comparison of {len(runs)} runs", lead, sections)
    show(head, results)
    if flags:
        show(["flags that differ", *head[1:]], flags)
    say(f"page: {out}")


def names(runs: tuple[str, ...]) -> list[str]:
    """The runs' names: those of their folders, or the whole paths if two of these are equal."""
    short = [Path(run).resolve().name for run in runs]
    return short if len(set(short)) == len(short) else list(runs)


def read(path: str, name: str) -> Past:
    """Reads a run's folder.

    Raises:
        RunError: if it holds no run.
    """
    config = files.read_object(Path(path) / "config.json")
    if config is None:
        raise RunError(f"{path} holds no run: give a folder with a config.json.")
    results = files.read_results(Path(path) / "results.json") or {}
    return Past(name, flat(config), results, files.read_rows(Path(path) / "metrics.csv"),
                read_samples(Path(path) / "samples.npz"))  # fmt: skip


def read_samples(path: Path) -> np.ndarray | None:
    """The array "samples" of an .npz, or None if there is none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive["samples"]
    except Exception:  # of whatever a damaged archive raises; the rest of the run is sound
        return None


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nested objects as entries "outer inner"; checksums by their first digits."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= {f"{name} {inner}": v for inner, v in flat(value).items()}
        else:
            found[name] = str(value)[:12] if name == "checksum" else value
    return found


def result_rows(past: list[Past]) -> Rows:
    """A row per result, in the order of the runs, and one for how far each run is."""
    rows = [["step of training", *(r.rows[-1]["step"] if r.rows else ABSENT for r in past)]]
    if not all(run.results for run in past):
        rows.append(["finished", *("yes" if run.results else "no" for run in past)])
    for name in dict.fromkeys(name for run in past for name in run.results):
        values = (run.results.get(name) for run in past)
        rows.append([name, *(ABSENT if v is None else f"{v:.4g}" for v in values)])
    return rows


def differing(past: list[Past]) -> Rows:
    """A row per flag, or fact of the data, that is not the same in all runs."""
    rows = []
    for name in dict.fromkeys(name for run in past for name in run.config):
        values = [str(run.config[name]) if name in run.config else ABSENT for run in past]
        if len(set(values)) > 1:
            rows.append([name, *values])
    return rows


def samples_of(run: Past) -> str:
    """The first samples of a run: images in a grid, or the first two coordinates of points."""
    title = f"<p>{html.escape(run.name)}</p>"
    x = run.samples
    if x is None or not len(x):
        return f"{title}<p>No samples.</p>"
    if x.dtype == np.uint8 and is_image(x.shape[1:]):
        return title + embedded(
            drawn(image_grid(x[:SHOWN], 10)),
            f"A grid of samples of {run.name}.",
            "The first samples.",
        )
    if x.ndim != 2 or x.shape[1] < 2:
        return f"{title}<p>Samples of shape {x.shape[1:]} are not shown.</p>"
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(x[:2000, 0], x[:2000, 1], ".", ms=2)
    axes.set_aspect("equal", "datalim")
    return title + embedded(
        drawn(figure),
        f"A scatter plot of samples of {run.name}.",
        "The first two coordinates of the samples.",
    )


def show(head: list[str], rows: Rows) -> None:
    """Print a table."""
    table = Table(box=None)
    for column in head:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 160).print(table)


if __name__ == "__main__":
    tool(main)
