"""Keys of examples: randomness that belongs to an example's number, not to its place."""

from functools import partial

import jax
from jaxtyping import Array, Int, Key

from ebm_jax.types import PRNGKey


def example_keys(key: PRNGKey, indices: Int[Array, " n"]) -> Key[Array, " n"]:
    """One key for each example or chain, folded from its own index.

    Example i's key, and all that is drawn from it, is the same alone, in any batch and on
    any number of devices. Only threefry keys keep that promise: under `jax.vmap` the
    numbers of an "rbg" or "unsafe_rbg" key depend on the batch. From such a key this
    function returns threefry keys.

    Args:
        key: the key of all examples, of any implementation.
        indices: the number of each example, from 0 to 2^32 - 1.
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
