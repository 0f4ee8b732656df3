"""The Inception Score of class probabilities, and its two factors.

    score = exp(E KL(p(y|x) || p(y))) = exp(H(y) - E H(y|x)),   p(y) = E p(y|x)
    diversity = exp(H(y))         effective number of classes in the set, from 1 to all of them
    sharpness = exp(-E H(y|x))    1 if every image has one certain class, smaller otherwise

so score = diversity * sharpness exactly, and the factors explain a high score. The score uses no
real data: a set with one perfect image per class has the highest possible score.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float
from numpy import ndarray

from ebm_jax._checks import check_count
from ebm_jax.metrics.features import Features, check_finite, check_rows

BLOCK = 64  # rows at once: half a megabyte of logits, which fits in the cache


class InceptionScore(NamedTuple):
    """The Inception Score as the literature reports it, and the score of the whole set.

    Attributes:
        mean: mean of the score over splits of the set.
        standard_deviation: standard deviation over splits (normalized by their number).
        score: score of the whole set at once, diversity * sharpness; above the mean over splits.
        diversity: exponential of the entropy of the mean class probabilities.
        sharpness: exponential of minus the mean entropy of the class probabilities.
    """

    mean: float
    standard_deviation: float
    score: float
    diversity: float
    sharpness: float


def inception_score(logits: Features, *, num_splits: int = 10) -> InceptionScore:
    """Returns the Inception Score of logits, in float64.

    Args:
        logits: log-probabilities of classes up to a constant, (n, classes), one row per image.
            Split i is rows i n / num_splits up to (i + 1) n / num_splits in the given order:
            shuffle the rows first if they are sorted, especially by class.
        num_splits: number of splits; the mean over 10 splits of 50,000 images is usual.

    Raises:
        ValueError: for fewer rows than splits, fewer than 2 rows, or logits with nan or
            +infinity.

    References:
        Salimans et al., arXiv:1606.03498; limitations: arXiv:1801.01973.

    Examples:
        Certain images of 5 classes, equally often, have score 5.

        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> logits = np.tile(100.0 * np.eye(5), (20, 1))
        >>> result = metrics.inception_score(logits)
        >>> round(result.mean, 4), round(result.diversity, 4), round(result.sharpness, 4)
        (5.0, 5.0, 1.0)
    """
    check_count("inception_score", num_splits=num_splits)
    check_rows("inception_score", logits, least=max(2, num_splits), what="logits")
    n = logits.shape[0]
    edges = [i * n // num_splits for i in range(num_splits + 1)]
    sums = [_sums(logits[a:b]) for a, b in itertools.pairwise(edges)]
    probabilities, entropies = np.stack([p for p, _ in sums]), np.array([h for _, h in sums])
    check_finite("inception_score", entropies, what="logits")
    sizes = np.diff(edges)
    conditional = entropies / sizes
    scores = np.exp(_entropy(probabilities / sizes[:, None]) - conditional)
    [diversity] = np.exp(_entropy(np.sum(probabilities, 0)[None] / n))
    sharpness = np.exp(-np.sum(entropies) / n)
    figures = np.mean(scores), np.std(scores), diversity * sharpness, diversity, sharpness
    return InceptionScore(*map(float, figures))


def _sums(logits: ndarray | Array) -> tuple[Float[ndarray, " classes"], float]:
    """Returns sums over rows of the class probabilities and of their entropies.

    With e = exp(l - max l) and s = sum e, the entropy is log s - sum e (l - max l) / s, which
    takes one exponential per logit. It is nan if a logit is nan.
    """
    probabilities, entropy = np.zeros(logits.shape[1]), 0.0
    for start in range(0, logits.shape[0], BLOCK):
        shifted = np.array(logits[start : start + BLOCK], np.float64)
        with np.errstate(invalid="ignore"):  # the caller rejects infinity - infinity
            shifted -= np.max(shifted, 1, keepdims=True)
        weights = np.exp(shifted)
        inverse = 1 / np.sum(weights, 1)
        np.maximum(shifted, -1e3, out=shifted)  # exp is 0 there: 0 log 0 = 0
        probabilities += inverse @ weights
        entropy -= np.vdot(inverse, np.einsum("nc,nc->n", weights, shifted))
        entropy -= np.sum(np.log(inverse))
    return probabilities, float(entropy)


def _entropy(probabilities: Float[ndarray, "n classes"]) -> Float[ndarray, " n"]:
    """Returns -sum p log p of every row, with 0 log 0 = 0."""
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
    return -np.sum(probabilities * logs, -1)
