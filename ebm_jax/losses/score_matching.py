"""Score matching: losses whose minimum is the score of the data.

All are the Fisher divergence between the model's score s and the data's s*, less a
constant that does not depend on the model, in a form that needs no s*:

    1/2 E|s - s*|^2 = E[ 1/2 |s|^2 + div s ] + 1/2 E|s*|^2

by parts, for densities that vanish at infinity. A score is any field of the shape of x:
a network's own, or `calculus.score_from_energy` of an energy, for which div s = -lap E.
Each returns one example's scalar, summed over dimensions; take the mean of a `jax.vmap`
for a training objective. A network of piecewise-linear activations (relu) has no second
derivatives: use a smooth one, or denoising.
"""

from collections.abc import Callable

import jax.numpy as jnp

from ebm_jax._checks import check_count, check_result
from ebm_jax._precision import normal_for, widened
from ebm_jax.calculus import divergence
from ebm_jax.losses.functions import checked_example, checked_field, checked_level
from ebm_jax.types import Example, NoisyScoreFn, PRNGKey, Scalar, ScoreFn


def fisher_divergence(score_fn: ScoreFn, true_score_fn: ScoreFn, x: Example) -> Scalar:
    """Half the squared distance between two scores at one example of the data.

        loss = 1/2 | s(x) - s*(x) |^2

    Zero where they agree. What the other losses of this file estimate, up to a constant,
    without s*; for N(m, s^2 I) seen by the score of N(m + e, s^2 I) it is |e|^2 / (2 s^4).

    Args:
        score_fn: s(x), the model's score, of the shape of x.
        true_score_fn: s*(x), the data's.
        x: one example of the data, of any shape; batch with `jax.vmap`.
    """
    name, at = "fisher_divergence", checked_example("fisher_divergence", x=x)
    score = checked_field(name, "score_fn(x)", score_fn, x)(at)
    return 0.5 * jnp.sum(
        (score - checked_field(name, "true_score_fn(x)", true_score_fn, x)(at)) ** 2
    )


def exact_score_matching(score_fn: ScoreFn, x: Example, *, chunk_size: int = 64) -> Scalar:
    """Hyvarinen's score matching with the exact divergence, for one example.

        loss = 1/2 |s(x)|^2 + div s(x)

    Its mean is the `fisher_divergence` less 1/2 E|s*|^2: for data N(m, s^2 I) the minimum
    is -d / (2 s^2). It costs d directional derivatives; for the energy of an MLP
    `exact_score_matching_from_laplacian` is several times faster.

    Args:
        score_fn: s(x), of the shape of x and differentiable.
        x: one example, of any shape with d entries; batch with `jax.vmap`.
        chunk_size: directions at once, as in `calculus.divergence`.

    References:
        Hyvarinen, Estimation of non-normalized statistical models by score matching,
        JMLR 2005.
    """
    name, at = "exact_score_matching", checked_example("exact_score_matching", x=x)
    check_count(name, chunk_size=chunk_size)
    score_fn = checked_field(name, "score_fn(x)", score_fn, x)
    return 0.5 * jnp.sum(score_fn(at) ** 2) + divergence(score_fn, at, chunk_size=chunk_size)


def exact_score_matching_from_laplacian(
    gradient_and_laplacian: Callable[[Example], tuple[Example, Scalar]], x: Example
) -> Scalar:
    """`exact_score_matching` of an energy that knows its own derivatives.

        loss = 1/2 |grad E(x)|^2 - lap E(x)

    Args:
        gradient_and_laplacian: x -> (grad E(x), lap E(x)), such as
            `partial(net.apply, params, method="gradient_and_laplacian")` of `EnergyMLP`.
        x: one example, of any shape; batch with `jax.vmap`.
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
    """Denoising score matching at one noise level, for one example.

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
    """`denoising_score_matching` over sigma^2 with two control variates, for small sigma.

        loss = 1/2 |s(x + sigma n)|^2 + (s(x + sigma n) - s(x)) . n / sigma

    with s = s(., sigma) and n ~ N(0, I). The square of plain denoising, over sigma^2, is
    1/2 |s(x + sigma n)|^2 + s(x + sigma n) . n / sigma + |n|^2 / (2 sigma^2), and two
    terms are taken from it whose expectations are known and free of the model's
    parameters: s(x) . n / sigma, zero, and |n|^2 / (2 sigma^2), d / (2 sigma^2). So

        E[loss] = (E[denoising] - d/2) / sigma^2 = E[ 1/2 |s|^2 + div s ] at x + sigma n,

    exact score matching of the smoothed data. Where the gradient of plain denoising has
    a variance of order 1 / sigma^2, this one's stays bounded: for sigma -> 0 the loss
    tends to 1/2 |s(x)|^2 + n . (ds/dx) n, variance-reduced sliced score matching with a
    Gaussian slice. For data N(m, s^2 I) its minimum is -d / (2 (s^2 + sigma^2)).

    In float32 the difference of scores loses about 1e-7 |s| / sigma to round-off: below
    sigma = 1e-4 times the scale of the data take sliced score matching itself.

    Args:
        score_fn: s(x, sigma), returning an array of the shape of `x`; differentiable in x
            for the limit to hold, though no derivative is taken.
        key: PRNG key for the one draw of n.
        x: one clean example, of any shape; batch with `jax.vmap`. s sees float32 points at
            least, also near an x in bfloat16, where their difference would be round-off.
        sigma: noise level, positive, in the units of `x`.

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
