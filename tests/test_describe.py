"""What a recipe's description takes, and what it refuses in one line that helps."""

import dataclasses
import functools
import itertools

import keras
import pytest

from kerascnn import UsageError, describe, optim, recipe

Scheduler = keras.callbacks.LearningRateScheduler


def of(*callbacks):
    mine = dataclasses.replace(
        recipe.load("fashion_mlp"), callbacks=lambda: [*callbacks]
    )
    return describe.describe(mine)["callbacks"]


@pytest.mark.parametrize(
    ("schedule", "way"),
    [
        (optim.ExponentialDecay(0.9), "ExponentialDecay is a callback itself: put it"),
        (keras.callbacks.History(), "History is a callback itself: put it in"),
        (
            keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5),
            "ExponentialDecay is a schedule of steps: give it to the optimiser",
        ),
        (
            keras.optimizers.schedules.CosineDecay(0.1, 2),
            "CosineDecay is a schedule of steps: give it to the optimiser",
        ),
        (0.1, "float is none"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_function_of_the_epoch_is_told_where_it_belongs(schedule, way):
    with pytest.raises(UsageError, match=way):
        of(Scheduler(schedule))


class Halving:
    def __init__(self, start):
        self.start = start

    def __call__(self, epoch):
        return self.start / 2**epoch


def falling(epoch, start):
    return start / 2**epoch


@pytest.mark.parametrize(
    "make", [Halving, lambda start: functools.partial(falling, start=start)]
)
def test_an_object_that_is_called_is_described_by_its_code_and_its_values(make):
    one, same, other = (of(Scheduler(make(start))) for start in (0.1, 0.1, 0.2))
    assert one == same != other
    assert "start / 2**epoch" in str(one)


def test_the_advice_for_what_cannot_be_described_fits_keras_own_classes():
    odd = keras.callbacks.LambdaCallback(thing=itertools.count())
    with pytest.raises(UsageError, match="give a class of Keras's a function instead"):
        of(odd)
