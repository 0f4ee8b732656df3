"""InceptionV3 against numpy on the same weights, and against torch-fidelity where it is installed.

The weights are random, with gains that keep every layer alive: the published ones are not needed
to compare two networks. With them installed (the extra `reference`), run this file once more.
"""

import hashlib
import sys
from functools import partial
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from benchmarks.metrics_worker import NORMALISATION
from benchmarks.metrics_worker import inception_weights as random_weights
from ebm_jax import metrics
from ebm_jax.metrics.inception import outputs as inception_module
from ebm_jax.metrics.inception import weights as inception_weights
from ebm_jax.metrics.inception.weights import convert
from ebm_jax.nets import InceptionOutputs, InceptionV3
from ebm_jax.nets.inception import average_pool, halve, max_pool, prepare, resize_tf1


def shapes():
    return jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.zeros((299, 299, 3)))["params"]


@pytest.fixture(scope="module")
def state_dict():
    """Random weights in PyTorch's names and order of axes."""
    return random_weights()


@pytest.fixture(scope="module")
def inception(state_dict):
    return metrics.Inception("inception-v3-compat", "random", "0", convert(state_dict))


def images(n, side, seed=0):
    """Colored squares in noise, of another contrast in every image."""
    rng = np.random.default_rng(seed)
    squares = rng.uniform(0, 255, (n, 4, 4, 3)).repeat(-(-side // 4), 1).repeat(-(-side // 4), 2)
    noise = rng.normal(size=(n, side, side, 3)) * rng.uniform(2, 60, (n, 1, 1, 1))
    return np.uint8(np.clip(squares[:, :side, :side] + noise, 0, 255))


def relative(a, b):
    """The largest error of an image's outputs against their norm."""
    a, b = np.float64(a), np.float64(b)
    return np.max(np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1))


# ---- the pieces


@pytest.mark.parametrize(("size", "target"), [(32, 299), (64, 299), (400, 299), (7, 5), (1, 3)])
def test_resize_reads_a_ramp_at_i_n_over_target_and_stays_at_its_end(size, target):
    ramp = jnp.arange(size, dtype=jnp.float32).repeat(2).reshape(size, 2, 1)
    expected = np.minimum(np.arange(target) * size / target, size - 1)
    for out in (resize_tf1(ramp, target, 2), resize_tf1(ramp.transpose(1, 0, 2), 2, target)):
        line = out.reshape(target, 2) if out.shape[0] == target else out.reshape(2, target).T
        np.testing.assert_allclose(line[:, 1], expected, atol=1e-4)


@pytest.mark.parametrize(("shape", "target"), [((5, 4, 2), (7, 11)), ((9, 13, 3), (4, 6))])
def test_resize_is_the_loop_over_four_neighbors(shape, target):
    x = np.random.default_rng(0).normal(size=shape)
    expected = np.zeros((*target, shape[2]))
    for i, j in np.ndindex(*target):
        y, x_ = i * shape[0] / target[0], j * shape[1] / target[1]
        top, left = int(y), int(x_)
        bottom, right = min(top + 1, shape[0] - 1), min(left + 1, shape[1] - 1)
        upper = x[top, left] + (x[top, right] - x[top, left]) * (x_ - left)
        lower = x[bottom, left] + (x[bottom, right] - x[bottom, left]) * (x_ - left)
        expected[i, j] = upper + (lower - upper) * (y - top)
    np.testing.assert_allclose(resize_tf1(jnp.float32(x), *target), expected, atol=1e-5)


def test_resize_leaves_an_image_of_its_target_as_it_is():
    x = jnp.float32(images(1, 299)[0])
    np.testing.assert_array_equal(resize_tf1(x, 299, 299), x)


def test_pixels_become_steps_of_a_128th_around_128():
    values = np.array([0, 64, 128, 255], np.uint8)
    for value, expected in zip(values, [-1.0, -0.5, 0.0, 127 / 128], strict=True):
        out = prepare(jnp.full((8, 5, 3), value))
        np.testing.assert_allclose(out, np.full((299, 299, 3), expected), atol=1e-6)


def test_gray_is_red_green_and_blue_and_nothing_else_is():
    gray = jnp.asarray(images(1, 16)[0, ..., :1])
    np.testing.assert_array_equal(prepare(gray), prepare(gray.repeat(3, -1)))
    with pytest.raises(ValueError, match="`prepare` got 4 channels"):
        prepare(gray.repeat(4, -1))


def windows(x, stride, padding):
    """3x3 windows on the last two axes, NaN beyond the image."""
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)), constant_values=np.nan)
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), (0, 1))[::stride, ::stride]


