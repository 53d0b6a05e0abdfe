"""Fast convolutions and pooling against float64 NumPy and XLA's own operations."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerascnn import UsageError
from kerascnn.acceleration import accelerate, fast_convolution, fast_max_pool

# Errors are measured against the largest element of the exact result: float32 has 24
# bits, and a direct sum of a few thousand products loses a factor of about ten.
TOLERANCE = 1e-5


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def relative_error(value, exact):
    assert value.shape == exact.shape
    return np.max(np.abs(np.asarray(value, np.float64) - exact)) / np.max(np.abs(exact))


def pads(padding, size, taps, strides):
    if padding == "valid":
        return [(0, 0), (0, 0)]
    total = [
        max((-(-n // s) - 1) * s + k - n, 0)
        for n, k, s in zip(size, taps, strides, strict=True)
    ]
    return [(t // 2, t - t // 2) for t in total]


def exact_convolution(x, kernel, strides, padding):
    """Value and a function from a cotangent to both gradients, in float64."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    taps = kernel.shape[:2]
    edges = pads(padding, x.shape[1:3], taps, strides)
    padded = np.pad(x, [(0, 0), *edges, (0, 0)])
    height, width = (
        (n - k) // s + 1
        for n, k, s in zip(padded.shape[1:3], taps, strides, strict=True)
    )

    def window(i, j):
        return (
            slice(None),
            slice(i, i + (height - 1) * strides[0] + 1, strides[0]),
            slice(j, j + (width - 1) * strides[1] + 1, strides[1]),
        )

    taps_list = list(np.ndindex(*taps))
    value = sum(padded[window(i, j)] @ kernel[i, j] for i, j in taps_list)

    def gradients(g):
        g = g.astype(np.float64)
        to_kernel = np.zeros_like(kernel)
        to_x = np.zeros_like(padded)
        for i, j in taps_list:
            to_kernel[i, j] = np.tensordot(padded[window(i, j)], g, [(0, 1, 2)] * 2)
            to_x[window(i, j)] += g @ kernel[i, j].T
        (top, _), (left, _) = edges
        return to_x[:, top : top + x.shape[1], left : left + x.shape[2]], to_kernel

    return value, gradients


def check_against_numpy(seed, x_shape, kernel_shape, strides, padding):
    x, kernel = arrays(seed, x_shape, kernel_shape)
    exact, gradients = exact_convolution(x, kernel, strides, padding)

    @jax.jit
    def both(x, kernel, g):
        value, pull = jax.vjp(
            lambda x, k: fast_convolution(x, k, strides, padding), x, kernel
        )
        return value, pull(g)

    (g,) = arrays(seed + 1, exact.shape)
    value, fast = both(x, kernel, g)
    assert relative_error(value, exact) < TOLERANCE
    for one, other in zip(fast, gradients(g), strict=True):
        assert relative_error(one, other) < TOLERANCE


@st.composite
def geometries(draw):
    taps = draw(st.sampled_from([(1, 1), (3, 3), (5, 5), (7, 7), (2, 2), (3, 1)]))
    padding = draw(st.sampled_from(["valid", "same"]))
    size = [draw(st.integers(k if padding == "valid" else 1, 13)) for k in taps]
    channels, filters = draw(st.sampled_from([(1, 4), (3, 8), (6, 5), (16, 8)]))
    strides = draw(st.sampled_from([(1, 1), (2, 2), (2, 1)]))
    batch = draw(st.integers(1, 9))
    return (batch, *size, channels), (*taps, channels, filters), strides, padding


@settings(max_examples=25, deadline=None, derandomize=True)
@given(geometries())
def test_value_and_gradients_equal_numpy(geometry):
    check_against_numpy(0, *geometry)


@pytest.mark.parametrize("batch", [1, 4, 37])
def test_batches_that_do_not_divide_into_chunks(batch):
    check_against_numpy(1, (batch, 16, 16, 8), (3, 3, 8, 8), (1, 1), "same")


