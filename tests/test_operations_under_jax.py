"""The fast operations under JAX's transformations, meshes and exports, as stock ones.

Each operation stands in `OPERATIONS` beside the stock one, with arguments of which the
first is the images.
"""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from test_acceleration import (
    TOLERANCE,
    arrays,
    exact_convolution,
    relative_error,
    stock_convolution,
    stock_max_pool,
)

from kerascnn import accelerate, acceleration
from kerascnn.acceleration import (
    canary,
    fast_batch_normalization,
    fast_convolution,
    fast_max_pool,
    fast_silu,
    stored,
)

layers = keras.layers

if jax.device_count() < 2:
    pytest.skip("a mesh takes two devices", allow_module_level=True)


def some(names, *default):
    """All names, all but the `default` ones behind the slow marker."""
    return [
        each if each in default else pytest.param(each, marks=pytest.mark.slow)
        for each in names
    ]


def convolutions(x_shape, kernel_shape, strides=1, padding="same", pool=False):
    """A fast and a stock convolution with bias and ReLU, and their arguments."""

    def stock(x, kernel, bias):
        y = stock_convolution(x, kernel, (strides, strides), padding.upper())
        y = jax.nn.relu(y + bias)
        return stock_max_pool(y, (2, 2)) if pool else y

    def fast(x, kernel, bias):
        return fast_convolution(x, kernel, strides, padding, bias, True, pool=pool)

    return fast, stock, arrays(0, x_shape, kernel_shape, kernel_shape[3:])


def stock_normalization(x, gamma, beta):
    mean, variance = keras.ops.moments(x, [0, 1, 2])
    return (x - mean) * lax.rsqrt(variance + 1e-3) * gamma + beta


IMAGES = (4, 4, 4, 6)
OPERATIONS = {
    "tiles": convolutions((4, 8, 8, 16), (3, 3, 16, 16)),
    "tiles that overlap": convolutions((4, 6, 6, 16), (3, 3, 16, 16), 1, "valid"),
    "pieces": convolutions((4, 8, 8, 16), (7, 7, 16, 16)),
    "pooled": convolutions((4, 8, 8, 16), (3, 3, 16, 16), pool=True),
    "strided": convolutions((4, 8, 8, 16), (3, 3, 16, 20), 2),
    "bands": convolutions((4, 8, 14, 6), (5, 5, 6, 16), 1, "valid"),
    "one channel": convolutions((4, 8, 8, 1), (3, 3, 1, 4)),
    "dense": convolutions((4, 3, 3, 16), (3, 3, 16, 20), 1, "valid"),
    "1x1": convolutions((4, 4, 4, 16), (1, 1, 16, 20), 1, "valid"),
    "stock": convolutions((4, 8, 40, 8), (3, 5, 8, 8), 1, "valid"),
    "max pooling": (
        lambda x: fast_max_pool(x, (2, 2)),
        lambda x: stock_max_pool(x, (2, 2)),
        arrays(1, IMAGES),
    ),
    "normalization": (
        lambda *a: fast_batch_normalization(*a, 1e-3)[0],
        stock_normalization,
        arrays(2, IMAGES, (6,), (6,)),
    ),
    "silu": (fast_silu, jax.nn.silu, arrays(3, IMAGES)),
    "stored": (stored, lambda x: x, arrays(4, IMAGES)),
}
FEW = ("pooled", "max pooling", "normalization", "silu", "stored")


def mesh(*names, kinds=None):
    """Two devices along the first axis, one along each other."""
    kinds = kinds or (AxisType.Auto,) * len(names)
    devices = np.array(jax.devices()[:2]).reshape(2, *[1] * (len(names) - 1))
    return Mesh(devices, names, axis_types=kinds)


def loss_of(operation, axis=None):
    def loss(*arguments):
        total = jnp.sum(jnp.sin(operation(*arguments)))
        return total if axis is None else lax.psum(total, axis)

    return loss


