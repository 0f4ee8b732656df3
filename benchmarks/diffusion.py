"""Training steps and sampling of a DDPM U-Net, in ebm_jax and in diffusers.

    python -m benchmarks.diffusion                 all problems
    python -m benchmarks.diffusion --only "batch 16, base 64"

The network is DDPM's (arXiv:2006.11239) for 32x32x3 images: multipliers 1-2-2-2, 2 blocks,
attention at 16x16; with base 64 it has 8,952,067 parameters. Timed are

    step    forward, backward, Adam and the parameters' moving average (EMA), for one batch
    DDIM    50 deterministic steps from noise, for one batch

on the processors that the process may use. ebm_jax splits the batch over as many simulated
devices as there are cores. diffusers' UNet2DModel runs in PyTorch with images and kernels in
channels-last layout, with torch's Adam, and `torch._foreach_lerp_` for the average. Both must have
the number of parameters that the formula gives, and a loss that falls. `GF/s` counts the
operations of the compiled ebm_jax step for both. `peak` is the share of the speed of a 2048^3
float32 matmul in the same process.

It takes about 15 minutes on 2 cores. It writes a table, and everything as JSON to
benchmarks/results/. The exit status is 1 if an implementation has the wrong network.
"""

from functools import partial
from typing import Any

from benchmarks import harness
from benchmarks.diffusion_worker import IMPLEMENTATIONS, Problem

HEAD = ["problem", "implementation", "ms", "least", "most", "x ebm_jax", "GF/s", "peak %"]
HEAD += ["compile s", "peak MB", "others %", "law"]
PROBLEMS = {
    f"{'DDIM' if steps else 'step'}, batch {batch}, base {base}": Problem(batch, base, steps)
    for steps, batch, base in (
        (0, 16, 64), (50, 16, 64), (0, 4, 64), (0, 32, 64), (0, 16, 32), (0, 16, 128),
    )
}  # fmt: skip


def main() -> None:
    """Times both implementations on every problem, prints the table and writes the JSON."""
    problems = {title: partial(measure, problem) for title, problem in PROBLEMS.items()}
    wrong = "an implementation is not the network that it should be"
    harness.run("diffusion", __doc__, problems, report, rounds=5, wrong=wrong)


def measure(problem: Problem, rounds: int) -> dict[str, Any]:
    """Times both implementations of one problem in turns: medians, and a check of each."""
    answers = harness.measure(
        "benchmarks.diffusion_worker", list(IMPLEMENTATIONS), problem._asdict(), rounds
    )
    results = {
        name: harness.summary(found, verdict(problem, found)) | {"versions": versions}
        for name, (found, versions) in answers.items()
    }
    return {"problem": problem._asdict(), "results": results}


def verdict(problem: Problem, rounds: list[dict[str, Any]]) -> str:
    """Returns "right", or what is wrong with the network or its training."""
    count = rounds[-1]["parameters"]
    if count != num_parameters(problem.base):
        return f"wrong: {count} parameters, not {num_parameters(problem.base)}"
    if not rounds[-1]["end"] < rounds[-1]["start"]:
        return f"wrong: the loss went from {rounds[-1]['start']:.4g} to {rounds[-1]['end']:.4g}"
    return "right"


def num_parameters(base: int) -> int:
    """Returns the number of parameters of the U-Net, from its table of layers."""
    wide, embedding = 2 * base, 4 * base

    def conv(a: int, b: int, side: int = 3) -> int:
        return side**2 * a * b + b

    def block(a: int, b: int) -> int:
        shift, norms = embedding * b + b, 2 * a + 2 * b
        return conv(a, b) + conv(b, b) + shift + norms + (conv(a, b, 1) if a != b else 0)

    attention = 4 * conv(wide, wide, 1) + 2 * wide
    level = conv(base, embedding, 1) + conv(embedding, embedding, 1)
    down = 2 * block(base, base) + block(base, wide) + 5 * block(wide, wide) + 2 * attention
    down += conv(base, base) + 2 * conv(wide, wide)
    middle = 2 * block(wide, wide) + attention
    up = 6 * block(2 * wide, wide)  # the two lowest resolutions, where all skips are wide
    up += 2 * block(2 * wide, wide) + block(wide + base, wide) + 3 * attention
    up += block(wide + base, base) + 2 * block(2 * base, base) + 3 * conv(wide, wide)
    return conv(3, base) + level + down + middle + up + 2 * base + conv(base, 3)


def report(found: dict[str, dict[str, Any]]) -> str:
    """Returns a table: milliseconds per call, ratios to ebm_jax, GF/s and share of peak."""
    rows = []
    for title, by_name in found.items():
        ours = by_name["results"].get("ebm_jax")
        for name, result in by_name["results"].items():
            ratio = f"{result['seconds'] / ours['seconds']:.2f}" if ours else "-"
            speed = ours["rounds"][-1]["operations"] / result["seconds"] / 1e9 if ours else 0.0
            peak = ours["rounds"][-1]["peak_speed"] / 1e9 if ours else float("inf")
            rows.append(
                [
                    title,
                    name,
                    *(f"{1e3 * result[f]:.0f}" for f in ("seconds", "least", "most")),
                    ratio,
                    f"{speed:.0f}",
                    f"{100 * speed / peak:.0f}",
                    f"{result['compile_seconds']:.1f}",
                    f"{result['peak_mb']:.0f}",
                    f"{100 * result['others']:.0f}",
                    result["law"],
                ]
            )
    summaries = [result for by_name in found.values() for result in by_name["results"].values()]
    return harness.table(HEAD, rows) + harness.warning(summaries)


if __name__ == "__main__":
    main()