def average(x):
    return np.nanmean(windows(x, 1, 1), (-2, -1))


def maximum(x, stride=1):
    """At stride 1 it keeps the sides."""
    return np.nanmax(windows(x, stride, stride == 1), (-2, -1))


@pytest.mark.parametrize("shape", [(5, 8, 2), (8, 7, 3), (3, 3, 1)])
def test_pools_see_nothing_beyond_the_image(shape):
    x = np.random.default_rng(0).normal(size=shape) - 3  # a zero beyond would be the maximum
    image = jnp.float32(x)
    np.testing.assert_allclose(average_pool(image), average(x), atol=1e-5)
    np.testing.assert_allclose(max_pool(image), maximum(x), atol=1e-6)
    np.testing.assert_allclose(halve(image), maximum(x, 2), atol=1e-6)


# ---- the network


def test_number_of_parameters_is_kerass_with_eight_more_classes():
    """23,817,352 train in `keras.applications.InceptionV3`, which has no gains either."""
    leaves = jax.tree.leaves(shapes())
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert sum(leaf.size for leaf in leaves) == 23_817_352 + 8 * (2048 + 1)


class WrittenOut:
    """The graph of 2015 line by line in float64, with its batch normalizations."""

    def __init__(self, state_dict):
        self.weights = {name: np.float64(value) for name, value in state_dict.items()}
        self.block = ""

    def conv(self, name, x, stride=1, pad=(0, 0)):
        name = self.block + name
        kernel = self.weights[f"{name}.conv.weight"]
        gain, bias, mean, var = (self.weights[f"{name}.bn.{entry}"] for entry in NORMALISATION)
        x = np.pad(x, ((pad[0], pad[0]), (pad[1], pad[1]), (0, 0)))
        patches = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], (0, 1))
        y = np.tensordot(patches[::stride, ::stride], kernel, ((2, 3, 4), (1, 2, 3)))
        return np.maximum((y - mean) / np.sqrt(var + 1e-3) * gain + bias, 0)

    def double(self, x, stride):
        """Two 3x3 convolutions behind a 1x1 one."""
        h = self.conv("branch3x3dbl_2", self.conv("branch3x3dbl_1", x), pad=(1, 1))
        return self.conv("branch3x3dbl_3", h, stride, (1, 1) if stride == 1 else (0, 0))

    def mixed_35(self, x):
        five = self.conv("branch5x5_2", self.conv("branch5x5_1", x), pad=(2, 2))
        pooled = self.conv("branch_pool", average(x))
        return np.concatenate([self.conv("branch1x1", x), five, self.double(x, 1), pooled], -1)

    def mixed_17(self, x):
        seven = self.conv("branch7x7_2", self.conv("branch7x7_1", x), pad=(0, 3))
        seven = self.conv("branch7x7_3", seven, pad=(3, 0))
        twice = self.conv("branch7x7dbl_1", x)
        for i, pad in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
            twice = self.conv(f"branch7x7dbl_{i}", twice, pad=pad)
        pooled = self.conv("branch_pool", average(x))
        return np.concatenate([self.conv("branch1x1", x), seven, twice, pooled], -1)

    def mixed_8(self, x, pool):
        one, three = self.conv("branch1x1", x), self.conv("branch3x3_1", x)
        twice = self.conv("branch3x3dbl_2", self.conv("branch3x3dbl_1", x), pad=(1, 1))
        crosses = [
            self.conv(f"{name}{arm}", h, pad=pad)
            for name, h in (("branch3x3_2", three), ("branch3x3dbl_3", twice))
            for arm, pad in (("a", (0, 1)), ("b", (1, 0)))
        ]
        return np.concatenate([one, *crosses, self.conv("branch_pool", pool(x))], -1)

    def halve_35(self, x):
        return np.concatenate([self.conv("branch3x3", x, 2), self.double(x, 2), maximum(x, 2)], -1)

    def halve_17(self, x):
        three = self.conv("branch3x3_2", self.conv("branch3x3_1", x), 2)
        seven = self.conv("branch7x7x3_2", self.conv("branch7x7x3_1", x), pad=(0, 3))
        seven = self.conv("branch7x7x3_4", self.conv("branch7x7x3_3", seven, pad=(3, 0)), 2)
        return np.concatenate([three, seven, maximum(x, 2)], -1)

    def __call__(self, x):
        x = self.conv("Conv2d_2a_3x3", self.conv("Conv2d_1a_3x3", x, 2))
        x = maximum(self.conv("Conv2d_2b_3x3", x, pad=(1, 1)), 2)
        x = maximum(self.conv("Conv2d_4a_3x3", self.conv("Conv2d_3b_1x1", x)), 2)
        average_8, maximum_8 = (partial(self.mixed_8, pool=pool) for pool in (average, maximum))
        order = [*[self.mixed_35] * 3, self.halve_35, *[self.mixed_17] * 4, self.halve_17]
        names = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]
        for name, mix in zip(names, [*order, average_8, maximum_8], strict=True):
            self.block = f"Mixed_{name}."
            x = mix(x)
        features = x.mean((0, 1))
        unbiased = self.weights["fc.weight"] @ features
        return features, unbiased + self.weights["fc.bias"], unbiased


