"""What experiments on images share: training a denoiser, drawing from it, the pictures.

Pixels are dequantized afresh at every step (`dequantize`), so that the data have a
density and a likelihood in bits a dimension means something.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree, UInt8

from ebm_jax import likelihood, losses, noise, samplers
from ebm_jax.data import Images, Pixels, Rows, batch_indices, dequantize, to_uint8, to_unit
from ebm_jax.keys import example_keys
from ebm_jax.nets import ConvScore, precondition
from ebm_jax.nets.precondition import RawFn
from ebm_jax.sharding import spread
from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar
from experiments._flags import UNSTABLE, check_network, finite
from experiments._run import Run, progress, say
from experiments._train import mesh_for, train

CHUNK = 250  # images in one compiled call of a sampler, at most
EDM_BATCH = 128
CELL = 2 / 255  # the width of a pixel's cell in [-1, 1]
SHOWN_PATHS, SHOWN_TIMES = 8, 20  # samples and times in the picture of the way there
SHOWN_LEVELS = (0.02, 0.1, 0.3, 1.0, 3.0, 10.0)  # of the loss in metrics.csv

Objective = Callable[[DenoiseFn, PRNGKey, Example, Scalar], Scalar]


def train_denoiser(
    run: Run,
    images: Images,
    held_out: Images,
    net: nn.Module,
    wrap: Callable[[RawFn], DenoiseFn],
    objective: Objective,
    level: Callable[[Scalar], Scalar],
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    ema_decay: float,
    seed: int,
) -> DenoiseFn:
    """Train, or resume, a network on images; the denoiser of its averaged parameters.

    Args:
        run: where checkpoints and metrics go.
        images: the training images.
        held_out: others, whose loss by level is measured besides.
        net: net.apply(params, x, level) of the shape of x.
        wrap: makes a denoiser of that, such as `nets.precondition.edm`.
        objective: objective(denoise_fn, key, x, sigma), one of `losses`.
        level: the noise level of a u that is uniform on [0, 1).
        num_steps: optimization steps.
        batch_size: images in a step.
        learning_rate: peak of Adam's, after a warm-up of a twentieth, then a cosine to 0.
        ema_decay: decay of the parameters' moving average.
        seed: seed of everything.

    Raises:
        RunError: if training diverged.
    """
    pixels = images.pixels
    like = jax.ShapeDtypeStruct(pixels.shape[1:], jnp.float32)
    params = net.lazy_init(jax.random.key(seed), like, jnp.float32(0.0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    say(f"{len(pixels)} images of {like.shape}, {len(held_out.pixels)} held out")
    say(f"{type(net).__name__} of {count:,} parameters")

    def denoiser(params: PyTree) -> DenoiseFn:
        return wrap(partial(net.apply, params))

    def loss(params: PyTree, key: PRNGKey, example: tuple[Array, Scalar]) -> Scalar:
        pixels, sigma = example
        key_pixels, key_noise = jax.random.split(key)
        x = dequantize(key_pixels, pixels)
        return objective(denoiser(params), key_noise, x, sigma)

    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, num_steps // 20, num_steps)
    state = train(
        run,
        loss,
        params,
        optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate, b2=0.99)),
        levelled_batches(pixels, level, batch_size, seed),
        num_steps=num_steps,
        batch_size=batch_size,
        seed=seed,
        ema_decay=ema_decay,
        steps_per_call=min(100, max(1, num_steps // 10)),
        one_scan=False,
        evaluate=_loss_by_level(denoiser, pixels[:16], held_out.pixels[:16]),
        best="held_out_loss",
    )
    return denoiser(state.ema)


def levelled_batches(
    pixels: Pixels, level: Callable[[Scalar], Scalar], batch_size: int, seed: int
) -> Callable[[int, int], tuple[Rows, Array]]:
    """The `batches` of `train`: images, and noise levels evenly spread over each batch."""

    @jax.jit
    def draw_levels(steps: Array) -> Array:
        """Evenly spread over each batch."""
        keys = example_keys(jax.random.key(seed + 2), steps)
        u = jax.vmap(partial(noise.draw_low_discrepancy, batch_size=batch_size))(keys)
        return jax.vmap(jax.vmap(level))(u)

    def batches(first: int, count: int) -> tuple[Rows, Array]:
        index = batch_indices(seed, first, count, len(pixels), batch_size)
        return Rows(pixels, index), draw_levels(first + jnp.arange(count))

    return batches


def check_denoiser(images: Images, net: nn.Module, batch_size: int) -> None:
    """Refuse a network that cannot take these images, and a batch that cannot be divided.

    Raises:
        RunError: for these, before anything is computed.
    """
    check_network(net.init, images.pixels.shape[1:], 0.0)
    mesh_for(batch_size)


def check_edm(images: Images, *, channels: tuple[int, ...], patch: int) -> None:
    """`check_denoiser` of what `train_edm` trains."""
    check_denoiser(images, ConvScore(channels, 2, patch), EDM_BATCH)


def train_edm(
    run: Run,
    images: Images,
    held_out: Images,
    *,
    channels: tuple[int, ...],
    patch: int,
    num_steps: int,
    seed: int,
) -> DenoiseFn:
    """`train_denoiser` as `experiments.edm` does by default: for what comes after training."""
    sigma_data = float(to_unit(images.pixels[:10_000]).std())
    return train_denoiser(
        run,
        images,
        held_out,
        ConvScore(channels, 2, patch),
        partial(precondition.edm, sigma_data=sigma_data),
        partial(losses.edm, sigma_data=sigma_data),
        noise.log_normal_level,
        num_steps=num_steps,
        batch_size=EDM_BATCH,
        learning_rate=3e-3,
        ema_decay=0.995,
        seed=seed,
    )


def predicted_noise(raw_fn: RawFn) -> DenoiseFn:
    """`precondition.vp` with 999 t brought to 0..4, where the level's embedding resolves it."""

    def at_level(x: Example, t: Scalar) -> Example:
        return raw_fn(x, t / 250)

    return precondition.vp(at_level)


