"""Both engines train the same: same order, same draws, same losses, same weights."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

import kerascnn
from kerascnn import data, transforms
from kerascnn.data import Split
from kerascnn.engine import epoch as epoch_module
from kerascnn.engine import fit, placement
from kerascnn.engine.plan import Plan
from kerascnn.recipe import Course, Recipe
from kerascnn.training import build

jax_only = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="the epoch engine is JAX's"
)


def network() -> keras.Model:
    """Everything that carries state or draws numbers: BatchNorm, Dropout, L2."""
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(
        8,
        3,
        strides=2,
        activation="relu",
        kernel_regularizer=keras.regularizers.L2(0.01),
    )(image)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Dropout(0.3)(x)
    x = layers.Flatten()(x)
    return keras.Model(image, layers.Dense(10)(x))


RECIPE = Recipe(
    name="small",
    dataset="cifar10",
    network=network,
    transform=lambda: [
        transforms.RandomCrop(padding=2),
        layers.RandomFlip("horizontal"),
        transforms.pm1(),
        transforms.RandomErasing(p=0.5),
    ],
    optimizer=lambda: keras.optimizers.Adam(1e-3),
    batch_size=20,
    epochs=2,
    parameters=0,
    course=Course(source="nowhere"),
)


# Where the transform is not the point: random layers take seconds to compile.
PLAIN = dataclasses.replace(RECIPE, transform=lambda: [transforms.pm1()])


@pytest.fixture(scope="module")
def splits() -> tuple[Split, Split]:
    """510 training images: 25 batches of 20 and a rest of 10; 70 test images."""
    sample = data.load("cifar10", "sample")
    return (
        Split(np.array(sample.train.images[:510]), np.array(sample.train.labels[:510])),
        Split(np.array(sample.test.images[:70]), np.array(sample.test.labels[:70])),
    )


class Losses(keras.callbacks.Callback):
    """Keep the running mean of the loss after every step, and each epoch's logs."""

    def __init__(self):
        super().__init__()
        self.steps, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(float(logs["loss"]))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append({name: float(value) for name, value in logs.items()})


