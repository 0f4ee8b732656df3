"""Burn-in, thinning, streaming moments, warm-up and other things around a kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.keys import example_keys
from ebm_jax.samplers import (
    Kernel,
    boxed,
    hmc,
    mala,
    moments,
    preconditioned,
    random_walk,
    run,
    ula,
    underdamped,
    warm_up,
)
from ebm_jax.sharding import data_mesh, split
from ebm_jax.targets import gaussian
from tests.statistics import assert_mean, assert_normal, assert_variance

FALL = ula(lambda x: -x, step_size=0.1, temperature=0.0)  # x_t = .9^t x_0, whatever the key
WARM = ula(lambda x: -x, step_size=0.1)


def chains(one, seed=0, n=20_000):
    keys = jax.random.split(jax.random.key(seed), n)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))


# ---- burn-in and thinning


@pytest.mark.parametrize("dimensions", [2, 40])
@pytest.mark.parametrize(
    ("burn_in", "thinning"), [(0, 1), (3, 1), (0, 4), (7, 4), (60, 6), (0, 12)]
)
def test_burn_in_and_thinning_keep_the_steps_that_they_say(dimensions, burn_in, thinning):
    start = FALL.init(jnp.ones(dimensions))
    state, path = run(
        FALL, jax.random.key(0), start, 12,
        collect=lambda state, info: state.x, burn_in=burn_in, thinning=thinning,
    )  # fmt: skip
    times = burn_in + thinning * (1 + np.arange(12 // thinning))
    expected = np.broadcast_to(0.9 ** times[:, None], (len(times), dimensions))
    np.testing.assert_allclose(path, expected, rtol=1e-5)
    np.testing.assert_array_equal(state.x, path[-1])


@pytest.mark.parametrize("dimensions", [2, 40])
def test_no_randomness_is_used_twice_by_burn_in_and_windows(dimensions):
    """On x' = n, with nothing kept of x, kept steps of one chain are independent normals."""
    white = ula(lambda x: -x, step_size=1.0, temperature=0.5)

    def one(key):
        start = white.init(jnp.zeros(dimensions))
        return run(white, key, start, 6, burn_in=2, thinning=2, collect=lambda s, i: s.x)[1]

    x = chains(one)[..., 0]
    assert_normal(x, 0.0, 1.0)
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert_mean(x[:, i] * x[:, j], 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "`run` got num_steps=0"),
        ({"num_steps": 5, "burn_in": -1}, "`run` got burn_in=-1"),
        ({"num_steps": 5, "thinning": 0}, "`run` got thinning=0"),
        ({"num_steps": 5, "thinning": 2}, "`run` got thinning=2 with num_steps=5"),
    ],
)
def test_numbers_of_steps_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(FALL, jax.random.key(0), FALL.init(jnp.ones(2)), **options)


# ---- moments


@pytest.mark.parametrize("dimensions", [2, 40])
@pytest.mark.parametrize(("num_steps", "burn_in"), [(1, 0), (120, 0), (75, 30)])
def test_streaming_moments_are_those_of_the_same_chain_kept_whole(dimensions, num_steps, burn_in):
    start = WARM.init(5 + jnp.zeros(dimensions))
    kept = run(WARM, jax.random.key(3), start, num_steps, burn_in=burn_in, collect=lambda s, i: s.x)
    state, found = moments(WARM, jax.random.key(3), start, num_steps, burn_in=burn_in)
    np.testing.assert_allclose(state.x, kept[0].x, rtol=1e-5)
    assert found.num_steps == num_steps
    path = np.asarray(kept[1], np.float64)
    np.testing.assert_allclose(found.mean, path.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.variance, path.var(0), rtol=1e-3, atol=1e-5)