def _loss_by_level(denoiser: Callable[[PyTree], DenoiseFn], *pixels: np.ndarray) -> Callable:
    """sigma^-2 times the squared error at SHOWN_LEVELS on training and held-out images."""

    @jax.jit
    def by_level(params: PyTree, pixels: Array) -> Array:
        def one(sigma: Scalar, index: Array, pixels: Array) -> Scalar:
            key_pixels, key = jax.random.split(jax.random.fold_in(jax.random.key(0), index))
            x = dequantize(key_pixels, pixels)
            return losses.noise_conditional(denoiser(params), key, x, sigma)

        index = jnp.arange(len(pixels))
        at = jax.vmap(one, (None, 0, 0))
        return jax.lax.map(lambda s: jnp.mean(at(s, index, pixels)), jnp.array(SHOWN_LEVELS))

    def evaluate(params: PyTree) -> dict[str, float]:
        figures: dict[str, float] = {}
        for name, some in zip(("train", "held_out"), pixels, strict=True):
            values = np.asarray(by_level(params, some))
            figures[f"{name}_loss"] = float(values.mean())
            names = (f"{name}_loss_at_{sigma:.3g}" for sigma in SHOWN_LEVELS)
            figures |= dict(zip(names, values.tolist(), strict=True))
        return figures

    return evaluate


def draw_images(
    draw: Callable[[PRNGKey], Array],
    count: int,
    seed: int,
    label: str = "sample",
) -> np.ndarray:
    """`count` images as uint8, of draw(key) in [-1, 1]; image i depends on (seed, i) alone.

    Raises:
        RunError: if some are not finite, which uint8 would show as black.
    """
    return to_uint8(draw_finite(draw, count, seed, label))


def draw_finite(
    draw: Callable[[PRNGKey], PyTree],
    count: int,
    seed: int,
    label: str = "sample",
    chunk: int = CHUNK,
) -> np.ndarray:
    """`count` draws of draw(key) as one array; draw i depends on (seed, i) alone.

    They are made in compiled calls of `chunk`, or of `count` if that is less.

    Raises:
        RunError: if some are not finite.
    """
    many, drawn, chunk = spread(draw), [], min(chunk, count)
    with progress(label, count) as advance:
        for first in range(0, count, chunk):
            keys = example_keys(jax.random.key(seed), first + jnp.arange(chunk))
            drawn.append(np.asarray(many(keys)))
            advance(min(chunk, count - first))
    what = "samples" if label == "sample" else f"samples of {label}"
    return finite(what, np.concatenate(drawn)[:count], UNSTABLE)


