"""Charts of a page, drawn by Vega-Lite in the reader's browser: values appear on hover.

A chart is a specification in JSON (https://vega.github.io/vega-lite/). The library that draws it
comes from the package vl-convert-python and is embedded once per page, so that no network is
needed.
"""

import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from ebm_jax.runs.run import Run

SPEC = '<script type="application/json" class="spec">'  # begins a chart's specification
MOST_POINTS = 400  # of a line
COLORS = ["#3178c6", "#c2571a", "#2f8f4e", "#8a63c9", "#b0892a", "#c2417c"]
AXIS = {
    "labelColor": "currentColor",
    "titleColor": "currentColor",
    "domainColor": "currentColor",
    "tickColor": "currentColor",
    "gridColor": "currentColor",
    "gridOpacity": 0.12,
    "titleFontWeight": "normal",
}
LEGEND = {"labelColor": "currentColor", "orient": "top", "title": None}
DRAW = """
const theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "default";
for (const spec of document.querySelectorAll("script.spec"))
  vegaEmbed(spec.previousElementSibling, JSON.parse(spec.textContent),
    {renderer: "svg", actions: false, tooltip: {theme}});
"""

Numbers = Sequence[float] | np.ndarray
Points = Mapping[str, tuple[Numbers, Numbers]]


def lines(
    series: Points,
    *,
    x: str,
    y: str,
    alt: str,
    caption: str = "",
    log_x: bool = False,
    points: bool = False,
    step: bool = False,
) -> str:
    """Returns a chart of lines.

    Args:
        series: (x, y) of each line by its name. Values that are not finite are left out.
        x: title of the horizontal axis.
        y: title of the vertical axis, which is logarithmic if all values are positive and span
            more than a factor of 20.
        alt: what the chart shows, for those who cannot see it.
        caption: what it means, below the chart.
        log_x: True for a logarithmic horizontal axis.
        points: True to mark the points.
        step: True for the outline of a histogram.
    """
    pairs = [(name, a, b) for name, xy in series.items() for a, b in _thinned(*xy)]
    if not pairs:
        return "<p>There is nothing to show yet.</p>"
    values = [{x: a, y: b, "line": name} for name, a, b in pairs]
    found = [b for _, _, b in pairs]
    log_y = not step and min(found) > 0 and max(found) > 20 * min(found)
    across = {"type": "log"} if log_x else {"zero": False, "nice": False}
    up = {"type": "log"} if log_y else {"type": "linear", "zero": step}
    encoding: dict[str, Any] = {
        "x": {"field": _escaped(x), "type": "quantitative", "title": x, "scale": across},
        "y": {"field": _escaped(y), "type": "quantitative", "title": y, "scale": up},
    }
    if len(series) > 1:
        scale = {"domain": [*series], "range": COLORS}
        encoding["color"] = {"field": "line", "type": "nominal", "scale": scale, "legend": LEGEND}
    shown = {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0.9 * points}
    tooltip = [{"field": _escaped(name), "type": "quantitative", "format": ".4~g", "title": name}
               for name in (x, y)]  # fmt: skip
    if len(series) > 1:
        tooltip.append({"field": "line", "type": "nominal", "title": " "})
    hover = {"type": "point", "nearest": True, "on": "pointerover", "clear": "pointerout"}
    line = {"type": "line", "strokeWidth": 1.6, "aria": False, "clip": True}
    spec = {
        "width": "container",
        "height": 180,
        "data": {"values": values},
        "encoding": encoding,
        "layer": [
            {"mark": line | ({"interpolate": "step-after"} if step else {})},
            {
                "params": [{"name": "hover", "select": hover}],
                "mark": {"type": "point", "filled": True, "size": 45, "aria": False},
                "encoding": {"opacity": shown, "tooltip": tooltip},
            },
        ],
    }
    return chart(spec, alt, caption)


