"""Figures of features against closed forms, plain sums over all pairs, and torch-fidelity."""

import json
import sys
import tracemalloc
import warnings
from functools import partial
from types import SimpleNamespace
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, rel_entr, softmax

from ebm_jax import metrics
from ebm_jax.data import DataError
from ebm_jax.metrics import (
    Moments,
    Statistics,
    density_coverage,
    frechet_distance,
    frechet_distance_of_moments,
    frechet_distance_of_statistics,
    general_kernel_distance,
    inception_score,
    infinite_frechet_distance,
    kernel_distance,
    load_statistics,
    merge_moments,
    moments,
    precision_recall,
    save_statistics,
    subset_distances,
)
from tests.statistics import assert_mean

KEY = jax.random.key(0)


def normals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def whitened(n, d, seed):
    """n rows whose sample mean is 0 and whose covariance, with n - 1, is exactly I."""
    rows = normals(n, d, seed=seed)
    q, _ = np.linalg.qr(rows - rows.mean(0))
    return q * np.sqrt(n - 1)


def with_law(mean, covariance, n, seed):
    """n rows with exactly this mean and covariance, in the sense of a sample."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return mean + whitened(n, len(covariance), seed) @ root.T


# ---- moments


@pytest.mark.parametrize("block", [7, 50, 4096])
def test_moments_are_those_of_numpy_and_the_same_bits_however_the_stream_is_cut(monkeypatch, block):
    monkeypatch.setattr(sys.modules["ebm_jax.metrics.moments"], "BLOCK", block)
    x = normals(50, 6).astype(np.float32) + 3
    whole = moments(x)
    assert whole.n == 50
    np.testing.assert_allclose(whole.mean, x.astype(np.float64).mean(0), rtol=1e-13)
    np.testing.assert_allclose(whole.covariance, np.cov(x.T, dtype=np.float64), rtol=1e-12)
    for cut in ([1, 2, 30], [7, 14], [0, 20, 20], range(1, 50)):
        streamed = moments(iter(np.split(x, cut)))
        np.testing.assert_array_equal(streamed.mean, whole.mean)
        np.testing.assert_array_equal(streamed.covariance, whole.covariance)


def test_moments_keep_the_digits_of_features_far_from_zero():
    """Differences of a millionth about 1000 are lost to sums of squares, not to centered ones."""
    x = 1000 + 1e-6 * whitened(5000, 3, 0)
    np.testing.assert_allclose(moments(x).covariance, 1e-12 * np.eye(3), atol=1e-18)


def test_moments_merge_into_those_of_one_stream():
    x, y = normals(5, 4), normals(8, 4, seed=1) + 2
    merged, whole = merge_moments(moments(x), moments(y)), moments(np.concatenate([x, y]))
    assert merged.n == whole.n
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-12)


def test_moments_hold_no_second_copy_of_the_features():
    x = np.zeros((40_000, 256), np.float32)
    tracemalloc.start()
    try:
        moments(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4096 * 256 * 8 + 8 * 256**2 * 8 < x.nbytes / 2


# ---- Frechet distances

SCALES = np.array([1.0, 0.3, 2.0]), np.array([0.5, 0.9, 2.0])


def test_frechet_distance_of_independent_gaussians_is_a_sum_over_coordinates():
    """sum (m_i - m'_i)^2 + (s_i - s'_i)^2 for diagonal covariances s^2 and s'^2."""
    m1, m2 = np.array([0.5, -1.0, 2.0]), np.array([0.0, 1.0, 2.5])
    s1, s2 = SCALES
    expected = np.sum((m1 - m2) ** 2 + (s1 - s2) ** 2)
    x, y = with_law(m1, np.diag(s1**2), 10, 0), with_law(m2, np.diag(s2**2), 7, 1)
    np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-9)
    a, b = Moments(None, m1, np.diag(s1**2)), Moments(None, m2, np.diag(s2**2))
    np.testing.assert_allclose(frechet_distance_of_moments(a, b), expected, rtol=1e-13)


