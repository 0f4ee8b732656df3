"""The README's example runs as printed, and learns the law that it draws from."""

import re
from pathlib import Path

import jax
import numpy as np

from tests.statistics import assert_mean


def test_the_readmes_example_learns_eight_gaussians():
    """Samples have the second moment of the smoothed law, radius^2 + 2 (scale^2 + sigma^2).

    Chains start at the center, from where all eight modes are equally far; a tenth of the
    moment is left for the error of the short training.
    """
    text = (Path(__file__).parents[1] / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
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
