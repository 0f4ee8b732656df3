"""`ebm-jax prepare`: a folder as one .npz that reads as the folder does, and published sets."""

import numpy as np
import pytest
from PIL import Image

from ebm_jax.data import DataError, Images, load, load_split
from ebm_jax.runs.commands import prepare
from ebm_jax.runs.endings import RunError

RNG = np.random.default_rng(5)


def photos(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = *RNG.integers(9, 30, 2), 3
        Image.fromarray(RNG.integers(0, 256, size, np.uint8)).save(path)


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "b.jpg"),
        ("cat/a.png", "dog/b.png", "dog/c.png"),
        ("train/10/a.png", "train/9/b.png", "test/9/c.png", "test/zebra/d.png"),
    ],
)
def test_the_file_reads_as_the_folder_does(names, tmp_path, capsys):
    photos(tmp_path / "photos", *names)
    out = tmp_path / "made" / "photos8.npz"
    prepare.main(str(tmp_path / "photos"), resize=8, out=str(out))
    expected, found = load_split(tmp_path / "photos", resize=8), load_split(out)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.names == other.names
        assert (one.labels is None) == (other.labels is None)
        if one.labels is not None:
            np.testing.assert_array_equal(one.labels, other.labels)
    said = capsys.readouterr().out
    assert "images" in said
    assert "of 8x8x3" in said
    assert f"--data {out}" in said
    assert sorted(p.name for p in out.parent.iterdir()) == ["photos8.npz"]


def test_nothing_is_overwritten_and_the_default_lies_beside_the_folder(tmp_path, monkeypatch):
    photos(tmp_path / "my.photos", "a.png", "b.png")
    monkeypatch.chdir(tmp_path)
    prepare.main("my.photos/", resize=4, color="gray")
    before = load("my.photos.npz").pixels
    assert before.shape == (2, 4, 4, 1)
    with pytest.raises(RunError, match=r"my.photos.npz exists: remove it"):
        prepare.main("my.photos", resize=8)
    np.testing.assert_array_equal(load("my.photos.npz").pixels, before)


def test_a_failing_disk_leaves_no_half_of_a_file(tmp_path, monkeypatch):
    photos(tmp_path / "photos", "a.png", "b.png")

    def full(stream, **arrays):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="disk full"):
        prepare.main(str(tmp_path / "photos"), resize=4)
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"source": "mnist", "resize": 8}, "--out, --resize and --color are for folders"),
        ({"source": "photos", "originals": "x"}, "--originals is for a published set"),
        ({"source": "photos", "out": "photos.zip"}, "photos.zip: give a file that ends in .npz"),
        ({"source": "mist"}, "'mist' is no folder"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos", "a.png", "b.png")
    with pytest.raises((RunError, DataError), match=sentence):
        prepare.main(**flags)


def test_a_published_set_is_named_with_what_it_holds_and_where(tmp_path, monkeypatch, capsys):
    part = Images(np.zeros((5, 8, 8, 1), np.uint8), None)
    monkeypatch.setattr(prepare, "prepare", lambda name, originals: tmp_path / name)
    monkeypatch.setattr(prepare, "load_split", lambda name: (part, part))
    prepare.main("mnist", originals="somewhere")
    place = tmp_path / "mnist"
    assert f"5 images and 5 test images of 8x8x1, in {place}" in capsys.readouterr().out
