"""Break one line of ebm_jax at a time: which breaks do its module's tests catch?

    python -m tests.mutants [--sample N] [--seed S] [--module losses]

A mutant is one small change to the syntax tree (a sign, a factor, a square root, an argument
order), written to a copy of the repository, never to the working tree. Survivors are printed
with the line before and after; the exit status is 1 when under 95% are caught.
"""

import argparse
import ast
import copy
import inspect
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import flax.linen  # noqa: F401  heavy imports happen here once, since every mutant is a fork
import optax  # noqa: F401
import orbax.checkpoint.experimental.v1  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import sklearn.datasets  # noqa: F401

ROOT = Path(__file__).parents[1]
GOAL, BENCHES, TICK = 0.95, 2, 0.02
TESTS = {  # of a file, where they are not tests/test_<file>.py or tests/test_<package>.py
    "data/__init__": ("data", "named"),
    "data/arrays": ("arrays", "data"),
    "data/descriptions": ("prepared_damage",),
    "data/idx": ("data", "arrays"),
    "data/labels": ("arrays", "data"),
    "data/memory": ("named", "arrays"),
    "data/pictures": ("pictures", "data"),
    "data/prepared": ("named", "prepared_damage"),
    "data/points": ("points",),
    "data/rows": ("sharding",),
    "likelihood/annealing": ("importance",),
    "likelihood/bound": ("flow_density",),
    "likelihood/flow": ("flow_density",),
    "losses/diffusion": ("losses",),
    "losses/functions": ("every_loss",),
    "losses/implicit": ("adversarial", "every_loss"),
    "losses/sliced": ("score_matching",),
    "losses/discrepancy": ("energy_discrepancy",),
    "metrics/inception/weights": ("inception",),
    "metrics/stein": ("discrepancy",),
    "nets/blocks": ("unet", "ncsnpp"),
    "nets/refine_blocks": ("refinenet",),
    "nets/resample": ("ncsnpp",),
    "_precision": ("every_metric", "every_loss"),
    "recipes/chain_losses": ("energy_recipes",),
    "recipes/chains": ("recipes", "energy_recipes"),
    "recipes/energy": ("energy_recipes",),
    "recipes/energy_losses": ("energy_recipes",),
    "recipes/energy_methods": ("energy_recipes",),
    "recipes/ladders": ("published",),
    "recipes/samplers": ("energy_recipes", "models"),
    "runs/densities": ("energy",),
    "runs/energies": ("energy", "energy_recipes"),
    "runs/points": ("energy",),
    "runs/scatter": ("energy",),
    "metrics/distances": ("metrics", "discrepancy"),
    "metrics/health": ("discrepancy", "chains"),
    "metrics/features": ("fidelity",),
    "metrics/frechet": ("fidelity",),
    "metrics/inception_score": ("fidelity",),
    "metrics/kernel_inception": ("fidelity",),
    "metrics/manifold": ("fidelity",),
    "metrics/moments": ("fidelity",),
    "metrics/statistics": ("fidelity",),
    "samplers/mcmc/adaptation": ("kernel",),
    "samplers/diffusion/annealed_langevin": ("samplers",),
    "samplers/diffusion/level_solvers": ("solvers",),
    "samplers/diffusion/probability_flow": ("flow_density",),
    "samplers/mcmc/hmc": ("metropolis",),
    "samplers/mcmc/kernel": ("kernel", "samplers"),
    "samplers/mcmc/langevin": ("kernel", "samplers"),
    "samplers/mcmc/moments": ("kernel",),
    "samplers/diffusion/time_solvers": ("solvers",),
    "samplers/diffusion/solver": ("solvers",),
    "targets/gaussian": ("targets", "fitted_gaussian"),
    "training": ("training", "checkpoints"),
}
SWAPS = {ast.Add: ast.Sub, ast.Mult: ast.Div, ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Eq: ast.NotEq}
SWAPS |= {new: old for old, new in SWAPS.items()}
NAMES = {"sum": "mean", "mean": "sum"}

