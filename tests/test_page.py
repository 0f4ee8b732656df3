"""Pages of runs: what they say follows from the results, and browsers can show it to anybody."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ebm_jax.runs import charts, image_page, page, provenance, verdicts
from ebm_jax.runs.command import command_line
from ebm_jax.runs.machine import Machine
from ebm_jax.runs.run import Run
from experiments import edm

RATIO, MEMORY = verdicts.RATIO, verdicts.MEMORY
VOID = {"meta", "img", "input", "br", "link"}


class Structure(HTMLParser):
    """The tags of a page, of which every one that opens must close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attrs for found, attrs in self.found if found == tag]


def write_rows(run, **columns):
    for i, values in enumerate(zip(*columns.values(), strict=True)):
        run.add_row({"step": 10 * (i + 1), **dict(zip(columns, values, strict=True))})


@pytest.fixture
def run(tmp_path):
    made = Run("edm", str(tmp_path), {"num_steps": 400, "data": "<digits> & more"})
    names = ("loss", "grad_norm", "steps_per_second", "train_loss_at_0.1", "held_out_loss_at_0.1")
    write_rows(made, **{name: [3.0, 2.0, 1.0] for name in names})
    return made


def images(count, side=8, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), np.uint8)


def opened(path):
    with Image.open(path) as image:
        return np.asarray(image)


def whole_page(run, **more):
    results = {RATIO: 1.1, "n": 50.0, "recall (f), samples": 0.2, "recall (f), real": 0.8}
    image_page.image_report(
        run, "Title <b>", "A lead.", images(30), images(8 * 5).reshape(8, 5, 8, 8, 1), images(40),
        images(20), results, **more,
    )  # fmt: skip
    return (run.folder / "report.html").read_text()


def test_a_page_is_well_formed_with_landmarks_names_and_alternatives(run):
    text = whole_page(run, names=("a", "b<"))
    found = Structure(text)
    assert [len(found.all(tag)) for tag in ("main", "header", "nav", "h1")] == [1] * 4
    assert found.all("html")[0]["lang"] == "en"
    metas = {m.get("name"): m.get("content") for m in found.all("meta")}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    assert metas["color-scheme"] == "light dark"
    assert all(len(image["alt"]) > 10 for image in found.all("img"))
    assert all(image["src"].startswith("data:image/png;base64,") for image in found.all("img"))
    assert all(cell["scope"] in ("row", "col") for cell in found.all("th"))
    assert all(chart["aria-label"] for chart in found.all("div") if chart.get("role") == "img")
    headings = {h["id"] for h in found.all("h2")}
    assert {a["href"].strip("#") for a in found.all("a") if a["href"].startswith("#s")} == headings
    assert {s["aria-labelledby"] for s in found.all("section")} == headings
    assert "Title &lt;b&gt;" in text
    assert "b&lt;" in text
    assert "&lt;digits&gt; &amp; more" in text
    assert len(text) < 3e6
    without_script = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert "http" not in without_script  # self-contained


def test_the_script_of_charts_is_there_once_or_not_at_all(run):
    text = whole_page(run)
    assert text.count("vegaEmbed(spec") == 1
    assert text.count(charts.SPEC) == 4
    page.write_page(run.folder / "plain.html", "A", "B.", {"C": page.table({"d": 1.0})})
    assert "vega" not in (run.folder / "plain.html").read_text()


def test_equal_grids_of_samples_and_held_out_images(run):
    text = image_page.samples_beside(run, images(30), images(20))
    assert text.count("A grid of 20 images") == 2
    samples, held_out = (opened(run.folder / f"{name}.png") for name in ("samples", "held_out"))
    assert samples.shape == held_out.shape


def test_a_grid_holds_the_images_in_their_order_enlarged(run):
    shown = images(5, side=4, channels=3)
    grid = np.asarray(page.image_grid(shown, 2))
    factor = round(page.WIDE / 10)
    assert grid.shape == (3 * 5 * factor, 2 * 5 * factor, 3)
    small = grid[::factor, ::factor]
    np.testing.assert_array_equal(small[5:9, 5:9], shown[3])
    np.testing.assert_array_equal(small[10:14, :4], shown[4])
    assert (small[10:, 5:] == 255).all()


