"""Quadrature on a grid against Gaussians, whose integrals are closed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from ebm_jax import likelihood
from ebm_jax.data import dequantize

MEAN_P, SCALE_P = np.array([0.5, -1.0]), np.array([0.6, 1.0])
MEAN_Q, SCALE_Q = np.array([-0.3, 0.2]), np.array([1.1, 0.8])


def energy(mean, scale, shift=0.0):
    return lambda x: 0.5 * jnp.sum(((x - jnp.float32(mean)) / jnp.float32(scale)) ** 2) + shift


def gaussian_kl():
    """KL(N(m, s^2) || N(m', s'^2)), summed over independent coordinates."""
    ratio = SCALE_P / SCALE_Q
    return np.sum(0.5 * (ratio**2 + ((MEAN_P - MEAN_Q) / SCALE_Q) ** 2 - 1) - np.log(ratio))


def test_grid_holds_the_midpoints_of_its_cells_first_coordinate_slowest():
    expected = [[a, b] for a in (-2, 0, 2) for b in (-2, 0, 2)]
    np.testing.assert_allclose(likelihood.square_grid(3.0, 3), expected, atol=1e-6)
    np.testing.assert_allclose(likelihood.square_grid(3.0, 1), [[0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"num_points": 90}])
def test_log_z_of_a_gaussian_is_closed(options):
    value = likelihood.log_z_on_grid(energy(MEAN_P, SCALE_P, shift=3.0), half_width=8.0, **options)
    np.testing.assert_allclose(value, np.log(2 * np.pi * SCALE_P.prod()) - 3.0, atol=1e-4)


def test_log_z_of_a_skewed_law_is_scipys():
    """exp(-x - exp(-x) - y^4), neither symmetric nor Gaussian: 1 times 2 Gamma(5/4)."""
    value = likelihood.log_z_on_grid(
        lambda x: x[0] + jnp.exp(-x[0]) + x[1] ** 4, half_width=20.0, num_points=500
    )
    expected = integrate.quad(lambda y: np.exp(-(y**4)), -5, 5)[0]
    np.testing.assert_allclose(value, np.log(expected), atol=1e-3)


def test_log_z_counts_only_the_mass_on_the_square():
    value = likelihood.log_z_on_grid(energy([0.0, 0.0], [1.0, 1.0]), half_width=1.0)
    inside = 2 * stats.norm.cdf(1.0) - 1
    np.testing.assert_allclose(value, np.log(2 * np.pi * inside**2), atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_points": 90}])
def test_log_density_is_the_normalized_gaussians_at_the_points_of_the_grid(options):
    value = likelihood.log_density_on_grid(energy(MEAN_P, SCALE_P, 3.0), half_width=8.0, **options)
    grid = np.asarray(likelihood.square_grid(8.0, options.get("num_points", 400)), np.float64)
    expected = stats.norm.logpdf(grid, MEAN_P, SCALE_P).sum(-1)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"num_points": 90}])
def test_kl_of_gaussians_is_closed_and_not_symmetric(options):
    p, q = energy(MEAN_P, SCALE_P, shift=3.0), energy(MEAN_Q, SCALE_Q, shift=-1.0)
    value = likelihood.kl_on_grid(p, q, half_width=8.0, **options)
    np.testing.assert_allclose(value, gaussian_kl(), rtol=1e-3)
    np.testing.assert_allclose(likelihood.kl_on_grid(p, p, half_width=8.0, **options), 0, atol=1e-5)


def uniform(x, *, high):
    """The energy of the uniform law on 0 < x_0 < high: infinite elsewhere."""
    return jnp.where((x[0] > 0) & (x[0] < high), 0.0, jnp.inf)


def test_kl_is_infinite_only_where_the_model_misses_mass():
    narrow, wide = (lambda x: uniform(x, high=1.0)), (lambda x: uniform(x, high=2.0))
    kl = lambda p, q: likelihood.kl_on_grid(p, q, half_width=4.0, num_points=80)  # noqa: E731
    np.testing.assert_allclose(kl(narrow, wide), np.log(2.0), rtol=1e-4)
    assert kl(wide, narrow) == np.inf


@pytest.mark.parametrize(("half_width", "num_points"), [(0.0, 3), (-1.0, 3), (1.0, 0)])
def test_grids_that_are_empty_are_refused_by_name_and_value(half_width, num_points):
    message = f"`square_grid` got half_width={half_width}, num_points={num_points}"
    with pytest.raises(ValueError, match=message):
        likelihood.square_grid(half_width, num_points)


def test_evidence_is_differentiable_in_the_model():
    """d log Z / d theta = -E[dE / d theta]: for E = a |x|^2 / 2 it is -1 / a, d = 2."""
    slope = jax.grad(
        lambda a: likelihood.log_z_on_grid(lambda x: a * jnp.sum(x**2) / 2, half_width=8.0)
    )(2.0)
    np.testing.assert_allclose(slope, -1 / 2.0, rtol=1e-3)


# ---- one dimension, and means


def test_line_grid_holds_the_midpoints_of_its_cells_as_examples_of_one_number():
    np.testing.assert_allclose(likelihood.line_grid(3.0, 3), [[-2.0], [0.0], [2.0]], atol=1e-6)


@pytest.mark.parametrize("d", [1, 3])
def test_quadrature_in_other_dimensions_has_the_closed_forms_of_gaussians(d):
    options = {"half_width": 8.0, "num_points": 400 if d == 1 else 50, "num_dimensions": d}
    p, q = energy([0.5] * d, [0.9] * d, shift=2.0), energy([-0.3] * d, [1.2] * d, shift=-1.0)
    log_z = likelihood.log_z_on_grid(p, **options)
    np.testing.assert_allclose(log_z, d * np.log(0.9 * np.sqrt(2 * np.pi)) - 2.0, atol=1e-4)
    expected = d * (np.log(1.2 / 0.9) + (0.9**2 + 0.8**2) / (2 * 1.2**2) - 0.5)
    np.testing.assert_allclose(likelihood.kl_on_grid(p, q, **options), expected, rtol=1e-3)


def test_log_density_on_a_line_is_scipys():
    value = likelihood.log_density_on_grid(
        energy([0.5], [0.9], 2.0), half_width=8.0, num_points=300, num_dimensions=1
    )
    grid = np.asarray(likelihood.line_grid(8.0, 300), np.float64)[:, 0]
    np.testing.assert_allclose(value, stats.norm.logpdf(grid, 0.5, 0.9), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"num_points": 90}])
def test_expectation_on_grid_is_the_gaussians(options):
    """E x = m and E (x - m)(x - m)^T = diag s^2, as a vector and as a matrix."""
    p = energy(MEAN_P, SCALE_P, shift=3.0)
    mean = likelihood.expectation_on_grid(p, lambda x: x, half_width=8.0, **options)
    np.testing.assert_allclose(mean, MEAN_P, atol=1e-4)
    spread = likelihood.expectation_on_grid(
        p,
        lambda x: jnp.outer(x - jnp.float32(MEAN_P), x - jnp.float32(MEAN_P)),
        half_width=8.0,
        **options,
    )
    np.testing.assert_allclose(spread, np.diag(SCALE_P**2), atol=1e-4)


def test_expectation_of_an_indicator_is_the_mass_of_its_region():
    """P(x_0 < 0) of N(.5, .6^2), cells' borders at 0; and where p is zero f may be infinite."""
    left = likelihood.expectation_on_grid(
        energy(MEAN_P, SCALE_P), lambda x: x[0] < 0, half_width=8.0, num_points=800
    )
    np.testing.assert_allclose(left, stats.norm.cdf(0, 0.5, 0.6), atol=1e-4)
    outside = likelihood.expectation_on_grid(
        lambda x: uniform(x, high=1.0),
        lambda x: jnp.where(x[0] > 2, jnp.inf, x[0]),
        half_width=4.0,
        num_points=80,
    )
    np.testing.assert_allclose(outside, 0.5, rtol=1e-4)


