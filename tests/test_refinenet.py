"""RefineNets against numpy and scipy on the same weights; their sizes against the tables."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import maximum_filter, uniform_filter

from ebm_jax.calculus import score_from_denoiser
from ebm_jax.nets import precondition
from ebm_jax.nets.refine_blocks import InstanceNormPlus, RefineBlock, ResidualBlock, stretch
from ebm_jax.nets.refinenet import NCSN, NCSNv2

LEVEL = jnp.float32(0.3)
INDEX = jnp.int32(1)
BOTH = [(NCSN(8, 3), INDEX), (NCSNv2(8), LEVEL)]
both_nets = pytest.mark.parametrize(("net", "level"), BOTH, ids=["NCSN", "NCSNv2"])
SMALL = [(NCSN(8, 3, (1, 1, 1)), INDEX), (NCSNv2(8, (1, 1, 1)), LEVEL)]
both_small_nets = pytest.mark.parametrize(("net", "level"), SMALL, ids=["NCSN", "NCSNv2"])


def normals(*shape, seed=1):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def random_weights(net, *inputs):
    """Weights of the shapes that `net` asks for, and the same as float64: variance is kept."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        center = path[-1].key in ("gamma", "alpha")
        scale = np.prod(leaf.shape[:-1]) ** -0.5 if path[-1].key == "kernel" else 0.3
        return jnp.float32(center + scale * rng.normal(size=leaf.shape))

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    return params, jax.tree.map(partial(np.asarray, dtype=np.float64), params)["params"]


@cache
def prepared(net, shape):
    """Random weights of a whole network, twice, and its compiled function."""
    level = INDEX if isinstance(net, NCSN) else LEVEL
    return *random_weights(net, jnp.zeros(shape), level), jax.jit(net.apply)


def assert_close(actual, expected, tolerance=1e-4):
    """Equal up to a fraction of the largest entry."""
    assert actual.shape == expected.shape
    assert np.abs(np.asarray(actual) - expected).max() < tolerance * np.abs(expected).max()


# ---- the networks written out in float64


class Layers:
    """The layers of a block, in the order in which linen has numbered them."""

    def __init__(self, p, level):
        self.p, self.level, self.taken = p, level, {"Conv": 0, "InstanceNormPlus": 0}

    def take(self, kind):
        self.taken[kind] += 1
        return self.p[f"{kind}_{self.taken[kind] - 1}"]

    def norm(self, x):
        return normalize(self.take("InstanceNormPlus"), x, self.level)

    def conv(self, x, dilation=1):
        return convolve(self.take("Conv"), x, dilation)


def normalize(p, x, level=None):
    """InstanceNorm++; `level` selects a row of the conditional one."""
    names = ("gamma", "alpha", "beta")
    gamma, alpha, beta = (p[name] if level is None else p[name][level] for name in names)
    pixels = x.reshape(-1, x.shape[-1])
    mu, s = pixels.mean(0), np.sqrt(((pixels - pixels.mean(0)) ** 2).mean(0) + 1e-5)
    m, v = mu.mean(), np.sqrt(((mu - mu.mean()) ** 2).sum() / (len(mu) - 1) + 1e-5)
    return gamma * ((x - mu) / s + alpha * (mu - m) / v) + beta