def test_moments_of_any_statistic_do_not_cancel_far_from_zero():
    """Around 10^4 the mean square less the squared mean has no digit left in float32."""
    kernel = random_walk(gaussian(jnp.full(2, 1e4), 1.0).energy, step_size=2.4)

    def one(key):
        start = kernel.init(jnp.full(2, 1e4))
        statistic = lambda state, info: (state.x[0], info.accept_prob)  # noqa: E731
        return moments(kernel, key, start, 400, statistic=statistic)[1]

    found = chains(one, n=2000)
    assert_mean(found.mean[0] - 1e4, 0.0)
    within = found.variance[0] + (found.mean[0] - 1e4) ** 2  # unbiased about the known mean
    assert_mean(within, 1.0)


def test_streaming_moments_are_those_of_float64_after_many_steps_far_from_zero():
    """200,000 draws of |x|^2 / 2 + 1000: in float32 the plain update is off by .3."""
    iid = Kernel(
        init=WARM.init,
        draw=lambda key, state, num_steps: jax.random.normal(key, (num_steps, 2)),
        move=lambda noise, state: (state._replace(x=noise), None),
    )
    start, num_steps = iid.init(jnp.zeros(2)), 200_000
    energy = lambda state, info: 0.5 * jnp.sum(state.x**2)  # noqa: E731
    kept = run(iid, jax.random.key(7), start, num_steps, collect=energy)[1]
    exact = np.asarray(kept, np.float64)
    for offset in (0.0, 1000.0):
        found = moments(
            iid,
            jax.random.key(7),
            start,
            num_steps,
            statistic=lambda s, i: offset + energy(s, i),  # noqa: B023
        )[1]
        shifted = np.asarray(np.float32(offset) + np.float32(exact), np.float64)
        np.testing.assert_allclose(found.mean, shifted.mean(), rtol=1e-6)
        np.testing.assert_allclose(found.variance, shifted.var(), rtol=1e-6)


def test_steps_are_counted_beyond_the_integers_of_float32():
    stay = Kernel(
        init=WARM.init,
        draw=lambda key, state, num_steps: jnp.zeros(num_steps),
        move=lambda noise, state: (state, None),
    )
    num_steps = 2**24 + 50
    one = lambda state, info: jnp.ones(())  # noqa: E731
    found = jax.jit(
        lambda key: moments(stay, key, stay.init(jnp.zeros(1)), num_steps, statistic=one)[1]
    )(jax.random.key(0))
    assert int(found.num_steps) == num_steps
    assert float(found.mean) == 1
    with pytest.raises(ValueError, match="`moments` got num_steps=2147483648"):
        moments(stay, jax.random.key(0), stay.init(jnp.zeros(1)), 2**31)


@pytest.mark.parametrize("name", ["ula", "preconditioned", "underdamped", "mala"])
def test_derivatives_by_the_step_size_are_finite_without_temperature_and_at_a_mode(name):
    """From the mode of N(0, 1), at T = 0 where the kernel allows it: the chain stays there."""
    makers = {
        "ula": lambda h: ula(lambda x: -x, step_size=h, temperature=0.0),
        "preconditioned": lambda h: preconditioned(
            lambda x: -x, step_size=h, temperature=0.0, preconditioner=jnp.ones(2)
        ),
        "underdamped": lambda h: underdamped(
            lambda x: -x, step_size=h, friction=1.0, temperature=0.0
        ),
        "mala": lambda h: mala(gaussian(jnp.zeros(2), 1.0).energy, step_size=h),
    }

    def norms(h, start):
        kernel = makers[name](h)
        collect = lambda s, info: getattr(info, "score_norm", s.x[0])  # noqa: E731
        state, path = run(kernel, jax.random.key(0), kernel.init(start), 3, collect=collect)
        return jnp.sum(state.x) + jnp.sum(path)

    by_step, by_start = jax.grad(norms, (0, 1))(jnp.float32(0.1), jnp.zeros(2))
    assert np.isfinite(by_step)
    assert np.isfinite(by_start).all()
    if name == "ula":  # x_3 = (1 - h)^3 x_0, and the norms of the three scores on the way
        at_one = jax.grad(norms)(jnp.float32(0.1), jnp.array([1.0, 0.0]))
        truth = -3 * 0.9**2 - 1 - 2 * 0.9
        np.testing.assert_allclose(at_one, truth, rtol=1e-5)


