"""Annealed importance sampling (AIS), forward and reverse: a bracket of log Z with errors.

Along E_b = (1 - b) E_0 + b E_1, a chain that starts from an exact draw of p_0 and moves by
kernels that keep p_b accumulates

    log w = sum_k (b_k - b_(k-1)) (E_0(x_(k-1)) - E_1(x_(k-1))),   E[w] = Z_1 / Z_0,

for any kernels, however far from equilibrium (Neal, physics/9803008). By Jensen's inequality,
the mean of log w and, on average, the log of the mean of w are at most log Z_1 / Z_0. The same
run backward from exact draws of p_1 bounds it from above, so that the two enclose the truth
(arXiv:1511.02543, bidirectional Monte Carlo). If no exact draws of p_1 exist, the ends of long
chains replace them, and the upper bound is only as good as these draws.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ebm_jax.composition import product
from ebm_jax.samplers import Kernel, run
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar


class LogMean(NamedTuple):
    """An estimate of log E[w].

    Attributes:
        value: the log of the mean weight; its expectation is at most log E[w].
        standard_error: by the delta method: the standard deviation of w divided by its mean and
            by sqrt(n). Trust it if `effective` is at least a few tens.
        effective: effective sample size of the weights, (sum w)^2 / sum w^2.
    """

    value: Scalar
    standard_error: Scalar
    effective: Scalar


class Bracket(NamedTuple):
    """Bounds of log Z_1 / Z_0 in expectation.

    Attributes:
        lower: the lower bound, from the forward runs.
        upper: the upper bound, from the reverse runs.
    """

    lower: LogMean
    upper: LogMean


def annealed_log_weight(
    make_kernel: Callable[[EnergyFn], Kernel],
    energy_from: EnergyFn,
    energy_to: EnergyFn,
    key: PRNGKey,
    x: Example,
    betas: Float[Array, " levels"],
    *,
    steps_per_level: int = 1,
) -> tuple[Scalar, Example]:
    """Runs one AIS chain from `energy_from` to `energy_to`; returns its log weight and last point.

    For the reverse run, swap the two energies and start from a draw of p_1. The betas rise from 0
    to 1 either way, and the mean of the weight is then Z_0 / Z_1.

    Args:
        make_kernel: makes a kernel that keeps exp(-E) for a given E, such as
            `lambda energy_fn: mala(energy_fn, step_size=0.1)`. A kernel with a bias (`ula`)
            biases the weights.
        energy_from: E_0(x).
        energy_to: E_1(x).
        key: PRNG key of the chain.
        x: an exact draw of exp(-E_0).
        betas: b_0 = 0 < ... < b_K = 1, as from `jnp.linspace(0, 1, K + 1)`.
        steps_per_level: transitions at each level, at least 1.

    Returns:
        log w, and the point after the transitions at b_K.

    Raises:
        ValueError: for fewer than two betas, concrete betas that do not rise from 0 to 1, and
            from `run` and the kernel.

    References:
        Neal, physics/9803008.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import likelihood, samplers
        >>> energy_from, energy_to = lambda x: jnp.sum(x**2) / 2, lambda x: jnp.sum(x**2) / 2 + 1
        >>> log_w, _ = likelihood.annealed_log_weight(
        ...     lambda energy_fn: samplers.mala(energy_fn, step_size=0.3), energy_from, energy_to,
        ...     jax.random.key(0), jnp.ones(1), jnp.linspace(0, 1, 10))
        >>> round(float(log_w), 3)  # a constant offset in E has this weight with any kernel
        -1.0
    """
    _check_betas(betas)

    def level(x: Example, visit: tuple[Array, Scalar, Scalar]) -> tuple[Example, Scalar]:
        key, before, beta = visit

        between = product([energy_from, energy_to], [1 - beta, beta])
        log_w = (beta - before) * (energy_from(x) - energy_to(x))
        kernel = make_kernel(between)
        state, _ = run(kernel, key, kernel.init(x), steps_per_level)
        return state.x, log_w

    keys = jax.random.split(key, betas.shape[0] - 1)
    x, log_ws = jax.lax.scan(level, x, (keys, betas[:-1], betas[1:]))
    return jnp.sum(log_ws), x


def log_mean_weight(log_weights: Float[Array, " n"]) -> LogMean:
    """Returns the log of the mean of exp(log_weights), with its standard error.

    Raises:
        ValueError: for fewer than 2 weights.
    """
    n = log_weights.shape[0]
    if n < 2:
        raise ValueError(f"`log_mean_weight` got {n} weights: give at least 2.")
    value = jax.nn.logsumexp(log_weights) - jnp.log(n)
    relative = jnp.exp(log_weights - value)
    error = jnp.std(relative, ddof=1) / jnp.sqrt(jnp.float32(n))
    return LogMean(value, error, n / jnp.mean(relative**2))


def log_z_bracket(forward: Float[Array, " n"], reverse: Float[Array, " m"]) -> Bracket:
    """Brackets log Z_1 / Z_0 by the log weights of forward and reverse AIS runs.

    Add log Z_0 to both bounds for log Z_1. The truth lies between lower and upper up to their
    standard errors; the gap between them shows how well the chains equilibrated.

    Args:
        forward: log weights of n forward runs.
        reverse: log weights of m reverse runs.

    Raises:
        ValueError: for fewer than 2 weights on either side.
    """
    lower, upper = log_mean_weight(forward), log_mean_weight(reverse)
    return Bracket(lower, upper._replace(value=-upper.value))


def _check_betas(betas: Float[Array, " levels"]) -> None:
    good = betas.shape[0] >= 2
    if good and not isinstance(betas, jax.core.Tracer):
        known = np.asarray(betas)
        good = bool(known[0] == 0 and known[-1] == 1 and np.all(np.diff(known) > 0))
    if not good:
        raise ValueError(
            f"`annealed_log_weight` got betas={betas}: give at least 2, rising from 0 to 1."
        )