@pytest.mark.parametrize(("n", "m"), [(5, 6), (5, 30), (30, 6), (30, 40)])
def test_frechet_distance_of_singular_covariances(n, m):
    """Rank 3 of 12: with fewer rows than features on one side, on both, and on none."""
    basis = np.linalg.qr(normals(12, 12))[0]
    s1, s2 = SCALES
    x = 1 + with_law(np.zeros(3), np.diag(s1**2), n, 0) @ basis[:3]
    y = with_law(np.zeros(3), np.diag(s2**2), m, 1) @ basis[:3]
    apart = with_law(np.zeros(3), np.diag(s2**2), m, 1) @ basis[3:6]
    for other, expected in ((y, np.sum((s1 - s2) ** 2)), (apart, np.sum(s1**2 + s2**2))):
        np.testing.assert_allclose(frechet_distance(x, other), 12 + expected, rtol=1e-7)
        by_moments = frechet_distance_of_moments(moments(x), moments(other))
        np.testing.assert_allclose(by_moments, 12 + expected, rtol=1e-6)


@pytest.mark.parametrize("rank", [5, 2])
def test_frechet_distance_is_scipys_for_covariances_that_do_not_commute(rank):
    """Also where they are singular, as with fewer rows than features."""
    mix = normals(2, 5, rank)
    cov_x, cov_y = (a @ a.T for a in mix)
    x, y = with_law(np.zeros(5), cov_x, 30, 0), with_law(np.full(5, 0.3), cov_y, 40, 1)
    assert np.abs(cov_x @ cov_y - cov_y @ cov_x).max() > 1
    blur = 1e-9 * np.eye(5)  # scipy's square root fails on singular products
    cross = np.trace(sqrtm((cov_x + blur) @ (cov_y + blur)).real)
    expected = 5 * 0.3**2 + np.trace(cov_x) + np.trace(cov_y) - 2 * cross
    np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-5, atol=1e-3)


def test_frechet_distance_is_zero_to_itself_and_works_in_float64():
    """Features far from 0 lose their variance in float32 when it is not subtracted first."""
    x = with_law(np.full(3, 1000.0), np.diag([1e-4, 1e-2, 1.0]), 50, 0)
    assert abs(frechet_distance(x, x)) < 1e-6
    moved = x.astype(np.float32) + np.float32(2.0)
    np.testing.assert_allclose(frechet_distance(x.astype(np.float32), moved), 12.0, rtol=1e-4)


def test_frechet_distance_takes_a_single_feature_and_arrays_of_jax():
    x, y = with_law(np.zeros(1), np.eye(1), 9, 0), with_law(np.ones(1), 4 * np.eye(1), 5, 1)
    np.testing.assert_allclose(frechet_distance(x, y), 1.0 + (1 - 2) ** 2, rtol=1e-9)
    assert frechet_distance(x[:2], x[:2]) == pytest.approx(0, abs=1e-9)
    value = frechet_distance(jnp.float32(x), jnp.float32(y))
    np.testing.assert_allclose(value, 2.0, rtol=1e-6)


@pytest.mark.parametrize("n", [2, 20])
def test_frechet_distance_of_constant_features_is_that_of_points(n):
    """n below and above the number of features: |m - m'|^2, and tr C more to a Gaussian."""
    point, other, cloud = np.full((n, 3), 2.0), np.zeros((n, 3)), whitened(50, 3, 0)
    np.testing.assert_allclose(frechet_distance(point, other), 12.0, rtol=1e-12)
    np.testing.assert_allclose(frechet_distance(point, cloud), 12.0 + 3.0, rtol=1e-12)


def gaussian_pairs(repeats, n, m, d, shift=0.0, scale=1.0):
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        yield rng.normal(size=(n, d)), shift + scale * rng.normal(size=(m, d))


def test_kernel_distance_is_unbiased_where_laws_agree_and_frechet_distance_is_not():
    pairs = list(gaussian_pairs(400, 20, 25, 4))
    rows = np.arange(20)[None]
    assert_mean([subset_distances(x, y, rows, rows)[0] for x, y in pairs], 0.0)
    frechet = np.array([frechet_distance(x, y) for x, y in pairs])
    assert frechet.mean() > 50 * frechet.std() / np.sqrt(len(frechet))


