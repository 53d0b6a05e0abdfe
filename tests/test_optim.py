"""The optimisers against PyTorch's and optax's own loops.

`TestOnEveryBackend` runs on JAX here and, by `test_other_backend`, in one process each
on TensorFlow and PyTorch.
"""

import contextlib
import dataclasses
import functools
import json

with contextlib.suppress(ImportError):
    import torch  # before TensorFlow, or the two crash

import keras
import numpy as np
import pytest
from keras import layers, ops

import kerascnn
from kerascnn import UsageError, optim, recipe

BACKEND = keras.backend.backend()
ON_JAX = pytest.mark.skipif(BACKEND != "jax", reason="optax needs the JAX backend")
STEPS = 50


def gradients(step):
    """Gradients of two weights; the second's are as small as PyTorch's epsilon."""
    rng = np.random.default_rng(step)
    return [
        rng.normal(size=(3, 4)).astype("float32"),
        (rng.normal(size=(4,)) * 1e-8).astype("float32"),
    ]


def start():
    rng = np.random.default_rng(1000)
    return [rng.normal(size=s).astype("float32") for s in ((3, 4), (4,))]


def keras_path(optimizer, factor):
    """The weights after each step; the learning rate falls by `factor` at each."""
    variables = [keras.Variable(value) for value in start()]
    path = []
    for step in range(STEPS):
        arrays = [ops.convert_to_tensor(g) for g in gradients(step)]
        optimizer.apply(arrays, variables)
        rate = float(ops.convert_to_numpy(optimizer.learning_rate))
        optimizer.learning_rate = rate * factor
        path.append([np.array(ops.convert_to_numpy(v)) for v in variables])
    return path


def torch_path(make, factor):
    weights = [torch.tensor(value, requires_grad=True) for value in start()]
    optimizer = make(weights)
    path = []
    for step in range(STEPS):
        for weight, gradient in zip(weights, gradients(step), strict=True):
            weight.grad = torch.tensor(gradient)
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= factor
        path.append([weight.detach().numpy().copy() for weight in weights])
    return path


def largest_difference(path, other):
    return max(
        np.abs(a - b).max()
        for step, same_step in zip(path, other, strict=True)
        for a, b in zip(step, same_step, strict=True)
    )


# Fifty float32 additions to weights of up to 4, each rounded by up to 2.4e-7.
TOLERANCE = 2e-6


