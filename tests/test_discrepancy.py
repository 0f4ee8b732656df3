"""Discrepancies and their standard errors, against laws whose discrepancy is closed."""

from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy import stats

from ebm_jax.metrics import (
    inverse_multiquadric,
    sliced_wasserstein,
    squared_exponential,
    squared_mmd,
    squared_mmd_with_error,
    squared_stein_discrepancy,
)
from tests.statistics import assert_mean

REPEATS = 1500


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def repeated(estimate, seed=0):
    return jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(seed), REPEATS))


def assert_standard_error(estimates):
    """The mean of the squared standard errors is the variance of the values."""
    values = np.asarray(estimates.value, np.float64)
    squares = (values - values.mean()) ** 2 * REPEATS / (REPEATS - 1)
    assert_mean(squares - np.square(estimates.standard_error, dtype=np.float64), 0.0)


# ---- maximum mean discrepancy


def two_point_samples(n, p):
    """All samples of n rows from {0, 1}, up to their order, and their probabilities, P(1) = p."""
    ones = np.arange(n + 1)
    rows = np.arange(n)[None, :] < ones[:, None]
    return jnp.float32(rows[:, :, None]), stats.binom.pmf(ones, n, p)


def assert_exact_on_average(estimates, chances, rtol):
    """The mean of the squared standard errors is the variance of the value, enumerated."""
    value, error = (np.asarray(part, np.float64).ravel() for part in estimates)
    variance = chances @ value**2 - (chances @ value) ** 2
    np.testing.assert_allclose(chances @ error**2, variance, rtol=rtol)


def test_standard_error_of_squared_mmd_is_exact_on_average_over_all_samples():
    """Bernoulli laws far apart, where the cut at zero hardly ever acts (1e-5 of the mean)."""
    (x, chance_x), (y, chance_y) = two_point_samples(12, 0.1), two_point_samples(10, 0.9)
    estimate = partial(squared_mmd_with_error, bandwidth=0.5)
    table = jax.jit(jax.vmap(jax.vmap(estimate, (None, 0)), (0, None)))(x, y)
    assert_exact_on_average(table, np.outer(chance_x, chance_y).ravel(), 1e-3)


@pytest.mark.parametrize(("offset", "scale", "n", "m"), [(0.8, 1.0, 20, 20), (0.5, 2.0, 12, 30)])
def test_standard_error_of_squared_mmd_is_the_spread_over_samples(offset, scale, n, m):
    def estimate(key):
        key_x, key_y = jax.random.split(key)
        x = jax.random.normal(key_x, (n, 2))
        y = offset + scale * jax.random.normal(key_y, (m, 2))
        return squared_mmd_with_error(x, y, bandwidth=1.3)

    assert_standard_error(repeated(estimate))


def assert_standard_error_where_laws_agree(estimates):
    """The first-order variance is zero there, and its estimate, cut at zero, is a little more.

    A standard error of first order alone would be anything down to zero; a jackknife has
    twice the variance.
    """
    squares = np.square(estimates.standard_error)
    assert 1.0 < np.mean(squares) / np.var(estimates.value) < 2.0
    assert np.min(squares) > 0.2 * np.var(estimates.value)
    assert np.mean(np.abs(estimates.value) > 2 * estimates.standard_error) < 0.05


@pytest.mark.parametrize(("n", "m"), [(12, 30)])
def test_standard_error_of_squared_mmd_holds_where_both_laws_agree(n, m):
    def estimate(key):
        key_x, key_y = jax.random.split(key)
        x, y = jax.random.normal(key_x, (n, 5)), jax.random.normal(key_y, (m, 5))
        return squared_mmd_with_error(x, y, bandwidth=2.0)

    assert_standard_error_where_laws_agree(repeated(estimate))


@pytest.mark.parametrize(("n", "m"), [(4, 4), (80, 70)])
def test_squared_mmd_with_error_has_the_value_of_squared_mmd(n, m):
    x, y = jnp.float32(normals(n, 2, 3)), jnp.float32(normals(m, 2, 3, seed=1) + 0.4)
    estimate = squared_mmd_with_error(x, y, bandwidth=1.7)
    np.testing.assert_allclose(estimate.value, squared_mmd(x, y, bandwidth=1.7), atol=1e-6)


