"""Draws samples from the model of a run, finished or running, with any suitable sampler.

    ebm-jax sample runs/edm --num 1000 --out digits            PNGs in the folder digits
    ebm-jax sample runs/edm --solver dpm_solver_pp_2m --steps 10 --out digits.npz

Sample i depends only on the seed and on i. Samples are written as they are drawn. The same
command resumes after an interruption, and with a larger --num it adds to the samples there.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from ebm_jax.data import to_uint8
from ebm_jax.keys import example_keys
from ebm_jax.runs.command import tool
from ebm_jax.runs.endings import RunError, say
from ebm_jax.runs.flags import UNSTABLE, check_flags
from ebm_jax.runs.models import FILE, Model, load
from ebm_jax.runs.plain import to_plain
from ebm_jax.runs.progress import progress
from ebm_jax.runs.solvers import sampler_for
from ebm_jax.runs.stores import is_image, open_store
from ebm_jax.sharding import spread


def main(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    num: int = 50,
    out: str = "",
    solver: str = "",
    steps: int | None = None,
    levels: tuple[float, float] | None = None,
    label: str | None = None,
    guidance_scale: float = 1.0,
    interval: tuple[float, float] = (0.0, float("inf")),
    batch_size: int = 100,
    seed: int = 0,
) -> None:
    """Draws samples from the model of a run.

    Args:
        run: the run's folder, or its model file.
        num: total number of samples.
        out: a folder for PNGs, or a file that ends in .npz; by default RUN-samples, or
            RUN-samples.npz if the samples are not images.
        solver: ancestral, ddim, dpm_solver_pp_2m, edm, euler, euler_maruyama, heun,
            predictor_corrector, annealed (Langevin) or flow (adaptive ODE); by default the
            model's own.
        steps: number of noise levels that the sampler visits, or of steps of an energy's
            chains; by default that of the model's own sampler.
        levels: lowest and highest noise level; by default those of the model's sampler.
        label: class to draw, by name or number.
        guidance_scale: scale of classifier-free guidance towards the label; 1 means no guidance.
        interval: noise levels between which guidance acts.
        batch_size: samples drawn at once.
        seed: seed of the samples.
    """
    check_flags({"num": num, "batch_size": batch_size, "seed": seed})
    model = load(run)
    sampler = sampler_for(model, solver, steps, levels)
    model = model._replace(sampler=sampler)
    options: dict[str, Any] = {}
    if model.wrap is not None:
        options = {
            "label": class_of(model, label),
            "guidance_scale": guidance_scale,
            "interval": interval,
        }
    elif label is not None or guidance_scale != 1:
        raise RunError("this model is an energy without labels: leave out --label and guidance.")
    place = place_for(Path(run), out, model.shape)
    config = {
        "model": {"checksum": checksum(file_of(run).read_bytes())},
        "sampler": described(sampler),
        "seed": seed,
        **{name: str(value) for name, value in options.items()},
    }
    jax.eval_shape(lambda key: model.draw(key, **options), jax.random.key(0))  # raises early
    store = open_store(place, config, model.shape)

    def draw(key: jax.Array) -> jax.Array:
        return model.draw(key, **options)

    draw_missing(draw, store, num, min(batch_size, num), seed, as_image=is_image(model.shape))
    store.finish()
    say(f"{len(store.there)} samples in {place}")


def draw_missing(
    draw: Any, store: Any, num: int, batch_size: int, seed: int, *, as_image: bool
) -> None:
    """Draws those of the first `num` samples that a store lacks, and adds them batch by batch.

    Batches begin at multiples of their size, wherever an earlier call ended. The same program
    therefore draws the same samples from the same batch.

    Raises:
        RunError: Some samples are not finite; the message counts them.
    """
    missing = np.setdiff1d(np.arange(num), sorted(store.there))
    many = spread(draw)
    with progress("sample", num, num - len(missing)) as advance:
        for first in np.unique(missing // batch_size) * batch_size:
            index = missing[(missing >= first) & (missing < first + batch_size)]
            keys = example_keys(jax.random.key(seed), int(first) + jnp.arange(batch_size))
            drawn = np.asarray(many(keys))[index - first]
            bad = int(np.sum(~np.isfinite(drawn).reshape(len(drawn), -1).all(1)))
            if bad:
                raise RunError(
                    f"{bad} of the {len(index)} samples from {index[0]} on are not finite, after "
                    f"{len(store.there)} that were written: {UNSTABLE}."
                )
            store.add(index, to_uint8(drawn) if as_image else drawn)
            advance(len(index))


def place_for(run: Path, out: str, shape: tuple[int, ...]) -> Path:
    """Returns the path for the samples.

    Raises:
        RunError: The path is inside the run's own folder.
    """
    home = run if run.is_dir() else run.parent
    is_run = run.is_dir() or (home / "config.json").exists()
    name = home.resolve().name if is_run else run.stem
    default = f"{name}-samples" + ("" if is_image(shape) else ".npz")
    place = Path(out) if out else (home / ".." / default if is_run else home / default)
    place = Path(os.path.normpath(place))
    if is_run and home.resolve() in (place.resolve(), *place.resolve().parents):
        raise RunError(f"--out got {place}, in the folder of the run itself: give another place.")
    return place


def class_of(model: Model, label: str | None) -> int | None:
    """Returns the number of the class given by --label, or None without one.

    Raises:
        ModelError: The model has no such class.
    """
    if label is None:
        return None
    is_name = label in (model.names or ())
    found = model.class_of(int(label) if label.isdecimal() and not is_name else label)
    return int(found)


def described(sampler: Any) -> dict[str, Any]:
    """Returns a sampler's name, its number of levels, and a checksum of all its settings."""
    plain = to_plain(sampler)
    solver = getattr(sampler, "solver", sampler)
    solver = getattr(solver, "func", solver)
    name = getattr(solver, "__name__", type(solver).__name__)
    visited = getattr(sampler, "times", getattr(sampler, "sigmas", None))
    return {
        "name": name,
        "levels": None if visited is None else len(visited),
        "checksum": checksum(json.dumps(plain).encode()),
    }


def file_of(run: str) -> Path:
    """Returns the path of a run's model file."""
    return Path(run) / FILE if Path(run).is_dir() else Path(run)


def checksum(content: bytes) -> str:
    """Returns the SHA-256 checksum in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    tool(main)
