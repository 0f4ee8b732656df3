"""Diagnostics of chains on autoregressions and on chains whose moments are set exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ebm_jax.metrics import (
    effective_sample_size,
    energy_health,
    integrated_autocorrelation,
    rank_r_hat,
    split_r_hat,
)
from tests.statistics import assert_mean

REPEATS, CHAINS, STEPS = 100, 4, 1000
DIAGNOSTICS = [effective_sample_size, integrated_autocorrelation, rank_r_hat, split_r_hat]
each_diagnostic = pytest.mark.parametrize("diagnostic", DIAGNOSTICS)


def autoregressions(rho, *shape, seed=0):
    """x' = rho x + sqrt(1 - rho^2) n along axis 1, started from its law N(0, 1)."""
    noise = np.random.default_rng(seed).normal(size=shape)
    x = noise.copy()
    for t in range(1, shape[1]):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return x


def repeats_of(x):
    """(CHAINS, STEPS, REPEATS): independent repetitions, as entries of an example."""
    return jnp.float32(x.reshape(REPEATS, CHAINS, STEPS).transpose(1, 2, 0))


RHOS = [-0.3, 0.0, 0.5, 0.9]


@pytest.fixture(scope="module")
def draws():
    return {rho: repeats_of(autoregressions(rho, REPEATS * CHAINS, STEPS)) for rho in RHOS}


@pytest.mark.parametrize("rho", RHOS)
def test_effective_sample_size_of_an_autoregression_has_its_closed_form(draws, rho):
    """ESS / n = (1 - rho) / (1 + rho), above 1 for chains that overshoot, and tau its inverse."""
    ess = jax.jit(effective_sample_size)(draws[rho])
    assert_mean(ess, CHAINS * STEPS * (1 - rho) / (1 + rho))
    tau = jax.jit(integrated_autocorrelation)(draws[rho])
    np.testing.assert_allclose(ess * tau, CHAINS * STEPS, rtol=1e-5)


@pytest.mark.parametrize("rho", RHOS)
def test_effective_sample_size_predicts_the_spread_of_the_mean(draws, rho):
    """The mean over all draws is 0 with variance 1 / ESS: a known law, whatever the formula."""
    ess = jax.jit(effective_sample_size)(draws[rho])
    errors = np.asarray(draws[rho]).mean((0, 1)) * np.sqrt(ess)
    assert_mean(errors, 0.0)
    assert_mean(errors**2, 1.0)


def geyers_sum(x):
    """Written out as a loop over lags and pairs, for draws of shape (chains, steps)."""
    n = x.shape[1] // 2
    halves = np.concatenate([x[:, :n], x[:, -n:]])
    centered = halves - halves.mean(1, keepdims=True)
    within = halves.var(1, ddof=1).mean()
    total = (n - 1) / n * within + halves.mean(1).var(ddof=1)
    rho = [1.0]
    for lag in range(1, n):
        product = (centered[:, lag:] * centered[:, :-lag]).sum(1) / n
        rho.append(1 - (within - product.mean()) / total)
    tau, least = -1.0, np.inf
    for even, odd in zip(rho[0::2], rho[1::2], strict=False):
        if even + odd <= 0:
            break
        least = min(least, even + odd)
        tau += 2 * least
    return max(tau, 1 / np.log10(x.size))


@pytest.mark.parametrize(("chains", "steps"), [(1, 4), (3, 50), (2, 51)])
def test_integrated_autocorrelation_is_geyers_sum_over_lags(chains, steps):
    """Of 30 short runs far from zero, some with pairs that rise again before they end."""
    x = 300 + autoregressions(0.7, 30 * chains, steps, seed=1)
    x = np.float32(x.reshape(30, chains, steps).transpose(1, 2, 0))
    expected = [geyers_sum(x[:, :, i].astype(np.float64)) for i in range(30)]
    np.testing.assert_allclose(integrated_autocorrelation(jnp.asarray(x)), expected, rtol=2e-3)


def test_effective_sample_size_of_chains_that_alternate_is_no_more_than_its_bound():
    """+1, -1, +1 ...: m n log10(m n) draws are claimed for a mean that is exact."""
    x = jnp.tile(jnp.float32([1, -1]), (2, 50))
    np.testing.assert_allclose(effective_sample_size(x), 200 * np.log10(200), rtol=1e-4)


