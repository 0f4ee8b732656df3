"""What flags may hold: everything that can be refused is refused before a run owns its folder."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.data import Images, fingerprint
from ebm_jax.runs.endings import RunError

MOST = 2**31 - 1  # an index on a device is of 32 bits
LARGEST_SEED = 2**32 - 1  # keys are made of the lowest 32 bits
LARGEST, LEAST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
AT_LEAST = {  # where one is too few: for a standard error, a covariance, a ladder
    "num_likelihoods": 2,
    "num_levels": 2,
    "num_chains": 2,
    "num_replicas": 2,
    "num_fits": 2,
}
UNSTABLE = "give smaller steps, a lower highest level, or train for longer"
BELOW_ONE = ("ema_decay", "weight")


def check_flags(options: Mapping[str, Any]) -> None:
    """Refuse numbers that no experiment can use, by the name of their flag.

    Raises:
        RunError: for a number that is not positive, not finite, or too large for its kind; for a
            negative seed; for `sigma_min` that is not below `sigma_max`.
    """
    for name, value in options.items():
        for number in value if isinstance(value, tuple | list) else (value,):
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if is_number and (wanted := _wanted(name, number)):
                raise RunError(f"--{name.replace('_', '-')} got {value}: give {wanted}.")
    low, high = options.get("sigma_min"), options.get("sigma_max")
    if low is not None and high is not None and low >= high:
        raise RunError(f"--sigma-min got {low} and --sigma-max {high}: give a lower and a higher.")


def _wanted(name: str, number: int | float) -> str:
    """What a flag of this name takes, if not this number; "" if it takes that."""
    if name == "seed":
        return "" if 0 <= number <= LARGEST_SEED else f"a number from 0 to {LARGEST_SEED}"
    if name in ("num_processes", "process_id"):  # 0 and -1 say that they were not given
        return ""
    if not number > 0:
        return "a positive number"
    if isinstance(number, int) and number > MOST:
        return f"at most {MOST}"
    if not LEAST <= number <= LARGEST:
        return f"a finite number, from {LEAST:.3g} to {LARGEST:.3g}"
    if name in BELOW_ONE and number >= 1:
        return "a number between 0 and 1"
    least = AT_LEAST.get(name, 0)
    return f"at least {least}" if number < least else ""


def described(images: Images, held_out: Images) -> dict[str, Any]:
    """Returns what belongs to a run's configuration: its images by count, shape and checksum."""
    return {"training_images": fingerprint(images), "held_out_images": fingerprint(held_out)}


def check_judged(images: Images, held_out: Images, num_samples: int | None) -> None:
    """Refuse what `judge.judge_images` cannot compare: single images, labels that are none.

    Raises:
        RunError: for fewer than two samples, training images or held-out images, and for labels
            that do not count classes from 0.
    """
    if num_samples == 1:
        raise RunError("--num-samples got 1: give at least 2, whose distribution can be judged.")
    check_counts(images, held_out)
    for some in (images, held_out):
        if some.labels is None:
            continue
        labels = np.asarray(some.labels[:])
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= 2**16:
            raise RunError(
                f"the labels of --data go from {labels.min()} to {labels.max()}: number the "
                "classes from 0, or leave the labels out."
            )


def check_counts(images: Images, held_out: Images) -> None:
    """Refuse fewer than two training or held-out images, of which there is no standard error.

    Raises:
        RunError: for these.
    """
    for name, some in (("training", images), ("held-out", held_out)):
        if len(some.pixels) < 2:
            raise RunError(
                f"--data holds {len(some.pixels)} {name} image: give at least 2 of each kind."
            )


def samples_to_draw(num_samples: int | None, num_held_out: int) -> int:
    """Returns `num_samples`, by default as many as were held out, at most 1000."""
    return num_samples or min(num_held_out, 1000)


def check_network(init: Callable[..., Any], shape: tuple[int, ...], *more: Any) -> None:
    """Refuse a network that cannot take images of this shape; nothing is computed.

    Args:
        init: init(key, x, *more), which makes its parameters.
        shape: of one image.
        more: what else the network takes, such as a noise level.

    Raises:
        RunError: for a network that raises ValueError or TypeError; it says what that says.
    """
    try:
        jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32), *more)
    except (ValueError, TypeError) as error:
        raise RunError(str(error)) from error


def finite(what: str, x: Any, mend: str) -> np.ndarray:
    """Returns `x` as it is, if it is finite: one array, the examples on its first axis.

    Raises:
        RunError: with the number of examples that are not finite, and what to do.
    """
    array = np.asarray(x)
    bad = int(np.sum(~np.isfinite(array).reshape(len(array), -1).all(1)))
    if bad:
        raise RunError(f"{bad} of {len(array)} {what} are not finite: {mend}.")
    return array
