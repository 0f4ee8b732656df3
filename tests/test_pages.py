"""The lines of the documentation on trained runs, which the pages' own tests skip, run here."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ebm_jax
from ebm_jax.runs import save_model
from tests.test_models import CLASSES, DENOISER, ENERGY, SAMPLER

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"tests/test_pages.py runs these lines.*?```python\n(.*?)```", re.DOTALL)
PAGES = ("getting-started", "how-to/labels-and-guidance", "how-to/load-and-sample")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with a run of each kind that the pages load."""
    digits = CLASSES._replace(names=("cat", "dog", "7"), sampler=SAMPLER)
    edm = DENOISER._replace(sampler=SAMPLER)
    for name, model in (("edm", edm), ("digits", digits), ("energy", ENERGY)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        save_model(tmp_path / "runs" / name / "model.safetensors", model)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_lines_on_trained_runs_do_what_they_say(page, runs):
    [code] = BLOCK.findall((DOCS / f"{page}.md").read_text())
    scope: dict = {"ebm_jax": ebm_jax}
    exec(code, scope)
    x, sigma = jax.random.normal(jax.random.key(1), DENOISER.shape), jnp.float32(0.5)
    if page == "getting-started":
        assert scope["seven"].shape == CLASSES.shape
        expected = CLASSES.denoiser()(x, sigma)
    elif page == "how-to/labels-and-guidance":
        expected = CLASSES.denoiser(label=2, guidance_scale=2.0)(x, sigma)
    else:
        assert scope["sample"].shape == DENOISER.shape
        assert scope["many"].shape == (64, *DENOISER.shape)
        point = jnp.ones(ENERGY.shape)
        np.testing.assert_allclose(scope["energy_fn"](point), ENERGY.energy(point), rtol=1e-6)
        expected = DENOISER.denoiser()(x, sigma)
    np.testing.assert_allclose(scope["denoise_fn"](x, sigma), expected, rtol=1e-5, atol=1e-6)


def test_every_page_that_names_this_file_is_tested_here():
    named = {
        str(page.relative_to(DOCS).with_suffix(""))
        for page in DOCS.rglob("*.md")
        if "test_pages.py" in page.read_text()
    }
    assert named == set(PAGES)
