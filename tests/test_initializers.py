"""The initialisers against PyTorch's own, as distributions.

Keras draws from Python's `random` when no seed is given: `seed` fixes it, and with it
every draw here. ALPHA is the chance of each test to fail under another seed.
"""

import contextlib
import math
import random

with contextlib.suppress(ImportError):
    import torch  # before TensorFlow, or the two crash

import keras
import numpy as np
import pytest
from keras import layers, ops
from scipy import stats

from kerascnn import initializers

ALPHA = 1e-3

# A convolution and a dense layer: Keras kernel, PyTorch kernel, fan_in.
KERNELS = [((3, 3, 40, 60), (60, 40, 3, 3), 360), ((300, 100), (100, 300), 300)]


@pytest.fixture(autouse=True)
def seed():
    random.seed(1)
    with contextlib.suppress(NameError):  # where PyTorch is not installed
        torch.manual_seed(2)


def sample(initializer, shape):
    return ops.convert_to_numpy(initializer(shape, "float32")).ravel()


def assert_same_distribution(actual, expected):
    assert stats.ks_2samp(actual, expected).pvalue > ALPHA
    # Each moment within four standard errors of PyTorch's (6e-5 for a normal one).
    n = len(actual)
    error = expected.std() * math.sqrt(2 / n)
    assert abs(actual.mean() - expected.mean()) < 4 * error
    assert abs(actual.std() / expected.std() - 1) < 4 * math.sqrt(1 / n)


@pytest.mark.parametrize(("shape", "torch_shape", "fan_in"), KERNELS)
@pytest.mark.needs("torch")
def test_he_normal_is_kaiming_normal(shape, torch_shape, fan_in):
    actual = sample(initializers.he_normal(), shape)
    expected = torch.nn.init.kaiming_normal_(
        torch.empty(torch_shape), nonlinearity="relu"
    )
    assert_same_distribution(actual, expected.numpy().ravel())
    deviation = math.sqrt(2 / fan_in)
    assert stats.kstest(actual, "norm", (0, deviation)).pvalue > ALPHA
    # Keras's own he_normal ends at 2 / 0.87962566 = 2.27 of these deviations.
    assert np.abs(actual).max() > 3 * deviation


@pytest.mark.parametrize(("shape", "torch_shape", "fan_in"), KERNELS)
@pytest.mark.needs("torch")
def test_he_uniform_is_kaiming_uniform(shape, torch_shape, fan_in):
    actual = sample(initializers.he_uniform(), shape)
    expected = torch.nn.init.kaiming_uniform_(
        torch.empty(torch_shape), nonlinearity="relu"
    )
    assert_same_distribution(actual, expected.numpy().ravel())
    bound = math.sqrt(6 / fan_in)
    assert 0.999 * bound < np.abs(actual).max() <= np.float32(bound)


def weights(layer):
    return [ops.convert_to_numpy(weight).ravel() for weight in layer.weights]


@pytest.mark.parametrize("kind", ["conv", "dense"])
@pytest.mark.needs("torch")
def test_default_is_a_new_pytorch_layer(kind):
    # Wide, so that there are 3000 biases to compare.
    if kind == "conv":
        fan_in, shape = 5 * 5 * 2, (None, 8, 8, 2)
        layer = layers.Conv2D(3000, 5, **initializers.default(fan_in))
        reference = torch.nn.Conv2d(2, 3000, 5)
    else:
        fan_in, shape = 64, (None, 64)
        layer = layers.Dense(3000, **initializers.default(fan_in))
        reference = torch.nn.Linear(64, 3000)
    layer.build(shape)
    kernel, bias = weights(layer)
    assert_same_distribution(kernel, reference.weight.detach().numpy().ravel())
    assert_same_distribution(bias, reference.bias.detach().numpy())
    bound = 1 / math.sqrt(fan_in)
    for values in (kernel, bias):
        assert 0.99 * bound < np.abs(values).max() <= np.float32(bound)
        assert stats.kstest(values, "uniform", (-bound, 2 * bound)).pvalue > ALPHA
    # Kernel and bias are drawn apart.
    assert abs(stats.pearsonr(kernel[:3000], bias).statistic) < 0.1


