"""Processes against the published SDEs, ladders and draws against their formulas and laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from ebm_jax import noise
from ebm_jax.data import largest_distance
from ebm_jax.keys import example_keys
from tests.statistics import assert_mean, assert_normal

TIMES = np.array([1e-5, 1e-3, 0.1, 0.37, 0.8, 0.998])
BETA_MIN, BETA_MAX = 0.1, 20.0  # the published defaults of vp and sub_vp
PROCESSES = {
    "ve": noise.ve(),
    "ve of another range": noise.ve(sigma_min=0.05, sigma_max=7.0),
    "vp": noise.vp(),
    "vp of another range": noise.vp(beta_min=0.2, beta_max=9.0),
    "sub_vp": noise.sub_vp(),
    "sub_vp of another range": noise.sub_vp(beta_min=0.2, beta_max=9.0),
    "cosine": noise.cosine(),
    "cosine of another offset": noise.cosine(offset=0.1),
    "edm": noise.edm(),
}


def beta(t, low=BETA_MIN, high=BETA_MAX):
    return low + t * (high - low)


def integrated_beta(t, low=BETA_MIN, high=BETA_MAX):
    return t * (beta(0, low, high) + beta(t, low, high)) / 2  # a trapezium


def published(name, t):
    """(alpha^2, sigma^2, f, g^2) of the papers, in float64."""
    if name.startswith("ve"):
        low, high = (0.05, 7.0) if "another" in name else (0.01, 50.0)
        variance = low**2 * (high / low) ** (2 * t)
        return np.ones_like(t), variance, np.zeros_like(t), variance * 2 * np.log(high / low)
    if name == "edm":
        return np.ones_like(t), t**2, np.zeros_like(t), 2 * t
    if name.startswith("cosine"):
        s = 0.1 if "another" in name else 0.008
        angle, start = (t + s) / (1 + s) * np.pi / 2, s / (1 + s) * np.pi / 2
        alpha_bar = np.cos(angle) ** 2 / np.cos(start) ** 2
        rate = np.pi / (1 + s) * np.tan(angle)  # -d log(alpha_bar) / dt, the beta of a VP process
        return alpha_bar, 1 - alpha_bar, -rate / 2, rate
    bounds = (0.2, 9.0) if "another" in name else (BETA_MIN, BETA_MAX)
    rate, decay = beta(t, *bounds), np.exp(-integrated_beta(t, *bounds))
    if name.startswith("vp"):
        return decay, -np.expm1(-integrated_beta(t, *bounds)), -rate / 2, rate
    lost = -np.expm1(-integrated_beta(t, *bounds))
    return decay, lost**2, -rate / 2, rate * -np.expm1(-2 * integrated_beta(t, *bounds))


@pytest.mark.parametrize("name", PROCESSES)
def test_schedules_drift_and_diffusion_are_the_published_closed_forms(name):
    process, times = PROCESSES[name], jnp.float32(TIMES)
    alpha_squared, variance, drift, diffusion_squared = published(name, TIMES)
    np.testing.assert_allclose(jax.vmap(process.alpha)(times) ** 2, alpha_squared, rtol=2e-4)
    np.testing.assert_allclose(jax.vmap(process.sigma)(times) ** 2, variance, rtol=2e-4)
    np.testing.assert_allclose(jax.vmap(process.drift)(times), drift, rtol=2e-4)
    got = jax.vmap(process.diffusion)(times)
    np.testing.assert_allclose(got**2, diffusion_squared, rtol=2e-3)
    log_snr = np.log(alpha_squared / variance)
    np.testing.assert_allclose(jax.vmap(process.log_snr)(times), log_snr, rtol=1e-4, atol=1e-4)


def test_processes_end_where_the_papers_do():
    """VE spans .01 to 50; the continuous VP keeps alpha_bar = exp(-10.05) = 4.3e-5 at t = 1."""
    ve, vp, sub_vp, cosine = (PROCESSES[name] for name in ("ve", "vp", "sub_vp", "cosine"))
    ends = [ve.sigma(jnp.float32(ve.t_min)), ve.sigma(jnp.float32(ve.t_max))]
    np.testing.assert_allclose(ends, [0.01, 50.0], rtol=1e-4)
    for process in (vp, sub_vp):
        assert process.t_min == 1e-5
        np.testing.assert_allclose(
            process.alpha(jnp.float32(process.t_max)) ** 2, 4.3e-5, rtol=0.01
        )
    end = np.cos((0.999 + 0.008) / 1.008 * np.pi / 2)  # of the schedule without its normalization
    np.testing.assert_allclose(cosine.alpha(jnp.float32(cosine.t_max)), end, rtol=1e-3)
    assert cosine.t_min == 1e-5


@pytest.mark.parametrize("name", PROCESSES)
def test_time_of_log_snr_inverts_log_snr_and_stays_on_the_interval(name):
    process = PROCESSES[name]
    times = jnp.linspace(process.t_min + 1e-3, process.t_max - 1e-3, 9)
    back = jax.vmap(lambda t: process.time_of_log_snr(process.log_snr(t)))(times)
    np.testing.assert_allclose(back, times, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(
        process.time_of_log_snr(jnp.float32(100.0)), process.t_min, atol=1e-9
    )
    np.testing.assert_allclose(process.time_of_log_snr(jnp.float32(-100.0)), process.t_max)


@pytest.mark.parametrize("name", ["ve", "vp", "sub_vp", "cosine"])
def test_perturbed_examples_have_mean_alpha_x_and_variance_sigma_squared(name):
    process, x, t = PROCESSES[name], jnp.array([[1.5], [-2.0]]), jnp.float32(0.3)
    draw = jax.jit(jax.vmap(lambda key: process.perturb(key, x, t)))
    draws = draw(jax.random.split(jax.random.key(0), 20_000))
    alpha_squared, variance, *_ = published(name, np.float64(0.3))
    assert_normal(draws, np.sqrt(alpha_squared) * x, variance)


@pytest.mark.parametrize("name", ["ve", "vp", "sub_vp", "cosine"])
def test_score_of_a_process_on_gaussian_data_is_that_of_its_marginal(name):
    """x_0 ~ N(m, s^2) makes x_t ~ N(alpha m, alpha^2 s^2 + sigma^2)."""
    mean, scale = jnp.array([0.5, -1.0]), 0.7

    def denoise(x, sigma):
        return (scale**2 * x + sigma**2 * mean) / (scale**2 + sigma**2)

    x, t = jnp.array([2.0, 1.0]), 0.4
    alpha_squared, variance, *_ = published(name, np.float64(t))
    expected = (np.sqrt(alpha_squared) * mean - x) / (alpha_squared * scale**2 + variance)
    score = PROCESSES[name].score(denoise)(x, jnp.float32(t))
    np.testing.assert_allclose(score, expected, rtol=1e-4)


@pytest.mark.parametrize(("name", "scale"), [("ve", 50.0), ("vp", 1.0), ("sub_vp", 1.0)])
def test_prior_has_the_scale_at_which_the_process_ends(name, scale):
    draw = jax.jit(jax.vmap(lambda key: PROCESSES[name].draw_prior(key, jnp.ones((2, 1)))))
    draws = draw(jax.random.split(jax.random.key(1), 20_000))
    assert draws.shape == (20_000, 2, 1)
    assert_normal(draws, 0.0, scale**2)


def test_geometric_ladder_descends_in_one_ratio():
    ladder = np.asarray(noise.geometric(8.0, 0.5, 5), np.float64)
    np.testing.assert_allclose(ladder, [8, 4, 2, 1, 0.5], rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"rho": 3.0}])
def test_karras_ladder_is_equation_5_of_the_paper(options):
    rho = options.get("rho", 7.0)
    i = np.arange(18)
    expected = (80 ** (1 / rho) + i / 17 * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    np.testing.assert_allclose(noise.karras(80.0, 0.002, 18, **options), expected, rtol=1e-4)


def test_karras_with_rho_1_is_evenly_spaced():
    np.testing.assert_allclose(noise.karras(5.0, 1.0, 3, rho=1.0), [5, 3, 1], rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3), (300, 2, 2)])
def test_largest_distance_is_that_of_all_pairs_and_tops_the_ladder_from_data(shape):
    data = np.random.default_rng(0).normal(loc=3.0, size=shape).astype(np.float32)
    expected = pdist(data.reshape(len(data), -1)).max()
    np.testing.assert_allclose(largest_distance(jnp.asarray(data)), expected, rtol=1e-5)
    ladder = noise.geometric(float(largest_distance(jnp.asarray(data))), 0.1, 3)
    np.testing.assert_allclose(ladder, [expected, np.sqrt(expected * 0.1), 0.1], rtol=1e-5)


def test_uniform_draws_give_every_level_the_same_probability():
    sigmas = jnp.array([5.0, 2.0, 1.0, 0.1])
    draw = jax.jit(jax.vmap(lambda key: noise.draw_uniform(key, sigmas)))
    draws = np.asarray(draw(jax.random.split(jax.random.key(2), 20_000)))
    assert_mean(draws[:, None] == np.asarray(sigmas), np.full(4, 0.25))


@pytest.mark.parametrize("options", [{}, {"mean": 0.4, "std": 0.3}])
def test_log_normal_draws_are_normal_in_the_logarithm(options):
    mean, std = options.get("mean", -1.2), options.get("std", 1.2)
    draw = jax.jit(jax.vmap(lambda key: noise.draw_log_normal(key, **options)))
    logs = np.log(draw(jax.random.split(jax.random.key(3), 20_000)))
    assert_normal(logs, mean, std**2)


def test_low_discrepancy_times_put_one_in_each_cell_and_each_is_uniform():
    batch = 8
    draw = jax.jit(jax.vmap(lambda key: noise.draw_low_discrepancy(key, batch)))
    times = np.asarray(draw(jax.random.split(jax.random.key(4), 20_000)), np.float64)
    assert times.min() >= 0
    assert times.max() < 1
    cells = np.sort(np.floor(times * batch), axis=1)
    np.testing.assert_array_equal(cells, np.tile(np.arange(batch), (20_000, 1)))
    shifts = (times - times[:, :1]) * batch
    np.testing.assert_allclose(shifts % batch, np.tile(np.arange(batch), (20_000, 1)), atol=1e-4)
    assert_mean(times, np.full(batch, 0.5))
    assert_mean(times**2, np.full(batch, 1 / 3))
    assert_mean(np.cos(2 * np.pi * times), np.zeros(batch))


def test_keys_of_examples_follow_their_index_and_differ():
    key = jax.random.key(5)
    data = jax.vmap(jax.random.key_data)(example_keys(key, jnp.arange(100)))
    assert len(np.unique(data, axis=0)) == 100
    among = example_keys(key, jnp.array([7, 3]))
    np.testing.assert_array_equal(jax.vmap(jax.random.key_data)(among), data[jnp.array([7, 3])])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noise.ve(sigma_min=0.0), "`ve` got the range 0.0 to 50.0"),
        (lambda: noise.ve(sigma_min=2.0, sigma_max=1.0), "`ve` got the range 2.0 to 1.0"),
        (lambda: noise.vp(beta_min=-1.0), "`vp` got the range -1.0 to 20.0"),
        (lambda: noise.sub_vp(beta_max=0.1), "`sub_vp` got the range 0.1 to 0.1"),
        (lambda: noise.cosine(offset=-0.1), "`cosine` got offset=-0.1"),
        (lambda: noise.cosine(offset=1.0), "`cosine` got offset=1.0"),
        (lambda: noise.geometric(0.1, 1.0, 3), "`geometric` got the range 1.0 to 0.1"),
        (lambda: noise.geometric(1.0, 0.1, 1), "`geometric` got num_levels=1"),
        (lambda: noise.karras(0.1, 1.0, 3), "`karras` got the range 1.0 to 0.1"),
        (lambda: noise.karras(1.0, 0.1, 1), "`karras` got num_levels=1"),
        (lambda: noise.karras(1.0, 0.1, 3, rho=0.0), "`karras` got rho=0.0"),
        (lambda: largest_distance(jnp.ones((1, 2))), "`largest_distance` got data of"),
        (lambda: noise.geometric(0.0, 0.1, 3), "`geometric` got the range"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numbers_at_the_border_are_accepted():
    assert noise.cosine(offset=0.0).alpha(jnp.float32(0.5)) == pytest.approx(np.cos(np.pi / 4))
    assert noise.geometric(1.0, 0.5, 2).shape == (2,)
    assert noise.karras(1.0, 0.5, 2).shape == (2,)


# ---- the reverse, and grids


@pytest.mark.parametrize("name", ["ve", "vp", "sub_vp", "cosine", "edm"])
def test_velocity_of_gaussian_data_follows_its_quantiles(name):
    """x_t = alpha m + sqrt(alpha^2 s^2 + sigma^2) z for fixed z: dx/dt by central differences."""
    process, scale, mean, z, t, h = PROCESSES[name], 0.7, 0.5, np.array([1.3, -0.4]), 0.4, 1e-5

    def quantile(t):
        alpha_squared, variance, *_ = published(name, np.float64(t))
        return np.sqrt(alpha_squared) * mean + np.sqrt(alpha_squared * scale**2 + variance) * z

    def denoise(x, sigma):
        return (scale**2 * x + sigma**2 * mean) / (scale**2 + sigma**2)

    expected = (quantile(t + h) - quantile(t - h)) / (2 * h)
    x = jnp.float32(quantile(t))
    velocity = process.velocity(denoise, x, jnp.float32(t))
    np.testing.assert_allclose(velocity, expected, rtol=2e-3, atol=1e-3)
    _, _, drift, diffusion_squared = published(name, np.float64(t))
    score = np.asarray(process.score(denoise)(x, jnp.float32(t)))
    reverse = process.reverse_drift(denoise, x, jnp.float32(t))
    expected = drift * np.asarray(x) - diffusion_squared * score
    np.testing.assert_allclose(reverse, expected, rtol=2e-3, atol=1e-3)
    clean = process.denoise(denoise, x, jnp.float32(t))
    alpha_squared, variance, *_ = published(name, np.float64(t))
    tweedie = (np.asarray(x) + variance * score) / np.sqrt(alpha_squared)
    np.testing.assert_allclose(clean, tweedie, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", PROCESSES)
def test_level_is_sigma_over_alpha_and_time_of_level_inverts_it(name):
    process = PROCESSES[name]
    times = jnp.linspace(process.t_min + 1e-3, process.t_max - 1e-3, 9)
    levels = jax.vmap(process.level)(times)
    alpha_squared, variance, *_ = published(name, np.asarray(times, np.float64))
    np.testing.assert_allclose(levels, np.sqrt(variance / alpha_squared), rtol=5e-4)
    back = noise.times_of_levels(process, levels)
    np.testing.assert_allclose(back, times, atol=2e-5 * process.t_max)


@pytest.mark.parametrize("name", PROCESSES)
def test_grids_run_from_the_last_time_down_to_the_first(name):
    process = PROCESSES[name]
    uniform, by_snr = noise.uniform_times(process, 7), noise.log_snr_times(process, 7)
    expected = np.linspace(process.t_max, process.t_min, 8)
    np.testing.assert_allclose(uniform, expected, rtol=1e-6, atol=1e-7)
    ratios = np.diff(np.log(np.asarray(jax.vmap(process.level)(by_snr), np.float64)))
    np.testing.assert_allclose(ratios, ratios.mean(), rtol=0.02)
    np.testing.assert_allclose(by_snr[jnp.array([0, -1])], [process.t_max, process.t_min])


def test_a_grid_may_end_earlier():
    times = noise.uniform_times(noise.vp(), 4, t_min=1e-3)
    np.testing.assert_allclose(times, np.linspace(1.0, 1e-3, 5), rtol=1e-6)
    times = noise.log_snr_times(noise.edm(), 4, t_min=0.08)
    np.testing.assert_allclose(times, np.geomspace(80, 0.08, 5), rtol=1e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_levels_beyond_a_process_own_become_its_ends_once(name):
    """A ladder from 1000 down to 0: strictly decreasing times from t_max to t_min."""
    process = PROCESSES[name]
    ladder = jnp.append(noise.karras(1000.0, 1e-4, 30), 0.0)
    for times in (
        noise.times_of_levels(process, ladder),
        jax.jit(lambda: noise.times_of_levels(process, ladder))(),
    ):
        assert np.all(np.diff(times) < 0)
        ends = [process.t_max, process.t_min]
        np.testing.assert_allclose(times[jnp.array([0, -1])], ends, rtol=1e-5, atol=1e-6)
        low, high = (process.level(jnp.float32(t)) for t in ends[::-1])
        assert len(times) == 2 + np.sum((ladder > low * 1.001) & (ladder < high * 0.999))


def test_examples_draw_the_same_alone_and_in_a_batch_from_a_key_of_any_implementation():
    """Under vmap the numbers of "rbg" keys depend on the batch; threefry's do not."""
    seen = []
    for name in ("threefry2x32", "rbg", "unsafe_rbg"):
        for seed in (0, 1):
            key = jax.random.key(seed, impl=name)
            keys = example_keys(key, jnp.arange(7))
            alone = example_keys(jax.random.clone(key), jnp.array([5]))[0]
            draws = jax.vmap(jax.random.normal)(keys)
            np.testing.assert_array_equal(draws[5], jax.random.normal(alone))
            seen.append(np.asarray(draws))
    assert len(np.unique(np.stack(seen))) == 4 * 7  # a seed's keys: threefry's, and rbg's twice


