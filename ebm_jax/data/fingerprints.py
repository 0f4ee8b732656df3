"""What identifies a set of images, so that a changed set is noticed."""

import hashlib
from typing import Any

import numpy as np

from ebm_jax.data.readers import Images

SAMPLE = 256  # images of a prepared set that its checksum covers


def fingerprint(images: Images) -> dict[str, Any]:
    """Returns the count, shape, type and SHA-256 checksum of a set of images, as plain JSON.

    Equal sets give equal values; another pixel, label, name of a class or order gives another
    checksum. A prepared set may be larger than memory. It gives the same values in memory and
    on disk: its checksum covers the names and sizes of its record files, and up to 256 images
    with their labels, evenly spaced from the first to the last.
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
