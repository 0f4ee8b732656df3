"""Rebuilds the gallery: runs every experiment, and writes docs/gallery.md and its pictures.

    python docs/gallery.py            all of them, about 40 minutes on 2 cores
    python docs/gallery.py edm ddpm   only these; the page takes the others from earlier calls

Runs are kept in runs/gallery, so a second call repeats none of them.
"""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import ebm_jax

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs" / "gallery"
RECORD = ROOT / "docs" / "gallery" / "results.json"
SHOWN = 6  # numbers per experiment
# name, flags, picture in the run's folder, caption
EXPERIMENTS = (
    ("energy", "", "panels", "An energy of eight Gaussians by denoising score matching (DSM)."),
    ("energy", "--data checkerboard", "panels", "The same with sharp edges."),
    ("edm", "--conditional", "classes", "Diffusion by class (EDM); this is `make demo`."),
    ("ncsn", "", "samples", "A noise-conditional score network (NCSN), annealed Langevin."),
    ("ddpm", "", "samples", "DDPM: the epsilon loss and ancestral sampling."),
    ("score_sde", "", "samples", "A score SDE by predictor-corrector."),
    ("energy_cd", "", "samples", "Images by persistent contrastive divergence (PCD)."),
    ("inpaint", "", "upper_half_diffusion_posterior_sampling", "Lower halves from upper (DPS)."),
    ("schedule_swap", "", "vp", "One network sampled along five noise processes."),
    ("likelihood_bounds", "", "bound", "Bits per dimension: exact flow and variational bound."),
    ("solvers", "", "solvers", "The error of nine samplers against evaluations."),
    ("mode_weights", "", "samples", "Langevin forgets the weights of modes; tempering does not."),
    ("mixing", "", "mixing", "Random walk, MALA and HMC as the dimension grows."),
    ("nce_logz", "", "error", "log Z by noise-contrastive estimation (NCE), beside theory."),
)


def main(only: list[str]) -> None:
    """Runs the experiments that are missing and writes the page."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name, flags, picture, _ in EXPERIMENTS:
        slug = slug_of(name, flags)
        if (only and slug not in only) or (not only and slug in record):
            continue
        folder = RUNS / slug
        start = time.time()
        command = [sys.executable, "-m", f"experiments.{name}", *flags.split(), "--out", folder]
        subprocess.run(command, cwd=ROOT, check=True)
        results = json.loads((folder / "results.json").read_text())
        record[slug] = {"minutes": round((time.time() - start) / 60, 1), "results": results}
        shrink(folder / f"{picture}.png", RECORD.parent / f"{slug}.png")
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    (ROOT / "docs" / "gallery.md").write_text(page(record))
    if not only or {"energy", "edm-conditional"} & set(only):
        hero(RUNS / "energy", RUNS / "edm-conditional").savefig(ROOT / "docs" / "hero.png", dpi=110)


def hero(energy_run: Path, digits_run: Path) -> Figure:
    """Draws the README's picture: an energy with samples, digits from noise, digits by class."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    plane, ways, classes = figure.subplots(1, 3)
    energy_fn = ebm_jax.load(energy_run).energy
    side = jnp.linspace(-4.5, 4.5, 200)
    grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    energy = np.asarray(jax.vmap(energy_fn)(grid)).reshape(200, 200)
    plane.contourf(side, side, np.minimum(energy - energy.min(), 12), 24, cmap="viridis")
    samples = np.load(energy_run / "samples.npz")["samples"][:800]
    plane.scatter(*samples.T, s=2, color="white", alpha=0.7, linewidths=0)
    plane.set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), aspect="equal")
    model = ebm_jax.load(digits_run)
    like = jnp.zeros(model.shape)

    def way(key: jax.Array, label: jax.Array) -> jax.Array:
        return model.sampler.path(model.denoiser(label=label, guidance_scale=2.0), key, like)

    def draw(key: jax.Array, label: jax.Array) -> jax.Array:
        return model.draw(key, label=label, guidance_scale=2.0)

    keys = jax.random.split(jax.random.key(3), 100)
    paths = np.asarray(jax.jit(jax.vmap(way))(keys[:8], jnp.arange(8)))[:, -16::2]
    digits = np.asarray(jax.jit(jax.vmap(draw))(keys, jnp.arange(100) % 10)).reshape(10, 10, 8, 8)
    for axes, images in ((ways, paths.reshape(8, -1, 8, 8)), (classes, digits)):
        sheet = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=1.0)
        axes.imshow(np.concatenate(np.concatenate(sheet, 1), 1), cmap="gray", vmin=-1, vmax=1)
    for axes in (plane, ways, classes):
        axes.axis("off")
    return figure


def slug_of(name: str, flags: str) -> str:
    """Returns a file name for a run, such as "energy-checkerboard"."""
    return "-".join([name, *(word.strip("-") for word in flags.split() if word != "--data")])


def shrink(source: Path, target: Path) -> None:
    """Writes a picture with at most 900 pixels of width and at most 64 colors."""
    image = Image.open(io.BytesIO(source.read_bytes())).convert("RGB")
    image.thumbnail((900, 900), Image.Resampling.LANCZOS)
    image.quantize(64).save(target, optimize=True)


def page(record: dict) -> str:
    """Returns the gallery as Markdown."""
    parts = [
        "# Gallery\n",
        "What each experiment makes with its default flags, and how well, on 2 CPU cores; minutes",
        "include compiling. `python docs/gallery.py` rebuilds this page. A Frechet distance is on",
        "the features of a small classifier trained in the run: compare it with that of real",
        "images beside it, not with a published FID.\n",
    ]
    for name, flags, _, text in EXPERIMENTS:
        slug = slug_of(name, flags)
        if slug not in record:
            continue
        found = record[slug]
        parts += [f"## {slug}\n", f"{text} {found['minutes']:.1f} minutes.\n"]
        parts += ["```bash", f"python -m experiments.{name} {flags}".rstrip(), "```\n"]
        parts += [f"![{text}](gallery/{slug}.png)\n", "| result | value |", "|---|---|"]
        shown = list(found["results"].items())[:SHOWN]
        parts += [f"| {key.replace('|', '&#124;')} | {value:.4g} |" for key, value in shown]
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    main(sys.argv[1:])
