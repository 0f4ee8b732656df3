"""Energies made of fields: symmetric Jacobians, known Gaussians, and every network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.calculus import denoiser_from_energy
from ebm_jax.nets import (
    ConvScore,
    LogLoss,
    NCSNpp,
    NCSNv2,
    ScalarEnergy,
    ScoreMLP,
    UNet,
    norm_energy,
)

LEVEL = jnp.float32(0.7)
X = jnp.array([0.4, -1.3, 0.2])
NETS = {
    "mlp": ScoreMLP((8,)),
    "conv": ConvScore((8,), 1),
    "u-net": UNet(8, (1,), 1, (), groups=2, dropout=0.0),
    "ncsn++": NCSNpp(8, (1,), 1, (), groups=2, dropout=0.0),
    "ncsnv2": NCSNv2(8),
}


def normals(*shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def test_denoiser_of_the_energy_of_a_gaussian_is_its_posterior_mean():
    """E = |x - m|^2 / (2 (s^2 + sigma^2)) of N(m, s^2 I) smoothed."""
    mean, scale = 0.5, 0.8
    denoise = denoiser_from_energy(
        lambda x, sigma: jnp.sum((x - mean) ** 2) / (2 * (scale**2 + sigma**2))
    )
    expected = (scale**2 * X + LEVEL**2 * mean) / (scale**2 + LEVEL**2)
    np.testing.assert_allclose(denoise(X, LEVEL), expected, rtol=1e-5)


def test_norm_energy_is_half_the_squared_error_of_reconstruction():
    energy = norm_energy(lambda x, level: level * jnp.sin(x))
    x = np.asarray(X, np.float64)
    error = x - 0.7 * np.sin(x)
    np.testing.assert_allclose(energy(X, LEVEL), 0.5 * error @ error, rtol=1e-5)
    slope = jax.grad(energy)(X, LEVEL)
    np.testing.assert_allclose(slope, error * (1 - 0.7 * np.cos(x)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "ncsnv2" else n for n in NETS]
)
def test_every_network_is_an_energy_whose_score_has_a_symmetric_jacobian(name):
    net = NETS[name]
    x = normals(4, 4, 1)
    head = ScalarEnergy(net)
    shapes = jax.eval_shape(head.init, jax.random.key(0), x, LEVEL)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.float32(0.3 * rng.normal(size=leaf.shape)), shapes)

    def scalar(x, level):
        return head.apply(params, x, level)

    inner = {"params": params["params"]["net"]}
    u, v = normals(2, 4, 4, 1, seed=2)
    for energy in (scalar, norm_energy(lambda x, level: net.apply(inner, x, level))):
        push = jax.jit(lambda t, e=energy: jax.jvp(lambda x: jax.grad(e)(x, LEVEL), (x,), (t,))[1])
        hu, hv = push(u), push(v)
        size = np.linalg.norm(hu) * np.linalg.norm(v)
        assert size > 0
        np.testing.assert_allclose(jnp.sum(v * hu), jnp.sum(u * hv), atol=2e-3 * size)
    field = net.apply(inner, x, LEVEL)
    weights = params["params"]["head"]
    expected = np.asarray(field).ravel() @ weights["kernel"] + weights["bias"]
    np.testing.assert_allclose(scalar(x, LEVEL), expected[0], rtol=1e-3, atol=1e-3)


def test_log_loss_starts_at_zero_and_learns_each_level_its_own_size():
    net = LogLoss(16)
    params = net.init(jax.random.key(0), LEVEL)
    assert float(net.apply(params, LEVEL)) == 0
    moved = jax.tree.map(lambda leaf: leaf + 0.1, params)
    assert float(net.apply(moved, LEVEL)) != float(net.apply(moved, jnp.float32(0.2)))
