"""Score matching: losses whose minimizer is the score of the data.

Each is the Fisher divergence between the model's score s and the data's score s*, minus a
constant that does not depend on the model, in a form that does not need s*:

    1/2 E|s - s*|^2 = E[ 1/2 |s|^2 + div s ] + 1/2 E|s*|^2

by integration by parts, for densities that vanish at infinity. The score may be any field of
the shape of x: a network, or `calculus.score_from_energy` of an energy, for which
div s = -lap E. Each loss returns a scalar for one example, summed over dimensions; take the
mean of a `jax.vmap` for a training objective. A network with piecewise-linear activations
(relu) has no second derivatives: use a smooth activation, or denoising score matching.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ebm_jax._checks import check_count, check_result
from ebm_jax._precision import normal_for, widened
from ebm_jax.calculus import divergence
from ebm_jax.losses.functions import checked_example, checked_field, checked_level
from ebm_jax.types import Example, NoisyScoreFn, PRNGKey, Scalar, ScoreFn


def fisher_divergence(score_fn: ScoreFn, true_score_fn: ScoreFn, x: Example) -> Scalar:
    """Fisher divergence at one data example: half the squared distance between two scores.

        loss = 1/2 | s(x) - s*(x) |^2

    The other losses of this module estimate its mean up to a constant, without s*. For data
    N(m, s^2 I) and the score of N(m + e, s^2 I) it is |e|^2 / (2 s^4).

    Args:
        score_fn: s(x), the model's score, of the shape of x.
        true_score_fn: s*(x), the data's score.
        x: one data example, of any shape; batch with `jax.vmap`.

    Returns:
        The divergence, a scalar, zero where the scores agree.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> float(losses.fisher_divergence(lambda x: 1 - x, lambda x: -x, jnp.zeros(2)))
        1.0
    """
    name, at = "fisher_divergence", checked_example("fisher_divergence", x=x)
    score = checked_field(name, "score_fn(x)", score_fn, x)(at)
    return 0.5 * jnp.sum(
        (score - checked_field(name, "true_score_fn(x)", true_score_fn, x)(at)) ** 2
    )


def exact_score_matching(score_fn: ScoreFn, x: Example, *, chunk_size: int = 64) -> Scalar:
    """Hyvarinen's score matching with the exact divergence, for one example.

        loss = 1/2 |s(x)|^2 + div s(x)

    Its mean is the mean `fisher_divergence` minus 1/2 E|s*|^2; for data N(m, s^2 I) the minimum is
    -d / (2 s^2). It costs d directional derivatives. For the energy of an MLP,
    `exact_score_matching_from_laplacian` is several times faster.

    Args:
        score_fn: s(x), of the shape of x and differentiable.
        x: one example, of any shape with d entries; batch with `jax.vmap`.
        chunk_size: number of directions at once, as in `calculus.divergence`.

    Returns:
        The loss, a scalar.

    References:
        Hyvarinen, Estimation of non-normalized statistical models by score matching,
        JMLR 2005.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> float(losses.exact_score_matching(lambda x: -x, jnp.ones(3)))  # 3/2 - 3
        -1.5
    """
    name, at = "exact_score_matching", checked_example("exact_score_matching", x=x)
    check_count(name, chunk_size=chunk_size)
    score_fn = checked_field(name, "score_fn(x)", score_fn, x)
    return 0.5 * jnp.sum(score_fn(at) ** 2) + divergence(score_fn, at, chunk_size=chunk_size)


def exact_score_matching_from_laplacian(
    gradient_and_laplacian: Callable[[Example], tuple[Example, Scalar]], x: Example
) -> Scalar:
    """`exact_score_matching` for an energy that computes its own derivatives.

        loss = 1/2 |grad E(x)|^2 - lap E(x)

    Args:
        gradient_and_laplacian: x -> (grad E(x), lap E(x)), such as
            `partial(net.apply, params, method="gradient_and_laplacian")` of `EnergyMLP`.
        x: one example, of any shape; batch with `jax.vmap`.

    Returns:
        The loss, a scalar.
    """
    name = "exact_score_matching_from_laplacian"
    checked_example(name, x=x)
    gradient, laplacian = gradient_and_laplacian(x)
    check_result(name, "gradient_and_laplacian(x)[0]", gradient, x.shape)
    check_result(name, "gradient_and_laplacian(x)[1]", laplacian, ())
    return 0.5 * jnp.sum(widened(gradient) ** 2) - widened(laplacian)


def denoising_score_matching(
    score_fn: NoisyScoreFn, key: PRNGKey, x: Example, sigma: Scalar
) -> Scalar:
    """Denoising score matching (DSM) at one noise level, for one example.

        loss = 1/2 || sigma * s(x + sigma * n, sigma) + n ||^2,   n ~ N(0, I)

    In expectation this is sigma^2 times the Fisher divergence between s(., sigma)
    and the score of the data smoothed by N(0, sigma^2 I), plus a constant [1]. The
    factor sigma^2 keeps the loss of order d at every level [2]. Its minimum is not
    zero: for data N(m, s^2 I) it is d/2 * s^2 / (s^2 + sigma^2).

    Args:
        score_fn: s(x, sigma), returning an array of the shape of `x`.
        key: PRNG key for the one draw of n.
        x: one clean example, of any shape; batch with `jax.vmap`.
        sigma: noise level, positive, in the units of `x`.

    Returns:
        The loss, a scalar. Take the mean over a batch for a training objective.

    References:
        [1] Vincent, A connection between score matching and denoising
            autoencoders, Neural Computation 2011.
        [2] Song & Ermon, arXiv:1907.05600.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> score_fn = lambda y, sigma: -y / (1 + sigma**2)  # exact for data N(0, 1)
        >>> def loss(key):
        ...     key_data, key_noise = jax.random.split(key)
        ...     x = jax.random.normal(key_data, (1,))
        ...     return losses.denoising_score_matching(score_fn, key_noise, x, jnp.float32(1.0))
        >>> keys = jax.random.split(jax.random.key(0), 100_000)
        >>> round(float(jax.vmap(loss)(keys).mean()), 2)  # d/2 * s^2 / (s^2 + sigma^2)
        0.25
    """
    name = "denoising_score_matching"
    clean, sigma = checked_example(name, x=x), checked_level(name, x, sigma=sigma)
    score_fn = checked_field(name, "score_fn(x, sigma)", score_fn, x)
    noise = normal_for(key, x)
    score = score_fn(clean + sigma * noise, sigma)
    return 0.5 * jnp.sum((sigma * score + noise) ** 2)


def controlled_denoising_score_matching(
    score_fn: NoisyScoreFn, key: PRNGKey, x: Example, sigma: Scalar
) -> Scalar:
    """Denoising score matching over sigma^2 with two control variates, for small sigma.

        loss = 1/2 |s(x + sigma n)|^2 + (s(x + sigma n) - s(x)) . n / sigma

    with s = s(., sigma) and n ~ N(0, I). The square of `denoising_score_matching` over sigma^2 is
    1/2 |s(x + sigma n)|^2 + s(x + sigma n) . n / sigma + |n|^2 / (2 sigma^2). Two terms with known
    expectations that do not depend on the model are subtracted from it: s(x) . n / sigma, with
    mean 0, and |n|^2 / (2 sigma^2), with mean d / (2 sigma^2). Hence

        E[loss] = (E[denoising] - d/2) / sigma^2 = E[ 1/2 |s|^2 + div s ] at x + sigma n,

    which is exact score matching of the smoothed data. The gradient of plain denoising has a
    variance of order 1 / sigma^2; here it stays bounded. As sigma -> 0 the loss tends to
    1/2 |s(x)|^2 + n . (ds/dx) n: variance-reduced sliced score matching with a Gaussian slice. For
    data N(m, s^2 I) its minimum is -d / (2 (s^2 + sigma^2)).

    In float32 the difference of scores has a round-off error of about 1e-7 |s| / sigma. For sigma
    below 1e-4 times the scale of the data, use sliced score matching itself.

    Args:
        score_fn: s(x, sigma), returning an array of the shape of `x`. No derivative is taken, but
            the limit requires s to be differentiable in x.
        key: PRNG key for the one draw of n.
        x: one clean example, of any shape; batch with `jax.vmap`. s receives points in float32 or
            wider even if x is bfloat16, in which their difference would be round-off.
        sigma: noise level, positive, in the units of `x`.

    Returns:
        The loss, a scalar.

    References:
        Wang et al., arXiv:2002.07501; Song & Kingma, arXiv:2101.03288, section 3.
    """
    name = "controlled_denoising_score_matching"
    clean, sigma = checked_example(name, x=x), checked_level(name, x, sigma=sigma)
    score_fn = checked_field(name, "score_fn(x, sigma)", score_fn, clean)
    noise = normal_for(key, x)
    score = score_fn(clean + sigma * noise, sigma)
    change = (score - score_fn(clean, sigma)) / sigma
    return 0.5 * jnp.sum(score**2) + jnp.sum(change * noise)