# What cannot change a result, and why:
SYMMETRIC = {"maximum", "minimum", "max", "min", "hypot"}  # in their first two arguments
SPEED = {"batch_size", "chunk_size", "maxsize", "SMALL", "BLOCK"}  # how work is cut into pieces
FINENESS = {"num_points", "fori_loop", "_gauss_legendre"}  # has converged: finer is the same
GUARD = 1e-9  # numbers below it only keep a zero from being exact


class Mutant(NamedTuple):
    file: Path
    line: int
    before: str
    after: str
    function: str
    source: str

    @property
    def module(self) -> str:
        return self.file.parts[1].removesuffix(".py")

    @property
    def tests(self) -> tuple[str, ...]:
        """The names of the test files that should catch it."""
        name = str(self.file.relative_to("ebm_jax").with_suffix(""))
        own = (ROOT / f"tests/test_{self.file.stem}.py").exists()
        return TESTS.get(name, (self.file.stem if own else self.module,))


def name_of(node: ast.AST) -> str:
    return getattr(node, "attr", getattr(node, "id", getattr(node, "arg", ""))) or ""


def broken(node: ast.AST) -> Iterator[ast.AST]:
    """Every broken form of one node."""
    new = copy.deepcopy(node)
    match node:
        case ast.BinOp(op=ast.Pow(), right=ast.Constant(value=2)):
            yield new.left
        case ast.BinOp() if type(node.op) in SWAPS:
            new.op = SWAPS[type(node.op)]()
            yield new
        case ast.Compare() if type(node.ops[0]) in SWAPS:
            new.ops[0] = SWAPS[type(node.ops[0])]()
            yield new
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield new.operand
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            if value == 0 or abs(value) > GUARD:
                yield ast.Constant(2 * value or 1)
        case ast.Call(args=[one, two, *_]) if name_of(node.func) not in SYMMETRIC:
            new.args[:2] = new.args[1::-1]
            if ast.unparse(one) != ast.unparse(two):
                yield new
    if isinstance(node, ast.Call) and name_of(node.func) == "sqrt":
        yield node.args[0]
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in NAMES:
        new = copy.deepcopy(node)
        new.func.attr = NAMES[node.func.attr]
        yield new


def harmless(parent: ast.AST, field: str, child: ast.AST) -> bool:
    """Types, text for people, and what the rules above say cannot change a result."""
    if field in ("annotation", "returns") or isinstance(child, ast.JoinedStr | ast.Raise):
        return True
    if isinstance(child, ast.keyword | ast.Assign):
        mentioned = {name_of(n) for n in ast.walk(child)}
        return name_of(child) in SPEED | FINENESS or bool(mentioned & {"SMALL", "BLOCK"})
    if isinstance(parent, ast.arguments) and field in ("defaults", "kw_defaults"):
        names = parent.kwonlyargs if field == "kw_defaults" else parent.args
        values = getattr(parent, field)
        return names[values.index(child) - len(values)].arg in SPEED | FINENESS
    if isinstance(parent, ast.keyword):
        return parent.arg == "axis" and ast.unparse(child) == "-1"  # the last, from either end
    if isinstance(parent, ast.Call) and field == "args" and isinstance(child, ast.Constant):
        return name_of(parent.func) in FINENESS
    return isinstance(parent, ast.Call) and field == "args" and ast.unparse(child) == "-1"


