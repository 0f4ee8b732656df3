"""Published recipes against the publications' own numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import nets, noise, recipes
from ebm_jax.data import largest_distance
from ebm_jax.nets import precondition

NAMES = sorted(recipes.RECIPES)


def test_the_ratio_and_number_of_levels_of_ncsnv2_come_back():
    """232 levels from 50 to .01 in a ratio of 1.03756, at D = 3072: an overlap of .567."""
    ratio = recipes.ladder_ratio(3072, overlap=0.567)
    assert ratio == pytest.approx(1.03756, abs=2e-4)
    assert 1 + round(np.log(50 / 0.01) / np.log(ratio)) == pytest.approx(232, abs=1)
    assert ratio > recipes.ladder_ratio(3072, overlap=0.6)  # more overlap, closer levels


def test_the_overlap_is_the_share_of_radii_within_three_deviations():
    """Against draws of |x| in 50 dimensions."""
    d, overlap = 200, 0.5
    ratio = recipes.ladder_ratio(d, overlap=overlap)
    rng = np.random.default_rng(0)
    radii = ratio * np.linalg.norm(rng.standard_normal((20_000, d)), axis=1)
    deviation = ratio * np.sqrt(0.5)  # of the upper level's radius, as the paper's interval has
    inside = np.mean(np.abs(radii - np.sqrt(d)) < 3 * deviation)
    assert inside == pytest.approx(overlap, abs=0.03)


def test_the_step_size_of_ncsnv2_comes_back():
    """epsilon = r sigma_L^2 = 6.2e-6 for 5 steps a level on CIFAR-10."""
    r = recipes.annealing_step_ratio(1.03756, 5)
    assert r * 0.01**2 == pytest.approx(6.18e-6, rel=0.01)


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_the_step_ratio_leaves_the_noise_nearest_to_the_levels(steps):
    """Against the recursion v -> (1 - r)^2 v + 2 r of data of one point, sigma = 1."""
    ratio = 1.1

    def left(r):
        v = ratio**2
        for _ in range(steps):
            v = (1 - r) ** 2 * v + 2 * r
        return abs(v - 1)

    best = recipes.annealing_step_ratio(ratio, steps)
    assert left(best) <= min(left(best * 0.97), left(min(1.0, best * 1.03))) + 1e-9


def test_a_ladder_from_data_spans_its_largest_distance():
    data = jnp.float32(np.random.default_rng(0).uniform(-1, 1, (50, 4, 4, 3)))
    ladder = recipes.ladder_from_data(data, 0.02)
    assert float(ladder[0]) == pytest.approx(float(largest_distance(data)), rel=1e-5)
    assert float(ladder[-1]) == pytest.approx(0.02, rel=1e-4)
    ratio = float(ladder[0] / ladder[1])
    assert np.log(ratio) == pytest.approx(np.log(recipes.ladder_ratio(48)), rel=0.05)


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("ncsn/cifar10", 0.02, 2.0),
        ("ncsnv2/cifar10", 0.02, 100.0),
        ("ncsnpp/cifar10", 0.02, 100.0),
        ("ddpm/cifar10", 0.01, 158.0),
        ("edm/cifar10", 0.0, np.inf),
    ],
)
def test_levels_of_training_span_what_was_published(name, lowest, highest):
    u = jnp.linspace(0, 1 - 1e-6, 1000)
    sigmas = np.asarray(jax.vmap(recipes.recipe(name).level)(u))
    if np.isfinite(highest):
        np.testing.assert_allclose([sigmas.min(), sigmas.max()], [lowest, highest], rtol=0.01)
    else:
        logs = np.log(sigmas)
        np.testing.assert_allclose([logs.mean(), logs.std()], [-1.2, 1.2], rtol=0.02)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("ncsn/cifar10", 30_117_635),
        ("ncsnv2/cifar10", 29_694_083),
        ("ncsnpp/cifar10", 62_758_915),
        ("ddpm/cifar10", 35_746_307),
        ("edm/cifar10", 55_733_891),
    ],
)
def test_networks_have_the_published_numbers_of_parameters(name, count):
    """29.7M for NCSNv2, 35.7M for DDPM, 55.7M for EDM; NCSN and NCSN++ by their tables."""
    recipe = recipes.recipe(name)
    like = jax.ShapeDtypeStruct((32, 32, 3), jnp.float32)
    start = partial(nets.initial_parameters, recipe.net, recipe.wrap)
    params = jax.eval_shape(start, jax.random.key(0), like)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == pytest.approx(count, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "evaluations"),
    [
        ("ncsn/cifar10", 1000),
        ("ncsnv2/cifar10", 232 * 5 + 1),
        ("ncsnpp/cifar10", 2001),
        ("ddpm/cifar10", 1000),
        ("edm/cifar10", 35),
    ],
)
def test_samplers_take_the_published_number_of_evaluations_and_end_on_the_data(name, evaluations):
    """With the closed-form denoiser of a point mass at .3, which clipping leaves alone."""
    calls = []

    def denoise(x, sigma):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.full_like(x, 0.3)

    recipe = recipes.recipe(name)
    assert recipe.sampler.evaluations == evaluations
    x = jax.jit(lambda key: recipe.sampler(denoise, key, jnp.zeros((4, 4, 1))))(jax.random.key(0))
    jax.effects_barrier()
    assert len(calls) == evaluations
    np.testing.assert_allclose(x, 0.3, atol=5 * 0.03)  # NCSN keeps noise of its last level


def test_the_index_of_a_level_is_its_place_on_the_ladder():
    sigmas = noise.geometric(2.0, 0.02, 10)
    denoise = precondition.by_index(
        lambda x, i: jnp.full_like(x, i.astype(jnp.float32)), sigmas=sigmas
    )
    for i in (0, 4, 9):
        found = denoise(jnp.zeros(2), sigmas[i] * 1.05)
        np.testing.assert_allclose(found, i * (1.05 * float(sigmas[i])) ** 2, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recipes.recipe("magic"), "`recipe` got 'magic': give one of ddpm/cifar10"),
        (lambda: recipes.ladder_ratio(0), "`ladder_ratio` got num_dimensions=0"),
        (lambda: recipes.ladder_ratio(5, overlap=1.0), "overlap=1.0"),
        (lambda: recipes.annealing_step_ratio(1.0, 5), "`annealing_step_ratio` got ratio=1.0"),
        (lambda: recipes.annealing_step_ratio(1.1, 0), "steps_per_level=0"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