@pytest.mark.parametrize("count", [1, 5, 47, 100])
def test_the_slider_from_noise_ends_at_the_samples(count, run):
    paths = np.zeros((8, count, 4, 4, 1), np.uint8) + np.arange(count, dtype=np.uint8)[
        None, :, None, None, None
    ]  # fmt: skip
    text = image_page.noise_to_samples(run, paths)
    found = Structure(text)
    shown = [image for image in found.all("img") if "hidden" not in image]
    frames = found.all("img")
    assert len(frames) <= image_page.SHOWN_TIMES
    assert shown == frames[-1:]
    assert found.all("input")[0]["max"] == str(len(frames) - 1)
    sheet = opened(run.folder / "paths.png")
    assert count - 1 in sheet


def test_nearest_images_are_found_across_blocks(monkeypatch):
    monkeypatch.setattr(image_page, "BLOCK", 7)
    known = images(50)
    noisy = np.clip(known[[3, 48, 20]].astype(int) + 2, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(image_page.nearest(noisy, known), [3, 48, 20])
    monkeypatch.setattr(image_page, "MOST_SEARCHED", 40)
    assert image_page.nearest(noisy, known).max() < 40


def test_the_page_of_a_run_in_training(run):
    np.savez(run.folder / "previews.npz", **{"10": images(16), "200": images(16)})
    image_page.training_report(run, 200, 400)
    text = (run.folder / "report.html").read_text()
    assert "step 200 of 400" in text
    assert 'data-label="step 10"' in text
    np.savez(run.folder / "previews.npz", **{"10": images(16)})
    (run.folder / "previews.npz").write_bytes(b"PK damaged")
    image_page.training_report(run, 200, 400)
    assert "data-label" not in (run.folder / "report.html").read_text()
    whole_page(run)  # the end replaces it
    assert "of 400" not in (run.folder / "report.html").read_text()


def test_results_stand_beside_their_floor():
    table = page.results_table(
        {"n": 5.0, "F (x), samples": 2.0, "F (x), real": 1.0, "share, samples": 0.5,
         "share, data": 0.75, "MMD, samples against data": 3.0, "MMD, data against data": 4.0,
         "lonely, samples": 9.0}
    )  # fmt: skip
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td></tr>', table)
    assert rows == [
        ("n", "5", ""),
        ("F (x)", "2", "1"),
        ("share", "0.5", "0.75"),
        ("MMD", "3", "4"),
        ("lonely, samples", "9", ""),
    ]


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(1.0, "cannot be told"), (1.9, "close"), (4.9, "visibly different"), (30.0, "far from real")],
)
def test_the_verdict_follows_the_ratio(ratio, words):
    [sentence] = verdicts.verdict({RATIO: ratio})
    assert words in sentence
    assert f"{ratio:.2f} times" in sentence


def test_the_verdict_of_points_and_labels():
    found = " ".join(
        verdicts.verdict(
            {verdicts.KL: 0.0021, "share in the support, samples": 0.5,
             "share in the support, data": 0.99, verdicts.CALLED: 0.96,
             "bits per dimension, held out": 4.4, "bits per dimension, standard error": 0.06}
        )
    )  # fmt: skip
    for words in ("0.0021 nats", "50.0% of the samples", "99.0% of the data", "96%", "4.40 ± 0.06"):
        assert words in found
    assert verdicts.verdict({}) == []


SOUND = {
    RATIO: 1.1, MEMORY: 1.0, "n": 5000.0, "precision (f), samples": 0.8, "precision (f), real": 0.8,
    "recall (f), samples": 0.7, "recall (f), real": 0.8, "roll-backs": 0.0,
    "log Z by forward annealing": 1.0, "log Z by reverse annealing": 1.2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"n": 500.0}, "Only 500 samples"),
        ({MEMORY: 0.5}, "may copy"),
        ({"precision (f), samples": 0.3}, "look like no real image"),
        ({"recall (f), samples": 0.3}, "kinds of real images are missing"),
        ({"log Z by reverse annealing": 3.0}, "2 nats apart"),
        ({"roll-backs": 2.0}, "went back 2 times"),
    ],
)
def test_warnings_are_given_for_what_is_doubtful_and_for_nothing_else(change, words):
    found = verdicts.warnings(SOUND | change, [])
    assert [words in sentence for sentence in found] == ([] if words is None else [True])


