"""The README's example runs as printed, and learns the law that it draws from."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.runs import save_model
from tests.statistics import assert_mean
from tests.test_models import CLASSES, DENOISER, ENERGY, SAMPLER

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), flags=re.DOTALL
)


def test_the_readmes_example_learns_eight_gaussians():
    """Samples have the second moment of the smoothed law, radius^2 + 2 (scale^2 + sigma^2).

    Chains start at the center, from where all eight modes are equally far; a tenth of the
    moment is left for the error of the short training.
    """
    [code] = [block for block in BLOCKS if "eight_gaussians" in block]
    scope: dict = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(code, scope)  # as users run it; optax promotes types too
    samples = np.asarray(scope["samples"])
    expected = 2.83**2 + 2 * (0.35**2 + 0.3**2)
    squares = np.sum(samples**2, -1)
    assert abs(float(squares.mean()) - expected) < 0.1 * expected
    angle = np.arctan2(samples[:, 1], samples[:, 0])
    assert_mean(np.cos(angle), 0.0, standard_errors=8)
    assert set(np.round(angle / (np.pi / 4)).astype(int) % 8) == set(range(8))


def test_the_readmes_lines_on_trained_models_run_on_models_of_these_kinds(tmp_path, monkeypatch):
    [code] = [block for block in BLOCKS if "ebm_jax.load" in block]
    digits = CLASSES._replace(names=("cat", "dog", "7"), sampler=SAMPLER)
    for name, model in (
        ("edm", DENOISER._replace(sampler=SAMPLER)), ("digits", digits), ("energy", ENERGY)
    ):  # fmt: skip
        (tmp_path / "runs" / name).mkdir(parents=True)
        save_model(tmp_path / "runs" / name / "model.safetensors", model)
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(code, scope)
    assert scope["sample"].shape == DENOISER.shape
    x = jax.random.normal(jax.random.key(1), CLASSES.shape)
    sigma = jnp.float32(0.5)
    expected = CLASSES.denoiser(label=2, guidance_scale=2.0)(x, sigma)
    np.testing.assert_allclose(scope["seven"](x, sigma), expected, rtol=1e-5)
    x = jnp.ones(3)
    np.testing.assert_allclose(scope["energy_fn"](x), ENERGY.energy(x), rtol=1e-6)
