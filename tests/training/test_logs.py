"""A run's epochs as a table, as TensorBoard's events, and for services of others."""

import csv
import importlib.util
import re
import sys
import types
import typing
from pathlib import Path

import keras
import numpy as np
import pytest

import kerascnn
from kerascnn import UsageError, describe
from kerascnn.runs import Run
from kerascnn.training import logs, options

README = Path(__file__).parents[2] / "README.md"
EPOCHS = [
    {"epoch": 1, "loss": 2.5, "accuracy": 0.25, "test_loss": 2.0, "seconds": 1.5},
    {"epoch": 2, "loss": 1.5, "accuracy": None, "test_loss": 1.0, "seconds": 1.25},
    {"epoch": 3, "loss": 1.0, "accuracy": 0.5, "test_loss": 1.5, "seconds": 1.25},
]


@pytest.fixture
def run(tmp_path):
    run = Run.create("small", tmp_path / "run")
    run.write_config({})
    return run


def train(run, epochs, names):
    """Add epochs to a run, as its training does."""
    (log,) = logs.callbacks(names, run)
    for record in epochs:
        run.add_metrics(record)
        log.on_epoch_end(record["epoch"] - 1)
    log.on_train_end()


def test_the_table_has_a_row_an_epoch_also_of_a_run_that_goes_on(run):
    train(run, EPOCHS[:2], "csv")
    run.replace_metrics(EPOCHS[:1])  # as a run that goes on from a checkpoint
    train(run, EPOCHS[1:], "csv")
    with (run.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for row, record in zip(rows, EPOCHS, strict=True):
        for name, value in record.items():
            assert row[name] == ("" if value is None else str(value))


class Writer:
    """What tensorboardX's writer is told."""

    made: typing.ClassVar = []

    def __init__(self, folder, purge_step=None):
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.folder, self.purge_step = Path(folder).name, purge_step
        self.told, self.closed = [], False
        Writer.made.append(self)

    def add_scalar(self, *told):
        self.told.append(told)

    def flush(self):
        pass

    def close(self):
        self.closed = True


def test_events_are_named_as_keras_names_them(run, monkeypatch):
    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    monkeypatch.setattr(Writer, "made", [])
    train(run, EPOCHS[:2], "tensorboard")
    training, validation = Writer.made
    assert (training.folder, validation.folder) == ("train", "validation")
    assert validation.told == [("epoch_loss", 2.0, 0), ("epoch_loss", 1.0, 1)]
    assert ("epoch_loss", 1.5, 1) in training.told
    assert ("epoch_accuracy", 0.25, 0) in training.told
    assert len(training.told) == 5  # nothing where there was no number
    assert training.closed
    assert validation.closed
    assert training.purge_step is None
    train(run, EPOCHS[2:], "tensorboard")
    assert [each.purge_step for each in Writer.made[2:]] == [2, 2]


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboardX") is None, reason="no tensorboardX"
)
def test_tensorboardx_writes_what_can_be_read(run):
    train(run, EPOCHS, "tensorboard")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c  # noqa: F401 - it is there

    (file,) = (run.folder / "tensorboard" / "validation").iterdir()
    content, found = file.read_bytes(), []
    while content:  # length, its checksum, the event, its checksum
        size = int(np.frombuffer(content[:8], "<u8")[0])
        event = Event.FromString(content[12 : 12 + size])
        found += [(v.tag, v.simple_value, event.step) for v in event.summary.value]
        content = content[16 + size :]
    losses = [(tag, value, step) for tag, value, step in found if tag == "epoch_loss"]
    assert losses == [("epoch_loss", e["test_loss"], e["epoch"] - 1) for e in EPOCHS]


def test_tensorboardx_is_imported_without_jax_and_torch(run, monkeypatch):
    """It imports both where they are installed, and takes seconds for it."""
    seen = {}

    class Finder:
        def find_spec(self, name, *_):
            if name == "tensorboardX":
                seen.update({n: sys.modules.get(n, "unset") for n in ("jax", "torch")})

    monkeypatch.delitem(sys.modules, "tensorboardX", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder()])
    monkeypatch.setitem(sys.modules, "torch", torch := types.ModuleType("torch"))
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    with pytest.raises(UsageError, match=r"pip install tensorboardX"):
        logs.callbacks("csv,tensorboard", run)
    assert seen == {"jax": None, "torch": None}
    assert sys.modules["torch"] is torch
    assert "jax" not in sys.modules


@pytest.mark.parametrize("names", ["", "csv,", "excel", "csv,excel", "CSV"])
def test_a_log_that_does_not_exist_is_a_line(names):
    with pytest.raises(UsageError, match=r"there is no log .*(csv, tensor|mean csv)"):
        options.Overrides(log=names)
    assert options.Overrides(log="csv,tensorboard").log == "csv,tensorboard"


def test_readme_s_callback_tells_a_service_each_epoch(monkeypatch):
    code = README.read_text("utf-8").partition("<!-- tracking -->")[2]
    code = re.search("```python\n(.*?)```", code, re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    told, trained = [], []
    service = types.ModuleType("wandb")
    service.init = lambda **words: told.append(words)
    service.log = lambda logs, step: told.append((logs, step))
    monkeypatch.setitem(sys.modules, "wandb", service)
    monkeypatch.setattr(kerascnn, "train", lambda recipe, **_: trained.append(recipe))
    exec(code, {"__name__": "mine"})
    (recipe,) = trained
    assert describe.describe(recipe)["callbacks"]
    callback = recipe.callbacks()[-1]
    assert isinstance(callback, keras.callbacks.Callback)
    callback.on_train_begin()
    callback.on_epoch_end(3, {"loss": 1.0})
    assert told == [{"project": "cnn"}, ({"loss": 1.0}, 3)]
