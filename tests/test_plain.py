"""Values as JSON and back: the same value, public names only, nothing imported or run."""

import json
import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import nets, noise, samplers
from ebm_jax.nets import precondition
from ebm_jax.recipes import RECIPES
from ebm_jax.runs.plain import PlainError, from_plain, to_plain


def back(value):
    """Through text that any JSON reader takes."""
    text = json.dumps(to_plain(value), allow_nan=False)
    return from_plain(json.loads(text))


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, 0.1, float("inf"), -float("inf"), "a text", (1, (2.5, "x")), {"a": (1,)},
        nets.ConvScore((32, 64), 1, 2), nets.UNet(dtype=jnp.dtype("bfloat16"), num_classes=10),
        nets.EnergyMLP((16,), nn.tanh), nets.ScalarEnergy(nets.ScoreMLP((8,))),
        nets.NCSN(channels=8), noise.vp, samplers.ddim,
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)  # fmt: skip
def test_a_value_comes_back_as_it_was(value):
    assert back(value) == value


def test_partials_and_arrays_come_back_as_they_were():
    sigmas = noise.karras(80.0, 0.002, 18)
    value = back(partial(precondition.by_index, sigmas=sigmas))
    assert value.func is precondition.by_index
    np.testing.assert_array_equal(value.keywords["sigmas"], sigmas)  # to the bit
    assert value.keywords["sigmas"].dtype == jnp.float32
    process = back(partial(noise.edm, sigma_min=0.1, sigma_max=9.0))()
    assert (process.t_min, process.t_max) == (0.1, 9.0)


@pytest.mark.parametrize("name", RECIPES)
def test_networks_of_published_recipes_come_back_with_the_same_parameters(name):
    recipe = RECIPES[name]()
    net = back(recipe.net)
    assert net == recipe.net
    wrap = back(recipe.wrap)
    assert getattr(wrap, "func", wrap) is getattr(recipe.wrap, "func", recipe.wrap)


@pytest.mark.parametrize(
    "value",
    [lambda x: x, jax.jit(jnp.sin), print, object(), partial(noise.vp, 0.1), jnp.zeros(10**6),
     nn.Dense(3), {"a": lambda x: x}, jnp.array([jnp.nan])],
)  # fmt: skip
def test_what_a_file_cannot_hold_is_refused(value):
    with pytest.raises(PlainError):
        to_plain(value)


@pytest.mark.parametrize(
    "plain",
    [
        {"name": "os.system"}, {"name": "nets.nn"}, {"make": "builtins.eval", "with": {}},
        {"partial": "subprocess.run", "with": {"args": ["true"]}}, {"name": "noise.__class__"},
        {"make": "noise.vp", "with": {}}, {"make": "nets.ConvScore", "with": {"shape": 3}},
        {"float": "1e5"}, {}, {"unknown": 1}, {"name": "jax.nn.initializers"},
    ],
    ids=str,
)  # fmt: skip
def test_a_file_that_names_anything_else_is_refused_and_nothing_is_imported(plain):
    before = set(sys.modules)
    with pytest.raises(PlainError):
        from_plain(plain)
    assert set(sys.modules) == before
