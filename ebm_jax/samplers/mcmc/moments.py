"""Running mean and variance of a chain, in memory that does not grow with the number of steps.

The mean m and the sum of squares S are updated with every value v, the n-th, by

    e = v - m,   m <- m + e / n,   S <- S + e (v - m)

(Welford). After many steps the increments are below the round-off of m and S, so each sum is
carried as a pair of numbers, the second of which holds what the first has rounded off (Kahan,
Further remarks on reducing truncation errors, Communications of the ACM 1965).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ebm_jax._precision import wide_dtype
from ebm_jax.samplers.mcmc.kernel import Kernel, run, same_dtypes
from ebm_jax.types import Example, PRNGKey


class Moments(NamedTuple):
    """Mean and variance of each entry of a statistic over the steps of a chain.

    Attributes:
        num_steps: the number of steps that were counted, an integer.
        mean: the mean of each entry, in float32 or wider.
        variance: the mean squared deviation from `mean` of each entry.
    """

    num_steps: Int[Array, ""]
    mean: PyTree
    variance: PyTree


class _Sum(NamedTuple):
    """A running sum; `rest` holds what `value` has rounded off."""

    value: Array
    rest: Array

    def plus(self, term: Array) -> "_Sum":
        """Adds a term that is small compared with the sum."""
        term = term + self.rest
        value = self.value + term
        return _Sum(value, term - (value - self.value))


class _Running(NamedTuple):
    inner: Any
    taken: Int[Array, ""]
    means: list[_Sum]
    squares: list[_Sum]

    @property
    def x(self) -> Example:
        return self.inner.x


def moments(
    kernel: Kernel,
    key: PRNGKey,
    state: Any,
    num_steps: int,
    *,
    statistic: Callable[[Any, Any], PyTree] = lambda state, info: state.x,
    burn_in: int = 0,
) -> tuple[Any, Moments]:
    """Returns the running mean and variance of a statistic over `num_steps` transitions.

    Their error is that of float64 sums of the same values: about 1e-6 of the standard deviation
    for the mean, whatever the number of steps and the distance of the values from 0.

    Args:
        kernel: the Markov kernel.
        key: PRNG key of the chain, which is the same chain as that of `run` with this key.
        state: the start of the chain, from `kernel.init(x)`.
        num_steps: number of transitions to count, from 1 to 2^31 - 1.
        statistic: a function of (state, info) that returns the numbers to average; the point by
            default. Booleans count as 0 and 1.
        burn_in: number of transitions before the first that counts.

    Returns:
        The last state, and the moments.

    Raises:
        ValueError: if `num_steps` or `burn_in` is out of range.

    References:
        Welford, Note on a method for calculating corrected sums of squares and
        products, Technometrics 1962.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import samplers
        >>> kernel = samplers.mala(lambda x: jnp.sum((x - 3) ** 2) / 2, step_size=1.0)
        >>> _, found = samplers.moments(kernel, jax.random.key(0), kernel.init(jnp.ones(1)), 20_000)
        >>> round(float(found.mean[0]), 1), round(float(found.variance[0]), 1)
        (3.0, 1.0)
    """
    if num_steps >= 2**31:
        raise ValueError(f"`moments` got num_steps={num_steps}: give at most 2^31 - 1.")
    if burn_in:
        key, key_burn = jax.random.split(key)
        state, _ = run(kernel, key_burn, state, burn_in)
    like = jax.eval_shape(lambda s: statistic(*kernel.step(jax.random.key(0), s)), state)
    shapes, structure = jax.tree.flatten(like)
    zeros = [jnp.zeros(leaf.shape, wide_dtype(leaf.dtype)) for leaf in shapes]

    def draw(key: PRNGKey, state: _Running, num_steps: int) -> PyTree:
        return kernel.draw(key, state.inner, num_steps)

    def move(noise: PyTree, old: _Running) -> tuple[_Running, None]:
        moved, info = kernel.move(noise, old.inner)
        inner, taken = same_dtypes(moved, old.inner), old.taken + 1
        means, squares = [], []
        values = jax.tree.leaves(statistic(inner, info))
        for value, zero, mean, square in zip(values, zeros, old.means, old.squares, strict=True):
            value = value.astype(zero.dtype)
            error = value - mean.value - mean.rest
            mean = mean.plus(error / taken.astype(zero.dtype))
            means.append(mean)
            squares.append(square.plus(error * (value - mean.value - mean.rest)))
        return _Running(inner, taken, means, squares), None

    nothing = [_Sum(zero, zero) for zero in zeros]
    start = _Running(state, jnp.zeros((), jnp.int32), nothing, nothing)
    end, _ = run(Kernel(kernel.init, draw, move), key, start, num_steps)
    mean = [m.value + m.rest for m in end.means]
    variance = [(s.value + s.rest) / end.taken.astype(s.value.dtype) for s in end.squares]
    found = (jax.tree.unflatten(structure, leaves) for leaves in (mean, variance))
    return end.inner, Moments(end.taken, *found)
