"""Samplers on Gaussians, whose chains have exact means and variances at every step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.keys import example_keys
from ebm_jax.noise import geometric
from ebm_jax.samplers import (
    annealed_langevin,
    annealed_langevin_path,
    consistent_annealed_langevin,
    run,
    ula,
)
from ebm_jax.sharding import data_mesh, split
from ebm_jax.targets import gaussian_mixture
from tests.statistics import assert_mean, assert_normal, assert_variance

CHAINS = 20_000
SIGMAS = np.array([3.0, 1.0, 0.3])
MEAN, SCALE = np.array([0.5, -1.0]), 0.7  # Gaussian data of the annealed chains
START_MEAN, START_SCALE = np.array([4.0, 2.0]), 3.0
MIXTURE = gaussian_mixture(
    jnp.array([[-1.0, 0.5], [2.0, 1.0]]), jnp.array([0.4, 0.8]), jnp.array([1.0, 3.0])
)


def chains(one, seed=0, n=CHAINS):
    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), n)), np.float64)


def smoothed_score(x, sigma):
    return (jnp.float32(MEAN) - x) / (SCALE**2 + sigma**2)


# ---- ula


@pytest.mark.parametrize("temperature", [1.0, 0.25, 3.0])
def test_langevin_keeps_its_stationary_law_on_a_gaussian(temperature):
    """Its variance is T s^2 / (1 - h / (2 s^2)) and not T s^2: the bias of a finite step.

    Chains start from exact draws, so there is no burn-in to choose and any drift
    is an error of the kernel.
    """
    mean, scale, step_size = np.array([2.0, -1.0]), 0.8, 0.5
    variance = temperature * scale**2 / (1 - step_size / (2 * scale**2))
    kernel = ula(
        lambda x: (jnp.float32(mean) - x) / scale**2, step_size=step_size, temperature=temperature
    )

    def one(key):
        key_start, key_run = jax.random.split(key)
        x = mean + jnp.float32(np.sqrt(variance)) * jax.random.normal(key_start, (2,))
        return run(kernel, key_run, kernel.init(x), 4)[0].x

    x = chains(one)
    assert_normal(x, mean, variance)


def test_one_step_has_mean_x_plus_h_s_and_variance_2_h_t():
    """On a skewed law, because a symmetric one hides errors of sign."""
    x, step_size, temperature = jnp.array([0.3, 2.0]), 0.2, 0.7
    kernel = ula(lambda x: jnp.exp(-x) - 1, step_size=step_size, temperature=temperature)
    after = chains(lambda key: kernel.step(key, kernel.init(x))[0].x)
    mean = x + step_size * (np.exp(-x) - 1)
    assert_normal(after, mean, 2 * step_size * temperature)


def test_temperature_is_one_by_default_and_none_is_gradient_ascent():
    x = jnp.array([0.3, 2.0])
    warm = ula(lambda x: -x, step_size=0.2)
    assert_normal(chains(lambda key: warm.step(key, warm.init(x))[0].x), 0.8 * x, 0.4)
    cold = ula(lambda x: -x, step_size=0.2, temperature=0.0)
    np.testing.assert_allclose(cold.step(jax.random.key(0), cold.init(x))[0].x, 0.8 * x, rtol=1e-6)


def test_langevin_stays_on_a_skewed_law_as_the_step_shrinks():
    """E(x) = x + exp(-x), Gumbel's law: mean .5772 and variance pi^2 / 6."""
    kernel = ula(lambda x: jnp.exp(-x) - 1, step_size=0.002)

    def one(key):
        key_start, key_run = jax.random.split(key)
        start = jax.random.gumbel(key_start, (1,))
        return run(kernel, key_run, kernel.init(start), 100)[0].x

    x = chains(one, n=4096)
    assert_mean(x, np.euler_gamma)
    assert_variance(x, np.pi**2 / 6, mean=np.euler_gamma)


def test_info_is_the_norm_of_the_score_at_the_point_that_the_step_left():
    kernel = ula(lambda x: -2 * x, step_size=0.1)
    x = jnp.array([3.0, 4.0])
    info = kernel.step(jax.random.key(0), kernel.init(x))[1]
    np.testing.assert_allclose(info.score_norm, 2 * 5.0, rtol=1e-6)


