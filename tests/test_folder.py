"""A run's folder: one process at a time, and files that are used as far as they are sound."""

import importlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ebm_jax.runs import folder as _folder
from ebm_jax.runs.command import start
from ebm_jax.runs.endings import RunError
from ebm_jax.runs.run import OPEN, Run
from tests import small_run
from tests.begun import begun

ROOT = Path(__file__).parents[1]
CLAIM = """
import sys, time
from ebm_jax.runs.endings import RunError
from tests.begun import begun
try:
    begun("x", sys.argv[1], {"seed": 0})
except RunError as error:
    print(error, flush=True)
else:
    print("claimed", flush=True)
    sys.stdin.read()
"""


# ---- one process at a time


def claim(folder):
    """A process that claims the folder, says what came of it, and holds it until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(folder)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    return process, process.stdout.readline().strip()


def test_a_second_process_is_refused_by_the_number_of_the_first_and_writes_nothing(tmp_path):
    first, said = claim(tmp_path / "run")
    assert said == "claimed"
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(RunError, match=rf"run is in use by process {first.pid} on .*--out\.$"):
        begun("x", str(tmp_path / "run"), {"seed": 0})
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    first.kill()  # -9: nothing is tidied up
    first.communicate()
    begun("x", str(tmp_path / "run"), {"seed": 0}).give_up()
    second, said = claim(tmp_path / "run")
    assert said == "claimed"
    second.communicate("")


def test_a_finished_run_holds_no_lock(tmp_path):
    run = begun("x", str(tmp_path / "run"), {"seed": 0})
    run.finish({"a": 1.0})
    process, said = claim(tmp_path / "run")
    process.communicate("")
    assert "is done" in said  # by the results, where a lock would be refused first


def test_a_folder_that_nothing_came_of_is_removed_and_no_other(tmp_path):
    run = begun("x", str(tmp_path / "run"), {"seed": 0})
    run.give_up()
    assert not (tmp_path / "run").exists()
    run = begun("x", str(tmp_path / "run"), {"seed": 0})
    run.add_row({"step": 1})
    run.give_up()
    again = begun("x", str(tmp_path / "run"), {"seed": 0})
    (tmp_path / "run" / "metrics.csv").unlink()
    again.give_up()  # an earlier call made it
    assert (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("left", [(), ("config.json.tmp",), ("config.json.tmp", _folder.LOCK)])
def test_what_a_kill_before_the_configuration_leaves_is_no_obstacle(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text('{"experi')
    begun("x", str(tmp_path), {"seed": 0})
    assert json.loads((tmp_path / "config.json").read_text()) == {"experiment": "x", "seed": 0}


# ---- damage


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def last_line_cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def lines(change):
    """A damage of the list of a file's lines, the header among them."""

    def damage(path):
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return damage


