"""Energy discrepancy: an energy-based loss that needs neither scores nor Markov chains.

Data are blurred, y = x + sigma n. With

    U(y) = -log int N(y; x', sigma^2 I) exp(-E(x')) dx',

the energy of the blurred model, the discrepancy is E_data[ E(x) - E_{y|x} U(y) ]. The integral
is estimated by a mean over draws x' ~ N(y, sigma^2 I).
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

    with M = `num_negatives` and w = `stabilizer`, the estimator of [1] for t = sigma^2. It
    interpolates between two losses. As sigma -> 0 its mean is, for w = 1 and c = M / (M + 1),

        E[loss] = -log c + c sigma^2 E[1/2 |s|^2 + div s] + O(sigma^4),   s = -grad E,

    which is exact score matching. For M -> inf and large sigma it is the negative log-likelihood
    minus d/2 log(2 pi e sigma^2).

    With w = 1 it is the ranking loss of [2] minus log M: identify x among M draws of
    N(x + sigma n, sigma^2 I). Given the blurred point these are exchangeable negatives, so the
    minimizer is -log p(x) for every M and sigma. For M = 1 the mean is that of
    `conditional_noise_contrastive` with noise of scale sqrt(2) sigma. For any other w, the
    minimizer at finite M is off by order 1 / M, and with w = 0 there may be no minimizer.

    Its minimum is not zero: for data N(m, s^2 I) and M -> inf it is
    d/2 log(s^2 / (s^2 + sigma^2)).

    Args:
        energy_fn: E(x), a scalar for one example.
        key: PRNG key of n and of all n_j.
        x: one example, of any shape; batch with `jax.vmap`.
        sigma: noise level sqrt(t), positive, in the units of `x`. Small levels resolve detail;
            levels as large as the gaps between modes teach the weights of the modes. Levels may
            be drawn at random, since all have the same minimizer (for w = 1).
        num_negatives: M, at least 1.
        stabilizer: w, zero or positive.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: if `num_negatives` or `stabilizer` is out of range.

    References:
        [1] Schroder et al., arXiv:2307.06431.
        [2] Ma & Collins, arXiv:1809.01812.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> flat = lambda x: 0.0 * jnp.sum(x)  # a constant energy gives log((w + M) / M)
        >>> key, x, sigma = jax.random.key(0), jnp.ones(3), jnp.float32(0.5)
        >>> round(float(losses.energy_discrepancy(flat, key, x, sigma, num_negatives=4)), 3)
        0.223
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
