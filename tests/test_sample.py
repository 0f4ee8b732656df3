"""`sample`: any solver on a trained model, sample by sample the same however it is called.

The model of these tests is a network whose parameters are 0: with EDM's preconditioning it is
the exact denoiser of N(0, s^2 I), so that every sampler must return that law.
"""

import json
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ebm_jax import data, nets, noise, samplers
from ebm_jax.keys import example_keys
from ebm_jax.nets import precondition
from ebm_jax.recipes import AnnealedSampler, SolverSampler, annealing_step_ratio
from ebm_jax.runs import Model, load, save_model
from ebm_jax.runs.commands import sample
from ebm_jax.runs.endings import RunError
from ebm_jax.runs.models import ModelError
from ebm_jax.runs.solvers import NAMES, noise_levels, sampler_for
from ebm_jax.runs.stores import samples_of
from ebm_jax.samplers import ancestral
from tests.statistics import assert_mean

SCALE = 0.3
OWN = SolverSampler(
    samplers.edm, partial(noise.edm, sigma_min=0.01, sigma_max=20.0), noise.karras(20.0, 0.01, 12)
)


def gaussian(net, shape, sampler=OWN, **rest):
    wrap = partial(precondition.edm, sigma_data=SCALE)
    params = nets.initial_parameters(net, wrap, jax.random.key(0), jnp.zeros(shape))
    return Model(net, jax.tree.map(jnp.zeros_like, params), shape, wrap, sampler, **rest)


POINTS = gaussian(nets.ScoreMLP((4,)), (16,))
IMAGES = gaussian(nets.ConvScore((8,), 1), (4, 4, 1))
CLASSES = gaussian(
    nets.UNet(8, (1, 1), 1, (4,), num_classes=2, groups=2), (4, 4, 1), names=("one", "7")
)


@pytest.fixture
def run(tmp_path):
    """The folder of a run of images."""
    return stored(tmp_path, IMAGES)


def stored(tmp_path, model):
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_model(folder / "model.safetensors", model)
    return folder


def pixels(folder):
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


# ---- which sampler


@pytest.mark.parametrize("name", NAMES)
def test_every_solver_draws_the_law_of_an_exact_denoiser(name):
    """N(0, s^2 I) in 16 dimensions, by 400 levels read off the 12 of another solver.

    The variance is within five standard errors, and 4% for methods of first order. That of
    annealed Langevin, which is biased more, follows v' = (1 - h / (s^2 + sigma^2))^2 v + 2 h.
    """
    sampler = sampler_for(POINTS, name, None if name == "flow" else 400)
    keys = example_keys(jax.random.key(3), jnp.arange(1000))
    x = jax.jit(jax.vmap(POINTS._replace(sampler=sampler).draw))(keys)
    assert_mean(x, 0.0)
    expected = SCALE**2
    if name == "annealed":
        variance = float(sampler.sigmas[0]) ** 2
        for sigma in map(float, sampler.sigmas):
            h = sampler.ratio * sigma**2
            for _ in range(sampler.steps):
                variance = (1 - h / (SCALE**2 + sigma**2)) ** 2 * variance + 2 * h
        expected = variance * (SCALE**2 / (SCALE**2 + sigma**2)) ** 2  # denoised
    error = 5 * np.sqrt(2 / x.size) + 0.04 * (name not in ("annealed", "edm", "heun", "flow"))
    assert np.var(x) / expected == pytest.approx(1.0, abs=error)


def test_without_a_wish_it_is_the_models_own_sampler():
    assert sampler_for(POINTS) is POINTS.sampler
    other = sampler_for(POINTS, "ddim")
    assert other.solver is samplers.ddim
    np.testing.assert_array_equal(other.times, OWN.times)


def test_levels_keep_their_spacing_and_take_the_range_that_is_asked_for():
    """Geometric levels stay geometric, whatever their number and range; of VP's too."""
    ladder = POINTS._replace(sampler=AnnealedSampler(noise.geometric(9.0, 0.1, 7), 3, 0.1))
    sampler = sampler_for(ladder, "euler", 13)
    np.testing.assert_allclose(noise_levels(sampler), noise.geometric(9.0, 0.1, 13), rtol=1e-5)
    moved = sampler_for(ladder, "euler", 5, (0.5, 8.0))
    np.testing.assert_allclose(noise_levels(moved), [8.0, 4.0, 2.0, 1.0, 0.5], rtol=1e-5)
    again = sampler_for(ladder, "", 4)
    assert (again.steps, len(again.sigmas)) == (3, 4)
    assert again.ratio == annealing_step_ratio(90 ** (1 / 3), 3)
    fresh = sampler_for(POINTS, "annealed", 5)  # 20 to 0.01
    assert fresh.ratio == annealing_step_ratio(2000 ** (1 / 4), 5)
    vp = SolverSampler(ancestral, noise.vp, noise.log_snr_times(noise.vp(), 10), (-1.0, 1.0))
    fewer = sampler_for(POINTS._replace(sampler=vp), "", 6)
    np.testing.assert_allclose(
        noise_levels(fewer), noise_levels(vp)[::2], rtol=2e-3
    )  # the times of every other level
    assert (fewer.process, fewer.bounds) == (noise.vp, (-1.0, 1.0))


