"""Noise-contrastive estimation (NCE) of log Z: its error against the number of noise samples.

    python -m experiments.nce_logz

A classifier of data against noise learns an energy and its log Z. Here the data distribution has
a known energy and log Z. The noise is a Gaussian fitted to it, or a flow trained on it. Each fit
has its own data and nu noise points per data point. It learns log Z with the energy known; or
log Z and the inverse temperature b of an energy b E(x), whose true value is 1.

The variance of a fit to n data is known for large n [1], and computed here by quadrature:

    n Var = I^-1 - (1 + 1/nu) I^-1 m m^T I^-1,   I = E[P g g^T],   m = E[P g],

where P(x) = nu q / (p + nu q) is the share of noise at x, g the gradient of log p in the
parameters, and E the mean over the data. With the energy known, the error falls as nu^-1/2 if
the chi-square divergence of data from noise is finite. With b learned as well, it falls to the
error of maximum likelihood, which no amount of noise improves.

It takes under a minute on 2 cores. Expect points on the lines, with the flow's below the
Gaussian's.

References:
    [1] Gutmann & Hyvarinen, Noise-contrastive estimation of unnormalized statistical
        models, JMLR 13, 2012, theorem 3.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from ebm_jax import likelihood, losses, targets
from ebm_jax.keys import example_keys
from ebm_jax.nets import RealNVP
from ebm_jax.runs.command import command
from ebm_jax.runs.endings import RunError
from ebm_jax.runs.progress import progress
from ebm_jax.runs.run import Run
from ebm_jax.runs.training import fresh_batches, train
from ebm_jax.sharding import spread
from ebm_jax.targets import Target, log_density
from ebm_jax.types import Example, PRNGKey, Scalar

HALF_WIDTH = 7.0  # of the square of quadrature; the distributions lie within about 4
NEWTON_STEPS = 12
FITS_PER_CALL = 4
MODELS = {"energy known": 1, "temperature learned": 2}  # number of parameters: log Z, then b
COLOURS = {"Gaussian": "#cc6622", "flow": "#225588"}
Name = Literal["eight_gaussians", "two_spirals", "rings", "moons"]
ByCase = dict[tuple[str, str], np.ndarray]  # by model and noise


def main(
    run: Run,
    *,
    data: Name = "eight_gaussians",
    nus: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64),
    num_fits: int = 60,
    num_data: int = 1000,
    num_steps: int = 1500,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> None:
    """Learns log Z by noise-contrastive estimation and compares it with the truth.

    Args:
        run: the run.
        data: data distribution, with known energy and log Z.
        nus: numbers of noise points per data point.
        num_fits: number of independent fits, each with its own data and noise.
        num_data: data points per fit.
        num_steps: optimization steps of the flow, by maximum likelihood.
        batch_size: fresh examples per step of the flow.
        learning_rate: peak learning rate of Adam, decayed to 0 by a cosine.
        seed: seed of all random numbers.
    """
    run.machine.mesh_for(batch_size)
    if not run.begin():
        return
    target: Target = getattr(targets, data)()
    net = RealNVP((2,))

    def loss(params: PyTree, key: PRNGKey, x: Example) -> Scalar:
        return net.apply(params, x)

    batches = fresh_batches(target.draw, seed + 1, batch_size)
    params = jax.jit(net.init)(jax.random.key(seed), jnp.zeros(2))
    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    state = train(
        run, loss, params, adam, batches,
        num_steps=num_steps, batch_size=batch_size, seed=seed, ema_decay=0.99, steps_per_call=100,
    )  # fmt: skip
    draw = partial(net.apply, state.ema, method="draw")
    examples = batches(0, -(-num_data // batch_size)).reshape(-1, 2)
    noises = {
        "Gaussian": targets.fitted_gaussian(examples),
        "flow": Target(draw, partial(net.apply, state.ema), log_z=0.0),
    }
    with run.clock("fit"):
        learned = fit_all(run, target, noises)
    with run.clock("theory"):
        expected = standard_errors(target, noises, nus, num_data)
    saved: dict[str, Any] = {", ".join(case): log_z for case, log_z in learned.items()}
    np.savez_compressed(run.folder / "samples.npz", nus=nus, **saved)
    run.finish(report(run, target, learned, expected))


def fit_all(run: Run, target: Target, noises: dict[str, Target]) -> ByCase:
    """Returns the log Z learned by each fit, as arrays (fits, nus).

    Raises:
        RunError: The noise has no support at some of the data, or a fit did not converge.
    """
    nus, num_fits = run.config["nus"], run.config["num_fits"]
    solvers = {name: spread(partial(newton, size)) for name, size in MODELS.items()}
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    with progress("fit", num_fits * len(noises)) as advance:
        for i, (name, noise) in enumerate(noises.items()):
            keys = example_keys(jax.random.key(run.config["seed"] + 2 + i), jnp.arange(num_fits))
            many = spread(partial(features, target, noise, run.config["num_data"], max(nus)))
            for first in range(0, num_fits, FITS_PER_CALL):
                x, y = many(keys[first : first + FITS_PER_CALL])
                try:
                    losses.check_noise(lambda point: point[1], x.reshape(-1, 2))
                except ValueError as error:
                    raise RunError(f"{name} noise: {error}") from error
                for model, solve in solvers.items():
                    fits = np.stack([solve(x, y[:, :, :nu]) for nu in nus], -1)
                    if not np.all(fits[1] < 1e-3):
                        raise RunError("a fit did not converge: give a larger --num-data.")
                    parts.setdefault((model, name), []).append(fits[0])
                advance(len(x), name)
    return {case: np.concatenate(part) for case, part in parts.items()}


def features(
    target: Target, noise: Target, num_data: int, nu: int, key: PRNGKey
) -> tuple[Float[Array, "n 2"], Float[Array, "n nu 2"]]:
    """Returns data and noise of one fit, each point as (E, log q), which is all the loss needs."""
    key_data, key_noise = jax.random.split(key)
    energy, log_q = target.energy, log_density(noise)
    assert energy is not None

    def point(law: Target, key: PRNGKey) -> Float[Array, " 2"]:
        x = law.draw(key)
        return jnp.stack([energy(x), log_q(x)])

    x = jax.vmap(partial(point, target))(jax.random.split(key_data, num_data))
    keys = jax.random.split(key_noise, (num_data, nu))
    return x, jax.vmap(jax.vmap(partial(point, noise)))(keys)


def newton(size: int, x: Float[Array, "n 2"], y: Float[Array, "n nu 2"]) -> tuple[Scalar, Scalar]:
    """Returns log Z at the minimum of the NCE loss, and the largest remaining gradient entry.

    The loss is convex. Newton's method starts where the log-ratio of model and noise is 0
    on average over the data, which is KL(p || q) away from log Z.
    """

    def mean_loss(params: Array) -> Scalar:
        def one(x: Array, y: Array) -> Scalar:
            b = 1.0 if size == 1 else params[1]
            return losses.noise_contrastive(lambda u: b * u[0], lambda u: u[1], x, y, params[0])

        return jnp.mean(jax.vmap(one)(x, y))

    def step(params: Array, _: None) -> tuple[Array, None]:
        change = jnp.linalg.solve(jax.hessian(mean_loss)(params), jax.grad(mean_loss)(params))
        return params - change, None

    start = jnp.ones(size).at[0].set(-jnp.mean(jnp.sum(x, -1)))
    params, _ = jax.lax.scan(step, start, None, length=NEWTON_STEPS)
    return params[0], jnp.max(jnp.abs(jax.grad(mean_loss)(params)))


def standard_errors(
    target: Target, noises: dict[str, Target], nus: tuple[int, ...], num_data: int
) -> ByCase:
    """Returns standard errors of log Z for each of `nus` and their limit: theorem 3 of [1]."""
    grid = likelihood.square_grid(HALF_WIDTH, 400)

    def on_grid(law: Target) -> np.ndarray:
        return np.asarray(jax.jit(jax.vmap(log_density(law)))(grid), np.float64)

    def variance(g: np.ndarray, log_ratio: np.ndarray, nu: float) -> float:
        weight = p * np.exp(-np.logaddexp(0, log_ratio - np.log(nu)))
        inverse = np.linalg.inv((weight * g) @ g.T)
        lead = inverse[0] @ (weight * g).sum(1)
        return max(inverse[0, 0] - (1 + 1 / nu) * lead**2, 0.0)

    log_p = on_grid(target)
    p = np.exp(log_p) / np.exp(log_p).sum()
    gradient = np.stack([-np.ones_like(log_p), log_p + target.log_z])
    ratios = {name: log_p - on_grid(noise) for name, noise in noises.items()}
    return {
        (model, name): np.sqrt(
            [variance(gradient[:size], r, nu) / num_data for nu in (*nus, np.inf)]
        )
        for model, size in MODELS.items()
        for name, r in ratios.items()
    }


def report(run: Run, target: Target, learned: ByCase, expected: ByCase) -> dict[str, float]:
    """Writes the page: error against nu beside the theory, and all means; returns the errors."""
    from ebm_jax.runs import charts, page

    nus, rows, results = np.array(run.config["nus"]), [], {}
    figure = page.Figure(figsize=(8, 3.2), layout="constrained")
    panels = dict(zip(MODELS, figure.subplots(1, len(MODELS), sharey=True), strict=True))
    for (model, noise), values in learned.items():
        squares, theory = (values - target.log_z) ** 2, expected[model, noise]
        error, width = np.sqrt(squares.mean(0)), values.std(0) / len(values) ** 0.5
        for i, nu in enumerate(nus):
            mean = f"{values[:, i].mean():.4f} +- {width[i]:.4f}"
            rows.append((model, noise, str(nu), mean, f"{error[i]:.4f}", f"{theory[i]:.4f}"))
            results[f"error, {model}, {noise}, nu {nu}"] = float(error[i])
        bar = squares.std(0) / len(squares) ** 0.5 / (2 * error)
        axis, color = panels[model], COLOURS[noise]
        axis.errorbar(nus, error, bar, fmt="o", ms=3.5, capsize=2, color=color, label=noise)
        axis.plot(nus, theory[:-1], lw=1, color=color)
        if theory[-1] > 0:
            axis.axhline(theory[-1], color="#888888", lw=1, ls=":")
        axis.set(xscale="log", yscale="log", title=model, xlabel="nu, noise points a data point")
        axis.set_xticks(nus, nus)
        axis.set_xticks([], minor=True)
    axis = panels["energy known"]
    guide = 1.6 * expected["energy known", "Gaussian"][0] * (nus / nus[0]) ** -0.5
    axis.plot(nus, guide, "--", lw=1, color="#888888", label="slope -1/2")
    axis.set_ylabel("root mean squared error of log Z")
    axis.legend(frameon=False)
    head = ("model", "noise", "nu", "mean learned log Z", "root mean squared error", "theory")
    caption = (
        "Points: fits, which share data and noise along a line. Lines: theory for many data. "
        "Dotted: maximum likelihood, the limit of much noise."
    )
    sections = {
        "Error against noise": page.picture(
            run,
            "error",
            figure,
            "Standard errors of log Z against the ratio of noise to data, beside theory.",
            caption,
        ),
        "Figures": page.wide_table(head, rows),
        "The flow": charts.curves(run),
    }
    lead = f"Noise-contrastive estimation on {run.config['data']}: log Z is {target.log_z:.4f}."
    page.write_report(run, "Learned log Z against the truth", lead, sections)
    return results


if __name__ == "__main__":
    command(main)
