"""`compare`: what each run has, and nothing else, in one table and on one page."""

import base64
import json
import re

import numpy as np
import pytest

from ebm_jax.runs import charts
from ebm_jax.runs.commands import compare
from ebm_jax.runs.endings import RunError


def run(folder, results, samples=None, losses=(), **config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if results:
        (folder / "results.json").write_text(json.dumps(results))
    lines = [f"{10 * (i + 1)},{loss}" for i, loss in enumerate(losses)]
    (folder / "metrics.csv").write_text("\n".join(["step,loss", *lines, ""]))
    if samples is not None:
        np.savez(folder / "samples.npz", samples=samples)
    return str(folder)


@pytest.fixture
def three(tmp_path):
    """One of images, one of points, and one that has not finished."""
    return (
        run(
            tmp_path / "edm", {"FID": 1.2345678, "n": 50}, np.zeros((5, 8, 8, 1), np.uint8),
            (3.0, 2.0), experiment="edm", seed=0, data={"count": 9, "checksum": "a" * 64},
        ),
        run(
            tmp_path / "points", {"log Z": None, "n": 60}, np.zeros((5, 3), np.float32),
            (-1.0,), experiment="energy", seed=0, width=7, data={"count": 9, "checksum": "b" * 64},
        ),
        run(
            tmp_path / "new", {}, experiment="edm", seed=0,
            data={"count": 9, "checksum": "a" * 64},
        ),
    )  # fmt: skip


def cells(page, heading):
    """The table below a heading, row by row."""
    section = page.split(f">{heading}</h2>")[1].split("</section>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", section)
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]


def test_results_and_differing_flags_stand_side_by_side(three, tmp_path, capsys):
    out = tmp_path / "page.html"
    compare.main(three, out=str(out))
    page = out.read_text()
    assert cells(page, "Results") == [
        ["", "edm", "points", "new"],
        ["step of training", "20", "10", "-"],
        ["finished", "yes", "yes", "no"],
        ["FID", "1.235", "-", "-"],
        ["n", "50", "60", "-"],
        ["log Z", "-", "nan", "-"],
    ]
    assert cells(page, "Flags that differ") == [
        ["", "edm", "points", "new"],
        ["experiment", "edm", "energy", "edm"],
        ["data checksum", "a" * 12, "b" * 12, "a" * 12],
        ["width", "-", "7", "-"],
    ]
    said = capsys.readouterr().out
    for row in ("FID", "1.235", "data checksum", "page.html"):
        assert row in said


def test_the_page_is_self_contained_with_curves_and_the_samples_that_there_are(three, tmp_path):
    compare.main(three, out=str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 2  # images, points
    assert all(base64.b64decode(p).startswith(b"\x89PNG") for p in pictures)
    assert "http" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert page.count("No samples.") == 1


def test_curves_are_the_losses_of_each_run(three, tmp_path):
    compare.main(three, out=str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    [spec] = re.findall(f"{charts.SPEC}(.*?)</script>", page)
    found = [(v["line"], v["step"], v["loss"]) for v in json.loads(spec)["data"]["values"]]
    assert found == [("edm", 10, 3.0), ("edm", 20, 2.0), ("points", 10, -1.0)]


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    paths = tuple(run(tmp_path / name / "edm", {"n": 1}) for name in "ab")
    compare.main(paths, out=str(tmp_path / "page.html"))
    assert cells((tmp_path / "page.html").read_text(), "Results")[0] == ["", *paths]


def test_damaged_samples_are_passed_over_and_what_is_no_run_is_refused(three, tmp_path):
    (tmp_path / "edm" / "samples.npz").write_bytes(b"PK not")
    compare.main(three[:2], out=str(tmp_path / "page.html"))
    assert "No samples." in (tmp_path / "page.html").read_text()
    with pytest.raises(RunError, match="got 1 run: give the folders of two or more"):
        compare.main(three[:1])
    with pytest.raises(RunError, match="nowhere holds no run"):
        compare.main((three[0], str(tmp_path / "nowhere")))