def test_squared_mmd_keeps_its_digits_under_a_wide_kernel():
    """To first order in 1 / b^2, MMD^2 = |difference of means|^2 / b^2, less its bias."""
    x, y, b = normals(40, 2), normals(50, 2, seed=1) + 0.5, 300.0
    unbiased = np.sum((x.mean(0) - y.mean(0)) ** 2)
    unbiased -= np.sum(x.var(0, ddof=1)) / 40 + np.sum(y.var(0, ddof=1)) / 50
    value = squared_mmd(jnp.float32(x), jnp.float32(y), bandwidth=b)
    np.testing.assert_allclose(value, unbiased / b**2, rtol=1e-3)


@pytest.mark.parametrize("function", [squared_mmd, squared_mmd_with_error])
def test_pairs_of_large_samples_are_counted_without_overflow(function):
    rows = jax.ShapeDtypeStruct((70_000, 2), jnp.float32)
    assert jax.tree.leaves(jax.eval_shape(partial(function, bandwidth=1.0), rows, rows))


# ---- kernel Stein discrepancy


KERNELS = {
    inverse_multiquadric: lambda t: (1 + t) ** -0.5,
    squared_exponential: lambda t: np.exp(-t / 2),
}
each_kernel = pytest.mark.parametrize("kernel", KERNELS)


def gaussian_score(x):
    """Of N(0, I)."""
    return -x


def stein_by_quadrature(kernel, mean, scale, d, bandwidth):
    """KSD^2 of N(mean, scale^2 I) from N(0, I): E k(x, x') g(x) . g(x'), g = s_p - s_q.

    By Gauss-Hermite nodes in all 2 d numbers; no derivative of the kernel is in it.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(80 if d == 1 else 24)
    x = mean + scale * np.stack(np.meshgrid(*[nodes] * d, indexing="ij"), -1).reshape(-1, d)
    w = np.prod(np.meshgrid(*[weights / weights.sum()] * d, indexing="ij"), 0).ravel()
    gap = -x + (x - mean) / scale**2
    squares = np.sum((x[:, None] - x[None]) ** 2, -1)
    return w @ (KERNELS[kernel](squares / bandwidth**2) * (gap @ gap.T)) @ w


@partial(jax.jit, static_argnames=("kernel", "d"))
def stein_estimates(mean, scale, *, kernel, d):
    def estimate(key):
        x = mean + scale * jax.random.normal(key, (20, d))
        return squared_stein_discrepancy(gaussian_score, x, bandwidth=1.3, kernel=kernel)

    return jax.vmap(estimate)(jax.random.split(jax.random.key(5), REPEATS))


@each_kernel
@pytest.mark.parametrize(("mean", "scale", "d"), [(0.7, 1.0, 1), (0.3, 1.4, 2), (-0.2, 0.6, 2)])
def test_squared_stein_discrepancy_of_gaussians_has_its_mean_and_spread(kernel, mean, scale, d):
    estimates = stein_estimates(mean, scale, kernel=kernel, d=d)
    assert_mean(estimates.value, stein_by_quadrature(kernel, mean, scale, d, 1.3))
    assert_standard_error(estimates)


@each_kernel
def test_squared_stein_discrepancy_of_a_gaussian_from_itself_is_zero_in_the_mean(kernel):
    estimates = stein_estimates(0.0, 1.0, kernel=kernel, d=2)
    assert_mean(estimates.value, 0.0)
    assert_standard_error_where_laws_agree(estimates)


def test_squared_stein_discrepancy_of_a_skewed_law_from_itself_is_zero_in_the_mean():
    """Gumbel's law, s = exp(-x) - 1: a sign that a symmetric law hides would show."""

    def estimate(key):
        x = jax.random.gumbel(key, (20, 2))
        return squared_stein_discrepancy(lambda x: jnp.exp(-x) - 1, x, bandwidth=0.9)

    assert_mean(repeated(estimate).value, 0.0)


