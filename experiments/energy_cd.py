"""An energy of images by maximum likelihood: persistent contrastive divergence (PCD).

    python -m experiments.energy_cd                       digits bundled with scikit-learn, 8x8
    python -m experiments.energy_cd --data mnist/         MNIST's idx files, images, or .npz
    python -m experiments.energy_cd --preset convergent   chains at temperature 1

A convolutional energy E(x) is lowered at data and raised at the ends of Langevin chains. The
chains live in a replay buffer and continue from step to step; a whole step is one compiled call.
The model is evaluated by samples (chains from fresh noise, many times longer than in training),
by denoising held-out images, and by telling held-out images from other images (AUROC of -E).

The default run takes about two minutes on 2 cores. Expect samples that look like digits, at a
Frechet distance 3 to 4 times the floor, and an AUROC of 1 against everything but digits upside
down or mirrored. Chains of `short_run` end at a lower energy than any image (AUROC 0 against the
model's samples: exp(-E) is not a density of the data). Those of `convergent` end at the energy of
the data (AUROC near .5), and still contain the noise that was added to the data. A step on 28x28
images takes ten times as long; there `convergent` draws strokes after 400 steps, `short_run`
still a texture.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ebm_jax import metrics, recipes
from ebm_jax.data import Color, Pixels, Rows, batch_indices, load_split, to_uint8, to_unit
from ebm_jax.nets import ConvEnergy
from ebm_jax.recipes import ChainRecipe, EnergyRecipe, chain_kernel, chain_losses
from ebm_jax.runs.command import command
from ebm_jax.runs.drawing import draw_finite
from ebm_jax.runs.endings import say
from ebm_jax.runs.energies import check_energy, train_energy
from ebm_jax.runs.flags import UNSTABLE, check_judged, described, finite, samples_to_draw
from ebm_jax.runs.roll_backs import past_roll_backs
from ebm_jax.runs.run import Run
from ebm_jax.samplers import run as run_chain
from ebm_jax.sharding import spread
from ebm_jax.types import EnergyFn, Example

CHUNK = 200  # chains in one compiled call
DENOISED = 1000  # maximum number of images to denoise, both held-out and training
ROLL_BACKS = 3
# The published runs take hours; with these changes they take minutes on 2 cores. At temperature 1,
# larger noise lets chains mix in 60 steps instead of 500, and the data are smoothed accordingly.
BRIEF: dict[str, dict[str, Any]] = {
    "short_run": {"buffer_size": 1024, "batch_size": 64, "learning_rate": 1e-3},
    "convergent": {
        "buffer_size": 1024,
        "restart_share": 0.01,
        "num_steps": 60,
        "step_size": 0.1**2 / 2,
        "noise": 0.1,
        "energy_scale": 1.0,
        "data_noise": 0.15,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "betas": (0.0, 0.999),
        "batch_size": 64,
    },
}


def main(
    run: Run,
    *,
    data: str = "digits",
    resize: int | None = None,
    color: Color | None = None,
    preset: Literal["short_run", "convergent"] = "short_run",
    num_steps: int = 2000,
    channels: tuple[int, ...] = (32, 64, 64),
    ema_decay: float = 0.99,
    sample_steps: int = 1000,
    num_samples: int | None = None,
    noise_level: float = 0.5,
    on_divergence: Literal["stop", "roll_back"] = "stop",
    seed: int = 0,
) -> None:
    """Trains an energy of images by persistent contrastive divergence, and evaluates it.

    Args:
        run: the run.
        data: "digits", "mnist", "cifar10", or a path: an .npz, images, or MNIST's idx files.
        resize: side of the squares that a folder's images are cut and resized to.
        color: "gray" or "rgb"; converts the images of a folder.
        preset: recipe of `ebm_jax.recipes`; the run prints its changes to it.
        num_steps: optimization steps; the learning rate decays to 0 by a cosine.
        channels: channels of the energy's layers, each of which halves the sides.
        ema_decay: decay of the exponential moving average (EMA) of the parameters.
        sample_steps: Langevin steps per sample, from uniform noise.
        num_samples: number of samples; by default that of held-out images, at most 1000.
        noise_level: standard deviation of the noise to be removed, for pixels in [-1, 1].
        on_divergence: stop, or roll_back to the last checkpoint with another key, at most 3 times.
        seed: seed of all random numbers.
    """
    images, held_out = load_split(data, resize=resize, color=color)
    check_judged(images, held_out, num_samples)
    x, x_held = to_unit(images.pixels[:]), to_unit(held_out.pixels[:])
    shape = images.pixels.shape[1:]
    chains: ChainRecipe = getattr(recipes, preset)._replace(**BRIEF[preset])
    net = ConvEnergy(channels, scale=chains.energy_scale)

    def health(params: PyTree, x_data: Array, x_model: Array) -> dict[str, Array]:
        return metrics.energy_health(recipe.energy(params), x_data, x_model)._asdict()

    recipe = EnergyRecipe(
        net=net,
        objective=chain_losses.persistent_on_images(chains, net, shape, len(x), health),
        optimizer=partial(recipes.chain_optimizer, chains),
        ema=ema_decay,
        batch_size=chains.batch_size,
        num_steps=num_steps,
        shape=shape,
        sampler=recipes.chain_sampler(chains, sample_steps),
    )
    check_energy(run, recipe)
    if not run.begin(**described(images, held_out)):
        return

    def batches(first: int, count: int) -> Rows:
        return Rows(x, batch_indices(seed, first, count, len(x), chains.batch_size))

    say(f"{len(x)} images, {len(x_held)} held out")
    say(f"{preset}, changed: {BRIEF[preset]}; temperature of the chains {chains.temperature:.3g}")
    times = ROLL_BACKS if on_divergence == "roll_back" else 0
    model = train_energy(run, recipe, batches, seed=seed, roll_backs=times)
    num_samples = samples_to_draw(num_samples, len(x_held))
    with run.clock("sample"):
        samples = draw_finite(model.draw, num_samples, seed + 2, chunk=CHUNK)
    np.savez_compressed(run.folder / "samples.npz", samples=to_uint8(samples))
    results: dict[str, float] = {
        "effective temperature": chains.temperature,
        "roll-backs": float(len(past_roll_backs(run))),
    }
    with run.clock("judge"):
        from ebm_jax.runs.judge import judge_images

        results |= judge_images(to_uint8(samples), images, held_out, seed)
        inside, trained_on = smoothed(chains, x_held, seed), smoothed(chains, x, seed + 3)
        others = other_images(inside, seed)
        besides = {"samples of the model": samples, "training images": trained_on}
        results |= separations(model.energy, inside, others | besides)
        strip, denoised = denoise(chains, model.energy, x, x_held, noise_level, seed)
        shown = {"held-out images": inside, "samples": samples, "noise": others["uniform noise"]}
        energies = {name: np.asarray(spread(model.energy)(x)) for name, x in shown.items()}
    report(run, to_uint8(samples), held_out.pixels, others, strip, energies, results | denoised)
    run.finish(results | denoised)


def smoothed(recipe: ChainRecipe, x: np.ndarray, seed: int) -> np.ndarray:
    """Adds the noise of training to images: the distribution that the energy has learned."""
    noise = np.random.default_rng(seed).normal(size=x.shape)
    return (x + recipe.data_noise * noise).astype(np.float32)


def other_images(x: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Returns as many images as in `x` that are of other kinds."""
    rng = np.random.default_rng(seed + 4)
    others = {
        "uniform noise": rng.uniform(-1, 1, x.shape),
        "constant": np.broadcast_to(rng.uniform(-1, 1, (len(x), 1, 1, 1)), x.shape),
        "shuffled pixels": rng.permuted(x.reshape(len(x), -1), axis=1).reshape(x.shape),
        "inverted": -x,
        "upside down": x[:, ::-1],
        "mirrored": x[:, :, ::-1],
    }
    return {name: np.asarray(images, np.float32) for name, images in others.items()}


