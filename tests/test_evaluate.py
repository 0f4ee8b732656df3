"""`experiments.evaluate`: what it writes against the metrics taken by hand."""

import hashlib
import json

import numpy as np
import pytest
import safetensors.numpy

from benchmarks.metrics_worker import inception_weights
from ebm_jax import metrics
from ebm_jax.data import DataError, to_unit
from ebm_jax.runs.command import start
from ebm_jax.runs.endings import RunError
from experiments import evaluate

RNG = np.random.default_rng(0)


def save(path, n, mean, side=4):
    """n images of noise about a gray value, and where they are."""
    images = np.clip(RNG.normal(mean, 30, (n, side, side, 1)), 0, 255).round().astype(np.uint8)
    np.savez(path, images=images)
    return images


def run(tmp_path, capsys, **flags):
    out = judge(tmp_path, **{name: str(value) for name, value in flags.items()})
    return json.loads((out / "evaluation.json").read_text()), capsys.readouterr().out


def judge(tmp_path, *, features="pixels", **flags):
    return start(evaluate.main, str(tmp_path / "judged"), features=features, **flags).folder


@pytest.fixture
def files(tmp_path):
    samples, real = tmp_path / "samples.npz", tmp_path / "real.npz"
    return {"samples": samples, "reference": real}, save(samples, 60, 150), save(real, 100, 120)


def rows(pixels):
    return to_unit(pixels).reshape(len(pixels), -1)


def test_the_columns_are_the_samples_and_the_floor(files, tmp_path, capsys):
    flags, samples, real = files
    record, printed = run(tmp_path, capsys, **flags)
    whole, part, floor = record["figures"].values()
    assert list(record["figures"]) == [
        "samples, n = 60 against 100",
        "samples, n = 50 against 50",
        "real, n = 50 against 50",
    ]
    assert whole["Frechet distance"] == pytest.approx(
        metrics.frechet_distance(rows(samples), rows(real))
    )
    # 16 pixels, 30 gray values apart on average: the distance of the means
    shift = 16 * (2 * 30 / 255) ** 2
    assert whole["Frechet distance"] > shift > floor["Frechet distance"]
    assert part["Frechet distance"] > floor["Frechet distance"]
    assert record["samples"]["shape"] == [60, 4, 4, 1]
    assert record["protocol"]["features"] == "pixels"
    assert "samples, n = 60 against 100" in printed


def test_the_halves_of_the_reference_are_disjoint_and_the_seed_chooses_them(files):
    _, samples, real = files
    x, y = (evaluate.pixel_features(pixels) for pixels in (samples, real))
    floors = [list(evaluate.columns(x, y, seed).values())[2] for seed in (0, 0, 1)]
    assert floors[0] == floors[1] != floors[2]
    double = evaluate.pixel_features(np.repeat(real, 2, 0))
    copies = list(evaluate.columns(x, double, 0).values())[2]
    assert copies["precision"] > floors[0]["precision"]  # every copy has its twin over there


def test_saved_statistics_stand_for_the_reference(files, tmp_path, capsys):
    flags, *_ = files
    saved = tmp_path / "statistics.npz"
    record, _ = run(tmp_path, capsys, **flags, save_statistics=saved)
    again, _ = run(tmp_path, capsys, samples=flags["samples"], reference=saved)
    [(name, column)] = again["figures"].items()
    assert name == "samples, n = 60 against 100"
    truth = record["figures"][name]["Frechet distance"]
    assert column["Frechet distance"] == pytest.approx(truth, rel=1e-9)


def test_statistics_of_another_protocol_are_refused(files, tmp_path, capsys):
    flags, _, real = files
    saved = tmp_path / "statistics.npz"
    metrics.save_statistics(saved, metrics.moments(rows(real)), {"features": "inception"})
    with pytest.raises(RunError, match="two protocols"):
        run(tmp_path, capsys, samples=flags["samples"], reference=saved)


def test_copies_of_the_reference_are_found_out(files, tmp_path, capsys):
    flags, _, real = files
    np.savez(flags["samples"], images=real[:40])
    unseen = tmp_path / "unseen.npz"
    save(unseen, 30, 120)
    record, _ = run(tmp_path, capsys, **flags, held_out=unseen)
    first = next(iter(record["figures"].values()))
    assert first["pixel distance to the reference, samples"] == 0
    assert first["pixel distance to the reference, held out"] > 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"samples": "nowhere"}, "does not exist"),
        ({"samples": ""}, "--samples is missing"),
        ({"reference": ""}, "--reference is missing"),
        ({"reference": "digits"}, "one size"),
        ({"held_out": "digits"}, "one size"),
        ({"save_statistics": "statistics.json"}, "end it in .npz"),
        ({"batch_size": 0}, "--batch-size got 0"),
    ],
)
def test_what_cannot_be_judged_gets_one_sentence(change, match, files, tmp_path):
    flags = {name: str(path) for name, path in files[0].items()} | change
    with pytest.raises((RunError, ValueError), match=match):
        judge(tmp_path, **flags)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\3\4" + bytes(99)])
def test_a_damaged_reference_gets_one_sentence(content, files, tmp_path):
    flags, *_ = files
    flags["reference"].write_bytes(content)
    flags = {name: str(path) for name, path in flags.items()}
    with pytest.raises((RunError, DataError), match="is damaged or no archive"):
        judge(tmp_path, **flags)


def test_one_image_and_constant_images_are_answered(files, tmp_path, capsys):
    flags, _, real = files
    np.savez(flags["samples"], images=np.full_like(real, 7))
    record, _ = run(tmp_path, capsys, **flags)
    values = np.array([v for column in record["figures"].values() for v in column.values()])
    assert np.isfinite(values).all()
    np.savez(flags["samples"], images=real[:1])
    with pytest.raises(RunError, match="at least 2 rows"):
        run(tmp_path, capsys, **flags)


def test_without_weights_the_sentence_says_what_to_fetch(files, tmp_path, monkeypatch):
    monkeypatch.setenv("EBM_JAX_CACHE", str(tmp_path))
    monkeypatch.delenv("EBM_JAX_INCEPTION", raising=False)
    flags = {name: str(path) for name, path in files[0].items()}
    with pytest.raises(RunError, match=r"fetch pt_inception-2015-12-05-6726825d.pth"):
        judge(tmp_path, features="inception", **flags)


def test_inception_is_asked_in_batches_and_named_with_its_checksum(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EBM_JAX_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(inception_weights(), weights)
    protocol, embed = evaluate.network("inception", str(weights), 4)
    assert protocol["checksum"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert protocol["weights"] == "other weights"
    pixels = RNG.integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
    outputs = embed(pixels)
    expected = metrics.inception_outputs(metrics.load_inception(weights), pixels, batch_size=4)
    np.testing.assert_array_equal(outputs.features, expected.features)
    np.testing.assert_array_equal(outputs.logits, expected.logits_unbiased)
    assert "features 6/6" in capsys.readouterr().out
    for file in tmp_path.rglob("*.safetensors"):  # of 95 MB
        file.unlink()