def test_every_second_derivative_equals_the_stock_one():
    x, kernel, dx, dk = arrays(2, *[(2, 6, 5, 3), (3, 3, 3, 4)] * 2)

    def loss(convolution, x, kernel):
        return jnp.sum(jnp.sin(convolution(x, kernel)))

    def derivatives(convolution):
        f = lambda x, k: loss(convolution, x, k)  # noqa: E731
        gradient = jax.grad(f, argnums=(0, 1))
        forward_over_reverse = jax.jvp(gradient, (x, kernel), (dx, dk))[1]

        def directional(x, kernel):
            by_x, by_kernel = gradient(x, kernel)
            return jnp.vdot(by_x, dx) + jnp.vdot(by_kernel, dk)

        reverse_over_reverse = jax.grad(directional, argnums=(0, 1))(x, kernel)
        third = jax.grad(lambda x: jnp.vdot(jax.grad(directional)(x, kernel), dx))(x)
        return jax.tree.leaves((forward_over_reverse, reverse_over_reverse, third))

    def stock(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    fast = derivatives(lambda x, k: fast_convolution(x, k, 2, "same"))
    for one, other in zip(fast, derivatives(stock), strict=True):
        assert relative_error(one, np.asarray(other)) < TOLERANCE


def test_max_pool_and_its_gradient_equal_the_stock_pooling_with_ties_and_odd_sizes():
    x = np.random.default_rng(3).integers(0, 3, (3, 7, 8, 5)).astype(np.float32)
    x[0, 0, 0, 0] = np.nan
    x[0, 3, 3, 1] = np.nan

    def stock(x):
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
        )

    value, pull = jax.vjp(lambda x: fast_max_pool(x, (2, 2)), x)
    expected, stock_pull = jax.vjp(stock, x)
    np.testing.assert_array_equal(value, expected)
    x = np.nan_to_num(x)
    (g,) = arrays(4, value.shape)
    _, pull = jax.vjp(lambda x: fast_max_pool(x, (2, 2)), x)
    _, stock_pull = jax.vjp(stock, x)
    np.testing.assert_array_equal(pull(g)[0], stock_pull(g)[0])


def network():
    layers = keras.layers
    inner_input = keras.Input((8, 8, 6))
    inner = layers.Conv2D(6, 3, padding="same", name="inner_conv")(inner_input)
    inner = keras.Model(inner_input, layers.BatchNormalization()(inner), name="inner")
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(
        6, 3, padding="same", activation="relu", kernel_regularizer="l2", name="first"
    )(inputs)
    x = layers.MaxPooling2D()(x)
    x = inner(inner(x))
    x = layers.Dropout(0.5, seed=0)(x)
    x = layers.Conv2D(4, 3, strides=2)(layers.ZeroPadding2D(1)(x))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)), name="network")


def test_accelerated_model_shares_every_variable_and_trains_the_original():
    keras.utils.set_random_seed(0)
    model = network()
    before = model.to_json()
    fast = accelerate(model)
    assert fast is not model
    assert [id(v) for v in fast.variables] == [id(v) for v in model.variables]
    assert [v.path for v in fast.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]
    assert [layer.name for layer in fast.layers[1:]] == [
        layer.name for layer in model.layers[1:]
    ]
    assert len(fast.losses) == len(model.losses) == 1
    (x,) = arrays(5, (12, 16, 16, 3))
    np.testing.assert_allclose(fast(x), model(x), rtol=0, atol=1e-5)

    fast.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    start = [np.array(v) for v in model.trainable_variables]
    fast.fit(x, np.arange(12) % 10, batch_size=5, epochs=2, verbose=0)
    for old, variable in zip(start, model.trainable_variables, strict=True):
        assert np.any(old != np.array(variable))
    np.testing.assert_allclose(fast(x), model(x), rtol=0, atol=1e-5)
    assert model.to_json() == before


def test_accelerate_names_what_it_cannot_take():
    with pytest.raises(UsageError, match="unbuilt"):
        accelerate(keras.Sequential([keras.layers.Conv2D(3, 3)]))

    class Subclassed(keras.Model):
        pass

    with pytest.raises(UsageError, match="Subclassed"):
        accelerate(Subclassed())
