"""The DDPM U-Net and its blocks against numpy on the same weights, and against its own sizes."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d
from scipy.special import expit, softmax

from ebm_jax.nets import precondition
from ebm_jax.nets.blocks import Attention, Conditioning, Conv, ResBlock, group_norm, sinusoids
from ebm_jax.nets.unet import UNet
from tests.statistics import assert_mean

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiles fast
LEVEL = jnp.float32(437.5)
SMALL = UNet(channels=8, multipliers=(1, 2), blocks=1, attention_sides=(4,), groups=4)


def normals(*shape, seed=1):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def random_weights(net, *inputs):
    """Weights of the shapes that `net` asks for, none of them zero; also as float64."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 4
        return jnp.float32(rng.normal(size=leaf.shape) / np.sqrt(fan_in))

    params = jax.tree.map(draw, shapes)
    return params, jax.tree.map(partial(np.asarray, dtype=np.float64), params)["params"]


def relative(a, b):
    a, b = np.float64(a), np.float64(b)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


# ---- the blocks, written out


def swish(x):
    return x * expit(x)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def normalize(p, x, groups):
    """Zero mean and unit variance over the pixels and channels of each group."""
    h, w, c = x.shape
    split = x.reshape(h * w, groups, c // groups)
    centered = split - split.mean((0, 2), keepdims=True)
    unit = centered / np.sqrt((centered**2).mean((0, 2), keepdims=True) + 1e-6)
    return unit.reshape(x.shape) * p["scale"] + p["bias"]


def convolve(p, x, before=1, after=1, stride=1):
    """The sums of 3x3 products wherever the kernel fits into the padded image."""
    x = np.pad(x, ((before, after), (before, after), (0, 0)))
    kernel = p["kernel"]
    planes = [
        sum(correlate2d(x[..., i], kernel[..., i, o], "valid") for i in range(x.shape[-1]))
        for o in range(kernel.shape[-1])
    ]
    return np.stack(planes, -1)[::stride, ::stride] + p["bias"]


def res_block(p, x, embedding, groups, resample=lambda x: x, scale=1.0):
    """`groups` are those of the two norms."""
    h = resample(swish(normalize(p["norm_0"], x, groups[0])))
    h = convolve(p["conv_0"], h) + dense(p["shift"], swish(embedding))
    h = convolve(p["conv_1"], swish(normalize(p["norm_1"], h, groups[1])))
    x = resample(x)
    return scale * (h + (dense(p["shortcut"], x) if "shortcut" in p else x))


def attend(p, x, groups, scale=1.0):
    c = x.shape[-1]
    h = normalize(p["norm"], x, groups).reshape(-1, c)
    q, k, v = (dense(p[name], h) for name in "qkv")
    h = dense(p["projection"], softmax(q @ k.T / np.sqrt(c), -1) @ v)
    return scale * (x + h.reshape(x.shape))


def condition(p, waves):
    return dense(p["dense_1"], swish(dense(p["dense_0"], waves)))


def waves(level, features):
    """sin and cos of level / 10000^(i / (n - 1)), i = 0 .. n - 1, n = features / 2."""
    n = features // 2
    angles = level * np.exp(-np.log(10000) * np.arange(n) / (n - 1))
    return np.concatenate([np.sin(angles), np.cos(angles)])


def u_net(p, x, level):
    """`SMALL` line by line; 8 channels make 2 groups, 16 and 24 make 4."""
    e = condition(p["level"], waves(level, 8))
    s0 = convolve(p["conv_in"], x)
    s1 = res_block(p["down_0_block_0"], s0, e, (2, 2))
    s2 = convolve(p["down_1_halve"], s1, before=0, after=1, stride=2)
    s3 = attend(p["down_1_attention_0"], res_block(p["down_1_block_0"], s2, e, (2, 4)), 4)
    h = res_block(p["middle_block_0"], s3, e, (4, 4))
    h = res_block(p["middle_block_1"], attend(p["middle_attention"], h, 4), e, (4, 4))
    for j, skip in enumerate((s3, s2)):
        h = res_block(p[f"up_1_block_{j}"], np.concatenate([h, skip], -1), e, (4, 4))
        h = attend(p[f"up_1_attention_{j}"], h, 4)
    h = convolve(p["up_1_double"], np.kron(h, np.ones((2, 2, 1))))
    for j, skip in enumerate((s1, s0)):
        h = res_block(p[f"up_0_block_{j}"], np.concatenate([h, skip], -1), e, (4, 2))
    return convolve(p["conv_out"], swish(normalize(p["norm_out"], h, 2)))


@pytest.mark.parametrize(
    ("stride", "padding", "shape"),
    [
        (1, (1, 1), (5, 4, 3)),
        (2, (0, 1), (6, 4, 3)),
        (2, (0, 0), (7, 5, 2)),
        (2, (1, 1), (5, 8, 1)),
    ],
)
def test_convolution_is_scipys_at_every_stride_th_pixel(stride, padding, shape):
    x, net = normals(*shape), Conv(2, stride, padding)
    params, p = random_weights(net, x)
    np.testing.assert_allclose(
        net.apply(params, x), convolve(p, np.float64(x), *padding, stride), atol=1e-5
    )


def test_halving_convolution_pads_after_the_image_as_tensorflow_does():
    """Output (i, j) is centered at pixel (2i + 1, 2j + 1): the direct sum, zeros beyond."""
    x, net = normals(4, 6, 2), Conv(3, stride=2, padding=(0, 1))
    params, p = random_weights(net, x)
    expected = np.zeros((2, 3, 3))
    for i, j, u, v in np.ndindex(2, 3, 3, 3):
        if 2 * i + u < 4 and 2 * j + v < 6:
            expected[i, j] += np.float64(x[2 * i + u, 2 * j + v]) @ p["kernel"][u, v]
    np.testing.assert_allclose(net.apply(params, x), expected + p["bias"], atol=1e-5)


@pytest.mark.parametrize("channels_in", [8, 12])
def test_res_block_is_two_convolutions_around_a_shift_on_a_residual_path(channels_in):
    x, embedding = normals(4, 6, channels_in), normals(5, seed=2)
    net = ResBlock(8, groups=4)
    params, p = random_weights(net, x, embedding)
    assert ("shortcut" in p) == (channels_in != 8)  # the residual path projects when it must
    expected = res_block(p, np.float64(x), np.float64(embedding), (channels_in // 4, 2))
    np.testing.assert_allclose(net.apply(params, x, embedding), expected, atol=1e-4)


def test_attention_is_the_softmax_of_scaled_products_over_all_pixels():
    x = 2 * normals(4, 2, 12)
    params, p = random_weights(Attention(groups=3), x)
    out = Attention(groups=3).apply(params, x)
    np.testing.assert_allclose(out, attend(p, np.float64(x), 3), atol=1e-5)


def test_attention_does_not_see_where_a_pixel_stands():
    x, net = normals(4, 2, 8), Attention(groups=2)
    params, _ = random_weights(net, x)
    order = np.random.default_rng(2).permutation(8)
    moved = net.apply(params, x.reshape(8, 8)[order].reshape(4, 2, 8))
    np.testing.assert_allclose(
        moved.reshape(8, 8), net.apply(params, x).reshape(8, 8)[order], atol=1e-5
    )


@pytest.mark.parametrize("level", [0.0, 1.0, 437.5, 999.0])
def test_sinusoids_are_those_of_the_transformer(level):
    expected = waves(level, 128)
    assert expected[64] == np.cos(level)
    np.testing.assert_allclose(sinusoids(jnp.float32(level), 128), expected, atol=5e-5)


def test_conditioning_adds_the_vector_of_the_label_to_that_of_the_level():
    x = normals(6)
    params, p = random_weights(Conditioning(5, num_classes=3), x, None)
    table = p["Embed_0"]["embedding"]
    assert table.shape == (4, 5)
    for label, row in ((0, 0), (jnp.int32(2), 2), (None, 3)):
        out = Conditioning(5, num_classes=3).apply(params, x, label)
        np.testing.assert_allclose(out, condition(p, np.float64(x)) + table[row], atol=1e-5)


class Norm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return group_norm(x, 32)


def test_group_norm_has_the_published_groups_and_keeps_images_of_a_batch_apart():
    """32 groups from 128 channels on; four channels each below. Other scales show a mix-up."""
    for channels, groups in ((128, 32), (384, 32), (64, 16), (8, 2)):
        images = normals(3, 4, 4, channels) * jnp.array([1.0, 10.0, 0.1])[:, None, None, None] + 5

        params = Norm().init(jax.random.key(0), images[0])
        out = np.float64(jit(jax.vmap(partial(Norm().apply, params)))(images)).reshape(
            3, 16, groups, channels // groups
        )
        np.testing.assert_allclose(out.mean((1, 3)), 0, atol=1e-4)
        np.testing.assert_allclose(out.var((1, 3)), 1, atol=2e-2)


# ---- the network


def test_u_net_is_the_one_written_out():
    x = normals(8, 8, 2)
    params, p = random_weights(SMALL, x, LEVEL)
    expected = u_net(p, np.float64(x), float(LEVEL))
    assert relative(jit(SMALL.apply)(params, x, LEVEL), expected) < 1e-4


# Parameters by kind of layer.


def conv_count(channels_in, channels):
    return 3 * 3 * channels_in * channels + channels


def dense_count(features_in, features):
    return features_in * features + features


def block_count(channels_in, channels, embedding, resampled=False):
    count = 2 * channels_in + conv_count(channels_in, channels)
    count += dense_count(embedding, channels)
    count += 2 * channels + conv_count(channels, channels)
    projected = resampled or channels_in != channels
    return count + projected * dense_count(channels_in, channels)


def attention_count(channels):
    return 2 * channels + 4 * dense_count(channels, channels)


def ddpm_count(c):
    """The published network with c channels at first, resolution by resolution."""
    res, attention = partial(block_count, embedding=4 * c), attention_count(2 * c)
    level = dense_count(c, 4 * c) + dense_count(4 * c, 4 * c)
    down_32 = conv_count(3, c) + 2 * res(c, c) + conv_count(c, c)
    down_16 = res(c, 2 * c) + res(2 * c, 2 * c) + 2 * attention + conv_count(2 * c, 2 * c)
    down_8 = 2 * res(2 * c, 2 * c) + conv_count(2 * c, 2 * c)
    down_4 = 2 * res(2 * c, 2 * c)
    middle = 2 * res(2 * c, 2 * c) + attention
    up_4 = up_8 = 3 * res(4 * c, 2 * c) + conv_count(2 * c, 2 * c)
    up_16 = 2 * res(4 * c, 2 * c) + res(3 * c, 2 * c) + 3 * attention + conv_count(2 * c, 2 * c)
    up_32 = res(3 * c, c) + 2 * res(2 * c, c) + 2 * c + conv_count(c, 3)
    return level + down_32 + down_16 + down_8 + down_4 + middle + up_4 + up_8 + up_16 + up_32


def number_of_parameters(net, x):
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, LEVEL)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_default_has_the_published_number_of_parameters():
    assert ddpm_count(128) == 35_746_307  # 35.7M in arXiv:2006.11239
    assert number_of_parameters(UNet(), jnp.zeros((32, 32, 3))) == ddpm_count(128)


def test_half_the_channels_have_a_quarter_of_the_parameters():
    assert number_of_parameters(UNet(channels=64), jnp.zeros((32, 32, 3))) == ddpm_count(64)


def test_gray_images_of_28_pixels_have_attention_at_7():
    net = UNet(channels=32, multipliers=(1, 2, 2), attention_sides=(7,))
    out, params = jax.eval_shape(
        net.init_with_output, jax.random.key(0), jnp.zeros((28, 28, 1)), LEVEL
    )
    assert (out.shape, out.dtype) == ((28, 28, 1), jnp.float32)
    names = {name for name in params["params"] if "attention" in name}
    down, up = (
        {"down_2_attention_0", "down_2_attention_1"},
        {f"up_2_attention_{j}" for j in (0, 1, 2)},
    )
    assert names == down | up | {"middle_attention"}


def test_it_starts_as_the_zero_field_its_blocks_as_their_residual_path():
    """So that a preconditioned network starts as a denoiser known in closed form."""
    x, embedding = normals(8, 8, 8), normals(5)
    for net, inputs, expected in [
        (SMALL, (x, LEVEL), jnp.zeros_like(x)),
        (ResBlock(8, groups=2), (x, embedding), x),
        (Attention(groups=2), (x,), x),
    ]:
        out, _ = jit(net.init_with_output)(jax.random.key(0), *inputs)
        np.testing.assert_array_equal(out, expected)


def test_kernels_start_uniform_with_the_variance_of_their_fans():
    """DDPM's default: variance 2 / (fan in + fan out), bounded by sqrt(3) deviations."""
    x = jnp.zeros((4, 4, 32))
    kernel = jit(Conv(64).init)(jax.random.key(0), x)["params"]["kernel"]
    deviation = np.sqrt(2 / (9 * (32 + 64)))
    assert np.abs(kernel).max() < np.sqrt(3) * deviation
    assert_mean(np.ravel(kernel) ** 2, deviation**2)
    query = jit(Attention().init)(jax.random.key(0), x)["params"]["q"]["kernel"]
    assert_mean(np.ravel(query) ** 2, 2 / 64)


def every_parameter_counts(net, exceptions):
    """The gradient is zero for the parameters named in `exceptions` and for no other."""
    x, label = normals(8, 8, 2), 1
    weights = normals(8, 8, 2, seed=3)
    params, _ = random_weights(net, x, LEVEL, label)

    def total(params):
        return jnp.sum(weights * net.apply(params, x, LEVEL, label))

    grads = jit(jax.grad(total))(params)
    sizes = jax.tree_util.tree_map(lambda leaf: float(np.abs(leaf).max()), grads)
    largest = max(jax.tree.leaves(sizes))
    for path, size in jax.tree_util.tree_leaves_with_path(sizes):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        dead = any(name.endswith(exception) for exception in exceptions)
        assert (size < 1e-6 * largest) == dead, (name, size / largest)


def test_every_parameter_counts_but_the_keys_biases():
    """Those add q . b to all of a pixel's logits, which softmax does not see."""
    every_parameter_counts(SMALL.clone(num_classes=3), ["k/bias"])


def vmapped_equals_single(net):
    """With dropout, a key per example."""
    batch, levels = 3 * normals(3, 8, 8, 2), jnp.array([0.0, 30.0, 900.0])
    labels = jnp.arange(3)
    params, _ = random_weights(net, batch[0], LEVEL, 0)

    def apply(x, level, label):
        rngs = {"dropout": jax.random.fold_in(jax.random.key(1), label)}
        return net.apply(params, x, level, label, train=True, rngs=rngs)

    together = jit(jax.vmap(apply))(batch, levels, labels)
    for i in range(3):
        alone = jit(apply)(batch[i], levels[i], labels[i])
        assert relative(together[i], alone) < 1e-4


def test_an_example_alone_gives_what_it_gives_in_a_batch():
    vmapped_equals_single(SMALL.clone(blocks=0, num_classes=3, dropout=0.3))


def dropout_is_for_training(net):
    x = normals(8, 8, 2)
    params, _ = random_weights(net, x, LEVEL)

    @jit
    def train(seed):
        return net.apply(params, x, LEVEL, train=True, rngs={"dropout": jax.random.key(seed)})

    calm = jit(net.apply)(params, x, LEVEL)  # asks for no key
    first, second = train(1), train(2)
    np.testing.assert_array_equal(train(1), first)
    assert min(relative(first, calm), relative(second, calm), relative(first, second)) > 0.01


def test_dropout_is_for_training_and_follows_its_key():
    dropout_is_for_training(SMALL.clone(blocks=0, dropout=0.3))


def test_dropout_changes_no_mean_where_only_linear_layers_follow():
    x, embedding = normals(4, 4, 8), normals(5, seed=2)
    net = ResBlock(8, dropout=0.4, groups=4)
    params, _ = random_weights(net.clone(dropout=0.0), x, embedding)
    draw = jit(jax.vmap(lambda key: net.apply(params, x, embedding, rngs={"dropout": key})))
    draws = draw(jax.random.split(jax.random.key(1), 2000))
    assert np.min(np.std(draws, 0)) > 0.01
    assert_mean(draws, net.clone(dropout=0.0).apply(params, x, embedding))


def labels_count(net):
    """No label is the label num_classes; without classes the field is that of other weights."""
    x = normals(8, 8, 2)
    params, _ = random_weights(net, x, LEVEL)
    outs = jit(jax.vmap(partial(net.apply, params, x, LEVEL)))(jnp.arange(4))
    assert relative(jit(net.apply)(params, x, LEVEL), outs[3]) < 1e-4
    assert min(relative(outs[i], outs[j]) for i in range(4) for j in range(i)) > 0.01
    with pytest.raises(ValueError, match=rf"`{type(net).__name__}` got a label with num_classes=N"):
        net.clone(num_classes=None).apply(params, x, LEVEL, 0)


def test_labels_change_the_field_and_none_is_a_label_of_its_own():
    labels_count(SMALL.clone(blocks=0, num_classes=3))


def bfloat16_stays_close(net, near):
    """Parameters, output, norms and levels in float32: bfloat16 has 998.4 for 1000."""
    x = normals(8, 8, 2)
    low = net.clone(dtype=jnp.bfloat16)
    params, _ = random_weights(net, x, LEVEL)
    started = jax.eval_shape(low.init, jax.random.key(0), x, LEVEL)
    assert started == jax.eval_shape(net.init, jax.random.key(0), x, LEVEL)
    apply = jit(partial(low.apply, params, x))
    out = apply(LEVEL)
    assert out.dtype == jnp.float32
    assert 1e-4 < relative(out, jit(net.apply)(params, x, LEVEL)) < 0.03
    first, second = (apply(jnp.float32(level)) for level in near)
    assert np.abs(first - second).max() > 0
    grads = jax.eval_shape(jax.grad(lambda p: jnp.sum(low.apply(p, x, LEVEL))), params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    operations = str(jax.make_jaxpr(low.apply)(params, x, LEVEL))
    assert re.search(r":bf16\[[\d,]*\] = dot_general", operations)
    assert not re.search(r":bf16\[[\d,]*\] = (exp|logistic|rsqrt|sin|cos|reduce)", operations)


def test_bfloat16_is_for_convolutions_and_attention_alone():
    bfloat16_stays_close(SMALL, (998.4, 1000.0))


def remat_changes_no_value(net):
    x = normals(8, 8, 2)
    params, _ = random_weights(net, x, LEVEL)

    def values(net):
        def total(params):
            rngs = {"dropout": jax.random.key(1)}
            out = net.apply(params, x, LEVEL, train=True, rngs=rngs)
            return jnp.sum(out**2), out

        return jit(jax.value_and_grad(total, has_aux=True))(params)

    kept, recomputed = values(net), values(net.clone(remat=True))
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(kept[1]))
    for mine, theirs in zip(*map(jax.tree.leaves, (recomputed, kept)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-6 * largest)


def test_recomputing_the_blocks_changes_no_value_and_no_gradient():
    remat_changes_no_value(SMALL.clone(blocks=0, dropout=0.3))


def remat_keeps_less(net):
    x = normals(8, 8, 2)
    params, _ = random_weights(net, x, LEVEL)

    def numbers(net):
        pull = jax.eval_shape(lambda p: jax.vjp(lambda p: net.apply(p, x, LEVEL), p)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(pull))

    assert numbers(net.clone(remat=True)) < 0.7 * numbers(net)


def test_recomputing_the_blocks_keeps_less_for_the_gradient():
    remat_keeps_less(SMALL)


def test_wrapped_by_vp_it_predicts_the_noise_at_999_t():
    """With alpha^2 = 1 / (1 + sigma^2) = exp(-integral of beta up to t)."""
    x, sigma, t = normals(8, 8, 2), np.sqrt(np.expm1(0.1 * 0.6 + 19.9 / 2 * 0.6**2)), 0.6
    params, _ = random_weights(SMALL, x, LEVEL)
    denoise = jit(precondition.vp(partial(SMALL.apply, params)))
    noise = jit(SMALL.apply)(params, x / np.float32(np.hypot(1, sigma)), jnp.float32(999 * t))
    expected = np.float64(x) - sigma * np.float64(noise)
    assert relative(denoise(x, jnp.float32(sigma)), expected) < 1e-3


def refuses_what_does_not_fit(net):
    def init(shape, label=None, **changes):
        args = jax.random.key(0), jnp.zeros(shape), LEVEL, label
        jax.eval_shape(net.clone(**changes).init, *args)

    name = type(net).__name__
    for shape, changes, message in [
        ((6, 8, 1), {"multipliers": (1, 1, 1)}, f"`{name}` got an image of 6x8.*divisible by 4"),
        ((8, 6, 1), {"multipliers": (1, 1, 1)}, f"`{name}` got an image of 8x6.*divisible by 4"),
        ((8, 8, 1), {"attention_sides": (16,)}, rf"`{name}` got attention_sides \(16,\).*\[8, 4\]"),
        ((8, 8, 1), {"multipliers": ()}, rf"`{name}` got multipliers \(\)"),
        ((8, 8, 1), {"channels": 18}, "got 18 channels to divide into groups=4.*multiples of 4"),
        ((8, 8, 1), {"channels": 2}, "got 2 channels to divide into groups=4"),
    ]:
        with pytest.raises(ValueError, match=message):
            init(shape, **changes)


def test_what_does_not_fit_is_refused_by_name_value_and_mend():
    refuses_what_does_not_fit(SMALL)


def test_one_resolution_takes_any_sides():
    x, net = normals(5, 3, 2), SMALL.clone(multipliers=(1,), attention_sides=(5,))
    params, _ = random_weights(net, x, LEVEL)
    assert jit(net.apply)(params, x, LEVEL).shape == x.shape