def test_network_is_the_graph_of_2015_written_out(state_dict, inception):
    image = (images(1, 299)[0] - 128.0) / 128
    out = jax.jit(InceptionV3().apply)(inception.params, jnp.float32(image))
    for ours, expected in zip(out, WrittenOut(state_dict)(image), strict=True):
        assert relative(ours, expected) < 1e-5


# ---- many images


@pytest.mark.slow
def test_an_image_has_the_same_outputs_alone_and_in_any_batch(inception):
    """On one device with `jax.vmap`, on eight in a full and a filled-up batch, and in pieces."""
    pixels, done = images(10, 32), []
    alone = jax.jit(lambda x: InceptionV3().apply(inception.params, prepare(x)))
    before = inception_module._outputs._cache_size()
    whole = metrics.inception_outputs(inception, pixels, batch_size=3, progress=done.append)
    assert done == [8, 10]  # 3 rounded up to the devices
    pieces = (pixels[i:j] for i, j in ((0, 1), (1, 9), (9, 9), (9, 10)))
    again = metrics.inception_outputs(inception, pieces, batch_size=8)
    for a, b, channels in zip(again, whole, (2048, 1008, 1008), strict=True):
        assert a.shape == b.shape == (10, channels)
        assert relative(a, b) < 1e-5
    assert inception_module._outputs._cache_size() == before + 1  # one program for all batches
    for i in (0, 9):
        for a, b in zip(whole, alone(pixels[i]), strict=True):
            assert relative(a[i], b) < 1e-5
    assert relative(whole.features[:1], whole.features[9:]) > 0.01  # images do differ


@pytest.mark.parametrize(("batch_size", "width"), [(1, 8), (16, 16), (9, 16), (40, 40), (64, 40)])
def test_batches_have_one_width_and_their_filling_is_dropped(monkeypatch, batch_size, width):
    """A network that returns the first pixel, its image's number; eight devices, 37 images."""
    seen = []

    def first_pixel(_, pixels):
        seen.append(pixels.shape)
        return InceptionOutputs(*[np.asarray(pixels)[:, 0, 0]] * 3)

    monkeypatch.setattr(inception_module, "_outputs", first_pixel)
    numbers = np.uint8(np.arange(37)).repeat(4).reshape(37, 2, 2, 1)
    out = metrics.inception_outputs(
        metrics.Inception("", "", "", {}), iter([numbers[:20], numbers[20:]]), batch_size=batch_size
    )
    assert seen == [(width, 2, 2, 1)] * -(-37 // width)
    np.testing.assert_array_equal(out.features[:, 0], np.arange(37))


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ([np.zeros((2, 8, 8, 4), np.uint8)], "uint8 images of shape .2, 8, 8, 4."),
        ([np.zeros((8, 8, 3), np.uint8)], "uint8 images of shape .8, 8, 3."),
        ([np.zeros((2, 8, 8, 3), np.float32)], "float32 images .* by `data.to_uint8`"),
        ([images(1, 8), images(1, 9)], "images of .9, 9, 3. after .8, 8, 3."),
        ([images(1, 8), images(1, 8)[..., :1]], "images of .8, 8, 1. after .8, 8, 3."),
        ([images(0, 8)], "no image"),
        ([], "no image"),
    ],
)
def test_other_than_uint8_images_of_one_size_are_refused(arrays, found):
    nothing = metrics.Inception("", "", "", {})
    with pytest.raises(ValueError, match=f"`inception_outputs` got {found}"):
        metrics.inception_outputs(nothing, iter(arrays))


def test_a_batch_has_one_image_or_more():
    with pytest.raises(ValueError, match="batch_size=0"):
        metrics.inception_outputs(metrics.Inception("", "", "", {}), images(1, 8), batch_size=0)


