"""What `accelerate` keeps of a user's model, and what its layers do where JAX's do."""

import functools
import gc
import types

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest
from keras import layers

from kerascnn import UsageError, accelerate, optim

if keras.backend.backend() != "jax":
    pytest.skip("the fast layers are JAX's", allow_module_level=True)

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((6, 8, 8, 3), np.float32)
LABELS = np.arange(6) % 2


def parts():
    return [
        layers.Conv2D(4, 3, activation="relu", name="conv"),
        layers.Flatten(),
        layers.Dense(2),
    ]


def sequential(cls=keras.Sequential):
    keras.utils.set_random_seed(0)
    return cls([keras.Input((8, 8, 3)), *parts()])


def functional(cls=keras.Model):
    keras.utils.set_random_seed(0)
    image = x = keras.Input((8, 8, 3))
    for layer in parts():
        x = layer(x)
    return cls(image, x)


def entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(model, **words):
    model.compile(**{"optimizer": keras.optimizers.SGD(0.1), "loss": entropy()} | words)
    return model


def more_loss(model):
    class Mine(model):
        def compute_loss(self, *args, **kwargs):
            return super().compute_loss(*args, **kwargs) + 100

    return Mine


def trained_with_noise(model):
    class Mine(model):
        def train_step(self, *data):
            return super().train_step(*data)

        def stateless_compute_loss(self, *args, **kwargs):
            loss, *others = super().stateless_compute_loss(*args, **kwargs)
            return 3 * loss, *others

    return Mine


def other_test_step(model):
    class Mine(model):
        def test_step(self, state, data):
            logs, state = super().test_step(state, data)
            return logs | {"loss": 7 + logs["loss"]}, state

    return Mine


def own_call(model):
    class Mine(model):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training=training, mask=mask)

    return Mine


def other_arguments(model):
    class Mine(model):
        def __init__(self, *graph, temperature=3.0):
            super().__init__(*graph)
            self.temperature = temperature
            self.tracker = keras.metrics.Mean(name="tracker")

        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs) / self.temperature
            self.tracker.update_state(loss)
            return loss

    return Mine


def own_compile(model):
    class Mine(model):
        def compile(self, *args, factor=5, **kwargs):
            super().compile(*args, **kwargs)
            self.factor = factor

        def compute_loss(self, *args, **kwargs):
            return self.factor * super().compute_loss(*args, **kwargs)

    return Mine


PROCESS = {
    "policy": (
        keras.config.set_dtype_policy,
        ("mixed_float16", "float32"),
        lambda x: x.dtype_policy.name,
    ),
    "floatx": (keras.config.set_floatx, ("float16", "float32"), lambda x: x.dtype),
    "data format": (
        keras.config.set_image_data_format,
        ("channels_first", "channels_last"),
        lambda x: getattr(x, "data_format", None),
    ),
}


# A CPU has no convolution with channels first.
@pytest.mark.parametrize(
    ("setting", "built_under"),
    [("policy", 0), ("policy", 1), ("floatx", 0), ("floatx", 1), ("data format", 1)],
)
def test_the_process_s_settings_are_not_the_model_s(setting, built_under):
    write, values, read = PROCESS[setting]
    try:
        write(values[built_under])
        model = every_layer()
        write(values[1 - built_under])
        fast = accelerate(model)
    finally:
        write(values[1])
    for one, other in zip((fast, *fast.layers), (model, *model.layers), strict=True):
        assert read(one) == read(other)
    assert fast.inputs[0].dtype == model.inputs[0].dtype


def test_what_is_computed_twice_to_save_memory_is_the_model_s():
    with keras.RematScope("full"):
        model = functional()
    other = functional()
    with keras.RematScope("full"):
        kept = accelerate(other)
    fast = accelerate(model)
    for one, two in [(model, fast), *zip(model.layers, fast.layers, strict=True)]:
        if not isinstance(one, layers.InputLayer):
            assert one._remat_mode == two._remat_mode
            assert two._remat_mode
    assert not any(each._remat_mode for each in (kept, *kept.layers[1:]))


