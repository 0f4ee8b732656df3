"""Energy discrepancy: contrast data with their own noisy surroundings, no scores, no chains.

Blur x to y = x + sigma n. Of all that might have become y, weighted by the model,

    U(y) = -log int N(y; x', sigma^2 I) exp(-E(x')) dx'

and the discrepancy is E_data[ E(x) - E_{y|x} U(y) ]. Since x' ~ N(y, sigma^2 I) is easy to
draw, a mean over draws stands for the integral.
"""

import jax
import jax.numpy as jnp

from ebm_jax._checks import check_count, check_not_negative
from ebm_jax._precision import normal_for
from ebm_jax.losses.functions import checked_energy, checked_example, checked_level
from ebm_jax.types import EnergyFn, Example, PRNGKey, Scalar


def energy_discrepancy(
    energy_fn: EnergyFn,
    key: PRNGKey,
    x: Example,
    sigma: Scalar,
    *,
    num_negatives: int,
    stabilizer: float = 1.0,
) -> Scalar:
    """Energy discrepancy of one example, with a Gaussian blur.

        loss = log( w / M + 1/M sum_j exp(E(x) - E(x_j)) )
        x_j = x + sigma n + sigma n_j,   n, n_j ~ N(0, I)

    with M = `num_negatives` and w = `stabilizer`, the estimate of [1] for t = sigma^2. It
    interpolates between two losses. As sigma -> 0 its mean is, for w = 1 and c = M / (M + 1),

        E[loss] = -log c + c sigma^2 E[1/2 |s|^2 + div s] + O(sigma^4),   s = -grad E,

    exact score matching; for M -> inf and a large sigma it is the negative log-likelihood
    less d/2 log(2 pi e sigma^2).

    With w = 1 it is the ranking loss of [2], less log M: tell x from M draws of
    N(x + sigma n, sigma^2 I). Given the blurred point those are fair negatives, so the
    minimizer is -log p(x) for every M and sigma; for M = 1 the mean is that of
    `conditional_noise_contrastive` with noise of scale sqrt(2) sigma. With another w the
    minimizer of a finite M is off by order 1 / M, and with w = 0 there may be none.

    Its minimum is not zero: for data N(m, s^2 I) and M -> inf it is
    d/2 log(s^2 / (s^2 + sigma^2)).

    Args:
        energy_fn: E(x), a scalar for one example.
        key: PRNG key of n and of all n_j.
        x: one example, of any shape; batch with `jax.vmap`.
        sigma: noise level sqrt(t), positive, in the units of `x`. Small ones resolve
            detail, those as large as the gaps between modes teach their weights; levels
            may be drawn at random, since all have the same minimizer.
        num_negatives: M, at least 1.
        stabilizer: w, not negative.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: for a number of negatives or a stabilizer out of range.

    References:
        [1] Schroder et al., arXiv:2307.06431.
        [2] Ma & Collins, arXiv:1809.01812.
    """
    name = "energy_discrepancy"
    check_count(name, num_negatives=num_negatives)
    check_not_negative(name, stabilizer=stabilizer)
    start, sigma = checked_example(name, x=x), checked_level(name, x, sigma=sigma)
    energy_fn = checked_energy(name, "energy_fn(x)", energy_fn, x)
    key_blur, key_negatives = jax.random.split(key)
    center = start + sigma * normal_for(key_blur, x)
    noise = jax.random.normal(key_negatives, (num_negatives, *x.shape), start.dtype)
    gains = jax.vmap(lambda n: energy_fn(start) - energy_fn(center + sigma * n))(noise)
    log_terms = jnp.append(gains, jnp.log(jnp.asarray(stabilizer, gains.dtype)))
    return jax.nn.logsumexp(log_terms) - jnp.log(num_negatives)
