"""Moments of features on disk, with the protocol that they were taken by.

A Frechet distance between features of two networks, two resizes or two roundings of pixels
is a number without a meaning, and nothing in it shows. So the file says:

    mu, sigma    mean and covariance (with n - 1), the names that most such files have
    n            rows that they were taken from
    protocol     JSON: what the features are, such as network, checksum, resize, rounding

Files of other packages with mu and sigma alone, or with all features under pool_3, are read
too; what they do not say is None, with a warning.
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
_ROUND_OFF = 1e-5  # of a covariance in float32, relative to its largest entry or its trace
Protocol = Mapping[str, str | int | float | bool | None]


class Statistics(NamedTuple):
    """Moments, and what their features are.

    Attributes:
        moments: n is None where the file does not say.
        protocol: None where the file does not say; if you know it, `_replace` it.
    """

    moments: Moments
    protocol: Protocol | None


def save_statistics(path: str | Path, moments: Moments, protocol: Protocol) -> None:
    """Write moments and their protocol to an .npz file.

    Args:
        path: the file, with its ending .npz.
        moments: of one set of features.
        protocol: what another must do to get features that may be compared with these.

    Raises:
        ValueError: for another ending, moments of unknown size, or an empty protocol.
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
    """Read what `save_statistics` wrote, or a file of another package.

    Sizes are compared with the memory that is free before anything is read.

    Raises:
        DataError: for a file that is damaged or has no mu and sigma, where they do not fit
            together, or where sigma is no covariance: symmetric, without negative eigenvalues.
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
    """`frechet_distance_of_moments`, unless the protocols are known to differ.

    A protocol that is not known is taken on trust: `load_statistics` has warned of it.

    Raises:
        ValueError: for two protocols, with the entries in which they differ.
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
    """Those arrays that `load_statistics` knows, after their headers."""
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
        check_fits(path, 3 * sum(sizes))  # as they are, in float64, and to be checked
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
    """Whether no eigenvalue is below -_ROUND_OFF of their sum, by a Cholesky factor."""
    shift = _ROUND_OFF * trace + np.finfo(np.float64).tiny  # so that zero is a covariance
    try:
        np.linalg.cholesky(covariance + shift * np.eye(len(covariance)))
    except np.linalg.LinAlgError:
        return False
    return True
