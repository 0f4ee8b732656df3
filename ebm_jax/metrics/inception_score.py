"""The inception score of class probabilities, and the two things that it multiplies.

    score = exp(E KL(p(y|x) || p(y))) = exp(H(y) - E H(y|x)),   p(y) = E p(y|x)
    diversity = exp(H(y))         classes that the set is spread over: 1 to their number
    sharpness = exp(-E H(y|x))    1 where every image has one class, less where it has none

so that score = diversity * sharpness exactly, and a high score says which it owes to which.
It knows no real data: a set with one perfect image of each class has the highest score.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float
from numpy import ndarray

from ebm_jax._checks import check_count
from ebm_jax.metrics.features import Features, check_finite, check_rows

BLOCK = 64  # rows at once: half a megabyte of logits, which stays in the cache


class InceptionScore(NamedTuple):
    """The score as the literature quotes it, and the factors of that of the whole set.

    Attributes:
        mean: over splits of the set.
        standard_deviation: over splits (with their number, not less one).
        score: of the whole set at once, diversity * sharpness; above the mean over splits.
        diversity: exp of the entropy of the mean of the class probabilities.
        sharpness: exp of minus the mean of their entropies.
    """

    mean: float
    standard_deviation: float
    score: float
    diversity: float
    sharpness: float


def inception_score(logits: Features, *, num_splits: int = 10) -> InceptionScore:
    """The inception score of logits, in float64.

    Args:
        logits: log-probabilities of classes up to a constant, one row an image. Split
            i is rows i n / num_splits up to (i + 1) n / num_splits, in their order:
            shuffle the rows first if they come sorted, by class above all.
        num_splits: parts of the set; the mean over 10 of 50,000 images is usual.

    Raises:
        ValueError: for fewer rows than splits, or logits with nan or +infinity.

    References:
        Salimans et al., arXiv:1606.03498; what it does not see: arXiv:1801.01973.
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
    """Over rows: of the class probabilities, and of their entropies.

    With e = exp(l - max l) and s = sum e, the entropy is log s - sum e (l - max l) / s:
    one exponential a number. It is nan if a logit is.
    """
    probabilities, entropy = np.zeros(logits.shape[1]), 0.0
    for start in range(0, logits.shape[0], BLOCK):
        shifted = np.array(logits[start : start + BLOCK], np.float64)
        with np.errstate(invalid="ignore"):  # infinity less infinity is the caller's to refuse
            shifted -= np.max(shifted, 1, keepdims=True)
        weights = np.exp(shifted)
        inverse = 1 / np.sum(weights, 1)
        np.maximum(shifted, -1e3, out=shifted)  # exp is 0 there: 0 log 0 = 0
        probabilities += inverse @ weights
        entropy -= np.vdot(inverse, np.einsum("nc,nc->n", weights, shifted))
        entropy -= np.sum(np.log(inverse))
    return probabilities, float(entropy)


def _entropy(probabilities: Float[ndarray, "n classes"]) -> Float[ndarray, " n"]:
    """-sum p log p of every row, with 0 log 0 = 0."""
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
    return -np.sum(probabilities * logs, -1)
