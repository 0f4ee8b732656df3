"""The command `ebm-jax`, also `python -m ebm_jax`: lists and runs the experiments and commands.

ebm-jax                        lists the experiments and the commands on their runs
ebm-jax edm --num-steps 100    runs an experiment; the flags after its name are its own
"""

import ast
import difflib
import importlib.util
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).parent
EXTRA = ("tyro", "rich", "matplotlib")  # installed only by the extra `experiments`


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the experiment or command that is named first, or lists all if none is named.

    Args:
        argv: the command line without the program; that of the process by default.
    """
    program = "python -m ebm_jax" if sys.argv[0].endswith("__main__.py") else "ebm-jax"
    name, *flags = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(listing(program))
        return
    known = files(experiments_folder()) | files(commands_folder())
    found = known.get(name.replace("-", "_"))
    if found is None:
        sys.exit(f"error: {refusal(name, [*known], program)}")
    if missing := [module for module in EXTRA if importlib.util.find_spec(module) is None]:
        sys.exit(
            f"error: {program} {name} needs {', '.join(missing)}: "
            "pip install 'ebm_jax[experiments]' installs that."
        )
    run_file(found, [f"{program} {name}", *flags])


def experiments_folder() -> Path:
    """Returns the folder of the experiments: in the package if installed, beside it in a clone."""
    inside = PACKAGE / "experiments"
    return inside if inside.is_dir() else PACKAGE.parent / "experiments"


def commands_folder() -> Path:
    """Returns the folder of the commands on runs."""
    return PACKAGE / "runs" / "commands"


def files(folder: Path) -> dict[str, Path]:
    """Returns the files of a folder that can be run, by name."""
    return {p.stem: p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")}


def listing(program: str) -> str:
    """Returns the help: every experiment and command with the first line of its docstring."""
    lines = [f"usage: {program} NAME [flags]", f"       {program} NAME --help", ""]
    experiments, commands = files(experiments_folder()), files(commands_folder())
    for name in commands.keys() & experiments.keys():
        del experiments[name]  # the name runs the command
    groups = {"Experiments:": experiments, "Commands on runs and their models:": commands}
    for title, group in groups.items():
        lines += [title, *(f"  {n:<20}{first_line(p)}" for n, p in group.items()), ""]
    return "\n".join(lines).rstrip()


def first_line(path: Path) -> str:
    """Returns the first line of a file's docstring; the file is parsed, not run."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def refusal(name: str, names: Sequence[str], program: str) -> str:
    """Returns the error message for an unknown name, with the nearest known names."""
    near = difflib.get_close_matches(name.replace("-", "_"), names)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"{name!r} is no experiment or command: `{program}` lists all.{meant}"


def run_file(path: Path, argv: Sequence[str]) -> None:
    """Runs a file as the main program with these arguments, as `python FILE` would."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback on Ctrl-C during imports
    spec = importlib.util.spec_from_file_location("__main__", path)
    assert spec is not None
    assert spec.loader is not None
    sys.argv = list(argv)
    module = sys.modules["__main__"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    main()
