"""Self-contained HTML pages: sections, tables, pictures and sliders, readable on any screen.

A page needs no network and no server. It has one main landmark, a list of its sections, alternative
texts for pictures, and follows the reader's light or dark theme.
"""

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
from PIL import Image

from ebm_jax.runs import charts, provenance
from ebm_jax.runs.folder import write_whole
from ebm_jax.runs.run import Run
from ebm_jax.runs.verdicts import verdict, warnings

mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})

SHOWN = 100  # images in a grid of samples
WIDE = 700  # pixels that a grid of images is enlarged to, by a whole factor
FILES = {  # of a run that can be downloaded beside its page
    "samples.npz": "samples",
    "samples.csv": "samples as text",
    "model.safetensors": "trained model, for `ebm_jax.load`",
    "results.json": "results",
    "metrics.csv": "metrics by step",
    "config.json": "configuration",
}
SAMPLES = (", samples", ", samples against data")  # end the names of results of samples
FLOOR = (", real", ", held out", ", data", ", data against data")  # and of real examples
ASSETS = Path(__file__).parent / "assets"


def write_report(
    run: Run,
    title: str,
    lead: str,
    sections: Mapping[str, str],
    results: Mapping[str, float] | None = None,
) -> None:
    """Writes report.html: a verdict, the sections, and how to repeat the run.

    Args:
        run: the run, in whose folder the page is written.
        title: the page's heading.
        lead: a paragraph on what was done, made from the run's configuration.
        sections: HTML by heading.
        results: numbers by name, from which the verdict and the warnings are made.
    """
    times = {name: f"{seconds:.1f} s" for name, seconds in run.seconds.items()}
    config = {name: json.dumps(value) for name, value in run.config.items()}
    judged = judgment(results or {}, run.rows())
    about = provenance.facts(run.command)
    end = {
        "Files": downloads(run.folder),
        "This run": table(about)
        + f"<details><summary>Time</summary>{table(times)}</details>"
        + f"<details><summary>Configuration</summary>{table(config)}</details>",
    }
    write_page(run.folder / "report.html", title, lead, {**judged, **sections, **end})


def write_page(path: Path, title: str, lead: str, sections: Mapping[str, str]) -> None:
    """Writes one HTML file: a title, a leading paragraph, and sections of HTML by heading."""
    links, parts = [], []
    for number, (heading, content) in enumerate(sections.items()):
        name = html.escape(heading)
        links.append(f'<li><a href="#s{number}">{name}</a></li>')
        tag = f'<h2 id="s{number}">{name}</h2>'
        parts.append(f'<section aria-labelledby="s{number}">{tag}{content}</section>')
    body = "".join(parts)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{html.escape(title)}</title>'
        f"<style>{(ASSETS / 'page.css').read_text()}</style></head><body>"
        f'<a class="skip" href="#main">Skip to the content</a>'
        f"<header><h1>{html.escape(title)}</h1><p>{html.escape(lead)}</p></header>"
        f'<nav aria-label="Sections"><ul>{"".join(links)}</ul></nav>'
        f'<main id="main">{body}</main>'
        f"<script>{(ASSETS / 'page.js').read_text()}</script>"
        f"{charts.script() if charts.SPEC in body else ''}</body></html>"
    )
    write_whole(path, page)


def judgment(results: Mapping[str, float], rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Returns the section with a verdict in words and warnings; {} if there is nothing to say."""
    sentences, alerts = verdict(results), warnings(results, rows)
    parts = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
    parts += "".join(
        f'<p class="warning"><strong>Warning.</strong> {html.escape(a)}</p>' for a in alerts
    )
    return {"In short": parts} if parts else {}


def downloads(folder: Path) -> str:
    """Returns links to the files of a run, which lie beside its page."""
    links = [
        f'<li><a href="{name}">{name}</a>: {html.escape(what)}</li>'
        for name, what in FILES.items()
        if (folder / name).exists()
    ]
    return f"<ul>{''.join(links)}</ul>"


def table(rows: Mapping[str, str | float]) -> str:
    """Returns a table of two columns, the first of which names its row."""
    return wide_table((), [(name, number(value)) for name, value in rows.items()])


def wide_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; the first column names its row, and `head` the columns if it is given."""
    lines = []
    if head:
        cells = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head[1:])
        corner = f'<th scope="col">{html.escape(head[0])}</th>' if head[0] else "<td></td>"
        lines.append(f"<thead><tr>{corner}{cells}</tr></thead>")
    for first, *others in rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>')
    return f'<div class="scroll" tabindex="0"><table>{"".join(lines)}</table></div>'


