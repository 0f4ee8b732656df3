"""Decays of exponential moving averages against their closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import ema


def test_ramped_rises_from_a_tenth_to_its_decay():
    taken = jnp.array([0, 8, 10**6])
    np.testing.assert_allclose(jax.vmap(ema.ramped(0.9))(taken), [0.1, 0.5, 0.9], rtol=1e-6)


def test_half_life_halves_a_weight_after_so_many_examples():
    decay = ema.half_life(1000.0, 50)
    far = float(decay(jnp.int32(10**6)))
    assert far**20 == pytest.approx(0.5, rel=1e-4)  # 20 steps of 50
    early = float(decay(jnp.int32(100)))  # 5,000 seen: the half-life is 250 of them, 5 steps
    assert early**5 == pytest.approx(0.5, rel=1e-4)
    assert float(decay(jnp.int32(0))) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ema.ramped(1.0), "`ramped` got decay=1.0"),
        (lambda: ema.half_life(0.0, 4), "`half_life` got examples=0.0"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