@pytest.mark.parametrize(
    "make",
    [
        initializers.he_normal,
        initializers.he_uniform,
        lambda: initializers.default(9)["kernel_initializer"],
    ],
)
def test_two_calls_give_two_draws_of_a_plain_keras_initialiser(make):
    one, two = make(), make()
    assert (sample(one, (8, 8)) != sample(two, (8, 8))).all()
    configuration = keras.saving.serialize_keras_object(one)
    assert configuration["module"] == "keras.initializers"
    again = keras.saving.deserialize_keras_object(configuration)
    assert again.get_config() == one.get_config()


def test_impossible_fan_in():
    with pytest.raises(ValueError, match="fan_in=0"):
        initializers.default(0)


def scaled_images(n=64, height=12, width=10, channels=3):
    """Smooth images: neighbouring pixels are alike, as in photographs."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(n, height + 3, width + 3, channels))
    for axis in (1, 2):
        noise = np.cumsum(noise, axis=axis)
    smooth = noise - noise.mean(axis=(1, 2), keepdims=True)
    return smooth[:, 3:, 3:].astype("float32")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_whitening_gives_outputs_that_are_uncorrelated_and_of_mean_square_1(size):
    pictures = scaled_images()
    kernel = initializers.whitening(pictures, size=size, epsilon=0.0)
    filters = size * size * 3
    assert kernel.shape == (size, size, 3, 2 * filters)
    assert kernel.dtype == np.float32
    layer = layers.Conv2D(2 * filters, size, use_bias=False)
    layer.build((None, *pictures.shape[1:]))
    layer.kernel.assign(kernel)
    out = ops.convert_to_numpy(layer(pictures)).reshape(-1, 2 * filters)
    out = out.astype("float64")
    first, second = out[:, :filters], out[:, filters:]
    np.testing.assert_array_equal(kernel[..., :filters], -kernel[..., filters:])
    np.testing.assert_allclose(second, -first, atol=1e-4)
    np.testing.assert_allclose(first.T @ first / len(first), np.eye(filters), atol=2e-3)


@pytest.mark.needs("torch")
def test_whitening_is_airbench_s():
    """Its formula in PyTorch; a filter's sign is the eigenvectors' own affair."""
    pictures = scaled_images()
    x = torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()).double()
    patches = torch.nn.functional.unfold(x, 2).transpose(1, 2).reshape(-1, 12)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    theirs = (vectors / torch.sqrt(values + 5e-4)).T.reshape(12, 3, 2, 2).flip(0)
    theirs = theirs.numpy().transpose(2, 3, 1, 0)
    ours = initializers.whitening(pictures)[..., :12]
    for i in range(12):
        sign = np.sign((ours[..., i] * theirs[..., i]).sum())
        np.testing.assert_allclose(ours[..., i], sign * theirs[..., i], rtol=1e-4)
        assert ours[..., i].flat[np.abs(ours[..., i]).argmax()] > 0


@pytest.mark.needs("torch")
@pytest.mark.parametrize("shape", [(3, 3, 4, 7), (3, 3, 6, 6), (5, 3, 6, 2)])
def test_dirac_is_pytorch_s(shape):
    kernel = np.random.default_rng(0).normal(size=shape).astype("float32")
    theirs = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    torch.nn.init.dirac_(theirs[: shape[2]])
    ours = initializers.dirac(kernel)
    np.testing.assert_array_equal(ours, theirs.numpy().transpose(2, 3, 1, 0))
    assert not np.array_equal(ours, kernel)


def test_dirac_passes_images_on():
    pictures = scaled_images()
    layer = layers.Conv2D(5, 3, padding="same", use_bias=False)
    layer.build((None, *pictures.shape[1:]))
    layer.kernel.assign(initializers.dirac(layer.kernel))
    out = ops.convert_to_numpy(layer(pictures))
    np.testing.assert_allclose(out[..., :3], pictures, rtol=1e-6)