def compiled(accelerated=False, policy="float32", recipe=RECIPE):
    build.set_seed(5)
    keras.config.set_dtype_policy(policy)
    try:
        model, _ = build.build(recipe, (32, 32, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    if accelerated:
        model = kerascnn.accelerate(model)
    build.compile_model(model, recipe)
    return model


def trained(
    engine,
    splits,
    callbacks=(),
    epochs=2,
    drop_last=False,
    accelerated=False,
    policy="float32",
    **options,
):
    model = compiled(accelerated, policy)
    plan = Plan(epochs=epochs, batch_size=20, seed=5, drop_last=drop_last)
    engine.fit(model, *splits, plan, callbacks, **options)
    return model


def assert_same_weights(one: keras.Model, other: keras.Model):
    for a, b in zip(one.variables, other.variables, strict=True):
        # Both run the same arithmetic, but compiled in other pieces, so float32 sums
        # may round differently; over 52 steps of Adam that stays below 1e-4.
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(a),
            keras.ops.convert_to_numpy(b),
            rtol=1e-4,
            atol=1e-4,
            err_msg=a.path,
        )


@pytest.fixture(scope="module")
def losses_of_fit(splits) -> list[float]:
    """The mean loss so far of each of 50 steps."""
    reference = Losses()
    trained(fit, splits, [reference], drop_last=True)
    return reference.steps


@jax_only
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.few("True-True")
def test_the_loss_is_the_same_at_each_of_50_steps(
    splits, losses_of_fit, monkeypatch, accelerated, cut
):
    if cut:
        monkeypatch.setattr(placement, "WORTH", 0)
    sums = []
    function = epoch_module.training_function

    def watched(model, mesh, batch_size, *more):
        assert (mesh is not None) == cut
        call = function(model, mesh, batch_size, *more)

        def step(state, *arguments):
            state = call(state, *arguments)
            sums.append(float(state["sums"]["loss"]))
            return state

        return step

    monkeypatch.setattr(epoch_module, "training_function", watched)
    trained(epoch_module, splits, drop_last=True, accelerated=accelerated)
    assert len(sums) == len(losses_of_fit) == 50
    # Both keep running sums, anew each epoch: their differences are the steps' losses.
    counts = 20 * np.arange(1, 26)
    expected = np.diff(np.reshape(losses_of_fit, (2, 25)) * counts, prepend=0) / 20
    losses = np.diff(np.reshape(sums, (2, 25)), prepend=0) / 20
    # The sums grow to 2000 in float32, seven digits: a difference is good to 1e-4 / 20
    # of its own; and rounding differently moves the weights apart, step by step.
    np.testing.assert_allclose(losses, expected, rtol=2e-4)


@pytest.mark.slow
@jax_only
def test_mixed_precision_trains_the_same(splits):
    """bfloat16 keeps three digits: after 26 steps the losses agree to one in a hundred.

    The loss itself is float32 in both engines: of bfloat16, a sum over 20 images, about
    46, would be a multiple of a quarter.
    """
    reference, fast = Losses(), Losses()
    trained(fit, splits, [reference], epochs=1, policy="mixed_bfloat16")
    model = trained(epoch_module, splits, [fast], epochs=1, policy="mixed_bfloat16")
    logits = np.float64(model.predict(fit.Batches(splits[1], batch_size=20), verbose=0))
    right = logits[np.arange(len(logits)), splits[1].labels]
    exact = np.mean(np.log(np.exp(logits).sum(axis=1)) - right)
    value = fast.epochs[0]["val_crossentropy"]
    assert value == pytest.approx(exact, rel=1e-3)
    assert value == pytest.approx(reference.epochs[0]["val_crossentropy"], rel=0.02)


@pytest.mark.slow
@jax_only
def test_weights_and_metrics_are_the_same_with_many_steps_a_call(splits):
    """As on a GPU: four steps in one compiled loop, the last two and the rest alone."""
    reference, fast = Losses(), Losses()
    one = trained(fit, splits, [reference])
    other = trained(epoch_module, splits, [fast], steps_a_call=4)
    assert_same_weights(one, other)
    for a, b in zip(reference.epochs, fast.epochs, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=1e-4), name


@jax_only
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("steps_a_call", [1, 4, 50])
def test_no_step_is_lost_wherever_an_epoch_goes_on(steps_a_call, drop_last):
    """Also after a step where this device makes no cut, as the one before did."""
    plan = Plan(epochs=1, batch_size=20, seed=9, drop_last=drop_last)
    order = data.order(9, 0, 510)[: 500 if drop_last else 510]
    for done in range(plan.steps(510) + 1):
        calls = epoch_module._calls(plan, 0, 510, steps_a_call, done)
        images = [call.ravel() for call in calls] or [np.array([], int)]
        np.testing.assert_array_equal(np.concatenate(images), order[20 * done :])
        assert {len(call) for call in calls} <= {1, steps_a_call}
    assert [len(c) for c in epoch_module._calls(plan, 0, 510, 4, 2)][:3] == [1, 1, 4]


@jax_only
@pytest.mark.parametrize(
    ("whole", "together"),
    # Whole batches of CIFAR-10 and Fashion-MNIST by 256 and 1,024, by 64, and a prime.
    [(195, 39), (48, 48), (234, 39), (58, 29), (781, 11), (97, 50)],
)
def test_the_steps_of_one_call_cut_an_epoch_evenly(whole, together):
    """Each step left over is called by itself, and compiled for it."""
    assert epoch_module.steps_together(whole) == together
    plan = Plan(epochs=1, batch_size=2, seed=0, drop_last=False)
    lengths = [c.shape for c in epoch_module._calls(plan, 0, 2 * whole + 1, together)]
    shapes = {(together, 2), (1, 1)} | ({(1, 2)} if whole == 97 else set())
    assert set(lengths) == shapes


@jax_only
@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [
        (10_000, 256, {250}),
        (10_000, 1_000, {1_000}),
        (510, 256, {255}),
        (10_007, 256, {256, 23}),
        (3, 256, {3}),
        (5, 1, {1}),
    ],
)
def test_an_evaluation_takes_every_image_once_in_batches_of_one_size(
    images, batch_size, sizes
):
    calls = epoch_module.evaluation_calls(images, batch_size)
    np.testing.assert_array_equal(np.concatenate(calls), np.arange(images))
    assert {len(call) for call in calls} == sizes


