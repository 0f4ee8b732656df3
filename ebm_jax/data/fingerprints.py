"""Fingerprint of a set of images, by which a run notices that its data have changed."""

import hashlib
from typing import Any

import numpy as np

from ebm_jax.data.images import Images

SAMPLE = 256  # images of a prepared set covered by its checksum


def fingerprint(images: Images) -> dict[str, Any]:
    """Returns the count, shape, dtype and SHA-256 checksum of a set of images, as plain JSON.

    Equal sets give equal values; a changed pixel, label, class name or order changes the
    checksum. A prepared set may be larger than memory, so its checksum covers only the names
    and sizes of its record files, and up to 256 images with their labels, evenly spaced from
    the first to the last. It is the same whether the set is in memory or on disk.

    Examples:
        >>> from ebm_jax import data
        >>> found = data.fingerprint(data.load("digits"))
        >>> found["count"], found["shape"], len(found["checksum"])
        (1797, [8, 8, 1], 64)
    """
    pixels, labels = images.pixels, images.labels
    count = len(pixels)
    if images.files is None:
        rows: Any = slice(None)
    else:
        rows = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(int))
    digest = hashlib.sha256(repr((images.files, images.names, labels is None)).encode())
    digest.update(np.ascontiguousarray(pixels[rows]).data)
    if labels is not None:
        digest.update(np.ascontiguousarray(labels[rows], np.dtype("<i4")).data)
    return {
        "count": count,
        "shape": list(pixels.shape[1:]),
        "dtype": str(pixels.dtype),
        "labels": labels is not None,
        "values": images.values,
        "checksum": digest.hexdigest(),
    }