# ---- warm-up


@pytest.mark.parametrize(
    ("make", "target"),
    [
        (lambda energy: lambda h: random_walk(energy, step_size=h), 0.234),
        (lambda energy: lambda h: mala(energy, step_size=h), 0.574),
        (lambda energy: lambda h: hmc(energy, step_size=h, num_leapfrog=3), 0.65),
    ],
    ids=["random_walk", "mala", "hmc"],
)
@pytest.mark.parametrize("initial", [1e-3, 10.0])
def test_warm_up_reaches_the_acceptance_from_far_too_small_and_large_steps(make, target, initial):
    """Ten scales at once: on a single one, paths of HMC that come full circle all accept."""
    energy = gaussian(jnp.zeros(10), jnp.geomspace(0.1, 0.5, 10)).energy

    def one(key):
        key_adapt, key_run = jax.random.split(key)
        kernel, state, step_size = warm_up(
            make(energy), key_adapt, jnp.full(10, 0.3), num_steps=1500, target=target,
            initial=initial,
        )  # fmt: skip
        accepted = run(kernel, key_run, state, 500, collect=lambda s, i: i.accept_prob)[1]
        return jnp.mean(accepted), step_size

    accepted, step_size = chains(one, n=64)
    assert abs(accepted.mean() - target) < 0.05  # averaging log h errs by O(num_steps^-1/2)
    assert np.std(np.log(step_size)) < 0.3


def test_warm_up_of_one_chain_does_not_look_at_its_neighbors():
    energy = gaussian(jnp.zeros(2), 1.0).energy

    def one(key, x):
        make = lambda h: mala(energy, step_size=h)  # noqa: E731
        return warm_up(make, key, x, num_steps=50, target=0.574, initial=0.1)[2]

    keys = example_keys(jax.random.key(1), jnp.arange(8))
    starts = jnp.arange(16.0).reshape(8, 2) / 8
    many = jax.vmap(one)(keys, starts)
    alone = one(example_keys(jax.random.key(1), jnp.array([5]))[0], starts[5])
    np.testing.assert_allclose(alone, many[5], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps=0"),
        ({"target": 0.0}, "target=0.0"),
        ({"target": 1.0}, "target=1.0"),
        ({"initial": -1.0}, "initial=-1.0"),
    ],
)
def test_warm_up_refuses_numbers_out_of_range(options, message):
    defaults = {"num_steps": 10, "target": 0.5, "initial": 0.1}
    energy = gaussian(jnp.zeros(2), 1.0).energy
    with pytest.raises(ValueError, match=f"`warm_up` got {message}"):
        warm_up(
            lambda h: mala(energy, step_size=h), jax.random.key(0), jnp.zeros(2),
            **{**defaults, **options},
        )  # fmt: skip


# ---- relatives of ula


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("step_size", [0.3, 1.2])
def test_underdamped_langevin_keeps_x_exact_and_v_with_its_known_bias(step_size, temperature):
    """BAOAB on N(m, s^2): var x = T s^2 for every h, var v = T (1 - h^2 / (4 s^2))."""
    mean, scale = np.array([1.0, -2.0]), 0.8
    score = lambda x: (jnp.float32(mean) - x) / scale**2  # noqa: E731
    kernel = underdamped(score, step_size=step_size, friction=0.7, temperature=temperature)
    spread_v = np.sqrt(temperature * (1 - step_size**2 / (4 * scale**2)))

    def one(key):
        key_x, key_v, key_run = jax.random.split(key, 3)
        root = jnp.float32(scale * np.sqrt(temperature))
        x = jnp.float32(mean) + root * jax.random.normal(key_x, (2,))
        state = kernel.init(x)._replace(v=spread_v * jax.random.normal(key_v, (2,)))
        end = run(kernel, key_run, state, 5)[0]
        return end.x, end.v

    x, v = chains(one)
    assert_normal(x, mean, temperature * scale**2)
    assert_normal(v, 0.0, spread_v**2)