def test_a_rising_held_out_loss_is_a_warning():
    rows = [{"held_out_loss": str(loss)} for loss in (3.0, 1.0, 2.0)]
    [found] = verdicts.warnings({}, rows)
    assert "rose by 100%" in found
    assert verdicts.warnings({}, rows[:2]) == []


def specs(text):
    return [json.loads(s) for s in re.findall(f"{charts.SPEC}(.*?)</script>", text)]


def test_lines_hold_all_finite_points_and_end_with_the_last():
    steps = np.arange(1, 2001)
    [spec] = specs(
        charts.lines(
            {"a</script>": (steps, 1.0 / steps), "b": ([1.0], [np.nan])}, x="step", y="v.1", alt="x"
        )
    )  # fmt: skip
    values = spec["data"]["values"]
    assert {v["line"] for v in values} == {"a</script>"}
    assert values[-1] == {"step": 2000.0, "v.1": 1 / 2000, "line": "a</script>"}
    assert len(values) == charts.MOST_POINTS
    assert spec["encoding"]["y"]["scale"]["type"] == "log"
    assert spec["encoding"]["y"]["field"] == "v\\.1"


def test_an_axis_is_linear_for_negative_values_and_for_near_ones():
    for values in ([-1.0, 100.0], [1.0, 2.0]):
        [spec] = specs(charts.lines({"a": ([1.0, 2.0], values)}, x="step", y="loss", alt="x"))
        assert spec["encoding"]["y"]["scale"]["type"] == "linear"
    assert "nothing to show" in charts.lines({"a": ([], [])}, x="step", y="loss", alt="x")


def test_histograms_are_densities_on_common_bins():
    rng = np.random.default_rng(0)
    draws = {"data": rng.normal(size=5000), "samples": np.append(rng.normal(2, 1, 500), np.inf)}
    [spec] = specs(charts.histograms(draws, x="energy", caption="c"))
    for name in draws:
        mine = [v for v in spec["data"]["values"] if v["line"] == name]
        edges, density = (np.array([v[key] for v in mine]) for key in ("energy", "density"))
        assert mine[0]["density"] >= 0
        finite = draws[name][np.isfinite(draws[name])]
        inside = np.mean((finite >= edges[0]) & (finite <= edges[-1]))
        assert np.sum(density[:-1] * np.diff(edges)) == pytest.approx(inside, abs=1e-6)
        assert inside > 0.97


def test_a_constant_has_a_histogram():
    [spec] = specs(charts.histograms({"a": np.ones(9)}, x="energy", caption="c"))
    assert spec["data"]["values"]


def test_the_command_repeats_the_run():
    flags = {
        p.name: p.default
        for p in list(__import__("inspect").signature(edm.main).parameters.values())[1:]
    }
    assert command_line(edm.main, flags, "", Machine()) == "ebm-jax edm"
    changed = flags | {
        "data": "my photos", "conditional": True, "channels": (8, 16), "guidance_interval": (0.1, 2)
    }  # fmt: skip
    assert command_line(edm.main, changed, "runs/x", Machine(accumulate=2)) == (
        "ebm-jax edm --data 'my photos' --channels 8 16 --conditional --guidance-interval 0.1 2 "
        "--accumulate 2 --out runs/x"
    )


def test_the_facts_name_versions_devices_and_a_commit_where_there_is_one(monkeypatch, tmp_path):
    found = provenance.facts("ebm-jax edm")
    assert found["command"] == "ebm-jax edm"
    assert "jax 0." in found["versions"]
    assert "cpu" in found["devices"]

    def git(*words):
        return f"abc123\n{tmp_path}\n" if words[0] == "rev-parse" else " M a.py\n"

    monkeypatch.setattr(provenance, "git", git)
    assert provenance.commit() == ""  # the checkout is another project's
    top = provenance.Path(provenance.__file__).parents[2]
    monkeypatch.setattr(
        provenance, "git", lambda *w: f"abc123\n{top}\n" if w[0] == "rev-parse" else " M a.py\n"
    )
    assert provenance.commit() == ", commit abc123 with changes"

    def missing(*words):
        raise OSError("no git")

    monkeypatch.setattr(provenance, "git", missing)
    assert provenance.commit() == ""
