"""Error of diffusion solvers against the number of function evaluations (NFE).

    python -m experiments.solvers

The data distribution is a mixture of Gaussians on a line with weights .8 and .2. Its denoiser is
known in closed form, so all error is that of the solver. Each solver starts from the prior of a
variance-preserving process and uses times even in log-SNR, with the same NFE. Its error is the
Wasserstein distance from samples to the data distribution (smoothed by the last level), shown
beside the floor: the same distance for as many exact draws.

It takes about a minute and a half on 2 cores, mostly for compilation. Expect DPM-Solver++(2M) at
the floor after 50 evaluations, Heun's methods after 100 to 200, DDIM and Euler after 500, and
stochastic solvers after 500 to 1,000.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure

from ebm_jax import noise, samplers
from ebm_jax.calculus import denoiser_from_score
from ebm_jax.keys import example_keys
from ebm_jax.noise import Process
from ebm_jax.runs.command import command
from ebm_jax.runs.endings import RunError
from ebm_jax.runs.flags import UNSTABLE, finite
from ebm_jax.runs.progress import progress
from ebm_jax.runs.run import Run
from ebm_jax.sharding import spread
from ebm_jax.types import Example, PRNGKey, Scalar

CENTRES, SPREAD = (-1.5, 1.5), 0.4
CHUNK = 1000  # numbers drawn from one key
SHOWN = 50  # NFE at which results list the errors; the report shows all
SOLVERS: dict[str, Callable[[Process], samplers.Solver]] = {
    "DDIM": samplers.ddim,
    "Euler": samplers.euler,
    "Heun": samplers.heun,
    "EDM (Heun in the level)": samplers.edm,
    "DPM-Solver++(2M)": samplers.dpm_solver_pp_2m,
    "ancestral": samplers.ancestral,
    "ancestral, large variance": lambda process: samplers.ancestral(process, large_variance=True),
    "Euler-Maruyama": samplers.euler_maruyama,
    "predictor-corrector": lambda process: samplers.predictor_corrector(process, snr=0.1),
}
PROCESSES = {
    "vp": noise.vp(),
    "ve": noise.ve(sigma_min=0.01, sigma_max=50.0),
    "sub_vp": noise.sub_vp(),
    "cosine": noise.cosine(),
    "edm": noise.edm(sigma_min=0.01, sigma_max=50.0),
}


def main(
    run: Run,
    *,
    process: str = "vp",
    weight: float = 0.8,
    evaluations: tuple[int, ...] = (4, 6, 10, 20, 50, 100, 200, 500, 1000),
    num_samples: int = 100_000,
    seed: int = 0,
) -> None:
    """Runs all solvers at each number of evaluations; writes a figure and a table.

    Args:
        run: the run.
        process: vp, ve, sub_vp, cosine or edm.
        weight: weight of the left mode, between 0 and 1.
        evaluations: numbers of evaluations of the denoiser per sample (NFE); a solver takes as
            many steps as fit.
        num_samples: samples per case, a multiple of 1000.
        seed: seed of all random numbers.
    """
    if process not in PROCESSES:
        raise RunError(f"--process got {process}: give one of {', '.join(PROCESSES)}.")
    if min(evaluations) < 4:
        raise RunError(f"--evaluations got {evaluations}: give numbers of at least 4.")
    if num_samples % CHUNK:
        raise RunError(f"--num-samples got {num_samples}: give a multiple of {CHUNK}.")
    if not run.begin():
        return
    law = PROCESSES[process]
    lowest = float(law.level(jnp.float32(law.t_min)))
    errors: dict[str, dict[int, float]] = {}
    with run.clock("sample"), progress("solve", len(SOLVERS) * len(evaluations)) as advance:
        for name, make in SOLVERS.items():
            errors[name] = {}
            for count in evaluations:
                solver = make(law)
                times = noise.log_snr_times(law, count // solver.evaluations)
                x = draw(solver, times, weight, num_samples, seed)
                taken = samplers.num_evaluations(solver, times, final_denoise=False)
                errors[name][taken] = distance(x, weight, lowest)
                advance(1, name)
    exact = exact_draws(weight, lowest, num_samples, seed)
    floor = distance(exact, weight, lowest)
    np.savez_compressed(
        run.folder / "samples.npz",
        evaluations=np.array([list(row) for row in errors.values()]),
        errors=np.array([list(row.values()) for row in errors.values()]),
    )
    results = {"exact draws": floor}
    for name, row in errors.items():
        taken = min(row, key=lambda n: abs(n - SHOWN))
        results[f"{name}, {taken} evaluations"] = row[taken]
    report(run, errors, floor)
    run.finish(results)


def draw(solver: samplers.Solver, times: Array, weight: float, count: int, seed: int) -> np.ndarray:
    """Draws samples of the mixture by a solver: the final x_t / alpha, without denoising."""
    alpha = solver.process.alpha(times[-1])

    def log_density(x: Scalar, sigma: Scalar) -> Scalar:
        variance = SPREAD**2 + sigma**2
        parts = [
            jnp.log(w) - (x - m) ** 2 / (2 * variance)
            for w, m in zip((weight, 1 - weight), CENTRES, strict=True)
        ]
        return jnp.logaddexp(*parts)

    score = jax.vmap(jax.grad(log_density), (0, None))
    denoise = denoiser_from_score(score)

    def one(key: PRNGKey) -> Example:
        like = jnp.zeros(CHUNK)
        return samplers.sample(solver, denoise, key, like, times, final_denoise=False) / alpha

    keys = example_keys(jax.random.key(seed), jnp.arange(count // CHUNK))
    return finite("calls of a solver", spread(one)(keys), UNSTABLE).ravel()


def exact_draws(weight: float, sigma: float, count: int, seed: int) -> np.ndarray:
    """Draws independent samples of the smoothed mixture."""
    rng = np.random.default_rng(seed)
    centers = np.where(rng.uniform(size=count) < weight, *CENTRES)
    return centers + np.hypot(SPREAD, sigma) * rng.standard_normal(count)


def distance(x: np.ndarray, weight: float, sigma: float) -> float:
    """Returns the 1-Wasserstein distance of samples to the smoothed mixture, on a grid."""
    from scipy.special import ndtr

    line = np.linspace(-8, 8, 20_001)
    scale = np.hypot(SPREAD, sigma)
    left, right = (ndtr((line - m) / scale) for m in CENTRES)
    truth = weight * left + (1 - weight) * right
    found = np.searchsorted(np.sort(x), line) / len(x)
    return float(np.sum(np.abs(found - truth)) * (line[1] - line[0]))


def report(run: Run, errors: dict[str, dict[int, float]], floor: float) -> None:
    """Writes the page: one figure and one table."""
    from ebm_jax.runs import page

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, row in errors.items():
        is_random = name.startswith(("ancestral", "Euler-", "predictor"))
        axes.loglog(list(row), list(row.values()), "o--" if is_random else "o-", ms=3, label=name)
    axes.axhline(floor, color="#888", lw=1, ls=":", label="exact draws")
    axes.set(xlabel="evaluations of the denoiser", ylabel="Wasserstein distance to the law")
    axes.legend(frameon=False, fontsize=8)
    head = ["solver", *(str(n) for n in next(iter(errors.values())))]
    rows = [[name, *(f"{e:.4f}" for e in row.values())] for name, row in errors.items()]
    sections = {
        "Error against evaluations": page.picture(
            run,
            "solvers",
            figure,
            "A line per sampler: its error against the number of evaluations, on log axes.",
            "Solid: deterministic. Dashed: stochastic.",
        ),
        "Wasserstein distances": page.wide_table(head, rows),
    }
    lead = (
        "A mixture of two Gaussians on a line, whose denoiser is known in closed form: whatever "
        "error is left is the solver's."
    )
    page.write_report(run, "Solvers", lead, sections)


if __name__ == "__main__":
    command(main)
