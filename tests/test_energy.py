"""Energies of points, of files and laws: training, chains and likelihood against closed forms."""

import csv
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax
from ebm_jax import recipes, samplers, targets
from ebm_jax.data import DataError, Points, load_points
from ebm_jax.nets import EnergyMLP
from ebm_jax.recipes import ChainSampler, EnergyRecipe, Objective, two_player_adam
from ebm_jax.runs.command import start
from ebm_jax.runs.densities import judge_density, score_matching_losses
from ebm_jax.runs.endings import RunError
from ebm_jax.runs.energies import train_energy
from ebm_jax.runs.points import file_task, fitted_factor, law_task
from ebm_jax.runs.scatter import pair_plots
from experiments import energy
from tests.begun import begun
from tests.statistics import assert_mean, assert_variance

MEAN = np.array([100.0, -2.0, 0.05])
FACTOR = np.array([[20.0, 0, 0], [1.0, 1.5, 0], [0.0, 0.01, 0.02]])
COVARIANCE = FACTOR @ FACTOR.T
RNG = np.random.default_rng(0)
X = MEAN + RNG.normal(size=(4000, 3)) @ FACTOR.T


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int32
        yield


def log_density(x, covariance):
    offset = x - MEAN
    square = np.sum(offset * np.linalg.solve(covariance, offset.T).T, -1)
    return -0.5 * (square + np.linalg.slogdet(2 * np.pi * covariance)[1])


def gaussian_energy(x):
    return 0.5 * jnp.sum((jnp.float32(np.linalg.inv(FACTOR)) @ (x - jnp.float32(MEAN))) ** 2)


# ---- a file, from its rows to samples and likelihood in its own units


