"""A finished run that is asked for more steps trains on, as `fit` would from its last state."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.keys import example_keys
from ebm_jax.recipes import Optimizer
from ebm_jax.runs.endings import RunError
from ebm_jax.runs.run import Run
from ebm_jax.runs.training import train
from ebm_jax.training import fit, init_state, make_step


@pytest.fixture(autouse=True)
def _standard():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int32
        yield


RATE = Optimizer(0.1, decay=True)  # falls to 0 at the last step


def start():
    return {"w": jnp.arange(3.0)}


def loss(params, key, x):
    return jnp.sum((params["w"] - x + 0.1 * jax.random.normal(key, (3,))) ** 2)


def batches(first, count):
    index = first * 4 + jnp.arange(count * 4)
    draw = jax.vmap(lambda key: jax.random.normal(key, (3,)))
    return draw(example_keys(jax.random.key(1), index)).reshape(count, 4, 3)


def run_for(folder, num_steps, **flags):
    """A whole run, as an experiment makes it; None if it was done."""
    run = Run("small", str(folder), {"num_steps": num_steps, "seed": 0, **flags})
    if not run.begin(products=()):
        return None
    state = train(
        run, loss, start(), RATE.make(num_steps), batches, num_steps=num_steps, batch_size=4,
        seed=0, steps_per_call=2, ema_decay=0.9,
    )  # fmt: skip
    run.finish({"steps": float(int(state.step))})
    return state


def test_it_is_what_fit_gives_from_that_state_by_the_schedule_of_the_longer_run(tmp_path, capsys):
    run_for(tmp_path / "run", 4)
    found = run_for(tmp_path / "run", 10)
    said = capsys.readouterr().out
    assert "a run of 4 steps, which now trains on to 10: the learning rate rises again" in said
    assert "resumed from step 4" in said

    short, long = (make_step(loss, RATE.make(num_steps), ema_decay=0.9) for num_steps in (4, 10))
    state = init_state(start(), RATE.make(4), jax.random.key(0))
    *_, (at_4, _) = fit(short, state, batches, num_steps=4, steps_per_call=2)
    *_, (at_10, _) = fit(long, at_4, batches, num_steps=10, steps_per_call=2)
    for name in ("params", "ema"):
        expected = getattr(at_10, name)["w"]
        np.testing.assert_allclose(getattr(found, name)["w"], expected, rtol=1e-6)
    assert int(found.step) == 10
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results == {"steps": 10.0}
    assert json.loads((tmp_path / "run" / "config.json").read_text())["num_steps"] == 10
    steps = [row["step"] for row in Run("small", str(tmp_path / "run")).rows()]
    assert steps == ["2", "4", "6", "8", "10"]
    assert run_for(tmp_path / "run", 10) is None  # done


def test_fewer_steps_and_other_flags_are_refused_and_nothing_is_lost(tmp_path):
    run_for(tmp_path, 4)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    for num_steps, flags, sentence in (
        (2, {}, "num_steps 4 there, 2 now"),
        (8, {"width": 3}, "num_steps 4 there, 8 now; width None there, 3 now"),
    ):
        with pytest.raises(RunError, match=sentence):
            run_for(tmp_path, num_steps, **flags)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_a_run_that_saved_no_training_is_refused(tmp_path):
    """Its rows are figures of other fits of num_steps each, not the beginning of longer ones."""
    run = Run("fits", str(tmp_path), {"num_steps": 4})
    assert run.begin(products=())
    run.add_row({"step": 1, "loss": 0.5})
    run.finish({})
    with pytest.raises(RunError, match="num_steps 4 there, 8 now"):
        Run("fits", str(tmp_path), {"num_steps": 8}).begin()


def test_killed_between_the_two_writes_it_still_trains_on(tmp_path):
    """The results go first: with them and the new configuration it would seem done."""
    run_for(tmp_path, 4)
    (tmp_path / "results.json").unlink()
    state = run_for(tmp_path, 6)
    assert int(state.step) == 6
