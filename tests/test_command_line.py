"""`ebm-jax` lists and runs experiments and commands; what is typed wrong is one sentence."""

import ast
import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ebm_jax import __main__ as program

ROOT = Path(__file__).parents[1]
EXPERIMENT = '''"""A small one: to be found.

More of it.
"""

from ebm_jax.runs.command import command


def main(run, *, num_steps: int = 3) -> None:
    """Count.

    Args:
        run: the run.
        num_steps: how far.
    """
    print(f"{num_steps} steps in {run.folder}")


command(main)
'''


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """Runs `ebm-jax ...` in this process, with one experiment of its own."""
    (tmp_path / "small_one.py").write_text(EXPERIMENT)
    monkeypatch.setattr(program, "experiments_folder", lambda: tmp_path)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ebm-jax"])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield lambda *words: program.main(words)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_alone_it_lists_every_experiment_and_command_with_its_first_line(capsys):
    program.main([])
    lines = dict(
        line.strip().split(None, 1) for line in capsys.readouterr().out.splitlines()
        if line.startswith("  ") and not line.startswith("   ")
    )  # fmt: skip
    folders = (ROOT / "experiments", ROOT / "ebm_jax/runs/commands")
    files = {path.stem: path for folder in folders for path in folder.glob("[!_]*.py")}
    assert {"edm", "sample"} <= lines.keys() == files.keys()  # of one name the command counts
    for name, path in files.items():
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert lines[name] == text.splitlines()[0]


def test_listing_imports_neither_jax_nor_the_experiments():
    code = (
        "import sys; from ebm_jax.__main__ import main; main([]); "
        "assert not {'jax', 'numpy', 'tyro', 'experiments'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_runs_its_file_with_the_flags_behind_it(typed, capsys):
    for name in ("small_one", "small-one"):
        typed(name, "--num-steps", "7")
        assert capsys.readouterr().out == "7 steps in runs/small_one\n"


def test_help_names_what_was_typed(typed, capsys):
    with pytest.raises(SystemExit) as end:
        typed("small_one", "--help")
    assert end.value.code == 0
    assert "usage: ebm-jax small_one [-h]" in capsys.readouterr().out


def test_help_of_a_module_of_the_clone_names_that_module():
    from ebm_jax.runs.command import program
    from experiments import edm

    assert program(edm.main) == "python -m experiments.edm"


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("smal_one", "lists all. Did you mean small_one?"),
        ("simple", "lists all. Did you mean sample?"),
        ("xyzzy", "error: 'xyzzy' is no experiment or command: `ebm-jax` lists all."),
        ("--num-steps", "'--num-steps' is no experiment or command"),
    ],
)
def test_a_wrong_name_is_one_sentence_with_the_nearest_names(typed, word, sentence):
    with pytest.raises(SystemExit) as end:
        typed(word)
    assert sentence in end.value.code
    assert "\n" not in end.value.code


def test_without_the_extra_one_sentence_says_what_to_install(typed, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tyro" else there(name)
    )
    with pytest.raises(SystemExit) as end:
        typed("small_one")
    assert end.value.code == (
        "error: ebm-jax small_one needs tyro: pip install 'ebm_jax[experiments]' installs that."
    )


@pytest.mark.slow
def test_ctrl_c_during_imports_ends_quietly_by_that_signal(tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    code = (
        "import pathlib, ebm_jax.__main__; "
        f"ebm_jax.__main__.run_file(pathlib.Path({str(slow)!r}), ['x'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert (process.returncode, said) == (-signal.SIGINT, b"")
