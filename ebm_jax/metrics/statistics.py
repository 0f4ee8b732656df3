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
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ebm_jax.metrics.frechet import frechet_distance_of_moments
from ebm_jax.metrics.moments import Moments, moments_for

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

    Raises:
        ValueError: for a file without mu and sigma, or where they do not fit together.
    """
    with np.load(path, allow_pickle=False) as file:
        if "pool_3" in file:
            moments = moments_for("load_statistics", file["pool_3"].astype(np.float32))
        elif "mu" in file and "sigma" in file:
            n = int(file["n"]) if "n" in file else None
            moments = Moments(n, file["mu"].astype(np.float64), file["sigma"].astype(np.float64))
        else:
            raise ValueError(
                f"`load_statistics` found {sorted(file)} in {path}: "
                "give a file with mu and sigma, or with features under pool_3."
            )
        protocol = json.loads(str(file["protocol"])) if "protocol" in file else None
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


def _check_moments(path: str | Path, moments: Moments) -> None:
    mean, covariance = moments.mean, moments.covariance
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
        raise ValueError(
            f"`load_statistics` found mu of shape {mean.shape} and sigma of shape "
            f"{covariance.shape} in {path}, expected (d,) and (d, d): the file is damaged."
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(
            f"`load_statistics` found numbers that are not finite in {path}: the file is damaged."
        )