def on_a_mesh(operation, arguments, asked=None, names=("data",), **words):
    """The loss, and its gradients by the arguments `asked` for, inside `shard_map`."""
    asked = tuple(range(len(arguments))) if asked is None else asked
    specs = (P(names[0]), *[P()] * (len(arguments) - 1))
    mapped = jax.shard_map(
        jax.value_and_grad(loss_of(operation, names[0]), asked),
        mesh=mesh(*names),
        in_specs=specs,
        out_specs=(P(), tuple(specs[i] for i in asked)),
        axis_names={names[0]},
        **words,
    )
    return mapped


def or_refused(step, *arguments):
    """A step's results; None where JAX asks the operations how they cut theirs."""
    try:
        return jax.jit(step)(*arguments)
    except Exception as error:
        if type(error).__name__ != "ShardingTypeError":
            raise
        return None


def check(run, expected):
    found = jax.tree.leaves(run)
    for one, other in zip(found, jax.tree.leaves(expected), strict=True):
        assert relative_error(one, other) < 1e-4


@pytest.mark.parametrize("asked", some(["all", "images", "weights"], "all"))
@pytest.mark.parametrize("name", some(OPERATIONS, *FEW))
def test_inside_shard_map_all_devices_gradients_are_added_up(name, asked):
    """By weights that all devices share, whichever arguments a gradient is asked of."""
    fast, stock, arguments = OPERATIONS[name]
    every = tuple(range(len(arguments)))
    asked = {"all": every, "images": every[:1], "weights": every[1:] or every}[asked]
    found, expected = (
        jax.jit(on_a_mesh(operation, arguments, asked))(*arguments)
        for operation in (fast, stock)
    )
    check(found, expected)


@pytest.mark.parametrize("name", some(OPERATIONS, "dense", "max pooling"))
@pytest.mark.parametrize(
    "names", some(["batch", "data batch", "batch data"], "data batch")
)
def test_manual_and_automatic_axes_of_any_name(name, names):
    fast, stock, arguments = OPERATIONS[name]
    found, expected = (
        jax.jit(on_a_mesh(operation, arguments, names=names.split()))(*arguments)
        for operation in (fast, stock)
    )
    check(found, expected)


@pytest.mark.parametrize("name", some(OPERATIONS, "normalization"))
def test_shard_map_without_checks_and_a_gradient_of_the_whole(name):
    fast, stock, arguments = OPERATIONS[name]
    every = tuple(range(len(arguments)))

    def outside(operation):
        specs = (P("data"), *[P()] * (len(arguments) - 1))
        mapped = jax.shard_map(
            operation,
            mesh=mesh("data"),
            in_specs=specs,
            out_specs=P("data"),
            check_vma=False,
        )
        return jax.jit(jax.value_and_grad(loss_of(mapped), every))(*arguments)

    check(outside(fast), outside(stock))


@pytest.mark.parametrize("name", some(OPERATIONS, "dense"))
def test_a_shard_map_that_is_not_compiled_may_be_the_first_use(name):
    fast, stock, arguments = OPERATIONS[name]
    canary.trusted.cache_clear()
    found = on_a_mesh(fast, arguments)(*arguments)
    check(found, jax.jit(on_a_mesh(stock, arguments))(*arguments))


@pytest.mark.parametrize("name", some(["tiles", "strided", "1x1"], "1x1"))
def test_filters_may_be_cut_among_devices(name):
    fast, stock, arguments = OPERATIONS[name]
    specs = P(), P(None, None, None, "data"), P("data")

    def run(operation):
        mapped = jax.shard_map(
            jax.value_and_grad(loss_of(operation, "data"), (0, 1, 2)),
            mesh=mesh("data"),
            in_specs=specs,
            out_specs=(P(), specs),
        )
        return jax.jit(mapped)(*arguments)

    check(run(fast), run(stock))


