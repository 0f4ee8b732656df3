r"""Evaluates generated images against real ones: FID, KID, Inception Score and others.

    python -m experiments.evaluate --samples DIR_OR_NPZ --reference DIR_OR_NPZ_OR_STATISTICS \
        --weights pt_inception-2015-12-05-6726825d.pth

Features are those of the InceptionV3 of published FIDs. Download its weights once, from the
releases of mseitzer/pytorch-fid on GitHub; later runs find them in the cache. Without weights,
`--features pixels` compares pixels, under that name.

There are three columns: the samples against the whole reference; as many samples as half of the
reference has, against that half; and the other half (real images) against the same half, which
is the floor. A metric depends on n, so compare it within its column, or with a published one of
the same n.

Extracting features takes about a sixth of a second per image on 2 cores.
"""

import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from ebm_jax import metrics
from ebm_jax.data import Pixels, load, to_unit
from ebm_jax.distributed import is_first
from ebm_jax.runs.command import command
from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.folder import as_json, write_whole
from ebm_jax.runs.judge import Embed, Outputs, class_figures, figures, pixel_features
from ebm_jax.runs.progress import progress
from ebm_jax.runs.run import Run
from ebm_jax.runs.stores import samples_of

PIXELS = "uint8; floats by round(127.5 (x + 1))"
TITLES = {"Frechet distance": "FID", "kernel distance": "KID", "class score": "IS"}


def main(
    run: Run,
    *,
    samples: str = "",
    reference: str = "",
    held_out: str = "",
    features: Literal["inception", "pixels"] = "inception",
    weights: str = "",
    batch_size: int = 32,
    save_statistics: str = "",
    seed: int = 0,
) -> None:
    """Evaluates images against real ones; prints a table and writes it as JSON.

    Args:
        run: the run, whose folder receives evaluation.json; it may be the run that drew the
            samples.
        samples: images to evaluate: a folder of images, an .npz, or the folder of a run.
        reference: real images, in the same forms, or an .npz of their statistics (mu and sigma),
            which give the FID only. "digits", "mnist" and "cifar10" are known by name.
        held_out: real images that the model was not trained on, if `reference` is its training
            data: shows whether samples are copies.
        features: features of InceptionV3, or the pixels themselves.
        weights: file of the InceptionV3 weights; by default EBM_JAX_INCEPTION, or the cache.
        batch_size: images per call of the network.
        save_statistics: an .npz file for the statistics of the reference.
        seed: seed of the halves and subsets.
    """
    for name, path in (("samples", samples), ("reference", reference)):
        if not path:
            raise RunError(f"--{name} is missing: give a folder of images or an .npz.")
    try:
        samples = samples_of(samples)
        protocol, embed = network(features, weights, batch_size)
        found, sizes = evaluate(
            samples, reference, held_out, save_statistics, protocol, embed, seed
        )
    except (ValueError, OSError) as error:
        raise RunError(str(error)) from error
    titles = TITLES if features == "inception" else {}
    table = {column: {title(name, titles): value for name, value in rows.items()}
             for column, rows in found.items()}  # fmt: skip
    if is_first():
        show(table)
    say(f"features: {protocol['features']}; a figure depends on n, which stands above it")
    packages = {name: version(name) for name in ("ebm_jax", "jax", "jaxlib", "numpy", "scipy")}
    record = {"figures": table, "protocol": protocol, **sizes, "seed": seed, "versions": packages}
    if is_first():
        run.folder.mkdir(parents=True, exist_ok=True)
        write_whole(run.folder / "evaluation.json", as_json(record))
    say(f"written to {run.folder / 'evaluation.json'}")


def network(features: str, weights: str, batch_size: int) -> tuple[dict[str, Any], Embed]:
    """Returns a description of the features for the record, and the function that extracts them."""
    if features == "pixels":
        return {"features": "pixels", "pixels": PIXELS}, pixel_features
    inception = metrics.load_inception(weights or None)
    protocol = {
        "features": inception.name,
        "weights": inception.weights,
        "checksum": inception.checksum,
        "resize": "299x299, bilinear as in TensorFlow 1, no antialias",
        "pixels": PIXELS,
    }

    def embed(pixels: Pixels) -> Outputs:
        with progress("features", len(pixels)) as advance:
            done = 0

            def tell(now: int) -> None:
                nonlocal done
                advance(now - done)
                done = now

            some = (pixels[i : i + 1024] for i in range(0, len(pixels), 1024))  # may be on disk
            outputs = metrics.inception_outputs(
                inception, some, batch_size=min(batch_size, len(pixels)), progress=tell
            )
        return Outputs(np.asarray(outputs.features), np.asarray(outputs.logits_unbiased))

    return protocol, embed


