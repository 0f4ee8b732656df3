"""Bracket of log Z of any energy, by annealed importance sampling (AIS) from a Gaussian.

With x = c + L z the energy becomes a function of z, and log Z gains log |det L|. If N(c, L L^T)
is close to the model, one step size suits all directions of z, and the annealing starts from
N(0, I).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ebm_jax.likelihood.importance import Bracket, annealed_log_weight, log_z_bracket
from ebm_jax.samplers import Kernel, mala, warm_up
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar

ACCEPTANCE = 0.574  # the optimal acceptance rate of `mala`
WARM_UP = 300  # steps of warm-up


def log_z_from_gaussian(
    energy_fn: EnergyFn,
    key: PRNGKey,
    ends: Float[Array, "n d"],
    center: Float[Array, " d"],
    factor: Float[Array, "d d"],
    *,
    num_levels: int,
) -> Bracket:
    """Brackets log Z by annealed importance sampling (AIS) from N(c, L L^T) and back.

    The same number of chains runs forward, from exact draws of the Gaussian, and backward, from
    draws of the model. They move by MALA, with a step size tuned to the model.

    Args:
        energy_fn: E(x) of one vector.
        key: PRNG key.
        ends: draws of exp(-E), at least 2. If they come from chains that have not mixed, the upper
            bound is only as good as these draws.
        center: c, such as the mean of the data.
        factor: L, lower triangular, such as a Cholesky factor of the covariance of the data.
        num_levels: number of annealing levels, with one step of every chain at each.

    Returns:
        Lower and upper bound of log int exp(-E(x)) dx in expectation, with standard errors.
    """
    d = center.shape[0]

    def inside(z: Example) -> Scalar:
        return energy_fn(center + factor @ z)

    def normal(z: Example) -> Scalar:
        return 0.5 * jnp.sum(z**2)

    starts = jax.vmap(lambda x: jax.scipy.linalg.solve_triangular(factor, x - center, lower=True))
    z = starts(ends)
    key_warm, key_forward, key_reverse = jax.random.split(key, 3)
    step_size = _tuned(inside, key_warm, z[:32])
    betas = jnp.linspace(0.0, 1.0, num_levels + 1)

    def weight(start: EnergyFn, end: EnergyFn) -> Callable[[PRNGKey, Example], Scalar]:
        def kernel(energy_fn: EnergyFn) -> Kernel:
            return mala(energy_fn, step_size=step_size)

        return lambda key, z: annealed_log_weight(kernel, start, end, key, z, betas)[0]

    def forward(key: PRNGKey) -> Scalar:
        key_start, key_chain = jax.random.split(key)
        return weight(normal, inside)(key_chain, jax.random.normal(key_start, (d,)))

    n = z.shape[0]
    bracket = log_z_bracket(
        jax.vmap(forward)(jax.random.split(key_forward, n)),
        jax.vmap(weight(inside, normal))(jax.random.split(key_reverse, n), z),
    )
    log_det = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(factor))))
    of_gaussian = 0.5 * d * jnp.log(2 * jnp.pi) + log_det
    return Bracket(*(bound._replace(value=bound.value + of_gaussian) for bound in bracket))


def _tuned(energy_fn: EnergyFn, key: PRNGKey, z: Float[Array, "n d"]) -> Scalar:
    """Returns the median of the step sizes that suit chains from each of these points."""

    def tune(key: PRNGKey, z: Example) -> Scalar:
        return warm_up(
            lambda step_size: mala(energy_fn, step_size=step_size),
            key, z, num_steps=WARM_UP, target=ACCEPTANCE, initial=0.1,
        )[2]  # fmt: skip

    return jnp.median(jax.vmap(tune)(jax.random.split(key, z.shape[0]), z))