def chart(spec: Mapping[str, Any], alt: str, caption: str) -> str:
    """Returns the HTML of a Vega-Lite specification."""
    config = {"background": None, "view": {"stroke": None}, "axis": AXIS,
              "mark": {"color": COLORS[0]}, "font": "system-ui, sans-serif"}  # fmt: skip
    whole = {"config": config, "description": alt, **spec}
    text = json.dumps(whole, separators=(",", ":")).replace("<", "\\u003c")
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    label = html.escape(alt)
    return (
        f'<figure><div class="chart" role="img" aria-label="{label}"></div>{SPEC}{text}</script>'
        f"<noscript><p>{label} (The chart needs JavaScript.)</p></noscript>{below}</figure>"
    )


@cache
def script() -> str:
    """Returns the library that draws the charts of a page, and the call of it."""
    import vl_convert

    bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub lacks defaults
    return f"<script>{bundle}</script><script>{DRAW}</script>"


def curves(run: Run) -> str:
    """Returns charts of loss, gradient norm and speed against the step, from metrics.csv."""
    names = ("loss", "grad_norm", "steps_per_second")
    return metric_curves(run, {name: name.replace("_", " ") for name in names})


def metric_curves(run: Run, titles: Mapping[str, str]) -> str:
    """Returns charts of columns of metrics.csv against the step, next to each other.

    Args:
        run: the run.
        titles: what the columns are called on the page, by their names.
    """
    rows = run.rows()
    parts = [
        lines({title: column(rows, name)}, x="step", y=title,
              alt=f"A line of the {title} against the training step.")
        for name, title in titles.items()
    ]  # fmt: skip
    return f'<div class="beside">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def level_losses(run: Run) -> str:
    """Loss against noise level on training and held-out images, at the last step."""
    last = [{}, *run.rows()][-1]  # all may be lost
    series = {}
    for name in ("train", "held_out"):
        prefix = f"{name}_loss_at_"
        found = {float(k.removeprefix(prefix)): float(v) for k, v in last.items() if prefix in k}
        series[name.replace("_", "-")] = ([*found], [*found.values()])
    return lines(
        series, x="noise level sigma", y="loss", log_x=True, points=True,
        alt="Lines of the loss against the noise level, for training and held-out images.",
        caption="Loss of the averaged parameters at the last step. Where the held-out line lies "
        "far above the other, the network knows its training images by heart.",
    )  # fmt: skip


def histograms(values: Mapping[str, np.ndarray], *, x: str, caption: str) -> str:
    """The densities of numbers, such as the energies of data and of samples, on common bins."""
    shown = {name: v[np.isfinite(v)] for name, v in values.items()}
    ends = np.array([np.quantile(v, (0.01, 0.99)) for v in shown.values()])
    low, high = ends[:, 0].min(), ends[:, 1].max()
    edges = np.linspace(low, max(high, low + 1e-6), 61)
    series = {
        name: (edges, np.append(np.histogram(v, edges)[0] / len(v) / (edges[1] - edges[0]), 0.0))
        for name, v in shown.items()
    }
    names = " and ".join([", ".join([*shown][:-1]), [*shown][-1]] if len(shown) > 1 else shown)
    return lines(
        series, x=x, y="density", step=True, caption=caption,
        alt=f"Histograms of the {x} of {names}.",
    )  # fmt: skip


def column(rows: Sequence[Mapping[str, str]], name: str) -> tuple[list[float], list[float]]:
    """Returns the steps, and the values of a column, of the rows that have it."""
    having = [row for row in rows if name in row]  # some rows may be lost
    return [float(row["step"]) for row in having], [float(row[name]) for row in having]


def _thinned(xs: Numbers, ys: Numbers) -> list[tuple[float, float]]:
    pairs = [
        (float(a), float(b))
        for a, b in zip(xs, ys, strict=True)
        if np.isfinite(a) and np.isfinite(b)
    ]
    every = -(-len(pairs) // MOST_POINTS) or 1
    return pairs[::-1][::every][::-1]  # the last is kept


def _escaped(field: str) -> str:
    """Returns a name in which Vega-Lite sees no path into an object."""
    return field.replace(".", "\\.").replace("[", "\\[").replace("]", "\\]")