@pytest.mark.needs("torch")
class TestOnEveryBackend:
    @pytest.mark.parametrize("amsgrad", [False, True])
    def test_adam_is_pytorchs(self, amsgrad):
        actual = keras_path(optim.Adam(0.01, epsilon=1e-8, amsgrad=amsgrad), 0.95)
        expected = torch_path(
            functools.partial(torch.optim.Adam, lr=0.01, amsgrad=amsgrad), 0.95
        )
        assert largest_difference(actual, expected) < TOLERANCE

    def test_adam_function(self):
        optimizer = optim.adam(0.01)
        assert type(optimizer) is optim.Adam
        assert optimizer.epsilon == 1e-8
        expected = torch_path(functools.partial(torch.optim.Adam, lr=0.01), 1.0)
        assert largest_difference(keras_path(optimizer, 1.0), expected) < TOLERANCE
        # The gradients are such that another place of epsilon is seen.
        keras_adam = keras_path(keras.optimizers.Adam(0.01, epsilon=1e-8), 1.0)
        assert largest_difference(keras_adam, expected) > 100 * TOLERANCE

    @pytest.mark.parametrize(
        ("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)]
    )
    def test_sgd_is_pytorchs(self, momentum, nesterov):
        actual = keras_path(optim.sgd(0.1, momentum, nesterov), 0.9)
        make = functools.partial(
            torch.optim.SGD, lr=0.1, momentum=momentum, nesterov=nesterov
        )
        expected = torch_path(make, 0.9)
        assert largest_difference(actual, expected) < TOLERANCE
        if momentum:
            keras_sgd = keras_path(keras.optimizers.SGD(0.1, momentum, nesterov), 0.9)
            assert largest_difference(keras_sgd, expected) > 100 * TOLERANCE

    def test_training_in_a_model_is_pytorchs(self):
        """Adam, weight decay on kernels and decay of the rate, through `fit`."""
        rng = np.random.default_rng(0)
        images = rng.normal(size=(16, 5)).astype("float32")
        labels = rng.integers(0, 3, 16)
        decay, gamma, epochs = 0.05, 0.9, 6
        model = keras.Sequential(
            [
                keras.Input((5,)),
                layers.Dense(3, kernel_regularizer=optim.weight_decay(decay)),
            ]
        )
        kernel, bias = (ops.convert_to_numpy(w).copy() for w in model.weights)
        model.compile(
            optim.adam(0.05), keras.losses.SparseCategoricalCrossentropy(True)
        )
        model.fit(
            images,
            labels,
            batch_size=16,
            epochs=epochs,
            callbacks=[optim.ExponentialDecay(gamma)],
            verbose=0,
        )

        reference = torch.nn.Linear(5, 3)
        with torch.no_grad():
            reference.weight.copy_(torch.tensor(kernel.T))
            reference.bias.copy_(torch.tensor(bias))
        groups = [
            {"params": [reference.weight], "weight_decay": decay},
            {"params": [reference.bias]},
        ]
        optimizer = torch.optim.Adam(groups, lr=0.05)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
        for _ in range(epochs):
            optimizer.zero_grad()
            logits = reference(torch.tensor(images))
            torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
            optimizer.step()
            scheduler.step()
        actual = [ops.convert_to_numpy(w) for w in model.weights]
        # Six steps of 0.05; Adam makes the gradients' rounding of 1e-7 a little larger.
        np.testing.assert_allclose(
            actual[0].T, reference.weight.detach().numpy(), rtol=0, atol=5e-6
        )
        np.testing.assert_allclose(
            actual[1], reference.bias.detach().numpy(), rtol=0, atol=5e-6
        )

    @pytest.mark.parametrize(
        "optimizer", [optim.adam(0.01), optim.sgd(0.1, 0.9, nesterov=True)]
    )
    def test_configuration_round_trip(self, optimizer):
        text = json.dumps(keras.saving.serialize_keras_object(optimizer))
        again = keras.saving.deserialize_keras_object(json.loads(text))
        assert type(again) is type(optimizer)
        assert again.get_config() == optimizer.get_config()


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="starts the other backends from JAX")
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backend(backend, passes_on):
    passes_on(backend, f"{__file__}::TestOnEveryBackend")


def test_weight_decay_is_half_the_square():
    weights = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    penalty = float(optim.weight_decay(5e-4)(ops.convert_to_tensor(weights)))
    expected = 5e-4 / 2 * np.square(weights.astype("float64")).sum()
    assert penalty == pytest.approx(expected, rel=1e-6)  # float32


class Rates(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.rates = {}

    def on_epoch_end(self, epoch, logs=None):
        self.rates[epoch] = float(self.model.optimizer.learning_rate)


def tiny_model(optimizer):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")])
    model.compile(optimizer, "mse")
    return model


def tiny_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 4)).astype("float32")
    return x, (2 * x[:, :3] - 1).astype("float32")


def rates_of_fit(optimizer, callback, **arguments):
    rates = Rates()
    tiny_model(optimizer).fit(
        *tiny_data(), batch_size=8, callbacks=[callback, rates], verbose=0, **arguments
    )
    return rates.rates