@pytest.mark.parametrize("axis", some(["data", "batch"], "data"))
@pytest.mark.parametrize("kind", some(["Auto", "Explicit"], "Explicit"))
@pytest.mark.parametrize("name", some(OPERATIONS, "dense", "max pooling", "silu"))
def test_a_batch_that_is_cut_along_an_axis_of_either_kind(name, kind, axis):
    fast, stock, arguments = OPERATIONS[name]
    every = tuple(range(len(arguments)))
    devices = mesh(axis, kinds=(AxisType[kind],))
    with jax.set_mesh(devices):
        placed = [
            jax.device_put(each, NamedSharding(devices, P() if i else P(axis)))
            for i, each in enumerate(arguments)
        ]
        found = jax.jit(jax.value_and_grad(loss_of(fast), every))(*placed)
    check(found, jax.jit(jax.value_and_grad(loss_of(stock), every))(*arguments))


def network():
    """Each fast layer; a convolution in tiles whose bias is zero, as at the start."""
    keras.utils.set_random_seed(0)
    image = x = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(16, 3, strides=2, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(16, 3, padding="same", activation="silu")(x)
    x = layers.Dropout(0.5, seed=1)(x)
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))


def step_of(model):
    """The loss and its gradients by weights and images, in training."""
    others = [v.value for v in model.non_trainable_variables]

    def loss(weights, images):
        y, _ = model.stateless_call(weights, others, images, training=True)
        return jnp.mean(jnp.sin(y))

    return jax.value_and_grad(loss, (0, 1)), [
        v.value for v in model.trainable_variables
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["manual", "explicit"])
def test_a_network_on_a_mesh(kind):
    (images,) = arrays(5, (4, 16, 16, 3))
    results = []
    for convert in (accelerate, lambda model: model):
        step, weights = step_of(convert(network()))
        if kind == "manual":

            def mapped(weights, images, step=step):
                loss, gradients = step(weights, images)
                return lax.pmean(loss, "data"), gradients

            specs = P(), P("data")
            step = jax.shard_map(
                mapped, mesh=mesh("data"), in_specs=specs, out_specs=(P(), specs)
            )
            results.append(jax.jit(step)(weights, images))
        else:
            devices = mesh("data", kinds=(AxisType.Explicit,))
            with jax.set_mesh(devices):
                cut = jax.device_put(images, NamedSharding(devices, P("data")))
                results.append(or_refused(step, weights, cut))
    # A kernel's gradient with explicit axes: what stock Keras refuses is refused.
    assert (results[0] is None) is (results[1] is None)
    check(*results)


LAYERS = {
    "tiles": lambda: [layers.Conv2D(16, 3, activation="relu")],
    "7x7": lambda: [layers.Conv2D(16, 7, padding="same")],
    "strided": lambda: [layers.Conv2D(16, 3, strides=2)],
    "bands": lambda: [layers.Conv2D(4, 3, activation="relu")],
    "dense": lambda: [layers.Conv2D(16, 8)],
    "silu": lambda: [layers.Conv2D(16, 3, activation="silu")],
    "pooled": lambda: [layers.Conv2D(16, 3), layers.MaxPooling2D()],
    "max pooling": lambda: [layers.MaxPooling2D()],
    "normalization": lambda: [layers.BatchNormalization()],
    "dropout": lambda: [layers.Dropout(0.5, seed=1)],
    "activation": lambda: [layers.Conv2D(16, 3), layers.Activation("silu")],
}


def pair(name):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 16)), *LAYERS[name]()])
    return model, accelerate(model)


@pytest.mark.parametrize("training", some([True, False], True))
@pytest.mark.parametrize(
    "name", some(LAYERS, "silu", "pooled", "normalization", "dropout")
)
def test_a_layer_and_its_gradients_are_exported_for_any_number_of_images(
    name, training
):
    model, fast = pair(name)
    (batch,) = jax.export.symbolic_shape("batch")
    (images,) = arrays(6, (5, 8, 8, 16))
    weights = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), weights)
    any_number = jax.ShapeDtypeStruct((batch, 8, 8, 16), np.float32)

    def gradients(model):
        def loss(weights, images):
            y, _ = model.stateless_call(weights, others, images, training=training)
            return jnp.mean(y**2), y

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))

    exported = jax.export.export(gradients(fast))(shapes, any_number)
    found = exported.call(weights, images)
    expected = gradients(model)(weights, images)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.needs("tensorflow")
