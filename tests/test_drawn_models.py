"""Models of drawn layers: what `accelerate` makes of them computes as they do.

Each case draws a model, settings of JAX and Keras, a change to a layer and a
transformation of JAX; stock Keras computes all of it beside the fast model. Both give
the same numbers, or both refuse.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from keras import layers

from kerascnn import UsageError, accelerate

if keras.backend.backend() != "jax":
    pytest.skip("the fast layers are JAX's", allow_module_level=True)

BATCH, CLASSES = 4, 3
# XLA compiles the same program in a third of the time.
QUICKLY = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


class Draw:
    """Random choices by a seed."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def of(self, *options):
        return options[self.rng.integers(len(options))]

    def maybe(self, share):
        return self.rng.random() < share

    def seed(self):
        return int(self.rng.integers(1000))


def numbers(draw):
    """An initialiser of NumPy's, for which nothing is compiled."""

    def initializer(shape, dtype=None):
        return (0.3 * draw.rng.standard_normal(shape)).astype(dtype)

    return initializer


def activation(draw):
    own = functools.partial(keras.ops.multiply, 0.5)
    names = "relu", "relu", "silu", "gelu", "softmax", "leaky_relu"
    return draw.of(None, *names, layers.LeakyReLU(0.3), own)


def regularizer(draw):
    return draw.of(None, None, None, keras.regularizers.L2(0.01))


def policy(draw):
    return draw.of(*[None] * 8, "mixed_bfloat16", "float16")


def conv(draw):
    strides = draw.of(1, 1, 1, 2, (2, 1))
    return layers.Conv2D(
        draw.of(1, 4, 16, 16),
        draw.of(1, 2, 3, 3, 3, 5, (3, 2), 8),
        strides=strides,
        padding=draw.of("valid", "same"),
        dilation_rate=draw.of(1, 1, 1, 2) if strides == 1 else 1,
        groups=1,
        activation=activation(draw),
        use_bias=not draw.maybe(0.3),
        kernel_regularizer=regularizer(draw),
        activity_regularizer=regularizer(draw),
        kernel_constraint=draw.of(None, None, keras.constraints.MaxNorm(1.0)),
        kernel_initializer=numbers(draw),
        bias_initializer=numbers(draw),
        trainable=not draw.maybe(0.15),
        dtype=policy(draw),
    )


def pooling(draw):
    kind = draw.of(*[layers.MaxPooling2D] * 3, layers.AveragePooling2D)
    strides, padding = draw.of(*[None] * 3, 1, 3), draw.of("valid", "valid", "same")
    return kind(draw.of(2, 2, 2, 3, (1, 2), 1), strides, padding, dtype=policy(draw))


def normalization(draw):
    return layers.BatchNormalization(
        axis=draw.of(*[-1] * 6, 3, 1),
        momentum=draw.of(0.99, 0.5),
        epsilon=draw.of(1e-3, 0.1),
        center=not draw.maybe(0.2),
        scale=not draw.maybe(0.2),
        gamma_initializer=numbers(draw),
        beta_initializer=numbers(draw),
        renorm=draw.maybe(0.05),
        trainable=not draw.maybe(0.2),
        dtype=policy(draw),
    )


def dropout(draw):
    noise_shape = draw.of(None, None, None, (None, 1, 1, None))
    return layers.Dropout(
        draw.of(0.0, 0.3, 0.5, 0.9), noise_shape=noise_shape, seed=draw.seed()
    )


