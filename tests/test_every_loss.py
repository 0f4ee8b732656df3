"""What every loss promises: wrong arguments are refused by name, and the precision of its value."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import losses, noise

DTYPE = jnp.dtype(jnp.float32)  # of the examples; the test of precision sets it
SEEN = set()  # dtypes in which the functions below saw an example
POINT = np.array([0.5, -1.25])  # has no round-off in bfloat16 either


def seen(x, *levels):
    """The level that a function was given; of what dtype x is, `SEEN` keeps."""
    SEEN.add(x.dtype)
    assert all(level.dtype == wide() for level in levels)
    return sum((level.astype(x.dtype) for level in levels), jnp.zeros((), x.dtype))


def wide():
    return jnp.dtype(jnp.float64) if jnp.float64 == DTYPE else jnp.dtype(jnp.float32)


def field(x, *levels):
    return -x * (1 + x**2) / (1 + seen(x, *levels) ** 2)


def energy(x, *levels):
    return jnp.sum(0.5 * x**2 + 0.25 * x**4) / (1 + seen(x, *levels) ** 2)


def curvature(x, slices):
    return -field(x), jax.vmap(lambda v: jnp.sum(v * (1 + 3 * x**2) * v))(slices)


def arguments():
    """One good set of arguments for every loss, with examples of `DTYPE`."""
    key, x = jax.random.key(0), jnp.asarray(POINT, DTYPE)
    y, many = -x / 2, jnp.stack([x, -x, x / 2]) + jnp.asarray(0.25, DTYPE)
    sigma, noisy = jnp.float32(0.5), jnp.float32(1.25)
    kinds = {"key": key, "x": x, "x_data": x, "x_model": y, "sigma": sigma, "score_fn": field}
    kinds |= {"true_score_fn": lambda x: -x, "critic_fn": lambda x: 2 * x**2, "energy_fn": energy}
    kinds |= {"denoise_fn": field, "weight": jnp.float32(2), "t": jnp.float32(0.5)}
    kinds |= {"process": noise.vp(), "loss": jnp.asarray(2, DTYPE), "log_scale": jnp.float32(0.5)}
    kinds |= {"log_q": jnp.float32(-1), "log_z": jnp.float32(1), "others": many, "x_noise": many}
    kinds |= {"generator_fn": lambda z: 2 * z, "z": x / 2, "num_proposals": 3, "num_negatives": 2}
    kinds |= {"proposal_scale": jnp.float32(0.5), "penalty": 0.5, "epsilon": 0.125}
    kinds |= {"log_noise_fn": lambda x: -jnp.sum(x**2), "sigma_noisy": noisy, "x_noisy": y}
    kinds |= {"gradient_and_laplacian": lambda x: (-field(x), jnp.sum(1 + 3 * x**2))}
    kinds |= {"gradient_and_curvature": curvature}
    special = {"conditional_noise_contrastive": {"x_noise": y}, "check_noise": {"x_data": many}}
    calls = {}
    for name in losses.__all__:
        needed = inspect.signature(getattr(losses, name)).parameters.values()
        needed = [p.name for p in needed if p.default is p.empty]
        calls[name] = {word: kinds[word] for word in needed} | special.get(name, {})
    return calls


def value(name, given):
    out = getattr(losses, name)(**given)
    return out(-given["x_noisy"]) if name == "recovery_energy" else out


SCALAR, PAIR, BATCH = lambda x, *_: jnp.sum(x), lambda x, *_: x, lambda x, *_: jnp.zeros((3, 2))
NOT_POSITIVE = [jnp.ones(2), -0.5, jnp.float32(-0.5), float("nan"), float("inf")]
NO_SCALAR, NO_COUNT, NO_FLOATS = [jnp.ones(2)], [0, 2.5], [jnp.arange(2)]
FIELDS = ("score_fn", "true_score_fn", "critic_fn", "denoise_fn", "generator_fn")
WRONG = {word: [SCALAR, BATCH] for word in FIELDS}
WRONG |= {"draw_probe": [lambda key, x: jnp.ones(3)]}
WRONG |= {"energy_fn": [PAIR, BATCH], "log_noise_fn": [PAIR, BATCH]}
WRONG |= dict.fromkeys(("sigma", "penalty", "epsilon", "sigma_data"), NOT_POSITIVE)
WRONG |= {"weight": [jnp.ones(2), -0.5], "t": [jnp.ones(2), 1.5], "stabilizer": [-1.0]}
WRONG |= dict.fromkeys(("log_q", "log_z", "loss", "log_scale"), NO_SCALAR)
WRONG |= dict.fromkeys(("num_proposals", "num_negatives", "num_slices", "num_probes"), NO_COUNT)
WRONG |= {"chunk_size": NO_COUNT, "sigma_noisy": [jnp.ones(2), 0.25, jnp.float32(jnp.nan)]}
WRONG |= {"x": NO_FLOATS, "z": NO_FLOATS, "x_noisy": NO_FLOATS}
WRONG |= {"x_model": NO_FLOATS, "x_data": NO_FLOATS}
WRONG |= dict.fromkeys(("x_noise", "others"), (jnp.zeros((3, 3)), jnp.zeros((0, 2))))
WRONG |= {"proposal_scale": [-0.5, jnp.ones(3)]}
WRONG |= {"gradient_and_laplacian": [lambda x: (jnp.ones(3), 0.0), lambda x: (x, x)]}
WRONG |= {"gradient_and_curvature": [lambda x, v: (jnp.ones(3), v[:, 0]), lambda x, v: (x, v)]}
DIFFERENCES = "finite_difference_score_matching", "controlled_denoising_score_matching"
UNCHECKED = {"key", "process"}  # jax and attribute access refuse these
CASES = [
    pytest.param(name, argument, wrong, id=f"{name}-{argument}-{i}")
    for name in losses.__all__
    for argument in inspect.signature(getattr(losses, name)).parameters
    if argument not in UNCHECKED
    for i, wrong in enumerate(WRONG[argument])
]


@pytest.mark.parametrize(("name", "argument", "wrong"), CASES)
def test_every_wrong_argument_is_refused_by_the_names_of_loss_and_argument(
    name, argument, wrong, untyped
):
    with pytest.raises(ValueError, match=rf"^`{name}` got.* {argument}\b|^`{name}` got no other"):
        value(name, arguments()[name] | {argument: wrong})


@pytest.mark.parametrize("name", ["contrastive_divergence", "squared_energies"])
def test_a_pair_is_of_one_shape(name, untyped):
    with pytest.raises(ValueError, match=rf"^`{name}` got x_model of shape \(3, 2\)"):
        value(name, arguments()[name] | {"x_model": jnp.zeros((3, 2))})


@pytest.mark.parametrize("name", [name for name in losses.__all__ if name != "check_noise"])
def test_no_function_is_traced_once_more_for_the_checks(name, untyped):
    """As many calls as the formula has, at the shapes that it has, and no equation for a check."""
    given = arguments()[name]
    functions = [word for word in given if word.endswith("_fn")]
    counts = dict.fromkeys(functions, 0)

    def counted(word, fn):
        def call(*args):
            counts[word] += 1
            return fn(*args)

        return call

    given |= {word: counted(word, given[word]) for word in functions}
    value(name, given)
    most = {"energy_discrepancy": 2, "controlled_denoising_score_matching": 2, "vera": 2}
    most |= {"exact_score_matching": 2, "learned_stein": 2, "sliced_learned_stein": 2}
    most |= {"finite_difference_score_matching": 3, "implicit_score": 2}
    pairs = ("contrast", "squared_energies")
    limit = most.get(name, 2 if any(word in name for word in pairs) else 1)
    assert max(counts.values(), default=0) <= limit, counts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", [name for name in losses.__all__ if name != "check_noise"])
def test_a_loss_in_another_precision_is_the_loss_in_float64(name, dtype, monkeypatch):
    """Of the same draws. Functions see the dtype of x, unless the loss is of their differences.

    The level is always float32, and so is the loss. What is left in bfloat16 is the round-off
    of 8 bits in the functions' own points and results.
    """

    def normal(key, shape=(), dtype=float):
        return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)

    def rademacher(key, shape, dtype):
        return jnp.asarray(np.sign(POINT).reshape(shape), dtype)

    monkeypatch.setattr(jax.random, "normal", normal)
    monkeypatch.setattr(jax.random, "rademacher", rademacher)
    monkeypatch.setitem(globals(), "DTYPE", jnp.dtype(dtype))
    SEEN.clear()
    got = value(name, arguments()[name])
    assert {jnp.dtype(jnp.float32) if name in DIFFERENCES else DTYPE} >= SEEN
    with jax.enable_x64(True):
        monkeypatch.setitem(globals(), "DTYPE", jnp.dtype("float64"))
        truth = value(name, arguments()[name])
    tolerance = {"float32": 1e-5, "float16": 0.01, "bfloat16": 0.06}[dtype]
    of_state = name == "recovery_pair"
    for ours, exact in zip(jax.tree.leaves(got), jax.tree.leaves(truth), strict=True):
        assert exact.dtype == jnp.float64
        assert ours.dtype == (jnp.dtype(dtype) if of_state else jnp.float32)
        np.testing.assert_allclose(
            np.float64(ours), np.float64(exact), rtol=tolerance, atol=tolerance
        )