def test_a_fast_model_is_exported_for_serving(tmp_path):
    import tensorflow as tf

    model = accelerate(network())
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    for number in (1, 3):
        (images,) = arrays(number, (number, 16, 16, 3))
        assert relative_error(served.serve(images).numpy(), model(images)) < 1e-5


@pytest.mark.parametrize("name", some(LAYERS, "silu", "normalization", "bands"))
def test_no_images_have_the_gradients_of_the_stock_layer(name):
    empty = np.zeros((0, 8, 8, 16), np.float32)
    found = []
    for model in pair(name):
        others = [v.value for v in model.non_trainable_variables]

        def loss(weights, images, model=model, others=others):
            y, _ = model.stateless_call(weights, others, images, training=True)
            return y.sum()

        weights = [v.value for v in model.trainable_variables]
        found.append(jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(weights, empty)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["tiles", "strided", "bands", "silu", "pooled"])
def test_an_image_smaller_than_the_kernel_is_refused_as_by_keras(name, compiled):
    model = keras.Sequential([keras.Input((None, None, 16)), *LAYERS[name]()])
    fast = accelerate(model)
    (image,) = arrays(7, (1, 2, 2, 16))
    errors = []
    for each in (model, fast):
        call = jax.jit(lambda x, m=each: m(x)) if compiled else each
        with pytest.raises(ValueError, match="empty output") as caught:
            call(image)
        errors.append(type(caught.value))
    assert errors[0] is errors[1]
    with pytest.raises(ValueError, match="too small for a kernel"):
        fast_convolution(image, model.layers[0].kernel)


HALF_BLACK = {
    "tiles": ((4, 12, 12, 16), (3, 3, 16, 16), 1, "same"),
    "tiles that overlap": ((4, 12, 12, 16), (3, 3, 16, 16), 1, "valid"),
    "5x5": ((4, 12, 12, 16), (5, 5, 16, 16), 1, "same"),
    "pieces": ((4, 16, 16, 16), (7, 7, 16, 16), 1, "same"),
    "strided": ((4, 12, 12, 16), (3, 3, 16, 20), 2, "same"),
    "bands": ((4, 12, 14, 6), (5, 5, 6, 16), 1, "valid"),
    "one channel": ((4, 12, 12, 1), (3, 3, 1, 4), 1, "same"),
    "1x1": ((4, 12, 12, 16), (1, 1, 16, 20), 1, "same"),
    "stock": ((4, 12, 40, 8), (3, 5, 8, 8), 1, "valid"),
}


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("bias", some([None, 0.0, 1e-7, -1e-7], 0.0))
@pytest.mark.parametrize("name", some(HALF_BLACK, "tiles"))
def test_relu_has_the_derivative_of_stock_relu_at_zero(name, bias, pool):
    """Of a black half, with a bias of zero or of less than a rounding error."""
    x_shape, kernel_shape, *geometry = HALF_BLACK[name]
    fast, stock, (x, kernel, biases) = convolutions(
        x_shape, kernel_shape, *geometry, pool=pool
    )
    x[:, :5] = 0
    if bias is None:
        arguments = x, kernel

        def fast(x, kernel):
            return fast_convolution(x, kernel, *geometry, None, True, pool=pool)

        def stock(x, kernel, stock=stock):
            return stock(x, kernel, np.zeros_like(biases))
    else:
        arguments = x, kernel, np.full_like(biases, bias)
    (g,) = arrays(8, jax.eval_shape(stock, *arguments).shape)

    @jax.jit(static_argnums=0)
    def gradients(operation, *arguments):
        return jax.vjp(operation, *arguments)[1](g)

    for one, other in zip(
        gradients(fast, *arguments), gradients(stock, *arguments), strict=True
    ):
        assert relative_error(one, other) < 2 * TOLERANCE[kernel_shape[0]]