def exponential_lr(rate, gamma, epochs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
    rates = {}
    for epoch in range(epochs):
        rates[epoch] = float(np.float32(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("dtype", "digits"), [("float16", 2**-11), ("bfloat16", 2**-8)]
)
def test_adam_of_half_precision_is_adam_of_float32_but_for_the_weights(dtype, digits):
    """Gradients whose squares float16 lacks, of weights that it has."""
    moved = []
    for kind in (dtype, "float32"):
        optimizer = optim.Adam(1e-2, epsilon=1e-8)
        variables = [
            keras.Variable(np.zeros(n, "float32"), dtype=kind) for n in (12, 4)
        ]
        for step in range(STEPS):
            rng = np.random.default_rng(step)
            sizes = (12, 1.0), (4, 1e-5)
            # The same numbers for both: those that the narrower type has.
            found = [ops.cast(rng.normal(1, 1, n) * size, dtype) for n, size in sizes]
            optimizer.apply([ops.cast(g, kind) for g in found], variables)
        moved.append(
            [
                np.float32(ops.convert_to_numpy(ops.cast(v, "float32")))
                for v in variables
            ]
        )
    for half, single in zip(*moved, strict=True):
        assert np.abs(single).max() > 0.1
        # Each step rounds a weight to the type's digits once.
        assert np.abs(half - single).max() < STEPS * digits * np.abs(single).max()


@ON_JAX
def test_adam_begins_without_a_program_for_each_shape():
    import jax

    programs = []

    def count(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            programs.append(event)

    # No other test has weights of these shapes.
    shapes = [(7, n) for n in range(101, 109)]
    variables = [keras.Variable(np.zeros(each, "float32")) for each in shapes]
    optimizer = optim.Adam()
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        optimizer.build(variables)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert len(programs) < len(shapes)
    slots = optimizer.variables[-2 * len(shapes) :]
    assert sorted(v.shape for v in slots) == sorted(shapes * 2)
    assert not any(np.any(ops.convert_to_numpy(v)) for v in slots)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_network_of_half_precision_trains(dtype):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(4, dtype=dtype), layers.Dense(1, dtype=dtype)]
    )
    model.compile(optim.adam(1e-2), "mse")
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    losses = model.fit(x, x[:, :1], epochs=5, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.needs("torch")
def test_exponential_decay_is_exponential_lr():
    rates = rates_of_fit(optim.adam(1e-3), optim.ExponentialDecay(0.96), epochs=30)
    assert rates == exponential_lr(1e-3, 0.96, 30)


@pytest.mark.needs("torch")
def test_exponential_decay_from_a_later_epoch():
    callback = optim.ExponentialDecay(0.96)
    rates = rates_of_fit(optim.adam(1e-3), callback, initial_epoch=20, epochs=30)
    expected = exponential_lr(1e-3, 0.96, 30)
    assert rates == {epoch: expected[epoch] for epoch in range(20, 30)}


@pytest.mark.needs("torch")
def test_exponential_decay_of_an_optimiser_restored_in_the_middle():
    # Its own learning rate is the decayed one: the first epoch's has to be told.
    callback = optim.ExponentialDecay(0.96, learning_rate=1e-3)
    rates = rates_of_fit(optim.adam(7e-4), callback, initial_epoch=5, epochs=7)
    expected = exponential_lr(1e-3, 0.96, 7)
    assert rates == {5: expected[5], 6: expected[6]}


def test_exponential_decay_refuses_what_has_no_rate_to_set():
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)
    with pytest.raises(UsageError, match="schedule of its own"):
        rates_of_fit(keras.optimizers.Adam(schedule), optim.ExponentialDecay(0.9))
    with pytest.raises(ValueError, match="gamma=0"):
        optim.ExponentialDecay(0)


def transformations():
    import optax

    inject = optax.inject_hyperparams
    return {
        "sgd with momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
        "adamw": optax.adamw(1e-2, weight_decay=0.1),
        "clipped adam": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2)),
        "lion": optax.lion(1e-3),
        "schedule": optax.adam(optax.cosine_decay_schedule(0.1, 10)),
        "injected": inject(optax.adamw)(learning_rate=1e-2, weight_decay=0.1),
        "injected schedule": inject(optax.sgd)(optax.linear_schedule(0.1, 0.01, 10)),
        "kernels only": optax.adamw(
            1e-2, weight_decay=0.1, mask=lambda weights: [w.ndim > 1 for w in weights]
        ),
        "fixed mask": optax.adamw(1e-2, weight_decay=0.1, mask=[True, False]),
        "random keys": optax.chain(optax.add_noise(0.1, 0.5, key=3), optax.sgd(0.1)),
        "average of the weights": optax.chain(optax.adam(1e-2), optax.ema(0.9)),
    }


