"""Score matching on Gaussians, quartics and quadratics, where every mean has a closed form."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ebm_jax import calculus, losses
from ebm_jax.nets import EnergyMLP
from tests.statistics import assert_mean, assert_variance

MEAN, SCALE = 1.5, 0.7  # of the data
N = 20_000
MATRIX = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)  # not symmetric
SYMMETRIC = MATRIX @ MATRIX.T / 4
POINT = jnp.array([0.3, -1.2, 0.7, 0.9])

dimensions = pytest.mark.parametrize("d", [2, 10])
probes = pytest.mark.parametrize(
    "draw_probe", [calculus.rademacher, calculus.gaussian, calculus.sphere]
)


def energy(x, precision=1.0, mean=MEAN):
    """Of N(mean, SCALE^2 / precision)."""
    return 0.5 * precision * jnp.sum(((x - mean) / SCALE) ** 2)


def quartic(x):
    return jnp.sum(x**4)


def linear(x):
    """A free field with a Jacobian that is not symmetric."""
    return MATRIX @ x


def score_of(energy_fn):
    return calculus.score_from_energy(energy_fn)


def exact(energy_fn, _, x):
    return losses.exact_score_matching(score_of(energy_fn), x)


def sliced(energy_fn, key, x, **options):
    return losses.sliced_score_matching(score_of(energy_fn), key, x, **options)


def variance_reduced(energy_fn, key, x, **options):
    return losses.variance_reduced_sliced_score_matching(score_of(energy_fn), key, x, **options)


def finite_difference(energy_fn, key, x, **options):
    options = {"epsilon": 0.1, **options}
    return losses.finite_difference_score_matching(energy_fn, key, x, **options)


def controlled(energy_fn, key, x, sigma=1e-3):
    return losses.controlled_denoising_score_matching(
        lambda x, _: score_of(energy_fn)(x), key, x, jnp.float32(sigma)
    )


SLICED = [sliced, variance_reduced, finite_difference]
each_loss = pytest.mark.parametrize("loss", [exact, *SLICED, controlled])


def draws(loss, d, *, n=N, seed=0):
    """What loss(key, x) gives at independent examples of the data."""

    def one(key):
        key_data, key_loss = jax.random.split(key)
        return loss(key_loss, MEAN + SCALE * jax.random.normal(key_data, (d,)))

    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), n))


# ---- the losses at the truth and around it

FACTORS = jnp.array([-1.0, 0.5, 1.0, 1.5])  # of the true precision


def shift(d):
    return jnp.linspace(-0.5, 0.8, d)


@cache
def on_gaussian_data(loss, d):
    """The loss at the truth, its slopes in the precision, and its gradient in a wrong mean."""

    def one(key, x):
        keys = jax.random.split(key, 3)
        precision = lambda c: loss(lambda x: energy(x, c), keys[1], x)  # noqa: E731
        mean = lambda m: loss(lambda x: energy(x, mean=m), keys[2], x)  # noqa: E731
        slopes = jax.vmap(jax.grad(precision))(FACTORS)
        return loss(energy, keys[0], x), slopes, jax.grad(mean)(MEAN + shift(d))

    return jax.tree.map(np.asarray, draws(one, d))


@dimensions
@each_loss
def test_at_the_truth_the_mean_is_minus_half_the_true_scores_square(loss, d):
    """-1/2 E|s*|^2 = -d / (2 s^2); -d/2 for N(0, I). At sigma = .001 smoothing moves it by 2e-6."""
    assert_mean(on_gaussian_data(loss, d)[0], -d / 2 / SCALE**2)


@dimensions
@each_loss
def test_slope_in_the_precision_vanishes_at_the_truth_alone(loss, d):
    """Of E = c/2 |x - m|^2 / s^2 the mean is (c^2 / 2 - c) d / s^2: an inverted energy climbs."""
    assert_mean(on_gaussian_data(loss, d)[1], (FACTORS - 1) * d / SCALE**2)


@dimensions
@each_loss
def test_gradient_in_the_mean_is_that_of_the_fisher_divergence(loss, d):
    """1/2 |m - MEAN|^2 / s^4 has slope (m - MEAN) / s^4 in each coordinate."""
    assert_mean(on_gaussian_data(loss, d)[2], shift(d) / SCALE**4)


@pytest.mark.parametrize("batch_size", [4, 64])
@each_loss
def test_the_minimizer_does_not_move_with_the_batch_size(loss, batch_size):
    """Over batches, the mean of each batch's gradient vanishes at the true precision."""
    slopes = on_gaussian_data(loss, 2)[1][: N // batch_size * batch_size, 2]
    assert_mean(slopes.reshape(-1, batch_size).mean(1), 0.0)


@dimensions
def test_fisher_divergence_of_a_shifted_gaussian(d):
    """s - s* = e / s^2 everywhere."""
    x, shift = jnp.linspace(-2.0, 2.0, d), jnp.linspace(0.5, 1.0, d)
    value = losses.fisher_divergence(
        score_of(lambda x: energy(x, mean=MEAN + shift)), score_of(energy), x
    )
    np.testing.assert_allclose(value, jnp.sum(shift**2) / (2 * SCALE**4), rtol=1e-4)
    assert losses.fisher_divergence(score_of(energy), score_of(energy), x) == 0


def test_exact_score_matching_is_the_fisher_divergence_less_a_constant():
    """Of a quartic model on Gaussian data, in the mean: not only for Gaussian models."""

    def difference(key, x):
        model, truth = score_of(quartic), score_of(energy)
        return losses.exact_score_matching(model, x) - losses.fisher_divergence(model, truth, x)

    assert_mean(draws(difference, 2), -2 / 2 / SCALE**2)


@pytest.mark.parametrize("chunk_size", [1, 3, 64])
def test_exact_score_matching_of_a_free_field_in_chunks_of_any_size(chunk_size):
    value = losses.exact_score_matching(linear, POINT, chunk_size=chunk_size)
    expected = 0.5 * np.sum((MATRIX @ POINT) ** 2) + np.trace(MATRIX)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


# ---- slices


def quadratic(x):
    return 0.5 * x @ SYMMETRIC @ x


@cache
def over_slices(loss, model, draw_probe, num_slices):
    """The loss at POINT over independent draws of slices."""
    options = {"draw_probe": draw_probe, "num_slices": num_slices}
    one = jax.jit(jax.vmap(lambda key: loss(model, key, POINT, **options)))
    return np.asarray(one(jax.random.split(jax.random.key(2), N)))


@probes
@pytest.mark.parametrize("loss", SLICED)
def test_sliced_losses_have_the_mean_of_the_exact_one_at_every_point(loss, draw_probe):
    """For a quadratic energy, for which finite differences have no bias either."""
    expected = 0.5 * np.sum((SYMMETRIC @ POINT) ** 2) - np.trace(SYMMETRIC)
    assert_mean(over_slices(loss, quadratic, draw_probe, 1), expected)


@pytest.mark.parametrize(
    "loss", [losses.sliced_score_matching, losses.variance_reduced_sliced_score_matching]
)
def test_sliced_losses_of_a_free_field_have_the_mean_of_the_exact_one(loss):
    expected = 0.5 * np.sum((MATRIX @ POINT) ** 2) + np.trace(MATRIX)
    assert_mean(over_slices(loss, linear, calculus.rademacher, 1), expected)


def slice_variance(matrix, draw_probe, num_slices):
    """Of the mean of v . A v, A symmetric."""
    square, trace, d = np.sum(matrix**2), np.trace(matrix), len(matrix)
    return {
        calculus.rademacher: 2 * (square - np.sum(np.diag(matrix) ** 2)),
        calculus.gaussian: 2 * square,
        calculus.sphere: 2 * d / (d + 2) * (square - trace**2 / d),
    }[draw_probe] / num_slices


@pytest.mark.parametrize(
    ("draw_probe", "num_slices"),
    [(calculus.rademacher, 1), (calculus.gaussian, 1), (calculus.sphere, 1), (calculus.sphere, 3)],
)
@pytest.mark.parametrize("loss", SLICED)
def test_variance_over_slices_has_its_closed_form(loss, draw_probe, num_slices):
    """Sliced: of v . (g g^T / 2 - H) v. Variance-reduced: of v . H v, independent of g."""
    gradient = SYMMETRIC @ POINT
    outer = np.outer(gradient, gradient) / 2 if loss in (sliced, finite_difference) else 0.0
    assert_variance(
        over_slices(loss, quadratic, draw_probe, num_slices),
        slice_variance(outer - SYMMETRIC, draw_probe, num_slices),
        mean=0.5 * np.sum(gradient**2) - np.trace(SYMMETRIC),
    )


def test_in_one_dimension_a_sign_makes_every_form_exact():
    x = jnp.array([0.8])
    expected = losses.exact_score_matching(score_of(quartic), x)
    for seed, loss in enumerate([sliced, variance_reduced]):
        np.testing.assert_allclose(loss(quartic, jax.random.key(seed), x), expected, rtol=1e-5)


@pytest.mark.parametrize("d", [2, 5])
def test_sphere_probes_have_length_root_d_and_identity_covariance(d):
    like = jnp.zeros((d, 1))
    keys = jax.random.split(jax.random.key(6), N)
    values = jax.jit(jax.vmap(lambda key: calculus.sphere(key, like)))(keys).reshape(N, d)
    np.testing.assert_allclose(np.sum(values**2, -1), d, rtol=1e-5)
    assert_mean(values, 0.0)
    assert_mean(np.einsum("ni,nj->nij", values, values), np.eye(d))
    assert_mean(values[:, 0] ** 4, 3 * d / (d + 2))


# ---- finite differences


@probes
@pytest.mark.parametrize("epsilon", [0.1, 0.2, 0.4])
def test_bias_of_finite_differences_is_its_leading_term(epsilon, draw_probe):
    """For a quartic D_4 is constant: the bias is e^2 (D_1 D_3 / 6 - D_4 / 12) + e^4 D_3^2 / 72."""
    key = jax.random.key(7)
    v = draw_probe(jax.random.split(key, 1)[0], POINT)
    options = {"draw_probe": draw_probe}
    biased = finite_difference(
        quartic, jax.random.clone(key), POINT, epsilon=jnp.float32(epsilon), **options
    )
    unbiased = sliced(quartic, jax.random.clone(key), POINT, **options)
    d1, d3, d4 = (c * jnp.sum(POINT**p * v ** (4 - p)) for c, p in ((4, 3), (24, 1), (24, 0)))
    expected = epsilon**2 * (d1 * d3 / 6 - d4 / 12) + epsilon**4 * d3**2 / 72
    np.testing.assert_allclose(biased - unbiased, expected, atol=2e-6 / epsilon**2, rtol=1e-3)


def test_finite_differences_take_no_derivative_in_x():
    @jax.custom_vjp
    def closed(x):
        return quartic(x)

    def refuse(*_):
        raise AssertionError

    closed.defvjp(refuse, refuse)
    value = finite_difference(closed, jax.random.key(8), POINT, num_slices=2)
    np.testing.assert_allclose(
        value, finite_difference(quartic, jax.random.key(8), POINT, num_slices=2)
    )


# ---- the control variate


def curved(x, sigma):
    """A field with a level in it that is no score."""
    return jnp.sin(2 * x) + MATRIX[:2, :2] @ x / (1 + sigma)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_control_variates_change_no_expectation(sigma):
    """(E[denoising] - d/2) / sigma^2, for a model far from the truth."""
    sigma = jnp.float32(sigma)

    def difference(key, x):
        controlled = losses.controlled_denoising_score_matching(curved, key, x, sigma)
        plain = losses.denoising_score_matching(curved, jax.random.clone(key), x, sigma)
        return sigma**2 * controlled - (plain - 1.0)

    assert_mean(draws(difference, 2), 0.0)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_controlled_denoising_is_exact_score_matching_of_the_smoothed_data(sigma):
    """In expectation, at any level and for any model; at the truth -d / (2 (s^2 + sigma^2))."""
    sigma = jnp.float32(sigma)

    def difference(key, x):
        key_noise, key_loss = jax.random.split(key)
        noisy = x + sigma * jax.random.normal(key_noise, x.shape)
        exact = losses.exact_score_matching(lambda x: curved(x, sigma), noisy)
        return losses.controlled_denoising_score_matching(curved, key_loss, x, sigma) - exact

    def truth(key, x):
        score = lambda x, s: (MEAN - x) / (SCALE**2 + s**2)  # noqa: E731
        return losses.controlled_denoising_score_matching(score, key, x, sigma)

    assert_mean(draws(difference, 2), 0.0)
    assert_mean(draws(truth, 2), -1 / (SCALE**2 + sigma**2))


def gradient_variance(loss, sigma):
    """Of the gradient in the precision of a Gaussian score at the truth."""

    def slope(key, x):
        return jax.grad(lambda c: loss(lambda x, _: c * (MEAN - x) / SCALE**2, key, x, sigma))(1.0)

    return np.var(draws(slope, 2), ddof=1)


def test_variance_of_the_gradient_stays_bounded_where_that_of_plain_denoising_blows_up():
    """At c = 1, u = (x - m) / s: plain, over sigma^2, has variance d / (s^2 sigma^2) + O(1).

    Controlled tends to |u|^2 / s^2 - |n|^2 / s^2, of variance 4 d / s^4.
    """
    for sigma in (0.1, 0.01, 0.001):
        plain = gradient_variance(losses.denoising_score_matching, jnp.float32(sigma)) / sigma**4
        held = gradient_variance(losses.controlled_denoising_score_matching, jnp.float32(sigma))
        np.testing.assert_allclose(plain * sigma**2, 2 / SCALE**2, rtol=0.15)
        np.testing.assert_allclose(held, 4 * 2 / SCALE**4, rtol=0.15)


def test_without_noise_the_control_variate_leaves_a_gaussian_slice():
    """Pathwise: the same n is the slice's direction."""
    key = jax.random.key(9)
    noise = jax.random.normal(key, (2,))
    value = losses.controlled_denoising_score_matching(
        curved, jax.random.clone(key), POINT[:2], jnp.float32(1e-3)
    )
    score, along = jax.jvp(lambda x: curved(x, 0.0), (POINT[:2],), (noise,))
    np.testing.assert_allclose(value, 0.5 * jnp.sum(score**2) + jnp.sum(noise * along), rtol=5e-3)


# ---- networks that know their derivatives, and training


@pytest.mark.parametrize("d", [3, 12])
def test_losses_of_a_network_by_its_own_derivatives_are_the_plain_ones(d):
    """Value and gradient in the parameters; 12 is more than the first width."""
    net, x = EnergyMLP((8, 6)), jax.random.normal(jax.random.key(10), (5, d))
    params = net.init(jax.random.key(11), x[0])
    keys = jax.random.split(jax.random.key(12), 5)

    def by_score(params, key, x):
        score = score_of(partial(net.apply, params))
        sliced = losses.variance_reduced_sliced_score_matching(score, key, x, num_slices=2)
        return jnp.stack([losses.exact_score_matching(score, x), sliced])

    def by_network(params, key, x):
        laplacian = partial(net.apply, params, method="gradient_and_laplacian")
        curvature = partial(net.apply, params, method="gradient_and_curvature")
        sliced = losses.sliced_score_matching_from_curvature(curvature, key, x, num_slices=2)
        return jnp.stack([losses.exact_score_matching_from_laplacian(laplacian, x), sliced])

    def value_and_slope(loss, keys):
        def mean(params):
            values = jnp.mean(jax.vmap(partial(loss, params))(keys, x), 0)
            return values, values

        return jax.jit(jax.jacrev(mean, has_aux=True))(params)

    plain = value_and_slope(by_score, keys)
    fast = value_and_slope(by_network, jax.random.clone(keys))
    for mine, theirs in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=1e-5)


