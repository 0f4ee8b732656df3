"""The plan of the house, read off the imports: they only point down."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    ("types",),
    ("_precision", "distributed", "keys", "sharding"),
    ("_checks",),
    ("calculus", "composition", "data", "ema", "nets", "noise", "targets"),
    ("guidance", "losses", "samplers"),
    ("checkpoints", "likelihood", "metrics", "training"),
    ("recipes",),
    ("runs",),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
FILES = sorted((ROOT / "ebm_jax").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.py"))
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))


def imported(file: Path) -> set[str]:
    """Dotted names of the modules that a file imports, wherever in it the import stands."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} has a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def place(file: Path) -> str:
    return file.relative_to(ROOT / "ebm_jax").parts[0].removesuffix(".py")


@each_file
def test_imports_only_point_down(file):
    ours = {name.split(".")[1] for name in imported(file) if name.startswith("ebm_jax.")}
    top = len(FLOORS) if file.parent == ROOT / "ebm_jax" and file.stem.startswith("__") else -1
    above = {name for name in ours if FLOOR[name] >= FLOOR.get(place(file), top)}
    above -= {place(file)}  # a package may import its own modules
    assert not above, f"{place(file)} imports from its own floor or above: {above}"


@each_file
def test_dependencies_stay_in_their_rooms(file):
    used = {name.split(".")[0] for name in imported(file)}
    assert not used & {"experiments", "benchmarks", "tests"}
    assert not used & {"matplotlib", "rich", "tyro"} or place(file) == "runs"
    assert "flax" not in used or place(file) == "nets"
    assert "optax" not in used or place(file) in ("training", "recipes", "runs")
    assert "orbax" not in used or place(file) == "checkpoints"


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_experiments_import_nothing_that_is_not_installed_with_them(file):
    """They are installed as `ebm_jax.experiments` and run as files: no import finds a sibling."""
    ours = {"experiments", "benchmarks", "tests", "ebm_jax.experiments"}
    assert not {
        name for name in imported(file) if any(f"{name}.".startswith(f"{o}.") for o in ours)
    }


def test_every_package_is_installed_and_nothing_beside_it():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "ebm_jax").rglob("__init__.py")
    }
    assert set(settings["packages"]) == packages | {"ebm_jax.experiments"}
    assert settings["package-dir"] == {"ebm_jax.experiments": "experiments"}
    assert (ROOT / "ebm_jax" / "py.typed").exists()
    assert settings["package-data"] == {"ebm_jax": ["py.typed"], "ebm_jax.runs": ["assets/*"]}


DEVICES = {"devices", "local_devices", "device_put", "NamedSharding", "PartitionSpec", "shard_map"}
DEVICES |= {"make_mesh", "set_mesh", "pmap", "device_count", "with_sharding_constraint"}


@pytest.mark.parametrize("file", [*FILES, *EXPERIMENTS], ids=lambda file: file.stem)
def test_sharding_alone_names_devices(file):
    tree = ast.walk(ast.parse(file.read_text()))
    used = {node.attr for node in tree if isinstance(node, ast.Attribute)}
    used |= {name.rpartition(".")[2] for name in imported(file)}
    assert file.parent.name == "sharding" or not used & DEVICES


@each_file
def test_files_fit_a_few_screens(file):
    assert len(file.read_text().splitlines()) <= 250