# ---- run


# Few steps and many, of small states and large: `run` may treat them differently for speed.
each_size = pytest.mark.parametrize("dimensions", [2, 40])
each_length = pytest.mark.parametrize("num_steps", [1, 7, 100, 103])


@each_size
@each_length
def test_run_moves_as_a_python_loop_and_collects_every_step(dimensions, num_steps):
    """At temperature 0, where a step is x + h s(x)."""
    kernel = ula(lambda x: jnp.cos(3 * x) - x, step_size=0.1, temperature=0.0)
    start = np.linspace(-2, 2, dimensions).astype(np.float32)
    state, (path, norms) = run(
        kernel, jax.random.key(1), kernel.init(jnp.asarray(start)), num_steps,
        collect=lambda state, info: (state.x, info.score_norm),
    )  # fmt: skip
    x = start.astype(np.float64)
    for i in range(num_steps):
        score = np.cos(3 * x) - x
        np.testing.assert_allclose(norms[i], np.linalg.norm(score), rtol=1e-3, atol=1e-5)
        x = x + 0.1 * score
        np.testing.assert_allclose(path[i], x, rtol=1e-4, atol=1e-5)
    assert path.shape == (num_steps, dimensions)
    np.testing.assert_array_equal(state.x, path[-1])


@each_size
@each_length
def test_a_longer_run_begins_with_the_shorter_one(dimensions, num_steps):
    kernel, key = ula(lambda x: -jnp.tanh(x), step_size=0.1), jax.random.key(2)
    start = kernel.init(jnp.zeros(dimensions))
    _, long = run(kernel, key, start, 160, collect=lambda state, _: state.x)
    short, none = run(kernel, key, start, num_steps)
    assert none is None
    np.testing.assert_allclose(short.x, long[num_steps - 1], rtol=1e-5, atol=1e-6)


def test_one_step_of_a_run_is_the_kernels_own_law():
    x = jnp.array([0.3, 2.0])
    kernel = ula(lambda x: jnp.exp(-x) - 1, step_size=0.2, temperature=0.7)
    after = chains(lambda key: run(kernel, key, kernel.init(x), 1)[0].x)
    mean = x + 0.2 * (np.exp(-x) - 1)
    assert_normal(after, mean, 2 * 0.2 * 0.7)


@each_size
def test_every_step_of_a_run_has_noise_of_its_own(dimensions):
    """With no score the increments are the noise: white in time and place, fourth moment 3."""
    kernel = ula(jnp.zeros_like, step_size=0.5)

    def one(key):
        start = kernel.init(jnp.zeros(dimensions))
        _, path = run(kernel, key, start, 103, collect=lambda state, _: state.x[:2])
        noise = jnp.diff(path, axis=0, prepend=0.0)
        return noise[jnp.array([0, 1, 49, 50, 99, 100, 101, 102])].ravel()

    noise = chains(one, n=2000)
    assert_mean(np.einsum("ni,nj->nij", noise, noise), np.eye(16))
    assert_mean(noise**4, 3 * np.ones(16))


# ---- annealed Langevin


def recursion(steps, ratio, temperature):
    """Mean and variance of the linear chain after every level, step by step."""
    mean, variance = START_MEAN, START_SCALE**2
    for sigma in SIGMAS:
        pull = ratio * sigma**2 / (SCALE**2 + sigma**2)
        for _ in range(steps):
            mean = mean + pull * (MEAN - mean)
            variance = (1 - pull) ** 2 * variance + 2 * ratio * sigma**2 * temperature
        yield mean, variance


def anneal(key, *, function=annealed_langevin, options):
    key_start, key_chain = jax.random.split(key)
    start = START_MEAN + START_SCALE * jax.random.normal(key_start, (2,))
    return function(smoothed_score, key_chain, start, jnp.float32(SIGMAS), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"steps_per_level": 1, "step_ratio": 0.4},
        {"steps_per_level": 3, "step_ratio": 0.2, "temperature": 0.5},
    ],
)
def test_annealed_langevin_has_the_mean_and_variance_of_its_recursion_at_every_level(options):
    steps, ratio = options["steps_per_level"], options["step_ratio"]
    expected = list(recursion(steps, ratio, options.get("temperature", 1.0)))
    path = chains(lambda key: anneal(key, function=annealed_langevin_path, options=options))
    for level, (mean, variance) in enumerate(expected):
        assert_normal(path[:, level], mean, variance)
    last = chains(lambda key: anneal(key, options={**options, "final_denoise": False}), seed=1)
    assert_normal(last, mean, variance)


