"""Times 1,000 steps of 4,096 Langevin chains on a mixture of eight Gaussians.

    python -m benchmarks.langevin

It times ebm_jax, blackjax, torchebm and ebmkit, each by autodiff of the energy and, if the
library accepts one, by the closed-form score. Each runs in its own process, with rounds in turns
and medians, on the processors that the process may use (`taskset -c 0,1` for two).
`langevin_worker` describes what each runs, and `harness` how it is timed. Libraries that are not
installed are left out.

The distribution of the samples of all rounds is checked, so that no wrong sampler is timed: an
equal share of the chains must be at each Gaussian, with the variance of the discrete chain around
it, s^2 / (1 - h / (2 s^2)), within five standard errors and a percent for the overlap.

It takes about 2 minutes. It writes a table, and everything as JSON to benchmarks/results/.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.langevin_worker import IMPLEMENTATIONS, Problem

RESULTS = Path(__file__).parent / "results"
HEAD = ["implementation", "seconds", "least", "most", "steps", "x score", "x energy"]
HEAD += ["compile s", "peak MB", "others %", "law"]


def main() -> None:
    """Parses the flags, times every implementation, prints the table and writes the JSON."""
    flags = _flags()
    problem = Problem(chains=flags.chains, steps=flags.steps)
    names = [name for name in IMPLEMENTATIONS if flags.only in name]
    found = harness.measure("benchmarks.langevin_worker", names, problem._asdict(), flags.rounds)
    results = {
        name: summary(problem, name, rounds) | {"versions": versions}
        for name, (rounds, versions) in found.items()
    }
    print(report(problem, results))
    everything = {
        "problem": problem._asdict(),
        "hardware": harness.hardware(),
        "rounds": flags.rounds,
        "results": results,
    }
    print(f"written to {harness.save(flags.out, 'langevin', everything)}")
    if any(result["law"].startswith("wrong") for result in results.values()):
        raise SystemExit("a sampler drew from another law than the mixture's")


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.langevin", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--chains", type=int, default=4096, help="chains side by side")
    parser.add_argument("--steps", type=int, default=1000, help="steps of every chain")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, after one to compile")
    parser.add_argument("--only", default="", help="only implementations whose name contains this")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    flags = parser.parse_args()
    for name in ("chains", "steps", "rounds"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name} is {getattr(flags, name)}: give at least 1")
    if not any(flags.only in name for name in IMPLEMENTATIONS):
        parser.error(f"--only is {flags.only!r}: give a part of one of {list(IMPLEMENTATIONS)}")
    return flags


def summary(problem: Problem, name: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the harness's summary, with a check of the distribution in the timed rounds."""
    law = "-" if name.endswith("noise") else law_error(problem, rounds[1:]) or "right"
    return harness.summary(rounds, law)


def law_error(problem: Problem, rounds: list[dict[str, Any]]) -> str:
    """Returns what is wrong with the samples of all rounds together, or "" if they are right."""
    total = sum(answer["chains"] for answer in rounds)
    shares = np.sum([answer["counts"] for answer in rounds], 0) / total
    if np.max(np.abs(shares - 1 / 8)) > 5 * np.sqrt(1 / 8 * 7 / 8 / total):
        return f"wrong shares {np.round(shares, 3).tolist()}"
    variance = np.mean([answer["square"] for answer in rounds]) / 2
    expected = problem.scale**2 / (1 - problem.step_size / (2 * problem.scale**2))
    if not abs(variance / expected - 1) < 5 / np.sqrt(total) + 0.01:
        return f"wrong variance {variance:.4f}, not {expected:.4f}"
    return ""


def report(problem: Problem, results: dict[str, dict[str, Any]]) -> str:
    """Returns the table: medians, spread, and ratios to ebm_jax.

    `steps` are a chain's steps per second. `x score` and `x energy` are the speed of ebm_jax, by
    its closed-form score and by autodiff of its energy, relative to the row.
    """
    rows = [_row(problem, name, result, results) for name, result in results.items()]
    return harness.table(HEAD, rows) + harness.warning(list(results.values()))


def _row(problem: Problem, name: str, result: dict[str, Any], results: dict[str, Any]) -> list[str]:
    seconds = result["seconds"]
    ours = [results.get(f"ebm_jax, {gradient}") for gradient in ("score", "energy")]
    return [
        name,
        *(f"{result[field]:.3f}" for field in ("seconds", "least", "most")),
        f"{problem.chains * problem.steps / seconds / 1e6:.1f} M/s",
        *(f"{seconds / our['seconds']:.2f}" if our else "-" for our in ours),
        f"{result['compile_seconds']:.1f}",
        f"{result['peak_mb']:.0f}",
        f"{100 * result['others']:.0f}",
        result["law"],
    ]


if __name__ == "__main__":
    main()