class Doubled(keras.Sequential):
    """A subclass with a call, a weight and a loss of its own."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.factor = self.add_weight((), "ones", name="factor")

    def call(self, inputs, training=None, mask=None):
        y = super().call(inputs, training=training, mask=mask)
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(y)))
        return (1 + self.factor) * y


class Patched(layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - keras.ops.mean(kernel))


def another(draw):
    """A layer that is not replaced."""
    own = numbers(draw)
    return draw.of(
        lambda: layers.DepthwiseConv2D(
            3, padding="same", activation="relu", depthwise_initializer=own
        ),
        lambda: layers.Conv2DTranspose(4, 2, strides=2, kernel_initializer=own),
        lambda: Patched(4, 3, padding="same", kernel_initializer=own),
        lambda: layers.LayerNormalization(gamma_initializer=own),
        lambda: layers.GroupNormalization(1),
        lambda: layers.ZeroPadding2D(((1, 0), (0, 2))),
        lambda: layers.Cropping2D(1),
        lambda: layers.UpSampling2D(2),
        lambda: layers.PReLU(own, shared_axes=(1, 2)),
        lambda: layers.Activation(activation(draw) or "relu"),
        lambda: layers.Rescaling(0.5, 0.1),
        lambda: layers.Permute((2, 1, 3)),
        lambda: layers.GaussianNoise(0.1, seed=draw.seed()),
        lambda: layers.SpatialDropout2D(0.3, seed=draw.seed()),
        lambda: layers.ActivityRegularization(l2=0.01),
        lambda: layers.Lambda(lambda x: x - keras.ops.mean(x)),
    )()


def drawn_layer(draw):
    kinds = *[conv] * 5, *[pooling] * 2, *[normalization] * 3, dropout, another, another
    return draw.of(*kinds)(draw)


def again(layer):
    return lambda x, y: layer(y)


def added(x, y):
    return layers.Add()([x, y])


def chained(draw, x, most):
    """Up to `most` layers after `x`, with branches, and layers that are used twice."""
    for _ in range(draw.rng.integers(1, most + 1)):
        layer = drawn_layer(draw)
        try:
            y = layer(x)
            if y.shape == x.shape and draw.maybe(0.5):
                y = draw.of(added, keras.ops.multiply, again(layer))(x, y)
            elif y.shape[:-1] == x.shape[:-1] and draw.maybe(0.2):
                y = layers.Concatenate()([x, y])
        except (ValueError, ZeroDivisionError):
            continue  # Keras refuses the layer for such images
        x = y
    return x


def network(seed):
    """A drawn model."""
    draw = Draw(seed)
    policy = draw.of(*[None] * 9, "mixed_bfloat16")
    keras.config.set_dtype_policy(policy or "float32")
    try:
        image = keras.Input((8, 8, draw.of(1, 3, 16)), dtype=draw.of(None, "float32"))
        x = chained(draw, image, 2)
        if draw.maybe(0.2):  # a model inside the model
            kind = draw.of(keras.Sequential, Doubled, keras.Model)
            start = keras.Input(x.shape[1:])
            inner = [conv(draw), normalization(draw)]
            with contextlib.suppress(ValueError, ZeroDivisionError):
                if kind is keras.Model:
                    inner = kind(start, inner[1](inner[0](start)))
                else:
                    inner = kind([start, *inner])
                inner.trainable = not draw.maybe(0.2)
                x = inner(x)
        x = draw.of(layers.Flatten, layers.GlobalAveragePooling2D)()(x)
        head = layers.Dense(CLASSES, kernel_initializer=numbers(draw), dtype="float32")
        return keras.Model(image, head(x))
    finally:
        keras.config.set_dtype_policy("float32")


def changed(draw, model):
    """Change what may change in a built layer."""
    write = draw.of(
        lambda x: setattr(x, "epsilon", 0.5),
        lambda x: setattr(x, "activation", keras.activations.tanh),
        lambda x: setattr(x, "rate", 0.2 if getattr(x, "rate", 0) else 0),
        lambda x: setattr(x, "trainable", not x.trainable),
        lambda x: x.enable_lora(1, b_initializer="ones"),
        lambda x: setattr(x, "momentum", 0.7),
    )
    for layer in model.layers[1:-1]:
        with contextlib.suppress(Exception):
            write(layer)


FLAGS = {
    "jax_enable_x64": True,
    "jax_default_matmul_precision": "highest",
    "jax_threefry_partitionable": False,
    "jax_numpy_dtype_promotion": "strict",
    "jax_enable_checks": True,
}


@contextlib.contextmanager
def flagged(draw):
    flag = draw.of(*[None] * 10, *FLAGS)
    old = flag and getattr(jax.config, flag)
    try:
        if flag:
            jax.config.update(flag, FLAGS[flag])
        yield
    finally:
        if flag:
            jax.config.update(flag, old)


def functions(model, training):
    """The loss of weights and images, and the model's values of weights."""

    def loss(weights, x, others):
        y, others, losses = model.stateless_call(
            weights, others, x, training=training, return_losses=True
        )
        return jnp.sum(y * y) + sum(losses), (y, others)

    values = [v.value for v in model.trainable_variables]
    return loss, values, [v.value for v in model.non_trainable_variables]