@pytest.mark.parametrize("reference", ["features", "moments"])
def test_infinite_frechet_distance_loses_the_bias(reference):
    """16 (.1^2 + .3^2) between N(0, I) and N(.1, .7^2 I); four fifths of the bias at least."""
    exact, closed = Moments(None, np.full(16, 0.1), 0.49 * np.eye(16)), 16 * 0.1
    errors = []
    for i, (x, y) in enumerate(gaussian_pairs(20, 400, 300, 16, 0.1, 0.7)):
        other = y if reference == "features" else exact
        infinite = infinite_frechet_distance(jax.random.key(i), x, other, smallest=0.3)
        finite = frechet_distance_of_moments(moments(x), exact if other is exact else moments(y))
        errors.append([infinite.value - closed, finite - closed])
    bias, bias_at_n = np.mean(errors, 0)
    noise, noise_at_n = np.std(errors, 0) / np.sqrt(len(errors))
    assert bias_at_n > 5 * noise_at_n
    assert abs(bias) < 5 * noise
    assert abs(bias) < bias_at_n / 5


def test_the_line_of_infinite_frechet_distance_has_its_intercept_and_standard_error():
    """Through 7 + 2 / n exactly, and through points with noise of known variance: few of them,
    so that n - 2 degrees of freedom tell themselves from others."""
    line = sys.modules["ebm_jax.metrics.frechet"]._intercept
    x = 1 / np.linspace(0.1, 1, 6)
    exact = line(x, 7 + 2 * x)
    np.testing.assert_allclose(exact, [7, 0], atol=1e-12)
    fits = [line(x, 7 + 2 * x + 0.1 * normals(6, seed=i)) for i in range(2000)]
    values, errors = np.transpose(fits)
    assert_mean(values, 7.0)
    assert_mean((values - 7) ** 2 - errors**2, 0.0)


# ---- kernel distances


def plain_kernel_distance(x, y, kernel):
    """The definition: means over distinct pairs, one pair after the other."""
    n, m = len(x), len(y)
    within_x = np.mean([kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j])
    within_y = np.mean([kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j])
    return within_x + within_y - 2 * np.mean([kernel(a, b) for a in x for b in y])


@pytest.mark.parametrize("size", [2, 9, 10])
def test_subset_distances_are_means_over_pairs(size):
    x, y = normals(20, 3), normals(15, 3, seed=1) + 0.5
    rng = np.random.default_rng(2)
    i, j = (np.stack([rng.choice(n, size, replace=False) for _ in range(3)]) for n in (20, 15))
    cubes = [
        plain_kernel_distance(x[a], y[b], lambda u, v: (u @ v / 3 + 1) ** 3)
        for a, b in zip(i, j, strict=True)
    ]
    np.testing.assert_allclose(subset_distances(x, y, i, j), cubes, rtol=1e-12)
    linear = [
        plain_kernel_distance(x[a], y[b], lambda u, v: u @ v / 3) for a, b in zip(i, j, strict=True)
    ]
    np.testing.assert_allclose(subset_distances(x, y, i, j, kernel=lambda t: t), linear, rtol=1e-11)


@pytest.mark.parametrize("n", [530, 1024])
def test_subset_distances_of_more_rows_than_a_strip_are_means_over_whole_tables(n):
    """k = t^2 - t of t = x . y / d, from one table over all pairs without its diagonal."""
    z = normals(2 * n, 5)
    z[n:] += 0.2
    t = z @ z.T / 5
    k = (t**2 - t) * (1 - np.eye(2 * n))
    expected = (k[:n, :n].sum() + k[n:, n:].sum()) / (n * (n - 1)) - 2 * k[:n, n:].mean()
    shuffled = np.random.default_rng(0).permutation(n)[None]
    found = subset_distances(z[:n], z[n:], shuffled, shuffled, kernel=lambda t: t**2 - t)
    np.testing.assert_allclose(found, [expected], rtol=1e-11)


def test_kernel_distance_of_gaussians_has_the_closed_form_mean():
    """N(0, I) and N(a, I) in d dimensions, with A = |a|^2 and u = x . x' of the second law:

    E u = A, E u^2 = d + 2 A + A^2, E u^3 = A^3 + 6 A^2 + 3 A d + 6 A.
    """
    d, shift = 3, 0.6
    a = d * shift**2
    first = 1 + 3 / d
    second = 1 + 3 * a / d + 3 * (d + 2 * a + a**2) / d**2
    second += (a**3 + 6 * a**2 + 3 * a * d + 6 * a) / d**3
    across = 1 + 3 * (a + d) / d**2
    values = [
        kernel_distance(KEY, x, y, subset_size=20, num_subsets=2).value
        for x, y in gaussian_pairs(2000, 25, 30, d, shift)
    ]
    assert_mean(values, first + second - 2 * across)


