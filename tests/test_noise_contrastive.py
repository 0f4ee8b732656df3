"""Noise contrast on Gaussians, where log Z, minimizers and asymptotic variances are known.

The family is E(x) = a/2 |x|^2 with log Z of its own, data are N(0, SCALE^2 I). Every loss
here is convex in (a, log Z), so that a vanishing mean gradient marks the one minimizer.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import chi2

from ebm_jax import targets
from ebm_jax.calculus import divergence, score_from_energy
from ebm_jax.losses import (
    check_noise,
    conditional_noise_contrastive,
    noise_contrastive,
    ranking_noise_contrastive,
)
from ebm_jax.nets import RealNVP
from tests.statistics import assert_mean

SCALE, WIDE = 0.7, 1.2  # of data and noise
TRUE = 1 / SCALE**2  # the precision
N = 20_000
dimensions = pytest.mark.parametrize("d", [2, 10])
nus = pytest.mark.parametrize("nu", [1, 8])


def true_log_z(d):
    return d / 2 * np.log(2 * np.pi * SCALE**2)


def quadratic(a):
    return lambda x: 0.5 * a * jnp.sum(x**2)


def normal_law(d):
    """A draw and the log density of N(0, WIDE^2 I)."""
    law = targets.gaussian(jnp.zeros(d), WIDE)
    return law.draw, lambda x: -law.energy(x) - law.log_z


def mixture_law(d):
    means = jnp.stack([jnp.full(d, -0.6), jnp.full(d, 0.5)])
    law = targets.gaussian_mixture(means, jnp.array([1.0, 0.8]), jnp.array([0.3, 0.7]))
    return law.draw, lambda x: -law.energy(x) - law.log_z


def flow_law(d):
    net = RealNVP((d,), num_couplings=2, widths=(8,))
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(d))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.float32(0.3 * rng.normal(size=leaf.shape)), shapes)
    return tuple(partial(net.apply, params, method=m) for m in ("draw", "log_density"))


def samples(law, d, n, nu, seed=0):
    """n data points and nu noise points for each."""
    key_data, key_noise = jax.random.split(jax.random.key(seed))
    keys = jax.random.split(key_noise, (n, nu))
    return SCALE * jax.random.normal(key_data, (n, d)), jax.vmap(jax.vmap(law[0]))(keys)


def gradients(loss, law, d, nu, points):
    """d loss / d (a, log Z) at each point for N independent examples; `loss(a, log_z, x, y)`."""

    @jax.jit
    def all_of_them(points):
        x, y = samples(law, d, N, nu)
        slope = jax.grad(lambda p, x, y: loss(p[0], p[1], x, y))
        return jax.lax.map(lambda p: jax.vmap(partial(slope, p))(x, y), points)

    return np.asarray(all_of_them(jnp.float32(points)))


def radial(d, scale):
    """|x|^2 of N(0, scale^2 I) at equally likely nodes."""
    return scale**2 * chi2(d).ppf((np.arange(50_000) + 0.5) / 50_000)


def noise_share(d, nu, squares, a=TRUE, log_z=None):
    """P(noise | x) of a model, nu q / (p + nu q), and 1 minus it."""
    log_p = -0.5 * a * squares - (true_log_z(d) if log_z is None else log_z)
    log_q = -0.5 * squares / WIDE**2 - d / 2 * np.log(2 * np.pi * WIDE**2)
    ratio = log_q + np.log(nu) - log_p
    return expit(ratio), expit(-ratio)


@nus
@pytest.mark.parametrize("law", [normal_law, mixture_law, flow_law])
def test_a_model_that_is_the_noise_has_the_value_of_a_guess_at_any_point(nu, law):
    """Data or noise by a coin of 1 : nu, (1 + nu) log(1 + nu) - nu log nu; rank by 1 of 1 + nu."""
    draw, log_q = law(2)
    x, y = samples((draw, log_q), 2, 100, nu)
    energy = lambda x: -5.0 - log_q(x)  # noqa: E731
    nce = jax.jit(jax.vmap(lambda x, y: noise_contrastive(energy, log_q, x, y, 5.0)))(x, y)
    np.testing.assert_allclose(nce, (1 + nu) * np.log(1 + nu) - nu * np.log(nu), rtol=1e-5)
    if nu == 1:
        np.testing.assert_allclose(nce, 2 * np.log(2), rtol=1e-5)
    rank = jax.jit(jax.vmap(partial(ranking_noise_contrastive, energy, log_q)))(x, y)
    np.testing.assert_allclose(rank, np.log(1 + nu), rtol=1e-5)


def test_a_constant_energy_cannot_say_which_of_a_pair_came_first():
    flat = conditional_noise_contrastive(lambda x: jnp.float32(3.0), jnp.ones(2), jnp.zeros(2))
    np.testing.assert_allclose(flat, np.log(2), rtol=1e-6)


@nus
@dimensions
def test_the_gradient_of_nce_is_that_of_quadrature_and_vanishes_at_the_truth(d, nu):
    """d/da = E[P |x|^2/2] - nu E[(1 - P) |y|^2/2] with P = P(noise | x); d/dlog Z likewise."""
    law = normal_law(d)
    factors, offsets = np.array([1.0, 0.6, 1.5, -0.2]), np.array([0.0, 0.5, -1.0, 0.0])
    points = np.stack([factors * TRUE, true_log_z(d) + offsets], -1)
    data, noise = radial(d, SCALE), radial(d, WIDE)

    def loss(a, c, x, y):
        return noise_contrastive(quadratic(a), law[1], x, y, c)

    def expected(point):
        at_data, at_noise = (
            noise_share(d, nu, data, *point)[0],
            noise_share(d, nu, noise, *point)[1],
        )
        return [
            np.mean(at_data * data) / 2 - nu * np.mean(at_noise * noise) / 2,
            np.mean(at_data) - nu * np.mean(at_noise),
        ]

    np.testing.assert_allclose(expected(points[0]), 0.0, atol=1e-3)
    for point, slopes in zip(points, gradients(loss, law, d, nu, points), strict=True):
        assert_mean(slopes, expected(point))


@nus
@pytest.mark.parametrize("law", [mixture_law, flow_law])
def test_the_truth_is_the_minimum_whatever_the_noise(law, nu):
    """With its log Z for NCE; in the energy alone for ranking, whose log Z cancels."""
    law = law(2)

    def nce(a, c, x, y):
        return noise_contrastive(quadratic(a), law[1], x, y, c)

    def ranking(a, c, x, y):
        return ranking_noise_contrastive(lambda x: c + quadratic(a)(x), law[1], x, y)

    for loss in (nce, ranking):
        assert_mean(gradients(loss, law, 2, nu, [[TRUE, true_log_z(2)]])[0], 0.0)


@nus
@dimensions
@pytest.mark.parametrize("name", ["ranking", "conditional"])
def test_the_slope_in_the_precision_changes_sign_at_the_truth(d, nu, name):
    """Convex in a: below the truth it falls, above it rises, and an inverted energy falls."""
    law = normal_law(d)

    def ranking(a, _, x, y):
        return ranking_noise_contrastive(quadratic(a), law[1], x, y)

    def conditional(a, _, x, y):
        pair = jax.vmap(lambda n: conditional_noise_contrastive(quadratic(a), x, x + 0.4 * n))
        return jnp.mean(pair(y / WIDE))  # y / WIDE is a standard normal

    loss = {"ranking": ranking, "conditional": conditional}[name]
    points = [[factor * TRUE, 0.0] for factor in (1.0, -1.0, 0.7, 1.4)]
    true, *others = gradients(loss, law, d, nu, points)[..., 0]
    assert_mean(true, 0.0)
    for sign, slope in zip((-1, -1, 1), others, strict=True):
        assert sign * slope.mean() > 5 * slope.std() / np.sqrt(N)


def fit(d, x, y):
    """The (a, log Z) of least mean NCE loss of one data set, by Newton's method.

    An example is the pair (|x|^2 / 2, log q(x)), all that the loss needs of it.
    """

    def mean_loss(p):
        def one(x, y):
            return noise_contrastive(lambda u: p[0] * u[0], lambda u: u[1], x, y, p[1])

        return jnp.mean(jax.vmap(one)(x, y))

    def newton(p, _):
        return p - jnp.linalg.solve(jax.hessian(mean_loss)(p), jax.grad(mean_loss)(p)), None

    start = jnp.float32([1 / WIDE**2, d / 2 * np.log(2 * np.pi * WIDE**2)])
    return jax.lax.scan(newton, start, None, length=8)[0]


def asymptotic_covariance(d, nu):
    """n Cov of the minimizer (theorem 3 of Gutmann & Hyvarinen 2012) by radial quadrature."""
    squares = radial(d, SCALE)
    share = noise_share(d, nu, squares)[0]
    g = np.stack([-squares / 2, -np.ones_like(squares)])
    inverse = np.linalg.inv((share * g) @ g.T / len(squares))
    mean = (share * g).mean(1)
    return inverse - (1 + 1 / nu) * inverse @ np.outer(mean, mean) @ inverse


@pytest.mark.slow
@pytest.mark.parametrize(("d", "n"), [(2, 400), (2, 1200), (10, 400)])
def test_learned_log_z_scatters_about_the_truth_as_theory_says_and_less_for_more_noise(d, n):
    """n E[(learned - true)^2] is Sigma up to O(1/n), less than 5 standard errors of 300 fits."""
    fits, draw_counts = 300, (1, 3, 9)
    draw, log_q = normal_law(d)

    def pair(x):
        return jnp.stack([0.5 * jnp.sum(x**2), log_q(x)])

    def one(seed):
        x, y = samples((draw, log_q), d, n, max(draw_counts), seed=seed)
        x, y = jax.vmap(pair)(x), jax.vmap(jax.vmap(pair))(y)
        return jnp.stack([fit(d, x, y[:, :nu]) for nu in draw_counts])

    fitted = np.asarray(jax.jit(partial(jax.lax.map, one))(jnp.arange(fits)))
    error = fitted - np.array([TRUE, true_log_z(d)])
    sigma = np.stack([np.diag(asymptotic_covariance(d, nu)) for nu in draw_counts])
    assert_mean(n * error**2, sigma)
    assert np.all(np.abs(error.mean(0)) < 5 * np.sqrt(sigma / n / fits) + 5 / n)
    assert np.all(np.diff(sigma[:, 1]) < 0)
    assert np.all(np.diff(error[..., 1].var(0)) < 0)


def test_conditional_nce_is_score_matching_as_the_noise_vanishes():
    """log 2 + sigma^2/4 (1/2 |s|^2 + div s) + O(sigma^4): half the sigma, a 16th of the rest.

    The mean over y = x +- sigma sqrt(d) e_i stands for n ~ N(0, I): E[n n^T] = I.
    """
    for d in (2, 5):

        def energy(x):
            return jnp.sum(jnp.cosh(x)) + x[0] * x[1] - jnp.sum(jnp.sin(2 * x)) / 3

        x = jnp.float32(np.linspace(-0.8, 1.1, d))
        score = score_from_energy(energy)
        matching = 0.5 * jnp.sum(score(x) ** 2) + divergence(score, x)

        def rest(sigma, d=d, x=x, matching=matching):
            probes = sigma * np.sqrt(d) * jnp.concatenate([jnp.eye(d), -jnp.eye(d)])
            loss = jax.vmap(lambda n: conditional_noise_contrastive(energy, x, x + n))(probes)
            return float(jnp.mean(loss)) - np.log(2) - sigma**2 / 4 * float(matching)

        assert abs(matching) > 0.1
        assert rest(0.2) / rest(0.1) == pytest.approx(16, rel=0.25)


def test_ranking_a_pair_with_flat_noise_is_telling_which_came_first():
    energy, (x, y) = quadratic(1.3), jnp.float32([[0.2, -0.7], [1.1, 0.4]])
    ranked = ranking_noise_contrastive(energy, lambda x: jnp.float32(2.0), x, y[None])
    np.testing.assert_allclose(ranked, conditional_noise_contrastive(energy, x, y), rtol=1e-6)
    np.testing.assert_allclose(
        ranked, np.log1p(np.exp(1.3 / 2 * (0.04 + 0.49 - 1.21 - 0.16))), rtol=1e-6
    )


def test_large_energies_neither_overflow_nor_lose_their_gradient():
    """softplus(10^4) = 10^4 where the answer is wrong, 0 where it is right; likewise a softmax."""
    law, x, y = normal_law(2), jnp.zeros(2), jnp.ones((3, 2))
    log_q = law[1]
    wrong = lambda a, x: jnp.where(jnp.all(x == 0), a, -a)  # noqa: E731

    def nce(a):
        return noise_contrastive(partial(wrong, a), log_q, x, y, 0.0)

    def ranking(a):
        return ranking_noise_contrastive(partial(wrong, a), log_q, x, y)

    for loss, slope in ((nce, 4.0), (ranking, 2.0)):
        value, grad = jax.value_and_grad(loss)(jnp.float32(1e4))
        np.testing.assert_allclose([value, grad], [slope * 1e4, slope], rtol=1e-3)
        assert loss(jnp.float32(-1e4)) == 0


def test_data_where_the_noise_has_no_support_is_loud_at_the_door_and_in_the_loss():
    log_q = lambda x: jnp.where(jnp.all(jnp.abs(x) < 1), -2 * jnp.log(2.0), -jnp.inf)  # noqa: E731
    x = jnp.float32([[0.3, 0.2], [0.1, 2.0], [3.0, 0.0]])
    with pytest.raises(ValueError, match=r"not finite at 2 of 3 examples, first at example 1"):
        check_noise(log_q, x)
    check_noise(log_q, x[:1])
    for loss in (
        lambda x, y: noise_contrastive(quadratic(1.0), log_q, x, y, 0.0),
        lambda x, y: ranking_noise_contrastive(quadratic(1.0), log_q, x, y),
    ):
        assert np.isfinite(loss(x[0], x[:1]))
        assert np.isnan(loss(x[1], x[:1]))
        assert np.isnan(loss(x[0], x))


@pytest.mark.parametrize("shape", [(0, 2), (2,), (4, 3)])
def test_noise_of_a_wrong_shape_is_refused_with_the_right_one(shape, untyped):
    losses = noise_contrastive, ranking_noise_contrastive
    law, y = normal_law(2), jnp.zeros(shape)
    with pytest.raises(ValueError, match=r"x_data of shape \(2,\): give \(nu, 2\)"):
        losses[0](quadratic(1.0), law[1], jnp.zeros(2), y, 0.0)
    with pytest.raises(ValueError, match=r"`ranking_noise_contrastive` got x_noise of shape"):
        losses[1](quadratic(1.0), law[1], jnp.zeros(2), y)
