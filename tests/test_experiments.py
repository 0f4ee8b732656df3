"""Experiments at their door: flags, folders, and failures as sentences, never tracebacks."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
TINY = (
    "--data", "moons", "--num-steps", "20", "--num-chains", "64", "--chain-steps", "10",
    "--anneal-levels", "10",
)  # fmt: skip


def experiment(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"experiments.{name}", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


EXPERIMENTS = sorted(
    path.stem for path in (ROOT / "experiments").glob("*.py") if not path.stem.startswith("_")
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_lists_every_flag_of_main(name):
    import importlib
    import inspect

    answer = experiment(name, "--help")
    assert answer.returncode == 0
    _, *flags = inspect.signature(importlib.import_module(f"experiments.{name}").main).parameters
    for flag in (*flags, "out"):
        assert f"--{flag.replace('_', '-')}" in answer.stdout


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--data", "no/such/place"), "does not exist"),
        (("--data", "README.md"), "idx"),
        (("--num-steps", "0"), "--num-steps got 0"),
        (("--channels", "2"), "got 2 channels"),
        (("--multipliers", "1", "1", "1", "1", "1"), "divisible by 16"),
        (("--out", "tests"), "holds no run"),
        (("--out", "README.md"), "cannot write"),
        (("--no-such-flag", "1"), "--no-such-flag"),
    ],
)
def test_a_wrong_flag_or_path_is_one_sentence_and_a_non_zero_exit(flags, word, tmp_path):
    out = () if "--out" in flags else ("--out", str(tmp_path / "run"))
    answer = experiment("ncsn", *flags, *out)
    assert answer.returncode != 0
    assert word in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("name", "flags", "word"),
    [
        ("mode_weights", ("--weight", "1.5"), "--weight got 1.5"),
        ("mixing", ("--dimensions", "2", "0"), "--dimensions got (2, 0)"),
        ("compare_losses", ("--only", "magic"), "--only got ['magic']"),
        ("nce_logz", ("--nus", "0"), "--nus got (0,)"),
        ("energy_cd", ("--data", "no/such/place"), "does not exist"),
        ("energy", ("--data", "no/such/place"), "does not exist"),
        ("energy", ("--data", "README.md"), "ends in '.md'"),
        ("energy", ("--loss", "magic"), "magic"),
        ("edm", ("--patch", "3"), "divisible by 6"),
        ("ddpm", ("--sample-steps", "0"), "--sample-steps got 0"),
        ("score_sde", ("--process", "magic"), "magic"),
        ("schedule_swap", ("--num-steps", "-1"), "--num-steps got -1"),
        ("likelihood_bounds", ("--bound-levels", "1"), "--bound-levels got (1,)"),
        ("inpaint", ("--data", "no/such/place"), "does not exist"),
        ("solvers", ("--process", "magic"), "--process got magic"),
        ("solvers", ("--weight", "1.5"), "--weight got 1.5"),
        ("solvers", ("--num-samples", "10"), "--num-samples got 10"),
        ("recipe", ("--name", "magic"), "give one of ddpm/cifar10"),
        ("recipe", (), "--data is missing"),
    ],
)
def test_each_experiment_refuses_what_it_cannot_do_in_one_sentence(name, flags, word, tmp_path):
    answer = experiment(name, *flags, "--out", str(tmp_path / "run"))
    assert answer.returncode != 0
    assert word in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_run_fills_its_folder_then_says_that_it_is_done_and_refuses_other_flags(tmp_path):
    out = tmp_path / "run"
    first = experiment("energy", *TINY, "--out", str(out))
    assert first.returncode == 0, first.stderr
    assert json.loads((out / "config.json").read_text())["num_steps"] == 20
    assert np.load(out / "samples.npz")["samples"].shape == (64, 2)
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)

    before = (out / "metrics.csv").read_text()
    again = experiment("energy", *TINY, "--out", str(out))
    assert again.returncode == 0
    assert "is done" in again.stdout
    assert (out / "metrics.csv").read_text() == before

    other = experiment("energy", *TINY, "--sigma", "0.2", "--out", str(out))
    assert other.returncode != 0
    assert "sigma 0.1 there, 0.2 now" in other.stderr


def test_a_switch_that_is_off_is_no_number(tmp_path):
    from ebm_jax.runs.endings import RunError
    from ebm_jax.runs.run import Run

    Run("recipe", str(tmp_path / "off"), {"bfloat16": False, "num_steps": 2})
    with pytest.raises(RunError, match="--num-steps got 0"):
        Run("recipe", str(tmp_path / "zero"), {"bfloat16": False, "num_steps": 0})
