"""A callback's whole state comes back, or the callback is named."""

import collections
import dataclasses
import functools
import io
import itertools
import json
import random
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from kerascnn import UsageError, optim, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.training import callback_state, checkpoint
from kerascnn.training import options as run_options
from kerascnn.training import run as training_run
from kerascnn.training.autosave import Autosave

ENGINES = ["epoch", "fit"] if keras.backend.backend() == "jax" else ["fit"]


def network():
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(4, 3, strides=4, activation="relu")(image)
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))


RECIPE = Recipe(
    name="small",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [transforms.pm1()],
    optimizer=lambda: optim.adam(1e-2),
    batch_size=64,
    epochs=3,
    parameters=0,
    course=Course(source="nowhere"),
)
SEEN = []


class Stop(BaseException):
    pass


def train_until(place, case, options):
    """End as by a kill, before anything is saved at a place."""
    after_step, on_epoch_begin = Autosave.after_step, Autosave.on_epoch_begin

    def step(session, step, measured):
        if (session.epoch, step) == place:
            raise Stop
        after_step(session, step, measured)

    def begin(session, epoch, logs=None):
        if (epoch, 0) == place:
            raise Stop
        on_epoch_begin(session, epoch, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Autosave, "after_step", step)
        patch.setattr(Autosave, "on_epoch_begin", begin)
        with pytest.raises(Stop):
            training_run.train(case, options)


def options(out, engine="auto"):
    return run_options.Overrides(
        data="sample", limit=150, out=out, checkpoint_minutes=0, engine=engine
    )


def bits(run):
    end = checkpoint.newest(run.folder)
    metrics = [
        {k: v for k, v in m.items() if k not in ("seconds", "images_per_second")}
        for m in run.metrics
    ]
    for state in end.manifest["callbacks"]:
        state["attributes"].pop("append_header", None)  # whether the file was empty
    states = json.dumps(end.manifest["callbacks"])
    for folder in ("a", "b"):  # in which callbacks write
        states = states.replace(f"{run.folder.parent / folder}/", "")
    return run.result["weights_sha256"], metrics, states


def falling(start=1e-3):
    """A schedule that keeps its rate in its closure, and halves it at each call."""
    rate = start

    def schedule(epoch, before):
        nonlocal rate
        rate /= 2
        return rate

    return schedule


def remembering():
    losses = []

    def end(epoch, logs):
        losses.append(logs["loss"])
        SEEN.append(len(losses))

    def begin(epoch, logs):
        callback.model.optimizer.learning_rate = 1e-3 * (1 + len(losses) + sum(SEEN))

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)
    return callback


def choosers(folder):
    return monitors(folder)[:2]


def monitors(folder):
    return [
        keras.callbacks.EarlyStopping(
            "val_loss", min_delta=0.4, patience=2, restore_best_weights=True
        ),
        keras.callbacks.ReduceLROnPlateau("loss", min_delta=0.5, patience=1),
        keras.callbacks.ModelCheckpoint(
            folder / "best.weights.h5",
            "val_loss",
            save_best_only=True,
            save_weights_only=True,
        ),
        keras.callbacks.History(),
        keras.callbacks.CSVLogger(folder / "log.csv"),
        keras.callbacks.CSVLogger(folder / "more.csv", append=True),
    ]


def rates(folder):
    return [keras.callbacks.LearningRateScheduler(falling()), remembering()]


def stopping(folder):
    return [keras.callbacks.EarlyStopping("val_loss", min_delta=0.4, patience=1)]


def average(folder):
    return [keras.callbacks.SwapEMAWeights()]


def averages(folder):
    return [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]


def guards(folder):
    return [keras.callbacks.TerminateOnNaN()]


CASES = [(make, engine) for engine in ENGINES for make in (stopping, choosers, rates)]
CASES += [(monitors, "fit")]  # ModelCheckpoint has a hook for batches
CASES += [(make, engine) for engine in ENGINES for make in (average, averages)]
CASES += [(guards, "fit")]  # which wants each batch's logs


@pytest.mark.parametrize(
    "place",
    [
        pytest.param((1, 0), id="between", marks=pytest.mark.slow),
        pytest.param((1, 2), id="inside"),
    ],
)
@pytest.mark.parametrize(
    ("make", "engine"), CASES, ids=lambda x: getattr(x, "__name__", x)
)
@pytest.mark.few("stopping-epoch-inside")
def test_kerass_callbacks_go_on_to_the_bit(tmp_path, make, engine, place):
    def case(folder):
        folder.mkdir(exist_ok=True)
        is_average = make in (average, averages)
        return dataclasses.replace(
            RECIPE,
            callbacks=lambda: make(folder),
            optimizer=lambda: keras.optimizers.Adam(1e-2, use_ema=is_average),
        )

    SEEN.clear()
    whole = training_run.train(
        case(tmp_path / "a"), options(tmp_path / "whole", engine)
    )
    out, there = tmp_path / "stopped", tmp_path / "b"
    SEEN.clear()
    train_until(place, case(there), options(out, engine))
    SEEN.clear()  # as a new process has it
    run = training_run.train(case(there), run_options.Overrides(resume=out))
    assert bits(run) == bits(whole)
    for file in (tmp_path / "a").glob("*.csv"):
        assert (there / file.name).read_text() == file.read_text()
    if make is stopping:
        assert len(whole.metrics) == 2  # or nothing is shown