NAMES = list(transformations()) if BACKEND == "jax" else []


def loss(weights, x, y):
    kernel, bias = weights
    return ((x @ kernel + bias - y) ** 2).mean()


def optax_path(transformation, weights, steps):
    """optax's own loop."""
    import jax
    import optax

    x, y = tiny_data()

    @jax.jit
    def step(weights, state):
        gradients = jax.grad(loss)(weights, x, y)
        updates, state = transformation.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state

    path, state = [], transformation.init(weights)
    for _ in range(steps):
        weights, state = step(weights, state)
        path.append([np.array(w) for w in weights])
    return path


def stateless_path(optimizer, variables, steps):
    """The epoch engine's way: `stateless_apply`, compiled, its state donated."""
    import jax

    x, y = tiny_data()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(weights, state):
        gradients = jax.grad(loss)(weights, x, y)
        return optimizer.stateless_apply(state, gradients, weights)

    optimizer.build(variables)
    path = []
    weights = [v.value for v in variables]
    state = [v.value for v in optimizer.variables]
    for _ in range(steps):
        weights, state = step(weights, state)
        path.append([np.array(w) for w in weights])
    for variable, value in zip(
        [*variables, *optimizer.variables], [*weights, *state], strict=True
    ):
        variable.assign(value)
    return path


def variables_of(weights):
    return [keras.Variable(w) for w in weights]


def weights_at_start():
    import jax.numpy as jnp

    return [jnp.array(start()[0].T[:4, :3]), jnp.array(start()[1][:3])]


@ON_JAX
@pytest.mark.parametrize("name", NAMES)
def test_optax_is_optaxs_own_loop(name):
    transformation = transformations()[name]
    expected = optax_path(transformation, weights_at_start(), 12)
    optimizer = optim.Optax(transformation)
    actual = stateless_path(optimizer, variables_of(weights_at_start()), 12)
    # The same operations; the compiler may fuse them otherwise.
    assert largest_difference(actual, expected) < 1e-6
    assert largest_difference(expected[:-1], expected[1:]) > 1e-3


@ON_JAX
def test_optax_in_fit():
    import optax

    optimizer = optim.Optax(
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    )
    model = tiny_model(optimizer)
    model.layers[-1].set_weights(weights_at_start())
    expected = optax_path(optimizer.transformation, weights_at_start(), 5)[-1]
    model.fit(*tiny_data(), batch_size=8, epochs=5, verbose=0)
    for actual, weight in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(actual, weight, rtol=0, atol=1e-6)


@ON_JAX
@pytest.mark.parametrize("name", ["injected", "random keys", "injected schedule"])
def test_optax_state_travels_in_its_variables(name):
    transformation = transformations()[name]
    whole = stateless_path(
        optim.Optax(transformation), variables_of(weights_at_start()), 8
    )
    variables, first = variables_of(weights_at_start()), optim.Optax(transformation)
    stateless_path(first, variables, 4)
    store = {}
    first.save_own_variables(store)

    again = optim.Optax(transformation)
    restored = variables_of([np.array(v.value) for v in variables])
    again.build(restored)
    again.load_own_variables(store)
    assert [v.path for v in again.variables] == [v.path for v in first.variables]
    assert len({v.path for v in again.variables}) == len(again.variables)
    rest = stateless_path(again, restored, 4)
    assert largest_difference(rest, whole[4:]) == 0


