"""Targets against densities built without them: scipy, quadrature, scikit-learn's curves."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats
from sklearn.datasets import make_moons

from ebm_jax import targets
from tests.statistics import assert_mean, assert_normal

MEANS = np.array([[-1.0, 0.5], [2.0, 1.0], [0.0, -2.0]])
SCALES, WEIGHTS = np.array([0.4, 1.0, 0.7]), np.array([1.0, 3.0, 2.0])


def normal(x, center, scale):
    """The density of N(center, scale^2 I) in the plane, in float64; the last axis is x's."""
    return np.exp(-np.sum((x - center) ** 2, -1) / (2 * scale**2)) / (2 * np.pi * scale**2)


def along(curve, scale, weights=1.0):
    """The density of points of a curve, weighted, plus N(0, scale^2 I)."""
    weights = np.broadcast_to(weights, len(curve)) / np.broadcast_to(weights, len(curve)).sum()
    return lambda x: sum(
        normal(x[..., None, :], part, scale) @ share
        for part, share in zip(np.array_split(curve, 8), np.array_split(weights, 8), strict=True)
    )


def mixture(sigma):
    weights, scales = WEIGHTS / WEIGHTS.sum(), np.hypot(SCALES, sigma)
    return lambda x: sum(
        w * normal(x, m, s) for w, m, s in zip(weights, MEANS, scales, strict=True)
    )


def gaussian(sigma):
    scale = np.hypot([0.5, 2.0], sigma)
    return lambda x: stats.norm.pdf(x, [1.0, -0.5], scale).prod(-1)


def eight_gaussians(sigma):
    angles = np.arange(8) * 2 * np.pi / 8
    return along(2.83 * np.stack([np.cos(angles), np.sin(angles)], -1), np.hypot(0.35, sigma))


def rings(sigma):
    """By the trapezium rule over the angle, exact for a periodic integrand."""
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    radii = (0.75, 1.5, 2.25, 3.0)
    return along(np.concatenate([r * circle for r in radii]), np.hypot(0.08, sigma))


def moons(sigma):
    """scikit-learn's curves under the scaling of arXiv:1810.01367."""
    curve = make_moons(4000, shuffle=False, noise=None)[0] * 2 + [-1.0, -0.2]
    ends = np.where(np.isin(np.arange(4000) % 2000, [0, 1999]), 0.5, 1.0)  # the trapezium rule
    return along(curve, np.hypot(0.2, sigma), ends)


def two_spirals(sigma):
    """arXiv:1810.01367 without the jitter: n = 3 pi sqrt(u), at the midpoints of 4000 u."""
    n = 3 * np.pi * np.sqrt((np.arange(4000) + 0.5) / 4000)
    arm = np.stack([-np.cos(n) * n, np.sin(n) * n], -1) / 3
    return along(np.concatenate([arm, -arm]), np.hypot(0.1, sigma))


def checkerboard(sigma):
    corners = [(-4, -4), (-4, 0), (-2, -2), (-2, 2), (0, -4), (0, 0), (2, -2), (2, 2)]

    def density(x):
        if not sigma:
            inside = [np.all((x >= c) & (x < np.add(c, 2)), -1) for c in corners]
            return np.any(inside, 0) / 32
        mass = [
            stats.norm.cdf((x - c) / sigma) - stats.norm.cdf((x - c - 2) / sigma) for c in corners
        ]
        return np.sum([m.prod(-1) for m in mass], 0) / 32

    return density


LAWS = {
    "gaussian": (targets.gaussian(jnp.array([1.0, -0.5]), jnp.array([0.5, 2.0])), gaussian),
    "mixture": (
        targets.gaussian_mixture(jnp.asarray(MEANS), jnp.asarray(SCALES), jnp.asarray(WEIGHTS)),
        mixture,
    ),
    "eight_gaussians": (targets.eight_gaussians(), eight_gaussians),
    "rings": (targets.rings(), rings),
    "checkerboard": (targets.checkerboard(), checkerboard),
    "moons": (targets.moons(), moons),
    "two_spirals": (targets.two_spirals(), two_spirals),
}
SIGMA = 0.3
POINTS = np.random.default_rng(0).uniform(-3.5, 3.5, (64, 2))
each_law = pytest.mark.parametrize("name", LAWS)


def near(density, floor=1e-25):
    """The test points at which the law has a mass that float32 can tell from nothing."""
    return POINTS[density(POINTS) > floor]


def on_points(function, points):
    return np.asarray(jax.jit(jax.vmap(function))(jnp.float32(points)), np.float64)


def central_differences(log_density, points, step=1e-5):
    shifts = step * np.eye(2)
    return np.stack(
        [(log_density(points + s) - log_density(points - s)) / (2 * step) for s in shifts], -1
    )


@lru_cache
def waves_of_draws(name, sigma):
    """cos and sin of three waves at 20,000 draws: sensitive to place, scale, shape and weights."""
    target = LAWS[name][0].smoothed(sigma) if sigma else LAWS[name][0]
    return waves(jax.jit(jax.vmap(target.draw))(jax.random.split(jax.random.key(0), 20_000)))


