"""Spectral normalization against numpy's singular values and the closed form of its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.nets import ConvEnergy, EnergyMLP, spectral_normalize, spectral_vectors

MANY = 300  # power iterations, enough for the random kernels here


def normals(*shape, seed=1):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def some_params():
    return {
        "dense": {"kernel": 3 * normals(5, 7, seed=1), "bias": normals(7, seed=2)},
        "conv": {"kernel": 0.1 * normals(4, 4, 2, 6, seed=3)},
        "scale": normals(seed=4),
    }


def norm(kernel):
    matrix = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])
    return np.linalg.svd(matrix, compute_uv=False)[0]


def normalized(params, num_iterations=MANY):
    vectors = spectral_vectors(jax.random.key(0), params)
    return jax.jit(
        lambda p, v: spectral_normalize(p, v, num_iterations=num_iterations),
    )(params, vectors)


def test_largest_singular_value_of_every_kernel_becomes_one():
    params = some_params()
    out, _ = normalized(params)
    for name in ("dense", "conv"):
        kernel = params[name]["kernel"]
        np.testing.assert_allclose(norm(out[name]["kernel"]), 1, rtol=1e-5)
        np.testing.assert_allclose(out[name]["kernel"] * norm(kernel), kernel, rtol=1e-4)


def test_arrays_that_are_no_kernels_are_left_alone():
    params = some_params()
    out, vectors = normalized(params)
    np.testing.assert_array_equal(out["dense"]["bias"], params["dense"]["bias"])
    np.testing.assert_array_equal(out["scale"], params["scale"])
    assert vectors["dense"]["bias"].shape == vectors["scale"].shape == (0,)


def test_vectors_become_the_right_singular_vectors():
    params = some_params()
    _, vectors = normalized(params)
    right = np.linalg.svd(np.asarray(params["dense"]["kernel"]))[2][0]
    found = np.asarray(vectors["dense"]["kernel"])
    np.testing.assert_allclose(abs(found @ right), 1, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found), 1, rtol=1e-5)


def test_one_iteration_is_one_step_of_power_iteration():
    """u = W v / |W v|, v' = W^T u / |W^T u|, s = u . W v', in numpy."""
    params = {"kernel": normals(5, 3)}
    vectors = spectral_vectors(jax.random.key(0), params)
    out, after = spectral_normalize(params, vectors)
    w, v = np.asarray(params["kernel"], np.float64), np.asarray(vectors["kernel"], np.float64)
    np.testing.assert_allclose(np.linalg.norm(v), 1, rtol=1e-5)
    u = w @ v / np.linalg.norm(w @ v)
    v = w.T @ u / np.linalg.norm(w.T @ u)
    np.testing.assert_allclose(after["kernel"], v, rtol=1e-4)
    np.testing.assert_allclose(out["kernel"], w / (u @ w @ v), rtol=1e-4)


def test_iterations_carry_over_from_call_to_call():
    """Ten calls of one iteration are one call of ten: what makes one a step enough."""
    params = some_params()
    vectors = spectral_vectors(jax.random.key(0), params)
    for _ in range(10):
        out, vectors = spectral_normalize(params, vectors)
    at_once = normalized(params, 10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), (out, vectors), at_once)


def test_gradient_is_that_of_the_reference():
    """(G - (W_sn . G) u v^T) / s for the loss <G, W_sn>, u and v numpy's (equation 12)."""
    kernel, weights = normals(6, 4), normals(6, 4, seed=5)
    vectors = normalized({"kernel": kernel})[1]

    def loss(kernel):
        return jnp.sum(weights * spectral_normalize({"kernel": kernel}, vectors)[0]["kernel"])

    left, values, right = np.linalg.svd(np.asarray(kernel, np.float64))
    along = np.sum(np.asarray(weights) * np.asarray(kernel) / values[0])
    expected = (np.asarray(weights) - along * np.outer(left[:, 0], right[0])) / values[0]
    np.testing.assert_allclose(jax.grad(loss)(kernel), expected, rtol=1e-3, atol=1e-4)


def test_no_gradient_flows_through_the_power_iteration():
    """At vectors that are not singular, u and v are constants: s = u . W v is linear in W."""
    kernel, weights = normals(6, 4), normals(6, 4, seed=5)
    vectors = spectral_vectors(jax.random.key(3), {"kernel": kernel})
    w, v = np.asarray(kernel, np.float64), np.asarray(vectors["kernel"], np.float64)
    u = w @ v / np.linalg.norm(w @ v)
    v = w.T @ u / np.linalg.norm(w.T @ u)

    def loss(kernel):
        return jnp.sum(weights * spectral_normalize({"kernel": kernel}, vectors)[0]["kernel"])

    s = u @ w @ v
    expected = weights / s - np.sum(weights * w) / s**2 * np.outer(u, v)
    np.testing.assert_allclose(jax.grad(loss)(kernel), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("net", [EnergyMLP((9,)), ConvEnergy((8, 8))], ids=["mlp", "conv"])
def test_a_network_takes_the_normalized_parameters(net):
    x = normals(8, 8, 1)
    params = net.init(jax.random.key(0), x)
    out, _ = normalized(params)
    kernels = [leaf for leaf in jax.tree.leaves(out) if leaf.ndim > 1]
    np.testing.assert_allclose([norm(kernel) for kernel in kernels], 1, rtol=1e-3)
    assert np.isfinite(net.apply(out, x))


def test_a_layer_after_normalization_stretches_nothing():
    """|W_sn^T x| <= |x|, with equality along the first singular vector."""
    kernel = normals(5, 7)
    out = np.asarray(normalized({"kernel": kernel})[0]["kernel"], np.float64)
    x = np.random.default_rng(0).normal(size=(1000, 5))
    assert np.max(np.linalg.norm(x @ out, axis=1) / np.linalg.norm(x, axis=1)) <= 1 + 1e-5
    left = np.linalg.svd(out)[0][:, 0]
    np.testing.assert_allclose(np.linalg.norm(left @ out), 1, rtol=1e-5)


def test_the_same_key_draws_the_same_vectors_and_every_kernel_its_own():
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((3, 4))}
    first = spectral_vectors(jax.random.key(7), params)
    again = spectral_vectors(jax.random.key(7), params)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.abs(first["a"] - first["b"]).max() > 0.01


def test_no_iterations_are_refused():
    params = {"kernel": jnp.ones((2, 2))}
    vectors = spectral_vectors(jax.random.key(0), params)
    with pytest.raises(ValueError, match="`spectral_normalize` got num_iterations=0: give at"):
        spectral_normalize(params, vectors, num_iterations=0)