# ---- R-hat


def set_moments(x, means, scales):
    """The rows of x with exactly these means and standard deviations (n - 1)."""
    x = (x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True)
    return x * np.reshape(scales, (-1, 1)) + np.reshape(means, (-1, 1))


def chains_of_halves(means, scales, n):
    """Chains of 2 n steps whose halves have exactly these moments: first halves, then second."""
    rows = np.random.default_rng(2).normal(size=(len(means), n))
    return jnp.float32(np.concatenate(np.split(set_moments(rows, means, scales), 2), 1))


@pytest.mark.parametrize("n", [2, 25])
@pytest.mark.parametrize(
    ("means", "scales"),
    [
        ([3.0, 3.0, 3.0, 3.0], [1.0, 1.0, 1.0, 1.0]),
        ([0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]),
        ([0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]),
        ([0.0, 5.0, 1.0, 2.0, 1.0, 0.0], [1.0, 2.0, 0.5, 1.0, 3.0, 1.0]),
    ],
)
def test_split_r_hat_of_chains_with_set_moments_is_closed(means, scales, n):
    """R^2 = (n - 1) / n + var(means) / mean(variances), over halves."""
    r_hat = np.sqrt((n - 1) / n + np.var(means, ddof=1) / np.mean(np.square(scales)))
    np.testing.assert_allclose(split_r_hat(chains_of_halves(means, scales, n)), r_hat, rtol=1e-4)


def test_split_r_hat_of_independent_draws_is_one_in_the_mean(draws):
    """E R^2 = (n - 1) / n + E[B / W], and n B / W has Fisher's law with m - 1 and m (n - 1)."""
    n, m = STEPS // 2, 2 * CHAINS
    freedom = m * (n - 1)
    expected = (n - 1) / n + freedom / (freedom - 2) / n
    assert_mean(split_r_hat(draws[0.0]) ** 2, expected)
    assert abs(expected - 1) < 1e-4


def test_split_r_hat_sees_a_drift_that_all_chains_share():
    """Halves at 0 and at 1: whole chains agree and only their halves do not."""
    x = chains_of_halves([0.0, 0.0, 1.0, 1.0], [0.1] * 4, 50)
    np.testing.assert_allclose(split_r_hat(x), np.sqrt(49 / 50 + 1 / 3 / 0.01), rtol=1e-4)
    assert effective_sample_size(x) < 4


def scipys_rank_r_hat(x):
    """The larger R-hat of normal scores of the draws and of their distance to the median."""

    def of_scores(y):
        ranks = stats.rankdata(y).reshape(y.shape)
        z = stats.norm.ppf((ranks - 3 / 8) / (y.size + 1 / 4))
        return np.sqrt(
            (z.shape[1] - 1) / z.shape[1] + z.mean(1).var(ddof=1) / z.var(1, ddof=1).mean()
        )

    halves = np.concatenate(np.split(np.asarray(x, np.float64), 2, 1))
    return max(of_scores(halves), of_scores(np.abs(halves - np.median(halves))))


@pytest.mark.parametrize("scales", [[1.0, 1.0], [1.0, 3.0]])
@pytest.mark.parametrize("rounded", [False, True])
def test_rank_r_hat_is_that_of_normal_scores(scales, rounded):
    x = np.random.default_rng(3).normal(size=(2, 40)) * np.reshape(scales, (2, 1)) + 0.2
    x = np.float32(np.round(x) if rounded else x)  # ties
    np.testing.assert_allclose(rank_r_hat(jnp.asarray(x)), scipys_rank_r_hat(x), rtol=1e-4)


def test_rank_r_hat_sees_scales_that_differ_and_ignores_monotone_maps():
    x = chains_of_halves([0.0] * 4, [1.0, 4.0, 1.0, 4.0], 200)
    assert split_r_hat(x) < 1.001 < 1.1 < rank_r_hat(x)
    shifted = chains_of_halves([0.0, 2.0, 0.0, 2.0], [1.0] * 4, 200)
    wild = jnp.exp(3 * shifted)
    assert split_r_hat(wild) < 1.2 < 1.3 < rank_r_hat(wild)


