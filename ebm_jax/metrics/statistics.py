"""FID statistics on disk: moments of features with the protocol that produced them.

A Frechet distance between features of different networks, resizes or roundings of pixels is
meaningless, and its value does not show it. So the file records:

    mu, sigma    mean and covariance (with n - 1), under the names that most such files use
    n            number of rows
    protocol     JSON that describes the features: network, checksum, resize, rounding, ...

Files of other packages that hold only mu and sigma, or all features under pool_3, are read too.
What they do not record is None, with a warning.
"""

import json
import math
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ebm_jax.data.arrays import read_array, read_headers
from ebm_jax.data.images import reading, wrong
from ebm_jax.data.memory import check_fits
from ebm_jax.metrics.frechet import frechet_distance_of_moments
from ebm_jax.metrics.moments import Moments, moments_for

_EXPECTED = "an .npz with mu and sigma, or with features under pool_3"
_ROUND_OFF = 1e-5  # of a float32 covariance, relative to its largest entry or its trace
Protocol = Mapping[str, str | int | float | bool | None]


class Statistics(NamedTuple):
    """Moments of features, with a description of the features.

    Attributes:
        moments: moments of the features; their n is None if the file does not record it.
        protocol: description of the features, or None if the file does not record it. If you
            know it, set it with `_replace`.
    """

    moments: Moments
    protocol: Protocol | None


def save_statistics(path: str | Path, moments: Moments, protocol: Protocol) -> None:
    """Writes moments and their protocol to an .npz file.

    Args:
        path: the file, with the extension .npz.
        moments: moments of one set of features.
        protocol: everything that somebody needs to compute comparable features.

    Raises:
        ValueError: for another extension, moments of unknown size, or an empty protocol.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from ebm_jax import metrics
        >>> moments = metrics.moments(np.random.default_rng(0).normal(size=(10, 2)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     metrics.save_statistics(f"{folder}/cats.npz", moments, {"network": "mine"})
        ...     metrics.load_statistics(f"{folder}/cats.npz").protocol
        {'network': 'mine'}
    """
    if Path(path).suffix != ".npz":
        raise ValueError(f"`save_statistics` got the path {path}: end it in .npz.")
    if moments.n is None or not protocol:
        raise ValueError(
            f"`save_statistics` got n={moments.n} and the protocol {dict(protocol)}: "
            "say both, since no later comparison can be trusted without."
        )
    text = json.dumps(dict(protocol), sort_keys=True)
    np.savez(path, mu=moments.mean, sigma=moments.covariance, n=moments.n, protocol=text)


def load_statistics(path: str | Path) -> Statistics:
    """Reads statistics from a file of `save_statistics` or of another package.

    The sizes are compared with the free memory before anything is read.

    Args:
        path: an .npz file with mu and sigma, or with features under pool_3.

    Raises:
        DataError: for a file that is damaged, has neither mu and sigma nor pool_3, or whose mu
            and sigma do not fit together; or if sigma is not symmetric and positive
            semidefinite, up to round-off.
    """
    path = Path(path)
    with reading(path, _EXPECTED, "give another file or save it again"):
        arrays = _read_arrays(path)
        if "pool_3" in arrays:
            moments = moments_for("load_statistics", arrays["pool_3"].astype(np.float32))
        else:
            mean, covariance = (arrays[name].astype(np.float64) for name in ("mu", "sigma"))
            moments = Moments(_count(path, arrays.get("n")), mean, covariance)
        protocol = _protocol(path, arrays.get("protocol"))
        _check_moments(path, moments)
    unknown = [word for word, value in (("n", moments.n), ("protocol", protocol)) if value is None]
    if unknown:
        warnings.warn(
            f"{path} does not say its {' and '.join(unknown)}: whether a distance to it means "
            "anything is for you to know.",
            stacklevel=2,
        )
    return Statistics(moments, protocol)


def frechet_distance_of_statistics(a: Statistics, b: Statistics) -> float:
    """Returns the Frechet distance (FID) of two statistics, and refuses different protocols.

    An unknown protocol is trusted, since `load_statistics` has warned about it.

    Args:
        a: statistics of the first set.
        b: statistics of the second set.

    Raises:
        ValueError: for different protocols (the message lists the entries that differ), or
            moments of different widths.
    """
    if a.protocol is not None and b.protocol is not None and a.protocol != b.protocol:
        names = sorted({*a.protocol, *b.protocol})
        pairs = {name: (a.protocol.get(name), b.protocol.get(name)) for name in names}
        differ = ", ".join(f"{name}: {u!r} and {v!r}" for name, (u, v) in pairs.items() if u != v)
        raise ValueError(
            f"`frechet_distance_of_statistics` got statistics of two protocols ({differ}): "
            "take both from the same features of images prepared in the same way."
        )
    return frechet_distance_of_moments(a.moments, b.moments)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays that `load_statistics` knows, after a check of their headers."""
    with zipfile.ZipFile(path) as archive:
        headers = read_headers(archive, path)
        names = ["pool_3"] if "pool_3" in headers else ["mu", "sigma"]
        if not set(names) <= set(headers):
            raise wrong(f"{path} holds {sorted(headers)}", _EXPECTED, "give another file")
        for name in names:
            if headers[name].dtype.kind not in "fiu":
                found = f"{path} has {name} of dtype {headers[name].dtype}"
                raise wrong(found, "real numbers", "save it again")
        names += [name for name in ("n", "protocol") if name in headers]
        sizes = [math.prod(headers[name].shape) * headers[name].dtype.itemsize for name in names]
        check_fits(path, 3 * sum(sizes))  # as stored, in float64, and a copy for the checks
        return {name: read_array(archive, name) for name in names}


def _count(path: Path, n: np.ndarray | None) -> int | None:
    if n is None:
        return None
    if n.shape != () or n.dtype.kind not in "iu" or n < 2:
        raise wrong(f"{path} has n = {n}", "a whole number of 2 or more", "save it again")
    return int(n)


def _protocol(path: Path, text: np.ndarray | None) -> Protocol | None:
    if text is None:
        return None
    protocol = json.loads(str(text))
    kinds = str | int | float | bool | None
    if not (isinstance(protocol, dict) and all(isinstance(v, kinds) for v in protocol.values())):
        found = f"{path} has the protocol {text!s:.60}"
        raise wrong(found, "an object of JSON with plain values", "save it again")
    return protocol


def _check_moments(path: Path, moments: Moments) -> None:
    mean, covariance = moments.mean, moments.covariance
    if mean.ndim != 1 or not mean.size or covariance.shape != (mean.size, mean.size):
        found = f"{path} has mu of shape {mean.shape} and sigma of shape {covariance.shape}"
        raise wrong(found, "(d,) and (d, d)", "save it again")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise wrong(
            f"{path} has numbers that are not finite", "mean and covariance", "save it again"
        )
    trace, asymmetry = np.trace(covariance), np.abs(covariance - covariance.T).max()
    if asymmetry > _ROUND_OFF * np.abs(covariance).max() or not _is_positive(covariance, trace):
        found = f"{path} has a sigma that is not symmetric or has negative eigenvalues"
        raise wrong(found, "a covariance", "save it again")


def _is_positive(covariance: np.ndarray, trace: float) -> bool:
    """Returns True if no eigenvalue is below -_ROUND_OFF times their sum, by Cholesky."""
    shift = _ROUND_OFF * trace + np.finfo(np.float64).tiny  # accepts the zero matrix
    try:
        np.linalg.cholesky(covariance + shift * np.eye(len(covariance)))
    except np.linalg.LinAlgError:
        return False
    return True