def separations(
    energy_fn: EnergyFn, x: np.ndarray, others: dict[str, np.ndarray]
) -> dict[str, float]:
    """AUROC of -E for `x` against others: the probability that E is lower at x."""
    from sklearn.metrics import roc_auc_score  # takes seconds to import

    energies = spread(energy_fn)
    inside = np.asarray(energies(jnp.asarray(x)))
    results = {}
    for name, images in others.items():
        outside = np.asarray(energies(jnp.asarray(images)))
        is_inside = np.arange(len(inside) + len(outside)) < len(inside)
        area = roc_auc_score(is_inside, -np.concatenate([inside, outside]))
        results[f"AUROC against {name}"] = float(area)
    return results


def denoise(
    recipe: ChainRecipe,
    energy_fn: EnergyFn,
    x: np.ndarray,
    x_held: np.ndarray,
    noise_level: float,
    seed: int,
) -> tuple[np.ndarray, dict[str, float]]:
    """Denoises by descent on E, for the number of steps that is best on training images.

    Returns clean, noisy and denoised held-out images, and the errors of each, together with
    those of the best linear denoiser of the training set (the Wiener filter).
    """
    kernel = chain_kernel(recipe._replace(noise=0.0), energy_fn)

    @spread
    def descend(y: Example) -> Array:
        return run_chain(
            kernel,
            jax.random.key(0),
            kernel.init(y),
            recipe.num_steps,
            collect=lambda state, _: state.x,
        )[1]

    def error(images: np.ndarray, clean: np.ndarray) -> float:
        return float(np.mean((images - clean) ** 2))

    rng = np.random.default_rng(seed)
    clean, tried = x_held[:DENOISED], x[:DENOISED]
    noisy = {
        name: (images + noise_level * rng.normal(size=images.shape)).astype(np.float32)
        for name, images in (("held out", clean), ("train", tried))
    }
    path = finite("descents", descend(jnp.asarray(noisy["train"])), UNSTABLE)
    best = int(np.argmin([error(path[:, i], tried) for i in range(path.shape[1])]))
    denoised = finite("descents", descend(jnp.asarray(noisy["held out"])), UNSTABLE)[:, best]
    by_name = {
        "noisy": noisy["held out"],
        "denoised": denoised,
        "by Wiener's filter": wiener(x, noisy["held out"], noise_level),
    }
    results: dict[str, float] = {"denoising steps, best on training images": best + 1.0}
    for name, images in by_name.items():
        results[f"mean squared error, {name}"] = error(images, clean)
        results[f"PSNR, {name}"] = 10 * np.log10(4 / error(images, clean))
    strip = np.concatenate([images[:16] for images in (clean, noisy["held out"], denoised)])
    return to_uint8(strip), results


