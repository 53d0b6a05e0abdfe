"""A convolution that pools before it stores, against float64 NumPy and stock Keras."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from test_acceleration import (
    TOLERANCE,
    along,
    arrays,
    exact_convolution,
    lowered,
    relative_error,
    stock_convolution,
    stock_max_pool,
)

from kerascnn import accelerate, acceleration
from kerascnn.acceleration import Conv2D, fast_convolution
from kerascnn.data import Split
from kerascnn.engine import epoch
from kerascnn.engine.plan import Plan

layers = keras.layers

TILES = ((5, 10, 8, 16), (3, 3, 16, 20))


def stock(x, kernel, bias=None, relu=False, padding="SAME"):
    y = stock_convolution(x, kernel, padding=padding.upper())
    y = y if bias is None else y + bias
    return stock_max_pool(jax.nn.relu(y) if relu else y, (2, 2))


def fast(x, kernel, bias=None, relu=False, padding="same"):
    return fast_convolution(x, kernel, 1, padding, bias, relu, pool=True)


def exact_pool(y):
    """The largest of each window, how far the second largest is, and the place."""
    images, height, width, channels = y.shape
    y = y[:, : height // 2 * 2, : width // 2 * 2]
    windows = y.reshape(images, height // 2, 2, width // 2, 2, channels)
    windows = windows.transpose(0, 1, 3, 5, 2, 4).reshape(
        images, height // 2, width // 2, channels, 4
    )
    ordered = np.sort(windows, -1)
    return ordered[..., 3], ordered[..., 3] - ordered[..., 2], windows.argmax(-1)


def exact_unpool(g, index, shape):
    whole = np.zeros(shape)
    for i in range(4):
        part = whole[:, i // 2 :: 2, i % 2 :: 2][:, : g.shape[1], : g.shape[2]]
        part[...] = np.where(index == i, g, 0)
    return whole


# 130 images are three blocks or more of which the last one overlaps.
@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "padding"),
    [
        (*TILES, "same"),
        ((5, 9, 7, 17), (3, 3, 17, 20), "same"),
        ((5, 9, 8, 16), (3, 3, 16, 20), "valid"),
        ((3, 9, 10, 16), (5, 5, 16, 18), "same"),
        ((3, 8, 11, 16), (7, 7, 16, 20), "same"),
        ((3, 6, 6, 16), (3, 3, 16, 16), "valid"),
        ((2, 33, 32, 16), (3, 3, 16, 16), "same"),
        ((130, 8, 8, 32), (3, 3, 32, 32), "same"),
        pytest.param((130, 8, 8, 32), (7, 7, 32, 32), "same", marks=pytest.mark.slow),
        ((3, 8, 14, 6), (5, 5, 6, 16), "valid"),
        ((3, 8, 9, 1), (3, 3, 1, 4), "same"),
        ((3, 3, 3, 5), (2, 2, 5, 6), "valid"),
    ],
    ids=[
        *("tiles", "odd", "overlapping tiles", "5x5", "pieces", "tiles of 4", "wide"),
        *("blocks", "blocks of pieces", "bands", "one channel", "one window"),
    ],
)
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.few("True-tiles", "True-pieces", "True-bands", "False-one channel")
def test_value_and_gradients_equal_numpy(x_shape, kernel_shape, padding, relu):
    x, kernel, bias = arrays(0, x_shape, kernel_shape, kernel_shape[3:])
    exact, gradients = exact_convolution(x, kernel, (1, 1), padding)
    exact = exact + bias
    largest, gap, index = exact_pool(exact)
    (g,) = arrays(1, largest.shape)
    # Rounding may choose another pixel, or the other side of zero: they get nothing.
    scale = np.max(np.abs(exact))
    g[gap < 1e-4 * scale] = 0
    if relu:
        g[np.abs(largest) < 1e-4 * scale] = 0
    assert (g != 0).mean() > 0.9
    passed = np.where(largest > 0, g, 0) if relu else g
    expected = (
        *gradients(exact_unpool(passed, index, exact.shape)),
        passed.sum((0, 1, 2), dtype=np.float64),
    )

    @jax.jit
    def value_and_gradients(g, *arguments):
        value, pull = jax.vjp(lambda *a: fast(*a, relu, padding), *arguments)
        return value, *pull(g)

    value, *found = value_and_gradients(g, x, kernel, bias)
    tolerance = TOLERANCE[kernel_shape[0]]
    assert (
        relative_error(value, np.maximum(largest, 0) if relu else largest) < tolerance
    )
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < tolerance
    np.testing.assert_allclose(
        fast(x, kernel, bias, relu, padding), value, atol=1e-6 * scale
    )


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("bias", [1.0, 0.0, -1.0])
def test_the_first_of_equal_pixels_is_the_largest_as_in_keras(relu, bias):
    """With a kernel of zeros, all pixels of a window are equal."""
    x, g = arrays(2, TILES[0], (5, 5, 4, 20))
    kernel, bias = np.zeros(TILES[1], np.float32), np.full(20, bias, np.float32)
    found = []
    for function in (fast, stock):
        value, pull = jax.vjp(lambda *a, f=function: f(*a, relu), x, kernel, bias)
        found.append((value, *pull(g)))
    for one, other in zip(*found, strict=True):
        assert not np.any(other) or relative_error(one, other) < TOLERANCE[3]
        assert np.any(one) == np.any(other)


def test_nan_stays_and_passes_no_gradient_through_relu():
    x, kernel, bias = arrays(3, *TILES, (20,))
    bias[3] = np.nan

    def total(bias):
        y = fast(x, kernel, bias, relu=True)
        return y.sum(), y

    gradient, y = jax.grad(total, has_aux=True)(bias)
    assert np.isnan(y[..., 3]).all()
    assert not np.isnan(np.delete(y, 3, axis=3)).any()
    assert gradient[3] == 0
    assert (np.delete(gradient, 3) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("known", [True, False], ids=["affine input", "plain"])
def test_derivatives_of_higher_order_equal_those_of_the_parts(relu, known):
    images, kernel, bias, scale, shift = arrays(
        4, (2, 7, 6, 16), (3, 3, 16, 16), (16,), (16,), (16,)
    )
    kernel *= np.float32(0.1)  # the sine of large numbers would lose digits
    tangents = arrays(5, images.shape, kernel.shape, bias.shape)
    batch = [np.stack([a, 2 * a, -a]) for a in (images, kernel, bias)]

    def whole(images, kernel, bias):
        x = images * scale + shift
        affine_input = (images, scale, shift) if known else ()
        return fast_convolution(
            x, kernel, 1, "same", bias, relu, affine_input, pool=True
        )

    def parts(images, kernel, bias):
        return stock(images * scale + shift, kernel, bias, relu)

    def derivatives(convolution):
        def loss(*arguments):
            return jnp.mean(jnp.sin(convolution(*arguments)))

        gradient = jax.grad(loss, argnums=(0, 1, 2))
        arguments = images, kernel, bias
        return jax.tree.leaves(
            (
                jax.grad(along(gradient, tangents), argnums=(0, 1, 2))(*arguments),
                gradient(*arguments),
                jax.vmap(convolution)(*batch),
                jax.vmap(convolution, (0, None, None), 1)(batch[0], kernel, bias),
                jax.vmap(gradient, (0, None, None))(batch[0], kernel, bias),
            )
        )

    for one, other in zip(derivatives(whole), derivatives(parts), strict=True):
        assert relative_error(one, other) < 3 * TOLERANCE[3]


@pytest.mark.parametrize("relu", [True, False])
def test_nothing_larger_than_the_pooled_images_is_kept(relu):
    """The input and the weights, the pooled images, and a byte for each number."""
    arguments = x, kernel, _ = arrays(6, *TILES, (20,))

    def kept(*arguments):
        return jax.vjp(lambda *a: fast(*a, relu), *arguments)[1]

    shapes = [each.shape for each in jax.tree.leaves(jax.eval_shape(kept, *arguments))]
    pooled = fast(*arguments).size
    assert x.shape in shapes
    shapes.remove(x.shape)
    assert all(np.prod(shape) <= max(pooled, kernel.size) for shape in shapes)
    types = [each.dtype for each in jax.tree.leaves(jax.eval_shape(kept, *arguments))]
    assert jnp.int8 in types


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_the_stock_convolution(platform):
    x, kernel = arrays(7, *TILES)
    gradients = jax.grad(lambda x, k: jnp.sum(fast(x, k) ** 2), argnums=(0, 1))
    text = lowered(gradients, platform, x, kernel)
    assert text.count("stablehlo.convolution") == 3
    assert "stablehlo.while" not in text
    assert "stablehlo.dot_general" not in text


def conv(**words):
    return layers.Conv2D(16, 3, **{"padding": "same"} | words)


def network(*after, convolution=conv, channels=16, read_again=False):
    """A convolution, then layers; its result may have a second reader."""
    keras.utils.set_random_seed(0)
    image = keras.Input((12, 10, channels))
    x = y = convolution()(image)
    for layer in after:
        x = layer(x)
    if read_again:
        x = layers.Concatenate()(
            [layers.GlobalMaxPooling2D()(x), layers.GlobalMaxPooling2D()(y)]
        )
    return keras.Model(image, x)


def value_and_gradients(model, x, wrapped=jax.jit):
    weights = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]

    def loss(weights, x):
        y, _ = model.stateless_call(weights, others, x, training=True)
        return keras.ops.sum(keras.ops.cast(y, "float32") ** 2), y

    (_, y), gradients = wrapped(jax.value_and_grad(loss, (0, 1), has_aux=True))(
        weights, x
    )
    return [y, *gradients[0], gradients[1]]


RELU = {"convolution": lambda: conv(activation="relu")}


@pytest.mark.parametrize(
    ("make", "at_once"),
    [
        (lambda: network(layers.MaxPooling2D(), **RELU), True),
        (lambda: network(layers.MaxPooling2D()), True),
        (lambda: network(layers.MaxPooling2D((2, 2), strides=2)), True),
        (
            lambda: network(
                layers.MaxPooling2D(), convolution=lambda: conv(use_bias=False)
            ),
            True,
        ),
        (
            lambda: network(
                layers.MaxPooling2D(), convolution=lambda: conv(padding="valid")
            ),
            True,
        ),
        (lambda: network(layers.MaxPooling2D(3)), False),
        (lambda: network(layers.MaxPooling2D((2, 1))), False),
        (lambda: network(layers.MaxPooling2D(2, strides=1)), False),
        (lambda: network(layers.MaxPooling2D(2, padding="same")), False),
        (lambda: network(layers.AveragePooling2D(2)), False),
        (
            # Without a bias, whose gradient would be zero but for rounding.
            lambda: network(
                layers.BatchNormalization(),
                layers.MaxPooling2D(),
                convolution=lambda: conv(use_bias=False),
            ),
            False,
        ),
        (lambda: network(layers.ReLU(), layers.MaxPooling2D()), False),
        (lambda: network(layers.MaxPooling2D(), read_again=True), False),
        (
            lambda: network(
                layers.MaxPooling2D(), convolution=lambda: conv(activation="silu")
            ),
            False,
        ),
        (
            lambda: network(
                layers.MaxPooling2D(),
                convolution=lambda: conv(activity_regularizer="l2"),
            ),
            False,
        ),
        (
            lambda: network(layers.MaxPooling2D(), convolution=lambda: conv(strides=2)),
            False,
        ),
        (lambda: network(layers.MaxPooling2D(), channels=3), False),
    ],
    ids=[
        *("relu", "linear", "strides said", "no bias", "valid"),
        *("windows of 3", "windows of 2 x 1", "overlapping", "padded", "average"),
        *("normalised", "a layer between", "two readers", "silu", "regularised"),
        *("strided", "few channels"),
    ],
)
@pytest.mark.few("relu", "overlapping")
def test_layers_that_fit_are_joined_and_all_compute_as_in_keras(
    make, at_once, monkeypatch
):
    asked = []

    def spied(*arguments, **words):
        asked.append(words.get("pool", False))
        return fast_convolution(*arguments, **words)

    monkeypatch.setattr(acceleration.layers, "fast_convolution", spied)
    model = make()
    fast_model = accelerate(model)
    (x,) = arrays(8, (4, *model.input.shape[1:]))
    expected = value_and_gradients(model, x)
    for wrapped in (jax.jit, lambda function: function):
        asked.clear()
        found = value_and_gradients(fast_model, x, wrapped)
        assert any(asked) is at_once
        for one, other in zip(found, expected, strict=True):
            assert relative_error(one, other) < 3e-5
    # Eagerly, XLA could not drop the whole result.
    asked.clear()
    assert relative_error(fast_model(x), model(x)) < TOLERANCE[3]
    assert not any(asked)


def vgg(size=16):
    keras.utils.set_random_seed(0)
    image = x = keras.Input((size, size, 16))
    for _ in range(2):
        x = conv(activation="relu")(x)
        x = layers.MaxPooling2D()(conv(activation="relu", name=f"last_{_}")(x))
    return keras.Model(image, layers.Dense(5)(layers.Flatten()(x)))


def test_the_whole_result_is_there_for_whoever_asks_for_it():
    model = vgg()
    fast_model = accelerate(model)
    (x,) = arrays(9, (4, 16, 16, 16))
    for name in ("last_0", "last_1"):
        found, expected = (
            jax.jit(keras.Model(each.input, each.get_layer(name).output).call)(x)
            for each in (fast_model, model)
        )
        assert relative_error(found, expected) < 3 * TOLERANCE[3]


def test_a_step_computes_no_convolution_twice_and_keeps_less(monkeypatch):
    (x,) = arrays(10, (256, 32, 32, 16))

    def compiled():
        model = accelerate(vgg(32))
        weights = [v.value for v in model.trainable_variables]

        def loss(weights, x):
            y, _ = model.stateless_call(weights, [], x, training=True)
            return jnp.sum(y**2)

        return jax.jit(jax.grad(loss)).lower(weights, x).compile()

    joined = compiled()
    monkeypatch.setattr(Conv2D, "pooled", lambda self, y: None)
    apart = compiled()
    assert joined.as_text().count(" dot(") == apart.as_text().count(" dot(")
    kept, before = (
        each.memory_analysis().temp_size_in_bytes for each in (joined, apart)
    )
    # Of the four results, two are a fourth as large.
    assert kept < 0.8 * before


def trained_by_fit(model, x, y):
    model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0)


def trained_on_batches(model, x, y):
    for _ in range(2):
        for start in range(0, len(x), 6):
            model.train_on_batch(x[start : start + 6], y[start : start + 6])


def trained_by_the_epoch_engine(model, x, y):
    data = Split(x, y)
    epoch.fit(model, data, data, Plan(epochs=2, batch_size=6, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "train", [trained_by_fit, trained_on_batches, trained_by_the_epoch_engine]
)
def test_training_equals_stock_keras_and_its_files_are_read_again(train, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (18, 16, 16, 16), np.uint8)
    y = np.arange(18, dtype=np.int32) % 5
    models = []
    for convert in (lambda model: model, accelerate):
        inner = vgg()
        image = keras.Input((16, 16, 16))
        whole = keras.Model(image, inner(layers.Rescaling(1 / 255)(image)))
        model = convert(whole)
        model.compile(
            keras.optimizers.SGD(0.05, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        start = model.get_weights()
        train(model, x, y)
        models.append(model)
    stock_model, fast_model = models
    weights = stock_model.get_weights(), fast_model.get_weights(), start
    for one, other, before in zip(*weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4)
        assert np.any(one != before)
    fast_model.save(tmp_path / "fast.keras")
    loaded = keras.models.load_model(tmp_path / "fast.keras")
    expected = fast_model.predict(x, verbose=0)
    assert relative_error(loaded.predict(x, verbose=0), expected) < 1e-5