def test_underdamped_langevin_warms_up_from_rest_to_a_skewed_law():
    """E(x) = x + exp(-x): mean .5772 and variance pi^2 / 6; the friction is what mixes."""
    kernel = underdamped(lambda x: jnp.exp(-x) - 1, step_size=0.1, friction=1.0)
    x = chains(lambda key: run(kernel, key, kernel.init(jnp.array([3.0])), 300)[0].x, n=10_000)
    assert_mean(x, np.euler_gamma)
    assert_variance(x, np.pi**2 / 6, mean=np.euler_gamma)


def test_underdamped_langevin_without_temperature_is_a_damped_oscillator():
    """x'' = -x - g x' from (1, 0): second order in h, against the closed form."""
    friction, time = 0.5, 2.0
    omega = np.sqrt(1 - friction**2 / 4)
    decay = np.exp(-friction * time / 2)
    truth = decay * (np.cos(omega * time) + friction / (2 * omega) * np.sin(omega * time))
    errors = []
    for steps in (10, 20):
        kernel = underdamped(
            lambda x: -x, step_size=time / steps, friction=friction, temperature=0.0
        )
        end = run(kernel, jax.random.key(0), kernel.init(jnp.ones(1)), steps)[0]
        errors.append(abs(float(end.x[0]) - truth))
    assert errors[0] < 0.01
    assert 3.3 < errors[0] / errors[1] < 4.8


@pytest.mark.parametrize("form", ["diagonal", "matrix"])
def test_preconditioned_langevin_is_ula_in_other_units(form):
    """y = C^(-1/2) x, step by step with the same noise, on a skewed law."""
    matrix = (
        jnp.array([[2.0, 0.6], [0.6, 0.5]]) if form == "matrix" else jnp.diag(jnp.array([2.0, 0.5]))
    )
    given = matrix if form == "matrix" else jnp.diag(matrix)
    root = jnp.linalg.cholesky(matrix)
    score = lambda x: jnp.exp(-x) - 1  # noqa: E731
    ours = preconditioned(score, step_size=0.1, preconditioner=given, temperature=0.6)
    plain = ula(lambda y: root.T @ score(root @ y), step_size=0.1, temperature=0.6)
    start = jnp.array([0.5, 1.0])
    x = run(ours, jax.random.key(2), ours.init(start), 30)[0].x
    y0 = jax.scipy.linalg.solve_triangular(root, start, lower=True)
    y = run(plain, jax.random.key(2), plain.init(y0), 30)[0].x
    np.testing.assert_allclose(x, root @ y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(), (2,), (2, 2), (2, 3), (2, 3, 2)])
def test_a_diagonal_preconditioner_has_the_shape_of_x(shape):
    """On N(0, diag(c)) it is `ula` on y = x / sqrt(c), of law N(0, I), with the same noise."""
    c = 1 + jnp.arange(float(np.prod(shape))).reshape(shape)
    options = {"step_size": 0.1, "temperature": 0.5}
    ours = preconditioned(lambda x: -x / c, preconditioner=c, **options)
    plain = ula(jnp.negative, **options)  # on y = x / sqrt(c)
    x = run(ours, jax.random.key(3), ours.init(jnp.sqrt(c)), 10)[0].x
    y = run(plain, jax.random.key(3), plain.init(jnp.ones(shape)), 10)[0].x
    np.testing.assert_allclose(x, jnp.sqrt(c) * y, rtol=1e-5, atol=1e-6)


