"""A model saved and loaded is the same function; a damaged or foreign file is refused."""

import json
import os
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax
from ebm_jax import nets, noise
from ebm_jax.nets import precondition
from ebm_jax.recipes import AnnealedSampler
from ebm_jax.runs import Model, ModelError, save_model

SAMPLER = AnnealedSampler(noise.geometric(5.0, 0.1, 4), steps=2, ratio=0.2)
SIGMA = jnp.float32(0.7)
IMAGE = jax.random.normal(jax.random.key(9), (8, 8, 1))


def trained(net, wrap, shape, **rest):
    """As if trained: every parameter moved from its start, which may be zero."""
    params = nets.initial_parameters(net, wrap, jax.random.key(0), jnp.zeros(shape))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return Model(net, jax.tree.unflatten(structure, moved), shape, wrap, **rest)


DENOISER = trained(
    nets.ConvScore((8,), 1),
    partial(precondition.edm, sigma_data=0.6),
    (8, 8, 1),
    about={"config": {"seed": 3}},
)
CLASSES = trained(
    nets.UNet(8, (1, 1), 1, (4,), num_classes=3, groups=2), precondition.vp, (8, 8, 1),
    names=("cat", "dog", "7"),
)  # fmt: skip
ENERGY = trained(
    nets.EnergyMLP((16,)), None, (3,),
    center=jnp.array([1.0, 2.0, 3.0]), scale=jnp.array([2.0, 1.0, 0.5]),
)  # fmt: skip


@pytest.fixture
def stored(tmp_path):
    def through_a_file(model):
        save_model(tmp_path / "model.safetensors", model)
        return ebm_jax.load(tmp_path)

    return through_a_file


def test_a_denoiser_comes_back_to_the_bit(stored):
    model = stored(DENOISER)
    expected = precondition.edm(
        partial(DENOISER.net.apply, DENOISER.params), sigma_data=0.6
    )(IMAGE, SIGMA)  # fmt: skip
    np.testing.assert_array_equal(model.denoiser()(IMAGE, SIGMA), expected)
    assert (model.shape, dict(model.about)) == ((8, 8, 1), {"config": {"seed": 3}})


def test_an_energy_comes_back_in_the_units_of_the_data(stored):
    x = jnp.array([0.3, -1.0, 2.0])
    inside = (x - ENERGY.center) / ENERGY.scale
    expected = ENERGY.net.apply(ENERGY.params, inside)
    np.testing.assert_array_equal(stored(ENERGY).energy(x), expected)


def test_a_label_is_a_class_by_number_or_name_and_guidance_extrapolates(stored):
    model = stored(CLASSES)
    raw = lambda label: precondition.vp(  # noqa: E731
        lambda x, level: CLASSES.net.apply(CLASSES.params, x, level, jnp.asarray(label))
    )(IMAGE, SIGMA)
    np.testing.assert_allclose(model.denoiser(label=1)(IMAGE, SIGMA), raw(1), rtol=1e-5)
    np.testing.assert_allclose(model.denoiser(label="dog")(IMAGE, SIGMA), raw(1), rtol=1e-5)
    np.testing.assert_allclose(
        model.denoiser(label=7)(IMAGE, SIGMA), raw(2), rtol=1e-5
    )  # named "7"
    free = precondition.vp(partial(CLASSES.net.apply, CLASSES.params))(IMAGE, SIGMA)
    assert np.abs(raw(1) - free).max() > 1e-2
    guided = model.denoiser(label=1, guidance_scale=3.0)(IMAGE, SIGMA)
    np.testing.assert_allclose(guided, free + 3 * (raw(1) - free), rtol=1e-5, atol=1e-5)
    outside = model.denoiser(label=1, guidance_scale=3.0, interval=(1.0, 2.0))
    np.testing.assert_allclose(outside(IMAGE, SIGMA), raw(1), rtol=1e-5)


def test_a_model_draws_by_its_own_sampler(stored):
    model = stored(DENOISER._replace(sampler=SAMPLER))
    key = jax.random.key(4)
    expected = SAMPLER(DENOISER.denoiser(), key, jnp.zeros((8, 8, 1)))
    np.testing.assert_allclose(model.draw(jax.random.clone(key)), expected, rtol=1e-5)
    with pytest.raises(ModelError, match="without a sampler"):
        stored(DENOISER).draw(jax.random.key(0))


def test_another_process_loads_it_without_the_code_that_made_it(tmp_path):
    """In an empty folder, with neither optimizer nor checkpoints nor experiments imported."""
    save_model(tmp_path / "sent.safetensors", ENERGY)
    program = (
        "import sys, ebm_jax, jax.numpy as jnp\n"
        "print(float(ebm_jax.load('sent.safetensors').energy(jnp.ones(3))))\n"
        "assert not {'orbax', 'tyro', 'experiments', 'matplotlib'} & set(sys.modules)\n"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(float(ENERGY.energy(jnp.ones(3))), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: DENOISER.energy, "is a denoiser"),
        (lambda: ENERGY.denoiser(), "is an energy"),
        (lambda: DENOISER.denoiser(label=0), "trained with labels"),
        (lambda: CLASSES.denoiser(label=3), "not among the classes: cat, dog, 7"),
        (lambda: CLASSES.denoiser(label="cow"), "not among the classes"),
        (lambda: CLASSES.denoiser(guidance_scale=2.0), "needs a label"),
    ],
)
def test_what_a_model_does_not_have_is_refused(call, sentence):
    with pytest.raises(ModelError, match=sentence):
        call()


def edit(path, change):
    """Rewrites the JSON in the header of the file."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    plain = json.loads(header["__metadata__"]["ebm_jax"])
    change(plain)
    header["__metadata__"]["ebm_jax"] = json.dumps(plain)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("{}"),
    "newer": lambda path: edit(path, lambda plain: plain.update(format=99)),
    "no network": lambda path: edit(path, lambda plain: plain.pop("net")),
    "a foreign name": lambda path: edit(
        path, lambda plain: plain.update(net={"name": "os.system"})
    ),
    "another network": lambda path: edit(
        path, lambda plain: plain["net"]["with"].update(widths=[17])
    ),
    "another shape": lambda path: edit(path, lambda plain: plain.update(shape=[4])),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, damage):
    path = tmp_path / "model.safetensors"
    save_model(path, ENERGY)
    damage(path)
    with pytest.raises(ModelError) as caught:
        ebm_jax.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_where_there_is_no_model_the_path_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ModelError, match=f"{path} holds no model"):
            ebm_jax.load(path)
