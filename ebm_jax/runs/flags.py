"""Checks of flags and data, made before a run claims its folder."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.data import Images, fingerprint
from ebm_jax.runs.endings import RunError

MOST = 2**31 - 1  # indices on a device have 32 bits
LARGEST_SEED = 2**32 - 1  # keys are made from the lowest 32 bits
LARGEST, LEAST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
AT_LEAST = {  # a standard error, a covariance or a ladder needs two
    "num_likelihoods": 2,
    "num_levels": 2,
    "num_chains": 2,
    "num_replicas": 2,
    "num_fits": 2,
}
UNSTABLE = "give smaller steps, a lower highest level, or train for longer"
BELOW_ONE = ("ema_decay", "weight")


def check_flags(options: Mapping[str, Any]) -> None:
    """Refuses numbers that no experiment can use, naming the flag.

    Raises:
        RunError: A number is not positive, not finite or too large for its kind; a seed is
            negative; `sigma_min` is not below `sigma_max`.
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
    """Returns what a flag takes if it does not take this number, else ""."""
    if name == "seed":
        return "" if 0 <= number <= LARGEST_SEED else f"a number from 0 to {LARGEST_SEED}"
    if name in ("num_processes", "process_id"):  # 0 and -1 mean that they were not given
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
    """Returns the data part of a run's configuration: image counts, shapes and checksums."""
    return {"training_images": fingerprint(images), "held_out_images": fingerprint(held_out)}


def check_judged(images: Images, held_out: Images, num_samples: int | None) -> None:
    """Refuses data that `judge.judge_images` cannot compare.

    Raises:
        RunError: There are fewer than two samples, training images or held-out images, or the
            labels are not class numbers counted from 0.
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
    """Refuses fewer than two training or held-out images, which have no standard error.

    Raises:
        RunError: There are fewer than two of either.
    """
    for name, some in (("training", images), ("held-out", held_out)):
        if len(some.pixels) < 2:
            raise RunError(
                f"--data holds {len(some.pixels)} {name} image: give at least 2 of each kind."
            )


def samples_to_draw(num_samples: int | None, num_held_out: int) -> int:
    """Returns `num_samples`, by default the number of held-out images, at most 1000."""
    return num_samples or min(num_held_out, 1000)


def check_network(init: Callable[..., Any], shape: tuple[int, ...], *more: Any) -> None:
    """Refuses a network that cannot take images of this shape; nothing is computed.

    Args:
        init: init(key, x, *more), which returns the network's parameters.
        shape: shape of one image.
        more: further inputs of the network, such as a noise level.

    Raises:
        RunError: The network raises a ValueError or TypeError; the message is the same.
    """
    try:
        jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32), *more)
    except (ValueError, TypeError) as error:
        raise RunError(str(error)) from error


def finite(what: str, x: Any, mend: str) -> np.ndarray:
    """Returns `x` unchanged as an array, with examples on its first axis, if all are finite.

    Raises:
        RunError: Some are not; the message gives their number and advice.
    """
    array = np.asarray(x)
    bad = int(np.sum(~np.isfinite(array).reshape(len(array), -1).all(1)))
    if bad:
        raise RunError(f"{bad} of {len(array)} {what} are not finite: {mend}.")
    return array