BAD_PIXELS = {
    "tiles": ((2, 24, 24, 16), (3, 3, 16, 16), "same"),
    "tiles of 4": ((2, 2, 2, 16), (3, 3, 16, 16), "same"),
    "tiles that overlap": ((2, 24, 24, 16), (3, 3, 16, 16), "valid"),
    "5x5": ((2, 24, 24, 16), (5, 5, 16, 16), "same"),
    "pieces": ((2, 24, 24, 16), (7, 7, 16, 16), "same"),
}


@pytest.mark.parametrize("name", some(BAD_PIXELS, "tiles"))
def test_a_huge_pixel_moves_what_does_not_see_it_by_the_stated_bound(name):
    """A millionth of it, times its channel's weights in the filter."""
    x_shape, kernel_shape, padding = BAD_PIXELS[name]
    x, kernel = arrays(9, x_shape, kernel_shape)
    convolution = jax.jit(lambda x: fast_convolution(x, kernel, 1, padding))
    rng = np.random.default_rng(0)
    for size in (1e6, -1e12, 1e30):
        place = 1, *(rng.integers(n) for n in x_shape[1:])
        huge = x.copy()
        huge[place] = size
        mark = np.zeros_like(x)
        mark[place] = 1
        unseen = exact_convolution(mark, np.abs(kernel), (1, 1), padding)[0] == 0
        exact = exact_convolution(x, kernel, (1, 1), padding)[0]
        weights = np.abs(kernel[:, :, place[3]]).sum((0, 1))
        bound = 1e-6 * abs(size) * weights + 1e-4 * np.abs(exact).max()
        error = np.abs(np.asarray(convolution(huge), np.float64) - exact)
        assert (error <= bound)[unseen].all()


@pytest.mark.parametrize("name", some(BAD_PIXELS, "tiles"))
def test_a_pixel_that_is_not_finite_reaches_seven_pixels_and_no_other_image(name):
    x_shape, kernel_shape, padding = BAD_PIXELS[name]
    x, kernel = arrays(10, x_shape, kernel_shape)
    fast = jax.jit(lambda x: fast_convolution(x, kernel, 1, padding))
    stock = jax.jit(lambda x: stock_convolution(x, kernel, padding=padding.upper()))
    row, column = x_shape[1] // 2, x_shape[2] // 3
    edge = 0 if padding == "same" else kernel_shape[0] // 2
    for value in (np.inf, -np.inf, np.nan, -3.4e38):
        x[1, row, column, 5] = value
        y = np.asarray(fast(x))
        assert np.isfinite(y[0]).all()
        _, rows, columns = np.nonzero(~np.isfinite(y).all(3))
        assert np.abs(rows + edge - row).max(initial=0) <= 7
        assert np.abs(columns + edge - column).max(initial=0) <= 7
        # What sees it is not finite, as in stock Keras.
        assert not np.isfinite(y)[~np.isfinite(stock(x))].any()


@pytest.mark.parametrize("pool_size", some([(2, 2), (3, 2)], (2, 2)))
def test_max_pooling_of_nan_has_the_gradient_of_the_stock_one(pool_size):
    """By function and by layer, which XLA takes past the NaN."""
    rng = np.random.default_rng(11)
    x = rng.integers(0, 3, (3, 7, 8, 5)).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = np.nan
    value, pull = jax.vjp(lambda x: stock_max_pool(x, pool_size), x)
    (g,) = arrays(12, value.shape)
    fast, fast_pull = jax.vjp(lambda x: fast_max_pool(x, pool_size), x)
    np.testing.assert_array_equal(fast, value)
    np.testing.assert_array_equal(fast_pull(g)[0], pull(g)[0])
    layer = acceleration.MaxPooling2D(pool_size)
    np.testing.assert_array_equal(
        jax.grad(lambda x: jnp.vdot(layer(x), g))(x), pull(g)[0]
    )