def over_images(
    measure: Callable[[PRNGKey, UInt8[Array, "h w c"]], Array],
    pixels: Pixels,
    count: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of measure(key, image) over the first `count` images, and its standard error.

    Image i is measured with the key of (seed, i) alone. Raises RunError if some measures are not
    finite.
    """
    many, values, count = spread(measure), [], min(count, len(pixels))
    with progress("likelihood", count) as advance:
        for first in range(0, count, 64):
            some = jnp.asarray(pixels[first : min(first + 64, count)])
            keys = example_keys(jax.random.key(seed), first + jnp.arange(len(some)))
            values.append(np.asarray(many(keys, some)))
            advance(len(some))
    found = finite("likelihoods", np.concatenate(values), UNSTABLE)
    if len(found) < 2:  # one value has no standard error
        return found[0], np.full_like(found[0], np.nan)
    return found.mean(0), found.std(0, ddof=1) / np.sqrt(len(found))


def flow_bits(
    denoise_fn: DenoiseFn, *, sigma_min: float, sigma_max: float, num_probes: int
) -> Callable[[PRNGKey, UInt8[Array, "h w c"]], Scalar]:
    """measure(key, image): bits a dimension of one image by the probability flow."""

    def bits(key: PRNGKey, image: UInt8[Array, "h w c"]) -> Scalar:
        key_pixels, key_probes = jax.random.split(key)
        found = likelihood.estimated_flow_log_density(
            denoise_fn, key_probes, dequantize(key_pixels, image), sigma_min=sigma_min,
            sigma_max=sigma_max, num_probes=num_probes, rtol=1e-4, atol=1e-4,
        )  # fmt: skip
        return jnp.asarray(likelihood.bits_per_dimension(found.value, image.size, cell_width=CELL))

    return bits


def draw_paths(
    solver: samplers.Solver, denoise_fn: DenoiseFn, like: Example, times: Array, seed: int
) -> np.ndarray:
    """The first SHOWN_PATHS samples of `draw_images` at every time, as uint8.

    x_t has the scale sqrt(alpha^2 + sigma^2): shown in units of that.
    """
    process = solver.process

    def one(key: PRNGKey) -> Array:
        key_start, key_steps = jax.random.split(key)
        x = process.draw_prior(key_start, like, times[0])
        path = samplers.integrate_path(solver, denoise_fn, key_steps, x, times)
        scale = jax.vmap(lambda t: jnp.hypot(process.alpha(t), process.sigma(t)))(times)
        return path / scale[:, None, None, None]

    keys = example_keys(jax.random.key(seed), jnp.arange(SHOWN_PATHS))
    return to_uint8(np.asarray(jax.jit(jax.vmap(one))(keys)))


def report(
    run: Run,
    title: str,
    lead: str,
    samples: np.ndarray,
    paths: np.ndarray,
    held_out: Pixels,
    results: dict[str, float],
) -> None:
    """The page: samples beside held-out images, their way there, figures, curves."""
    from experiments import _report as page

    every = -(-paths.shape[1] // SHOWN_TIMES)
    strip = paths[:, ::-1][:, ::every][:, ::-1]  # the end is among those shown
    sections = {
        "Samples, and held-out images": page.samples_beside(run, samples, held_out),
        "From noise to samples": page.picture(
            run,
            "paths",
            page.image_grid(strip.reshape(-1, *strip.shape[2:]), strip.shape[1]),
            "The first samples at times of the solver, in units of sqrt(alpha^2 + sigma^2).",
        ),
        "Figures": page.table(results),
        "Training": page.picture(run, "training", page.curves(run), "Means between rows."),
        "Loss by level": page.picture(
            run, "levels", page.level_losses(run), "Of the averaged parameters, at the last step."
        ),
    }
    page.write_report(run, title, lead, sections)