def test_a_boxed_chain_stays_in_its_box_and_moves_as_before_inside():
    kernel = boxed(WARM, -0.5, 0.5)
    x = chains(
        lambda key: run(kernel, key, kernel.init(jnp.array([2.0])), 5, collect=lambda s, i: s.x)[1],
        n=500,
    )
    assert x.min() == -0.5
    assert x.max() == 0.5
    wide = boxed(WARM, -100.0, 100.0)
    state = WARM.init(jnp.ones(2))
    ends = [run(k, jax.random.key(0), state, 20)[0].x for k in (wide, WARM)]
    np.testing.assert_allclose(*ends, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: underdamped(jnp.negative, step_size=0.0, friction=1.0), "step_size=0.0"),
        (lambda: underdamped(jnp.negative, step_size=0.1, friction=0.0), "friction=0.0"),
        (
            lambda: underdamped(jnp.negative, step_size=0.1, friction=1.0, temperature=-1.0),
            "temperature=-1.0",
        ),
        (
            lambda: underdamped(jnp.sum, step_size=0.1, friction=1.0).init(jnp.ones(2)),
            r"of shape \(\), expected \(2,\)",
        ),
        (
            lambda: preconditioned(jnp.negative, step_size=0.1, preconditioner=-jnp.ones(2)),
            "positive definite",
        ),
        (
            lambda: preconditioned(
                jnp.negative, step_size=0.1, preconditioner=jnp.array([[1.0, 2.0], [2.0, 1.0]])
            ).init(jnp.ones(2)),
            "positive definite",
        ),
        (
            lambda: preconditioned(
                jnp.negative, step_size=0.1, preconditioner=jnp.array([[1.0, 0.5], [0.0, 1.0]])
            ),
            "symmetric positive definite",
        ),
        (
            lambda: preconditioned(
                jnp.negative, step_size=0.1, preconditioner=jnp.array([[1.0, -0.5], [-0.5, 1.0]])
            ).init(jnp.ones((2, 2))),
            "positive definite",
        ),
        (
            lambda: preconditioned(
                jnp.negative, step_size=0.1, preconditioner=jnp.ones(3)
            ).init(jnp.ones(2)),
            r"a preconditioner of shape \(3,\) for x of shape \(2,\)",
        ),
        (lambda: boxed(WARM, 1.0, -1.0), "`boxed` got low=1.0, high=-1.0"),
        (
            lambda: boxed(underdamped(jnp.negative, step_size=0.1, friction=1.0), -1.0, 1.0).init(
                jnp.ones(2)
            ),
            "UnderdampedState, which caches more",
        ),
    ],
)  # fmt: skip
def test_relatives_of_ula_refuse_what_cannot_be(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- the same numbers anywhere


@pytest.mark.parametrize("name", ["random_walk", "mala", "hmc", "underdamped"])
def test_a_chain_is_the_same_alone_among_many_and_spread_over_eight_devices(name):
    law = gaussian(jnp.zeros(2), jnp.array([0.5, 1.0]))
    kernel = {
        "random_walk": random_walk(law.energy, step_size=0.8),
        "mala": mala(law.energy, step_size=0.1),
        "hmc": hmc(law.energy, step_size=0.3, num_leapfrog=4),
        "underdamped": underdamped(law.score, step_size=0.3, friction=1.0),
    }[name]
    one = lambda key, x: run(kernel, key, kernel.init(x), 20)[0].x  # noqa: E731
    key, starts = jax.random.key(4), jax.random.normal(jax.random.key(5), (1024, 2))
    many = jax.jit(jax.vmap(one))
    among = many(example_keys(key, jnp.arange(1024)), starts)
    alone = one(example_keys(key, jnp.array([1000]))[0], starts[1000])
    np.testing.assert_allclose(alone, among[1000], atol=1e-4)
    keys, places = split((example_keys(key, jnp.arange(1024)), starts), data_mesh())
    np.testing.assert_allclose(many(keys, places), among, atol=1e-4)
