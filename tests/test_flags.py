"""Wrong flags and data: refused in one sentence, at once, with nothing left on disk.

`main` is called in this process; whatever trains or draws is replaced by a failure, so that a flag
that comes through is seen.
"""

import importlib
import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.data import Images
from ebm_jax.keys import example_keys
from ebm_jax.runs import drawing
from ebm_jax.runs import folder as _folder
from ebm_jax.runs.command import start
from ebm_jax.runs.endings import RunError
from ebm_jax.runs.flags import check_flags, finite
from ebm_jax.runs.judge import judge_images
from ebm_jax.runs.machine import ALONE, Machine
from ebm_jax.runs.run import OPEN
from tests.begun import begun

IMAGES = (
    "edm",
    "ddpm",
    "score_sde",
    "ncsn",
    "energy_cd",
    "schedule_swap",
    "inpaint",
    "likelihood_bounds",
)
OTHERS = ("energy", "nce_logz", "mode_weights", "mixing", "compare_losses", "solvers", "recipe")
BAD = {
    int: (0, -1, 2**31, 10**20),
    float: (0.0, -1.0, float("nan"), float("inf"), 1e39, 1e-60),
    "seed": (-1, 2**32, 10**20),
}


def mains():
    for name in (*IMAGES, *OTHERS):
        yield name, importlib.import_module(f"experiments.{name}").main


def wrong_numbers():
    """Every number that a flag of an experiment may be given, wrong in every way."""
    for name, main in mains():
        for flag, parameter in inspect.signature(main).parameters.items():
            default = parameter.default
            many = isinstance(default, tuple) and default and isinstance(default[0], int | float)
            kind = type(default[0]) if many else type(default)
            kind = int if "int | None" in str(parameter.annotation) else kind
            for value in BAD["seed"] if flag == "seed" else BAD.get(kind, ()):
                yield name, {flag: (*default, value) if many else value}


@pytest.fixture
def refuses(tmp_path, monkeypatch):
    """refuses(experiment, flags) -> the sentence; fails where anything is trained or left."""

    def refuse(name, flags, machine=ALONE):
        module = importlib.import_module(f"experiments.{name}")
        for work in ("train", "train_diffusion", "train_energy", "measure", "spread"):
            if hasattr(module, work):
                monkeypatch.setattr(module, work, lambda *_, **__: pytest.fail("it began"))
        more = {"name": "edm/cifar10", "data": "digits"} if name == "recipe" else {}
        with pytest.raises(RunError) as error, warnings.catch_warnings():
            start(module.main, str(tmp_path / "run"), machine, **more | flags)
        assert not (tmp_path / "run").exists()
        assert "\n" not in str(error.value)
        return str(error.value)

    return refuse


@pytest.mark.parametrize("name", [*IMAGES, *OTHERS])
def test_every_number_that_is_none_is_refused_by_its_flag(name, refuses, monkeypatch):
    """In all experiments: what is not positive, not finite, too large; seeds that no key takes."""
    digits = importlib.import_module("ebm_jax.data").load_split("digits")
    module = importlib.import_module(f"experiments.{name}")
    if hasattr(module, "load_split"):
        monkeypatch.setattr(module, "load_split", lambda _, **_flags: digits)
    mine = [flags for which, flags in wrong_numbers() if which == name]
    assert len(mine) >= 8
    for flags in mine:
        [flag] = flags
        said = refuses(name, flags)
        assert f"--{flag.replace('_', '-')}" in said, said