def test_nothing_is_drawn_from_the_process():
    """Neither random numbers nor names."""
    found = []
    for convert in (lambda model: model, accelerate):
        keras.utils.clear_session()
        convert(every_layer())
        found.append((keras.random.uniform(()), keras.Sequential().name))
    assert found[0] == found[1]


def test_a_policy_of_a_class_of_the_user_s_comes_along():
    class Mine(keras.DTypePolicy):
        pass

    conv = layers.Conv2D(4, 3, dtype=Mine("float32"))
    fast = accelerate(keras.Sequential([keras.Input((8, 8, 3)), conv]))
    assert fast.layers[0].dtype_policy is conv.dtype_policy


class Sum(layers.Layer):
    def call(self, x, y=None):
        return x if y is None else x + y


def inputs():
    return keras.Input((8, 8, 3)), keras.Input((8, 8, 3), optional=True, name="more")


@pytest.mark.parametrize("nested", [False, True])
def test_an_optional_input_may_be_left_out(nested):
    x, y = inputs()
    model = keras.Model([x, y], layers.Conv2D(4, 3)(Sum()(x, y)))
    if nested:
        x, y = inputs()
        model = keras.Model([x, y], model([x, y]))
    fast = accelerate(model)
    for pair in ([IMAGES, None], [IMAGES, IMAGES]):
        np.testing.assert_allclose(fast(pair), model(pair), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("setting", ["optional", "sparse"])
@pytest.mark.parametrize(
    "convert",
    [
        keras.Sequential,
        lambda parts: keras.Model(parts[0].output, parts[1](parts[0].output)),
    ],
)
def test_an_input_has_its_original_s_settings(convert, setting):
    image = layers.InputLayer(shape=(6,), name="row", **{setting: True})
    fast = accelerate(convert([image, layers.Dense(2)]))
    plain = keras.Model(fast.inputs, fast.outputs).layers[0]
    assert plain.get_config() == image.get_config()


@pytest.mark.few(
    "more_loss-sequential",
    "trained_with_noise-functional",
    "own_call-functional",
    "other_arguments-functional",
)
@pytest.mark.parametrize("make", [sequential, functional])
@pytest.mark.parametrize(
    "kind",
    [
        *(more_loss, trained_with_noise, other_test_step),
        *(own_call, other_arguments, own_compile),
    ],
)
def test_a_subclass_trains_and_evaluates_as_it_does(make, kind):
    base = keras.Sequential if make is sequential else keras.Model
    found = []
    for convert in (lambda model: model, accelerate):
        model = convert(compiled(make(kind(base))))
        logs = [
            model.train_on_batch(IMAGES, LABELS, return_dict=True),
            model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True),
        ]
        found.append((logs, model.get_weights()))
        assert type(model).__name__ == "Mine"
    (stock, stock_weights), (fast, fast_weights) = found
    for one, other in zip(fast, stock, strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    for one, other in zip(fast_weights, stock_weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_attributes_come_along():
    model = functional()
    conv = model.get_layer("conv")
    conv.tag, model.classes, model.first = "edges", ["cat", "dog"], conv
    model.width = types.MethodType(lambda self: self, model)
    fast = accelerate(model)
    assert fast.get_layer("conv").tag == "edges"
    assert list(fast.classes) == ["cat", "dog"]
    assert fast.first is fast.get_layer("conv")
    assert fast.width() is fast


def test_layers_in_a_list_come_along():
    model = functional()
    conv = model.get_layer("conv")
    model.blocks, model.table = [conv, (conv, 3)], {"first": conv}
    model.train_step = functools.partial(keras.Model.train_step, model)
    fast = accelerate(model)
    conv = fast.get_layer("conv")
    assert fast.blocks[0] is fast.blocks[1][0] is fast.table["first"] is conv
    assert fast.train_step.args == (fast,)


def test_a_weight_that_no_attribute_holds_is_named():
    model = functional()
    model.add_weight((), name="temperature")
    with pytest.raises(UsageError, match="temperature"):
        accelerate(model)


def test_a_weight_of_the_model_s_own_comes_along():
    model = functional()
    model.temperature = model.add_weight((), name="temperature")
    assert accelerate(model).temperature is model.temperature


def test_a_nested_subclass_keeps_its_own_call():
    class Double(keras.Sequential):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training=training, mask=mask)

    inner = Double([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)])
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, inner(image))
    np.testing.assert_allclose(
        accelerate(model)(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5
    )


def every_layer():
    """One of each layer that is replaced, and one that is not."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.MaxPooling2D(name="pool"),
            layers.Dropout(0.3, seed=1, name="drop"),
            layers.Flatten(),
            layers.Dense(2, name="dense"),
        ]
    )


def ones(*arguments, **words):
    return keras.ops.ones((6, 6, 6, 4))


def lora(layer):
    layer.enable_lora(2, a_initializer="ones", b_initializer="ones")


# What may change in a layer that has been built.
CHANGES = {
    "LoRA": ("conv", lora),
    "activation": (
        "conv",
        lambda x: setattr(x, "activation", keras.activations.tanh),
    ),
    "no activation": ("conv", lambda x: setattr(x, "activation", None)),
    "no bias": ("conv", lambda x: setattr(x, "use_bias", False)),
    "dtype": (
        "conv",
        lambda x: setattr(x, "dtype_policy", keras.DTypePolicy("mixed_bfloat16")),
    ),
    "convolution_op": ("conv", lambda x: setattr(x, "convolution_op", ones)),
    "call": ("conv", lambda x: setattr(x, "call", ones)),
    "epsilon": ("norm", lambda x: setattr(x, "epsilon", 0.5)),
    "momentum": ("norm", lambda x: setattr(x, "momentum", 0.1)),
    "frozen": ("norm", lambda x: setattr(x, "trainable", False)),
    "call of BatchNorm": (
        "norm",
        lambda x: setattr(x, "call", lambda x, training=None, mask=None: 2 * x),
    ),
    "pool size": (
        "pool",
        lambda x: (setattr(x, "pool_size", (1, 1)), setattr(x, "strides", (2, 2))),
    ),
    "padding": ("pool", lambda x: setattr(x, "padding", "same")),
    "rate": ("drop", lambda x: setattr(x, "rate", 0.8)),
    "quantisation": ("dense", lambda x: x.quantize("int8")),
    "L2": (
        "conv",
        lambda x: setattr(x.kernel, "regularizer", keras.regularizers.L2(3.0)),
    ),
    "activity": (
        "conv",
        lambda x: setattr(x, "activity_regularizer", keras.regularizers.L2(0.1)),
    ),
}


@pytest.mark.few(
    "LoRA",
    "activation",
    "convolution_op",
    "epsilon",
    "frozen",
    "pool size",
    "rate",
)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_to_one_layer_counts_in_both_models(change):
    name, write = CHANGES[change]
    stock, model, other = every_layer(), every_layer(), every_layer()
    fast, again = accelerate(model), accelerate(other)
    write(stock.get_layer(name))
    write(model.get_layer(name))
    write(again.get_layer(name))
    for training in (True, False):
        expected = stock(IMAGES, training=training)
        penalty = float(sum(stock.losses))
        for each in (fast, again):
            found = each(IMAGES, training=training)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
            assert float(sum(each.losses)) == pytest.approx(penalty, rel=1e-4)
    for each in (fast, model, other, again):
        paths = [v.path for v in each.trainable_variables]
        assert len(paths) == len(stock.trainable_variables)


def test_lora_of_a_fast_model_trains():
    weights = []
    for convert in (lambda model: model, accelerate):
        model = every_layer()
        fast = convert(model)
        lora(fast.get_layer("conv"))
        compiled(fast).train_on_batch(IMAGES, LABELS)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_result_with_another_activation_is_pooled_after_it():
    """The convolution and the pooling are one until then."""
    models = []
    for convert in (lambda model: model, accelerate):
        keras.utils.set_random_seed(0)
        image = keras.Input((8, 8, 16))
        conv = layers.Conv2D(16, 3, padding="same", activation="relu")
        model = keras.Model(image, layers.MaxPooling2D()(conv(image)))
        models.append(convert(model))
        conv.activation = keras.ops.negative
    x = RNG.standard_normal((2, 8, 8, 16), np.float32)
    one, other = (jax.jit(lambda x, of=model: of(x))(x) for model in models)
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_frozen_model_of_thawed_layers_trains_those():
    inner = sequential()
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, inner(image))
    inner.trainable = False
    inner.get_layer("conv").trainable = True
    fast = accelerate(model)
    assert [v.path for v in fast.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]
    assert fast.layers[1].trainable is False


def test_an_attribute_that_cannot_be_set_is_named():
    class Fixed(keras.Sequential):
        def __setattr__(self, name, value):
            if name == "limit" and hasattr(self, "limit"):
                raise AttributeError("limit is fixed")
            super().__setattr__(name, value)

        @property
        def limit(self):
            return self._limit

    model = sequential(Fixed)
    vars(model)["limit"] = 3
    model._limit = 3
    with pytest.raises(UsageError, match="'limit'"):
        accelerate(model)


def own_loss(y, logits):
    return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)


class OwnOptimizer(keras.optimizers.SGD):
    def __init__(self, rates):
        super().__init__(rates[0])


class OwnLoss(keras.losses.Loss):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, y, logits):
        return self.factor * own_loss(y, logits)


def own_metric(y, logits):
    return keras.ops.mean(logits)


class OwnMetric(keras.metrics.Mean):
    def __init__(self, shift):
        super().__init__(name="own")
        self.shift = shift

    def update_state(self, y, logits, sample_weight=None):
        super().update_state(logits + self.shift)


@pytest.mark.few(
    "sequential-<lambda>0",
    "sequential-<lambda>3",
    "functional-<lambda>2",
    "functional-<lambda>4",
    "functional-<lambda>5",
)
@pytest.mark.parametrize(
    "words",
    [
        lambda: {"loss": own_loss},
        lambda: {"loss": lambda y, logits: own_loss(y, logits)},
        lambda: {"loss": OwnLoss(2.0)},
        lambda: {"optimizer": optim.Optax(optax.sgd(0.1, momentum=0.9))},
        lambda: {"optimizer": OwnOptimizer([0.1, 0.2])},
        lambda: {"metrics": [own_metric, OwnMetric(3.0), "accuracy"]},
        lambda: {"weighted_metrics": [OwnMetric(3.0)], "steps_per_execution": 2},
        lambda: {"loss": [own_loss], "loss_weights": [0.5], "run_eagerly": True},
        lambda: {"optimizer": "adam", "loss": own_loss, "metrics": ["accuracy"]},
    ],
)
@pytest.mark.parametrize("make", [sequential, functional])
def test_objects_of_the_user_s_are_handed_over(make, words):
    logs = []
    for convert in (lambda model: model, accelerate):
        model = compiled(make(), **words())
        fast = convert(model)
        assert fast.optimizer is model.optimizer
        history = fast.fit(IMAGES, LABELS, epochs=2, batch_size=6, verbose=0).history
        logs.append({name: values[-1] for name, values in history.items()})
        logs[-1]["weights"] = sum(float(np.abs(w).sum()) for w in model.get_weights())
    assert logs[1] == pytest.approx(logs[0], rel=1e-4)


def test_the_optimizer_goes_on():
    """Its averages are of the variables, which both models share."""
    weights = []
    for convert in (lambda model: model, accelerate):
        model = compiled(functional(), optimizer=keras.optimizers.Adam(0.01))
        model.train_on_batch(IMAGES, LABELS)
        convert(model).train_on_batch(IMAGES, LABELS)
        assert int(model.optimizer.iterations.value) == 2
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def adamw():
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    return optimizer


@pytest.mark.parametrize(
    "words",
    [
        lambda: {"loss": keras.losses.Huber(0.1)},
        lambda: {"loss": keras.losses.CosineSimilarity(axis=0)},
        lambda: {"optimizer": adamw(), "loss": "mse"},
    ],
)
def test_settings_that_keras_does_not_write_down_count(words):
    logs = []
    y = RNG.standard_normal((6, 2), np.float32)
    for convert in (lambda model: model, accelerate):
        fast = convert(compiled(sequential(), **words()))
        logs.append([fast.train_on_batch(IMAGES, y) for _ in range(2)])
    np.testing.assert_allclose(*logs, rtol=1e-4)


def test_switches_set_after_compile_count():
    model = compiled(sequential())
    model.run_eagerly, model.jit_compile = True, False
    model.steps_per_execution, model.supports_jit = 3, False
    fast = accelerate(model)
    assert (fast.run_eagerly, fast.jit_compile) == (True, False)
    assert (fast.steps_per_execution, fast.supports_jit) == (3, False)


def test_losses_in_half_precision_are_scaled_once():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(functional())
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert accelerate(model).optimizer is model.optimizer


LAYERS = {
    "few filters": lambda: layers.Conv2D(4, 3),
    "winograd": lambda: layers.Conv2D(16, 3, padding="same", activation="relu"),
    "strided": lambda: layers.Conv2D(20, 3, strides=2, activation="silu"),
    "pooling": lambda: layers.MaxPooling2D(),
    "normalization": lambda: layers.BatchNormalization(),
    "dropout": lambda: layers.Dropout(0.3, seed=1),
    "activation": lambda: layers.Activation("silu"),
}


def single(name, channels=16):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, channels))
    return keras.Model(image, LAYERS[name]()(image))


COMPILED, LISTENS = [], []


def count(event, duration, **_):
    if LISTENS and "backend_compile" in event:
        COMPILED.append(event)


@pytest.fixture
def compilations():
    """The programs that XLA has compiled: a list that grows."""
    if count not in LISTENS:
        jax.monitoring.register_event_duration_secs_listener(count)
    LISTENS.append(count)
    COMPILED.clear()
    yield COMPILED
    del LISTENS[1:]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.few("dropout")
def test_three_hundred_eager_calls_compile_nothing_new(name, compilations):
    fast = accelerate(single(name))
    x = RNG.standard_normal((2, 8, 8, 16), np.float32)
    for _ in range(3):
        fast(x, training=True)
    gc.collect()
    compilations.clear()
    before = len(gc.get_objects())
    for _ in range(300):
        fast(x, training=True)
    assert not compilations
    gc.collect()
    # A function that JAX keeps is dozens of objects a call.
    assert len(gc.get_objects()) - before < 1500


@pytest.mark.parametrize("name", LAYERS)
def test_three_hundred_steps_compile_one_function(name, compilations):
    model = accelerate(single(name))
    weights = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]

    @jax.jit
    def step(weights, others, x):
        def loss(weights, x):
            y, new = model.stateless_call(weights, others, x, training=True)
            return y.sum(), new

        (_, new), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(weights, x)
        return gradients, new

    x = RNG.standard_normal((2, 8, 8, 16), np.float32)
    _, others = step(weights, others, x)
    compilations.clear()
    for _ in range(300):
        _, others = step(weights, others, x)
    assert not compilations


def test_train_on_batch_compiles_one_function(compilations):
    image = x = keras.Input((8, 8, 16))
    for name in LAYERS:
        x = LAYERS[name]()(x) if name != "pooling" else x
    model = accelerate(keras.Model(image, layers.GlobalAveragePooling2D()(x)))
    model.compile("sgd", "mse")
    x, y = RNG.standard_normal((2, 8, 8, 16), np.float32), np.zeros((2, 20))
    for _ in range(2):
        model.train_on_batch(x, y)
    compilations.clear()
    for _ in range(30):
        model.train_on_batch(x, y)
    assert not compilations


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *(
            ((2, 1, 1, 16), "float32"),
            ((8, 8, 16), "float32"),
            ((0, 8, 8, 16), "float32"),
            ((2, 8, 8, 16), "int32"),
            ((2, 8, 8, 16), "float16"),
        ),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ((2, 2, 9, 16), "float32"),
                ((2, 8, 8, 17), "float32"),
                ((2, 8, 8, 8), "float32"),
                ((2, 8, 8, 32), "float32"),
                ((2, 2, 8, 8, 16), "float32"),
                ((2, 0, 8, 16), "float32"),
                ((2, 8, 8, 16), "uint8"),
                ((2, 8, 8, 16), "bool"),
                ((2, 8, 8, 16), "complex64"),
            )
        ),
    ],
    ids=str,
)
def test_where_keras_refuses_the_fast_layer_refuses(name, shape, dtype):
    """Each layer called by itself, where a model would look at the shapes before."""
    x = jnp.asarray(RNG.uniform(-3, 3, shape), dtype)
    results = []
    for layer in stock_and_fast(name):
        try:
            results.append(np.asarray(layer(x, **training(name))))
        except Exception as error:
            results.append(type(error))
    stock, fast = results
    if isinstance(stock, type):
        assert fast is stock
    else:
        assert fast.dtype == stock.dtype
        np.testing.assert_allclose(fast, stock, rtol=1e-3, atol=1e-3)


@functools.cache
def stock_and_fast(name):
    return single(name).layers[1], accelerate(single(name)).layers[1]


def training(name):
    return {"training": True} if name in ("normalization", "dropout") else {}


# Documented switches of JAX with which stock Keras runs, at a value not their default.
SWITCHES = {
    "jax_disable_jit": True,
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_enable_checks": True,
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_check_tracer_leaks": True,
    "jax_debug_key_reuse": True,
    "jax_default_matmul_precision": "highest",
    "jax_threefry_partitionable": False,
}


def value_and_gradients(model, x):
    weights = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]

    def loss(weights, x):
        y, _ = model.stateless_call(weights, others, x, training=True)
        return keras.ops.sum(y * y), y

    step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, y), (by_weights, by_images) = step(weights, x)
    return [y, *by_weights, by_images, model(x)]


CHAIN = "winograd", "normalization", "winograd", "pooling"
CHAIN += "few filters", "strided", "dropout"


def chain(names=CHAIN):
    keras.utils.set_random_seed(0)
    image = x = keras.Input((16, 16, 16))
    for name in names:
        x = LAYERS[name]()(x)
    return keras.Model(image, x)


@pytest.mark.slow
@pytest.mark.parametrize("switch", SWITCHES)
def test_jax_s_switches_leave_the_fast_layers_right(switch):
    old = getattr(jax.config, switch)
    # Each operation by itself takes seconds without compilation.
    names = CHAIN[:1] + CHAIN[3:] if switch == "jax_disable_jit" else CHAIN
    x = RNG.standard_normal((2, 16, 16, 16), np.float32)
    try:
        jax.config.update(switch, SWITCHES[switch])
        stock = value_and_gradients(chain(names), x)
        fast = value_and_gradients(accelerate(chain(names)), x)
    finally:
        jax.config.update(switch, old)
    for one, other in zip(fast, stock, strict=True):
        assert one.dtype == other.dtype
        scale = np.max(np.abs(other))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * scale)
