"""Energies made of energies, against Gaussians and mixtures whose laws are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ebm_jax import likelihood, targets
from ebm_jax.composition import (
    energy_from_classifier,
    joint_energy_from_classifier,
    mixture,
    product,
    tempered,
)

POINTS = jnp.float32(np.random.default_rng(0).normal(size=(7, 3)))
MEANS = np.array([[0.5, -1.0, 2.0], [-1.5, 0.3, 0.0]])
SCALES = np.array([0.8, 1.7])
FIRST, SECOND = (
    targets.gaussian(jnp.float32(m), float(s)) for m, s in zip(MEANS, SCALES, strict=True)
)


def differences(energy_fn):
    """E(x) - E(x_0) at the points: what an energy says, whatever its constant."""
    values = jax.vmap(energy_fn)(POINTS)
    return values - values[0]


@pytest.mark.parametrize(
    ("weights", "powers"),
    [(None, [1, 1]), ([1.0, 2.5], [1, 2.5]), ([2.0, -0.25], [2, -0.25])],
)
def test_product_of_gaussians_is_the_gaussian_of_added_precisions(weights, powers):
    """Precision sum w_k a_k and mean sum w_k a_k m_k / precision; "and not" too."""
    precisions = powers / SCALES**2
    mean = precisions @ MEANS / precisions.sum()
    whole = targets.gaussian(jnp.float32(mean), float(precisions.sum() ** -0.5))
    got = product([FIRST.energy, SECOND.energy], weights)
    np.testing.assert_allclose(differences(got), differences(whole.energy), rtol=1e-4, atol=1e-4)
    score = jax.vmap(lambda x: -jax.grad(got)(x))(POINTS)
    np.testing.assert_allclose(score, jax.vmap(whole.score)(POINTS), rtol=1e-4, atol=1e-4)


def test_product_adds_the_energies_themselves():
    got = product([FIRST.energy, SECOND.energy], [3.0, 0.5])(POINTS[0])
    expected = 3 * FIRST.energy(POINTS[0]) + 0.5 * SECOND.energy(POINTS[0])
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(product([FIRST.energy])(POINTS[0]), FIRST.energy(POINTS[0]))


def test_a_weight_of_zero_leaves_an_energy_out_where_it_is_infinite():
    """0 * inf is NaN, and 0 the value and gradient that p^0 has; a traced weight too."""
    box = lambda x: jnp.where(jnp.abs(x[0]) < 1, 0.0, jnp.inf)  # noqa: E731
    x = jnp.float32([4.0, 0.0, 0.0])
    for weight in (0.0, jnp.float32(0.0)):
        law = lambda x, w=weight: product([FIRST.energy, box], [1.0, w])(x)  # noqa: E731
        np.testing.assert_allclose(jax.jit(law)(x), FIRST.energy(x), rtol=1e-6)
        np.testing.assert_allclose(jax.grad(law)(x), -FIRST.score(x), rtol=1e-5)
    traced = jax.jit(lambda w: product([FIRST.energy, box], [1.0, w])(x))
    np.testing.assert_allclose(traced(0.0), FIRST.energy(x), rtol=1e-6)
    assert traced(1.0) == np.inf


@pytest.mark.parametrize("weights", [None, [0.3, 0.7], [3.0, 7.0]])
def test_mixture_of_normalized_gaussians_is_the_mixtures_density(weights):
    """-E = log sum_k w_k N(x; m_k, s_k^2 I), so that log Z = log sum_k w_k."""
    law = mixture([FIRST.energy, SECOND.energy], weights, log_zs=[FIRST.log_z, SECOND.log_z])
    logs = [stats.norm.logpdf(POINTS, m, s).sum(-1) for m, s in zip(MEANS, SCALES, strict=True)]
    expected = np.log((weights or [1, 1]) @ np.exp(logs))
    np.testing.assert_allclose(-jax.vmap(law)(POINTS), expected, rtol=1e-4)


@pytest.mark.parametrize("weights", [[0.3, 0.7], [0.5, 0.5]])
def test_mixture_is_that_of_the_targets(weights):
    other = targets.gaussian_mixture(jnp.float32(MEANS), jnp.float32(SCALES), jnp.float32(weights))
    law = mixture([FIRST.energy, SECOND.energy], weights, log_zs=[FIRST.log_z, SECOND.log_z])
    np.testing.assert_allclose(differences(law), differences(other.energy), rtol=1e-4, atol=1e-4)
    score = jax.vmap(lambda x: -jax.grad(law)(x))(POINTS)
    np.testing.assert_allclose(score, jax.vmap(other.score)(POINTS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalized", [False, True])
def test_mixture_weighs_unnormalized_densities_unless_it_is_told_log_z(normalized):
    """On a line, Gaussians of scales .3 and 1.2 at -5 and 5: Z_k is proportional to s_k."""
    scales, weights = np.array([0.3, 1.2]), np.array([0.6, 0.4])
    parts = [
        targets.gaussian(jnp.float32([m]), float(s)) for m, s in zip((-5, 5), scales, strict=True)
    ]
    log_zs = [part.log_z for part in parts] if normalized else None
    law = mixture([part.energy for part in parts], [0.6, 0.4], log_zs=log_zs)
    mass = weights if normalized else weights * scales * np.sqrt(2 * np.pi)
    options = {"half_width": 15.0, "num_points": 600, "num_dimensions": 1}
    log_z = likelihood.log_z_on_grid(law, **options)
    np.testing.assert_allclose(log_z, np.log(mass.sum()), atol=1e-4)
    left = likelihood.expectation_on_grid(law, lambda x: x[0] < 0, **options)
    np.testing.assert_allclose(left, mass[0] / mass.sum(), rtol=1e-3)


def test_mixture_is_low_where_any_is_low_and_knows_impossible_parts():
    inside = lambda x: jnp.where(jnp.abs(x[0]) < 1, 0.0, jnp.inf)  # noqa: E731
    both = mixture([inside, FIRST.energy])
    x = jnp.float32([4.0, 0.0, 0.0])
    np.testing.assert_allclose(both(x), FIRST.energy(x), rtol=1e-6)
    assert mixture([inside, inside])(x) == np.inf


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tempering_multiplies_the_variance_of_a_gaussian(temperature):
    wide = targets.gaussian(jnp.float32(MEANS[0]), float(SCALES[0] * temperature**0.5))
    got = tempered(FIRST.energy, temperature=temperature)
    np.testing.assert_allclose(jax.vmap(got)(POINTS), jax.vmap(wide.energy)(POINTS), rtol=1e-5)


def test_weights_and_temperatures_may_be_learned():
    """d/dw sum_k w_k E_k = E_k, d/dT E / T = -E / T^2, d/dw -log(w p) = -1 / w."""
    x = POINTS[0]
    by_weight = jax.grad(lambda w: product([FIRST.energy, SECOND.energy], [1.0, w])(x))(2.0)
    np.testing.assert_allclose(by_weight, SECOND.energy(x), rtol=1e-5)
    by_temperature = jax.grad(lambda t: tempered(FIRST.energy, temperature=t)(x))(2.0)
    np.testing.assert_allclose(by_temperature, -FIRST.energy(x) / 4, rtol=1e-5)
    by_share = jax.grad(lambda w: mixture([FIRST.energy], [w])(x))(2.0)
    np.testing.assert_allclose(by_share, -0.5, rtol=1e-5)


# ---- classifiers


def logits(x):
    """log w_k N(x; m_k, s_k^2 I): the classifier that knows both classes."""
    return jnp.log(jnp.float32([0.3, 0.7])) - jnp.stack(
        [FIRST.energy(x) + FIRST.log_z, SECOND.energy(x) + SECOND.log_z]
    )


def test_energy_of_the_classifier_that_knows_its_classes_is_that_of_their_mixture():
    whole = mixture([FIRST.energy, SECOND.energy], [0.3, 0.7], log_zs=[FIRST.log_z, SECOND.log_z])
    got = energy_from_classifier(logits)
    np.testing.assert_allclose(jax.vmap(got)(POINTS), jax.vmap(whole)(POINTS), rtol=1e-5)
    joint = joint_energy_from_classifier(logits)
    shift = SECOND.log_z - np.log(0.7)
    of_second = jax.vmap(lambda x: joint(x, 1))(POINTS)
    np.testing.assert_allclose(of_second, jax.vmap(SECOND.energy)(POINTS) + shift, rtol=1e-5)


def test_classifier_keeps_its_conditional_law():
    """exp(E(x) - E(x, y)) = softmax(f(x))_y."""

    def any_logits(x):
        return 5 * jnp.sin(jnp.outer(x, jnp.arange(1.0, 5.0)).sum(0))

    marginal, joint = energy_from_classifier(any_logits), joint_energy_from_classifier(any_logits)
    for x in POINTS:
        log_p = marginal(x) - jax.vmap(lambda y, x=x: joint(x, y))(jnp.arange(4))
        np.testing.assert_allclose(jnp.exp(log_p), jax.nn.softmax(any_logits(x)), rtol=1e-4)


def test_energies_of_a_classifier_are_those_of_large_logits_too():
    """f = (1000, 998): E(x) = -1000 - log(1 + exp(-2))."""
    big = lambda x: jnp.float32([1000.0, 998.0])  # noqa: E731
    expected = -1000 - np.log1p(np.exp(-2.0))
    np.testing.assert_allclose(energy_from_classifier(big)(POINTS[0]), expected, rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 2, 9])
def test_a_label_that_is_no_class_has_no_energy(label):
    assert np.isnan(joint_energy_from_classifier(logits)(POINTS[0], label))


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: product([]), "`product` got no energies"),
        (lambda: mixture([]), "`mixture` got no energies"),
        (lambda: product([FIRST.energy], [1.0, 2.0]), "got 1 energies and 2 weights"),
        (lambda: mixture([FIRST.energy], [1.0, 2.0]), "got 1 energies and 2 weights"),
        (lambda: mixture([FIRST.energy] * 2, log_zs=[0.0]), "got 2 energies and 1 log_zs"),
        (lambda: mixture([FIRST.energy] * 2, [1.0, 0.0]), "got weight=0.0"),
        (lambda: mixture([FIRST.energy] * 2, [-0.5, 1.0]), "got weight=-0.5"),
        (lambda: tempered(FIRST.energy, temperature=0.0), "`tempered` got temperature=0.0"),
        (lambda: tempered(FIRST.energy, temperature=-1.0), "`tempered` got temperature=-1.0"),
        (
            lambda: tempered(FIRST.energy, temperature=float("nan")),
            "`tempered` got temperature=nan",
        ),
        (
            lambda: energy_from_classifier(lambda x: x[None, :])(POINTS[0]),
            r"`energy_from_classifier` got logits of shape \(1, 3\)",
        ),
        (
            lambda: joint_energy_from_classifier(lambda x: x[0])(POINTS[0], 0),
            r"`joint_energy_from_classifier` got logits of shape \(\)",
        ),
        (
            lambda: energy_from_classifier(lambda x: x[:0])(POINTS[0]),
            r"`energy_from_classifier` got logits of shape \(0,\)",
        ),
    ],
)
def test_what_cannot_be_composed_is_refused_by_name_and_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()