def waves(x):
    phases = np.asarray(x, np.float64) @ np.array([[1.0, 0.3, 2.1], [0.2, 0.8, -1.7]])
    return np.concatenate([np.cos(phases), np.sin(phases)], -1)


def midpoints(half_width, cells):
    axis = (np.arange(cells) + 0.5) / cells * 2 * half_width - half_width
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1), (2 * half_width / cells) ** 2


@each_law
@pytest.mark.parametrize("sigma", [0.0, SIGMA])
def test_energy_and_log_z_are_those_of_the_density(name, sigma):
    target, reference = LAWS[name]
    target, density = target.smoothed(sigma) if sigma else target, reference(sigma)
    points = near(density)
    log_density = -on_points(target.energy, points) - target.log_z
    np.testing.assert_allclose(log_density, np.log(density(points)), rtol=1e-4, atol=2e-4)


@each_law
@pytest.mark.parametrize("sigma", [0.0, SIGMA])
def test_score_is_the_gradient_of_the_log_density_by_finite_differences(name, sigma):
    target, reference = LAWS[name]
    if name == "checkerboard" and not sigma:
        assert target.score is None
        return
    target, density = target.smoothed(sigma) if sigma else target, reference(sigma)
    points = near(density)
    expected = central_differences(lambda x: np.log(density(x)), points)
    np.testing.assert_allclose(
        on_points(target.score, points), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()
    )


@each_law
@pytest.mark.parametrize("sigma", [0.0, SIGMA])
def test_draws_follow_the_density_by_quadrature(name, sigma):
    target = LAWS[name][0].smoothed(sigma) if sigma else LAWS[name][0]
    half_width = 12.0 if name in ("gaussian", "mixture") else 5.5
    points, cell = midpoints(half_width, round(2 * half_width / 0.05))
    mass = cell * np.exp(-on_points(target.energy, points.reshape(-1, 2)) - target.log_z)
    np.testing.assert_allclose(mass.sum(), 1.0, atol=2e-3)
    assert_mean(waves_of_draws(name, sigma), mass @ waves(points.reshape(-1, 2)))


@pytest.mark.parametrize("name", ["mixture", "checkerboard", "two_spirals"])
def test_smoothing_is_the_convolution_with_a_gaussian_by_adaptive_quadrature(name):
    """int p(x - SIGMA z) N(z; 0, I) dz with the unsmoothed energy of the target."""
    target = LAWS[name][0]
    for x in ([0.3, -0.4], [-1.6, 1.5]):
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        if name == "checkerboard":  # not smooth: integrate over its squares instead
            expected = sum(
                integrate.dblquad(
                    lambda b, a, x=x: normal(np.array([a, b]), np.array(x), SIGMA) / 32,
                    low, low + 2, bottom, bottom + 2,
                )[0]
                for low, bottom in [(-4, -4), (-4, 0), (-2, -2), (-2, 2), (0, -4), (0, 0)]
            )  # fmt: skip
        else:
            shifts = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
            share = np.outer(weights, weights).ravel() / weights.sum() ** 2
            log_density = -on_points(target.energy, x - SIGMA * shifts) - target.log_z
            expected = share @ np.exp(log_density)
        smoothed = target.smoothed(SIGMA)
        value = -smoothed.energy(jnp.float32(x)) - smoothed.log_z
        np.testing.assert_allclose(value, np.log(expected), atol=2e-3)


def test_gaussian_takes_one_scale_for_an_example_of_any_shape():
    mean = jnp.array([[1.0, -2.0], [0.5, 3.0]])
    target = targets.gaussian(mean, 0.5)
    draws = jax.jit(jax.vmap(target.draw))(jax.random.split(jax.random.key(1), 20_000))
    assert_normal(draws, mean, 0.25)
    np.testing.assert_allclose(target.log_z, 4 * np.log(0.5 * np.sqrt(2 * np.pi)), rtol=1e-5)
    np.testing.assert_allclose(target.score(mean + 1.0), -4.0 * np.ones((2, 2)), rtol=1e-5)


@pytest.mark.parametrize("dimensions", [1, 3])
def test_mixture_is_equal_by_default_and_normalized_in_any_dimension(dimensions):
    means = np.stack([np.zeros(dimensions), np.full(dimensions, 2.0)])
    target = targets.gaussian_mixture(jnp.asarray(means), 0.6)
    x = np.full(dimensions, 0.7)
    expected = np.mean([stats.norm.pdf(x, m, 0.6).prod() for m in means])
    value = -target.energy(jnp.float32(x)) - target.log_z
    np.testing.assert_allclose(value, np.log(expected), rtol=1e-4)