ANY = {
    "emptied": lambda path: path.write_text(""),
    "cut": cut,
    "NULs": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "NULs at the end": lambda path: path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\n"),
    "no text": lambda path: path.write_bytes(bytes(range(256))),
    "UTF-16": lambda path: path.write_text(path.read_text(), encoding="utf-16"),
    "another program's": lambda path: path.write_text("<html></html>\n"),
}
OBJECTS = ANY | {
    "a list": lambda path: path.write_text("[]"),
    "a number": lambda path: path.write_text("3"),
    "null": lambda path: path.write_text("null"),
    "nested without end": lambda path: path.write_text("[" * 100_000),
    "no file": lambda path: [path.unlink(), path.mkdir()],
}
RESULTS = OBJECTS | {
    "figures as text": lambda path: path.write_text('{"steps": "many"}'),
    "figures as lists": lambda path: path.write_text('{"steps": [1, 2]}'),
    "lost": lambda path: path.unlink(),
}
ROWS = ANY | {
    "lost": lambda path: path.unlink(),
    "its last line cut": last_line_cut,
    "its last line without an end": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "no header": lines(lambda rows: rows[1:]),
    "a header alone": lines(lambda rows: rows[:1]),
    "half a header": lambda path: path.write_text("step,lo"),
    "a row twice": lines(lambda rows: [*rows, rows[-1]]),
    "all twice": lines(lambda rows: rows * 2),
    "a row lost": lines(lambda rows: [*rows[:2], *rows[3:]]),
    "in another order": lines(lambda rows: [rows[0], *rows[:0:-1]]),
    "a cell lost": lines(lambda rows: [*rows[:2], rows[2].partition(",")[2], *rows[3:]]),
    "a word for a number": lines(lambda rows: [*rows[:2], "5,a,b,c,d\n", *rows[3:]]),
    "an empty line": lines(lambda rows: [*rows[:2], "\n", *rows[2:]]),
    "a quote": lines(lambda rows: [*rows[:2], '"' + rows[2], *rows[3:]]),
    "lines as of Windows": lines(lambda rows: [row.strip() + "\r\n" for row in rows]),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, and what its files hold."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    return {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}


def train(folder):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int32
        start(small_run.main, str(folder), num_steps=20)


def copied(whole, folder):
    for name, path in whole.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("damage", OBJECTS.values(), ids=OBJECTS)
def test_a_damaged_configuration_is_refused_in_one_sentence(whole, tmp_path, damage):
    folder = copied(whole, tmp_path / "run")
    damage(folder / "config.json")
    with pytest.raises(RunError, match=r"config.json is damaged[^\n]*give another folder by --out"):
        train(folder)


@pytest.mark.parametrize("damage", RESULTS.values(), ids=RESULTS)
def test_figures_that_cannot_be_read_are_computed_again(whole, tmp_path, damage, capsys):
    folder = copied(whole, tmp_path / "run")
    damage(folder / "results.json")
    if (folder / "results.json").is_dir():
        with pytest.raises(OSError, match=r"results\.json"):  # which `command` makes a sentence
            train(folder)
        return
    train(folder)
    assert json.loads((folder / "results.json").read_text()) == {"steps": 20.0}
    said = capsys.readouterr().out
    assert "resumed from step 20" in said  # nothing was trained again
    train(folder)
    assert "is done" in capsys.readouterr().out
    for name, values in np.load(whole[Path("samples.npz")]).items():
        np.testing.assert_array_equal(np.load(folder / "samples.npz")[name], values)


@pytest.mark.parametrize("damage", ROWS.values(), ids=ROWS)
def test_sound_rows_are_kept_and_a_run_goes_on_with_them(whole, tmp_path, damage):
    """A run that was stopped at step 20 of 40 in effect: its checkpoint is there, not its end."""
    folder = copied(whole, tmp_path / "run")
    (folder / "results.json").unlink()
    right = {row["step"]: row for row in _folder.read_rows(folder / "metrics.csv")}
    assert [*right] == ["5", "10", "15", "20"]
    damage(folder / "metrics.csv")
    train(folder)
    rows = _folder.read_rows(folder / "metrics.csv")
    assert all(row == right[row["step"]] for row in rows)  # none is invented
    content = (folder / "metrics.csv").read_bytes() if rows else b""
    assert content.count(b"\n") == len(rows) + bool(rows)  # and nothing else is in it
    run = begun("small_run", str(folder), config_of(folder))
    run.add_row(right["20"] | {"step": 25})
    assert [row["step"] for row in run.rows()] == [*(row["step"] for row in rows), "25"]


def config_of(folder):
    config = json.loads((folder / "config.json").read_text())
    return {name: value for name, value in config.items() if name != "experiment"}


def test_how_many_rows_each_damage_leaves(whole, tmp_path):
    left = {}
    for name, damage in ROWS.items():
        path = tmp_path / "metrics.csv"
        path.write_bytes(whole[Path("metrics.csv")].read_bytes())
        damage(path)
        left[name] = len(_folder.read_rows(path))
    few = {"cut": left["cut"], "NULs at the end": 3, "its last line cut": 3}
    few |= {"its last line without an end": 3, "a row lost": 3, "a cell lost": 3}
    few |= {"a word for a number": 3, "in another order": 1, "a quote": left["a quote"]}
    all_four = ("a row twice", "all twice", "an empty line", "lines as of Windows")
    assert left == dict.fromkeys(ROWS, 0) | few | dict.fromkeys(all_four, 4)
    assert 1 <= left["cut"] <= 2
    assert left["a quote"] >= 1


def test_a_disk_that_is_full_in_the_middle_of_a_row_leaves_the_rows_before(tmp_path):
    """The part of a row that still found room is dropped, and the row is written again."""
    path = tmp_path / "metrics.csv"
    for step in (1, 2):
        _folder.add_row(path, {"step": step, "loss": 0.125})
    for cut_off in range(1, len("3,0.125\r\n")):
        content = path.read_bytes()
        path.write_bytes(content + b"3,0.125\r\n"[:cut_off])
        rows = _folder.read_rows(path)
        assert [row["step"] for row in rows] == ["1", "2"]
        _folder.write_rows(path, rows)
        assert path.read_bytes() == content


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_beside(tmp_path):
    path = tmp_path / "results.json"
    _folder.write_whole(path, "old")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    limit += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "from pathlib import Path; from ebm_jax.runs import folder as _folder\n"
    limit += f"path = Path({str(path)!r})\n"
    limit += "try: _folder.write_whole(path, 'x' * 10_000)\nexcept OSError as e: print(e.errno)"
    done = subprocess.run([sys.executable, "-c", limit], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "27", done.stderr  # EFBIG
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]


def test_what_is_lost_of_a_finished_run_is_made_again(whole, tmp_path, capsys):
    folder = copied(whole, tmp_path / "run")
    (folder / "samples.npz").unlink()
    train(folder)
    assert "samples.npz is missing: it is computed again" in capsys.readouterr().out
    assert (folder / "samples.npz").exists()


def test_a_run_whose_checkpoints_are_gone_is_refused(whole, tmp_path):
    folder = copied(whole, tmp_path / "run")
    (folder / "results.json").unlink()
    for path in sorted(folder.glob("checkpoints/**/*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    before = (folder / "metrics.csv").read_bytes()
    with pytest.raises(RunError, match=r"was saved, but there is no checkpoint in .* step 0"):
        train(folder)
    assert (folder / "metrics.csv").read_bytes() == before


def test_a_run_that_was_stopped_before_its_first_save_starts_again_and_says_so(
    whole, tmp_path, capsys
):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.json", "metrics.csv"):
        (folder / name).write_bytes(whole[Path(name)].read_bytes())
    train(folder)
    assert "stopped at step 20, before the first save" in capsys.readouterr().out
    rows = _folder.read_rows(folder / "metrics.csv")
    assert [row["step"] for row in rows] == ["5", "10", "15", "20"]


# ---- its configuration


def test_differences_are_named_within_objects_too():
    there = {"a": 1, "b": {"count": 3, "checksum": "0123456789abcdef", "same": 0}, "gone": "x"}
    now = {"a": 2, "b": {"count": 4, "checksum": "f" * 16, "same": 0}, "new": [1]}
    assert _folder.differences(there, now) == [
        "a 1 there, 2 now",
        "b checksum 0123456789ab there, ffffffffffff now",
        "b count 3 there, 4 now",
        "gone x there, None now",
        "new None there, [1] now",
    ]
    assert _folder.differences(now, now) == []


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("experiment", ["edm", "ncsn", "inpaint"])
def test_images_that_were_added_replaced_or_resized_are_refused(tmp_path, monkeypatch, experiment):
    """The path of a folder says nothing of the images in it, some of which were held out."""
    module = importlib.import_module(f"experiments.{experiment}")
    seen = []

    def stop(run, *_, **__):
        seen.append(run.config["training_images"]["count"])
        raise Interrupted

    for name in {"train", "train_diffusion"} & {*vars(module)}:
        monkeypatch.setattr(module, name, stop)
    images, out = tmp_path / "images", str(tmp_path / "run")
    images.mkdir()

    def write(numbers, side, shade=0):
        for i in numbers:
            pixels = np.full((side, side), (7 * i + shade) % 256, np.uint8)
            Image.fromarray(pixels).save(images / f"{i:03d}.png")

    write(range(40), 8)
    for _ in range(2):  # unchanged: the same command goes on
        with pytest.raises(Interrupted):
            start(module.main, out, data=str(images))
    first = seen[0]
    changes = {
        "added": (lambda: write(range(40, 80), 8), f"training_images count {first} there"),
        "removed": (lambda: [f.unlink() for f in sorted(images.iterdir())[40:]], ""),
        "one replaced": (lambda: write([3], 8, 50), "checksum"),
        "resized": (lambda: write(range(40), 12), "shape [8, 8, 1] there, [12, 12, 1] now"),
    }
    for change, word in changes.values():
        change()
        if not word:  # as it was at first
            with pytest.raises(Interrupted):
                start(module.main, out, data=str(images))
            continue
        with pytest.raises(RunError, match=re.escape(word)):
            start(module.main, out, data=str(images))
    assert set(seen) == {first}


# ---- figures that are not finite


def test_results_that_are_not_finite_are_valid_json_and_come_back(tmp_path, capsys):
    def strict(name):
        raise ValueError(name)

    run = begun("x", str(tmp_path / "run"), {"seed": 0})
    run.finish({"a": math.nan, "b": math.inf, "c": 0.5})
    text = (tmp_path / "run" / "results.json").read_text()
    assert json.loads(text, parse_constant=strict) == {"a": None, "b": None, "c": 0.5}
    assert not Run("x", str(tmp_path / "run"), {"seed": 0}).begin(products=())  # it is done
    assert capsys.readouterr().out.count("nan") == 2 + 1  # printed as they are, then as null


def test_numbers_that_are_not_finite_are_null_wherever_they_stand():
    found = _folder.as_json({"a": [1.0, math.nan], "b": {"c": (math.inf,)}, "d": "nan"})
    assert json.loads(found) == {"a": [1.0, None], "b": {"c": [None]}, "d": "nan"}


@pytest.fixture(autouse=True)
def _no_run_stays_open():
    yield
    OPEN.clear()
    for folder in [path.parent for path in _folder.HELD]:
        _folder.release(folder)
