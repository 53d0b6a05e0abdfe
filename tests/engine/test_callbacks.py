"""Callbacks read and write under both engines what they do under `keras.Model.fit`."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from kerascnn import UsageError, api, data, transforms
from kerascnn import recipe as recipes
from kerascnn.data import Split
from kerascnn.engine import choice, fit, placement
from kerascnn.engine import epoch as epoch_module
from kerascnn.engine.plan import Plan
from kerascnn.recipe import Course, Recipe
from kerascnn.training import build, options

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="the epoch engine is JAX's"
)

EPOCHS = 3


def network() -> keras.Model:
    """State of every kind: trained, averaged by BatchNorm, and drawn by Dropout."""
    image = keras.Input((6, 6, 1))
    x = layers.BatchNormalization(momentum=0.9)(layers.Flatten()(image))
    x = layers.Dropout(0.2)(x)
    return keras.Model(image, layers.Dense(3, kernel_regularizer="l2")(x))


RECIPE = Recipe(
    name="small",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.unit()],
    optimizer=lambda: keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.5),
    batch_size=16,
    epochs=EPOCHS,
    parameters=0,
    course=Course(source="nowhere"),
)


PLAIN = dataclasses.replace(RECIPE, optimizer=lambda: keras.optimizers.Adam(0.02))


def split(seed: int, images: int) -> Split:
    """Noise, brighter in some rows by class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, images).astype("int32")
    pixels = rng.integers(0, 200, (images, 6, 6, 1))
    pixels[np.arange(images), 2 * labels] += 50
    return Split(pixels.astype("uint8"), labels)


SPLITS = split(0, 40), split(1, 24)  # batches of 16, 16 and 8; of 12 or of 16 and 8


def stock_fit(model, train, test, plan, callbacks):
    """Train with `keras.Model.fit` itself, on the same images in the same order."""
    batches = fit.Batches(train, plan)
    model.fit(
        batches,
        epochs=plan.epochs,
        validation_data=fit.Batches(test, batch_size=plan.batch_size),
        shuffle=False,
        callbacks=[fit._Order(batches), *callbacks],
        verbose=0,
    )


ENGINES = {"keras": stock_fit, "fit": fit.fit, "epoch": epoch_module.fit}


def trained(engine, callbacks, recipe=RECIPE):
    build.set_seed(3)
    model, _ = build.build(recipe, (6, 6, 1))
    build.compile_model(model, recipe)
    plan = Plan(epochs=EPOCHS, batch_size=16, seed=3)
    ENGINES[engine](model, *SPLITS, plan, callbacks)
    return model


def state(model) -> dict:
    """Everything that a callback can read of a model, as plain values and arrays."""
    optimizer = model.optimizer
    return {
        "weights": model.get_weights(),
        "others": [
            keras.ops.convert_to_numpy(v).copy() for v in model.non_trainable_variables
        ],
        # The guard's counts are this package's own.
        "optimizer": [
            keras.ops.convert_to_numpy(v).copy()
            for v in optimizer.variables
            if v.name != "guard"
        ],
        "iterations": int(optimizer.iterations),
        "learning_rate": float(optimizer.learning_rate),
        "stop_training": model.stop_training,
        "metrics": [metric.name for metric in model.metrics],
        "inner": [m.name for m in getattr(model.metrics[1], "metrics", [])],
        "results": {k: float(v) for k, v in model.get_metrics_result().items()},
        "history": {k: list(v) for k, v in model.history.history.items()},
        "epochs": list(getattr(model.history, "epoch", [])),
    }


HOOKS = ("train_begin", "epoch_begin", "test_begin", "test_end")
HOOKS += ("epoch_end", "train_end")


def with_hooks(each, hooks=HOOKS) -> keras.callbacks.Callback:
    """Make a callback that calls `each(callback, hook, numbers, logs)` in some hooks.

    Its class has no other, so that no engine takes it for one that wants batches.
    """

    def hook(name):
        def call(self, *numbers, logs=None):
            if numbers and not isinstance(numbers[-1], int):
                *numbers, logs = numbers
            each(self, name, list(numbers), logs)

        return call

    return type(
        "Made", (keras.callbacks.Callback,), {f"on_{h}": hook(h) for h in hooks}
    )()


def recorder(seen):
    def note(self, name, numbers, logs):
        seen.append(
            {
                "hook": name,
                "numbers": numbers,
                "logs": logs,
                "order": list(logs or {}),
                "params": dict(self.params),
                **state(self.model),
            }
        )

    return with_hooks(note)