def halves(images):
    return images.reshape(2, -1, *images.shape[1:])


def forward(draw, model):
    loss, *values = functions(model, training=draw.maybe(0.5))
    return lambda weights, others, images: loss(weights, images, others), values


def gradients(draw, model):
    loss, *values = functions(model, training=True)
    step = jax.value_and_grad(loss, (0, 1), has_aux=True)
    return lambda weights, others, images: step(weights, images, others), values


def remat(draw, model):
    loss, *values = functions(model, training=True)
    step = jax.grad(jax.checkpoint(loss), (0, 1), has_aux=True)
    return lambda weights, others, images: step(weights, images, others), values


def vmapped(draw, model):
    """Over groups of images, or over two sets of weights."""
    loss, weights, others = functions(model, training=draw.maybe(0.5))
    of_weights, of = draw.maybe(0.3), draw.of(loss, jax.grad(loss, has_aux=True))
    if of_weights:
        weights = [jnp.stack([w, 0.9 * w]) for w in weights]
    axes = (0, None, None) if of_weights else (None, 0, None)

    def step(weights, others, images):
        groups = images if of_weights else halves(images)
        return jax.vmap(of, axes)(weights, groups, others)

    return step, (weights, others)


def scanned(draw, model):
    """Over parts of a batch, whose gradients and statistics follow each other."""
    loss, *values = functions(model, training=True)

    def steps(weights, others, images):
        def step(others, part):
            found, (y, others) = jax.grad(loss, has_aux=True)(weights, part, others)
            return others, (found, y)

        return jax.lax.scan(step, others, halves(images))

    return steps, values


def sharded(draw, model):
    """On two devices, each with half of the images."""
    loss, *values = functions(model, training=True)
    axis, checks = draw.of("batch", "data"), draw.maybe(0.5)
    mesh = Mesh(np.array(jax.devices()[:2]), (axis,))
    part, whole = PartitionSpec(axis), PartitionSpec()

    def on_each(weights, others, images):
        found, (y, _) = jax.grad(loss, has_aux=True)(weights, images, others)
        return (found if checks else jax.lax.psum(found, axis)), y

    step = jax.shard_map(
        on_each,
        mesh=mesh,
        in_specs=(whole, whole, part),
        out_specs=(whole, part),
        check_vma=checks,
    )
    return lambda weights, others, images: step(weights, others, images), values


def twice(draw, model):
    """A penalty on the images' gradient."""
    loss, *values = functions(model, training=False)

    def penalty(weights, images, others):
        by_images, _ = jax.grad(loss, 1, has_aux=True)(weights, images, others)
        return jnp.sum(by_images**2)

    return lambda weights, others, images: jax.grad(penalty)(
        weights, images, others
    ), values


TRANSFORMATIONS = [
    *[forward] * 5,
    *[gradients] * 2,
    *(remat, vmapped, vmapped, scanned, sharded, twice),
]


def transformed(draw, model, images):
    step, values = draw.of(*TRANSFORMATIONS)(draw, model)
    return jax.jit(step, compiler_options=QUICKLY)(*values, jnp.asarray(images))


def adamw():
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.3)
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    return optimizer


