"""A diffusion recipe is its parts: loss, labels, optimizer and samplers, each against the parts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ebm_jax import losses, nets, noise, samplers
from ebm_jax.data import dequantize, mirror
from ebm_jax.ema import ramped
from ebm_jax.keys import example_keys
from ebm_jax.nets import precondition
from ebm_jax.recipes import AnnealedSampler, DiffusionRecipe, Optimizer, SolverSampler
from ebm_jax.samplers import num_evaluations
from tests.gaussian_data import gaussian_denoiser, gaussian_flow
from tests.statistics import assert_mean, assert_normal

SHAPE = (8, 8, 1)
RECIPE = DiffusionRecipe(
    net=nets.ConvScore((8,), 1, num_classes=3),
    wrap=precondition.edm,
    objective=losses.edm,
    level=noise.log_normal_level,
    sampler=SolverSampler(samplers.edm, noise.edm, noise.karras(80.0, 0.002, 5)),
    optimizer=Optimizer(1e-3),
    ema=ramped(0.9),
    batch_size=4,
    num_steps=10,
    shape=SHAPE,
    names=("a", "b", "c"),
)
PIXELS = jnp.asarray(np.random.default_rng(0).integers(0, 256, SHAPE), jnp.uint8)


@pytest.fixture(scope="module")
def params():
    start = nets.initial_parameters(RECIPE.net, RECIPE.wrap, jax.random.key(0), jnp.zeros(SHAPE))
    leaves, structure = jax.tree.flatten(start)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def by_hand(params, key, label, flip):
    """The loss of one image, part by part."""
    key_pixels, key_flip, _, _, key_noise = jax.random.split(key, 5)
    x = dequantize(key_pixels, PIXELS)
    x = mirror(key_flip, x) if flip else x

    def raw(x, level):
        return RECIPE.net.apply(params, x, level, label)

    return losses.edm(precondition.edm(raw), key_noise, x, jnp.float32(0.7))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("dropout", "seen"), [(0.0, 1), (1.0, 3)])
def test_the_loss_shows_the_label_or_hides_it_as_no_label(params, dropout, seen, flip):
    recipe = RECIPE._replace(label_dropout=dropout, flip=flip)
    example = PIXELS, jnp.float32(0.7), jnp.int32(1)
    found = [recipe.loss(params, jax.random.key(i), example) for i in range(4)]
    expected = [by_hand(params, jax.random.key(i), jnp.int32(seen), flip) for i in range(4)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    other = by_hand(params, jax.random.key(0), jnp.int32(4 - seen), flip)
    assert abs(float(other) - float(found[0])) > 1e-3 * abs(float(other))


def test_labels_are_hidden_as_often_as_the_recipe_says(params):
    recipe = RECIPE._replace(label_dropout=0.3)
    label, sigma = jnp.int32(2), jnp.float32(0.7)
    keys = example_keys(jax.random.key(7), jnp.arange(2000))
    shown = jax.jit(jax.vmap(lambda key: by_hand(params, key, label, False)))(keys)
    found = jax.jit(jax.vmap(lambda key: recipe.loss(params, key, (PIXELS, sigma, label))))(
        jax.random.clone(keys)
    )
    assert_mean(~np.isclose(found, shown, rtol=1e-5), 0.3)


def test_the_denoiser_of_a_recipe_is_the_one_without_a_label(params):
    x, sigma = jax.random.normal(jax.random.key(3), SHAPE), jnp.float32(0.4)
    expected = precondition.edm(partial(RECIPE.net.apply, params))(x, sigma)
    np.testing.assert_array_equal(RECIPE.denoiser(params)(x, sigma), expected)


@pytest.mark.parametrize(
    ("optimizer", "rates"),
    [
        (Optimizer(0.1), [0.1, 0.1, 0.1, 0.1]),
        (Optimizer(0.1, warm_up=2), [0.05, 0.075, 0.1, 0.1]),
        (Optimizer(0.1, warm_up=2, decay=True), [0.0, 0.05, 0.1, 0.05]),
    ],
)
def test_the_learning_rate_rises_and_falls_as_the_recipe_says(optimizer, rates):
    """Adam's steps on a constant gradient are the learning rate, here of a run of four steps."""
    made = optimizer.make(4)
    params = jnp.zeros(())
    state, steps = made.init(params), []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(4):
            update, state = made.update(jnp.ones(()), state, params)
            steps.append(-float(update))
    np.testing.assert_allclose(steps, rates, rtol=1e-4, atol=1e-7)


