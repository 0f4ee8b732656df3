"""Learned Stein discrepancy (LSD): a critic finds where the model's score is wrong.

For every smooth field f that vanishes at infinity, Stein's identity holds,

    E_p[ s(x) . f(x) + div f(x) ] = 0,   s = grad log p,

and for data with score s_data, integration by parts gives

    E_data[ s . f + div f - lambda |f|^2 ] = E_data[ (s - s_data) . f - lambda |f|^2 ].

The critic f maximizes this and the model minimizes it. No samples of the model and no second
derivatives of its energy are needed. The optimal critic and its value are

    f* = (s - s_data) / (2 lambda),   E_data |s - s_data|^2 / (4 lambda).

In one training step, each player is trained against the other with its parameters stopped:

    frozen = jax.lax.stop_gradient(params)
    loss = learned_stein(score(params["energy"]), critic(frozen["critic"]), x, ...)
         - learned_stein(score(frozen["energy"]), critic(params["critic"]), x, ...)

with `optax.multi_transform` for two learning rates. Only the term s . f depends on the model's
parameters; at f* its gradient is that of the Fisher divergence, times 1 / (2 lambda).

References:
    Grathwohl et al., arXiv:2002.05616.
"""

import jax.numpy as jnp

from ebm_jax._checks import check_count, check_positive
from ebm_jax._precision import level_for
from ebm_jax.calculus import divergence, hutchinson_divergence
from ebm_jax.losses.functions import checked_example, checked_field
from ebm_jax.types import Example, PRNGKey, Scalar, ScoreFn


def learned_stein(
    score_fn: ScoreFn, critic_fn: ScoreFn, x: Example, *, penalty: float | Scalar
) -> Scalar:
    """Stein discrepancy of one critic at one example, with the exact divergence.

        loss = s(x) . f(x) + div f(x) - lambda |f(x)|^2

    The model minimizes it; the critic minimizes its negative. With the optimal critic its mean is
    E|s - s_data|^2 / (4 lambda), zero when the model is right; then every critic's mean is zero or
    negative.

    Args:
        score_fn: s(x), the model's score, of the shape of x.
        critic_fn: f(x), of the shape of x; smooth, since its derivatives are taken.
        x: one data example, of any shape; batch with `jax.vmap`.
        penalty: lambda, positive; it only sets the scale of the critic.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: if `penalty` is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ebm_jax import losses
        >>> score_fn = lambda x: -x  # model N(0, 1), data N(1, 1): s - s_data = -1
        >>> critic_fn = lambda x: -jnp.ones(1)  # optimal for lambda = 1/2
        >>> float(losses.learned_stein(score_fn, critic_fn, jnp.ones(1), penalty=0.5))
        0.5
    """
    score_fn, critic_fn, at, penalty = _checked("learned_stein", score_fn, critic_fn, x, penalty)
    return _without_divergence(score_fn, critic_fn, at, penalty) + divergence(critic_fn, at)


def sliced_learned_stein(
    score_fn: ScoreFn,
    critic_fn: ScoreFn,
    key: PRNGKey,
    x: Example,
    *,
    penalty: float | Scalar,
    num_probes: int = 1,
) -> Scalar:
    """`learned_stein` with Hutchinson's estimate of the divergence, equal to it in expectation.

    The model's gradient does not depend on the divergence and is exact; the critic's is unbiased.

    Args:
        score_fn: s(x), the model's score, of the shape of x.
        critic_fn: f(x), of the shape of x.
        key: PRNG key of the probes.
        x: one data example, of any shape; batch with `jax.vmap`.
        penalty: lambda, positive.
        num_probes: number of Rademacher probes to average.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: if `penalty` or `num_probes` is not positive.
    """
    name = "sliced_learned_stein"
    check_count(name, num_probes=num_probes)
    score_fn, critic_fn, at, penalty = _checked(name, score_fn, critic_fn, x, penalty)
    spread = hutchinson_divergence(critic_fn, key, at, num_probes=num_probes)
    return _without_divergence(score_fn, critic_fn, at, penalty) + spread


def _checked(
    name: str, score_fn: ScoreFn, critic_fn: ScoreFn, x: Example, penalty: float | Scalar
) -> tuple[ScoreFn, ScoreFn, Example, Scalar]:
    """Checks the arguments, and returns them with x and lambda in the loss's precision."""
    check_positive(name, penalty=penalty)
    at = checked_example(name, x=x)
    score_fn = checked_field(name, "score_fn(x)", score_fn, x)
    return score_fn, checked_field(name, "critic_fn(x)", critic_fn, x), at, level_for(x, penalty)


def _without_divergence(
    score_fn: ScoreFn, critic_fn: ScoreFn, x: Example, penalty: Scalar
) -> Scalar:
    critic = critic_fn(x)
    return jnp.sum(score_fn(x) * critic) - penalty * jnp.sum(critic**2)