@pytest.mark.parametrize(
    ("model", "flags", "sentence"),
    [
        (POINTS, ("magic",), "--solver got magic: give one of ancestral"),
        (POINTS, ("ddim", 1), "--steps got 1: give at least 2"),
        (POINTS, ("flow", 9), "--steps got 9: flow chooses its steps"),
        (POINTS, ("ddim", 9, (2.0, 1.0)), "--levels got 2.0 1.0"),
        (POINTS._replace(sampler=None), ("ddim",), "give them by --levels LOW HIGH"),
        (POINTS._replace(wrap=None), ("ddim",), "is an energy"),
    ],
)
def test_a_sampler_that_does_not_fit_is_refused_in_a_sentence(model, flags, sentence):
    with pytest.raises(RunError, match=sentence):
        sampler_for(model, *flags)


def test_the_chains_of_an_energy_take_another_number_of_steps():
    chains = AnnealedSampler(noise.geometric(2.0, 1.0, 2), 3, 0.1)
    assert sampler_for(POINTS._replace(wrap=None, sampler=chains), "", 8).steps == 8


# ---- the files


def test_image_i_depends_on_the_seed_and_i_alone(run, tmp_path):
    out = tmp_path / "drawn"
    sample.main(str(run), num=7, out=str(out), batch_size=3, seed=5)
    model = load(run)
    there = pixels(out)
    assert list(there) == [f"{i:06d}.png" for i in range(7)]
    for i in (0, 3, 6):
        x = model.draw(example_keys(jax.random.key(5), jnp.arange(i, i + 1))[0])
        np.testing.assert_allclose(there[f"{i:06d}.png"], data.to_uint8(x)[..., 0], atol=1)
    archive = tmp_path / "drawn.npz"
    sample.main(str(run), num=7, out=str(archive), batch_size=3, seed=5)
    np.testing.assert_array_equal(np.load(archive)["samples"][..., 0], [*there.values()])
    np.testing.assert_array_equal(data.load(archive).pixels, data.load(out).pixels)


@pytest.mark.parametrize("name", ["drawn", "drawn.npz"])
def test_an_interrupted_call_goes_on_where_it_was(run, tmp_path, monkeypatch, name):
    """Stopped after its second batch: what was there is not drawn again, the end is the same."""
    flags = {"num": 8, "batch_size": 3, "seed": 1}
    sample.main(str(run), out=str(tmp_path / f"whole-{name}"), **flags)
    out, spread, calls = tmp_path / name, sample.spread, []

    def stopping(draw):
        many = spread(draw)

        def call(keys):
            if len(calls) == 2:
                raise RuntimeError("stopped")
            calls.append(keys)
            return many(keys)

        return call

    monkeypatch.setattr(sample, "spread", stopping)
    with pytest.raises(RuntimeError, match="stopped"):
        sample.main(str(run), out=str(out), **flags)
    calls[:] = [None]
    sample.main(str(run), out=str(out), **flags)
    assert len(calls) == 2  # of three batches one was missing
    whole, found = (data.load(tmp_path / n).pixels for n in (f"whole-{name}", name))
    np.testing.assert_array_equal(found, whole)
    assert not (tmp_path / "drawn.npz.parts").exists()
    sample.main(str(run), out=str(out), **flags)
    assert len(calls) == 2


@pytest.mark.parametrize("name", ["drawn", "drawn.npz"])
def test_more_of_the_same_are_added(run, tmp_path, name):
    sample.main(str(run), num=2, out=str(tmp_path / name))
    before = data.load(tmp_path / name).pixels
    sample.main(str(run), num=5, out=str(tmp_path / name))
    after = data.load(tmp_path / name).pixels
    assert len(after) == 5
    np.testing.assert_array_equal(after[:2], before)
    sample.main(str(run), num=5, out=str(tmp_path / f"new-{name}"))
    difference = after - data.load(tmp_path / f"new-{name}").pixels.astype(int)
    assert np.abs(difference).max() <= 1  # round-off between batches of 2 and of 5


