"""A run that was stopped inside an epoch or between two goes on to the bit."""

import dataclasses
import os
import signal
import time

import keras
import numpy as np
import pytest
from keras import layers

from kerascnn import UsageError, optim, transforms
from kerascnn.process.signals import Interrupted
from kerascnn.recipe import Course, Recipe
from kerascnn.runs import Run
from kerascnn.training import callback_state, checkpoint, resume
from kerascnn.training import options as run_options
from kerascnn.training import run as training_run
from kerascnn.training.autosave import Autosave

JAX = keras.backend.backend() == "jax"
ENGINES = ["epoch", "fit"] if JAX else ["fit"]


def network() -> keras.Model:
    """Everything that carries state or draws numbers: BatchNorm, Dropout, L2."""
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(
        4, 3, strides=4, activation="relu", kernel_regularizer=optim.weight_decay(5e-4)
    )(image)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(0.3)(x)
    return keras.Model(image, layers.Dense(10)(x))


class Halve(keras.callbacks.Callback):
    """Decays from the present rate: an epoch begun twice would halve it twice."""

    def get_config(self):
        return {}

    def on_epoch_begin(self, epoch, logs=None):
        if epoch:
            optimizer = self.model.optimizer
            optimizer.learning_rate = float(optimizer.learning_rate) / 2


RECIPE = Recipe(
    name="small",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [
        transforms.RandomCrop(padding=2),
        layers.RandomFlip("horizontal"),
        transforms.pm1(),
    ],
    optimizer=lambda: optim.adam(1e-2),
    batch_size=64,
    epochs=2,
    parameters=0,
    callbacks=lambda: [
        Halve(),
        keras.callbacks.EarlyStopping("loss", patience=10, restore_best_weights=True),
    ],
    course=Course(source="nowhere"),
)


def optax_adamw() -> keras.Optimizer:
    import optax

    return optim.Optax(optax.inject_hyperparams(optax.adamw)(learning_rate=1e-2))


OPTAX = dataclasses.replace(RECIPE, optimizer=optax_adamw)
CASES = [(RECIPE, engine) for engine in ENGINES]
CASES += [(OPTAX, engine) for engine in ENGINES if JAX]
NAMES = [f"{case.optimizer.__name__}-{engine}" for case, engine in CASES]


class Stop(BaseException):
    pass


@pytest.fixture
def stop_at(monkeypatch):
    """Have runs end as by a kill, before what a step or an epoch would save."""
    after_step, on_epoch_begin = Autosave.after_step, Autosave.on_epoch_begin
    at = []

    def step(session, step, measured):
        if (session.epoch, step) in at:
            raise Stop
        after_step(session, step, measured)

    def begin(session, epoch, logs=None):
        if (epoch, 0) in at:
            raise Stop
        on_epoch_begin(session, epoch, logs)

    monkeypatch.setattr(Autosave, "after_step", step)
    monkeypatch.setattr(Autosave, "on_epoch_begin", begin)
    return at


def options(out=None, **more):
    return run_options.Overrides(
        data="sample", limit=300, out=out, checkpoint_minutes=0, **more
    )


def final(run: Run):
    """Everything that a run ends with, but for how long it took."""
    saved = checkpoint.newest(run.folder)
    metrics = [
        {k: v for k, v in m.items() if k not in ("seconds", "images_per_second")}
        for m in run.metrics
    ]
    return saved.arrays, metrics, run.result["weights_sha256"]


def assert_equal(one, other):
    (arrays, *rest), (others, *other_rest) = one, other
    assert rest == other_rest
    assert len(arrays) == len(others) > 15
    # Keras numbers its layers on, so the names differ between two models.
    for key, other_key in zip(sorted(arrays), sorted(others), strict=True):
        np.testing.assert_array_equal(arrays[key], others[other_key], err_msg=key)


