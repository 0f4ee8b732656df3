"""PRNG keys of examples, which depend on an example's index and not on its place in a batch."""

from functools import partial

import jax
from jaxtyping import Array, Int, Key

from ebm_jax.types import PRNGKey


def example_keys(key: PRNGKey, indices: Int[Array, " n"]) -> Key[Array, " n"]:
    """Returns one key per example or chain, folded from its own index.

    Example i's key, and everything drawn from it, is the same alone, in any batch and on any number
    of devices. Only threefry keys guarantee this: under `jax.vmap`, the numbers of an "rbg" or
    "unsafe_rbg" key depend on the batch. For such a key this function returns threefry keys.

    Args:
        key: the key of all examples, of any implementation.
        indices: the index of each example, from 0 to 2^32 - 1.

    Returns:
        One key per index.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from ebm_jax.keys import example_keys
        >>> key = jax.random.key(0)
        >>> batch, alone = example_keys(key, jnp.arange(8)), example_keys(key, jnp.array([5]))
        >>> bool(batch[5] == alone[0])
        True
    """
    return jax.vmap(partial(jax.random.fold_in, _threefry(key)))(indices)


def _threefry(key: PRNGKey) -> PRNGKey:
    """Returns a threefry key that depends on all the data of `key`."""
    if str(jax.random.key_impl(key)) == "threefry2x32":
        return key
    data = jax.random.key_data(key)
    folded = jax.random.wrap_key_data(data[:2], impl="threefry2x32")
    for word in data[2:]:
        folded = jax.random.fold_in(folded, word)
    return folded