def test_mixture_stays_finite_far_from_its_components():
    target = LAWS["mixture"][0]
    x = jnp.array([60.0, -80.0])  # every component underflows in float32
    widest = (MEANS[1] - np.asarray(x)) / SCALES[1] ** 2
    np.testing.assert_allclose(target.score(x), widest, rtol=1e-4)
    assert np.isfinite(target.energy(x))


def test_smoothed_checkerboard_keeps_its_score_far_outside():
    """There the nearest corner's Mills ratios rule: d/dx log Phi(-z) = -z - 1/z + O(z^-3)."""
    sigma, x = 0.1, jnp.array([6.0, 5.0])
    score = targets.checkerboard().smoothed(sigma).score(x)
    z = (np.asarray(x) - 4.0) / sigma
    np.testing.assert_allclose(score, -(z + 1 / z) / sigma, rtol=1e-3)


def test_rings_have_no_pull_at_their_center():
    np.testing.assert_array_equal(targets.rings().score(jnp.zeros(2)), np.zeros(2))


def test_ring_of_another_radius_and_scale_has_the_moments_of_a_noisy_circle():
    target = targets.rings(radii=(2.0,), scale=0.5)
    draws = jax.jit(jax.vmap(target.draw))(jax.random.split(jax.random.key(2), 20_000))
    assert_mean(np.sum(np.square(draws), -1), 2.0**2 + 2 * 0.5**2)
    np.testing.assert_allclose(target.log_z, np.log(2 * np.pi * 0.25), rtol=1e-6)


def test_eight_gaussians_are_the_published_ones_to_two_percent():
    """arXiv:1810.01367: radius 4 and scale .5, both divided by 1.414."""
    target = targets.eight_gaussians()
    draws = np.asarray(jax.vmap(target.draw)(jax.random.split(jax.random.key(3), 20_000)))
    second = (4 / 1.414) ** 2 + 2 * (0.5 / 1.414) ** 2
    np.testing.assert_allclose(np.mean(np.sum(draws**2, -1)), second, rtol=0.02)
    np.testing.assert_allclose(np.mean(draws**2, 0), second / 2, rtol=0.03)


@pytest.mark.parametrize("options", [{}, {"num_arms": 3}])
def test_pinwheel_is_its_published_construction_by_quadrature(options):
    """arXiv:1810.01367 multiplies rows (1 + .3 a, .1 b) from the left to a rotation matrix,
    which turns them clockwise, by an arm's angle plus exp(1 + .3 a) / 4.
    """
    target = targets.pinwheel(**options)
    draws = jax.jit(jax.vmap(target.draw))(jax.random.split(jax.random.key(4), 40_000))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    arms = np.arange(options.get("num_arms", 5)) * 2 * np.pi / options.get("num_arms", 5)
    arm, along, across = np.meshgrid(arms, 1 + 0.3 * nodes, 0.1 * nodes, indexing="ij")
    z = 2 * (along + 1j * across) * np.exp(-1j * (arm + 0.25 * np.exp(along)))
    share = np.einsum("a,i,j->aij", np.ones_like(arms), weights, weights)
    places = np.stack([z.real, z.imag], -1).reshape(-1, 2)
    assert_mean(waves(draws), share.ravel() / share.sum() @ waves(places))
    assert_mean(np.sum(np.square(draws), -1), share.ravel() / share.sum() @ np.sum(places**2, -1))
    assert target[1:] == (None, None, None, None)  # nothing else is known


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: targets.gaussian(jnp.zeros(2), 0.0), "`gaussian` got scale=.*positive"),
        (lambda: targets.gaussian(jnp.zeros(2), jnp.array([1.0, -1.0])), "`gaussian` got scale="),
        (
            lambda: targets.gaussian_mixture(jnp.zeros((2, 2)), -1.0),
            "`gaussian_mixture` got scales",
        ),
        (
            lambda: targets.gaussian_mixture(jnp.zeros((2, 2)), 1.0, jnp.array([0.0, 1.0])),
            "`gaussian_mixture` got weights=",
        ),
        (lambda: targets.rings(radii=(1.0, -1.0)), "`rings` got radii="),
        (lambda: targets.rings(scale=0.0), "`rings` got scale=0.0"),
        (lambda: targets.moons(scale=0.0), "`a curve` got scale=0.0"),
        (lambda: targets.two_spirals(scale=-0.1), "`a curve` got scale=-0.1"),
        (
            lambda: targets.checkerboard().smoothed(0.0),
            r"`checkerboard\(\).smoothed` got sigma=0.0",
        ),
    ],
)
def test_numbers_that_are_not_positive_are_refused_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_log_density_of_a_law_is_that_of_scipy():
    x = np.array([0.3, 1.7], np.float32)
    ours = targets.log_density(targets.gaussian(jnp.array([1.0, -0.5]), jnp.array([0.5, 2.0])))(x)
    expected = stats.norm.logpdf(x, [1.0, -0.5], [0.5, 2.0]).sum()
    assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_log_density_refuses_a_law_of_draws_only():
    with pytest.raises(ValueError, match="it has no density"):
        targets.log_density(targets.pinwheel())
