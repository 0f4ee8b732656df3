"""Experiments on images by diffusion: a tiny run of each leaves a model that draws its samples."""

import importlib
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax
from ebm_jax import guidance, nets, noise, recipes, samplers
from ebm_jax.data import Images, to_uint8, to_unit
from ebm_jax.keys import example_keys
from ebm_jax.nets import precondition
from ebm_jax.recipes import SolverSampler
from ebm_jax.runs.command import start
from ebm_jax.runs.drawing import flow_bits, over_images

SMALL = {"num_steps": 2, "channels": (8,)}
TINY = {**SMALL, "batch_size": 8, "num_samples": 2, "num_likelihoods": 2}
NO_TRAINING = {"ema_decay": 0.5, "learning_rate": 0.1}  # far from the start, which is zero

RUNS = {
    "ncsn": ("ncsn", {"num_steps": 2, "channels": 4, "multipliers": (1, 1), "batch_size": 8,
                      "num_samples": 2, "num_levels": 3, "steps_per_level": 2}),
    "ddpm": ("ddpm", {"num_steps": 2, "channels": 4, "multipliers": (1, 1), "batch_size": 8,
                      "num_samples": 2, "num_likelihoods": 2, "sample_steps": 3, **NO_TRAINING}),
    "score_sde, ve": ("score_sde", {**TINY, **NO_TRAINING, "sample_steps": 3}),
    "score_sde, flow": ("score_sde", {**TINY, **NO_TRAINING, "sample_steps": 3,
                                      "process": "vp", "sampler": "flow"}),
    "score_sde, adaptive": ("score_sde", {**TINY, "sample_steps": 3, "process": "sub_vp",
                                          "sampler": "adaptive"}),
    "schedule_swap": ("schedule_swap", {**SMALL, "sample_steps": 3, "num_samples": 2}),
    "recipe": ("recipe", {"name": "ddpm/cifar10", "data": "few", "num_steps": 2,
                          "batch_size": 8, "num_samples": 2}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _types_as_users_have_them():
    """optax promotes types."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def few(monkeypatch):
    """Two shades of gray instead of data, and a published network made small."""

    def images(count):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 1)).astype(np.uint8)
        return Images(pixels, None)

    def begin(name):
        module = importlib.import_module(f"experiments.{name}")
        monkeypatch.setattr(module, "load_split", lambda _: (images(16), images(4)))
        published = recipes.recipe("ddpm/cifar10")
        net = nets.UNet(8, (1,), 1, (), groups=2, dropout=0.1)
        short = published.sampler._replace(times=published.sampler.times[::250])
        monkeypatch.setitem(
            recipes.RECIPES, "ddpm/cifar10", lambda: published._replace(net=net, sampler=short)
        )
        return module.main

    return begin


def first_key(seed):
    """The key of the first sample of a run with this seed."""
    return example_keys(jax.random.key(seed + 1), jnp.arange(1))[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flags"), RUNS.values(), ids=RUNS)
def test_a_runs_model_draws_the_runs_own_first_sample(name, flags, few, tmp_path):
    """Compiled alone it may round one gray value the other way."""
    run = start(few(name), str(tmp_path / "run"), seed=5, **flags)
    saved = np.load(run.folder / "samples.npz")
    kept = saved["edm" if name == "schedule_swap" else "samples"][0]
    drawn = to_uint8(jax.jit(ebm_jax.load(run.folder).draw)(first_key(5)))
    assert kept.std() > 20  # neither black nor one gray
    np.testing.assert_allclose(drawn.astype(int), kept.astype(int), atol=1)
    other = to_uint8(jax.jit(ebm_jax.load(run.folder).draw)(first_key(6)))
    assert np.abs(other.astype(int) - kept).max() > 8


@pytest.mark.slow
def test_a_likelihood_is_that_of_the_saved_model(few, tmp_path):
    """The figure of the run, again, by the flow of the model that it leaves."""
    run = start(
        few("likelihood_bounds"), str(tmp_path / "run"), seed=5, num_steps=2, channels=(8,),
        num_images=2, num_exact=2, num_probes=(1,), bound_levels=(3,),
    )  # fmt: skip
    found = json.loads((run.folder / "results.json").read_text())
    denoise_fn = ebm_jax.load(run.folder).denoiser()
    bits = flow_bits(denoise_fn, sigma_min=0.002, sigma_max=80.0, num_probes=1)
    images = np.load(run.folder / "samples.npz")["images"]
    mean, _ = over_images(bits, images, 2, 8)
    expected = found["bits per dimension, flow, 1 probe, held out"]
    np.testing.assert_allclose(mean, expected, rtol=1e-4)


@pytest.mark.slow
def test_an_image_is_restored_by_the_saved_model(few, tmp_path):
    """Replacement of the upper half, again, by ancestral steps of the model that the run leaves."""
    run = start(
        few("inpaint"), str(tmp_path / "run"), seed=5, num_steps=2, channels=(8,),
        num_images=2, sample_steps=2,
    )  # fmt: skip
    shown = np.load(run.folder / "samples.npz")
    truth = jnp.asarray(to_unit(shown["truth"][0]))
    upper = (jnp.arange(8) < 4)[:, None, None]
    denoise_fn = guidance.replaced(
        ebm_jax.load(run.folder).denoiser(), lambda x: jnp.where(upper, x, 0.0), truth
    )
    process = noise.vp()
    last = float(process.time_of_level(jnp.float32(0.01)))
    sampler = SolverSampler(
        samplers.ancestral, noise.vp, noise.log_snr_times(process, 2, t_min=last)
    )
    drawn = to_uint8(jax.jit(partial(sampler, denoise_fn))(first_key(5), truth))
    np.testing.assert_allclose(
        drawn.astype(int), shown["upper half, replacement"][0].astype(int), atol=1
    )


def test_predicted_noise_is_that_of_vp_at_a_time_between_0_and_4():
    """999 t of `vp` over 250: at sigma = 1, where B(t) = log 2."""
    seen = []
    for wrap in (precondition.vp, precondition.predicted_noise):
        wrap(lambda x, t: seen.append(t) or x)(jnp.ones(2), jnp.float32(1.0))
    time = (np.sqrt(0.1**2 + 2 * 19.9 * np.log(2)) - 0.1) / 19.9  # .1 t + 19.9 t^2 / 2 = log 2
    np.testing.assert_allclose(seen, [999 * time, 999 * time / 250], rtol=1e-5)


def test_ddpm_trains_at_the_levels_nearest_to_a_log_normal_law():
    """Half of the draws are above the median, a sixth beyond one deviation on either side."""
    from experiments.ddpm import nearest_level

    sigmas = noise.ddpm_levels(1000)
    law = partial(nearest_level, sigmas=sigmas, mean=np.log(2.0), std=1.5)
    found = np.asarray(jax.jit(jax.vmap(law))((jnp.arange(2000) + 0.5) / 2000))
    assert set(found) <= set(np.asarray(sigmas))
    assert np.mean(found > 2.0) == pytest.approx(0.5, abs=0.005)
    assert np.mean(found > 2.0 * np.exp(1.5)) == pytest.approx(0.1587, abs=0.005)
    assert np.mean(found < 2.0 * np.exp(-1.5)) == pytest.approx(0.1587, abs=0.005)