def convolve(p, x, dilation=1):
    """Zero-padded correlation with a dilated kernel of side 1 or 3, tap by tap."""
    (h, w), side = x.shape[:2], len(p["kernel"])
    edge = dilation * (side // 2)
    padded = np.pad(x, ((edge, edge), (edge, edge), (0, 0)))
    taps = np.arange(side) * dilation
    return p.get("bias", 0) + sum(
        padded[a : a + h, b : b + w] @ p["kernel"][i, j]
        for i, a in enumerate(taps)
        for j, b in enumerate(taps)
    )


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def interpolate(x, shape):
    """Piecewise linear along one axis and then the other, corners on corners."""
    for axis, new in enumerate(shape):
        places = np.linspace(0, x.shape[axis] - 1, new)
        x = np.apply_along_axis(
            lambda line, places=places: np.interp(places, np.arange(len(line)), line), axis, x
        )
    return x


def residual_block(p, x, level, opens_stage, dilation):
    layers = Layers(p, level)
    h = layers.conv(elu(layers.norm(x)), dilation)
    h = layers.conv(elu(layers.norm(h)), dilation)
    if not opens_stage:
        return x + h
    if dilation > 1:
        return layers.conv(x, dilation) + h
    h = layers.conv(x) + h
    return (h[::2, ::2] + h[1::2, ::2] + h[::2, 1::2] + h[1::2, 1::2]) / 4


def refine_block(p, x, level, coarse, last_units, conditional):
    layers = Layers(p, level)
    norm = layers.norm if conditional else lambda h: h

    def units(h, number):
        for _ in range(number):
            h = h + layers.conv(elu(norm(layers.conv(elu(norm(h))))))
        return h

    h = units(x, 2)
    if coarse is not None:
        h = layers.conv(norm(h))
        h = h + interpolate(layers.conv(norm(units(coarse, 2))), x.shape[:2])
    h = elu(h)
    path = h
    for _ in range(2):
        path = norm(path)
        if conditional:
            path = uniform_filter(path, (5, 5, 1), mode="constant")
        else:
            path = maximum_filter(path, (5, 5, 1), mode="constant", cval=-np.inf)
        path = layers.conv(path)
        h = h + path
    return units(h, last_units)


def refine_net(p, x, level, conditional):
    """Four stages, of which the second halves the image and the last two are dilated."""
    p = p["RefineNet_0"]
    down, up = partial(residual_block, level=level), partial(refine_block, level=level)
    one = convolve(p["Conv_0"], x)
    for j in range(2):
        one = down(p[f"residual_0_{j}"], one, opens_stage=False, dilation=1)
    stages = [one]
    for i, dilation in ((1, 1), (2, 2), (3, 4)):
        h = down(p[f"residual_{i}_0"], stages[-1], opens_stage=True, dilation=dilation)
        stages.append(down(p[f"residual_{i}_1"], h, opens_stage=False, dilation=dilation))
    h = None
    for i, units in ((3, 1), (2, 1), (1, 1), (0, 3)):
        h = up(p[f"refine_{i}"], stages[i], coarse=h, last_units=units, conditional=conditional)
    return convolve(p["Conv_1"], elu(normalize(p["InstanceNormPlus_0"], h, level)))


# ---- normalization


@pytest.mark.parametrize("levels", [None, 3])
def test_instance_norm_plus_is_its_formula_for_every_image_of_a_batch(levels):
    """Images of other scales and offsets show a reduction over the wrong axes."""
    x = normals(4, 3, 5, 6) * jnp.float32([1, 10, 0.1, 3])[:, None, None, None]
    x = x + normals(4, 6, seed=2)[:, None, None] * 4
    norm, level = InstanceNormPlus(levels), None if levels is None else INDEX
    params, p = random_weights(norm, x[0], level)
    assert p["alpha"].shape == ((6,) if levels is None else (levels, 6))
    together = jax.vmap(lambda x: norm.apply(params, x, level))(x)
    for i in range(4):
        expected = normalize(p, np.float64(x[i]), level)
        assert_close(together[i], expected, 1e-5)
        assert_close(norm.apply(params, x[i], level), expected, 1e-5)


def test_instance_norm_plus_forgets_exposure_and_keeps_how_channels_compare():
    """a x + b in all channels changes nothing; a shift of one shows itself through alpha alone."""
    x = normals(5, 4, 3) * 10 + jnp.float32([30, 0, -50])[None, None]
    norm = InstanceNormPlus()
    params, _ = random_weights(norm, x)
    blind = {"params": params["params"] | {"alpha": jnp.zeros(3)}}
    one_brighter = x + jnp.float32([80, 0, 0])[None, None]
    before = norm.apply(params, x)
    assert_close(norm.apply(params, 3 * x + 70), np.asarray(before), 1e-4)
    assert_close(norm.apply(blind, one_brighter), np.asarray(norm.apply(blind, x)), 1e-4)
    assert np.abs(norm.apply(params, one_brighter) - before).max() > 0.3


def test_statistics_stay_in_float32_in_a_bfloat16_computation():
    """Of values near 100, which bfloat16 spaces by 1/2, with a spread of one."""
    x = (normals(16, 16, 4) + 100).astype(jnp.bfloat16)
    norm = InstanceNormPlus(dtype=jnp.bfloat16)
    params, p = random_weights(norm, x)
    out = norm.apply(params, x)
    assert out.dtype == jnp.bfloat16
    assert_close(np.float64(out), normalize(p, np.float64(x)), 2**-8)


# ---- blocks


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize(
    ("opens_stage", "dilation"), [(False, 1), (False, 4), (True, 1), (True, 2)]
)
def test_residual_block_is_the_block_written_out(opens_stage, dilation, levels):
    x, level = normals(8, 6, 4), None if levels is None else INDEX
    block = ResidualBlock(6 if opens_stage else 4, opens_stage, dilation, levels)
    params, p = random_weights(block, x, level)
    expected = residual_block(p, np.float64(x), level, opens_stage, dilation)
    assert expected.shape[:2] == ((4, 3) if (opens_stage, dilation) == (True, 1) else (8, 6))
    assert_close(jax.jit(block.apply)(params, x, level), expected)


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize(("coarse", "last_units"), [(None, 1), ((4, 3, 6), 3), ((8, 6, 6), 1)])
def test_refine_block_is_the_block_written_out(coarse, last_units, levels):
    x, level = normals(8, 6, 4), None if levels is None else INDEX
    coarse = None if coarse is None else normals(*coarse, seed=2)
    block = RefineBlock(4 if coarse is None else 3, last_units, levels)
    params, p = random_weights(block, x, level, coarse)
    low = None if coarse is None else np.float64(coarse)
    expected = refine_block(p, np.float64(x), level, low, last_units, levels is not None)
    assert_close(jax.jit(block.apply)(params, x, level, coarse), expected)


@pytest.mark.parametrize("shape", [(1, 3), (3, 4), (6, 8), (1, 1)])
def test_stretching_keeps_corners_and_is_linear_between_pixels(shape):
    x = normals(*shape, 2)
    y = stretch(x, 6, 8)
    np.testing.assert_allclose(y, interpolate(np.float64(x), (6, 8)), atol=1e-6)
    np.testing.assert_allclose(y[-1, -1], x[-1, -1], atol=1e-6)


def test_weights_start_as_published():
    """Uniform within 1 / sqrt(inputs), biases too; scales N(1, .02^2); shifts zero."""
    block = ResidualBlock(32, opens_stage=True, num_levels=50)
    params = jax.jit(block.init)(jax.random.key(0), normals(2, 2, 16), INDEX)["params"]
    for name, inputs in (("Conv_0", 9 * 16), ("Conv_1", 9 * 16), ("Conv_2", 16)):
        for weights in params[name].values():
            assert np.abs(weights).max() <= inputs**-0.5
        mean_square = np.mean(params[name]["kernel"] ** 2) * inputs  # 1/3, with variance 4/45
        standard_error = np.sqrt(4 / 45 / params[name]["kernel"].size)
        assert abs(mean_square - 1 / 3) < 5 * standard_error
        assert np.abs(params[name]["bias"]).max() > 0.5 * inputs**-0.5
    for name in ("gamma", "alpha"):
        scale = np.asarray(params["InstanceNormPlus_1"][name])
        assert abs(scale.mean() - 1) < 5 * 0.02 / np.sqrt(scale.size)
        assert abs(scale.std() / 0.02 - 1) < 5 / np.sqrt(2 * scale.size)
    np.testing.assert_array_equal(params["InstanceNormPlus_1"]["beta"], np.zeros((50, 16)))


# ---- whole networks


@both_nets
def test_networks_are_the_cascade_written_out(net, level):
    x = normals(8, 6, 3)
    params, p, apply = prepared(net, x.shape)
    conditional = isinstance(net, NCSN)
    expected = refine_net(p, np.float64(x), level if conditional else None, conditional)
    assert_close(apply(params, x, level), expected)


@both_nets
def test_an_image_alone_gives_what_it_gives_in_a_batch(net, level):
    batch = normals(3, 8, 6, 3) * jnp.float32([1, 5, 0.2])[:, None, None, None]
    levels = jnp.stack([level, jnp.zeros_like(level), level])
    params, _, apply = prepared(net, batch.shape[1:])
    together = jax.jit(jax.vmap(net.apply, (None, 0, 0)))(params, batch, levels)
    for i in range(3):
        assert_close(together[i], np.asarray(apply(params, batch[i], levels[i])), 1e-5)


def conv_size(inputs, outputs, *, side=3, bias=True):
    return side**2 * inputs * outputs + bias * outputs


def published_size(n, down, refine, *, levels, colors=3):
    """Weights by the tables: `down` (inputs, outputs, dilated), `refine` (inputs, outputs).

    Every stage is two residual blocks; every refine block but the first also takes the
    channels that came out of the one before it. `levels` is 0 for no conditioning.
    """

    def norm(channels, *, refining=False):
        return 3 * channels * (levels or (0 if refining else 1))

    def unit_conv(channels):
        return norm(channels, refining=True) + conv_size(channels, channels, bias=False)

    total = conv_size(colors, n) + norm(n) + conv_size(n, colors)
    for number, (inputs, outputs, dilated) in enumerate(down):
        total += norm(inputs) + conv_size(inputs, inputs)
        total += norm(inputs) + conv_size(inputs, outputs)
        if number:
            total += conv_size(inputs, outputs, side=3 if dilated else 1)
        total += 2 * (norm(outputs) + conv_size(outputs, outputs))
    below = None
    for number, (inputs, outputs) in enumerate(refine):
        sources = [inputs] if below is None else [inputs, below]
        total += sum(4 * unit_conv(source) for source in sources)
        if len(sources) > 1:
            for source in sources:
                total += norm(source, refining=True) + conv_size(source, outputs)
        last = 6 if number == len(refine) - 1 else 2
        total += (2 + last) * unit_conv(outputs)
        below = outputs
    return total


def stages(n, widths):
    """(inputs, outputs, dilated): the last two dilated; `widths` in units of n."""
    outputs = [n * width for width in widths]
    dilated = [False] * (len(widths) - 2) + [True, True]
    return list(zip([n, *outputs], outputs, dilated, strict=False))


N = 128
FOUR = (stages(N, (1, 2, 2, 2)), [(2 * N, 2 * N), (2 * N, 2 * N), (2 * N, N), (N, N)])
FIVE = (
    stages(N, (1, 2, 2, 4, 4)),
    [(4 * N, 4 * N), (4 * N, 2 * N), (2 * N, 2 * N), (2 * N, N), (N, N)],
)
SIX = (
    stages(N, (1, 2, 2, 2, 4, 4)),
    [(4 * N, 4 * N), (4 * N, 2 * N), (2 * N, 2 * N), (2 * N, 2 * N), (2 * N, N), (N, N)],
)


@pytest.mark.parametrize(
    ("net", "level", "tables", "levels", "millions"),
    [
        (NCSNv2(), LEVEL, FOUR, 0, 29.7),
        (NCSNv2(multiples=(1, 2, 2, 4, 4)), LEVEL, FIVE, 0, None),
        (NCSNv2(multiples=(1, 2, 2, 2, 4, 4)), LEVEL, SIX, 0, None),
        (NCSN(), INDEX, FOUR, 10, None),
    ],
    ids=["NCSNv2", "deeper", "deepest", "NCSN"],
)
def test_networks_have_the_published_number_of_weights(net, level, tables, levels, millions):
    x = jnp.zeros((32, 32, 3))
    out, params = jax.eval_shape(net.init_with_output, jax.random.key(0), x, level)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert size == published_size(N, *tables, levels=levels)
    assert millions is None or round(size / 1e6, 1) == millions
    assert out.shape == x.shape


def test_ncsn_reads_the_weights_of_its_own_level_and_no_other():
    """NaN in the other levels' rows of every table changes nothing; in its own, everything."""
    x, net = normals(6, 4, 1), SMALL[0][0]
    params, _, apply = prepared(net, x.shape)

    def spoilt(rows):
        def spoil(path, leaf):
            table = path[-1].key in ("gamma", "alpha", "beta")
            return leaf.at[jnp.int32(rows)].set(jnp.nan) if table else leaf

        return jax.tree_util.tree_map_with_path(spoil, params)

    outs = [apply(params, x, jnp.int32(level)) for level in range(3)]
    for level, out in enumerate(outs):
        others = [i for i in range(3) if i != level]
        np.testing.assert_array_equal(apply(spoilt(others), x, jnp.int32(level)), out)
        assert np.isnan(apply(spoilt([level]), x, jnp.int32(level))).all()
        assert np.abs(out - outs[others[0]]).max() > 0.01 * np.abs(out).max()
    assert np.isnan(apply(params, x, jnp.int32(3))).all()  # not silently the last level
    assert_close(apply(params, x, 2), np.asarray(outs[2]), 1e-5)  # a plain number will do


@pytest.mark.parametrize("sigma", [0.01, 1.0, 50.0])
def test_the_score_of_ncsnv2_is_one_field_over_sigma(sigma):
    """Technique 3 of arXiv:2006.09011: sigma s(x, sigma) is the same at every level."""
    x = normals(6, 4, 1)
    params, _, apply = prepared(SMALL[1][0], x.shape)
    score = score_from_denoiser(precondition.ncsn(partial(apply, params)))
    field = np.asarray(apply(params, x, LEVEL))
    assert_close(sigma * score(x, jnp.float32(sigma)), field, 2e-3)


@both_small_nets
def test_bfloat16_computes_nearly_the_same_from_float32_weights(net, level):
    x = normals(6, 4, 1)
    params, _, apply = prepared(net, x.shape)
    half = net.clone(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), x, level)
    assert jax.tree.structure(shapes) == jax.tree.structure(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    full, out = apply(params, x, level), jax.jit(half.apply)(params, x, level)
    assert out.dtype == jnp.float32
    error = np.linalg.norm(out - full) / np.linalg.norm(full)
    assert 1e-4 < error < 0.03  # it did compute in another precision


@both_small_nets
def test_remat_keeps_less_for_the_gradient(net, level):
    x = normals(6, 4, 1)
    params, _, _ = prepared(net, x.shape)

    def kept(net):
        """Numbers that the backward pass waits for: the leaves of `vjp`'s function."""

        def pull(params):
            return jax.vjp(lambda params: net.apply(params, x, level), params)[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(pull, params)))

    assert kept(net.clone(remat=True)) < 0.5 * kept(net)


