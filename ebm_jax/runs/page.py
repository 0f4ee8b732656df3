"""A run's page: one self-contained HTML file, and the figures that several experiments draw."""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from numpy import ndarray

from ebm_jax.data import Pixels
from ebm_jax.runs.folder import write_whole
from ebm_jax.runs.run import Run

mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})

SHOWN = 100  # images in a grid of samples
SHOWN_TIMES = 20  # times in the picture of the way from noise to samples
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: left;
  border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums }
img { max-width: 100% } p { max-width: 45rem } .beside { display: flex; gap: 1rem; flex-wrap: wrap }
.beside > div { flex: 1 1 20rem }
"""


def write_report(run: Run, title: str, lead: str, sections: dict[str, str]) -> None:
    """Write report.html: a title, a leading paragraph, and sections of HTML by heading.

    The time and the configuration of the run are added at the end.
    """
    times = {name: f"{seconds:.1f} s" for name, seconds in run.seconds.items()}
    config = {name: json.dumps(value) for name, value in run.config.items()}
    sections = {**sections, "Time": table(times), "Configuration": table(config)}
    write_page(run.folder / "report.html", title, lead, sections)


def write_page(path: Path, title: str, lead: str, sections: Mapping[str, str]) -> None:
    """Write one HTML file: a title, a leading paragraph, and sections of HTML by heading."""
    body = "".join(f"<h2>{html.escape(h)}</h2>{content}" for h, content in sections.items())
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1><p>{html.escape(lead)}</p>{body}</html>"
    )
    write_whole(path, page)


def table(rows: Mapping[str, str | float]) -> str:
    """A two-column table."""
    lines = []
    for name, value in rows.items():
        shown = value if isinstance(value, str) else f"{value:.4g}"
        lines.append(f"<tr><td>{html.escape(name)}</td><td>{html.escape(shown)}</td></tr>")
    return f"<table>{''.join(lines)}</table>"


def wide_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a heading row; the first column names its row."""
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def picture(run: Run, name: str, figure: Figure, caption: str) -> str:
    """Save a figure as <name>.png in the run's folder; the HTML that embeds it."""
    png = drawn(figure)
    Path(run.folder / f"{name}.png").write_bytes(png)
    return embedded(png, caption)


def drawn(figure: Figure) -> bytes:
    """Returns a figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    return buffer.getvalue()


def embedded(png: bytes, caption: str) -> str:
    """Returns the HTML that holds a picture and its caption."""
    data = base64.b64encode(png).decode()
    caption = html.escape(caption)
    return f'<img alt="{caption}" src="data:image/png;base64,{data}"><p>{caption}</p>'


def beside(*parts: str) -> str:
    """Parts of a page next to each other, below each other on a narrow screen."""
    return f'<div class="beside">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def image_grid(images: UInt8[ndarray, "n h w c"], columns: int, *, gap: int = 1) -> Figure:
    """Images in rows of `columns`, in their order, the last row filled up with white."""
    n, h, w, c = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * columns, h + gap, w + gap, c), 255, np.uint8)
    sheet[:n, :h, :w] = images
    sheet = sheet.reshape(rows, columns, h + gap, w + gap, c).transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(rows * (h + gap), columns * (w + gap), c)
    figure = Figure(figsize=(7, 7 * sheet.shape[0] / sheet.shape[1]))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(sheet if c == 3 else sheet[..., 0], cmap="gray", vmin=0, vmax=255)
    axes.axis("off")
    return figure


def samples_beside(
    run: Run,
    samples: UInt8[ndarray, "n h w c"],
    held_out: Pixels,
    caption: str = "The first, none chosen.",
) -> str:
    """The first 100 samples beside as many held-out images."""
    return beside(
        picture(run, "samples", image_grid(samples[:SHOWN], 10), caption),
        picture(run, "held_out", image_grid(held_out[:SHOWN], 10), "The first held-out images."),
    )


def curves(run: Run) -> Figure:
    """Loss, gradient norm and rate against the step, from metrics.csv."""
    names = ("loss", "grad_norm", "steps_per_second")
    rows = [row for row in run.rows() if set(names) <= set(row)]  # some may be lost
    steps = [int(row["step"]) for row in rows]
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), names, strict=True):
        values = [float(row[name]) for row in rows]
        axes.plot(steps, values, color="#225588", lw=1.2)
        axes.set(xlabel="step", title=name.replace("_", " "))
        if name == "loss" and min(values, default=0) > 0:  # some losses are negative
            axes.set_yscale("log")
    return figure


def level_losses(run: Run) -> Figure:
    """Loss against noise level on training and held-out images, at the last step."""
    last = [{}, *run.rows()][-1]  # all may be lost
    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axes = figure.subplots()
    for name, color in (("train", "#225588"), ("held_out", "#cc6622")):
        prefix = f"{name}_loss_at_"
        points = [(float(k.removeprefix(prefix)), float(v)) for k, v in last.items() if prefix in k]
        levels, losses = zip(*points, strict=True) if points else ((), ())
        axes.plot(levels, losses, "o-", ms=3, color=color, label=name.replace("_", "-"))
        if points:
            axes.set(xscale="log", yscale="log")
    axes.set(xlabel="noise level sigma", ylabel="loss")
    axes.legend(frameon=False)
    return figure


def plane(
    values: Float[ndarray, " cells"], half_width: float
) -> tuple[Float[ndarray, "n n"], tuple[float, float, float, float]]:
    """Values on `likelihood.square_grid` as an image for `imshow`, and its extent."""
    side = round(len(values) ** 0.5)
    extent = (-half_width, half_width, -half_width, half_width)
    return np.asarray(values).reshape(side, side).T[::-1], extent


def image_report(
    run: Run,
    title: str,
    lead: str,
    samples: np.ndarray,
    paths: np.ndarray,
    held_out: Pixels,
    results: dict[str, float],
    names: Sequence[str] | None = None,
) -> None:
    """Writes the page of a run on images: samples beside held-out images, their way, metrics."""
    by_class = {}
    if names is not None:  # sample i was asked for by the label i mod K
        count = min(len(names), len(samples))
        rows = min(SHOWN // count + 1, len(samples) // count)
        caption = f"Columns, asked for by label: {', '.join(names)}."
        by_class = {
            "Samples by class": picture(
                run, "classes", image_grid(samples[: rows * count], count), caption
            )
        }
    every = -(-paths.shape[1] // SHOWN_TIMES)
    strip = paths[:, ::-1][:, ::every][:, ::-1]  # the end is among those shown
    sections = {
        "Samples, and held-out images": samples_beside(run, samples, held_out),
        **by_class,
        "From noise to samples": picture(
            run,
            "paths",
            image_grid(strip.reshape(-1, *strip.shape[2:]), strip.shape[1]),
            "The first samples at times of the solver, in units of sqrt(alpha^2 + sigma^2).",
        ),
        "Metrics": table(results),
        "Training": picture(run, "training", curves(run), "Means between rows."),
        "Loss by level": picture(
            run, "levels", level_losses(run), "Of the averaged parameters, at the last step."
        ),
    }
    write_report(run, title, lead, sections)
