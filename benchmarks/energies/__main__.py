"""Times sampling and training of energies, in ebm_jax and other libraries on the same cores.

    python -m benchmarks.energies

It times, with each implementation in its own process and all in turns (see `harness`),

    samplers   random walk, MALA, HMC: 4,096 chains on a planar mixture and an MLP energy;
               ebm_jax, blackjax, torchebm, ebmkit
    training   a step of exact, sliced and denoising score matching, MLP 3 x 256, batch of
               128, in 2, 64 and 784 dimensions; ebm_jax, torchebm, ebmkit
    images     a step of persistent contrastive divergence, 28x28x1, batch of 64, 60
               Langevin steps of a convolutional energy; ebm_jax, PyTorch channels-last

on the processors that the process may use (`taskset -c 0,1` for two). The modules of these
names describe what each implementation runs. Results are checked against quadrature or formulas
in double precision, so that no wrong result is timed. Libraries that are not installed are left
out. The exit status is 1 if a result of ebm_jax is wrong.

It takes about 20 minutes on 2 cores. It writes a table per section, and everything as JSON to
benchmarks/results/.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.energies.worker import SECTIONS

RESULTS = Path(__file__).parents[1] / "results"
HEAD = ["problem", "implementation", "ms", "least", "most", "x ebm_jax"]
HEAD += ["compile s", "peak MB", "others %", "law"]


def main() -> None:
    """Parses the flags, times every problem, prints the tables and writes the JSON."""
    flags = _flags()
    results: dict[str, Any] = {}
    for section, title in _chosen(flags.only):
        found = measure(section, SECTIONS[section].PROBLEMS[title], flags.rounds)
        results.setdefault(section, {})[title] = found
        print(report({title: found}), flush=True)
    for section, found in results.items():
        print(f"\n{section}\n{report(found)}")
    everything = {"hardware": harness.hardware(), "rounds": flags.rounds, "results": results}
    print(f"written to {harness.save(flags.out, 'energies', everything)}")
    wrong = [
        title
        for found in results.values()
        for title, by_name in found.items()
        for name, result in by_name["results"].items()
        if name.startswith("ebm_jax") and result["law"] != "right"
    ]
    if wrong:
        raise SystemExit(f"ebm_jax is wrong in: {', '.join(wrong)}")


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.energies", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, after one to compile")
    parser.add_argument(
        "--only", default="", help="only what contains this, e.g. training, hmc, 'exact, d = 64'"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON file")
    flags = parser.parse_args()
    if flags.rounds < 1:
        parser.error(f"--rounds is {flags.rounds}: give at least 1")
    if not _chosen(flags.only):
        everything = [f"{section}: {title}" for section, title in _chosen("")]
        parser.error(f"--only is {flags.only!r}: give a part of one of {everything}")
    return flags


def _chosen(part: str) -> list[tuple[str, str]]:
    return [
        (section, title)
        for section, module in SECTIONS.items()
        for title in module.PROBLEMS
        if part in f"{section}: {title}"
    ]


def measure(section: str, problem: Any, rounds: int) -> dict[str, Any]:
    """Times all implementations of one problem in turns: medians, and a check of each."""
    names = [f"{section}/{name}" for name in SECTIONS[section].implementations(problem)]
    answers = harness.measure("benchmarks.energies.worker", names, problem._asdict(), rounds)
    results = {}
    for name, (found, versions) in answers.items():
        law = SECTIONS[section].verdict(problem, found[1:]) or "right"
        results[name.partition("/")[2]] = harness.summary(found, law) | {"versions": versions}
    return {"problem": problem._asdict(), "results": results}


def report(found: dict[str, dict[str, Any]]) -> str:
    """Returns a table: milliseconds per call, and the speed of ebm_jax relative to the row."""
    rows = [
        [
            title,
            name,
            *(f"{1e3 * result[field]:.1f}" for field in ("seconds", "least", "most")),
            _ratio(result, by_name["results"].get("ebm_jax")),
            f"{result['compile_seconds']:.1f}",
            f"{result['peak_mb']:.0f}",
            f"{100 * result['others']:.0f}",
            result["law"],
        ]
        for title, by_name in found.items()
        for name, result in by_name["results"].items()
    ]
    summaries = [result for by_name in found.values() for result in by_name["results"].values()]
    return harness.table(HEAD, rows) + harness.warning(summaries)


def _ratio(result: dict[str, Any], ours: dict[str, Any] | None) -> str:
    return f"{result['seconds'] / ours['seconds']:.2f}" if ours else "-"


if __name__ == "__main__":
    main()
