"""One training step on 1 to 8 simulated devices: its time, memory and communication.

    python -m benchmarks.scaling [--rounds 5]

The step is that of the U-Net of `benchmarks.diffusion` (8.95M parameters, 16 images of 32x32x3)
on the same batch for every mesh, so the work is the same. Simulated devices share the cores of
this machine. With as many devices as cores, the time is the best that the cores can do; with
more, it shows what splitting costs, not what it gains. The state on a device (parameters, Adam's
two moments, EMA) and the results of its collectives are read from the compiled step, and are the
same as on that many real devices.

Losses must agree on all meshes, to 1e-5. It writes a table, and everything as JSON to
benchmarks/results/.
"""

from functools import partial
from typing import Any

from benchmarks import harness
from benchmarks.scaling_worker import Problem

HEAD = ["problem", "mesh", "ms", "least", "most", "x data=1", "state MB", "of all", "peak MB"]
HEAD += ["collectives MB", "compile s", "others %", "law"]
MESHES = ["data=1", "data=2", "data=4", "data=8", "fsdp=2", "fsdp=4", "fsdp=8", "data=4,fsdp=2"]
PROBLEMS = {"step, batch 16, base 64": Problem(16, 64), "step, batch 16, base 32": Problem(16, 32)}


def main() -> None:
    """Times the step on every mesh, prints the table and writes the JSON."""
    problems = {title: partial(measure, problem) for title, problem in PROBLEMS.items()}
    wrong = "two meshes do not take the same losses"
    harness.run("scaling", __doc__, problems, report, rounds=5, wrong=wrong)


def measure(problem: Problem, rounds: int) -> dict[str, Any]:
    """Times all meshes on one problem, in turns."""
    answers = harness.measure("benchmarks.scaling_worker", MESHES, problem._asdict(), rounds)
    expected = answers["data=1"][0][-1]["losses"]
    results = {
        name: harness.summary(found, verdict(found[-1]["losses"], expected))
        | {"versions": versions}
        for name, (found, versions) in answers.items()
    }
    return {"problem": problem._asdict(), "results": results}


def verdict(losses: list[float], expected: list[float]) -> str:
    """Returns "right", or what is wrong with the losses."""
    error = max(abs(a / b - 1) for a, b in zip(losses, expected, strict=True))
    return "right" if error < 1e-5 else f"wrong: the losses differ by {error:.1e}"


def report(found: dict[str, dict[str, Any]]) -> str:
    """Returns a table: speed relative to one device, and MB of state, peak and collectives."""
    rows = []
    for title, by_name in found.items():
        alone = by_name["results"]["data=1"]["seconds"]
        for name, result in by_name["results"].items():
            last = result["rounds"][-1]
            sent = " ".join(f"{k} {v / 1e6:.1f}" for k, v in last["collectives"].items())
            rows.append(
                [
                    title,
                    name,
                    *(f"{1e3 * result[f]:.0f}" for f in ("seconds", "least", "most")),
                    f"{alone / result['seconds']:.2f}",
                    f"{last['state'] / 1e6:.1f}",
                    f"1/{last['whole_state'] / last['state']:.2f}",
                    f"{last['peak'] / 1e6:.0f}",
                    sent or "-",
                    f"{result['compile_seconds']:.1f}",
                    f"{100 * result['others']:.0f}",
                    result["law"],
                ]
            )
    summaries = [result for by_name in found.values() for result in by_name["results"].values()]
    return harness.table(HEAD, rows) + harness.warning(summaries)


if __name__ == "__main__":
    main()
