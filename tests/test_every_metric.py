"""Every metric of samples takes the numbers that data come in, far from 0 too, or refuses them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import metrics
from ebm_jax.data import largest_distance

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 6)).astype(np.uint8), RNG.integers(0, 200, (40, 6), np.uint8)
WIDTH = {"bandwidth": 200.0}
SUBSETS = {"subset_size": 20, "num_subsets": 3}
INDEX = np.arange(40).reshape(2, 20)


def chains(x):
    return x.reshape(3, 20, 6)


METRICS = {
    "density_coverage": lambda x, y: metrics.density_coverage(x, y),
    "effective_sample_size": lambda x, y: metrics.effective_sample_size(chains(x)),
    "energy_health": lambda x, y: metrics.energy_health(
        lambda x: jnp.sum(x**2) / 100, x, y, low=0.0, high=1.0
    ),
    "frechet_distance": metrics.frechet_distance,
    "general_kernel_distance": lambda x, y: metrics.general_kernel_distance(
        lambda a, b: jnp.exp(-jnp.sum((a - b) ** 2) / 1e4), KEY, x, y, **SUBSETS
    ),
    "inception_score": lambda x, y: metrics.inception_score(x),
    "infinite_frechet_distance": lambda x, y: metrics.infinite_frechet_distance(KEY, x, y),
    "integrated_autocorrelation": lambda x, y: metrics.integrated_autocorrelation(chains(x)),
    "kernel_distance": lambda x, y: metrics.kernel_distance(KEY, x, y, **SUBSETS),
    "largest_distance": lambda x, y: largest_distance(x),
    "median_distance": lambda x, y: metrics.median_distance(x),
    "memorization": lambda x, y: metrics.memorization(y[:20], y[20:], x),
    "moments": lambda x, y: metrics.moments(x),
    "nearest_distance": metrics.nearest_distance,
    "precision_recall": lambda x, y: metrics.precision_recall(x, y),
    "rank_r_hat": lambda x, y: metrics.rank_r_hat(chains(x)),
    "sliced_wasserstein": lambda x, y: metrics.sliced_wasserstein(KEY, x, y),
    "split_r_hat": lambda x, y: metrics.split_r_hat(chains(x)),
    "squared_mmd": lambda x, y: metrics.squared_mmd(x, y, **WIDTH),
    "squared_mmd_with_error": lambda x, y: metrics.squared_mmd_with_error(x, y, **WIDTH),
    "squared_stein_discrepancy": lambda x, y: metrics.squared_stein_discrepancy(
        lambda x: (100 - x) / 1e4, x, **WIDTH
    ),
    "subset_distances": lambda x, y: metrics.subset_distances(x, y, INDEX, INDEX),
}
NOT_OF_SAMPLES = {"cubic", "frechet_distance_of_moments", "frechet_distance_of_statistics"}
NOT_OF_SAMPLES |= {"inception_outputs", "inverse_multiquadric", "load_inception"}
NOT_OF_SAMPLES |= {"load_statistics", "merge_moments", "save_statistics", "squared_exponential"}
KINDS = {
    "uint8": lambda x: x,
    "jax-uint8": jnp.asarray,
    "int64": lambda x: x.astype(np.int64),
    "bool": lambda x: x > 127,
    "jax-bool": lambda x: jnp.asarray(x > 127),
    "float16": lambda x: x.astype(np.float16),
    "bfloat16": lambda x: jnp.asarray(x, jnp.bfloat16),
    "float32": lambda x: x.astype(np.float32),
    "float64": lambda x: x.astype(np.float64),
}


def close(got, truth, **options):
    for ours, exact in zip(jax.tree.leaves(got), jax.tree.leaves(truth), strict=True):
        np.testing.assert_allclose(np.float64(ours), np.float64(exact), **options)


@pytest.fixture
def same_directions(monkeypatch):
    """One draw of N(0, I) in whatever precision is asked for."""

    def normal(key, shape, dtype):
        return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)

    monkeypatch.setattr(jax.random, "normal", normal)


def test_every_metric_of_samples_is_tested_here():
    public = {name for name in metrics.__all__ if name[0].islower()}
    assert public - NOT_OF_SAMPLES == set(METRICS) - {"largest_distance"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_any_type_of_number_is_that_of_float64(name, kind, same_directions):
    """Each kind holds its numbers exactly: all that differs is the round-off of the metric."""
    given = [KINDS[kind](x) for x in PIXELS]
    got = METRICS[name](*given)
    with jax.enable_x64(True):
        truth = METRICS[name](*(np.asarray(x).astype(np.float64) for x in given))
    close(got, truth, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", METRICS)
def test_what_is_no_number_is_refused_by_the_name_of_the_metric(name, untyped):
    words = np.full((60, 6), "a")
    with pytest.raises(ValueError, match=rf"^`{name}` got .* of type <U1: give booleans, integers"):
        METRICS[name](words, words[:40])


ROWS, LINE, NUMBER, WIDE = (np.ones(s, np.float32) for s in ((30, 4), (30,), (), (30, 5)))
ONE, NONE, MOMENTS = ROWS[:1], ROWS[:0], metrics.moments(PIXELS[0])
MMD = partial(metrics.squared_mmd, bandwidth=1.0)
MMD_ERROR = partial(metrics.squared_mmd_with_error, bandwidth=1.0)
KSD = partial(metrics.squared_stein_discrepancy, lambda x: -x, bandwidth=1.0)
SLICED = partial(metrics.sliced_wasserstein, KEY)
KID = partial(metrics.kernel_distance, KEY, **SUBSETS)
GENERAL = partial(metrics.general_kernel_distance, lambda a, b: jnp.dot(a, b), KEY, **SUBSETS)
HEALTH = partial(metrics.energy_health, lambda x: jnp.sum(x**2))
BY_ROWS = partial(metrics.energy_health, lambda x: x)
INFINITE = partial(metrics.infinite_frechet_distance, KEY)
SUBSET = metrics.subset_distances
CHAIN_METRICS = ("effective_sample_size", "integrated_autocorrelation", "rank_r_hat", "split_r_hat")
SHAPES = [
    (getattr(metrics, name), (x,))
    for name in CHAIN_METRICS
    for x in (NUMBER, LINE, ROWS[:, :3], NONE)
]
SHAPES += [(metrics.median_distance, (x,)) for x in (NUMBER, ONE)]
SHAPES += [(largest_distance, (x,)) for x in (NUMBER, ONE)]
SHAPES += [(KSD, (x,)) for x in (NUMBER, ROWS[:3])]
SHAPES += [
    (metric, pair)
    for metric in (metrics.nearest_distance, MMD, MMD_ERROR, SLICED, HEALTH)
    for pair in ((NUMBER, ROWS), (ROWS, NUMBER), (ROWS, NONE), (NONE, ROWS), (ROWS, WIDE))
]
SHAPES += [
    (metrics.memorization, sets)
    for sets in ((ROWS, WIDE, ROWS), (ROWS, ROWS, NONE), (NUMBER, ROWS, ROWS))
]
SHAPES += [
    (metric, pair)
    for metric in (
        metrics.frechet_distance,
        INFINITE,
        KID,
        GENERAL,
        metrics.precision_recall,
        metrics.density_coverage,
    )
    for pair in ((LINE, LINE), (NUMBER, ROWS), (ROWS, ONE), (ROWS, WIDE))
]
SHAPES += [(metrics.moments, (x,)) for x in (NUMBER, LINE, ONE, [ROWS, WIDE], [])]
SHAPES += [(metrics.inception_score, (x,)) for x in (NUMBER, LINE, ROWS[:9])]
SHAPES += [(INFINITE, (ROWS, MOMENTS)), (BY_ROWS, (ROWS, ROWS))]
SHAPES += [
    (SUBSET, (ROWS, ROWS, *pair))
    for pair in (
        (INDEX, INDEX),
        (INDEX[:1, :5], INDEX[:, :5]),
        (INDEX[0], INDEX[0]),
        (INDEX[:, :1], INDEX[:, :1]),
    )
]


@pytest.mark.parametrize(("metric", "samples"), SHAPES)
def test_samples_of_wrong_shapes_are_refused_by_the_name_of_the_metric(metric, samples, untyped):
    name = getattr(metric, "func", metric).__name__
    with pytest.raises(ValueError, match=rf"^`{name}` got .*: \w.*\.$"):
        metric(*samples)


def pairwise(a, b):
    return np.sqrt(((np.float64(a)[:, None] - np.float64(b)[None]) ** 2).sum(-1))


def within(a):
    return pairwise(a, a)[np.triu_indices(len(a), 1)]


def balls(centers, k):
    return np.sort(pairwise(centers, centers), 1)[:, k]


def true_precision_recall(real, fake, k=3):
    precision = (pairwise(fake, real) <= balls(real, k)).any(1).mean()
    return precision, (pairwise(real, fake) <= balls(fake, k)).any(1).mean()


def true_density_coverage(real, fake, k=5):
    inside = pairwise(fake, real) <= balls(real, k)
    return inside.sum(1).mean() / k, inside.any(0).mean()


def true_mmd(x, y, width):
    def kernel(a, b):
        return np.exp(-(pairwise(a, b) ** 2) / (2 * width**2))

    n, m = len(x), len(y)
    xx, yy = (kernel(x, x).sum() - n) / (n * (n - 1)), (kernel(y, y).sum() - m) / (m * (m - 1))
    return xx + yy - 2 * kernel(x, y).mean()


TRUTHS = {
    "nearest_distance": (metrics.nearest_distance, lambda x, y: pairwise(x, y).min(1)),
    "median_distance": (METRICS["median_distance"], lambda x, y: np.median(within(x))),
    "largest_distance": (METRICS["largest_distance"], lambda x, y: within(x).max()),
    "memorization": (
        lambda x, y: metrics.memorization(x, x[:7], y).ratio,
        lambda x, y: np.median(pairwise(x, y).min(1)) / np.median(pairwise(x[:7], y).min(1)),
    ),
    "squared_mmd": (
        lambda x, y: metrics.squared_mmd(x, y, bandwidth=1.0),
        lambda x, y: true_mmd(x, y, 1.0),
    ),
    "precision_recall": (METRICS["precision_recall"], true_precision_recall),
    "density_coverage": (METRICS["density_coverage"], true_density_coverage),
}


@pytest.mark.parametrize("kind", ["numpy", "jax", "float64"])
@pytest.mark.parametrize("name", TRUTHS)
def test_distances_of_data_far_from_0_are_those_of_float64(name, kind):
    """1,000 standard deviations away, where squares cancel all digits; 1e9 in float64."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(200, 3)), 0.7 * rng.normal(size=(150, 3))
    if kind == "float64":
        x, y = 1e9 + x, 1e9 + y
    else:
        x, y = np.float32(1000 + x), np.float32(1000 + y)
    given = [jnp.asarray(z) for z in (x, y)] if kind == "jax" else [x, y]
    got, truth = TRUTHS[name]
    close(got(*given), truth(x, y), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [0.3, 900.1, 1e-8])
def test_equal_rows_have_no_distance(value):
    rows = jnp.full((5, 784), value, jnp.float32)
    assert largest_distance(rows) == 0
    assert metrics.median_distance(rows) == 0
    assert not metrics.nearest_distance(rows[:2], rows).any()
    assert metrics.precision_recall(rows, rows) == (1, 1)
    assert metrics.density_coverage(rows, rows, k=3) == (5 / 3, 1)


def test_a_row_that_is_not_finite_spoils_its_own_distance_alone():
    x = jnp.zeros((4, 2)).at[1, 0].set(jnp.nan).at[2, 1].set(jnp.inf)
    got = metrics.nearest_distance(x, jnp.ones((3, 2)))
    np.testing.assert_allclose(got, [2**0.5, np.nan, np.inf, 2**0.5], rtol=1e-6)