def evaluate(
    samples: str,
    reference: str,
    held_out: str,
    save_statistics: str,
    protocol: dict[str, Any],
    embed: Embed,
    seed: int,
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Returns the columns of the table, and the number and size of the images."""
    drawn = load(samples).pixels
    sizes: dict[str, Any] = {"samples": {"path": samples, "shape": drawn.shape}}
    if is_statistics(reference):
        if save_statistics or held_out:
            raise RunError(
                "--save-statistics and --held-out need the images: "
                f"{reference} holds statistics; give images as --reference."
            )
        known = metrics.load_statistics(reference)
        x = embed(drawn)
        own = metrics.Statistics(metrics.moments(x.features), protocol)
        distance = metrics.frechet_distance_of_statistics(own, known)
        sizes["reference"] = {"path": reference, "n": known.moments.n}
        column = f"samples, n = {len(drawn)} against {known.moments.n or 'unknown'}"
        return {column: {"Frechet distance": distance} | class_figures(x)}, sizes
    real = load(reference).pixels
    sizes["reference"] = {"path": reference, "shape": real.shape}
    same_size(samples, drawn, reference, real)
    x, y = embed(drawn), embed(real)
    if save_statistics and is_first():
        metrics.save_statistics(save_statistics, metrics.moments(y.features), protocol)
    found = columns(x, y, seed)
    if held_out:
        unseen = load(held_out).pixels
        same_size(held_out, unseen, reference, real)
        near = jax.jit(metrics.memorization)(
            *(jnp.asarray(to_unit(pixels[:])) for pixels in (drawn, unseen, real))
        )
        first = next(iter(found.values()))
        first["pixel distance to the reference, samples"] = float(near.samples)
        first["pixel distance to the reference, held out"] = float(near.held_out)
    return found, sizes


def columns(x: Outputs, y: Outputs, seed: int) -> dict[str, dict[str, float]]:
    """Returns the three columns: samples against all, samples against half, real against half."""
    n, m = len(x.features), len(y.features)
    whole = figures(x, y, seed=seed)
    if min(n, m) >= 4 * x.features.shape[1]:  # FID is then linear in 1/n
        limit = metrics.infinite_frechet_distance(jax.random.key(seed), x.features, y.features)
        whole["Frechet distance at infinite n"] = float(limit.value)
    found = {f"samples, n = {n} against {m}": whole}
    k = min(n, m // 2)
    if k >= 2:
        order = np.random.default_rng(seed).permutation(m)
        some, others = (pick(y, rows) for rows in (order[:k], order[k:]))
        against = f"n = {k} against {m - k}"
        found[f"samples, {against}"] = figures(pick(x, np.arange(k)), others, seed=seed)
        found[f"real, {against}"] = figures(some, others, seed=seed)
    return found


def pick(outputs: Outputs, rows: np.ndarray) -> Outputs:
    """Selects rows."""
    logits = None if outputs.logits is None else outputs.logits[rows]
    return Outputs(outputs.features[rows], logits)


def is_statistics(path: str) -> bool:
    """Returns True for an archive of moments or features rather than of images."""
    if not (path.endswith(".npz") and Path(path).is_file()):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return not {"mu.npy", "pool_3.npy"}.isdisjoint(archive.namelist())
    except (
        zipfile.BadZipFile,
        OSError,
        ValueError,
    ):  # a damaged file, on which `load` raises a clear error
        return False


def same_size(name: str, x: Pixels, other: str, y: Pixels) -> None:
    """Refuses images of two sizes, whose features would differ by the resizing alone."""
    if x.shape[1:] != y.shape[1:]:
        raise RunError(
            f"{name} holds images of {x.shape[1:]} and {other} of {y.shape[1:]}: "
            "bring both to one size in the same way."
        )


def title(name: str, titles: dict[str, str]) -> str:
    """Returns a metric's name, with its abbreviation for Inception features."""
    for full, short in titles.items():
        name = name.replace(full, short)
    return name


def show(table: dict[str, dict[str, float]]) -> None:
    """Prints the columns side by side."""
    printed = Table(box=None)
    printed.add_column(no_wrap=True)
    for column in table:
        printed.add_column(column)
    for name in dict.fromkeys(name for rows in table.values() for name in rows):
        cells = (f"{rows[name]:.5g}" if name in rows else "-" for rows in table.values())
        printed.add_row(name, *cells)
    Console(width=120).print(printed)


if __name__ == "__main__":
    command(main)
