"""The experiments on known laws, run small in this process: their numbers against the truth."""

import json

import jax
import numpy as np
import pytest

from ebm_jax.runs.command import start
from experiments import mixing, mode_weights, nce_logz, solvers


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int32
        yield


def results(run):
    return json.loads((run.folder / "results.json").read_text())


def test_mode_weights_draws_the_weight_exactly_and_langevin_halves_it(tmp_path):
    """Exact draws have the weight .8; chains that cannot cross have the half of their starts."""
    run = start(
        mode_weights.main, str(tmp_path / "run"), num_chains=1000, num_steps=100, num_levels=20
    )
    found = results(run)
    error = 5 * np.sqrt(0.8 * 0.2 / 1000)
    assert found["weight of the left mode, exact draws"] == pytest.approx(0.8, abs=error)
    for name in ("ula", "mala"):
        half = 5 * np.sqrt(0.25 / 1000)
        assert found[f"weight of the left mode, {name}"] == pytest.approx(0.5, abs=half)
    assert "Weights of separated modes" in (run.folder / "report.html").read_text()


@pytest.mark.slow
def test_solvers_of_higher_order_err_less_at_fifty_evaluations(tmp_path):
    found = results(
        start(solvers.main, str(tmp_path / "run"), evaluations=(10, 50), num_samples=20_000)
    )
    assert found["DPM-Solver++(2M), 50 evaluations"] < 0.5 * found["Euler, 50 evaluations"]
    assert found["exact draws"] < 0.03


@pytest.mark.slow
def test_noise_contrastive_fits_err_as_the_theory_says(tmp_path):
    """More noise, less error of log Z, down by about 1/sqrt(nu) where the energy is known."""
    run = start(
        nce_logz.main, str(tmp_path / "run"), nus=(1, 16), num_fits=24, num_data=400, num_steps=20
    )
    found = results(run)
    ratio = (
        found["error, energy known, Gaussian, nu 16"] / found["error, energy known, Gaussian, nu 1"]
    )
    assert 0.12 < ratio < 0.6


@pytest.mark.slow
def test_mixing_of_a_random_walk_slows_down_more_than_that_of_mala(tmp_path):
    run = start(
        mixing.main, str(tmp_path / "run"), dimensions=(8, 64), num_chains=256,
        num_long_chains=4, memories=2, warm_up_steps=200,
    )  # fmt: skip
    found = results(run)
    walk, langevin = (
        found[f"exponent of the cost of a nat, {name}"] for name in ("random walk", "mala")
    )
    assert 0.75 < walk < 1.25
    assert langevin < walk - 0.3


def test_a_finished_run_is_done_and_computes_nothing(tmp_path, monkeypatch, capsys):
    flags = {"num_chains": 16, "num_steps": 4, "num_levels": 2}
    start(mode_weights.main, str(tmp_path / "run"), **flags)
    monkeypatch.setattr(mode_weights, "spread", lambda *_: pytest.fail("it began"))
    start(mode_weights.main, str(tmp_path / "run"), **flags)
    assert "is done" in capsys.readouterr().out