@pytest.mark.parametrize(
    ("names", "flags", "word"),
    [
        (("edm", "ddpm", "score_sde", "ncsn", "energy_cd", "schedule_swap"), {"num_samples": 1},
         "--num-samples got 1"),
        (("edm", "ddpm", "score_sde"), {"num_likelihoods": 1}, "--num-likelihoods got 1"),
        (("likelihood_bounds",), {"num_images": 1}, "give at least 2"),
        (("likelihood_bounds",), {"num_exact": 1}, "give at least 2"),
        (("edm", "ncsn", "mode_weights"), {"num_levels": 1}, "--num-levels got 1"),
        (("edm",), {"sigma_min": 9.0, "sigma_max": 1.0}, "--sigma-min got 9.0"),
        (("edm",), {"sigma_min": 1.0, "sigma_max": 1.0}, "--sigma-min got 1.0"),
        (("ncsn",), {"sigma_min": 1e6}, "--sigma-min"),
        (("edm", "ddpm", "score_sde", "ncsn", "energy_cd"), {"ema_decay": 1.0},
         "--ema-decay got 1.0"),
        (("edm", "ddpm", "score_sde", "ncsn", "energy_cd"), {"ema_decay": 2.0},
         "--ema-decay got 2.0"),
        (("edm", "score_sde", "schedule_swap", "inpaint", "likelihood_bounds"), {"channels": (12,)},
         "multiples of 8"),
        (("edm", "score_sde", "schedule_swap", "inpaint", "likelihood_bounds"), {"patch": 3},
         "divisible by"),
        (("ncsn", "ddpm"), {"channels": 2}, "got 2 channels"),
        (("ncsn", "ddpm"), {"multipliers": (1,) * 5}, "divisible by 16"),
        (("mode_weights", "solvers"), {"weight": 1.5}, "--weight got 1.5"),
        (("mode_weights",), {"weight": 1.0}, "--weight got 1.0"),
        (("mode_weights",), {"distance": 0.001}, "--distance got 0.001"),
        (("energy", "mode_weights", "mixing"), {"num_chains": 1}, "--num-chains got 1"),
        (("nce_logz",), {"num_fits": 1}, "--num-fits got 1"),
    ],
)  # fmt: skip
def test_flags_that_leave_nothing_to_compute_are_refused_at_once(names, flags, word, refuses):
    for name in names:
        assert word in refuses(name, flags), name


@pytest.mark.parametrize("name", ["edm", "ddpm", "score_sde", "ncsn", "energy", "nce_logz"])
def test_a_batch_that_cannot_be_divided_is_refused_before_the_folder_is_claimed(name, refuses):
    said = refuses(name, {"batch_size": 100}, Machine(accumulate=3))
    assert "--accumulate got 3 for a batch of 100" in said


def some_images(train, held_out, labels=None):
    def images(count):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1)).astype(np.uint8)
        return Images(pixels, None if labels is None else np.resize(labels, count))

    return images(train), images(held_out)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(
    ("data", "word"),
    [
        (some_images(2, 1), "1 held-out image"),
        (some_images(1, 2), "1 training image"),
        (some_images(20, 4, np.array([-1, 0])), "go from -1 to 0"),
        (some_images(20, 4, np.array([0, 10**6])), "go from 0 to 1000000"),
    ],
    ids=["one held out", "one to train on", "labels of -1", "labels of a million"],
)
def test_data_that_cannot_be_judged_are_refused_at_once(name, data, word, refuses, monkeypatch):
    if name in ("inpaint", "likelihood_bounds") and "go from" in word:
        return  # they look at no labels
    if name == "inpaint":
        return  # it judges every image by itself
    monkeypatch.setattr(f"experiments.{name}.load_split", lambda _, **_flags: data)
    assert word in refuses(name, {})


@pytest.mark.parametrize("out", ["/proc/run", "/dev/null/run", "README.md"])
def test_a_folder_that_cannot_be_written_is_a_sentence(out):
    with pytest.raises(RunError, match=r"^cannot (read|write to) the run folder [^\n]*\.$"):
        begun("x", out, {"seed": 0})


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_every_seed_that_is_allowed_makes_a_key_of_its_own_and_so_do_those_after_it(seed):
    check_flags({"seed": seed})
    data = np.asarray(jax.random.key_data(jax.random.key(seed)))
    assert data.tolist() == [0, seed]
    jax.random.key(seed + 1000)
    np.random.default_rng(seed + 1000)