def test_exact_score_matching_trains_a_network_to_the_gaussian_of_the_data():
    """From fresh draws alone the Fisher divergence falls below a tenth of 1/2 E|s*|^2."""
    net, optimizer = EnergyMLP((32, 32)), optax.adam(3e-3)
    params = net.init(jax.random.key(14), jnp.zeros(2))

    def draw(key):
        return MEAN + SCALE * jax.random.normal(key, (256, 2))

    def step(state, key):
        params, opt_state = state
        x = draw(key)

        def loss(params):
            derivatives = partial(net.apply, params, method="gradient_and_laplacian")
            one = partial(losses.exact_score_matching_from_laplacian, derivatives)
            return jnp.mean(jax.vmap(one)(x))

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    def divergence(params, key):
        model = score_of(partial(net.apply, params))
        one = partial(losses.fisher_divergence, model, score_of(energy))
        return jnp.mean(jax.vmap(one)(draw(key)))

    with jax.numpy_dtype_promotion("standard"):
        keys = jax.random.split(jax.random.key(13), 400)
        run = jax.jit(partial(jax.lax.scan, step))
        trained = run((params, optimizer.init(params)), keys)[0][0]
    before = divergence(params, jax.random.key(15))
    assert divergence(trained, jax.random.key(16)) < 0.1 / SCALE**2 < before


@pytest.mark.parametrize("number", [0, -1])
def test_numbers_out_of_range_are_refused_by_name_and_value(number):
    for loss in SLICED:
        with pytest.raises(ValueError, match=f"score_matching.*` got num_slices={number}"):
            loss(quartic, jax.random.key(0), POINT, num_slices=number)
    with pytest.raises(ValueError, match=f"from_curvature` got num_slices={number}"):
        losses.sliced_score_matching_from_curvature(
            lambda x, slices: (x, slices[:, 0]), jax.random.key(1), POINT, num_slices=number
        )
    with pytest.raises(
        ValueError, match=f"`finite_difference_score_matching` got epsilon={number}.0"
    ):
        finite_difference(quartic, jax.random.key(0), POINT, epsilon=float(number))