def wiener(x: np.ndarray, noisy: np.ndarray, noise_level: float) -> np.ndarray:
    """Returns the posterior mean under a Gaussian with the mean and covariance of `x`."""
    flat = x.reshape(len(x), -1)
    mean, covariance = flat.mean(0), np.cov(flat.T)
    gain = np.linalg.solve(covariance + noise_level**2 * np.eye(len(mean)), covariance)
    return (mean + (noisy.reshape(len(noisy), -1) - mean) @ gain).reshape(noisy.shape)


def report(
    run: Run,
    samples: np.ndarray,
    held_out: Pixels,
    others: dict[str, np.ndarray],
    strip: np.ndarray,
    energies: dict[str, np.ndarray],
    results: dict[str, float],
) -> None:
    """Writes the page: samples beside held-out images, denoising, other images, and health."""
    from ebm_jax.runs import charts, page
    from ebm_jax.runs.image_page import samples_beside

    rejected = np.concatenate([to_uint8(images[:16]) for images in others.values()])
    sections = {
        "Samples, and held-out images": samples_beside(
            run,
            samples,
            held_out,
            f"The first samples, none chosen: {run.config['sample_steps']} Langevin steps from "
            "uniform noise.",
        ),
        "Denoising": page.picture(
            run,
            "denoising",
            page.image_grid(strip, 16),
            "Three rows of 16 images: clean, noisy, denoised.",
            "Held-out images, with noise, and after descent on the energy.",
        ),
        "What is no such image": page.picture(
            run,
            "others",
            page.image_grid(rejected, 16),
            "Rows of 16 images of other kinds.",
            f"Rows: {', '.join(others)}.",
        ),
        "Energies": charts.histograms(
            energies,
            x="energy",
            caption="Energies of held-out images with the noise of training, of samples, and of "
            "uniform noise.",
        ),
        "Results": page.results_table(results),
        "Health": health_curves(run),
    }
    lead = (
        "A convolutional energy falls at data and rises at the ends of Langevin chains, which go "
        "on from step to step. It is judged by samples from fresh noise, by denoising, and by "
        "telling held-out images from others."
    )
    page.write_report(run, "Persistent contrastive divergence", lead, sections, results)


def health_curves(run: Run) -> str:
    """Returns charts of how the chains fare as training goes on, from metrics.csv."""
    from ebm_jax.runs import charts

    names = {
        "energy_gap": "energy gap, samples - data",
        "energy_size": "mean |E|",
        "gradient_norm": "mean |grad E| at samples",
        "saturation": "share of pixels at -1 or 1",
        "age": "age of a chain, visits",
        "grad_norm": "gradient norm of the parameters",
    }
    caption = "<p>The loss itself is no sign of convergence; these are.</p>"
    return caption + charts.metric_curves(run, names)


if __name__ == "__main__":
    command(main)
