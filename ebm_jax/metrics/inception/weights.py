"""InceptionV3 weights: reads the user's file, converts it once and caches the parameters.

The literature's FID, KID and Inception Scores use one set of weights, published with pytorch-fid
and, byte for byte the same, with torch-fidelity. This library neither contains nor downloads it.
An `Inception` records the name and checksum of its weights, to be reported with each metric.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import PyTree

from ebm_jax.nets.inception import SIDE, InceptionV3

NAME = "inception-v3-compat"  # torch-fidelity's name of the network
PUBLISHED = "pt_inception-2015-12-05-6726825d"  # its file name; below, its SHA-256
PUBLISHED_CHECKSUM = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
_FETCH = (
    f"fetch {PUBLISHED}.pth from the releases of mseitzer/pytorch-fid on GitHub (or the same file, "
    f"{PUBLISHED.replace('pt_', 'weights-')}.pth, from those of toshas/torch-fidelity), and give "
    "its path, here or in EBM_JAX_INCEPTION."
)


class Inception(NamedTuple):
    """The InceptionV3 network with its weights.

    Attributes:
        name: name of the network, "inception-v3-compat".
        weights: name of the published file, or "other weights".
        checksum: SHA-256 of the file that the weights came from.
        params: what `InceptionV3.apply` takes.
    """

    name: str
    weights: str
    checksum: str
    params: PyTree


@cache
def _shapes() -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter of the network, by "layer/parameter"."""
    image = jax.ShapeDtypeStruct((SIDE, SIDE, 3), jnp.float32)
    tree = jax.eval_shape(InceptionV3().init, jax.random.key(0), image)["params"]
    return {f"{layer}/{name}": leaf.shape for layer in tree for name, leaf in tree[layer].items()}


def _unflatten(flat: Mapping[str, np.ndarray]) -> PyTree:
    params: dict[str, dict[str, np.ndarray]] = {}
    for path, value in flat.items():
        layer, name = path.split("/")
        params.setdefault(layer, {})[name] = value
    return {"params": params}


def _check_entries(state_dict: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError unless a state dict has exactly the network's entries and shapes."""
    expected: dict[str, tuple[int, ...]] = {}
    for path, shape in _shapes().items():
        layer, name = path.split("/")
        if layer == "fc":
            expected["fc.weight" if name == "kernel" else "fc.bias"] = shape[::-1]
        elif name == "kernel":
            expected[f"{layer}.conv.weight"] = (shape[3], shape[2], shape[0], shape[1])
        else:
            expected |= {f"{layer}.bn.{entry}": shape for entry in BATCH_NORM}
    found = {name for name in state_dict if not name.endswith(".num_batches_tracked")}
    mend = f"give the state dict of {PUBLISHED}.pth, or of torch-fidelity's {NAME}."
    for names, what in ((expected.keys() - found, "no"), (found - expected.keys(), "a surplus")):
        if names:
            raise ValueError(
                f"`convert` got {what} entry {min(names)!r}, one of {len(names)} such: {mend}"
            )
    for name, shape in expected.items():
        if np.shape(state_dict[name]) != shape:
            raise ValueError(
                f"`convert` got {name!r} of shape {np.shape(state_dict[name])}, "
                f"expected {shape}: {mend}"
            )


def convert(state_dict: Mapping[str, np.ndarray]) -> PyTree:
    """Returns parameters of `InceptionV3` from a PyTorch state dict.

    Batch normalization with fixed statistics is affine, and is folded into its convolution:

        kernel = w g,   bias = b - m g,   g = gain / sqrt(v + .001)

    with its gain and bias b ("bn.weight", "bn.bias"), running mean m and variance v; in float64.

    Args:
        state_dict: arrays by PyTorch's names: "Mixed_5b.branch1x1.conv.weight",
            "Mixed_5b.branch1x1.bn.running_var", ..., "fc.weight", "fc.bias". Entries
            "num_batches_tracked" are ignored.

    Returns:
        What `InceptionV3.apply` takes, in float32 NumPy arrays.

    Raises:
        ValueError: for an entry that is missing, unknown or of the wrong shape, or for weights
            that are not finite.
    """
    _check_entries(state_dict)
    wide = {name: np.asarray(value, np.float64) for name, value in state_dict.items()}
    flat = {"fc/kernel": wide["fc.weight"].T, "fc/bias": wide["fc.bias"]}
    for layer in {path.split("/")[0] for path in _shapes()} - {"fc"}:
        gain, bias, mean, variance = (wide[f"{layer}.bn.{entry}"] for entry in BATCH_NORM)
        gain = gain / np.sqrt(variance + 0.001)
        flat[f"{layer}/kernel"] = wide[f"{layer}.conv.weight"].transpose(2, 3, 1, 0) * gain
        flat[f"{layer}/bias"] = bias - mean * gain
    for path, value in flat.items():
        if not np.isfinite(value).all():
            raise ValueError(f"`convert` got {path} that is not finite: fetch the weights again.")
    return _unflatten(
        {path: np.ascontiguousarray(value, np.float32) for path, value in flat.items()}
    )


def load_inception(path: str | os.PathLike[str] | None = None) -> Inception:
    """Returns InceptionV3 with the weights of a file, or with those in the cache.

    Converted parameters are cached, one file per checksum, in `EBM_JAX_CACHE`, else in `ebm_jax/`
    under XDG_CACHE_HOME or ~/.cache. A damaged cache file is rebuilt from `path`.

    Args:
        path: weights under PyTorch's names, as `.safetensors`, or as `.pth` or `.pt` (read by
            torch, tensors only: code in the file is not run). None means the file named by the
            environment variable `EBM_JAX_INCEPTION`, else the cache, which must hold the
            published weights or just one file.

    Raises:
        ValueError: for a missing file or other weights, a `.pth` without torch installed, no or
            several weights in the cache, or a cache that cannot be written.
    """
    folder = _cache_folder()
    if path is None:
        path = os.environ.get("EBM_JAX_INCEPTION") or None
    if path is None:
        return _from_cache(folder)
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"`load_inception` got {source}, which is no file: {_FETCH}")
    with source.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    cached = folder / f"{NAME}-{checksum[:16]}.safetensors"
    inception = _read_cached(cached)
    if inception is None:
        weights = PUBLISHED if checksum == PUBLISHED_CHECKSUM else "other weights"
        inception = Inception(NAME, weights, checksum, convert(_read(source)))
        _write_cached(cached, inception)
    return inception


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("EBM_JAX_CACHE") or Path(home, "ebm_jax"))