# ---- weights


def test_conversion_folds_every_batch_normalization_and_ignores_counters(state_dict):
    """At its convolution's output mean m a normalization gives its bias b, whatever v."""
    counter = {"Mixed_5b.branch1x1.bn.num_batches_tracked": np.int64(7)}
    params = convert(state_dict | counter)["params"]
    layer = "Mixed_6b.branch7x7_2"
    gain, bias, mean, var = (state_dict[f"{layer}.bn.{entry}"] for entry in NORMALISATION)
    window = np.random.default_rng(0).normal(size=(1, 7, 128))
    convolved = np.einsum("oihw,hwi->o", state_dict[f"{layer}.conv.weight"], window)
    ours = np.einsum("hwio,hwi->o", params[layer]["kernel"], window) + params[layer]["bias"]
    np.testing.assert_allclose(ours, (convolved - mean) / np.sqrt(var + 1e-3) * gain + bias, 1e-4)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"fc.bias": None}, "no entry 'fc.bias', one of 1"),
        ({"Mixed_7c.branch_pool.bn.running_var": None}, "no entry 'Mixed_7c.branch_pool.bn.run"),
        ({"AuxLogits.fc.weight": np.zeros(3)}, "a surplus entry 'AuxLogits.fc.weight', one of 1"),
        ({"fc.weight": np.zeros((1000, 2048))}, r"'fc.weight' of shape \(1000, 2048\), .*1008"),
        ({"Mixed_6a.branch3x3.bn.bias": np.zeros(3)}, r"'Mixed_6a.branch3x3.bn.bias' of shape"),
        ({"Mixed_6a.branch3x3.bn.bias": np.full(384, np.nan)}, r"Mixed_6a.branch3x3/bias that is"),
    ],
)
def test_other_state_dicts_are_refused(state_dict, change, found):
    changed = {k: v for k, v in (state_dict | change).items() if v is not None}
    with pytest.raises(ValueError, match=f"`convert` got {found}"):
        convert(changed)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("EBM_JAX_INCEPTION", raising=False)
    monkeypatch.setenv("EBM_JAX_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    for file in tmp_path.rglob("*.safetensors"):  # of 95 MB
        file.unlink()


@pytest.fixture
def source(state_dict, tmp_path):
    safetensors.numpy.save_file(state_dict, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def assert_same(inception, expected):
    jax.tree.map(np.testing.assert_array_equal, inception.params, expected.params)


def fail(*_):
    raise AssertionError("converted once more")


def test_weights_are_converted_once_and_again_when_the_cache_is_damaged(
    cache, source, inception, monkeypatch
):
    first = metrics.load_inception(source)
    checksum = hashlib.sha256(source.read_bytes()).hexdigest()
    assert first[:3] == ("inception-v3-compat", "other weights", checksum)
    assert_same(first, inception)
    with monkeypatch.context() as patch:
        patch.setattr(inception_weights, "convert", fail)
        again = metrics.load_inception(source)
        source.unlink()
        from_cache = metrics.load_inception()
        for loaded in (again, from_cache):
            assert loaded[:3] == first[:3]
            assert_same(loaded, first)
    safetensors.numpy.save_file({"other": np.zeros(3)}, source)
    with pytest.raises(ValueError, match="no entry"):  # another file: the cache is not its own
        metrics.load_inception(source)


@pytest.mark.parametrize("damage", ["a byte", "cut", "empty", "no safetensors"])
def test_a_damaged_cache_is_made_again_from_the_source(
    cache, source, inception, monkeypatch, damage
):
    monkeypatch.setattr(inception_weights, "convert", lambda _: inception.params)
    metrics.load_inception(source)
    [cached] = cache.iterdir()
    whole = cached.read_bytes()
    middle = len(whole) // 2
    other = bytes([whole[middle] ^ 1])
    cached.write_bytes(
        {
            "a byte": whole[:middle] + other + whole[middle + 1 :],
            "cut": whole[:middle],
            "empty": b"",
            "no safetensors": b"x" * 1000,
        }[damage]
    )
    with pytest.raises(ValueError, match=r"found .*safetensors damaged: give the path"):
        metrics.load_inception()
    assert_same(metrics.load_inception(source), inception)
    assert_same(metrics.load_inception(), inception)
    assert list(cache.iterdir()) == [cached]  # and nothing half written


def test_published_weights_are_named_and_come_first(cache, source, inception, monkeypatch):
    """A file with their checksum; without it, two sets of weights leave no choice."""
    monkeypatch.setattr(inception_weights, "convert", lambda _: inception.params)
    metrics.load_inception(source)
    checksum = hashlib.sha256(source.read_bytes()).hexdigest()
    [cached] = cache.iterdir()
    cached.with_name("inception-v3-compat-0123.safetensors").symlink_to(cached)
    with pytest.raises(ValueError, match="holds 2 weights"):
        metrics.load_inception()
    cached.unlink()
    monkeypatch.setattr(inception_weights, "PUBLISHED_CHECKSUM", checksum)
    monkeypatch.setenv("EBM_JAX_INCEPTION", str(source))
    assert metrics.load_inception().weights == "pt_inception-2015-12-05-6726825d"
    monkeypatch.delenv("EBM_JAX_INCEPTION")
    assert metrics.load_inception().checksum == checksum


def test_published_checksum_is_the_one_in_the_files_name():
    """As torch.hub writes it: the first eight digits behind the last hyphen."""
    assert inception_weights.PUBLISHED.split("-")[-1] == inception_weights.PUBLISHED_CHECKSUM[:8]


def test_without_weights_one_sentence_says_what_to_fetch(cache, tmp_path, monkeypatch):
    fetch = "fetch pt_inception-2015-12-05-6726825d.pth from the releases of mseitzer/pytorch-fid"
    with pytest.raises(ValueError, match=f"got no path, and .*cache holds no weights: {fetch}"):
        metrics.load_inception()
    with pytest.raises(ValueError, match=f"missing.pth, which is no file: {fetch}"):
        metrics.load_inception(tmp_path / "missing.pth")
    monkeypatch.delenv("EBM_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    with pytest.raises(ValueError, match="home/ebm_jax holds no weights"):
        metrics.load_inception()


def test_other_files_are_refused_in_one_sentence(cache, tmp_path, monkeypatch):
    for name in ("weights.npz", "weights.safetensors", "weights.pth"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"weights.npz: give a .safetensors, .pth or .pt file"):
        metrics.load_inception(tmp_path / "weights.npz")
    with pytest.raises(ValueError, match=r"cannot read .*weights.safetensors \(.*\): fetch it"):
        metrics.load_inception(tmp_path / "weights.safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"weights.pth by torch, which is not installed: install"):
        metrics.load_inception(tmp_path / "weights.pth")
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_named(source, inception, monkeypatch):
    monkeypatch.setattr(inception_weights, "convert", lambda _: inception.params)
    monkeypatch.setenv("EBM_JAX_CACHE", str(source / "folder"))
    with pytest.raises(ValueError, match=r"cannot write .* set EBM_JAX_CACHE"):
        metrics.load_inception(source)


# ---- torch-fidelity


@pytest.fixture(scope="module")
def torch_fidelity(state_dict, tmp_path_factory):
    """Its network with our weights: pixels -> features, logits, logits without the bias."""
    torch = pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("", ".datasets", ".transforms", ".transforms.functional"):
            patch.setitem(sys.modules, f"torchvision{name}", MagicMock())  # nothing of it is used
        module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    path = tmp_path_factory.mktemp("torch") / "weights.pth"
    torch.save({name: torch.from_numpy(value) for name, value in state_dict.items()}, path)
    names = ["2048", "logits", "logits_unbiased"]
    net = module.FeatureExtractorInceptionV3("", names, feature_extractor_weights_path=str(path))
    yield path, lambda x: [out.numpy() for out in net(torch.from_numpy(x).permute(0, 3, 1, 2))]
    path.unlink()


@pytest.mark.parametrize("side", [32, 64, 299, 310])
def test_outputs_are_torch_fidelitys(torch_fidelity, cache, side):
    """Pixels enlarged, kept and shrunk; weights read from a file of PyTorch's."""
    path, extract = torch_fidelity
    pixels = images(3, side)
    ours = metrics.inception_outputs(metrics.load_inception(path), pixels)
    errors = [relative(a, b) for a, b in zip(ours, extract(pixels), strict=True)]
    print(f"{side}x{side}: relative errors", *(f"{error:.1e}" for error in errors))
    assert max(errors) < 1e-4


RAN = []


def run_code():
    RAN.append("code")


class Code:
    def __reduce__(self):
        return run_code, ()


def test_code_in_a_pickle_is_not_run(cache, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"fc.bias": Code()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="cannot read"):
        metrics.load_inception(tmp_path / "code.pth")
    assert not RAN