@ON_JAX
@pytest.mark.needs("torch")
def test_optax_learning_rate_is_read_and_set():
    import optax

    adamw = optax.inject_hyperparams(optax.adamw)
    optimizer = optim.Optax(adamw(learning_rate=0.1))
    assert float(optimizer.learning_rate) == pytest.approx(0.1, rel=1e-7)
    optimizer.learning_rate = 1e-2  # before its state exists
    actual = stateless_path(optimizer, variables_of(weights_at_start()), 3)
    expected = optax_path(adamw(learning_rate=1e-2), weights_at_start(), 3)
    assert largest_difference(actual, expected) < 1e-6

    rates = rates_of_fit(
        optim.Optax(
            optax.chain(optax.clip(1.0), optax.inject_hyperparams(optax.lion)(1e-3))
        ),
        optim.ExponentialDecay(0.9),
        epochs=5,
    )
    assert rates == exponential_lr(1e-3, 0.9, 5)


@ON_JAX
def test_optax_learning_rate_that_cannot_be_set():
    import optax

    plain = optim.Optax(optax.adam(1e-3))
    assert optim.shown_rate(plain) is None
    with pytest.raises(UsageError, match="inject_hyperparams"):
        plain.learning_rate = 0.1
    with pytest.raises(UsageError, match="shows none"):
        rates_of_fit(plain, optim.ExponentialDecay(0.9))

    schedule = optax.linear_schedule(0.1, 0.0, 10)
    scheduled = optim.Optax(optax.inject_hyperparams(optax.sgd)(schedule))
    with pytest.raises(UsageError, match="follows a schedule"):
        scheduled.learning_rate = 0.1
    stateless_path(scheduled, variables_of(weights_at_start()), 4)
    # The rate of the last step, the fourth: 0.1 * (1 - 3 / 10).
    assert float(scheduled.learning_rate) == pytest.approx(0.07, rel=1e-6)


@ON_JAX
@pytest.mark.parametrize("name", ["lookahead", "polyak_sgd", "lbfgs"])
def test_optax_that_takes_more_than_gradients_is_refused_before_a_step(name):
    import optax

    made = {
        "lookahead": lambda: optax.lookahead(optax.sgd(0.1), 5, 0.5),
        "polyak_sgd": optax.polyak_sgd,
        "lbfgs": optax.lbfgs,
    }
    with pytest.raises(UsageError, match="gradients and weights") as caught:
        tiny_model(optim.Optax(made[name]())).fit(*tiny_data(), verbose=0)
    assert "\n" not in str(caught.value)


def rates_that_cannot_be_set():
    import optax

    schedule = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)
    injected = optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(0.1, 0.0, 10))
    return {
        "hidden": (lambda: optim.Optax(optax.sgd(0.1)), "inject_hyperparams"),
        "injected schedule": (lambda: optim.Optax(injected), "a number instead"),
        "schedule": (lambda: keras.optimizers.SGD(schedule), "a number instead"),
    }


@ON_JAX
@pytest.mark.parametrize("rate", ["hidden", "injected schedule", "schedule"])
@pytest.mark.parametrize(
    "callback",
    [
        lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        lambda: keras.callbacks.ReduceLROnPlateau("loss"),
    ],
    ids=["scheduler", "plateau"],
)
def test_a_callback_that_cannot_set_the_rate_is_named_before_training(rate, callback):
    optimizer, says = rates_that_cannot_be_set()[rate]
    mine = dataclasses.replace(
        recipe.load("fashion_mlp"),
        optimizer=optimizer,
        callbacks=lambda: [callback()],
    )
    with pytest.raises(UsageError, match=says) as caught:
        kerascnn.train(mine, data="sample", epochs=1, limit=64)
    assert type(callback()).__name__ in str(caught.value)


