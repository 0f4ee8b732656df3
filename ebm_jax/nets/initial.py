"""Initial parameters of a network, called in the same way as in training."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import PyTree

from ebm_jax.nets.precondition import RawFn
from ebm_jax.types import DenoiseFn, Example, PRNGKey, Scalar


def initial_parameters(
    net: nn.Module, wrap: Callable[[RawFn], DenoiseFn] | None, key: PRNGKey, like: Example
) -> PyTree:
    """Returns the parameters with which training starts.

    Args:
        net: the network.
        wrap: function that turns the network into a denoiser, such as `precondition.edm`. It
            decides whether the network is called with a level, a time or an index. None for an
            energy E(x).
        key: PRNG key of the initialization.
        like: an array of the shape of an example.

    Raises:
        ValueError: from the network, for a shape that it does not accept.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax import nets
        >>> params = nets.initial_parameters(nets.MLP((1,)), None, jax.random.key(0), jnp.ones(2))
        >>> params["params"]["Dense_0"]["kernel"].shape
        (2, 1)
    """
    if wrap is None:
        return net.init(key, like)

    def call(module: Any, x: Example, sigma: Scalar) -> Example:
        return wrap(module)(x, sigma)

    return nn.init(call, net)(key, like, jnp.float32(1.0))
