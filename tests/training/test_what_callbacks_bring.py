"""A run takes what callbacks put in the logs, and names the packages that they lack."""

import dataclasses
import json
import sys

import keras
import numpy as np
import pytest

from kerascnn import UsageError, api, recipe
from kerascnn.process.backend import spare_tensorflow
from kerascnn.training import options as run_options

spare_tensorflow()  # before a test hides it

ENGINES = ["epoch", "fit"] if keras.backend.backend() == "jax" else ["fit"]


def trained(tmp_path, callback, engine="fit", **more):
    case = dataclasses.replace(
        recipe.load("fashion_mlp"), callbacks=lambda: [callback()]
    )
    options = run_options.Overrides(
        data="sample",
        limit=64,
        batch_size=32,
        epochs=2,
        engine=engine,
        out=tmp_path / "run",
        **more,
    )
    return api.completed(case, options)


class Puts(keras.callbacks.Callback):
    """Puts values in an epoch's logs, and takes others out."""

    def __init__(self, values, without=()):
        super().__init__()
        self.values, self.without = values, without

    def get_config(self):
        return {}

    def on_epoch_end(self, epoch, logs=None):
        for name in self.without:
            del logs[name]
        logs.update(self.values)


class Unkind:
    def __float__(self):
        raise ZeroDivisionError

    def __array__(self, *words, **more):
        raise ZeroDivisionError

    def __repr__(self):
        return "unkind,\nand long" + "!" * 1000


VALUES = {
    "text": ("best so far", "best so far"),
    "number": (np.float16(0.5), 0.5),
    "tensor": (keras.ops.ones((2,)), [1.0, 1.0]),
    "matrix": (np.array([[1, 2], [3, np.inf]]), [[1.0, 2.0], [3.0, None]]),
    "one": (np.ones((1, 1)), [[1.0]]),
    "list": ([1, 2], [1.0, 2.0]),
    "nothing": (None, None),
    "yes": (True, 1.0),
    "complex": (1 + 2j, "(1+2j)"),
    "ragged": ([[1], [2, 3]], "[[1], [2, 3]]"),
    "val_mine": ("a", "a"),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_records_whatever_a_callback_puts_in_the_logs(tmp_path, engine):
    given = {name: value for name, (value, _) in VALUES.items()}
    given |= {"large": np.zeros((50, 50)), "unkind": Unkind()}
    run = trained(tmp_path, lambda: Puts(given), engine)
    assert run.finished
    for record in run.metrics:
        for name, (_, expected) in VALUES.items():
            # Keras flattens the logs of one number itself.
            found = record[name.replace("val_", "test_")]
            assert found == expected or [[found]] == expected, name
        assert record["large"].startswith("array([[0.")
        assert record["unkind"].startswith("unkind, and long!")
        assert len(json.dumps(record)) < 2000
        assert 0 < record["accuracy"] < 1


@pytest.mark.few(
    "values0-without0-None-epoch",
    "values0-without0-0.25-fit",
    "values1-without1-None-fit",
    "values1-without1-0.25-epoch",
)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("validation", [None, 0.25])
@pytest.mark.parametrize(
    ("values", "without"),
    [
        ({}, ["accuracy", "loss", "val_accuracy", "val_crossentropy", "val_loss"]),
        ({"accuracy": "high", "val_accuracy": [0.5], "val_loss": "low"}, []),
    ],
)
def test_a_run_ends_without_its_own_numbers(
    tmp_path, capsys, engine, validation, values, without
):
    run = trained(
        tmp_path, lambda: Puts(values, without), engine, validation=validation
    )
    assert run.finished
    kind = "validation" if validation else "test"
    assert run.result[f"{kind}_accuracy"] is None
    assert (run.folder / "curve.png").exists()
    assert run.metrics[0]["crossentropy"] > 0
    assert "accuracy   nan%" in capsys.readouterr().out


class Imports(keras.callbacks.Callback):
    """Imports in one of its methods what is not installed."""

    def __init__(self, place):
        super().__init__()
        self.place = place
        self.look("__init__")

    def look(self, here):
        if here == self.place:
            import no_such_package  # noqa: F401

    def get_config(self):
        return {}

    def set_model(self, model):
        super().set_model(model)
        self.look("set_model")

    def on_epoch_begin(self, epoch, logs=None):
        self.look("on_epoch_begin")


@pytest.mark.parametrize("place", ["__init__", "set_model", "on_epoch_begin"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_package_that_a_callback_lacks_is_named(tmp_path, engine, place):
    with pytest.raises(UsageError, match="No module named 'no_such_package'"):
        trained(tmp_path, lambda: Imports(place), engine)


def test_tensorboard_without_tensorflow_is_a_line(tmp_path, monkeypatch):
    from keras.src.utils import module_utils

    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr(module_utils.tensorflow, "module", None)
    monkeypatch.setattr(module_utils.tensorflow, "_available", None)
    with pytest.raises(UsageError, match=r"fashion_mlp.*tensorflow.*install that"):
        trained(tmp_path, lambda: keras.callbacks.TensorBoard(str(tmp_path / "logs")))