@ON_JAX
@pytest.mark.parametrize(
    "callback",
    [
        lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        lambda: keras.callbacks.ReduceLROnPlateau("loss"),
    ],
    ids=["scheduler", "plateau"],
)
def test_plain_fit_with_a_hidden_rate_ends_in_one_sentence(callback):
    """Of a model that `accelerate` made, with Keras's own `fit`."""
    optimizer, _ = rates_that_cannot_be_set()["hidden"]
    model = kerascnn.accelerate(tiny_model(optimizer()))
    with pytest.raises(UsageError, match="build it with optax"):
        model.fit(*tiny_data(), callbacks=[callback()], verbose=0)


@ON_JAX
def test_optax_with_gradient_accumulation_and_clipping():
    import optax

    transformation = optax.adam(1e-2)
    optimizer = optim.Optax(
        transformation, gradient_accumulation_steps=2, global_clipnorm=0.5
    )
    variables = variables_of(weights_at_start())
    chain = optax.chain(optax.clip_by_global_norm(0.5), transformation)
    weights = weights_at_start()
    state = chain.init(weights)
    for step in range(3):
        pair = [
            [g.T[:4, :3] if g.ndim > 1 else g[:3] for g in gradients(2 * step + i)]
            for i in range(2)
        ]
        for one in pair:
            optimizer.apply(one, variables)
        mean = [(a + b) / 2 for a, b in zip(*pair, strict=True)]
        updates, state = chain.update(mean, state, weights)
        weights = optax.apply_updates(weights, updates)
    for variable, weight in zip(variables, weights, strict=True):
        np.testing.assert_allclose(variable.numpy(), weight, rtol=0, atol=1e-6)


@ON_JAX
def test_optax_under_loss_scaling():
    import optax

    expected = optax_path(optax.adam(1e-2), weights_at_start(), 3)
    x, y = tiny_data()
    import jax

    optimizer = optim.Optax(optax.adam(1e-2), loss_scale_factor=1024.0)
    variables = variables_of(weights_at_start())
    for _ in range(3):
        weights = [v.value for v in variables]
        scaled = jax.grad(lambda w: optimizer.scale_loss(loss(w, x, y)))(weights)
        optimizer.apply(scaled, variables)
    for variable, weight in zip(variables, expected[-1], strict=True):
        np.testing.assert_allclose(variable.numpy(), weight, rtol=0, atol=1e-6)


@ON_JAX
def test_optax_with_averaged_weights():
    import optax

    optimizer = optim.Optax(optax.adam(1e-2), use_ema=True, ema_momentum=0.75)
    variables = variables_of(weights_at_start())
    path = stateless_path(optimizer, variables, 3)
    average = path[0]
    for step in path[1:]:
        average = [0.75 * a + 0.25 * w for a, w in zip(average, step, strict=True)]
    optimizer.finalize_variable_values(variables)
    for variable, expected in zip(variables, average, strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=0, atol=1e-6)


@ON_JAX
def test_optax_in_a_saved_model(tmp_path):
    import optax

    model = tiny_model(optim.Optax(optax.adam(1e-2)))
    model.fit(*tiny_data(), verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path, compile=False)
    x, _ = tiny_data()
    np.testing.assert_array_equal(
        again.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    with pytest.raises(UsageError, match="compile=False"):
        keras.saving.load_model(path)


@ON_JAX
def test_optax_mistakes():
    import optax

    with pytest.raises(UsageError, match=r"Received: 0\.1"):
        optim.Optax(0.1)
    with pytest.raises(UsageError, match="inside the transformation"):
        optim.Optax(optax.adam(1e-3), learning_rate=1e-3)
    with pytest.raises(UsageError, match="inside the transformation"):
        optim.Optax(optax.adam(1e-3), weight_decay=1e-4)
    optimizer = optim.Optax(optax.adam(1e-3))
    variables = variables_of(weights_at_start())
    optimizer.build(variables)
    with pytest.raises(UsageError, match="1 of 2 variables"):
        optimizer.apply([variables[0].value], variables[:1])


def test_optax_needs_jax(monkeypatch):
    import optax

    optimizer = optim.Optax(optax.sgd(0.1))  # a recipe is shown on every backend
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(UsageError, match="KERAS_BACKEND=jax"):
        optimizer.build([])


def kernels_at_start():
    rng = np.random.default_rng(7)
    shapes = [(3, 3, 4, 8), (3, 3, 8, 96), (5,)]
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


@ON_JAX
@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (16, 16)])
def test_orthogonal_keeps_singular_vectors_and_evens_the_values(shape):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=shape).astype("float32")
    found = np.asarray(optim.orthogonal(matrix, steps=5)).astype("float64")
    left, _, right = np.linalg.svd(matrix.astype("float64"), full_matrices=False)
    turned = left.T @ found @ right.T
    values = np.diag(turned)
    np.testing.assert_allclose(turned - np.diag(values), 0, atol=1e-4)
    assert 0.5 < values.min() <= values.max() < 1.3