def _from_cache(folder: Path) -> Inception:
    files = sorted(folder.glob(f"{NAME}-*.safetensors"))
    files = [file for file in files if PUBLISHED_CHECKSUM[:16] in file.name] or files
    if not files:
        raise ValueError(f"`load_inception` got no path, and {folder} holds no weights: {_FETCH}")
    if len(files) > 1:
        raise ValueError(
            f"`load_inception` got no path, and {folder} holds {len(files)} weights, none of them "
            f"the published ones: give the path of one, or {_FETCH}"
        )
    inception = _read_cached(files[0])
    if inception is None:
        raise ValueError(
            f"`load_inception` found {files[0]} damaged: give the path of the weights that it "
            f"was made from, or {_FETCH}"
        )
    return inception


def _read(source: Path) -> Mapping[str, np.ndarray]:
    if source.suffix not in (".safetensors", ".pth", ".pt"):
        raise ValueError(f"`load_inception` got {source}: give a .safetensors, .pth or .pt file.")
    try:
        if source.suffix == ".safetensors":
            return safetensors.numpy.load_file(source)
        import torch

        tensors = torch.load(source, map_location="cpu", weights_only=True)
        return {name: tensor.numpy() for name, tensor in tensors.items()}
    except ImportError as error:
        raise ValueError(
            f"`load_inception` reads {source} by torch, which is not installed: install it once, "
            "for the cache needs it no more, or give the weights as .safetensors."
        ) from error
    except Exception as error:  # decoders raise anything when bytes are damaged
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"`load_inception` cannot read {source} ({why.rstrip('.')}): fetch it again."
        ) from error


def _digest(flat: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for path in sorted(flat):
        digest.update(path.encode() + flat[path].tobytes())
    return digest.hexdigest()


def _read_cached(file: Path) -> Inception | None:
    """Returns the cached network, or None if the file is missing, damaged or of another one."""
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            meta = opened.metadata() or {}
            paths = opened.keys()
            flat = {path: opened.get_tensor(path) for path in paths}
    except (OSError, safetensors.SafetensorError):
        return None
    whole = meta.get("content") == _digest(flat)
    if not whole or {path: value.shape for path, value in flat.items()} != _shapes():
        return None
    return Inception(meta["name"], meta["weights"], meta["checksum"], _unflatten(flat))


def _write_cached(file: Path, inception: Inception) -> None:
    """Writes the file atomically: under a temporary name, then renamed."""
    layers = inception.params["params"]
    flat = {f"{layer}/{name}": layers[layer][name] for layer in layers for name in layers[layer]}
    meta = {key: getattr(inception, key) for key in ("name", "weights", "checksum")}
    meta["content"] = _digest(flat)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(safetensors.numpy.save(flat, meta))
        partial.replace(file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise ValueError(
            f"`load_inception` cannot write {file} ({error.strerror}): set EBM_JAX_CACHE to a "
            "folder that you may write."
        ) from error