def assert_same(one, other, where=""):
    """Compare nested values: floats as float32 sums of some dozen numbers round."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            assert_same(one[name], other[name], f"{where}/{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}/{i}")
    elif isinstance(one, float | np.ndarray):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5, err_msg=where)
    else:
        assert one == other, where


def assert_alike(made, recipe=RECIPE, engines=("fit", "epoch"), compare=vars):
    """Train with callbacks of one kind under stock Keras and the engines.

    Args:
        made: Makes the callbacks.
        recipe: What to train.
        engines: The engines to compare.
        compare: What of the callbacks must be the same.
    """
    seen, ends, callbacks = {}, {}, {}
    for engine in ("keras", *engines):
        seen[engine] = []
        callbacks[engine] = made()
        both = [*callbacks[engine], recorder(seen[engine])]
        ends[engine] = state(trained(engine, both, recipe))
    assert {one["hook"] for one in seen["keras"]} == {*HOOKS}
    for engine in engines:
        assert_same(seen["keras"], seen[engine], engine)
        assert_same(ends["keras"], ends[engine], engine)
        for one, other in zip(callbacks["keras"], callbacks[engine], strict=True):
            assert_same(comparable(one), comparable(other), type(one).__name__)


def comparable(callback) -> dict:
    kinds = int | float | str | bool | np.ndarray | list | dict | None
    return {k: v for k, v in vars(callback).items() if isinstance(v, kinds)}


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.few("True")
def test_a_callback_reads_in_every_hook_what_keras_shows_it(monkeypatch, cut):
    if cut:  # each batch among two devices
        monkeypatch.setattr(placement, "WORTH", 0)
    assert_alike(list)


def _weights(model, name):
    for variable in model.trainable_variables:
        variable.assign(0.9 * variable + 0.01)


def _statistics(model, name):
    for variable in model.non_trainable_variables:
        if variable.dtype == "float32":
            variable.assign(variable + 0.1)


def _set_weights(model, name):
    model.set_weights([0.5 * weight for weight in model.get_weights()])


def _slots(model, name):
    for variable in model.optimizer.variables:
        if variable.path.endswith("_velocity"):
            variable.assign(variable + 0.5)


def _rate(model, name):
    model.optimizer.learning_rate = 0.5 * float(model.optimizer.learning_rate)


def _schedule_set(model, name):
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    model.optimizer.learning_rate = decay


def _stop(model, name):
    model.stop_training = True


def _stop_evaluating(model, name):
    model.stop_evaluating = True


def _metrics(model, name):
    model.reset_metrics()


def _evaluate(model, name):
    model.evaluate(SPLITS[0].images, SPLITS[0].labels, batch_size=8, verbose=0)


def _fit(model, name):
    model.fit(SPLITS[0].images, SPLITS[0].labels, batch_size=8, epochs=2, verbose=0)


def _iterations(model, name):
    model.optimizer.iterations.assign_add(2)


def _everything(model, name):
    for write in (_weights, _statistics, _slots, _rate, _iterations, _metrics):
        write(model, name)


@pytest.mark.parametrize(
    ("write", "hook"),
    [
        *((_everything, hook) for hook in HOOKS),
        *((_stop, hook) for hook in ("train_begin", "epoch_begin", "test_end")),
        *((_stop_evaluating, hook) for hook in ("test_begin", "epoch_begin")),
        *((_evaluate, hook) for hook in ("epoch_begin", "test_begin", "epoch_end")),
        *((_fit, hook) for hook in ("epoch_end", "train_end")),
        pytest.param(_fit, "train_begin", marks=pytest.mark.slow),
        (_set_weights, "test_begin"),
        (_schedule_set, "epoch_end"),
        pytest.param(_schedule_set, "epoch_begin", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.few(
    "True-_everything-test_begin",
    "False-_stop-epoch_begin",
    "False-_stop_evaluating-test_begin",
)
def test_what_a_callback_writes_in_a_hook_counts_as_in_keras(
    monkeypatch, cut, write, hook
):
    if cut:  # each batch among two devices
        monkeypatch.setattr(placement, "WORTH", 0)

    def each(self, name, numbers, logs):
        if numbers != [0]:  # in later epochs, where the hook has a number
            write(self.model, name)

    # Where weights are averages of their own, what trains in a callback ends stock
    # Keras with an error: finalised weights and averages share their memory.
    recipe = PLAIN if write is _fit else RECIPE
    assert_alike(lambda: [with_hooks(each, [hook])], recipe)


class Steps(keras.callbacks.Callback):
    """Trains on a batch in one hook, and keeps what Keras returns."""

    def __init__(self, hook):
        super().__init__()
        self.returned = []
        setattr(self, f"on_{hook}", self.step)

    def step(self, *numbers, logs=None):
        batch = SPLITS[1].images[:8], SPLITS[1].labels[:8]
        for as_dict in (True, False):
            found = self.model.train_on_batch(*batch, return_dict=as_dict)
            self.returned.append(found if as_dict else [float(x) for x in found])


@pytest.mark.parametrize("hook", [*HOOKS, "train_batch_begin", "train_batch_end"])
@pytest.mark.few("train_batch_end")
def test_a_batch_that_a_callback_trains_on_returns_what_keras_does(hook):
    engines = ("fit",) if "batch" in hook else ("fit", "epoch")
    assert_alike(lambda: [Steps(hook)], PLAIN, engines=engines)


def test_logs_that_a_callback_changes_reach_the_next_one():
    def each(self, name, numbers, logs):
        logs["mine"] = 7.0

    assert_alike(lambda: [with_hooks(each, ["epoch_end", "test_end"])])


def _schedule(epoch, rate):
    return rate * 0.5


def _keras_callbacks(folder):
    """Make one of each callback of Keras's that needs no other package or server."""
    keras_callbacks = keras.callbacks
    return {
        "Callback": keras_callbacks.Callback,
        "History": keras_callbacks.History,
        "CSVLogger": lambda: keras_callbacks.CSVLogger(folder / "log.csv"),
        "EarlyStopping": lambda: keras_callbacks.EarlyStopping(
            "val_accuracy", restore_best_weights=True
        ),
        "EarlyStopping on training": lambda: keras_callbacks.EarlyStopping("accuracy"),
        "LearningRateScheduler": lambda: keras_callbacks.LearningRateScheduler(
            _schedule
        ),
        "ReduceLROnPlateau": lambda: keras_callbacks.ReduceLROnPlateau(
            "val_crossentropy", min_delta=0.5, patience=1, mode="min"
        ),
        "SwapEMAWeights": keras_callbacks.SwapEMAWeights,
        "SwapEMAWeights on epochs": lambda: keras_callbacks.SwapEMAWeights(True),
        "LambdaCallback": lambda: keras_callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: None
        ),
        "TerminateOnNaN": keras_callbacks.TerminateOnNaN,
        "ModelCheckpoint": lambda: keras_callbacks.ModelCheckpoint(
            folder / "best.keras", monitor="val_accuracy", save_best_only=True
        ),
        "BackupAndRestore": lambda: keras_callbacks.BackupAndRestore(folder / "backup"),
    }


