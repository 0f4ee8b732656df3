"""How fast are figures of features, in ebm_jax, torch-fidelity and plain numpy and scipy?

    python -m benchmarks.metrics                  all problems
    python -m benchmarks.metrics --only KID

Features are made up, rectified and correlated like those of Inception, in float32:

    FID         from 50,000 x 2,048 features of both sets, moments included
    distance    the same from moments: two means and covariances of 2,048
    KID         mean over 100 subsets of 1,000 rows, the same rows for both
    IS          from 50,000 x 1,008 logits, 10 splits after a shuffle, the same for both
    features    InceptionV3's of 64 images of 32x32, with the same random weights

on the processors that the process may use. `differs` is the relative difference of the
number that an implementation found from the number of ebm_jax: beyond what float32
costs it (means in FID, sums in KID) nobody is timed on another figure. A peer that is not
installed is left out.

Takes about 15 minutes on two cores, most of them scipy's. Writes a table, and everything
as JSON to benchmarks/results/. Exit status 1 if two numbers do not agree.
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
    """Time every problem, print the table and write the JSON."""
    problems = {title: partial(measure, *args) for title, args in PROBLEMS.items()}
    wrong = "two implementations of one figure do not agree"
    harness.run("metrics", __doc__, problems, report, rounds=3, wrong=wrong)


def measure(problem: Problem, names: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """All implementations of one problem, in turns: medians, and whether they agree."""
    answers = harness.measure(WORKER, list(names), problem._asdict(), rounds)
    ours = answers["ebm_jax"][0][-1]["value"] if "ebm_jax" in answers else None
    results = {}
    for name, (found, versions) in answers.items():
        differs, law = compare(found[-1]["value"], ours, AGREEMENT[problem.figure])
        results[name] = harness.summary(found, law) | {"differs": differs, "versions": versions}
    return {"problem": problem._asdict(), "results": results}


def compare(value: float, ours: float | None, tolerance: float) -> tuple[float, str]:
    """The relative difference between two numbers, and the verdict on it."""
    if ours is None:
        return 0.0, "right"
    differs = value / ours - 1
    return differs, "right" if abs(differs) <= tolerance else f"wrong: {value:.8g}, not {ours:.8g}"


def report(found: dict[str, dict[str, Any]]) -> str:
    """A table: seconds, times ebm_jax's, and by how much the numbers differ."""
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
