"""Warm-up: adapts a step size to a target acceptance rate, then fixes it.

Nesterov's dual averaging as in arXiv:1111.4246, section 3.2: at step t, with acceptance a_t,

    H_t = (1 - 1 / (t + 10)) H_(t-1) + (target - a_t) / (t + 10)
    log h_t = mu - sqrt(t) / .05 H_t,            mu = log(10 h_0)
    log hbar_t = t^(-3/4) log h_t + (1 - t^(-3/4)) log hbar_(t-1)

While it adapts, the chain is not Markov; the kernel with the final step size is again exact.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ebm_jax._checks import check_count, check_positive
from ebm_jax.samplers.mcmc.kernel import Kernel
from ebm_jax.types import Example, PRNGKey, Scalar


def warm_up(
    make_kernel: Callable[[Scalar], Kernel],
    key: PRNGKey,
    x: Example,
    *,
    num_steps: int,
    target: float,
    initial: float,
) -> tuple[Kernel, Any, Scalar]:
    """Adapts the step size of one chain by dual averaging.

    The result depends on this chain alone, also under `vmap`.

        kernel, state, _ = warm_up(lambda h: mala(energy_fn, step_size=h), key, x, ...)
        state, draws = run(kernel, other_key, state, 1000, collect=...)

    Args:
        make_kernel: makes a kernel of a step size; the kernel's info has a field `accept_prob`.
        key: PRNG key of the warm-up.
        x: the start of the chain.
        num_steps: number of adaptation steps, at least 1; some hundreds are usual.
        target: target acceptance rate: 0.234 for `random_walk`, 0.574 for `mala`, 0.65 for `hmc`.
        initial: h_0, the first step size, positive.

    Returns:
        The kernel with the averaged step size, the state of the chain, and that step size.

    Raises:
        ValueError: if `num_steps`, `target` or `initial` is out of range.

    References:
        Hoffman & Gelman, arXiv:1111.4246.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import samplers
        >>> make_kernel = lambda h: samplers.random_walk(lambda x: jnp.sum(x**2) / 2, step_size=h)
        >>> kernel, state, step_size = samplers.warm_up(
        ...     make_kernel, jax.random.key(0), jnp.zeros(10),
        ...     num_steps=500, target=0.234, initial=1.0)
        >>> bool(0.4 < step_size < 1.2)  # the optimum is about 2.4 / sqrt(10)
        True
    """
    check_positive("warm_up", initial=initial)
    if not 0 < target < 1:
        raise ValueError(f"`warm_up` got target={target}: give an acceptance between 0 and 1.")
    check_count("warm_up", num_steps=num_steps)
    mu = jnp.log(jnp.float32(10.0 * initial))

    def adapt(carry: tuple[Any, Scalar, Scalar, Scalar], index: Array) -> tuple[Any, None]:
        state, log_step, log_average, shortfall = carry
        key_step = jax.random.fold_in(key, index)
        state, info = make_kernel(jnp.exp(log_step)).step(key_step, state)
        t = index.astype(jnp.float32) + 1
        rate = 1 / (t + 10)
        accept_prob = info.accept_prob.astype(jnp.float32)
        shortfall = (1 - rate) * shortfall + rate * (target - accept_prob)
        log_step = mu - jnp.sqrt(t) / 0.05 * shortfall
        weight = t**-0.75
        log_average = weight * log_step + (1 - weight) * log_average
        return (state, log_step, log_average, shortfall), None

    first = jnp.log(jnp.float32(initial))
    start = (make_kernel(jnp.exp(first)).init(x), first, first, jnp.zeros((), jnp.float32))
    (state, _, log_average, _), _ = jax.lax.scan(adapt, start, jnp.arange(num_steps))
    step_size = jnp.exp(log_average)
    return make_kernel(step_size), state, step_size
