"""Spectral normalization as a pure transform of parameters: every kernel over its norm.

A kernel of any rank is the matrix W of shape (inputs, outputs), its last axis being the
outputs. With u and v the singular vectors of the largest singular value,

    W_sn = W / s(W),    s(W) = u . W v,    ds/dW = u v^T,

so that |W_sn v| <= |v|. u and v come from power iteration, whose vectors are kept from
one training step to the next: then one iteration a step is enough, since the weights move
slowly (arXiv:1802.05957). For a convolution this is the norm of the reshaped kernel, not
that of the convolution as an operator.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ebm_jax._checks import check_count
from ebm_jax.types import PRNGKey


def spectral_vectors(key: PRNGKey, params: PyTree) -> PyTree:
    """Random unit vectors v for power iteration to start from.

    Args:
        key: PRNG key.
        params: parameters, whose shapes are used.

    Returns:
        A tree like `params` with a vector of length outputs for every kernel, and one of
        length 0 for every array of rank below 2, which `spectral_normalize` leaves alone.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))

    def draw(key: PRNGKey, leaf: Array) -> Float[Array, " outputs"]:
        outputs = leaf.shape[-1] if leaf.ndim > 1 else 0
        return _unit(jax.random.normal(key, (outputs,), leaf.dtype))

    return jax.tree.unflatten(
        structure, [draw(k, leaf) for k, leaf in zip(keys, leaves, strict=True)]
    )


def spectral_normalize(
    params: PyTree, vectors: PyTree, *, num_iterations: int = 1
) -> tuple[PyTree, PyTree]:
    """Every kernel over the estimate u . W v of its largest singular value.

    Call it inside the loss, on the parameters that are trained, and give the network the
    result; its gradient is (G - (W_sn . G) u v^T) / s for a gradient G by W_sn, which is
    the reference's with u and v held fixed. A kernel of zeros has no direction: NaN.

    Args:
        params: parameters; arrays of rank below 2 are returned as they are.
        vectors: from `spectral_vectors`, or from the call of the step before.
        num_iterations: of power iteration; 1 in training, some tens from a random start.

    Returns:
        The normalized parameters, and the vectors for the next call.

    Raises:
        ValueError: if `num_iterations` is not positive.

    References:
        Miyato, Kataoka, Koyama & Yoshida, arXiv:1802.05957.
    """
    check_count("spectral_normalize", num_iterations=num_iterations)
    pairs = jax.tree.map(partial(_normalize, num_iterations), params, vectors)
    return jax.tree.transpose(jax.tree.structure(params), None, pairs)


def _normalize(num_iterations: int, kernel: Array, v: Array) -> tuple[Array, Array]:
    if kernel.ndim < 2:
        return kernel, v
    matrix = kernel.reshape(-1, kernel.shape[-1])
    fixed, v = jax.lax.stop_gradient((matrix, v))

    def left(v: Array) -> Array:
        return _unit(fixed @ v)

    v = jax.lax.fori_loop(1, num_iterations, lambda _, v: _unit(left(v) @ fixed), v)
    u = left(v)
    v = _unit(u @ fixed)
    return kernel / (u @ matrix @ v), v


def _unit(vector: Float[Array, " n"]) -> Float[Array, " n"]:
    return vector / jnp.sqrt(jnp.sum(vector**2))