def test_path_ends_where_the_sampler_does_and_the_final_denoising_is_tweedies():
    options, key = {"steps_per_level": 2, "step_ratio": 0.3}, jax.random.key(3)
    path = anneal(key, function=annealed_langevin_path, options=options)
    plain = anneal(jax.random.clone(key), options={**options, "final_denoise": False})
    denoised = anneal(jax.random.clone(key), options={**options, "final_denoise": True})
    assert path.shape == (3, 2)
    np.testing.assert_allclose(path[-1], plain, rtol=1e-6)
    gain = SCALE**2 / (SCALE**2 + SIGMAS[-1] ** 2)
    np.testing.assert_allclose(denoised, MEAN + gain * (plain - MEAN), rtol=1e-5)


def test_annealed_langevin_finds_the_weights_of_separated_modes():
    """Plain Langevin from one mode would never leave it; annealed, both get their weight."""
    weights = np.array([0.25, 0.75])

    def score(x, sigma):
        means, variance = jnp.array([-4.0, 4.0]), 0.5**2 + sigma**2
        logs = jnp.log(jnp.float32(weights)) - (x - means) ** 2 / (2 * variance)
        return jnp.sum(jax.nn.softmax(logs) * (means - x), keepdims=True) / variance

    def one(key):
        key_start, key_chain = jax.random.split(key)
        start = 10 * jax.random.normal(key_start, (1,))
        return annealed_langevin(
            score, key_chain, start, geometric(10.0, 0.1, 15),
            steps_per_level=20, step_ratio=0.1, final_denoise=True,
        )  # fmt: skip

    x = chains(one, n=2000)
    assert np.mean(x > 0) == pytest.approx(0.75, abs=0.06)


# ---- the same numbers anywhere


@pytest.mark.parametrize("sampler", ["ula", "annealed"])
def test_a_chain_is_the_same_alone_among_4096_and_spread_over_eight_devices(sampler):
    kernel = ula(MIXTURE.score, step_size=0.05)

    def one(key, x):
        if sampler == "ula":
            return run(kernel, key, kernel.init(x), 50)[0].x
        return annealed_langevin(
            lambda x, sigma: -x / (1 + sigma**2), key, x, geometric(3.0, 0.3, 5),
            steps_per_level=10, step_ratio=0.2, final_denoise=True,
        )  # fmt: skip

    key = jax.random.key(4)
    starts = jax.random.normal(jax.random.key(5), (4096, 2))
    many = jax.jit(jax.vmap(one))
    among = many(example_keys(key, jnp.arange(4096)), starts)
    for i in (0, 1234, 4095):
        alone = one(example_keys(key, jnp.array([i]))[0], starts[i])
        np.testing.assert_allclose(alone, among[i], atol=1e-4)
    keys, places = split((example_keys(key, jnp.arange(4096)), starts), data_mesh())
    spread = many(keys, places)
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_allclose(spread, among, atol=1e-4)


# ---- errors