def test_flags_that_are_no_numbers_are_left_alone():
    check_flags({"data": "digits", "churn": False, "num_samples": None, "only": ("a",)})
    check_flags({"num_processes": 0, "process_id": -1, "channels": (8, 16)})


# ---- what is not finite


def test_what_is_not_finite_is_counted_by_examples():
    x = np.ones((5, 2, 2), np.float32)
    assert finite("samples", x, "be careful") is x
    x[1, 0, 1], x[3], x[4, 1, 1] = np.nan, np.inf, -np.inf
    with pytest.raises(RunError, match=r"^3 of 5 samples are not finite: be careful\.$"):
        finite("samples", x, "be careful")


def broken(index):
    """A draw whose values are `index` of it alone, NaN for some."""

    def draw(key):
        value = jax.random.uniform(key, (2, 2, 1))
        return jnp.where(value[0, 0, 0] < index, jnp.nan, value)

    return draw


def test_images_that_are_not_finite_are_no_black_images():
    drawn = np.asarray(jax.vmap(broken(0.3))(example_keys(jax.random.key(0), jnp.arange(40))))
    bad = int(np.isnan(drawn[:, 0, 0, 0]).sum())
    assert 0 < bad < 40
    with pytest.raises(RunError, match=f"^{bad} of 40 samples are not finite"):
        drawing.draw_images(broken(0.3), 40, 0)
    with pytest.raises(RunError, match=f"^{bad} of 40 samples of vp are not finite"):
        drawing.draw_images(broken(0.3), 40, 0, "vp")


def test_likelihoods_that_are_not_finite_are_counted():
    pixels = np.ones((70, 2, 2, 1), np.uint8)
    pixels[[3, 66]] = 9

    def measure(key, image):
        return jnp.where(image[0, 0, 0] == 9, jnp.inf, 1.0)

    with pytest.raises(RunError, match=r"^2 of 70 likelihoods are not finite"):
        drawing.over_images(measure, pixels, 70, 0)


def test_one_likelihood_has_no_standard_error_and_nothing_warns():
    mean, error = drawing.over_images(
        lambda key, x: jnp.float32(3.0), np.ones((3, 2, 2, 1), np.uint8), 1, 0
    )
    assert mean == 3.0
    assert np.isnan(error)


# ---- how many are drawn


@pytest.mark.parametrize(("count", "sizes"), [(3, {3}), (250, {250}), (251, {250}), (600, {250})])
def test_no_more_are_drawn_in_a_call_than_were_asked_for(count, sizes, monkeypatch):
    seen = set()

    def spread(fn):
        def many(keys):
            seen.add(len(keys))
            return jax.vmap(fn)(keys)

        return many

    monkeypatch.setattr(drawing, "spread", spread)
    images = drawing.draw_images(lambda key: jax.random.uniform(key, (2, 2, 1)), count, 5)
    assert len(images) == count
    assert seen == sizes


def test_an_image_has_the_same_values_however_many_are_drawn():
    def draw(key):
        return jax.random.uniform(key, (2, 2, 1), minval=-1.0)

    many = drawing.draw_finite(draw, 300, 5)
    for count in (1, 3, 251):
        np.testing.assert_array_equal(drawing.draw_finite(draw, count, 5), many[:count])


def test_single_images_are_judged_by_what_there_is():
    train, held_out = some_images(2, 1)
    found = judge_images(train.pixels, train, held_out, 0)
    assert found["n"] == 1
    assert not any("Frechet" in name for name in found)
    far = min(np.sum((held_out.pixels[0] / 127.5 - x / 127.5) ** 2) ** 0.5 for x in train.pixels)
    assert found["median distance to the training set, held out"] == pytest.approx(far, rel=1e-5)


@pytest.fixture(autouse=True)
def _no_run_stays_open():
    yield
    OPEN.clear()
    for folder in [path.parent for path in _folder.HELD]:
        _folder.release(folder)