@pytest.mark.slow
def test_a_gaussian_file_has_its_likelihood_samples_and_energy_back(tmp_path):
    """The truth is the density of the data smoothed by .1 of each column's standard deviation."""
    path = tmp_path / "points.csv"
    with path.open("w") as file:
        csv.writer(file).writerows([["a", "b", "c, d"], *X.tolist()])
    flags = {"num_steps": 600, "batch_size": 256, "learning_rate": 1e-2, "widths": (32,)}
    flags |= {"num_chains": 1000, "chain_steps": 200, "step_size": 0.1, "anneal_levels": 100}
    run = start(energy.main, str(tmp_path / "run"), data=str(path), loss="exact", **flags)
    found = json.loads((run.folder / "results.json").read_text())

    points = load_points(path)
    smooth = COVARIANCE + 0.1**2 * np.diag(points.train.var(0))
    truth = log_density(points.held_out, smooth).mean()
    for way in ("forward", "reverse"):
        value = found[f"log-likelihood by {way} annealing, held out, nats"]
        assert value == pytest.approx(truth, abs=0.05)
        error = found[f"log-likelihood by {way} annealing, standard error"]
        assert error == pytest.approx(np.sqrt(3 / 2 / len(points.held_out)), rel=0.3)
    inverse = np.linalg.inv(smooth)
    offset = points.held_out - MEAN
    loss = np.mean(np.sum((offset @ inverse) ** 2, -1) / 2) - np.trace(inverse)
    assert found["score-matching loss (exact), held out"] == pytest.approx(loss, rel=0.1)

    saved = np.load(run.folder / "samples.npz")
    samples = saved["samples"]
    deviation = np.sqrt(np.diag(smooth))
    np.testing.assert_allclose((samples.mean(0) - MEAN) / deviation, 0, atol=0.17)
    np.testing.assert_allclose(np.cov(samples.T) / np.outer(deviation, deviation),
                               smooth / np.outer(deviation, deviation), atol=0.25)  # fmt: skip
    with (run.folder / "samples.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    assert head == ["a", "b", "c, d"]
    np.testing.assert_allclose(np.array(lines, float), samples, rtol=1e-6)

    energy_fn = ebm_jax.load(run.folder).energy
    pairs = points.held_out[:100], points.held_out[100:200]
    gaps = [np.asarray(jax.vmap(energy_fn)(jnp.float32(x))) for x in pairs]
    expected = -log_density(pairs[0], smooth) + log_density(pairs[1], smooth)
    error = gaps[0] - gaps[1] - expected
    assert np.sqrt(np.mean(error**2)) < 0.15 * np.std(expected)
    page = (run.folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1


def test_a_law_leaves_a_model_that_draws_its_samples(tmp_path):
    flags = {"num_steps": 20, "num_chains": 64, "chain_steps": 10, "anneal_levels": 5}
    run = start(energy.main, str(tmp_path / "run"), data="moons", **flags)
    found = json.loads((run.folder / "results.json").read_text())
    assert found["KL(smoothed data || model), nats"] > 0.1
    model = ebm_jax.load(run.folder)
    samples = np.load(run.folder / "samples.npz")["samples"]
    keys = ebm_jax.keys.example_keys(jax.random.key(2), jnp.arange(64))
    np.testing.assert_allclose(jax.jit(jax.vmap(model.draw))(keys), samples, atol=1e-4)
    assert model.about["config"]["data"] == "moons"


@pytest.mark.parametrize(
    ("flags", "error", "word"),
    [
        ({"data": "no/such.csv"}, RunError, "give one of eight_gaussians"),
        ({"data": "FILE"}, DataError, "constant"),
        ({"data": "ONE", "loss": "flow_nce"}, RunError, "RealNVP"),
        ({"num_chains": 1}, RunError, "--num-chains got 1"),
        ({"sigma": 0.0}, RunError, "--sigma got 0"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_the_folder(tmp_path, flags, error, word):
    np.save(tmp_path / "constant.npy", np.ones((40, 2)))
    np.save(tmp_path / "one.npy", RNG.normal(size=(40, 1)))
    files = {"FILE": str(tmp_path / "constant.npy"), "ONE": str(tmp_path / "one.npy")}
    flags = {name: files.get(value, value) for name, value in flags.items()}
    with pytest.raises(error, match=word) as refusal:
        start(energy.main, str(tmp_path / "run"), **flags)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_another_file_in_the_same_folder_is_refused(tmp_path):
    flags = {"num_steps": 2, "num_chains": 8, "chain_steps": 1, "anneal_levels": 1}
    path = tmp_path / "p.npy"
    for shift in (0.0, 1.0):
        np.save(path, X[:60] + shift)
        if not shift:
            start(energy.main, str(tmp_path / "run"), data=str(path), **flags)
            continue
        with pytest.raises(RunError, match="points checksum"):
            start(energy.main, str(tmp_path / "run"), data=str(path), **flags)


# ---- its parts


def test_the_judge_of_a_gaussian_energy_is_exact():
    """Its own mean and factor leave weights without variance: log Z has no error."""
    x = X[:500].astype(np.float32)
    gaussian = jnp.float32(MEAN), jnp.float32(FACTOR)
    found = judge_density(gaussian_energy, x, X[500:600], *gaussian, num_levels=2, seed=0)
    truth = log_density(X[:500], COVARIANCE)
    inverse = np.linalg.inv(COVARIANCE)
    losses = np.sum(((X[:500] - MEAN) @ inverse) ** 2, -1) / 2 - np.trace(inverse)
    assert found["score-matching loss (exact), held out"] == pytest.approx(losses.mean(), rel=1e-2)
    error = losses.std(ddof=1) / np.sqrt(500)
    assert found["score-matching loss, standard error"] == pytest.approx(error, rel=1e-2)
    for way in ("forward", "reverse"):
        value = found[f"log-likelihood by {way} annealing, held out, nats"]
        assert value == pytest.approx(truth.mean(), abs=5e-3)
        error = found[f"log-likelihood by {way} annealing, standard error"]
        assert error == pytest.approx(truth.std(ddof=1) / np.sqrt(500), rel=1e-2)


def test_above_64_dimensions_the_loss_is_sliced_and_of_the_same_mean():
    """N(0, I) in 70 dimensions has the loss |x|^2 / 2 - d, and slices by signs are exact there."""
    x = RNG.normal(size=(20, 70)).astype(np.float32)
    found = score_matching_losses(lambda x: 0.5 * jnp.sum(x**2), x, 0)
    np.testing.assert_allclose(found, np.sum(x**2, -1) / 2 - 70, rtol=1e-4)


def test_the_fitted_factor_is_a_root_of_the_covariance():
    mean, factor = fitted_factor(X)
    np.testing.assert_allclose(mean, X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.triu(factor, 1), 0)
    scales = np.outer(X.std(0), X.std(0))
    np.testing.assert_allclose(factor @ factor.T / scales, np.cov(X.T) / scales, atol=2e-3)
    wide = RNG.normal(size=(40, 301)) * np.linspace(1, 2, 301)
    np.testing.assert_allclose(fitted_factor(wide)[1], wide.std(0), rtol=1e-5)


def test_a_file_is_standardized_by_what_is_trained_on_and_split_in_three():
    points = Points(X[:1000], X[1000:1200], ("a", "b", "c"))
    task = file_task(
        points, EnergyMLP((4,)), sigma=0.3, batch_size=1800, chain_steps=1, step_size=None, seed=0
    )
    [batch] = task.batches(0, 1)[:]  # 1,800 of 900 rows: each of them twice
    np.testing.assert_allclose(batch.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(batch.std(0), 1, atol=1e-4)
    assert len(task.validation) == 100
    inside = np.concatenate(
        [task.inside(task.validation), batch[np.unique(batch[:, 0], return_index=True)[1]]]
    )
    everything = task.inside(points.train)
    np.testing.assert_allclose(np.sort(inside[:, 0]), np.sort(everything[:, 0]), atol=1e-4)
    np.testing.assert_array_equal(task.held_out, points.held_out.astype(np.float32))
    assert_variance(task.problem.draws, np.full(3, 1 + 0.3**2), mean=0.0)
    starts = jax.vmap(task.problem.start)(jax.random.split(jax.random.key(0), 3000))
    draws = np.asarray(task.problem.draws)
    assert_mean(starts, draws.mean(0))
    assert_variance(starts, draws.var(0), mean=draws.mean(0))
    np.testing.assert_allclose(
        task.gaussian[0], task.center + task.scale * draws.mean(0), rtol=1e-3
    )


def test_a_law_is_judged_by_other_draws_than_it_is_trained_on():
    law = targets.eight_gaussians()
    task = law_task(
        law, EnergyMLP((4,)), sigma=0.3, batch_size=2000, num_held_out=2000, chain_steps=1,
        step_size=None, seed=0,
    )  # fmt: skip
    [batch] = task.batches(0, 1)
    variance = 2.83**2 / 2 + 0.35**2
    assert_variance(batch, np.full(2, variance), mean=0.0)
    assert_variance(task.held_out, np.full(2, variance + 0.3**2), mean=0.0)
    assert_variance(task.problem.draws, np.full(2, variance + 0.3**2), mean=0.0)
    assert task.center is None
    assert task.inside(task.held_out) is task.held_out


def test_the_model_with_the_lowest_validation_loss_is_kept(tmp_path):
    """Its only parameter that moves is log_precision, which a loss drives to 1 by way of 0."""
    net = EnergyMLP((2,))

    def init(key):
        flat = jax.tree.map(jnp.zeros_like, net.init(key, jnp.zeros(2)))
        flat["params"]["log_precision"] = jnp.float32(-1.0)
        return {"energy": flat}

    def loss(params, key, x):
        return (params["energy"]["params"]["log_precision"] - 1.0) ** 2

    objective = Objective(loss, init)
    kernel = partial(samplers.mala, step_size=0.1)
    recipe = EnergyRecipe(
        net, objective, partial(two_player_adam, objective, 0.05), 0.0, 2, 60, (2,),
        ChainSampler(kernel, 1, recipes.normal_start),
    )  # fmt: skip
    batches = lambda first, count: jnp.zeros((count, 2, 2))  # noqa: E731
    run = begun("energy", str(tmp_path / "run"), {})

    def validate(model):
        return float(jnp.abs(model.params["params"]["log_precision"]))

    model = train_energy(run, recipe, batches, seed=0, steps_per_call=5, validate=validate)
    rows = [float(row["validation_loss"]) for row in run.rows()]
    best = int(np.argmin(rows))
    assert 0 < best < len(rows) - 1
    assert validate(model) == pytest.approx(min(rows), abs=1e-6)
    assert model.about["steps"] == 5 * (best + 1)
    last = train_energy(
        begun("energy", str(tmp_path / "last"), {}), recipe, batches, seed=0, steps_per_call=5
    )
    assert validate(last) > 0.3
    assert ebm_jax.load(tmp_path / "last").about["steps"] == 60


def test_pairs_show_at_most_five_columns():
    figure = pair_plots(RNG.normal(size=(50, 7)), RNG.normal(size=(60, 7)), list("abcdefg"))
    assert len(figure.axes) == 25
    assert [axes.get_xlabel() for axes in figure.axes[-5:]] == list("abcde")
    below, above = figure.axes[5], figure.axes[1]
    assert (len(below.lines[0].get_xdata()), len(above.lines[0].get_xdata())) == (50, 60)