@pytest.mark.slow
def test_remat_changes_no_value_and_no_gradient():
    """Operation by operation: a compiler would round the two programs apart."""
    x, net = normals(4, 4, 1), NCSNv2(4, (1, 1, 1))
    params, _ = random_weights(net, x, LEVEL)

    def loss(remat, params):
        return jnp.sum(net.clone(remat=remat).apply(params, x, LEVEL) ** 2)

    with jax.disable_jit():
        plain, lean = (jax.value_and_grad(partial(loss, r))(params) for r in (False, True))
    assert jax.tree.structure(plain) == jax.tree.structure(lean)
    np.testing.assert_allclose(lean[0], plain[0], rtol=1e-6)
    mine, theirs = (
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grads)])
        for grads in (lean[1], plain[1])
    )
    assert np.linalg.norm(mine - theirs) < 1e-6 * np.linalg.norm(theirs)


@pytest.mark.parametrize(
    ("net", "level", "shape", "message"),
    [
        (NCSN(8), INDEX, (7, 6, 1), r"`NCSN` got an image of 7x6: .* divisible by 2; give"),
        (NCSNv2(8), LEVEL, (6, 7, 1), r"`NCSNv2` got an image of 6x7: .* divisible by 2; give"),
        (NCSNv2(8, (1, 2, 2, 4, 4)), LEVEL, (8, 6, 1), r"image of 8x6: .* divisible by 4"),
        (NCSN(1), INDEX, (8, 8, 1), r"`NCSN` got channels=1: give at least 2"),
        (NCSNv2(0), LEVEL, (8, 8, 1), r"`NCSNv2` got channels=0: give at least 2"),
        (NCSN(8, 0), INDEX, (8, 8, 1), r"`NCSN` got num_levels=0: give at least 1"),
        (NCSN(8, 3, (1, 2)), INDEX, (8, 8, 1), r"`NCSN` got multiples \(1, 2\): give at least thr"),
        (NCSNv2(8, (1, 0, 2)), LEVEL, (8, 8, 1), r"`NCSNv2` got multiples \(1, 0, 2\): give"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name_and_value(net, level, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape), level)
