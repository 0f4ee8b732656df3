"""InceptionV3 as FID, KID and the Inception Score use it: weights and outputs."""

from ebm_jax.metrics.inception.outputs import inception_outputs
from ebm_jax.metrics.inception.weights import Inception, load_inception

__all__ = ["Inception", "inception_outputs", "load_inception"]
