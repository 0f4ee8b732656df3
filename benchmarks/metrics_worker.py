"""One implementation of a metric of `benchmarks.metrics`, in its own process."""

import json
import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from tempfile import NamedTemporaryFile
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import numpy as np

from benchmarks.harness import Job, serve

SEED = 2020  # of subsets and shuffles, the same in both implementations
BATCH = 32  # images per call of a network
NORMALISATION = {  # parameters of batch normalization, with the range to draw each from
    "weight": (0.8, 1.2),
    "bias": (-0.2, 0.2),
    "running_mean": (-0.2, 0.2),
    "running_var": (0.7, 1.3),
}


class Problem(NamedTuple):
    """A metric of one or two sets of `n` rows or images; KID takes `subsets` of `subset_size`."""

    figure: str = "FID"
    n: int = 50_000
    width: int = 2048
    subsets: int = 100
    subset_size: int = 1000


def features(problem: Problem, seed: int) -> np.ndarray:
    """Returns rectified, correlated features on many scales, like those of a network; float32.

    The seed also shifts them, so that two sets have different distributions.
    """
    rng, law = np.random.default_rng(seed), np.random.default_rng(0)
    hidden = min(256, problem.width)
    mix = law.standard_normal((hidden, problem.width), np.float32)
    mix *= np.arange(1, hidden + 1, dtype=np.float32)[:, None] ** -0.7 / 3
    rows = np.empty((problem.n, problem.width), np.float32)
    for part in np.array_split(rows, max(1, problem.n // 5000)):
        part[:] = rng.standard_normal((len(part), hidden), np.float32) @ mix
        part += 0.1 * rng.standard_normal(part.shape, np.float32)
        part += np.float32(0.1 * seed)
        np.maximum(part, 0, out=part)
    return rows


def logits(problem: Problem) -> np.ndarray:
    """Returns logits of many classes, few of them likely in any row; float32."""
    rng = np.random.default_rng(0)
    return 3 * rng.standard_normal((problem.n, problem.width), np.float32)


def images(problem: Problem) -> np.ndarray:
    """Returns noise images of 32x32 pixels in three colors, uint8."""
    return np.random.default_rng(0).integers(0, 256, (problem.n, 32, 32, 3)).astype(np.uint8)


def inception_weights() -> dict[str, np.ndarray]:
    """Returns random InceptionV3 weights by PyTorch's names, scaled to keep all layers active."""
    import jax
    import jax.numpy as jnp

    from ebm_jax.nets import InceptionV3

    rng = np.random.default_rng(0)
    weights = {
        "fc.weight": rng.normal(size=(1008, 2048)) / np.sqrt(2048),
        "fc.bias": rng.normal(size=1008),
    }
    shapes = jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.zeros((299, 299, 3)))
    for layer in sorted(shapes["params"].keys() - {"fc"}):
        h, w, before, after = shapes["params"][layer]["kernel"].shape
        draw = rng.normal(size=(after, before, h, w)) * np.sqrt(2 / (before * h * w))
        weights[f"{layer}.conv.weight"] = draw
        for entry, (low, high) in NORMALISATION.items():
            weights[f"{layer}.bn.{entry}"] = rng.uniform(low, high, after)
    return {name: value.astype(np.float32) for name, value in weights.items()}


def job(
    packages: tuple[str, ...],
    inputs: Callable[[], tuple[Any, ...]],
    figure: Callable[..., float],
) -> Job:
    """Returns the job of timing `figure` on inputs that are made once, untimed."""
    once = cache(inputs)
    return Job(packages, lambda _: once(), lambda args: figure(*args), lambda v: {"value": v})


def both(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two sets of features."""
    return features(problem, 1), features(problem, 2)


def covariances(problem: Problem) -> tuple[np.ndarray, ...]:
    """Returns means and covariances of both sets in float64, from at most 3 * width rows."""
    sets = both(problem._replace(n=min(problem.n, 3 * problem.width)))
    pairs = [(x.mean(0, dtype=np.float64), np.cov(x, rowvar=False)) for x in sets]
    return tuple(part for pair in pairs for part in pair)


# ---- ebm_jax


def ebm_jax(problem: Problem) -> Job:
    """This library, with subsets and shuffle drawn as in torch-fidelity."""
    from ebm_jax import metrics
    from ebm_jax.metrics.inception.weights import convert

    def network() -> tuple[Any, ...]:
        return metrics.Inception("", "", "", convert(inception_weights())), images(problem)

    def outputs(inception: Any, pixels: np.ndarray) -> float:
        return float(metrics.inception_outputs(inception, pixels, batch_size=BATCH).features.mean())

    def frechet_of(mean_x: Any, cov_x: Any, mean_y: Any, cov_y: Any) -> float:
        x, y = metrics.Moments(None, mean_x, cov_x), metrics.Moments(None, mean_y, cov_y)
        return metrics.frechet_distance_of_moments(x, y)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        rng, size = np.random.RandomState(SEED), problem.subset_size
        draws = [
            [rng.choice(len(z), size, replace=False) for z in (x, y)]
            for _ in range(problem.subsets)
        ]
        index_x, index_y = np.stack(draws, 1)
        return float(np.mean(metrics.subset_distances(x, y, index_x, index_y)))

    def score(rows: np.ndarray) -> float:
        shuffled = rows[np.random.RandomState(SEED).permutation(len(rows))]
        return metrics.inception_score(shuffled).mean

    figures: dict[str, tuple[Callable[[], tuple[Any, ...]], Callable[..., float]]] = {
        "FID": (partial(both, problem), metrics.frechet_distance),
        "distance": (partial(covariances, problem), frechet_of),
        "KID": (partial(both, problem), kernel),
        "IS": (lambda: (logits(problem),), score),
        "features": (network, outputs),
    }
    return job(("jax", "numpy", "scipy"), *figures[problem.figure])


# ---- other libraries


def torch_fidelity(problem: Problem) -> Job:
    """torch-fidelity's metrics of features; its own network only for the problem "features"."""
    import torch

    if (
        "torchvision" not in sys.modules and find_spec("torchvision") is None
    ):  # imported for networks that are not used here
        for name in ("", ".datasets", ".models", ".transforms", ".transforms.functional"):
            sys.modules[f"torchvision{name}"] = MagicMock()
    from torch_fidelity import metric_fid, metric_isc, metric_kid

    def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
        return metric_fid.fid_statistics_to_metric(a, b, False)[metric_fid.KEY_METRIC_FID]

    def frechet(x: Any, y: Any) -> float:
        return distance(*map(metric_fid.fid_features_to_statistics, (x, y)))

    def frechet_of(mean_x: Any, cov_x: Any, mean_y: Any, cov_y: Any) -> float:
        return distance({"mu": mean_x, "sigma": cov_x}, {"mu": mean_y, "sigma": cov_y})

    def kernel(x: Any, y: Any) -> float:
        found = metric_kid.kid_features_to_metric(
            x, y, kid_subsets=problem.subsets, kid_subset_size=problem.subset_size,
            rng_seed=SEED, verbose=False,
        )  # fmt: skip
        return found[metric_kid.KEY_METRIC_KID_MEAN]

    def score(rows: Any) -> float:
        return metric_isc.isc_features_to_metric(rows, 10, True, SEED)[
            metric_isc.KEY_METRIC_ISC_MEAN
        ]

    def network() -> tuple[Any, ...]:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        with NamedTemporaryFile(suffix=".pth") as file:
            torch.save({k: torch.from_numpy(v) for k, v in inception_weights().items()}, file.name)
            net = FeatureExtractorInceptionV3(
                "", ["2048"], feature_extractor_weights_path=file.name
            )
        pixels = torch.from_numpy(images(problem)).movedim(-1, 1).contiguous()
        return net, pixels

    def outputs(net: Any, pixels: Any) -> float:
        with torch.inference_mode():
            return float(torch.cat([net(part)[0] for part in pixels.split(BATCH)]).mean())

    def tensors() -> tuple[Any, ...]:
        return tuple(map(torch.from_numpy, both(problem)))

    figures: dict[str, tuple[Callable[[], tuple[Any, ...]], Callable[..., float]]] = {
        "FID": (tensors, frechet),
        "distance": (partial(covariances, problem), frechet_of),
        "KID": (tensors, kernel),
        "IS": (lambda: (torch.from_numpy(logits(problem)),), score),
        "features": (network, outputs),
    }
    return job(("torch", "torch-fidelity", "numpy"), *figures[problem.figure])


def scipy_sqrtm(problem: Problem) -> Job:
    """FID by np.cov and scipy.linalg.sqrtm, as in most packages."""
    from scipy import linalg

    def frechet_of(mean_x: Any, cov_x: Any, mean_y: Any, cov_y: Any) -> float:
        root = linalg.sqrtm(cov_x @ cov_y).real
        traces = np.trace(cov_x) + np.trace(cov_y) - 2 * np.trace(root)
        return float(np.sum((mean_x - mean_y) ** 2) + traces)

    def frechet(x: np.ndarray, y: np.ndarray) -> float:
        fits = SimpleNamespace(x=np.cov(x, rowvar=False), y=np.cov(y, rowvar=False))
        return frechet_of(x.mean(0), fits.x, y.mean(0), fits.y)

    if problem.figure == "FID":
        return job(("numpy", "scipy"), partial(both, problem), frechet)
    return job(("numpy", "scipy"), partial(covariances, problem), frechet_of)


IMPLEMENTATIONS: dict[str, Callable[[Problem], Job]] = {
    "ebm_jax": ebm_jax,
    "torch-fidelity": torch_fidelity,
    "scipy sqrtm": scipy_sqrtm,
}


def main() -> None:
    """Serves the implementation named first, on the problem given second as JSON."""
    problem = Problem(**json.loads(sys.argv[2]))
    serve(partial(IMPLEMENTATIONS[sys.argv[1]], problem))


if __name__ == "__main__":
    main()