def test_an_energy_that_is_no_scalar_is_refused_with_its_shape():
    message = r"quadrature got energy_fn\(x\) of shape \(1,\), expected \(\)"
    with pytest.raises(ValueError, match=message):
        likelihood.log_z_on_grid(lambda x: x**2, half_width=8.0, num_points=10, num_dimensions=1)


@pytest.mark.parametrize(
    "function",
    [likelihood.log_z_on_grid, likelihood.log_density_on_grid, likelihood.expectation_on_grid],
)
def test_quadrature_in_too_many_dimensions_is_refused_before_memory_is_taken(function):
    """400^10 cells; on the way to failing this took all memory and the process with it."""
    arguments = [lambda x: jnp.sum(x**2) / 2]
    arguments += [lambda x: x[0]] if function is likelihood.expectation_on_grid else []
    with pytest.raises(ValueError, match=r"10 dimensions, which are 1e.26 cells: .* at most 6"):
        function(*arguments, half_width=5.0, num_dimensions=10)
    value = likelihood.log_z_on_grid(
        lambda x: jnp.sum(x**2) / 2, half_width=6.0, num_points=10, num_dimensions=5
    )
    np.testing.assert_allclose(value, 2.5 * np.log(2 * np.pi), atol=1e-3)


@pytest.mark.parametrize(("half_width", "num_points", "d"), [(0.0, 3, 1), (1.0, 0, 1), (1.0, 3, 0)])
def test_quadrature_on_nothing_is_refused_with_its_numbers(half_width, num_points, d):
    with pytest.raises(
        ValueError, match=f"half_width={half_width}, num_points={num_points}, in {d}"
    ):
        likelihood.log_z_on_grid(
            jnp.sum, half_width=half_width, num_points=num_points, num_dimensions=d
        )