@ON_JAX
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_orthogonal_is_optax_s(steps):
    from optax import contrib

    if not hasattr(contrib, "scale_by_muon"):
        pytest.skip("this optax has no Muon")
    matrix = np.random.default_rng(1).normal(size=(30, 20)).astype("float32")
    muon = contrib.scale_by_muon(ns_steps=steps, beta=0.0, nesterov=False)
    theirs, _ = muon.update(matrix, muon.init(matrix))
    ours = optim.orthogonal(matrix, steps)
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=2e-5)


@ON_JAX
@pytest.mark.needs("torch")
def test_muon_beside_sgd_is_airbench_s():
    """Its loop in PyTorch: momentum, a kernel brought to its length, then the step."""
    import optax

    rate, momentum, steps = 0.2, 0.6, 12
    kinds = {4: "filters"}
    parts = {
        "filters": optim.muon(optax.linear_schedule(rate, 0, steps), momentum),
        "rest": optax.sgd(0.1, 0.9, nesterov=True),
    }
    optimizer = optim.Optax(
        optax.partition(parts, lambda ws: [kinds.get(w.ndim, "rest") for w in ws])
    )
    variables = [keras.Variable(w) for w in kernels_at_start()]
    optimizer.build(variables)

    theirs = [torch.from_numpy(w.copy()).double() for w in kernels_at_start()]
    theirs = [w.permute(3, 2, 0, 1) if w.ndim == 4 else w for w in theirs]
    velocities = [torch.zeros_like(w) for w in theirs]
    for step in range(steps):
        rng = np.random.default_rng(step)
        given = [rng.normal(size=v.shape).astype("float32") for v in variables]
        optimizer.apply([ops.convert_to_tensor(g) for g in given], variables)
        for weight, velocity, g in zip(theirs, velocities, given, strict=True):
            gradient = torch.from_numpy(g).double()
            if weight.ndim == 1:
                velocity.mul_(0.9).add_(gradient)
                weight.sub_(0.1 * (gradient + 0.9 * velocity))
                continue
            gradient = gradient.permute(3, 2, 0, 1)
            velocity.mul_(momentum).add_(gradient)
            ahead = gradient + momentum * velocity
            x = ahead.reshape(len(ahead), -1)
            x = x / x.norm()
            for _ in range(3):
                square = x @ x.T
                polynomial = -4.7750 * square + 2.0315 * square @ square
                x = 3.4445 * x + polynomial @ x
            weight.mul_(len(weight) ** 0.5 / weight.norm())
            weight.sub_(rate * (1 - step / steps) * x.reshape(weight.shape))
    for ours, weight in zip(variables, theirs, strict=True):
        weight = weight.permute(2, 3, 1, 0) if weight.ndim == 4 else weight
        np.testing.assert_allclose(
            ops.convert_to_numpy(ours), weight.numpy(), rtol=0, atol=2e-4
        )
