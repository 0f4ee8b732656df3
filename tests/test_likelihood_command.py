"""The likelihood of images under a model, against its closed form."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ebm_jax.data import dequantize, load_split
from ebm_jax.keys import example_keys
from ebm_jax.nets import EnergyMLP
from ebm_jax.runs import Model, save_model
from ebm_jax.runs.commands import likelihood
from ebm_jax.runs.endings import RunError
from tests.test_sample import IMAGES, SCALE


@pytest.fixture
def images(tmp_path):
    pixels = np.random.default_rng(0).integers(60, 190, (40, 4, 4, 1)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels)
    return str(tmp_path / "images.npz")


def test_it_is_the_density_of_an_exact_gaussian_denoiser(tmp_path, images, capsys):
    """The flow of N(0, s^2 I) from the law smoothed by the lowest level, whose density is known."""
    model = IMAGES._replace(about={"config": {"data": images}})
    save_model(tmp_path / "model.safetensors", model)
    out = tmp_path / "found.json"
    likelihood.main(str(tmp_path), num_images=8, num_probes=8, out=str(out), seed=2)
    pixels = load_split(images)[1].pixels[:8]
    keys = example_keys(jax.random.key(2), jnp.arange(8))
    x = jax.vmap(lambda key, p: dequantize(jax.random.split(key)[0], p))(keys, pixels)
    variance = SCALE**2 + 0.01**2
    log_density = -0.5 * (np.asarray(x) ** 2 / variance + np.log(2 * np.pi * variance))
    bits = (-log_density.reshape(8, -1).mean(1) - np.log(2 / 255)) / np.log(2)
    found = json.loads(out.read_text())
    assert found["bits per dimension"] == pytest.approx(bits.mean(), abs=0.01)
    error = bits.std(ddof=1) / np.sqrt(8)
    assert found["bits per dimension, standard error"] == pytest.approx(error, abs=0.01)
    assert (found["images"], found["probes"]) == (8, 8)
    assert f"{found['bits per dimension']:.4f} bits per dimension" in capsys.readouterr().out


def test_the_runs_own_images_are_converted_as_they_were_in_training(tmp_path):
    for i in range(4):
        Image.new("RGB", (9 + i, 12), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    config = {"data": str(tmp_path), "resize": 4, "color": "gray"}
    found = likelihood.images_for(IMAGES._replace(about={"config": config}), "")
    assert found.pixels.shape == (1, 4, 4, 1)


def test_what_it_cannot_measure_is_refused(tmp_path, images):
    save_model(tmp_path / "model.safetensors", IMAGES)
    with pytest.raises(RunError, match="does not say what it was trained on: give --data"):
        likelihood.main(str(tmp_path))
    with pytest.raises(RunError, match=r"images of \(8, 8, 1\), the model is of \(4, 4, 1\)"):
        likelihood.main(str(tmp_path), data="digits")
    with pytest.raises(RunError, match=r"--levels got 2.0 1.0"):
        likelihood.main(str(tmp_path), data=images, levels=(2.0, 1.0))
    with pytest.raises(RunError, match="--num-probes got 0"):
        likelihood.main(str(tmp_path), num_probes=0)
    net = EnergyMLP((4,))
    energy = Model(net, net.init(jax.random.key(0), jnp.zeros(3)), (3,))
    save_model(tmp_path / "model.safetensors", energy)
    with pytest.raises(RunError, match="holds an energy, which has no probability flow"):
        likelihood.main(str(tmp_path))