@pytest.mark.parametrize("name", ["drawn", "drawn.npz"])
def test_another_configuration_in_the_same_place_is_refused_with_the_difference(
    run, tmp_path, name
):
    out = str(tmp_path / name)
    sample.main(str(run), num=2, out=out)
    before = data.load(out).pixels
    with pytest.raises(RunError, match="seed 0 there, 3 now"):
        sample.main(str(run), num=3, out=out, seed=3)
    with pytest.raises(RunError, match="sampler levels 12 there, 5 now"):
        sample.main(str(run), num=3, out=out, steps=5)
    moved = jax.tree.map(lambda leaf: leaf + 1e-3, IMAGES.params)
    save_model(run / "model.safetensors", IMAGES._replace(params=moved))
    with pytest.raises(RunError, match="model checksum"):
        sample.main(str(run), num=3, out=out)
    np.testing.assert_array_equal(data.load(out).pixels, before)


def test_what_is_not_its_own_is_left_alone(run, tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    for out in ("other.npz", "other"):
        with pytest.raises(RunError, match="holds something else than samples"):
            sample.main(str(run), num=2, out=str(tmp_path / out))
    for out in (run, run / "samples.npz", run / "more"):
        with pytest.raises(RunError, match="in the folder of the run itself"):
            sample.main(str(run), num=2, out=str(out))
        with pytest.raises(RunError, match="in the folder of the run itself"):
            sample.main(str(run / "model.safetensors"), num=2, out=str(out))
    sample.main(str(run), num=2)
    assert len(pixels(run.parent / "small-samples")) == 2
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "model.safetensors"]


def test_samples_that_are_not_finite_are_counted_and_none_is_written(run, tmp_path):
    params = jax.tree.map(lambda leaf: leaf * jnp.nan, IMAGES.params)
    save_model(run / "model.safetensors", IMAGES._replace(params=params))
    with pytest.raises(RunError, match="3 of the 3 samples from 0 on are not finite"):
        sample.main(str(run), num=4, out=str(tmp_path / "drawn"), batch_size=3)
    assert not pixels(tmp_path / "drawn")


def test_labels_and_guidance_reach_the_network(tmp_path, monkeypatch):
    run, seen = stored(tmp_path, CLASSES), []
    monkeypatch.setattr(
        Model, "denoiser", lambda self, **options: seen.append(options) or denoiser(self, **options)
    )
    sample.main(
        str(run), num=1, out=str(tmp_path / "drawn"),
        label="7", guidance_scale=2.0, interval=(0.1, 3.0),
    )  # fmt: skip
    assert {"label": 1, "guidance_scale": 2.0, "interval": (0.1, 3.0)} in seen
    kept = json.loads((tmp_path / "drawn" / "sampling.json").read_text())
    assert (kept["label"], kept["guidance_scale"]) == ("1", "2.0")
    with pytest.raises(ModelError, match="not among the classes: one, 7"):
        sample.main(str(run), num=1, label="cow")
    sample.main(str(run), num=1, out=str(tmp_path / "second"), label="0")
    assert seen[-1]["label"] == 0


denoiser = Model.denoiser


class Walk(NamedTuple):
    """A sampler of energies that returns the gradient at a draw: enough to see what it is given."""

    steps: int = 1

    def __call__(self, energy_fn, key, like):
        return jax.grad(energy_fn)(jax.random.normal(key, like.shape))


def test_an_energy_is_sampled_to_points_in_the_units_of_the_data(tmp_path, monkeypatch):
    net = nets.EnergyMLP((4,))
    params = net.init(jax.random.key(0), jnp.zeros(3))
    model = Model(net, params, (3,), None, Walk(), scale=jnp.array([1.0, 2.0, 4.0]))
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(sample, "load", lambda path: model)
    monkeypatch.setattr(sample, "described", lambda sampler: {"name": "Walk"})
    run = str(tmp_path / "model.safetensors")
    sample.main(run, num=4)
    key = example_keys(jax.random.key(0), jnp.arange(4))[2]
    expected = jax.grad(model.energy)(jax.random.normal(key, (3,)))
    found = np.load(tmp_path / "model-samples.npz")["samples"]
    np.testing.assert_allclose(found[2], expected, rtol=1e-5)
    with pytest.raises(RunError, match="no images: give --out a file that ends in"):
        sample.main(run, num=4, out=str(tmp_path / "folder"))
    with pytest.raises(RunError, match="is an energy without labels"):
        sample.main(run, num=4, label="1")


def test_the_samples_of_a_run_are_judged_by_its_folder(run, tmp_path):
    assert samples_of("digits") == "digits"
    with pytest.raises(RunError, match=f"ebm-jax sample {run}"):
        samples_of(str(run))
    (run / "samples.npz").touch()
    assert samples_of(str(run)) == str(run / "samples.npz")