def annealed_with(**options):
    defaults = {"steps_per_level": 1, "step_ratio": 0.1}
    return anneal(
        jax.random.key(6), function=annealed_langevin_path, options={**defaults, **options}
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ula(jnp.negative, step_size=0.0), "`ula` got step_size=0.0"),
        (lambda: ula(jnp.negative, step_size=-1.0), "`ula` got step_size=-1.0"),
        (lambda: ula(jnp.negative, step_size=float("nan")), "`ula` got step_size=nan"),
        (
            lambda: ula(jnp.negative, step_size=0.1, temperature=-0.5),
            "`ula` got temperature=-0.5",
        ),
        (
            lambda: ula(lambda x: x[:1], step_size=0.1).init(jnp.ones(2)),
            r"`ula` got score_fn\(x\) of shape \(1,\), expected \(2,\)",
        ),
        (lambda: annealed_with(step_ratio=0.0), "`annealed_langevin` got step_ratio=0.0"),
        (lambda: annealed_with(steps_per_level=0), "`run` got num_steps=0"),
        (lambda: annealed_with(temperature=-1.0), "`ula` got temperature=-1.0"),
    ],
)
def test_numbers_and_shapes_out_of_range_are_refused_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("num_steps", [0, -3])
def test_a_run_takes_at_least_one_step(num_steps):
    kernel = ula(jnp.negative, step_size=0.1)
    with pytest.raises(ValueError, match=f"`run` got num_steps={num_steps}"):
        run(kernel, jax.random.key(7), kernel.init(jnp.ones(2)), num_steps)
    assert run(kernel, jax.random.key(8), kernel.init(jnp.ones(2)), 1)[0].x.shape == (2,)


# ---- consistent annealed Langevin


@pytest.mark.parametrize("step_ratio", [0.302, 0.5, 1.0, 1.2])
def test_consistent_annealing_keeps_the_noise_of_every_level(step_ratio):
    """Of data of one point the chain is at level sigma_i, whatever the step; in 6 levels."""
    ladder = geometric(3.0, 0.5, 6)
    assert abs(1 - step_ratio) <= ladder[1] / ladder[0]
    for last in (2, 4, 6):

        def one(key, last=last):
            key_start, key_run = jax.random.split(key)
            start = 1.0 + ladder[0] * jax.random.normal(key_start, (2,))
            return consistent_annealed_langevin(
                lambda x, sigma: (1.0 - x) / sigma**2, key_run, start, ladder[:last],
                step_ratio=step_ratio, final_denoise=False,
            )  # fmt: skip

        assert_normal(chains(one), 1.0, float(ladder[last - 1]) ** 2)


def test_consistent_annealing_is_ancestral_sampling_and_ddim_at_its_borders():
    """At the ratio 1 - gamma no noise is added; at 1 - gamma^2 that of the posterior is."""
    from ebm_jax import noise, samplers

    ladder, x = geometric(3.0, 0.5, 6), jnp.array([0.4, -2.0])
    gamma = float(ladder[1] / ladder[0])

    def denoise(x, sigma):
        return x + sigma**2 * smoothed_score(x, sigma)

    ours = consistent_annealed_langevin(
        smoothed_score, jax.random.key(0), x, ladder, step_ratio=1 - gamma, final_denoise=True
    )
    ddim = samplers.integrate(
        samplers.ddim(noise.edm()), denoise, jax.random.key(1), x, ladder, final_denoise=True
    )
    np.testing.assert_allclose(ours, ddim, rtol=1e-2)  # noise of sqrt(round-off) is left

    def ends(one):
        return chains(one, n=4000)

    consistent = ends(
        lambda key: consistent_annealed_langevin(
            smoothed_score, key, x, ladder, step_ratio=1 - gamma**2, final_denoise=False
        )
    )
    ancestral = ends(
        lambda key: samplers.integrate(
            samplers.ancestral(noise.edm()), denoise, key, x, ladder, final_denoise=False
        )
    )
    assert_mean(consistent - ancestral.mean(0), np.zeros(2), standard_errors=5 * np.sqrt(2))
    ratio = consistent.var(0) / ancestral.var(0)
    assert np.all(np.abs(ratio - 1) < 5 * np.sqrt(4 / 4000))


@pytest.mark.parametrize(
    ("step_ratio", "levels", "message"),
    [
        (0.1, 6, "step_ratio=0.1 for levels in a ratio of 0.6988: give between 0.3012"),
        (-1.0, 6, "got step_ratio=-1.0"),
        (0.5, 1, r"got sigmas of shape \(1,\): give at least 2"),
    ],
)
def test_consistent_annealing_refuses_steps_that_need_noise_of_negative_variance(
    step_ratio, levels, message
):
    with pytest.raises(ValueError, match=message):
        consistent_annealed_langevin(
            smoothed_score, jax.random.key(0), jnp.zeros(2), geometric(3.0, 0.5, 6)[:levels],
            step_ratio=step_ratio, final_denoise=False,
        )  # fmt: skip
