"""Energies as recipes: chains as samplers, objectives, and runs that leave a model."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax
from ebm_jax import losses, nets, recipes, samplers, targets
from ebm_jax.recipes import (
    ENERGY_METHODS,
    TRUE_SCORE,
    ChainSampler,
    EnergyProblem,
    Objective,
    chain_losses,
    energy_losses,
    two_player_adam,
)
from ebm_jax.runs import save_model
from ebm_jax.runs.command import start
from ebm_jax.runs.drawing import draw_images
from ebm_jax.runs.endings import RunError
from ebm_jax.runs.models import Model
from ebm_jax.training import init_state, make_step
from experiments import compare_losses, energy_cd
from tests.statistics import assert_mean, assert_variance

MEAN = np.array([5.0, -300.0], np.float32)
COVARIANCE = np.array([[4.0, 30.0], [30.0, 400.0]], np.float32)  # correlation .75
FACTOR = np.linalg.cholesky(COVARIANCE)


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int32
        yield


def correlated(x):
    offset = jnp.linalg.solve(jnp.asarray(FACTOR), x - MEAN)
    return 0.5 * jnp.sum(offset**2)


# ---- chains as samplers


def many(sampler, energy_fn, like, count=4000, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: sampler(energy_fn, key, like)))(keys))


@pytest.mark.parametrize("factor", [FACTOR, np.array([1.0, 10.0], np.float32)])
def test_chains_sample_an_energy_in_the_units_of_the_data(factor):
    """MALA keeps N(m, C): from draws of it (the matrix) and from others (the diagonal) alike."""
    kernel = partial(samplers.mala, step_size=0.5)
    sampler = ChainSampler(kernel, 60, recipes.normal_start, jnp.array(MEAN), jnp.array(factor))
    x = many(sampler, correlated, jnp.zeros(2))
    assert_mean(x, MEAN)
    assert_variance(x, np.diag(COVARIANCE), mean=MEAN)
    centred = (x - MEAN) / np.sqrt(np.diag(COVARIANCE))
    assert_mean(centred[:, 0] * centred[:, 1], 0.75)


def test_without_steps_to_take_a_chain_ends_where_it_starts():
    """One step of size 0+: N(center, factor^2), and the uniform law on [-2, 4]^2."""
    kernel = partial(recipes.langevin_kernel, step_size=1e-12)
    flat = lambda x: 0.0 * jnp.sum(x)  # noqa: E731
    normal = ChainSampler(kernel, 1, recipes.normal_start, jnp.array(MEAN), jnp.array(FACTOR))
    x = many(normal, flat, jnp.zeros(2))
    assert_mean(x, MEAN)
    assert_variance(x, np.diag(COVARIANCE), mean=MEAN)
    uniform = ChainSampler(kernel, 1, partial(recipes.uniform_start, low=-2.0, high=4.0))
    x = many(uniform, flat, jnp.zeros((3, 1)))
    assert x.shape == (4000, 3, 1)
    assert_mean(x, np.ones((3, 1)))
    assert_variance(x, np.full((3, 1), 3.0), mean=1.0)


def test_a_chain_recipe_as_a_sampler_takes_the_recipe_s_own_steps():
    """A constant slope of 1 from U[-1, 1]: clipped to .03, ten times, down to the wall at -1."""
    sampler = recipes.chain_sampler(recipes.short_run._replace(noise=1e-9), 10)
    x = many(sampler, jnp.sum, jnp.zeros(2))
    np.testing.assert_allclose(x, -1.0, atol=1e-5)
    walk = recipes.chain_sampler(recipes.convergent, 1)  # a flat energy adds N(0, noise^2) alone
    x = many(walk, lambda x: 0.0 * jnp.sum(x), jnp.zeros(2))
    assert_variance(x, np.full(2, 1 / 3 + recipes.convergent.noise**2), mean=0.0)


def test_an_energy_saved_with_its_chains_draws_the_same_samples(tmp_path):
    net = nets.EnergyMLP((8,))
    params = net.init(jax.random.key(0), jnp.zeros(2))
    sampler = ChainSampler(
        partial(samplers.mala, step_size=0.5), 5, recipes.normal_start, jnp.array(MEAN),
        jnp.array(FACTOR),
    )  # fmt: skip
    model = Model(net, params, (2,), sampler=sampler, center=jnp.array(MEAN), scale=jnp.ones(2))
    save_model(tmp_path / "model.safetensors", model)
    drawn = [m.draw(jax.random.key(3)) for m in (ebm_jax.load(tmp_path), model)]
    np.testing.assert_array_equal(*drawn)


# ---- objectives


def a_problem(dimension=3, sigma=0.3, count=500):
    law = targets.gaussian(jnp.zeros(dimension), 1.0).smoothed(sigma)
    draws = jax.vmap(law.draw)(jax.random.split(jax.random.key(5), count))
    net = nets.EnergyMLP((16,))
    return EnergyProblem(net, sigma, draws, law.draw, law.score)


@pytest.mark.parametrize("name", ENERGY_METHODS)
@pytest.mark.parametrize("dimension", [pytest.param(2, marks=pytest.mark.slow), 5])
def test_every_method_trains_in_any_dimension(name, dimension):
    """A few steps: a finite loss, and a gradient that reaches the energy."""
    problem = a_problem(dimension)
    objective = ENERGY_METHODS[name].objective(problem)
    optimizer = two_player_adam(objective, 1e-3, 10)
    params = objective.init(jax.random.key(0))
    memory = objective.memory(jax.random.key(1))
    state = init_state(params, optimizer, jax.random.key(2), memory)
    step = jax.jit(make_step(objective.loss, optimizer, prepare=objective.prepare))
    state, metrics = step(state, problem.draws[:16])
    assert np.isfinite(metrics["loss"])
    before, after = (jax.tree.leaves(p["energy"]) for p in (params, state.params))
    assert any(np.any(a != b) for a, b in zip(before, after, strict=True))


def test_the_true_score_is_asked_for_by_name():
    with pytest.raises(ValueError, match="without the true score"):
        ENERGY_METHODS[TRUE_SCORE].objective(a_problem()._replace(score=None))


def test_exact_score_matching_of_a_problem_is_that_of_its_energy():
    """The loss of a quadratic energy r/2 |x|^2 is r^2 |x|^2 / 2 - r d."""
    problem = a_problem()
    params = problem.init(jax.random.key(0))
    flat = jax.tree.map(jnp.zeros_like, params)
    precision = flat["energy"]["params"]["log_precision"] + jnp.log(0.7)
    flat["energy"]["params"]["log_precision"] = precision
    x = jnp.array([1.0, -2.0, 0.5])
    found = energy_losses.exact(problem).loss(flat, jax.random.key(0), x)
    expected = 0.7**2 * float(jnp.sum(x**2)) / 2 - 0.7 * 3
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def fixed(prepare=None, clean=False):
    """The objective whose loss is the first entry of its example."""
    return Objective(lambda params, key, x: x[0] + 0.0 * jnp.sum(params), jnp.zeros, prepare,
                     clean=clean)  # fmt: skip


def test_smoothing_adds_noise_of_sigma_to_the_examples_of_a_loss():
    loss = fixed().smoothed(0.5).loss
    keys = jax.random.split(jax.random.key(1), 4000)
    values = jax.vmap(lambda key: loss(jnp.zeros(1), key, jnp.full(2, 3.0)))(keys)
    assert_mean(values, 3.0)
    assert_variance(values, 0.25, mean=3.0)
    own = fixed(clean=True)
    assert own.smoothed(0.5) is own


def test_smoothing_adds_noise_before_chains_start_at_the_data():
    """The pair that CD-0 would make: both hold the same noisy example, noise by example."""

    def prepare(params, key, memory, x):
        return memory, (x, x), {}

    smoothed = fixed(prepare).smoothed(0.5)
    x = jnp.full((4000, 2), 3.0)
    _, (data, model), _ = smoothed.prepare(jnp.zeros(1), jax.random.key(1), (), x)
    np.testing.assert_array_equal(data, model)
    assert_mean(data, np.full(2, 3.0))
    assert_variance(data, np.full(2, 0.25), mean=3.0)
    assert smoothed.smoothed(0.5) is smoothed  # the noise is added once


def test_image_chains_learn_from_noisy_data_and_rest_energies():
    """On E = a constant c: no contrast, and the penalty weight (c^2 + c^2)."""
    recipe = recipes.short_run._replace(energy_penalty=0.25, data_noise=0.4, buffer_size=4)
    net = nets.ConvEnergy((8,))
    shape = (8, 8, 1)
    objective = chain_losses.persistent_on_images(recipe, net, shape, 10)
    params = jax.tree.map(jnp.zeros_like, objective.init(jax.random.key(0)))
    params["energy"]["params"]["Dense_0"]["bias"] = jnp.array([3.0])
    params["energy"]["params"]["log_precision"] = jnp.float32(-100.0)
    pair = (jnp.zeros(shape), jnp.ones(shape))
    found = objective.loss(params, jax.random.key(1), pair)
    expected = 0.25 * float(losses.squared_energies(lambda x: jnp.float32(3.0), *pair))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    params["energy"]["params"]["log_precision"] = jnp.log(jnp.float32(1.0))
    params["energy"]["params"]["Dense_0"]["bias"] = jnp.array([0.0])
    free = chain_losses.persistent_on_images(recipe._replace(energy_penalty=0.0), net, shape, 10)
    keys = jax.random.split(jax.random.key(2), 2000)
    found = jax.vmap(lambda key: free.loss(params, key, (pair[0], pair[0])))(keys)
    assert_mean(found, 64 * 0.4**2 / 2)  # E(data) of noise alone, E(model) = 0
    assert objective.memory(jax.random.key(3)).x.shape == (4, *shape)
    assert free.memory(jax.random.key(3)).x.shape == (4, *shape)
    one_each = chain_losses.persistent_on_images(recipe._replace(buffer_size=None), net, shape, 10)
    assert one_each.memory(jax.random.key(3)).x.shape == (10, *shape)


def test_a_published_factor_is_part_of_the_energy():
    net = nets.ConvEnergy((8,))
    x = jax.random.normal(jax.random.key(0), (8, 8, 1))
    params = net.init(jax.random.key(1), x)
    scaled = nets.ConvEnergy((8,), scale=2.5).apply(params, x)
    np.testing.assert_allclose(scaled, 2.5 * net.apply(params, x), rtol=1e-6)


# ---- runs


@pytest.mark.slow
def test_energy_cd_leaves_a_model_that_draws_its_samples(tmp_path):
    flags = {"num_steps": 4, "num_samples": 8, "sample_steps": 5, "channels": (8, 8)}
    run = start(energy_cd.main, str(tmp_path / "run"), **flags)
    model = ebm_jax.load(run.folder)
    saved = np.load(run.folder / "samples.npz")["samples"]
    np.testing.assert_array_equal(draw_images(model.draw, 8, 2), saved)
    found = json.loads((run.folder / "results.json").read_text())
    assert found["effective temperature"] == pytest.approx(1.25e-6)
    assert "age" in run.rows()[-1]
    assert {"energy_gap", "saturation"} <= set(run.rows()[-1])
    assert model.about["steps"] == 4


def test_a_network_that_takes_no_such_images_is_refused_before_the_folder(tmp_path):
    pixels = np.zeros((40, 4, 4, 1), np.uint8)
    np.savez(tmp_path / "small.npz", images=pixels)
    with pytest.raises(RunError, match="sides of at least 8 pixels"):
        start(energy_cd.main, str(tmp_path / "run"), data=str(tmp_path / "small.npz"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_compare_losses_keeps_finished_cells_and_judges_by_quadrature(tmp_path):
    """With the true score a short training comes within .5 nats of the law, in one of its cells."""
    flags = {"data": ("moons",), "only": (TRUE_SCORE,), "effort": 0.1, "num_seeds": 2}
    run = start(compare_losses.main, str(tmp_path / "run"), **flags)
    [row] = run.rows(("data", "loss"))
    assert 0 < float(row["KL"]) < 0.5
    assert float(row["weights"]) < 0.2
    assert (run.folder / "report.html").read_text().count("data:image/png;base64,") == 1


def test_compare_losses_refuses_a_loss_that_it_does_not_know(tmp_path):
    with pytest.raises(RunError, match="--only got"):
        start(compare_losses.main, str(tmp_path / "run"), only=("magic",))
    assert not (tmp_path / "run").exists()
