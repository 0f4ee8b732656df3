"""Metrics of samples and of Markov chains: FID, KID, Inception Score, MMD, KSD, R-hat, ESS.

Report the number of samples and the feature network with every value. The three names of
`metrics.inception` are imported on first use, because its network needs flax.
"""

from typing import TYPE_CHECKING, Any

from ebm_jax.metrics.chains import (
    effective_sample_size,
    integrated_autocorrelation,
    rank_r_hat,
    split_r_hat,
)
from ebm_jax.metrics.discrepancy import squared_mmd, squared_mmd_with_error
from ebm_jax.metrics.distances import (
    Memorization,
    median_distance,
    memorization,
    nearest_distance,
    sliced_wasserstein,
)
from ebm_jax.metrics.frechet import (
    frechet_distance,
    frechet_distance_of_moments,
    infinite_frechet_distance,
)
from ebm_jax.metrics.health import Health, energy_health
from ebm_jax.metrics.inception_score import InceptionScore, inception_score
from ebm_jax.metrics.kernel_inception import (
    cubic,
    general_kernel_distance,
    kernel_distance,
    subset_distances,
)
from ebm_jax.metrics.manifold import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    precision_recall,
)
from ebm_jax.metrics.moments import Moments, merge_moments, moments
from ebm_jax.metrics.statistics import (
    Statistics,
    frechet_distance_of_statistics,
    load_statistics,
    save_statistics,
)
from ebm_jax.metrics.stein import (
    inverse_multiquadric,
    squared_exponential,
    squared_stein_discrepancy,
)

if TYPE_CHECKING:
    from ebm_jax.metrics.inception import Inception, inception_outputs, load_inception

__all__ = [
    "DensityCoverage",
    "Health",
    "Inception",
    "InceptionScore",
    "Memorization",
    "Moments",
    "PrecisionRecall",
    "Statistics",
    "cubic",
    "density_coverage",
    "effective_sample_size",
    "energy_health",
    "frechet_distance",
    "frechet_distance_of_moments",
    "frechet_distance_of_statistics",
    "general_kernel_distance",
    "inception_outputs",
    "inception_score",
    "infinite_frechet_distance",
    "integrated_autocorrelation",
    "inverse_multiquadric",
    "kernel_distance",
    "load_inception",
    "load_statistics",
    "median_distance",
    "memorization",
    "merge_moments",
    "moments",
    "nearest_distance",
    "precision_recall",
    "rank_r_hat",
    "save_statistics",
    "sliced_wasserstein",
    "split_r_hat",
    "squared_exponential",
    "squared_mmd",
    "squared_mmd_with_error",
    "squared_stein_discrepancy",
    "subset_distances",
]


def __getattr__(name: str) -> Any:
    if name in ("Inception", "inception_outputs", "load_inception"):
        from ebm_jax.metrics import inception

        return getattr(inception, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