class Killer(keras.callbacks.Callback):
    """Asks the process to stop when an evaluation begins, once."""

    armed = False

    def get_config(self):
        return {}

    def on_test_begin(self, logs=None):
        if Killer.armed:
            Killer.armed = False
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.slow
def test_a_stop_in_an_evaluation_is_heard_at_once(tmp_path, monkeypatch, engine):
    case = dataclasses.replace(
        RECIPE, callbacks=lambda: [*RECIPE.callbacks(), Killer()]
    )
    limited = run_options.Overrides(
        data="sample", limit=300, checkpoint_minutes=10, engine=engine
    )
    whole = training_run.train(
        case, dataclasses.replace(limited, out=tmp_path / "whole")
    )
    monkeypatch.setattr(Killer, "armed", True)
    folder = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        training_run.train(case, dataclasses.replace(limited, out=folder))
    saved = checkpoint.newest(folder)
    assert (saved.epoch, saved.step) == (0, 5)  # the epoch's record is not there yet
    assert not Run(folder).metrics
    run = training_run.train(case, run_options.Overrides(resume=folder))
    assert_equal(final(run), final(whole))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_checkpoint_written_beside_the_training_is_of_one_step(
    tmp_path, stop_at, monkeypatch, engine
):
    """The thread fetches late, when steps have overwritten what they were given."""
    start = checkpoint.Writer.start

    def late(writer, arrays, manifest):
        def fetched():
            time.sleep(0.1)
            return arrays()

        start(writer, fetched, manifest)

    monkeypatch.setattr(checkpoint.Writer, "start", late)
    limited = run_options.Overrides(
        data="sample", limit=300, checkpoint_minutes=1e-6, engine=engine
    )
    whole = training_run.train(
        RECIPE, dataclasses.replace(limited, out=tmp_path / "whole")
    )
    folder = tmp_path / "stopped"
    stop_at[:] = [(1, 3)]
    with pytest.raises(Stop):
        training_run.train(RECIPE, dataclasses.replace(limited, out=folder))
    stop_at.clear()
    saved = checkpoint.newest(folder)
    assert (saved.epoch, saved.step) in [(1, 1), (1, 2)]
    run = training_run.train(RECIPE, run_options.Overrides(resume=folder))
    assert_equal(final(run), final(whole))


@pytest.mark.parametrize(("case", "engine"), CASES, ids=NAMES)
@pytest.mark.few("optax_adamw-epoch")
def test_a_run_goes_on_to_the_bit(tmp_path, stop_at, case, engine):
    """Stopped between two epochs, and inside one."""
    whole = training_run.train(case, options(tmp_path / "whole", engine=engine))
    folder = tmp_path / "stopped"
    for i, place in enumerate([(1, 0), (1, 3)]):
        stop_at[:] = [place]
        with pytest.raises(Stop):
            training_run.train(
                case,
                options(resume=folder) if i else options(folder, engine=engine),
            )
    stop_at.clear()
    run = training_run.train(case, options(resume=folder))
    assert_equal(final(whole), final(run))
    rates = [m["learning_rate"] for m in run.metrics]
    assert rates == pytest.approx([1e-2, 5e-3])
    with pytest.raises(UsageError, match="has finished"):
        training_run.train(case, options(resume=folder))


def test_arrays_of_the_backend_are_part_of_a_callbacks_state():
    class Average(keras.callbacks.Callback):
        def __init__(self, value):
            super().__init__()
            self.values = [keras.ops.convert_to_tensor(value)]

    states, arrays = callback_state.capture([Average([1.5, -2.0])])
    other = Average([0.0, 0.0])
    callback_state.restore([other], states, arrays)
    np.testing.assert_array_equal(other.values, [[1.5, -2.0]])


def test_the_data_are_looked_for_where_they_were(tmp_path):
    """Also where TFDS_DATA_DIR said so at the time, and says nothing now."""
    source = tmp_path / "sets" / "cifar10" / "3.0.2"
    source.mkdir(parents=True)
    run = Run.create("cifar_mlp", tmp_path / "run")
    run.write_config(
        {
            "options": resume.record(run_options.Overrides()),
            "data": {"sample": False, "source": str(source), "name": "cifar10"},
            "environment": {"backend": "jax"},
        }
    )
    options = resume.options(run, run_options.Overrides())
    assert options.data_dir == tmp_path / "sets"