def test_levels_of_ddpm_are_the_published_ones():
    """abar ends at 4.0e-5; the betas of the first two steps come back; N times beta is vp's."""
    levels = np.asarray(noise.ddpm_levels(), np.float64)
    abar = 1 / (1 + levels**2)
    assert levels.shape == (1000,)
    assert abar[0] == pytest.approx(4.0e-5, rel=0.02)
    assert 1 - abar[-1] == pytest.approx(1e-4, rel=1e-3)
    assert 1 - abar[-2] / abar[-1] == pytest.approx(1e-4 + 0.0199 / 999, rel=1e-2)
    continuous = published("vp", np.linspace(1, 0.001, 1000))[0]
    np.testing.assert_allclose(abar[::100], continuous[::100], rtol=0.08)
    few = np.asarray(noise.ddpm_levels(3, beta_min=0.1, beta_max=0.3), np.float64)
    np.testing.assert_allclose(1 / (1 + few**2), [0.9 * 0.8 * 0.7, 0.9 * 0.8, 0.9], rtol=1e-5)


def test_log_uniform_levels_are_uniform_in_the_logarithm():
    u = jnp.linspace(0, 1, 5)
    levels = jax.vmap(lambda u: noise.log_uniform_level(u, sigma_min=0.1, sigma_max=1e3))(u)
    np.testing.assert_allclose(levels, [0.1, 1, 10, 100, 1000], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noise.edm(sigma_min=0.0), "`edm` got the range 0.0 to 80.0"),
        (lambda: noise.uniform_times(noise.vp(), 0), "`uniform_times` got num_steps=0"),
        (lambda: noise.uniform_times(noise.vp(), 3, t_min=1.0), "`uniform_times` got t_min=1.0"),
        (lambda: noise.uniform_times(noise.vp(), 3, t_min=0.0), "`uniform_times` got t_min=0.0"),
        (lambda: noise.log_snr_times(noise.vp(), 3, t_min=0.0), "`log_snr_times` got t_min=0.0"),
        (lambda: noise.log_snr_times(noise.edm(), 3, t_min=-1.0), "`log_snr_times` got t_min=-1"),
        (lambda: noise.karras(80.0, 0.1, 4, rho=float("nan")), "`karras` got rho=nan"),
        (lambda: noise.karras(float("inf"), 0.1, 4), "`karras` got the range 0.1 to inf"),
        (
            lambda: noise.times_of_levels(noise.vp(), jnp.array([1.0, -0.1])),
            "`times_of_levels` got sigmas",
        ),
        (lambda: noise.log_snr_times(noise.vp(), 0), "`log_snr_times` got num_steps=0"),
        (lambda: noise.log_snr_times(noise.vp(), 3, t_min=2.0), "`log_snr_times` got t_min=2.0"),
        (lambda: noise.ddpm_levels(0), "`ddpm_levels` got num_steps=0"),
        (lambda: noise.ddpm_levels(beta_max=1.0), "`ddpm_levels` got the range 0.0001 to 1.0"),
        (
            lambda: noise.log_uniform_level(jnp.float32(0.5), sigma_min=2.0, sigma_max=1.0),
            "`log_uniform_level` got the range 2.0 to 1.0",
        ),
    ],
)
def test_grids_out_of_range_are_refused_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