def results_table(results: Mapping[str, float]) -> str:
    """Returns results as a table in which those of samples stand beside those of real examples."""
    rows: dict[str, list[str]] = {}
    for name, value in results.items():
        stem, column = name, 0
        for place, suffixes in enumerate((SAMPLES, FLOOR)):
            for suffix in suffixes:
                other = [name.removesuffix(suffix) + s for s in (*SAMPLES, *FLOOR) if s != suffix]
                if name.endswith(suffix) and any(o in results for o in other):
                    stem, column = name.removesuffix(suffix), place
        rows.setdefault(stem, ["", ""])[column] = number(value)
    head = ["", "samples", "real examples (floor)"]
    if not any(floor for _, floor in rows.values()):
        return table(results)
    return wide_table(head, [(name, *cells) for name, cells in rows.items()])


def number(value: str | float) -> str:
    """Returns a number with four digits, and words as they are."""
    return value if isinstance(value, str) else f"{value:.4g}"


def picture(run: Run, name: str, figure: Figure | Image.Image, alt: str, caption: str) -> str:
    """Saves a picture as <name>.png in the run's folder, and returns the HTML that embeds it.

    Args:
        run: the run.
        name: of the file.
        figure: a plot, or an image.
        alt: what is to be seen, for those who cannot see it.
        caption: what it means, below the picture.
    """
    png = drawn(figure)
    Path(run.folder / f"{name}.png").write_bytes(png)
    return embedded(png, alt, caption)


def drawn(figure: Figure | Image.Image) -> bytes:
    """Returns a picture as the content of a PNG file."""
    buffer = io.BytesIO()
    if isinstance(figure, Figure):
        figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    else:
        figure.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def embedded(png: bytes, alt: str, caption: str) -> str:
    """Returns the HTML that holds a picture and its caption."""
    image = f'<img alt="{html.escape(alt)}" src="{address(png)}">'
    return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"


def address(png: bytes) -> str:
    """Returns the data URL of a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def beside(*parts: str) -> str:
    """Returns parts of a page next to each other, or below each other on a narrow screen."""
    return f'<div class="beside">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def frames(pictures: Mapping[str, Image.Image], name: str, alt: str, caption: str) -> str:
    """Returns a slider through pictures, with a button that plays them; it shows the last first.

    Args:
        pictures: the frames by their labels, such as "noise level 3.2", all of one size.
        name: of the slider, such as "Noise level".
        alt: what the frames show.
        caption: what they mean.
    """
    last = len(pictures) - 1
    images = "".join(
        f'<img alt="{html.escape(f"{alt}, {label}")}" data-label="{html.escape(label)}" '
        f'src="{address(drawn(image))}"{"" if i == last else " hidden"}>'
        for i, (label, image) in enumerate(pictures.items())
    )
    label = html.escape([*pictures][-1])
    return (
        f'<figure class="frames">{images}<div class="controls"><button type="button">Play</button>'
        f'<input type="range" aria-label="{html.escape(name)}" min="0" max="{last}" '
        f'value="{last}" aria-valuetext="{label}"><output>{label}</output></div>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def image_grid(images: UInt8[ndarray, "n h w c"], columns: int, *, gap: int = 1) -> Image.Image:
    """Images in rows of `columns`, in their order, enlarged; the last row is filled with white."""
    n, h, w, c = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * columns, h + gap, w + gap, c), 255, np.uint8)
    sheet[:n, :h, :w] = images
    sheet = sheet.reshape(rows, columns, h + gap, w + gap, c).transpose(0, 2, 1, 3, 4)
    sheet = sheet.reshape(rows * (h + gap), columns * (w + gap), c)
    factor = max(1, round(WIDE / sheet.shape[1]))
    sheet = sheet.repeat(factor, 0).repeat(factor, 1)
    return Image.fromarray(sheet if c == 3 else sheet[..., 0])


def plane(
    values: Float[ndarray, " cells"], half_width: float
) -> tuple[Float[ndarray, "n n"], tuple[float, float, float, float]]:
    """Values on `likelihood.square_grid` as an image for `imshow`, and its extent."""
    side = round(len(values) ** 0.5)
    extent = (-half_width, half_width, -half_width, half_width)
    return np.asarray(values).reshape(side, side).T[::-1], extent
