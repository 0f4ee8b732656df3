"""Networks against numpy and scipy on the same weights; preconditioning against its algebra."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate
from scipy.special import expit, softmax

from ebm_jax import calculus, noise
from ebm_jax.calculus import score_from_denoiser
from ebm_jax.nets import MLP, ConvScore, EnergyMLP, LevelEmbedding, ScoreMLP, precondition
from ebm_jax.nets.conv import ResBlock, group_norm
from ebm_jax.nets.mlp import orthonormal_basis

LEVEL = 0.7


def random_weights(net, *inputs):
    """Weights of the shapes that `net` asks for, none of them zero, and the plain function."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.float32(0.3 * rng.normal(size=leaf.shape)), shapes)
    numbers = jax.tree.map(partial(np.asarray, dtype=np.float64), params)["params"]
    return params, numbers, jax.jit(partial(net.apply, params))


def normals(*shape, seed=1):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def silu(x):
    return x * expit(x)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def embed(p, level, features):
    """Sines and cosines of geometrically spaced frequencies from 1/4 to 16, two layers."""
    angles = level * 0.25 * 64 ** (np.arange(features // 2) / (features // 2 - 1))
    waves = np.concatenate([np.cos(angles), np.sin(angles)])
    return dense(p["Dense_0"], silu(dense(p["Dense_1"], waves)))  # linen numbers the outer first


def normalize(p, x, number=None):
    """Zero mean and unit variance in each of some groups of channels."""
    number = number or min(8, x.shape[-1] // 4)
    h, w, c = x.shape
    groups = x.reshape(h, w, number, c // number)
    centered = groups - groups.mean((0, 1, 3), keepdims=True)
    unit = centered / np.sqrt((centered**2).mean((0, 1, 3), keepdims=True) + 1e-6)
    return unit.reshape(x.shape) * p["scale"] + p["bias"]


def convolve(p, x):
    """Zero-padded 3x3 correlation, channel by channel."""
    kernel = p["kernel"]
    planes = [
        sum(correlate(x[..., i], kernel[..., i, o], "same") for i in range(x.shape[-1]))
        for o in range(kernel.shape[-1])
    ]
    return np.stack(planes, -1) + p["bias"]


def res_block(p, x, embedding):
    h = convolve(p["Conv_0"], silu(normalize(p["GroupNorm_0"], x)))
    h = normalize(p["GroupNorm_1"], h + dense(p["Dense_0"], silu(embedding)))
    h = convolve(p["Conv_1"], silu(h))
    return h + (dense(p["Dense_1"], x) if "Dense_1" in p else x)


def attend(p, x):
    """Self-attention over all pixels, on a residual path; groups of four channels."""
    c = x.shape[-1]
    pixels = normalize(p["norm"], x, c // 4).reshape(-1, c)
    q, k, v = (dense(p[name], pixels) for name in "qkv")
    weights = softmax(q @ k.T / np.sqrt(c), -1)
    return x + dense(p["projection"], weights @ v).reshape(x.shape)


def u_net(p, x, level):
    """`ConvScore` with channels (8, 16) and one block, written out."""
    embedding = embed(p["LevelEmbedding_0"], level, 4 * 8)
    fine = res_block(p["ResBlock_0"], convolve(p["Conv_0"], x), embedding)
    pooled = fine.reshape(fine.shape[0] // 2, 2, fine.shape[1] // 2, 2, -1).mean((1, 3))
    coarse = attend(p["Attention_0"], res_block(p["ResBlock_1"], pooled, embedding))
    joined = np.concatenate([np.kron(coarse, np.ones((2, 2, 1))), fine], -1)
    h = res_block(p["ResBlock_2"], joined, embedding)
    return convolve(p["Conv_1"], silu(normalize(p["GroupNorm_0"], h)))


# ---- networks on the same weights


def test_mlp_is_dense_layers_with_silu_between_them_and_none_at_the_end():
    x = normals(3)
    _, p, apply = random_weights(MLP((5, 4, 2)), x)
    h = silu(dense(p["Dense_1"], silu(dense(p["Dense_0"], x))))
    assert apply(x).shape == (2,)
    np.testing.assert_allclose(apply(x), dense(p["Dense_2"], h), rtol=1e-4, atol=1e-6)


def test_energy_mlp_is_an_mlp_plus_a_quadratic():
    x = normals(2, 3)
    _, p, apply = random_weights(EnergyMLP((5, 4)), x)
    layers, h = p["MLP_0"], np.asarray(x).ravel()
    for name in ("Dense_0", "Dense_1"):
        h = silu(dense(layers[name], h))
    expected = dense(layers["Dense_2"], h)[0] + 0.5 * np.exp(p["log_precision"]) * np.sum(x**2)
    assert apply(x).shape == ()
    assert layers["Dense_2"]["bias"].shape == (1,)  # the head has one output and drops none
    np.testing.assert_allclose(apply(x), expected, rtol=1e-5)


def test_energy_mlp_starts_with_the_tails_of_a_gaussian_wider_than_any_planar_target():
    """E / |x|^2 tends to 1 / (2 s^2) with s = e, whatever the other weights."""
    x = jnp.array([3e5, -4e5])
    energy = EnergyMLP().init_with_output(jax.random.key(0), x)[0]
    np.testing.assert_allclose(energy / jnp.sum(x**2), 0.5 * np.exp(-2), rtol=1e-3)


def test_level_embedding_is_two_layers_on_waves_of_a_geometric_range():
    _, p, apply = random_weights(LevelEmbedding(12), jnp.float32(LEVEL))
    np.testing.assert_allclose(apply(jnp.float32(LEVEL)), embed(p, LEVEL, 12), rtol=1e-4, atol=1e-5)


def test_score_mlp_adds_the_embedded_level_inside_every_hidden_layer():
    x = normals(2, 2)
    _, p, apply = random_weights(ScoreMLP((5, 4)), x, jnp.float32(LEVEL))
    embedding, h = embed(p["LevelEmbedding_0"], LEVEL, 64), np.asarray(x).ravel()
    h = silu(dense(p["Dense_0"], h) + dense(p["Dense_1"], embedding))
    h = silu(dense(p["Dense_2"], h) + dense(p["Dense_3"], embedding))
    expected = dense(p["Dense_4"], h).reshape(2, 2)
    np.testing.assert_allclose(apply(x, jnp.float32(LEVEL)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels_in", [8, 16])
def test_res_block_is_two_convolutions_around_a_shift_on_a_residual_path(channels_in):
    x, embedding = normals(4, 6, channels_in), normals(5, seed=2)
    _, p, apply = random_weights(ResBlock(8), x, embedding)
    assert ("Dense_1" in p) == (channels_in != 8)  # the residual path projects when it must
    expected = res_block(p, np.asarray(x), np.asarray(embedding))
    np.testing.assert_allclose(apply(x, embedding), expected, rtol=1e-3, atol=1e-3)


def test_conv_score_is_the_u_net_written_out():
    x = normals(4, 6, 3)
    _, p, apply = random_weights(ConvScore((8, 16), blocks=1), x, jnp.float32(LEVEL))
    expected = u_net(p, np.asarray(x), LEVEL)
    error = np.abs(apply(x, jnp.float32(LEVEL)) - expected).max()
    assert error < 1e-3 * np.abs(expected).max()


def test_conv_score_on_patches_is_the_u_net_of_their_pixels_side_by_side():
    x = normals(8, 12, 1)
    _, p, apply = random_weights(ConvScore((8, 16), 1, patch=2), x, jnp.float32(LEVEL))
    inside = np.stack([x[i::2, j::2, 0] for i in (0, 1) for j in (0, 1)], -1)
    out, expected = u_net(p, inside, LEVEL), np.zeros((8, 12, 1))
    for place, (i, j) in enumerate((i, j) for i in (0, 1) for j in (0, 1)):
        expected[i::2, j::2, 0] = out[..., place]
    error = np.abs(apply(x, jnp.float32(LEVEL)) - expected).max()
    assert error < 1e-3 * np.abs(expected).max()


def test_conv_score_has_the_blocks_it_was_asked_for():
    """`blocks` at each resolution down and again up, a stem and a head around them."""
    shapes = jax.eval_shape(
        ConvScore((8, 16, 24), blocks=2).init, jax.random.key(0), normals(8, 4, 1), jnp.float32(0)
    )
    names = shapes["params"].keys()
    assert sum(name.startswith("ResBlock") for name in names) == 3 * 2 + 2 * 2
    assert sum(name.startswith("Attention") for name in names) == 2
    assert sum(name.startswith("Conv") for name in names) == 2


def test_default_sizes_are_those_documented():
    assert (MLP((1,)).activation, EnergyMLP().widths, ScoreMLP().widths) == (
        jax.nn.silu, (128, 128), (128, 128),
    )  # fmt: skip
    assert (ConvScore().channels, ConvScore().blocks) == ((32, 64), 2)


# ---- derivatives that an energy knows of itself


def test_derivatives_of_one_hidden_layer_have_their_closed_form():
    """For tanh: H = W diag(u tanh''(a)) W^T + c I, tanh' = 1 - t^2, tanh'' = -2 t (1 - t^2)."""
    x, directions = normals(3), normals(2, 3, seed=2)
    net = EnergyMLP((5,), activation=jnp.tanh)
    params, p, _ = random_weights(net, x)
    kernel, head = p["MLP_0"]["Dense_0"]["kernel"], p["MLP_0"]["Dense_1"]["kernel"]
    c = np.exp(p["log_precision"])
    t = np.tanh(dense(p["MLP_0"]["Dense_0"], x))
    hessian = (kernel * (head[:, 0] * -2 * t * (1 - t**2))) @ kernel.T + c * np.eye(3)
    slope = kernel @ (head[:, 0] * (1 - t**2)) + c * x
    gradient, laplacian = net.apply(params, x, method="gradient_and_laplacian")
    np.testing.assert_allclose(gradient, slope, rtol=1e-4)
    np.testing.assert_allclose(laplacian, np.trace(hessian), rtol=1e-4)
    gradient, curvature = net.apply(params, x, directions, method="gradient_and_curvature")
    np.testing.assert_allclose(gradient, slope, rtol=1e-4)
    np.testing.assert_allclose(
        curvature, np.einsum("ki,ij,kj->k", directions, hessian, directions), rtol=1e-4
    )


@pytest.mark.parametrize(
    ("widths", "shape", "activation"),
    [
        ((), (3,), jax.nn.silu),
        ((8,), (12,), jnp.tanh),
        ((8, 6), (2, 3), jax.nn.gelu),
        ((8, 16, 5), (8,), jax.nn.softplus),
        ((8, 6, 5, 4), (5, 7), jax.nn.silu),
    ],
)
def test_derivatives_of_an_energy_are_those_of_autodiff_in_a_batch(widths, shape, activation):
    """For d below, at and above the first width, and so is the Laplacian's slope in x."""
    batch, directions = normals(4, *shape), normals(3, *shape, seed=2)
    net = EnergyMLP(widths, activation=activation)
    params, _, energy = random_weights(net, batch[0])
    laplacian_fn = partial(net.apply, params, method="gradient_and_laplacian", chunk_size=3)

    @jax.jit
    @jax.vmap
    def own(x):
        gradient, laplacian = laplacian_fn(x)
        again, curvature = net.apply(params, x, directions, method="gradient_and_curvature")
        return gradient, again, laplacian, curvature, jax.grad(lambda x: laplacian_fn(x)[1])(x)

    @jax.jit
    @jax.vmap
    def autodiff(x):
        gradient, hessian = jax.grad(energy)(x), partial(calculus.hessian_vector_product, energy, x)
        curvature = jax.vmap(lambda v: jnp.sum(v * hessian(v)))(directions)
        laplacian, slope = jax.value_and_grad(partial(calculus.laplacian, energy))(x)
        return gradient, gradient, laplacian, curvature, slope

    for mine, theirs in zip(own(batch), autodiff(batch), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("d", [4, 12])
@pytest.mark.parametrize("rank", [8, 3, 0])
def test_parameters_get_the_gradient_of_the_laplacian_by_autodiff(d, rank):
    """Also where the first layer's weights span less than its width, as at a start from zero."""
    net, x = EnergyMLP((8, 6)), normals(d)
    params, _, _ = random_weights(net, x)
    first = params["params"]["MLP_0"]["Dense_0"]
    first["kernel"] = first["kernel"] * jnp.float32(jnp.arange(8) < rank)[None]

    def own(params):
        return net.apply(params, x, method="gradient_and_laplacian")[1]

    def autodiff(params):
        return calculus.laplacian(partial(net.apply, params), x)

    grads = jax.jit(lambda p: (jax.grad(own)(p), jax.grad(autodiff)(p)))(params)
    for mine, theirs in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_laplacian_of_a_relu_energy_is_that_of_its_quadratic():
    x = normals(3)
    net = EnergyMLP((8, 6), activation=jax.nn.relu)
    params, p, _ = random_weights(net, x)
    _, laplacian = net.apply(params, x, method="gradient_and_laplacian")
    np.testing.assert_allclose(laplacian, 3 * np.exp(p["log_precision"]), rtol=1e-5)


@pytest.mark.parametrize("d", [3, 12])
def test_the_laplacian_takes_orthonormal_directions_no_more_than_the_first_width(d):
    kernel = normals(d, 8)
    basis = np.asarray(orthonormal_basis(kernel))
    assert basis.shape == (min(d, 8), d)
    np.testing.assert_allclose(basis @ basis.T, np.eye(min(d, 8)), atol=1e-5)
    np.testing.assert_allclose(basis.T @ (basis @ kernel), kernel, atol=1e-5)


def test_gradient_of_the_laplacian_takes_memory_by_the_chunk():
    net, batch = EnergyMLP((128, 128)), jnp.zeros((8, 128))
    params = jax.eval_shape(net.init, jax.random.key(0), batch[0])

    def temporary_bytes(chunk_size):
        def total(params):
            one = partial(net.apply, params, method="gradient_and_laplacian", chunk_size=chunk_size)
            return jnp.sum(jax.vmap(one)(batch)[1])

        compiled = jax.jit(jax.grad(total)).lower(params).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(4) < temporary_bytes(128) / 3


@pytest.mark.parametrize("number", [0, -1])
def test_the_laplacian_refuses_chunks_of_nothing(number):
    net, x = EnergyMLP((4,)), normals(3)
    params, _, _ = random_weights(net, x)
    with pytest.raises(ValueError, match=f"`gradient_and_laplacian` got chunk_size={number}"):
        net.apply(params, x, method="gradient_and_laplacian", chunk_size=number)


# ---- what every network must keep


def test_group_norm_normalizes_every_image_of_a_batch_by_itself():
    """linen's default under `vmap` reduces wrongly; images of other scales show it."""
    images = normals(3, 4, 4, 16) * jnp.array([1.0, 10.0, 0.1])[:, None, None, None] + 5.0
    norm = group_norm(16)
    params = norm.init(jax.random.key(0), images[0])
    out = np.asarray(jax.vmap(partial(norm.apply, params))(images)).reshape(3, 16, 4, 4)
    np.testing.assert_allclose(out.mean((1, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(out.var((1, 3)), 1, rtol=1e-2)


@pytest.mark.parametrize(
    ("net", "shape"), [(ConvScore((8, 16), blocks=1), (8, 4, 1)), (ScoreMLP((16,)), (3,))]
)
def test_an_example_alone_gives_what_it_gives_in_a_batch(net, shape):
    batch, levels = normals(5, *shape) * 3, jnp.linspace(-1.0, 1.0, 5)
    _, _, apply = random_weights(net, batch[0], levels[0])
    together = jax.vmap(apply)(batch, levels)
    for i in range(5):
        np.testing.assert_allclose(apply(batch[i], levels[i]), together[i], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("net", "shape"), [(ConvScore((8, 16), blocks=1), (8, 4, 1)), (ScoreMLP((16,)), (3,))]
)
def test_the_level_changes_the_field(net, shape):
    x = normals(*shape)
    _, _, apply = random_weights(net, x, jnp.float32(0))
    low, high = apply(x, jnp.float32(-1.0)), apply(x, jnp.float32(1.0))
    assert np.abs(low - high).max() > 0.01 * np.abs(low).max()


def test_conv_score_starts_as_the_zero_field_and_learns_from_there():
    """So that a preconditioned network starts as the exact denoiser of a Gaussian."""
    x, level = normals(4, 4, 1), jnp.float32(LEVEL)
    net = ConvScore((8,), blocks=0)
    params = jax.jit(net.init)(jax.random.key(0), x, level)

    def total(params):
        out = net.apply(params, x, level)
        return jnp.sum(out), out

    grads, out = jax.jit(jax.grad(total, has_aux=True))(params)
    np.testing.assert_array_equal(out, jnp.zeros_like(x))
    assert np.abs(grads["params"]["Conv_1"]["kernel"]).max() > 0


@pytest.mark.parametrize(
    ("channels", "shape", "side"), [((8, 8), (6, 5, 1), 2), ((8, 8, 8), (6, 8, 1), 4)]
)
def test_conv_score_refuses_sides_that_do_not_halve(channels, shape, side):
    with pytest.raises(ValueError, match=f"image of {shape[0]}x{shape[1]}.*divisible by {side}"):
        jax.eval_shape(ConvScore(channels).init, jax.random.key(0), normals(*shape), jnp.float32(0))


@pytest.mark.parametrize("channels", [(), (12,), (0,), (8, 4)])
def test_conv_score_refuses_channels_that_do_not_fill_its_groups(channels):
    with pytest.raises(ValueError, match=r"`ConvScore` got channels \(.*multiples of 8"):
        ConvScore(channels).init(jax.random.key(0), normals(4, 4, 1), jnp.float32(0))


def test_conv_score_with_one_resolution_takes_any_sides():
    x = normals(5, 3, 2)
    _, _, apply = random_weights(ConvScore((8,), blocks=1), x, jnp.float32(0))
    assert apply(x, jnp.float32(0)).shape == x.shape


# ---- preconditioning: D = c_skip x + c_out F(c_in x, c_noise)

SIGMAS = (0.01, 0.4, 3.0, 60.0)


def coefficients(factory, sigma):
    """(c_skip, c_out, c_in, c_noise) as seen by raw functions that give them away."""
    one, sigma = jnp.ones(1), jnp.float32(sigma)
    skip = factory(lambda x, level: jnp.zeros_like(x))(one, sigma)[0]
    out = factory(lambda x, level: jnp.ones_like(x))(one, sigma)[0] - skip
    seen = []
    factory(lambda x, level: seen.extend([float(x[0]), float(level)]) or x)(one, sigma)
    return np.float64(skip), np.float64(out), *seen


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("options", [{}, {"sigma_data": 1.3}])
def test_edm_gives_the_network_inputs_and_targets_of_unit_variance(sigma, options):
    """Equations 114 to 131 of arXiv:2206.00364, for data of standard deviation sd.

    Input c_in x and target (x_0 - c_skip x) / c_out have variance one, and c_skip makes
    c_out, which amplifies the network's errors, as small as it can be.
    """
    sd = options.get("sigma_data", 0.5)
    skip, out, scale, level = coefficients(partial(precondition.edm, **options), sigma)
    np.testing.assert_allclose(scale**2 * (sd**2 + sigma**2), 1, rtol=1e-5)

    def target_variance(skip):
        return (1 - skip) ** 2 * sd**2 + skip**2 * sigma**2

    np.testing.assert_allclose(target_variance(skip) / out**2, 1, rtol=1e-3)
    assert out > 0
    assert target_variance(skip) <= target_variance(skip * np.array([0.9, 1.1])).min()
    np.testing.assert_allclose(level, np.log(sigma) / 4, rtol=1e-5)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_edm_of_a_zero_network_is_the_exact_denoiser_of_gaussian_data(sigma):
    """E[x_0 | x] = sd^2 / (sd^2 + sigma^2) x, by the conditional law of a Gaussian pair."""
    denoise = precondition.edm(lambda x, level: jnp.zeros_like(x), sigma_data=0.8)
    x = jnp.array([1.0, -2.0, 0.5])
    expected = 0.8**2 / (0.8**2 + sigma**2) * x
    np.testing.assert_allclose(denoise(x, jnp.float32(sigma)), expected, rtol=1e-5)


def raw(x, level):
    return jnp.sin(3 * x) + level


@pytest.mark.parametrize("sigma", SIGMAS)
def test_ncsn_makes_the_score_the_network_over_sigma(sigma):
    x, sigma = jnp.array([1.0, -2.0, 0.5]), jnp.float32(sigma)
    score = score_from_denoiser(precondition.ncsn(raw))(x, sigma)
    np.testing.assert_allclose(score, raw(x, jnp.log(sigma)) / sigma, rtol=1e-3)


@pytest.mark.parametrize("options", [{}, {"beta_min": 0.3, "beta_max": 8.0}])
@pytest.mark.parametrize("t", [1e-4, 0.02, 0.5, 1.0])
def test_vp_makes_the_score_of_the_process_minus_the_network_over_its_sigma(t, options):
    """F(x_t, 999 t) predicts the noise, so that the score of x_t is -F / sigma(t)."""
    process, t = noise.vp(**options), jnp.float32(t)
    x = process.alpha(t) * jnp.array([1.0, -2.0, 0.5])
    score = process.score(precondition.vp(raw, **options))(x, t)
    expected = -raw(x, 999 * t) / process.sigma(t)
    np.testing.assert_allclose(score, expected, rtol=2e-3)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_vp_finds_the_time_at_which_the_process_has_this_noise(sigma):
    skip, _, scale, level = coefficients(precondition.vp, sigma)
    process, t = noise.vp(), jnp.float32(level / 999)
    np.testing.assert_allclose(process.sigma(t) / process.alpha(t), sigma, rtol=2e-3)
    np.testing.assert_allclose([skip, scale], [1, process.alpha(t)], rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: precondition.edm(raw, sigma_data=0.0), "`edm` got sigma_data=0.0"),
        (lambda: precondition.edm(raw, sigma_data=-1.0), "`edm` got sigma_data=-1.0"),
        (lambda: precondition.vp(raw, beta_min=0.0), "`vp` got the range 0.0 to 20.0"),
        (lambda: precondition.vp(raw, beta_max=0.1), "`vp` got the range 0.1 to 0.1"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name_and_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_label_moves_a_small_network_and_no_label_is_a_class_of_its_own():
    net, x, level = ConvScore((8,), 1, num_classes=2), jnp.ones((4, 4, 1)), jnp.float32(0.3)
    params = net.init(jax.random.key(0), x, level)
    leaves, structure = jax.tree.flatten(params)
    params = jax.tree.unflatten(structure, [leaf + 0.2 for leaf in leaves])
    table = params["params"]["Embed_0"]["embedding"]
    assert table.shape == (3, 32)
    params["params"]["Embed_0"]["embedding"] = jnp.arange(96.0).reshape(3, 32) / 50
    outs = [net.apply(params, x, level, jnp.int32(i)) for i in range(3)]
    free = net.apply(params, x, level)
    np.testing.assert_array_equal(free, outs[2])
    assert np.abs(outs[0] - outs[1]).max() > 1e-3
    with pytest.raises(ValueError, match="`ConvScore` got a label with num_classes=None"):
        ConvScore((8,), 1).init(jax.random.key(0), x, level, jnp.int32(0))