@pytest.mark.few(
    "History",
    "CSVLogger",
    "EarlyStopping",
    "LearningRateScheduler",
    "ReduceLROnPlateau",
    "SwapEMAWeights",
    "TerminateOnNaN",
)
@pytest.mark.parametrize("name", _keras_callbacks(Path()))
def test_each_of_keras_own_callbacks_does_what_it_does_in_keras(name, tmp_path):
    """Where it wants batches, no engine but `fit` is chosen."""
    made = _keras_callbacks(tmp_path)[name]
    recipe = dataclasses.replace(RECIPE, callbacks=lambda: [made()])
    chosen = choice.choose_engine("auto", recipe, *SPLITS)
    if chosen is fit:
        with pytest.raises(UsageError, match=type(made()).__name__):
            choice.choose_engine("epoch", recipe, *SPLITS)
    assert_alike(lambda: [made()], engines=[chosen.__name__.rpartition(".")[2]])


AVERAGED = dataclasses.replace(
    recipes.load("fashion_mlp"), optimizer=lambda: keras.optimizers.Adam(use_ema=True)
)
RESTORED = dataclasses.replace(
    recipes.load("fashion_mlp"),
    optimizer=lambda: keras.optimizers.Adam(0.05),
    callbacks=lambda: [
        keras.callbacks.EarlyStopping(
            "val_loss", patience=1, baseline=0.0, restore_best_weights=True
        )
    ],
)


@pytest.mark.parametrize("engine", ["epoch", "fit"])
@pytest.mark.parametrize("mine", [AVERAGED, RESTORED])
@pytest.mark.few("mine0-epoch")
def test_the_result_is_the_saved_models(mine, engine, tmp_path, capsys):
    overrides = options.Overrides(
        data="sample", epochs=3, limit=512, batch_size=64, engine=engine
    )
    overrides = dataclasses.replace(overrides, out=tmp_path / "run")
    run = api.completed(mine, overrides)
    model = keras.saving.load_model(run.folder / "model.keras")
    test = data.load("fashion_mnist", "sample").test
    logits = keras.ops.convert_to_numpy(model(test.images[:512]))
    accuracy = (logits.argmax(-1) == test.labels[:512]).mean()
    assert run.result["test_accuracy"] == pytest.approx(accuracy)
    printed = capsys.readouterr().out
    others = run.result["of_the_last_epochs_weights"]
    assert ("train_accuracy" in others) == run.result["evaluated_again"]
    assert ("curve.png are still the last epoch's" in printed) == bool(others)
    assert ("evaluated once more" in printed) == run.result["evaluated_again"]
    assert ("EarlyStopping by val_loss" in printed) == (mine is RESTORED)
    assert run.result["evaluated_again"] or mine is RESTORED