def test_the_standard_error_of_kernel_distance_is_the_spread_over_subsets():
    x, y = normals(60, 3), normals(50, 3, seed=1) + 0.3
    found = np.array(
        [
            kernel_distance(jax.random.key(i), x, y, subset_size=10, num_subsets=8)
            for i in range(500)
        ]
    )
    values, errors = found.T
    assert_mean((values - values.mean()) ** 2 * 500 / 499 - errors**2, 0.0)


@pytest.mark.parametrize("distance", [kernel_distance, partial(general_kernel_distance, jnp.dot)])
def test_one_more_subset_adds_its_own_square_to_the_standard_error(distance):
    """S_k = k (k - 1) error^2 is the sum of squares about the mean m_k, hence (Welford)

    S_k = S_(k - 1) + (k - 1) / k (d_k - m_(k - 1))^2,   d_k = k m_k - (k - 1) m_(k - 1)

    for the k-th subset's distance d_k. Another ddof than 1 does not fit.
    """
    x, y = normals(60, 3), normals(50, 3, seed=1) + 0.3
    found = {k: distance(KEY, x, y, subset_size=10, num_subsets=k) for k in range(2, 6)}
    squares = {k: k * (k - 1) * found[k].standard_error ** 2 for k in found}
    for k in range(3, 6):
        before = found[k - 1].value
        gap = k * found[k].value - (k - 1) * before - before
        np.testing.assert_allclose(squares[k], squares[k - 1] + (k - 1) / k * gap**2, rtol=1e-5)


@pytest.mark.parametrize("size", [2, 7, 8])
def test_general_kernel_distance_with_the_cubic_kernel_is_kernel_distance(size):
    x, y = normals(30, 4).astype(np.float32), normals(20, 4, seed=1).astype(np.float32) + 1
    arguments = {"subset_size": size, "num_subsets": 5}
    general = general_kernel_distance(lambda u, v: (u @ v / 4 + 1) ** 3, KEY, x, y, **arguments)
    np.testing.assert_allclose(general, kernel_distance(KEY, x, y, **arguments), rtol=2e-4)


def test_kernel_distance_of_constant_features_is_that_of_points():
    """k(a, a) + k(b, b) - 2 k(a, b) with no noise at all."""
    x, y = np.ones((9, 2), np.float32), np.full((8, 2), 2, np.float32)
    value = kernel_distance(KEY, x, y, subset_size=5, num_subsets=3)
    np.testing.assert_allclose(value, [2**3 + 5**3 - 2 * 3**3, 0], rtol=1e-12)
    assert kernel_distance(KEY, x, x, subset_size=5, num_subsets=3) == (0.0, 0.0)


# ---- inception score


def test_inception_score_of_a_class_table_is_exact():
    """Two kinds of images with classes (a, 1 - a, 0) and (1 - a, a, 0): H(y) = log 2."""
    a = 0.8
    table = np.array([[a, 1 - a, 0], [1 - a, a, 0]])
    with np.errstate(divide="ignore"):
        logits = np.log(np.tile(table, (150, 1))) + normals(300, 1)  # the constant is free
    sharpness = a**a * (1 - a) ** (1 - a)
    expected = [2 * sharpness, 0, 2 * sharpness, 2, sharpness]
    np.testing.assert_allclose(inception_score(logits, num_splits=3), expected, atol=1e-12)


def test_inception_score_is_the_number_of_classes_or_one():
    sure = np.where(np.eye(5), 0.0, -np.inf)
    np.testing.assert_allclose(inception_score(sure, num_splits=1), [5, 0, 5, 5, 1], rtol=1e-12)
    by_class = np.repeat(sure, 2, 0)  # sorted: every split sees one class
    np.testing.assert_allclose(inception_score(by_class, num_splits=5), [1, 0, 5, 5, 1], rtol=1e-12)
    unsure = np.zeros((10, 4))
    np.testing.assert_allclose(inception_score(unsure), [1, 0, 1, 4, 1 / 4], rtol=1e-12)
    two = inception_score(sure[:2], num_splits=1)  # the fewest rows
    np.testing.assert_allclose(two, [2, 0, 2, 2, 1], rtol=1e-12)