@jax_only
@pytest.mark.slow
def test_an_evaluation_has_one_call_under_way(splits, monkeypatch):
    """Each call that waits would hold a network's memory of its own."""
    functions, waited = epoch_module._functions, []

    def watched(*arguments):
        training, evaluation = functions(*arguments)

        def evaluate(state, sums, *rest):
            waited.append(all(value.is_ready() for value in sums.values()))
            return evaluation(state, sums, *rest)

        return training, evaluate

    monkeypatch.setattr(epoch_module, "_functions", watched)
    train, test = splits
    model = compiled(recipe=PLAIN)
    many = Split(np.tile(test.images, (30, 1, 1, 1)), np.tile(test.labels, 30))
    epoch_module.fit(model, train, many, Plan(epochs=1, batch_size=350, seed=0))
    assert waited == 6 * [True]


@jax_only
def test_an_interrupted_epoch_leaves_a_usable_model(splits):
    class Interrupt(keras.callbacks.Callback):
        async_safe = needs_no_state = True

        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                raise KeyboardInterrupt

    model = compiled(recipe=PLAIN)
    before = [np.array(w) for w in model.get_weights()]
    plan = Plan(epochs=1, batch_size=20, seed=5)
    with pytest.raises(KeyboardInterrupt):
        epoch_module.fit(model, *splits, plan, [Interrupt()])
    after = model.get_weights()
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(np.isfinite(w).all() for w in after)
    assert int(model.optimizer.iterations) == 4


@jax_only
def test_a_second_fit_compiles_nothing(splits, monkeypatch):
    built = []
    function = epoch_module.training_function
    monkeypatch.setattr(
        epoch_module,
        "training_function",
        lambda *each: built.append(1) or function(*each),
    )
    model = compiled(recipe=PLAIN)
    for initial in (0, 1):
        epoch_module.fit(
            model, *splits, Plan(initial + 1, 20, 5, initial_epoch=initial)
        )
    assert len(built) == 1
    assert int(model.optimizer.iterations) == 2 * 26
    build.compile_model(model, PLAIN)  # another optimiser
    epoch_module.fit(model, *splits, Plan(1, 20, 5))
    assert len(built) == 2
    assert int(model.optimizer.iterations) == 26


@jax_only
@pytest.mark.parametrize("scale", [2.0**15, 2.0**12])
@pytest.mark.slow
def test_the_scale_of_half_precision_changes_no_update(splits, scale):
    """It changes as a run goes on: after an overflow, and after many steps without."""
    recipe = dataclasses.replace(
        PLAIN, optimizer=lambda: keras.optimizers.SGD(0.1), name="sgd"
    )
    updates = []
    for given in (1.0, scale):
        model = compiled(policy="mixed_float16", recipe=recipe)
        model.optimizer.build(model.trainable_variables)
        model.optimizer.dynamic_scale.assign(given)
        before = model.get_weights()
        # The last batch is smaller: the second program is traced where the first
        # has taken the arrays.
        epoch_module.fit(model, *splits, Plan(epochs=1, batch_size=400, seed=5))
        assert int(model.optimizer.iterations) == 2
        updates.append(
            [a - b for a, b in zip(model.get_weights(), before, strict=True)]
        )
    for one, other in zip(*updates, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3 * max(1e-3, abs(one).max()))


