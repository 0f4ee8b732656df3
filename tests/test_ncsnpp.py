"""NCSN++ and DDPM++ against numpy on the same weights; FIR resampling against scipy's upfirdn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import upfirdn

from ebm_jax.calculus import score_from_denoiser
from ebm_jax.nets import precondition
from ebm_jax.nets.ncsnpp import FourierFeatures, NCSNpp
from ebm_jax.nets.resample import blur_fir, double, downsample_fir, upsample_fir
from tests.statistics import assert_mean
from tests.test_unet import (
    attend,
    attention_count,
    bfloat16_stays_close,
    block_count,
    condition,
    conv_count,
    convolve,
    dense_count,
    dropout_is_for_training,
    every_parameter_counts,
    jit,
    labels_count,
    normalize,
    normals,
    number_of_parameters,
    random_weights,
    refuses_what_does_not_fit,
    relative,
    remat_keeps_less,
    res_block,
    swish,
    vmapped_equals_single,
    waves,
)

LEVEL = jnp.float32(0.37)
SMALL = NCSNpp(channels=8, multipliers=(1, 2), blocks=1, attention_sides=(4,), groups=4)
TAPS = np.array([1, 3, 3, 1])


# ---- resampling


def along_sides(function, x):
    for axis in (0, 1):
        x = np.apply_along_axis(function, axis, x)
    return x


def up_numpy(x):
    """Zeros put between the pixels, then the filter: entry 1 of it falls on the first pixel."""
    return along_sides(lambda row: upfirdn(TAPS / 4, row, up=2)[1 : 2 * len(row) + 1], x)


def down_numpy(x):
    """The filter, then every second entry, from where two taps are on the first two pixels."""
    return along_sides(lambda row: np.convolve(TAPS / 8, row)[2:-1:2], x)


def blur_numpy(x):
    return along_sides(lambda row: np.convolve(TAPS / 8, row)[1:-1], x)


@pytest.mark.parametrize("shape", [(4, 6, 3), (2, 2, 1), (8, 4, 2)])
def test_fir_resampling_is_that_of_scipy(shape):
    x = np.float64(normals(*shape))
    for ours, theirs in (
        (upsample_fir, up_numpy),
        (downsample_fir, down_numpy),
        (blur_fir, blur_numpy),
    ):
        out = jit(ours)(jnp.float32(x))
        assert out.shape == theirs(x).shape
        np.testing.assert_allclose(out, theirs(x), atol=1e-6)


def test_fir_resampling_keeps_constants_away_from_the_border():
    x = jnp.full((8, 8, 2), 3.0)
    np.testing.assert_allclose(upsample_fir(x)[1:-1, 1:-1], 3.0, rtol=1e-6)
    np.testing.assert_allclose(downsample_fir(x)[1:-1, 1:-1], 3.0, rtol=1e-6)
    np.testing.assert_allclose(blur_fir(x)[2:-2, 2:-2], 3.0, rtol=1e-6)


def test_fir_resampling_keeps_sums_per_area_of_an_image_with_zeros_around_it():
    x = jnp.pad(normals(4, 6, 2), ((2, 2), (2, 2), (0, 0)))
    total = np.sum(x, (0, 1))
    np.testing.assert_allclose(np.sum(upsample_fir(x), (0, 1)), 4 * total, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.sum(downsample_fir(x), (0, 1)), total / 4, rtol=1e-4, atol=1e-5)


def test_upsampling_is_four_times_the_transpose_of_downsampling():
    small, large = normals(4, 2, 3), normals(8, 4, 3, seed=2)
    np.testing.assert_allclose(
        jnp.sum(upsample_fir(small) * large), 4 * jnp.sum(small * downsample_fir(large)), rtol=1e-4
    )


@pytest.mark.parametrize("up", [upsample_fir, double])
def test_resampling_keeps_every_pixel_in_its_place(up):
    """The center of mass of a pixel at i is i up and down, and 2i + 1/2 in the large image."""
    point = jnp.zeros((10, 10, 1)).at[4, 6, 0].set(1.0)

    def center(x):
        x, places = np.float64(x[..., 0]), np.arange(max(x.shape))
        return np.array([x.sum(1) @ places, x.sum(0) @ places]) / x.sum()

    np.testing.assert_allclose(center(up(point)), [8.5, 12.5], rtol=1e-6)
    np.testing.assert_allclose(center(downsample_fir(up(point))), [4, 6], rtol=1e-6)
    blurred = blur_fir(up(point))  # half a pixel behind: entry j stands between j - 1 and j
    np.testing.assert_allclose(center(blurred), [9, 13], rtol=1e-6)


def test_doubling_repeats_every_pixel():
    x = normals(3, 2, 2)
    np.testing.assert_array_equal(double(x), np.kron(x, np.ones((2, 2, 1))))


# ---- the network, line by line


def mean_numpy(x):
    h, w, c = x.shape
    return x.reshape(h // 2, 2, w // 2, 2, c).mean((1, 3))


def nearest_numpy(x):
    return np.kron(x, np.ones((2, 2, 1)))


def fourier_numpy(p, level):
    angles = 2 * np.pi * p["fourier"]["frequencies"] * level
    return np.concatenate([np.sin(angles), np.cos(angles)])


def ncsnpp_numpy(p, x, level, *, fir, progressive_input, embedding):
    """`SMALL` and its relatives; 8 channels make 2 groups, 16 and 24 make 4."""
    e = condition(p["level"], fourier_numpy(p, level) if embedding else waves(level, 8))
    block = partial(res_block, embedding=e, scale=np.sqrt(0.5))
    down, up = (down_numpy, up_numpy) if fir else (mean_numpy, nearest_numpy)
    s0 = convolve(p["conv_in"], x)
    s1 = block(p["down_0_block_0"], s0, groups=(2, 2))
    s2 = block(p["down_1_halve"], s1, groups=(2, 2), resample=down)
    if progressive_input:
        if fir:
            image = convolve(p["down_1_pyramid"], blur_numpy(x), before=0, after=0, stride=2)
        else:
            image = convolve(p["down_1_pyramid"], x, before=0, after=1, stride=2)
        s2 = (s2 + image) / np.sqrt(2)
    attention = partial(attend, groups=4, scale=np.sqrt(0.5))
    s3 = attention(p["down_1_attention_0"], block(p["down_1_block_0"], s2, groups=(2, 4)))
    h = attention(p["middle_attention"], block(p["middle_block_0"], s3, groups=(4, 4)))
    h = block(p["middle_block_1"], h, groups=(4, 4))
    for j, skip in enumerate((s3, s2)):
        h = block(p[f"up_1_block_{j}"], np.concatenate([h, skip], -1), groups=(4, 4))
    h = block(p["up_1_double"], attention(p["up_1_attention"], h), groups=(4, 4), resample=up)
    for j, skip in enumerate((s1, s0)):
        h = block(p[f"up_0_block_{j}"], np.concatenate([h, skip], -1), groups=(4, 2))
    return convolve(p["conv_out"], swish(normalize(p["norm_out"], h, 2)))


@pytest.mark.parametrize(
    ("fir", "progressive_input", "embedding"),
    [(True, True, "fourier"), (False, True, "fourier"), (False, False, "positional")],
)
def test_ncsnpp_is_the_network_written_out(fir, progressive_input, embedding):
    options = {"fir": fir, "progressive_input": progressive_input}
    net, x = SMALL.clone(embedding=embedding, **options), normals(8, 8, 2)
    params, p = random_weights(net, x, LEVEL)
    expected = ncsnpp_numpy(
        p, np.float64(x), float(LEVEL), embedding=embedding == "fourier", **options
    )
    assert relative(jit(net.apply)(params, x, LEVEL), expected) < 1e-4


def test_the_image_carried_down_takes_the_features_along():
    """At the third resolution it is the sum of both at the second that is halved and added."""
    net, x = SMALL.clone(multipliers=(1, 1, 2), attention_sides=()), normals(8, 8, 2)
    params, p = random_weights(net, x, LEVEL)
    apply = partial(net.apply, capture_intermediates=True, mutable=["intermediates"])
    seen = jit(apply)(params, x, LEVEL)[1]["intermediates"]
    carried, halved = (
        np.float64(seen[f"down_1_{name}"]["__call__"][0]) for name in ("pyramid", "halve")
    )
    down = partial(convolve, before=0, after=0, stride=2)
    assert relative(carried, down(p["down_1_pyramid"], blur_numpy(x))) < 1e-5
    below = down(p["down_2_pyramid"], blur_numpy((carried + halved) / np.sqrt(2)))
    assert relative(seen["down_2_pyramid"]["__call__"][0], below) < 1e-5


def test_fourier_features_are_waves_of_random_frequencies():
    params, p = random_weights(FourierFeatures(5), LEVEL)
    expected = fourier_numpy({"fourier": p}, float(LEVEL))
    np.testing.assert_allclose(FourierFeatures(5).apply(params, LEVEL), expected, atol=1e-5)
    drawn = FourierFeatures(4000).init(jax.random.key(0), LEVEL)["params"]["frequencies"]
    assert_mean(drawn, 0.0)
    assert_mean(drawn**2, 16.0**2)


# ---- published sizes


def ncsnpp_count(c, blocks):
    """NCSN++ for CIFAR-10, resolution by resolution; 2 c channels below the first."""
    res = partial(block_count, embedding=4 * c)
    inside = res(2 * c, 2 * c, resampled=True)  # a block that halves or doubles
    attention, rest = attention_count(2 * c), blocks - 1
    level = c + dense_count(2 * c, 4 * c) + dense_count(4 * c, 4 * c)
    pyramid = conv_count(3, c) + conv_count(c, 2 * c) + conv_count(2 * c, 2 * c)
    down_32 = conv_count(3, c) + blocks * res(c, c) + res(c, c, resampled=True)
    down_16 = res(c, 2 * c) + rest * res(2 * c, 2 * c) + blocks * attention + inside
    down_8, down_4 = blocks * res(2 * c, 2 * c) + inside, blocks * res(2 * c, 2 * c)
    middle = 2 * res(2 * c, 2 * c) + attention
    up_4 = up_8 = (blocks + 1) * res(4 * c, 2 * c) + inside
    up_16 = blocks * res(4 * c, 2 * c) + res(3 * c, 2 * c) + attention + inside
    up_32 = res(3 * c, c) + blocks * res(2 * c, c) + 2 * c + conv_count(c, 3)
    stages = (down_32, down_16, down_8, down_4, middle, up_4, up_8, up_16, up_32)
    return level + pyramid + sum(stages)


@pytest.mark.parametrize(("blocks", "millions"), [(4, 62.8), (8, 107.6)])
def test_ncsnpp_has_its_published_layers_and_no_others(blocks, millions):
    """The literature counts 107M for the deep network, and does not round up."""
    count = ncsnpp_count(128, blocks)
    assert round(count / 1e6, 1) == millions
    net = NCSNpp() if blocks == 4 else NCSNpp(blocks=blocks)
    assert number_of_parameters(net, jnp.zeros((32, 32, 3))) == count


def test_ddpmpp_has_the_published_number_of_parameters():
    """No random frequencies, half as many waves, and no image carried beside the features.

    61 804 419 is what a paper that trains the rectified flow of arXiv:2209.03003, which took
    this network over, counts in it.
    """
    c = 128
    pyramid = conv_count(3, c) + conv_count(c, 2 * c) + conv_count(2 * c, 2 * c)
    count = ncsnpp_count(c, 4) - pyramid - c - c * 4 * c
    assert count == 61_804_419
    net = NCSNpp(fir=False, progressive_input=False, embedding="positional")
    assert number_of_parameters(net, jnp.zeros((32, 32, 3))) == count


# ---- what every network must keep


def test_it_starts_as_the_zero_field_with_weak_queries_keys_and_values():
    """Those have a tenth of the variance 2 / (fan in + fan out), as published."""
    x, net = normals(8, 8, 2), SMALL.clone(channels=32, blocks=0)
    out, variables = jit(net.init_with_output)(jax.random.key(0), x, LEVEL)
    np.testing.assert_array_equal(out, jnp.zeros_like(x))
    for name in "qkv":
        kernel = variables["params"]["middle_attention"][name]["kernel"]
        assert_mean(np.ravel(kernel) ** 2, 0.1 / 64)


def test_every_parameter_counts_but_keys_biases_and_random_frequencies():
    every_parameter_counts(SMALL.clone(num_classes=3), ["k/bias", "fourier/frequencies"])


def test_an_example_alone_gives_what_it_gives_in_a_batch():
    vmapped_equals_single(SMALL.clone(blocks=0, num_classes=3, dropout=0.3))


def test_dropout_is_for_training_and_follows_its_key():
    dropout_is_for_training(SMALL.clone(blocks=0, dropout=0.3))


def test_labels_change_the_field_and_none_is_a_label_of_its_own():
    labels_count(SMALL.clone(blocks=0, num_classes=3))


def test_bfloat16_is_for_convolutions_and_attention_alone():
    bfloat16_stays_close(SMALL, (3.9, 3.902))


def test_recomputing_the_blocks_keeps_less_for_the_gradient():
    remat_keeps_less(SMALL)


def test_wrapped_by_ncsn_its_output_over_sigma_is_the_score():
    x, sigma = normals(8, 8, 2), jnp.float32(0.7)
    params, _ = random_weights(SMALL, x, LEVEL)
    denoise = precondition.ncsn(partial(SMALL.apply, params))
    score = jit(score_from_denoiser(denoise))(x, sigma)
    field = jit(SMALL.apply)(params, x, jnp.log(sigma))
    assert relative(score, field / sigma) < 1e-3


def test_what_does_not_fit_is_refused_by_name_value_and_mend():
    refuses_what_does_not_fit(SMALL)


def test_an_unknown_embedding_is_refused():
    with pytest.raises(ValueError, match="`NCSNpp` got embedding='learned': give \"fourier\" or"):
        SMALL.clone(embedding="learned").init(jax.random.key(0), normals(8, 8, 2), LEVEL)