class Own:
    def go(self):
        pass


class Rich(keras.callbacks.Callback):
    """Holds each kind of state that comes back."""

    seen = []  # noqa: RUF012 - of the class, as people write

    def __init__(self):
        super().__init__()
        self.names = ["a"]
        self.by_epoch = {0: 0.5}
        self.place = Path("here")
        self.nested = {"losses": [[], ()]}
        self.same = self.nested["losses"]
        self.better = None
        self.also_better = None
        self.weights = None
        self.total = np.zeros(2)
        self.same_total = self.total
        self.largest = np.float32(0)

    def get_config(self):
        return {}

    def go(self, number):
        """Change everything."""
        self.names.append(f"b{number}")
        self.by_epoch[number] = float("inf")
        self.nested["losses"][0].append(number / 3)
        self.nested["losses"][1] += (number,)
        self.seen.append(number)
        self.better = self.also_better = keras.ops.less
        self.weights = [np.full((2, 2), number), np.ones(1, "int8")]
        self.total += number
        self.largest = np.float32(number)

    def all(self):
        assert self.same is self.nested["losses"]
        assert self.same_total is self.total
        assert type(self.largest) is np.float32
        return json.dumps(
            [
                *(self.names, self.seen, self.nested, [*self.by_epoch.items()]),
                [weight.tolist() for weight in self.weights],
                [str(weight.dtype) for weight in self.weights],
                *(self.total.tolist(), float(self.largest), str(self.place)),
                *(self.better is keras.ops.less, self.also_better is keras.ops.less),
            ]
        )


def test_every_kind_of_state_comes_back_in_its_place():
    one = Rich()
    begun = callback_state.begin([one])
    one.go(5)
    one.go(9)
    states, arrays = callback_state.capture([one], begun)
    states = json.loads(json.dumps(states))  # nothing but JSON
    assert not callback_state.left_out(states)
    expected = one.all()
    Rich.seen.clear()
    other = Rich()
    callback_state.restore([other], states, arrays)
    assert other.all() == expected
    Rich.seen.clear()


@pytest.mark.parametrize(
    "value",
    [
        *({1}, collections.deque([1]), Own(), itertools.count(), (i for i in "ab")),
        *(random.Random(3), np.random.default_rng(4), functools.partial(max, 3)),
        *(keras.metrics.Mean(), keras.Variable([1.0]), [{"a": [object()]}]),
        *({"f": io.StringIO()}, keras.layers.Dense(3), Own().go),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_change_in_ways_that_no_checkpoint_holds_is_named(value):
    """Also where the recipe makes it again: it may have changed since."""

    class Mine(keras.callbacks.Callback):
        state = None

    callback = Mine()
    callback.state = value
    begun = callback_state.begin([callback])
    states, _ = callback_state.capture([callback], begun)
    found = callback_state.left_out(states)
    assert len(found) == 1
    assert "the callback Mine" in found[0]
    assert "state: " in found[0]


def make_generator(callback):
    callback.state = (i for i in range(9))


def make_iterator(callback):
    callback.state = itertools.count()


def make_function(callback):
    callback.state = lambda: 3


def make_object(callback):
    callback.state = Own()


def make_path(callback):
    callback.state = Path("elsewhere")


def make_nested(callback):
    callback.state = [{"a": [object()]}]


@pytest.mark.parametrize(
    "make",
    [make_generator, make_iterator, make_function, make_object, make_path, make_nested],
)
def test_state_that_cannot_be_proved_whole_is_named(make):
    class Mine(keras.callbacks.Callback):
        state = None

    callback = Mine()
    begun = callback_state.begin([callback])
    make(callback)
    states, _ = callback_state.capture([callback], begun)
    (phrase,) = callback_state.left_out(states)
    assert "the callback Mine" in phrase
    assert "state: " in phrase


def keeping():
    numbers = itertools.count()
    return keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: next(numbers))


@pytest.mark.parametrize(
    "callback",
    [keeping, lambda: keras.callbacks.BackupAndRestore("backup")],
    ids=["iterator", "backup"],
)
@pytest.mark.few("backup")
def test_a_resume_with_such_a_callback_needs_force(tmp_path, monkeypatch, callback):
    monkeypatch.chdir(tmp_path)
    case = dataclasses.replace(RECIPE, callbacks=lambda: [callback()])
    out = tmp_path / "run"
    train_until((1, 0), case, options(out))
    with pytest.raises(UsageError, match=r"the callback \w+ keeps what no checkpoint"):
        training_run.train(case, run_options.Overrides(resume=out))
    run = training_run.train(case, run_options.Overrides(resume=out, force=True))
    assert run.finished


def test_a_checkpoint_names_no_function_that_does_more_than_compute():
    class Mine(keras.callbacks.Callback):
        pass

    for word in ("os:system", "numpy:load", "eval", "Operation", "__loader__"):
        state = {"class": "Mine", "attributes": {"better": {"operation": word}}}
        state |= {"hidden": {}, "left_out": {}}
        with pytest.raises(UsageError, match="is no operation"):
            callback_state.restore([Mine()], [state], {})