def test_standard_error_of_squared_stein_discrepancy_is_exact_on_average_over_all_samples():
    """Rows 0 and 1 from a Bernoulli law: enumeration, for scores that are far from its own."""
    x, chances = two_point_samples(12, 0.2)
    for score in (lambda x: 2 - x, lambda x: 1 + x):
        estimate = partial(squared_stein_discrepancy, score, bandwidth=1.5)
        assert_exact_on_average(jax.jit(jax.vmap(estimate))(x), chances, 2e-3)


@each_kernel
def test_squared_stein_discrepancy_is_the_u_statistic_of_the_stein_kernel(kernel):
    """h = (s + grad_x) . (s' + grad_x') k, differentiated automatically, over rows of 2 x 3."""
    n, b = 70, 1.7
    x = jnp.float32(normals(n, 2, 3))
    score = lambda x: jnp.cos(2 * x) - x  # noqa: E731
    k = lambda x, y: kernel(jnp.sum((x - y) ** 2) / b**2)  # noqa: E731

    def h(x, y):
        s, t, flat = score(x), score(y), x.size
        mixed = jax.jacfwd(jax.grad(k, 0), 1)(x, y).reshape(flat, flat)
        along = jnp.sum(s * jax.grad(k, 1)(x, y)) + jnp.sum(t * jax.grad(k, 0)(x, y))
        return k(x, y) * jnp.sum(s * t) + along + jnp.trace(mixed)

    table = np.asarray(jax.jit(jax.vmap(lambda x_i: jax.vmap(lambda y: h(x_i, y))(x)))(x))
    expected = (table.sum() - np.trace(table)) / (n * (n - 1))
    estimate = squared_stein_discrepancy(score, x, bandwidth=b, kernel=kernel)
    np.testing.assert_allclose(estimate.value, expected, rtol=1e-4, atol=1e-4)


def test_squared_stein_discrepancy_takes_the_inverse_multiquadric_by_default():
    x = jnp.float32(normals(10, 2))
    by_default = squared_stein_discrepancy(gaussian_score, x, bandwidth=1.0)
    named = squared_stein_discrepancy(gaussian_score, x, bandwidth=1.0, kernel=inverse_multiquadric)
    np.testing.assert_array_equal(by_default.value, named.value)


# ---- sliced Wasserstein distance

sliced = jax.jit(partial(sliced_wasserstein, num_projections=1000))


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (0.7, 1.0), (0.0, 2.5), (-0.4, 0.5)])
@pytest.mark.parametrize("shape", [(2,), (5,), (2, 2, 2)])
def test_sliced_wasserstein_of_a_scaled_and_moved_sample_has_its_mean_over_directions(
    shape, mean, scale
):
    """Sorting commutes with y = mean + scale x: in every direction v the cost is the mean of
    ((1 - scale) v . x - v . mean)^2, and over v that of |(1 - scale) x - mean|^2 / d."""
    x = normals(60, *shape)
    expected = np.mean(((1 - scale) * x - mean) ** 2)  # over rows and dimensions
    estimate = sliced(jax.random.key(0), jnp.float32(x), jnp.float32(mean + scale * x))
    assert abs(estimate.value - expected) <= 5 * estimate.standard_error + 1e-6


@pytest.mark.parametrize(("n", "m"), [(1500, 1500), (1500, 1000)])
@pytest.mark.parametrize("d", [1, 3])
def test_sliced_wasserstein_of_gaussians_is_closed(n, m, d):
    """|m - m'|^2 / d + (s - s')^2, within the noise of samples that are large."""
    mean, mean_y, scale, scale_y = 0.3, -0.5, 1.0, 1.8
    x, y = mean + scale * normals(n, d), mean_y + scale_y * normals(m, d, seed=1)
    estimate = sliced(jax.random.key(1), jnp.float32(x), jnp.float32(y))
    expected = (mean - mean_y) ** 2 + (scale - scale_y) ** 2
    error_of_moments = np.sqrt(scale**2 / n + scale_y**2 / m)  # moves the square by twice 0.8 it
    assert abs(estimate.value - expected) < 5 * (1.6 * error_of_moments + estimate.standard_error)


