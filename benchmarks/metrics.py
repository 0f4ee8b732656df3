"""Times sample metrics in ebm_jax, torch-fidelity, and plain NumPy and SciPy.

    python -m benchmarks.metrics                  all problems
    python -m benchmarks.metrics --only KID

Features are artificial, rectified and correlated like those of Inception, in float32:

    FID         from 50,000 x 2,048 features of both sets, moments included
    distance    FID from moments: two means and covariances of 2,048 features
    KID         mean over 100 subsets of 1,000 rows, the same rows for both
    IS          Inception Score of 50,000 x 1,008 logits, 10 splits, the same shuffle for both
    features    InceptionV3's features of 64 images of 32x32, with the same random weights

The processors are those that the process may use. `differs` is the relative difference from the
value of ebm_jax. It may not exceed the error of float32 (in means for FID, in sums for KID), so
that no wrong metric is timed. Libraries that are not installed are left out.

It takes about 15 minutes on 2 cores, mostly in SciPy. It writes a table, and everything as JSON
to benchmarks/results/. The exit status is 1 if two values disagree.
"""

from functools import partial
from typing import Any

from benchmarks import harness
from benchmarks.metrics_worker import Problem

HEAD = ["problem", "implementation", "seconds", "least", "most", "x ebm_jax", "differs"]
HEAD += ["first +s", "peak MB", "others %", "law"]
WORKER = "benchmarks.metrics_worker"
AGREEMENT = {"FID": 1e-5, "distance": 1e-6, "KID": 1e-3, "IS": 1e-6, "features": 1e-4}
FRECHET = ("ebm_jax", "torch-fidelity", "scipy sqrtm")
PROBLEMS: dict[str, tuple[Problem, tuple[str, ...]]] = {
    "FID, 50,000 x 2,048": (Problem("FID"), FRECHET),
    "distance, 2,048": (Problem("distance"), FRECHET),
    "KID, 100 x 1,000": (Problem("KID"), FRECHET[:2]),
    "IS, 50,000 x 1,008": (Problem("IS", width=1008), FRECHET[:2]),
    "features, 64 images": (Problem("features", n=64), FRECHET[:2]),
}


def main() -> None:
    """Times every problem, prints the table and writes the JSON."""
    problems = {title: partial(measure, *args) for title, args in PROBLEMS.items()}
    wrong = "two implementations of one figure do not agree"
    harness.run("metrics", __doc__, problems, report, rounds=3, wrong=wrong)


def measure(problem: Problem, names: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Times all implementations of one problem in turns: medians, and whether they agree."""
    answers = harness.measure(WORKER, list(names), problem._asdict(), rounds)
    ours = answers["ebm_jax"][0][-1]["value"] if "ebm_jax" in answers else None
    results = {}
    for name, (found, versions) in answers.items():
        differs, law = compare(found[-1]["value"], ours, AGREEMENT[problem.figure])
        results[name] = harness.summary(found, law) | {"differs": differs, "versions": versions}
    return {"problem": problem._asdict(), "results": results}


def compare(value: float, ours: float | None, tolerance: float) -> tuple[float, str]:
    """Returns the relative difference of two numbers, and the verdict on it."""
    if ours is None:
        return 0.0, "right"
    differs = value / ours - 1
    return differs, "right" if abs(differs) <= tolerance else f"wrong: {value:.8g}, not {ours:.8g}"


def report(found: dict[str, dict[str, Any]]) -> str:
    """Returns a table: seconds, ratios to ebm_jax, and relative differences of the values."""
    rows = []
    for title, by_name in found.items():
        ours = by_name["results"].get("ebm_jax")
        for name, result in by_name["results"].items():
            rows.append(
                [
                    title,
                    name,
                    *(f"{result[field]:.2f}" for field in ("seconds", "least", "most")),
                    f"{result['seconds'] / ours['seconds']:.2f}" if ours else "-",
                    f"{result['differs']:.0e}",
                    f"{result['compile_seconds']:.2f}",
                    f"{result['peak_mb']:.0f}",
                    f"{100 * result['others']:.0f}",
                    result["law"],
                ]
            )
    summaries = [result for by_name in found.values() for result in by_name["results"].values()]
    return harness.table(HEAD, rows) + harness.warning(summaries)


if __name__ == "__main__":
    main()
