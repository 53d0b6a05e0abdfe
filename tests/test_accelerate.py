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


def test_a_layer_with_a_method_of_its_own_stays_as_it_is():
    model = sequential()
    conv = model.get_layer("conv")
    conv.convolution_op = lambda inputs, kernel: jnp.zeros((len(inputs), 6, 6, 4))
    assert accelerate(model).get_layer("conv") is conv


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


def test_losses_in_half_precision_are_scaled_once():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(functional())
    finally:
        keras.config.set_dtype_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert accelerate(model).optimizer is model.optimizer


LAYERS = {
    "sums": lambda: layers.Conv2D(4, 3),
    "winograd": lambda: layers.Conv2D(16, 3, padding="same", activation="relu"),
    "strided": lambda: layers.Conv2D(20, 3, strides=2, activation="silu"),
    "pooling": lambda: layers.MaxPooling2D(),
    "normalization": lambda: layers.BatchNormalization(),
    "dropout": lambda: layers.Dropout(0.3, seed=1),
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
        ((2, 1, 1, 16), "float32"),
        ((2, 2, 9, 16), "float32"),
        ((2, 8, 8, 17), "float32"),
        ((2, 8, 8, 8), "float32"),
        ((2, 8, 8, 32), "float32"),
        ((8, 8, 16), "float32"),
        ((2, 2, 8, 8, 16), "float32"),
        ((0, 8, 8, 16), "float32"),
        ((2, 0, 8, 16), "float32"),
        ((2, 8, 8, 16), "int32"),
        ((2, 8, 8, 16), "uint8"),
        ((2, 8, 8, 16), "bool"),
        ((2, 8, 8, 16), "float16"),
        ((2, 8, 8, 16), "complex64"),
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


def chain():
    keras.utils.set_random_seed(0)
    image = x = keras.Input((16, 16, 16))
    for name in (
        *("winograd", "normalization", "winograd", "pooling"),
        *("sums", "strided", "dropout"),
    ):
        x = LAYERS[name]()(x)
    return keras.Model(image, x)


@pytest.mark.parametrize("switch", SWITCHES)
def test_jax_s_switches_leave_the_fast_layers_right(switch):
    old = getattr(jax.config, switch)
    x = RNG.standard_normal((2, 16, 16, 16), np.float32)
    try:
        jax.config.update(switch, SWITCHES[switch])
        stock = value_and_gradients(chain(), x)
        fast = value_and_gradients(accelerate(chain()), x)
    finally:
        jax.config.update(switch, old)
    for one, other in zip(fast, stock, strict=True):
        assert one.dtype == other.dtype
        scale = np.max(np.abs(other))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * scale)