# ---- all of them


@each_diagnostic
def test_diagnostics_take_every_entry_of_an_example_by_itself(diagnostic):
    x = jnp.float32(np.random.default_rng(4).normal(size=(3, 21, 2, 2)))
    one_by_one = [[diagnostic(x[:, :, i, j]) for j in range(2)] for i in range(2)]
    np.testing.assert_allclose(jax.jit(diagnostic)(x), one_by_one, rtol=1e-4)


@each_diagnostic
def test_diagnostics_do_not_depend_on_units(diagnostic):
    x = jnp.float32(autoregressions(0.5, 2, 100))
    np.testing.assert_allclose(diagnostic(1e-3 * x), diagnostic(x), rtol=1e-3)


@each_diagnostic
@pytest.mark.parametrize("value", [0.1, 0.0])
def test_chains_that_never_move_have_no_figure(diagnostic, value):
    assert np.isnan(diagnostic(jnp.full((3, 100), value)))


def test_chains_stuck_at_values_of_their_own_are_one_draw_each():
    x = jnp.broadcast_to(jnp.float32([[0.1], [0.7], [0.3]]), (3, 1000))
    assert split_r_hat(x) == np.inf
    np.testing.assert_allclose(effective_sample_size(x), 3.0, rtol=2e-3)


@each_diagnostic
def test_a_nan_among_draws_is_not_passed_over(diagnostic):
    x = jnp.float32(np.random.default_rng(5).normal(size=(2, 50))).at[1, 7].set(jnp.nan)
    assert np.isnan(diagnostic(x))


@each_diagnostic
@pytest.mark.parametrize("shape", [(4, 3), (0, 10), (2, 3, 5)])
def test_draws_of_too_few_steps_or_chains_are_refused_by_name_and_shape(diagnostic, shape):
    with pytest.raises(ValueError, match="got draws of shape") as error:
        diagnostic(jnp.zeros(shape))
    assert f"`{diagnostic.__name__}` got draws of shape {shape}" in str(error.value)
    diagnostic(jnp.zeros((1, 4)))


# ---- health of an energy


def test_energy_health_of_a_quadratic_energy_is_closed():
    """E = a |x|^2 / 2 - c on points of known norm: |grad E| = a |x|."""
    a, c = 3.0, 2.0
    energy_fn = lambda x: a * jnp.sum(x**2) / 2 - c  # noqa: E731
    data = jnp.float32([[[0.6], [0.8]], [[0.0], [1.0]], [[1.0], [0.0]]])  # norms 1
    model = jnp.float32([[[0.0], [0.5]], [[-2.0], [0.0]]])  # norms .5 and 2
    health = energy_health(energy_fn, data, model, low=-2.0, high=0.5)
    data_energy, model_energy = a / 2 - c, a / 2 * np.array([0.25, 4.0]) - c
    np.testing.assert_allclose(health.energy_gap, model_energy.mean() - data_energy, rtol=1e-6)
    sizes = np.abs([data_energy] * 3 + list(model_energy))
    np.testing.assert_allclose(health.energy_size, sizes.mean(), rtol=1e-6)
    np.testing.assert_allclose(health.gradient_norm, a * (0.5 + 2) / 2, rtol=1e-6)
    np.testing.assert_allclose(health.saturation, 2 / 4)
    by_default = energy_health(energy_fn, data, model)
    np.testing.assert_allclose(by_default.saturation, 1 / 4)
    same = energy_health(energy_fn, data, data)
    np.testing.assert_allclose(same.energy_gap, 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("n", "m", "low", "high", "message"),
    [
        (0, 2, -1.0, 1.0, "0 examples, 2 samples"),
        (2, 0, -1.0, 1.0, "2 examples, 0 samples"),
        (2, 2, 1.0, 1.0, r"the box \[1.0, 1.0\]"),
    ],
)
def test_energy_health_refuses_empty_batches_and_boxes(n, m, low, high, message):
    with pytest.raises(ValueError, match=f"`energy_health` got .*{message}"):
        energy_health(jnp.sum, jnp.zeros((n, 3)), jnp.zeros((m, 3)), low=low, high=high)