@pytest.mark.parametrize(("n", "m"), [(1, 5), (4, 6), (7, 5)])
def test_sliced_wasserstein_of_any_two_sizes_is_exact_on_a_line(n, m):
    """As the mean square between sorted samples whose rows are repeated to a common number."""
    x, y = normals(n, 1), normals(m, 1, seed=1) + 1
    long_x, long_y = np.sort(np.repeat(x, m)), np.sort(np.repeat(y, n))
    estimate = sliced_wasserstein(jax.random.key(2), jnp.float32(x), jnp.float32(y))
    np.testing.assert_allclose(estimate.value, np.mean((long_x - long_y) ** 2), rtol=1e-4)
    np.testing.assert_allclose(estimate.standard_error, 0.0, atol=1e-5)


def test_sliced_wasserstein_sees_a_sample_and_its_copies_as_one_law():
    x = jnp.float32(normals(17, 3))
    estimate = sliced_wasserstein(jax.random.key(3), x, jnp.repeat(x, 3, 0))
    np.testing.assert_allclose(estimate.value, 0.0, atol=1e-6)


@pytest.mark.parametrize("num_projections", [2, 10])  # of 2, a wrong ddof halves the square
def test_standard_error_of_sliced_wasserstein_is_the_spread_over_directions(num_projections):
    x, y = jnp.float32(normals(20, 3)), jnp.float32(2 * normals(15, 3, seed=1) + 0.5)
    estimates = repeated(lambda key: sliced_wasserstein(key, x, y, num_projections=num_projections))
    assert_standard_error(estimates)


def test_sliced_wasserstein_takes_128_directions_by_default():
    x, y = jnp.float32(normals(8, 3)), jnp.float32(normals(8, 3, seed=1))
    by_default = sliced_wasserstein(jax.random.key(4), x, y)
    named = sliced_wasserstein(jax.random.key(4), x, y, num_projections=128)
    np.testing.assert_array_equal(by_default, named)


# ---- what is refused


ROWS, FEW = jnp.zeros((5, 2)), jnp.zeros((3, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: squared_mmd_with_error(FEW, ROWS, bandwidth=1.0),
            "`squared_mmd_with_error` got samples of 3 and 5 rows: give at least 4",
        ),
        (
            lambda: squared_mmd_with_error(ROWS, ROWS, bandwidth=0.0),
            "`squared_mmd_with_error` got bandwidth=0.0",
        ),
        (lambda: squared_mmd(ROWS, ROWS, bandwidth=-1.0), "`squared_mmd` got bandwidth=-1.0"),
        (
            lambda: squared_stein_discrepancy(gaussian_score, ROWS, bandwidth=float("nan")),
            "`squared_stein_discrepancy` got bandwidth=nan",
        ),
        (
            lambda: squared_stein_discrepancy(gaussian_score, FEW, bandwidth=1.0),
            "`squared_stein_discrepancy` got 3 rows: give at least 4",
        ),
        (
            lambda: squared_stein_discrepancy(jnp.sum, ROWS, bandwidth=1.0),
            r"`squared_stein_discrepancy` got score_fn\(x\) of shape \(\), expected \(2,\)",
        ),
        (
            lambda: sliced_wasserstein(jax.random.key(0), ROWS, ROWS[:0]),
            "`sliced_wasserstein` got samples of 5 and 0 rows",
        ),
        (
            lambda: sliced_wasserstein(jax.random.key(0), ROWS, ROWS, num_projections=1),
            "`sliced_wasserstein` got num_projections=1",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name_and_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_examples_of_two_shapes_are_refused_by_name_and_shape(monkeypatch):
    """Past the type checks that tests have and users have not."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"got examples of shapes \(2,\) and \(3,\)"):
        squared_mmd(ROWS, jnp.zeros((5, 3)), bandwidth=1.0)