# ---- ratios and code lengths


def test_log_ratio_is_that_of_the_densities_without_their_normalizer():
    x, y = jnp.float32([0.1, 0.4]), jnp.float32([-1.0, 2.0])
    p = energy(MEAN_P, SCALE_P, shift=7.0)
    expected = stats.norm.logpdf(x, MEAN_P, SCALE_P).sum()
    expected -= stats.norm.logpdf(y, MEAN_P, SCALE_P).sum()
    np.testing.assert_allclose(likelihood.log_ratio(p, x, y), expected, rtol=1e-5)


@pytest.mark.parametrize("d", [1, 3072])
@pytest.mark.parametrize(
    ("low", "high", "num_levels", "bits"),
    [(-1.0, 1.0, 256, 8.0), (0.0, 1.0, 256, 8.0), (-1.0, 1.0, 32, 5.0)],
)
def test_the_uniform_density_needs_all_bits_of_a_level(d, low, high, num_levels, bits):
    """p = (high - low)^-d knows nothing: log2(levels) bits a dimension."""
    log_density = -d * np.log(high - low)
    cell_width = (high - low) / num_levels
    value = likelihood.bits_per_dimension(float(log_density), d, cell_width=cell_width)
    np.testing.assert_allclose(value, bits, rtol=1e-6)


def test_by_default_cells_are_those_of_the_librarys_own_pixels():
    """Dequantized pixels fill [-1 - 1/255, 1 + 1/255], whose uniform density needs 8 bits."""
    keys = jax.random.split(jax.random.key(0), 2)
    ends = jnp.array([0, 255], jnp.uint8)
    low, high = (
        dequantize(key, jnp.full(10_000, end)) for key, end in zip(keys, ends, strict=True)
    )
    width = float(high.max() - low.min())
    assert width == pytest.approx(2 + 2 / 255, abs=1e-4)
    log_density = -12 * np.log(2 + 2 / 255)
    assert likelihood.bits_per_dimension(log_density, 12) == pytest.approx(8.0, abs=1e-9)


def test_bits_per_dimension_are_the_entropy_of_data_under_their_own_law():
    """Levels with probabilities P, spread evenly over their cells, cost their entropy."""
    probabilities = np.array([0.5, 0.25, 0.125, 0.125])
    cell_width = 2 / 4
    logs = np.log(probabilities / cell_width)  # the density of x, constant on each cell
    bits = [likelihood.bits_per_dimension(jnp.float32(v), 1, cell_width=cell_width) for v in logs]
    np.testing.assert_allclose(probabilities @ np.array(bits), 1.75, rtol=1e-6)


@pytest.mark.parametrize(("d", "cell_width"), [(0, 1.0), (3, 0.0), (3, -1.0)])
def test_bits_per_dimension_refuses_numbers_that_are_not_positive(d, cell_width):
    message = f"`bits_per_dimension` got num_dimensions={d}, cell_width={cell_width}"
    with pytest.raises(ValueError, match=message):
        likelihood.bits_per_dimension(1.0, d, cell_width=cell_width)