@pytest.mark.slow
@jax_only
def test_the_gradients_are_judged_once_not_for_each_new_value():
    def operations(depth):
        image = keras.Input((32, 32, 3))
        x = layers.Flatten()(layers.AveragePooling2D(8)(image))
        for _ in range(depth):
            x = layers.Dense(4)(x)
        recipe = dataclasses.replace(
            PLAIN, network=lambda: keras.Model(image, layers.Dense(10)(x))
        )
        model = compiled(recipe=recipe)
        model.optimizer.build(model.trainable_variables)
        step = epoch_module.training_function(model)
        state = epoch_module.read_state(model)
        images, labels = np.zeros((20, 32, 32, 3), np.uint8), np.zeros(20, np.int32)
        order = np.arange(20, dtype=np.int32)[None]
        return (
            step.function.lower(state, images, labels, order)
            .compile()
            .as_text()
            .count("and(")
        )

    # Of 12, 22 and 42 gradients: with the depth they grow in a line, not in a square.
    few, more, most = map(operations, (5, 10, 20))
    assert few > 0
    assert most - more == 2 * (more - few)


@jax_only
def test_callbacks_can_stop_and_change_the_learning_rate(splits):
    rates = []

    class Meddle(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 1e-4
            self.model.stop_training = epoch == 1

    plan = Plan(epochs=5, batch_size=20, seed=5)
    model = compiled(recipe=PLAIN)
    epoch_module.fit(model, *splits, plan, [Meddle()])
    assert rates == pytest.approx([1e-3, 1e-4])


def test_only_callbacks_with_a_hook_for_batches_want_batches():
    class Epochs(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            pass

    class Steps(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pass

    class Safe(Steps):
        async_safe = needs_no_state = True

    class Begins(Safe):
        def on_train_batch_begin(self, batch, logs=None):
            pass

    function = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: 0)
    assert epoch_module.wants_batches(function)
    assert epoch_module.wants_batches(Begins())
    assert not epoch_module.wants_batches(Epochs())
    assert epoch_module.wants_batches(Steps())
    assert not epoch_module.wants_batches(Safe())


@pytest.mark.parametrize("drop_last", [False, True])
def test_fit_shows_the_images_in_the_order_of_seed_and_epoch(splits, drop_last):
    plan = Plan(epochs=3, batch_size=20, seed=9, drop_last=drop_last)
    batches = fit.Batches(splits[0], plan)
    for number in range(3):
        expected = data.order(9, number, 510)[: 500 if drop_last else 510]
        labels = np.concatenate([batches[i][1] for i in range(len(batches))])
        np.testing.assert_array_equal(labels, splits[0].labels[expected])
        batches.begin(number + 1)
    assert plan.steps(510) == len(batches) == (25 if drop_last else 26)


def test_evaluation_covers_every_example_once(splits):
    batches = fit.Batches(splits[1], batch_size=32)
    images = np.concatenate([batches[i][0] for i in range(len(batches))])
    np.testing.assert_array_equal(images, splits[1].images)


def test_fit_shows_a_new_order_each_epoch(splits):
    """The labels that `fit` really reads, from the first epoch on."""
    seen = []

    class Spy(fit.Batches):
        def begin(self, epoch):
            super().begin(epoch)
            seen.append([])

        def __getitem__(self, step):
            batch = super().__getitem__(step)
            seen[-1].append(batch[1])
            return batch

    model = compiled(recipe=PLAIN)
    plan = Plan(epochs=2, batch_size=128, seed=5)
    batches = Spy(splits[0], plan)
    seen[:] = [[]]  # `fit` looks at a batch before the first epoch begins
    model.fit(
        batches, epochs=2, shuffle=False, verbose=0, callbacks=[fit._Order(batches)]
    )
    assert len(seen) == 3
    for number, labels in enumerate(seen[1:]):
        expected = splits[0].labels[data.order(5, number, 510)]
        np.testing.assert_array_equal(np.concatenate(labels)[:510], expected)


def test_the_mean_of_the_test_set_is_weighted_by_examples(splits):
    """70 images in batches of 32, 32 and 6: the mean over images, not over batches."""
    model = compiled(recipe=PLAIN)
    batches = fit.Batches(splits[1], batch_size=32)
    accuracy = model.evaluate(batches, verbose=0, return_dict=True)["accuracy"]
    logits = keras.ops.convert_to_numpy(model(splits[1].images, training=False))
    assert accuracy == pytest.approx((logits.argmax(-1) == splits[1].labels).mean())