def test_inception_score_is_the_exponential_of_the_mean_divergence_of_every_split():
    logits = 3 * normals(203, 7).astype(np.float32)
    p, splits = softmax(logits.astype(np.float64), 1), []
    for i in range(4):
        part = p[i * 203 // 4 : (i + 1) * 203 // 4]
        splits.append(np.exp(rel_entr(part, part.mean(0)).sum(1).mean()))
    found = inception_score(logits, num_splits=4)
    np.testing.assert_allclose(found[:2], [np.mean(splits), np.std(splits)], rtol=1e-12)
    np.testing.assert_allclose(found.score, np.exp(rel_entr(p, p.mean(0)).sum(1).mean()))
    np.testing.assert_allclose(
        found.sharpness, np.exp(np.sum(p * log_softmax(logits.astype(np.float64), 1), 1).mean())
    )


# ---- precision, recall, density, coverage


def plain_manifolds(real, fake, k):
    """All four by whole tables of distances in float64, with closed balls."""
    radius_real, radius_fake = (np.sort(cdist(z, z), 1)[:, k] for z in (real, fake))
    table = cdist(fake, real)
    held = table <= radius_real
    precision, recall = held.any(1).mean(), (radius_fake >= table.T).any(1).mean()
    return precision, recall, held.sum() / (k * len(fake)), held.any(0).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "m"), [(6, 300), (400, 300)])
def test_balls_are_counted_as_in_whole_tables_of_distances(n, m, k):
    """Laws that differ, so that all four figures do; 100 from 0, where squares are large."""
    real = 100 + normals(n, 6).astype(np.float32)
    fake = 100 + (0.7 * normals(m, 6, seed=1) + 0.4).astype(np.float32)
    found = (*precision_recall(real, fake, k=k), *density_coverage(real, fake, k=k))
    expected = plain_manifolds(real.astype(np.float64), fake.astype(np.float64), k)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len({round(value, 3) for value in found}) >= 3


def test_samples_of_half_of_the_law_are_precise_and_recall_half():
    real = np.random.default_rng(0).uniform(-1, 1, (2000, 1))
    fake = np.abs(np.random.default_rng(1).uniform(-1, 1, (2000, 1)))
    precision, recall = precision_recall(real, fake)
    assert precision > 0.98
    assert 0.45 < recall < 0.55
    np.testing.assert_allclose(density_coverage(real, fake)[1], 0.5, atol=0.03)


def test_samples_of_the_law_itself_are_precise_and_recall_it():
    assert min(precision_recall(normals(2000, 2), normals(2000, 2, seed=1))) > 0.95
    assert max(precision_recall(normals(200, 2), normals(200, 2, seed=1) + 50)) == 0


@pytest.mark.parametrize(("n", "m", "k"), [(30, 30, 5), (20, 40, 3)])
def test_density_and_coverage_of_one_law_have_their_means_by_counting(n, m, k):
    """Ranks among the n - 1 other real rows and m fakes are uniform: a real ball misses all
    fakes with chance prod (n - 1 - i) / (n + m - 1 - i), and holds k m / n on average."""
    found = [density_coverage(x, y, k=k) for x, y in gaussian_pairs(300, n, m, 3)]
    i = np.arange(k)
    expected = [1.0, 1 - np.prod((n - 1 - i) / (n + m - 1 - i))]
    assert_mean(found, expected)


# ---- statistics on disk

PROTOCOL = {"features": "pixels", "resize": 32, "rounding": True}


def test_statistics_come_back_as_they_were_saved(tmp_path):
    saved = moments(normals(20, 3))
    save_statistics(tmp_path / "a.npz", saved, PROTOCOL)
    loaded = load_statistics(tmp_path / "a.npz")
    assert (loaded.protocol, loaded.moments.n) == (PROTOCOL, 20)
    np.testing.assert_array_equal(loaded.moments.mean, saved.mean)
    np.testing.assert_array_equal(loaded.moments.covariance, saved.covariance)
    with np.load(tmp_path / "a.npz") as file:  # what other packages look for
        np.testing.assert_array_equal(file["sigma"], saved.covariance)
        assert json.loads(str(file["protocol"]))["resize"] == 32


@pytest.mark.parametrize(
    ("contents", "n", "unknown"),
    [
        (lambda x: {"mu": x.mean(0), "sigma": np.cov(x.T)}, None, "its n and protocol"),
        (lambda x: {"pool_3": x}, 20, "its protocol"),
    ],
    ids=["moments", "features"],
)
def test_files_of_other_packages_are_read_and_what_they_do_not_say_is_said(
    tmp_path, contents, n, unknown
):
    x = normals(20, 3).astype(np.float32)
    np.savez(tmp_path / "a.npz", **contents(x))
    with pytest.warns(UserWarning, match=f"a.npz does not say {unknown}:"):
        loaded = load_statistics(tmp_path / "a.npz")
    assert (loaded.moments.n, loaded.protocol) == (n, None)
    np.testing.assert_allclose(loaded.moments.covariance, np.cov(x.T), rtol=1e-5)


