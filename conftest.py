"""Runs the code of README.md, CONTRIBUTING.md and docs/, and parses the flags of their commands."""

import contextlib
import functools
import importlib
import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parent
OTHERS = ("make", "pip", "pre-commit")  # commands of others, which are not checked


def check_commands(example: Example) -> None:
    """Parses the flags of every command in a block; nothing is run."""
    for line in example.parsed.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["srun", "-n"]:
            words = words[3:]
        match words:
            case ["ebm-jax", "launch", "--num-processes", _, name, *flags] | [
                "ebm-jax",
                name,
                *flags,
            ]:
                check_flags(name, flags)
            case ["python", "-m", module, *flags] if module.startswith("experiments."):
                check_flags(module.removeprefix("experiments."), flags)
            case [] | ["ebm-jax"]:
                pass
            case [program, *_] if program not in (*OTHERS, "python"):
                raise ValueError(f"{line!r} is no command of this library, nor one of {OTHERS}")


def check_flags(name: str, flags: list[str]) -> None:
    """Raises SystemExit if an experiment or command does not take these flags."""
    import tyro

    from ebm_jax.runs.command import _command_line

    is_tool = (ROOT / "ebm_jax" / "runs" / "commands" / f"{name}.py").exists()
    room = "ebm_jax.runs.commands" if is_tool else "experiments"
    main = importlib.import_module(f"{room}.{name}").main
    parsed = functools.wraps(main)(lambda *_, **__: None) if is_tool else _command_line(main)
    tyro.cli(parsed, args=flags)


def as_a_user(namespace: dict[str, Any]) -> None:
    """Runs a page in a folder of its own, and with JAX's own promotion of types."""
    import jax

    stack = namespace["stack"] = contextlib.ExitStack()
    stack.enter_context(jax.numpy_dtype_promotion("standard"))
    stack.enter_context(jax.numpy_rank_promotion("allow"))
    stack.callback(os.chdir, Path.cwd())
    os.chdir(stack.enter_context(tempfile.TemporaryDirectory()))


pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser("bash", check_commands),
        SkipParser(),
    ],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/how-to/*.md"],
    path=str(ROOT),
    setup=as_a_user,
    teardown=lambda namespace: namespace["stack"].close(),
).pytest()