def test_a_clipped_gradient_is_no_longer_than_the_recipe_says():
    made = Optimizer(1.0, b1=0.0, b2=0.0, clip=2.0).make(4)
    plain = optax.chain(optax.clip_by_global_norm(2.0), optax.adam(1.0, b1=0.0, b2=0.0))
    gradient = jnp.array([30.0, 40.0])
    with jax.numpy_dtype_promotion("standard"):
        ours, theirs = (o.update(gradient, o.init(gradient))[0] for o in (made, plain))
    np.testing.assert_allclose(ours, theirs)


# ---- samplers as values


@pytest.mark.parametrize("process", [noise.vp, partial(noise.edm, sigma_min=0.02, sigma_max=20.0)])
def test_a_solver_sampler_draws_what_its_parts_do_and_its_path_leads_there(process):
    times = noise.log_snr_times(process(), 40)
    sampler = SolverSampler(samplers.heun, process, times)
    like, key = jnp.zeros(3), jax.random.key(5)
    expected = samplers.sample(
        samplers.heun(process()), gaussian_denoiser, key, like, times, final_denoise=True
    )
    np.testing.assert_array_equal(sampler(gaussian_denoiser, jax.random.clone(key), like), expected)
    assert sampler.evaluations == num_evaluations(
        samplers.heun(process()), times, final_denoise=True
    )
    path = sampler.path(gaussian_denoiser, jax.random.clone(key), like)
    scale = jax.vmap(lambda t: jnp.hypot(process().alpha(t), process().sigma(t)))(times)
    last = path[-1] * scale[-1]
    denoised = process().denoise(gaussian_denoiser, last, times[-1])
    np.testing.assert_allclose(denoised, expected, rtol=1e-4, atol=1e-5)
    first, end = (float(process().level(t)) for t in (times[0], times[-1]))
    start = np.asarray(path[0] * scale[0] / process().alpha(times[0]))
    np.testing.assert_allclose(
        last / process().alpha(times[-1]), gaussian_flow(start, first, end), rtol=0.02, atol=0.02
    )


def test_a_bounded_sampler_clips_every_evaluation():
    seen = []

    def denoise(x, sigma):
        jax.debug.callback(seen.append, x)
        return jnp.full_like(x, 5.0)

    sampler = SolverSampler(samplers.ddim, noise.vp, jnp.array([1.0, 0.5, 0.1]), (-1.0, 1.0))
    end = sampler(denoise, jax.random.key(0), jnp.zeros(2))
    np.testing.assert_array_equal(end, [1.0, 1.0])
    assert len(seen) == sampler.evaluations == 3


def test_an_annealed_sampler_ends_on_the_data():
    """From N(0, 10^2): data of standard deviation .8 around .5, with the noise of .1 left."""
    sampler = AnnealedSampler(noise.geometric(10.0, 0.1, 30), 12, 0.1, final_denoise=False)
    keys = example_keys(jax.random.key(2), jnp.arange(4000))
    draw = jax.jit(jax.vmap(lambda key: sampler(gaussian_denoiser, key, jnp.zeros(1))))
    x = np.asarray(draw(keys))
    assert_mean(x, 0.5)
    assert 0.75 < x.std() < 1.0
    path = jax.jit(jax.vmap(lambda key: sampler.path(gaussian_denoiser, key, jnp.zeros(1))))(
        example_keys(jax.random.key(2), jnp.arange(4000))
    )
    np.testing.assert_allclose(path[:, -1] * np.sqrt(1.01), x, rtol=1e-4, atol=1e-5)
    assert sampler.evaluations == 30 * 12
    assert_normal(np.asarray(path[:, 0]) * np.sqrt(101), *first_level())


def first_level():
    """Mean and variance of a chain after 12 steps at the highest level, by its recursion."""
    mean, variance = 0.0, 100.0
    pull = 0.1 * 100 / (0.64 + 100)
    for _ in range(12):
        mean = mean + pull * (0.5 - mean)
        variance = (1 - pull) ** 2 * variance + 2 * 0.1 * 100
    return mean, variance