def test_statistics_of_two_protocols_are_not_compared():
    a, b = moments(normals(20, 3)), moments(normals(30, 3, seed=1) + 1)
    one, other = Statistics(a, PROTOCOL), Statistics(b, PROTOCOL | {"resize": 64})
    with pytest.raises(ValueError, match=r"statistics of two protocols \(resize: 32 and 64\)"):
        frechet_distance_of_statistics(one, other)
    expected = frechet_distance_of_moments(a, b)
    assert frechet_distance_of_statistics(one, Statistics(b, dict(PROTOCOL))) == expected
    assert frechet_distance_of_statistics(one, Statistics(b, None)) == expected


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_covariances_of_few_rows_are_covariances_to_round_off(dtype, tmp_path):
    """Of 20 rows of 60 features, 41 eigenvalues are 0 and come out as about -1e-8 in float32."""
    x = (100 * normals(20, 60)).astype(dtype)
    covariance = np.cov(x.T, dtype=dtype)
    assert np.linalg.eigvalsh(covariance).min() < 0
    for sigma in covariance, np.zeros((60, 60), dtype):
        np.savez(tmp_path / "a.npz", mu=x.mean(0), sigma=sigma, n=20, protocol='{"a": 1}')
        found = load_statistics(tmp_path / "a.npz").moments.covariance
        np.testing.assert_array_equal(found, sigma)