def compiled(draw, model):
    model.compile(
        optimizer=draw.of(
            lambda: keras.optimizers.SGD(0.01, momentum=0.9),
            lambda: keras.optimizers.Adam(0.01, clipnorm=1.0),
            lambda: keras.optimizers.SGD(0.01, use_ema=True),
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)),
            adamw,
        )(),
        loss=draw.of(
            lambda: keras.losses.Huber(0.1),
            lambda: keras.losses.CosineSimilarity(axis=0),
            lambda: [lambda y, z: keras.ops.mean(abs(y - z))],
            lambda: "mse",
        )(),
        loss_weights=draw.of(None, [0.5]),
        metrics=draw.of(None, ["mae"], [keras.metrics.MeanSquaredError()]),
        weighted_metrics=draw.of(None, [keras.metrics.MeanAbsoluteError(name="w")]),
        steps_per_execution=draw.of(1, 2),
    )


def fitted(draw, model, images):
    targets = draw.rng.standard_normal((BATCH, CLASSES))
    weights = draw.of(None, draw.rng.uniform(0, 1, BATCH))
    logs = model.fit(
        images, targets, BATCH // 2, verbose=0, shuffle=False, sample_weight=weights
    ).history
    return logs, model.get_weights()


def converted(draw, model):
    """The fast model, whatever the process's own settings are."""
    try:
        with keras.RematScope(draw.of(None, None, "full")):
            keras.config.set_dtype_policy(draw.of("float32", "mixed_float16"))
            return accelerate(model)
    finally:
        keras.config.set_dtype_policy("float32")


def largest(tree):
    """The largest number of a tree's arrays that is finite."""
    every = np.concatenate(
        [np.ravel(a).astype("float64") for a in jax.tree.leaves(tree)]
    )
    return np.abs(every[np.isfinite(every)]).max(initial=0)


def policies(model):
    """The types that a model's layers compute in."""
    each = [
        policies(x) if hasattr(x, "layers") else {x.compute_dtype} for x in model.layers
    ]
    return set().union(*each)


def measured(seed, model, fits):
    """What a case computes; the error, where it is refused."""
    draw = Draw([seed, 2])
    images = draw.rng.standard_normal((BATCH, *model.input_shape[1:]), np.float32)
    run = fitted if fits else transformed
    try:
        with flagged(draw):
            return jax.tree.map(np.asarray, run(draw, model, images))
    except Exception as error:
        return error


def check(seed):
    model, draw = network(seed), Draw([seed, 1])
    if fits := draw.maybe(0.1):
        compiled(draw, model)
    try:
        fast = converted(draw, model)
    except UsageError:
        return
    if draw.maybe(0.3):  # which counts in both
        changed(draw, draw.of(model, fast))
    variables = list(model.variables)
    if fits:
        model.optimizer.build(model.trainable_variables)
        variables += model.optimizer.variables
    start = [np.array(v) for v in variables]
    fast = measured(seed, fast, fits)
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)
    stock = measured(seed, model, fits)
    if isinstance(stock, Exception) or isinstance(fast, Exception):
        assert type(fast) is type(stock), (fast, stock)
        return
    paths, structure = jax.tree.flatten_with_path(stock)
    assert jax.tree.structure(fast) == structure
    # In half precision a sum that cancels keeps few digits, or none.
    half = policies(model) != {"float32"}
    most = largest(stock)
    close, least = (5e-2, most) if half else (1e-3, 1e-3)
    for (path, exact), value in zip(paths, jax.tree.leaves(fast), strict=True):
        assert value.dtype == exact.dtype, path
        exact, value = exact.astype("float64"), value.astype("float64")
        scale = max(largest(exact), least)
        # In float32, one that cancels to zero leaves rounding alone, stock's as well:
        # that of a fast convolution is within 1e-5 of the largest numbers.
        if largest(exact) < 1e-6 * most:
            scale = max(scale, 1e-2 * most)
        np.testing.assert_allclose(
            value, exact, rtol=0, atol=close * scale, err_msg=jax.tree_util.keystr(path)
        )


@pytest.mark.parametrize("seed", range(20))
def test_a_drawn_model_computes_as_stock_keras(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20, 1000))
def test_another_drawn_model_computes_as_stock_keras(seed):
    check(seed)
