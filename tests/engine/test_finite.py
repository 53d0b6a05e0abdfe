"""A step whose loss or gradient is not finite changes nothing, on either engine."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from kerascnn import data, optim
from kerascnn.data import Split
from kerascnn.engine import finite, fit
from kerascnn.engine.plan import Plan
from kerascnn.recipe import Course, Recipe
from kerascnn.training import build as building

JAX = keras.backend.backend() == "jax"
ENGINES = {"fit": fit.fit}
if JAX:
    from kerascnn.engine import epoch

    ENGINES["epoch"] = functools.partial(epoch.fit, steps_a_call=4)

STEPS, BATCH = 13, 8


class Poison(layers.Layer):
    """Breaks the loss, or a gradient alone, of a batch with an all-white image."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="zeros")

    def call(self, x):
        white = ops.cast(ops.any(ops.all(x >= 255.0, axis=1)), "float32")
        if self.kind == "loss":
            return x / 255.0 + self.factor + 1.0 / (1.0 - white)
        # A root of 1, or of 0, where its slope is infinite: the value is finite.
        still = self.factor - ops.stop_gradient(self.factor)
        return x / 255.0 + ops.sqrt(1.0 - white + still)


def network(kind):
    image = keras.Input((4, 4, 1))
    x = Poison(kind)(layers.Flatten()(image))
    x = layers.Dense(6)(x)
    x = layers.BatchNormalization(momentum=0.5)(x)
    return keras.Model(image, layers.Dense(3)(x))


def recipe(kind):
    return Recipe(
        name="small",
        dataset="none",
        network=lambda: network(kind),
        transform=list,
        optimizer=lambda: optim.adam(1e-2),
        batch_size=BATCH,
        epochs=1,
        parameters=0,
        course=Course(source="nowhere"),
    )


def compiled(kind="loss"):
    building.set_seed(3)
    case = recipe(kind)
    model = case.network()
    building.compile_model(model, case)
    return model


def split(white=()):
    """Images with a white one in each of the given steps of the first epoch."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 255, (STEPS * BATCH, 4, 4, 1), np.uint8)
    order = data.order(5, 0, len(images))
    for step in white:
        images[order[step * BATCH]] = 255
    return Split(images, draw.integers(0, 3, len(images), np.int32))


def train(engine, model, train_split, on_nan="stop", callbacks=(), **plan):
    model.optimizer.build(model.trainable_variables)
    finite.begin(model.optimizer, on_nan)
    engine(model, train_split, split(), Plan(1, BATCH, seed=5, **plan), callbacks)


def values(model):
    return [ops.convert_to_numpy(v).copy() for v in model.variables]


def assert_same(one, other):
    # One arithmetic, but compiled otherwise for one step and for four: 7 digits.
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


class Keep(keras.callbacks.Callback):
    """Reference: ends plain Keras's `fit` before a step, without any guard."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch + 1 == self.step


@functools.cache
def without_guard(kind, step):
    """The values after the first steps of the same run, by `keras.Model.fit` alone."""
    model = compiled(kind)
    batches = fit.Batches(split(), Plan(1, BATCH, seed=5))
    batches.begin(0)
    model.fit(batches, shuffle=False, verbose=0, callbacks=[Keep(step)])
    return values(model)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())
@pytest.mark.few("epoch-loss")
def test_the_step_is_left_out(engine, kind):
    last = STEPS - 1
    expected = without_guard(kind, last)
    stopped = compiled(kind)
    with pytest.raises(finite.NotFiniteError) as caught:
        train(engine, stopped, split([last]))
    assert caught.value.step == last
    assert_same(values(stopped), expected)

    train(engine, stopped, split([last]), "skip", initial_step=last)
    assert_same(values(stopped), expected)
    assert finite.left_out(stopped.optimizer) == 2  # once more, this time passed over
    assert int(stopped.optimizer.iterations) == last


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())
def test_a_stopped_run_trains_no_further(engine):
    """Steps that were under way when the bad one was seen change nothing."""
    expected = without_guard("loss", 5)
    model = compiled()
    with pytest.raises(finite.NotFiniteError) as caught:
        train(engine, model, split([5]))
    assert caught.value.step == 5
    assert_same(values(model), expected)
    assert int(model.optimizer.iterations) == 5


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())
def test_ten_in_a_row_stop_a_run_that_skips(engine):
    model = compiled()
    with pytest.raises(finite.NotFiniteError, match="10 steps in a row") as caught:
        train(engine, model, split([0, *range(2, 13)]), "skip")
    assert caught.value.step == 11
    assert finite.left_out(model.optimizer) == 11
    assert_same(values(model), values_after_second_step())


def values_after_second_step():
    """Only the second batch trained."""
    model = compiled()
    model.optimizer.build(model.trainable_variables)
    chosen = data.order(5, 0, STEPS * BATCH)[BATCH : 2 * BATCH]
    whole = split()
    model.train_on_batch(whole.images[chosen], whole.labels[chosen])
    return values(model)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())
def test_steps_left_out_in_passing(engine):
    """Three of thirteen, two in a row; the metrics count the images of the others."""
    found = []
    logs = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda e, logs: found.append(logs)
    )
    model = compiled()
    train(engine, model, split([2, 4, 5]), "skip", [logs])
    assert finite.left_out(model.optimizer) == 3
    assert int(model.optimizer.iterations) == STEPS - 3
    names = {"loss", "accuracy", "crossentropy"}
    assert set(found[0]) == names | {f"val_{name}" for name in names}
    assert np.isfinite(list(found[0].values())).all()
    # Accuracy is hits by images: a multiple of 1 / 80.
    hits = found[0]["accuracy"] * (STEPS - 3) * BATCH
    assert hits == pytest.approx(round(hits), abs=1e-4)


def test_bad_steps_in_a_row_count_on_where_a_run_goes_on():
    """Nothing else would make a resumed run stop where an undisturbed one does."""
    model = compiled()
    model.optimizer.build(model.trainable_variables)
    counts = finite.counts(model.optimizer)
    counts.assign(np.array([20, 7, 6, finite.LIMITS["skip"]], "int32"))
    found = []
    for on_nan in ("skip", "stop", "skip"):
        finite.begin(model.optimizer, on_nan)
        found.append(ops.convert_to_numpy(counts).tolist())
    assert found == [[20, 7, 6, 10], [20, 7, 0, 1], [20, 7, 0, 10]]


def test_the_largest_gradient_is_found_by_layer():
    model = compiled("gradient")
    model.optimizer.build(model.trainable_variables)
    good = split()
    images, labels = good.images[:8], good.labels[:8]
    loss, largest = finite.largest_gradients(model, images, labels)
    assert len(largest) == len(model.trainable_variables)
    # The last layer's bias moves the logits alone: its gradient is the mean of
    # softmax - one-hot. Float32 against float64.
    logits = ops.convert_to_numpy(model(images, training=True)).astype("float64")
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    crossentropy = -np.log(softmax[np.arange(8), labels]).mean()
    assert loss == pytest.approx(crossentropy, rel=1e-5)
    slopes = (softmax - np.eye(3)[labels]).mean(axis=0)
    path = model.trainable_variables[-1].path
    assert largest[path] == pytest.approx(np.abs(slopes).max(), rel=1e-5)
    bad = split([0])
    chosen = data.order(5, 0, STEPS * BATCH)[:BATCH]
    _, largest = finite.largest_gradients(model, bad.images[chosen], bad.labels[chosen])
    broken = [path for path, value in largest.items() if not np.isfinite(value)]
    assert broken == [v.path for v in model.trainable_variables if "poison" in v.path]