def test_statistics_that_do_not_fit_are_refused_unread(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", mu=np.ones(100), sigma=np.eye(100), other=np.ones(10**5))
    monkeypatch.setattr("ebm_jax.data.memory.free_memory", lambda: 3 * 8 * (100 + 10_000))
    with pytest.warns(UserWarning, match="does not say"):
        load_statistics(tmp_path / "a.npz")
    monkeypatch.setattr("ebm_jax.data.memory.free_memory", lambda: 3 * 8 * (100 + 10_000) - 1)
    with pytest.raises(DataError, match=r"takes 0.2 MB of memory when it is read, expected"):
        load_statistics(tmp_path / "a.npz")


GOOD = {"mu": np.ones(2), "sigma": np.eye(2)}


def test_files_that_hold_no_statistics_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    for contents, message in [
        ({"mean": np.ones(2)}, r"a.npz holds \['mean'\], expected an .npz with mu"),
        ({"mu": ONE, "sigma": np.ones(3)}, r"mu of shape \(1, 2\) and sigma of shape \(3,\)"),
        ({"mu": np.ones(2), "sigma": np.ones(3)}, r"mu of shape \(2,\) and sigma of shape \(3,\)"),
        ({"mu": np.ones(0), "sigma": np.ones((0, 0))}, r"mu of shape \(0,\)"),
        ({"mu": np.full(1, np.nan), "sigma": np.ones((1, 1))}, "numbers that are not finite"),
        ({"mu": np.ones(2), "sigma": np.full((2, 2), np.inf)}, "numbers that are not finite"),
        ({"mu": np.ones(2), "sigma": -np.eye(2)}, "negative eigenvalues"),
        ({"mu": np.ones(2), "sigma": np.diag([1, -0.01])}, "negative eigenvalues"),
        ({"mu": np.ones(2), "sigma": np.array([[1, 2], [2, 1]])}, "negative eigenvalues"),
        ({"mu": np.ones(2), "sigma": np.array([[1, 0.1], [0, 1]])}, "not symmetric"),
        ({"mu": np.ones(2), "sigma": np.eye(2) * 1j}, "sigma of dtype complex128"),
        ({"mu": np.array(["1", "2"]), "sigma": np.eye(2)}, "mu of dtype <U1"),
        ({"mu": np.array([{}, {}]), "sigma": np.eye(2)}, "mu of dtype object"),
        (GOOD | {"n": 1}, "n = 1, expected a whole number of 2"),
        (GOOD | {"n": -5}, "n = -5, expected a whole number of 2"),
        (GOOD | {"n": 2.5}, "n = 2.5, expected a whole number of 2"),
        (GOOD | {"n": np.ones(3, int)}, r"n = \[1 1 1\], expected a whole number of 2"),
        (GOOD | {"protocol": "pixels"}, "a.npz cannot be read"),
        (GOOD | {"protocol": "[1]"}, r"the protocol \[1\], expected an object of JSON"),
        (GOOD | {"protocol": '{"a": {}}'}, r"the protocol .*, expected an object of JSON"),
        ({"pool_3": np.ones((1, 3))}, "a.npz cannot be read .*2"),
        ({"pool_3": np.full((5, 3), np.nan)}, "a.npz cannot be read .*finite"),
    ]:
        np.savez(path, **contents)
        with pytest.raises(DataError, match=message) as caught:
            load_statistics(path)
        assert len(str(caught.value).splitlines()) == 1
    for content in b"", b"hello", path.read_bytes()[:-40]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a.npz cannot be read .* expected an .npz with mu"):
            load_statistics(path)
    with pytest.raises(DataError, match=r"b.npz cannot be read \(No such file"):
        load_statistics(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="got the path stats: end it in"):
        save_statistics("stats", moments(normals(5, 2)), PROTOCOL)
    with pytest.raises(ValueError, match=r"got n=None and the protocol \{\}"):
        save_statistics(path, Moments(None, np.zeros(1), np.eye(1)), {})


# ---- what is refused

ROWS, WIDE, ONE = np.ones((30, 2)), np.ones((30, 3)), np.ones((1, 2))
NAN, INF = np.where(np.eye(30, 2), np.nan, 1.0), np.where(np.eye(30, 2), np.inf, 1.0)
small = {"subset_size": 5, "num_subsets": 3}
TWO_SETS = {
    "frechet_distance": frechet_distance,
    "infinite_frechet_distance": lambda x, y: infinite_frechet_distance(KEY, x, y),
    "kernel_distance": lambda x, y: kernel_distance(KEY, x, y, **small),
    "general_kernel_distance": lambda x, y: general_kernel_distance(jnp.dot, KEY, x, y, **small),
    "precision_recall": precision_recall,
    "density_coverage": density_coverage,
}


@pytest.mark.parametrize("name", TWO_SETS)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (ONE, ROWS, r"(features of shape \(1, 2\)|.* only 1 rows)"),
        (ROWS, ONE, r"(features of shape \(1, 2\)|.* only 1 rows)"),
        (NAN, ROWS, "features that are not finite"),
        (ROWS, INF, "features that are not finite"),
        (ROWS, -INF + INF[::-1], "features that are not finite"),
        (ROWS, WIDE, "features of widths 2 and 3"),
    ],
    ids=["one image", "one other image", "nan", "infinity", "both infinities", "widths"],
)
def test_features_that_cannot_be_compared_are_refused(monkeypatch, name, x, y, message):
    """Past the type checks that tests have and users have not."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=f"`{name}` got {message}"):
        TWO_SETS[name](x, y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: moments(ROWS[:1]), "`moments` got 1 rows of features"),
        (lambda: moments([]), "`moments` got 0 rows of features"),
        (lambda: moments(iter([ROWS, WIDE])), "`moments` got features of widths 3 and 2"),
        (lambda: moments(iter([ROWS, NAN])), "`moments` got features that are not finite"),
        (lambda: frechet_distance_of_moments(moments(ROWS), moments(WIDE)), "of 2 and of 3 feat"),
        (lambda: merge_moments(Moments(None, *moments(ROWS)[1:]), moments(ROWS)), "n=None and n"),
        (lambda: infinite_frechet_distance(KEY, ROWS, ROWS, num_sizes=2), "got num_sizes=2 and"),
        (lambda: infinite_frechet_distance(KEY, ROWS, ROWS, smallest=1.0), "smallest=1.0"),
        (lambda: infinite_frechet_distance(KEY, WIDE, moments(ROWS)), "widths 3 and 2"),
        (lambda: kernel_distance(KEY, ROWS, ROWS), "subset_size=1000, and only 30 rows"),
        (
            lambda: kernel_distance(KEY, ROWS, ROWS, num_subsets=1),
            "got num_subsets=1: give at least 2",
        ),
        (
            lambda: kernel_distance(KEY, ROWS, ROWS, subset_size=1),
            "got subset_size=1: give at least 2",
        ),
        (
            lambda: general_kernel_distance(jnp.dot, KEY, ROWS, ROWS, subset_size=1),
            "got subset_size=1: give at least 2",
        ),
        (
            lambda: general_kernel_distance(jnp.dot, KEY, ROWS, ROWS, num_subsets=1),
            "got num_subsets=1: give at least 2",
        ),
        (lambda: inception_score(ROWS[:9]), r"`inception_score` got logits of shape \(9, 2\)"),
        (lambda: inception_score(ONE, num_splits=1), r"logits of shape \(1, 2\)"),
        (lambda: inception_score(ROWS, num_splits=0), "got num_splits=0"),
        (lambda: inception_score(NAN), "`inception_score` got logits that are not finite"),
        (lambda: inception_score(INF), "`inception_score` got logits that are not finite"),
        (lambda: precision_recall(ROWS, ROWS, k=0), "`precision_recall` got k=0"),
        (lambda: precision_recall(ROWS[:3], ROWS), r"features of shape \(3, 2\)"),
        (lambda: density_coverage(ROWS, ROWS, k=30), r"at least 31 rows"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name_and_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- against torch-fidelity


@pytest.fixture(scope="module")
def peer():
    """torch-fidelity's own functions of features; its import of torchvision is not needed."""
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("", ".datasets", ".models", ".transforms", ".transforms.functional"):
            sys.modules.setdefault(f"torchvision{name}", MagicMock())
        pytest.importorskip("torch_fidelity")
        from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc
    return SimpleNamespace(
        tensor=torch.as_tensor,
        statistics=metric_fid.fid_features_to_statistics,
        fid=lambda a, b: metric_fid.fid_statistics_to_metric(a, b, False),
        kid=metric_kid.kid_features_to_metric,
        isc=metric_isc.isc_features_to_metric,
        prc=metric_prc.prc_features_to_metric,
    )