def nodes(tree: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """The nodes that may be broken, each with the outermost function around it."""
    for field, value in ast.iter_fields(tree):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not harmless(tree, field, child):
                inside = function or (child.name if isinstance(child, ast.FunctionDef) else "")
                yield child, inside
                yield from nodes(child, inside)


def mutants_of(file: Path) -> Iterator[Mutant]:
    source = (ROOT / file).read_bytes()
    lines = source.splitlines(keepends=True)
    for node, function in nodes(ast.parse(source)):
        for new in broken(node):
            start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
            end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
            text = (source[:start] + f"({ast.unparse(new)})".encode() + source[end:]).decode()
            before, after = (
                t.splitlines()[node.lineno - 1].strip() for t in (source.decode(), text)
            )
            yield Mutant(file, node.lineno, before, after, function, text)


class Bench:
    """A copy of the repository, and the forked process that tests one mutant on it."""

    def __init__(self, tree: Path) -> None:
        unwanted = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__")
        self.tree, self.pid = shutil.copytree(ROOT, tree, ignore=unwanted), 0

    def start(self, tests: tuple[str, ...], mutant: Mutant | None, limit: float) -> None:
        if mutant:
            self.unbroken = (self.tree / mutant.file).read_text()
            (self.tree / mutant.file).write_text(mutant.source)
        self.tests, self.mutant, self.limit, self.seconds = tests, mutant, limit, 0.0
        self.pid = os.fork()
        if not self.pid:
            os.setsid()  # so that what the tests start can be ended with them
            os.chdir(self.tree)
            silence = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silence, stream)
            sys.path[0], sys.dont_write_bytecode = str(self.tree), True
            for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
                del sys.modules[name]
            files = [f"tests/test_{name}.py" for name in tests]
            options = ["-xq", "--tb=no", "--assert=plain", "-p", "no:cacheprovider"]
            os._exit(pytest.main([*options, *files], [self]))

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        """Tests that name the broken function go first, so that the first failure comes soon."""

        def unrelated(item: pytest.Function) -> bool:
            return self.mutant.function not in item.name + inspect.getsource(item.function)

        if self.mutant:
            items.sort(key=unrelated)

    def finished(self) -> tuple[tuple[str, ...], Mutant | None, bool, float] | None:
        """(tests, mutant, whether one failed, seconds), or None while the tests run."""
        self.seconds += TICK  # and no clock, so that a run that was stopped may go on
        if self.seconds > self.limit:
            os.killpg(self.pid, signal.SIGKILL)  # a mutant that hangs is caught
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.pid = 0
        if self.mutant:
            (self.tree / self.mutant.file).write_text(self.unbroken)
        return self.tests, self.mutant, status != 0, self.seconds


Work = tuple[tuple[str, ...], Mutant | None, float]  # tests, what is broken, seconds at most


def run(benches: list[Bench], work: list[Work]) -> Iterator[tuple]:
    queue = work[::-1]
    while queue or any(bench.pid for bench in benches):
        for bench in benches:
            if bench.pid and (result := bench.finished()):
                yield result
            if not bench.pid and queue:
                bench.start(*queue.pop())
        time.sleep(TICK)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sample", type=int, help="how many mutants, drawn at random; all")
    parser.add_argument("--seed", type=int, default=0, help="of that draw")
    parser.add_argument("--module", help="the only one to break: calculus, losses, hmc ...")
    args = parser.parse_args()
    files = sorted(file.relative_to(ROOT) for file in (ROOT / "ebm_jax").rglob("*.py"))
    mutants = [m for file in files for m in mutants_of(file)]
    mutants = [m for m in mutants if args.module in (None, m.module, m.file.stem)]
    mutants = random.Random(args.seed).sample(mutants, min(args.sample or 10**9, len(mutants)))
    mutants.sort(key=lambda mutant: (mutant.module, mutant.file))
    limits, caught, total = {}, Counter(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        benches = [Bench(Path(folder) / str(i)) for i in range(BENCHES)]
        unbroken = [(tests, None, 900.0) for tests in sorted({m.tests for m in mutants})]
        for tests, _, failed, seconds in run(benches, unbroken):
            if failed:
                sys.exit(f"the tests of {tests} fail on the unbroken library")
            limits[tests] = 60 + 4 * seconds
        work = [(mutant.tests, mutant, limits[mutant.tests]) for mutant in mutants]
        for _, mutant, failed, _ in run(benches, work):
            total[mutant.module] += 1
            caught[mutant.module] += failed
            if not failed:
                where = f"{mutant.file}:{mutant.line}"
                print(f"{where}\n  - {mutant.before}\n  + {mutant.after}", flush=True)
    for module in total:
        print(f"{module:12} {caught[module]:4} of {total[module]:4} caught")
    print(f"{caught.total()} of {total.total()} caught, {caught.total() / total.total():.1%}")
    return int(caught.total() < GOAL * total.total())


if __name__ == "__main__":
    sys.exit(main())