def activations(n, d, seed, shift):
    """Rectified, correlated and of many scales, as those of a network are."""
    mix = normals(d, d) * np.arange(1, d + 1)[:, None] ** -0.7
    return np.maximum(0.3 * normals(n, d, seed=seed) @ mix + 0.1 + shift, 0)


FEATURES = activations(1500, 128, 1, 0.0), activations(1200, 128, 2, 0.05)


def test_frechet_distance_is_that_of_torch_fidelity(peer):
    a, b = (peer.statistics(peer.tensor(x)) for x in FEATURES)
    expected = peer.fid(a, b)["frechet_inception_distance"]
    np.testing.assert_allclose(frechet_distance(*FEATURES), expected, rtol=1e-6)


def test_kernel_distance_is_that_of_torch_fidelity_on_the_same_subsets(peer):
    """In float64, and from float32 too; torch-fidelity itself loses three digits to float32."""
    arguments = {"kid_subsets": 10, "kid_subset_size": 300, "rng_seed": 5, "verbose": False}
    expected = list(peer.kid(*map(peer.tensor, FEATURES), **arguments).values())
    rng = np.random.RandomState(5)
    draws = [(rng.choice(1500, 300, False), rng.choice(1200, 300, False)) for _ in range(10)]
    index = [np.stack(side) for side in zip(*draws, strict=True)]
    for kind, rtol in ((np.float64, 1e-9), (np.float32, 1e-6)):
        found = subset_distances(*(x.astype(kind) for x in FEATURES), *index)
        np.testing.assert_allclose([found.mean(), found.std()], expected, rtol=rtol)


def test_inception_score_is_that_of_torch_fidelity_on_the_same_splits(peer):
    logits = (3 * normals(997, 50)).astype(np.float32)
    expected = list(peer.isc(peer.tensor(logits), 7, True, 5).values())
    found = inception_score(logits[np.random.RandomState(5).permutation(997)], num_splits=7)
    np.testing.assert_allclose(found[:2], expected, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_torch_fidelity(peer, k):
    real, fake = FEATURES
    arguments = {
        "prc_neighborhood": k,
        "prc_batch_size": 1000,
        "save_cpu_ram": False,
        "verbose": False,
    }
    expected = peer.prc(peer.tensor(fake), peer.tensor(real), **arguments)
    found = precision_recall(real, fake, k=k)
    np.testing.assert_allclose(found, [expected["precision"], expected["recall"]], rtol=1e-6)


def test_every_figure_of_features_is_exported():
    assert {"cubic", "infinite_frechet_distance", "load_statistics"} <= set(metrics.__all__)
