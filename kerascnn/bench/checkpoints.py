"""Epochs with checkpoints and without, and with steps not checked, in turns."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerascnn import data
from kerascnn.acceleration import accelerate
from kerascnn.bench.sets import repeated
from kerascnn.data import Split
from kerascnn.engine import epoch as epoch_module
from kerascnn.engine import finite
from kerascnn.engine.plan import Plan
from kerascnn.process import settings
from kerascnn.process.estimate import Estimate
from kerascnn.process.signals import Signals
from kerascnn.recipe import Recipe
from kerascnn.runs import Run
from kerascnn.training import build, checkpoint
from kerascnn.training.autosave import Autosave
from kerascnn.training.progress import Record

# The forms of training that are compared, with what each is called in the table.
FORMS = {
    "none": "none",
    "run": "as a run writes them",
    "epoch": "after each epoch, at any cost",
    "unguarded": "none, and steps are not checked for NaN",
}


@dataclasses.dataclass
class Result:
    """What was measured of one form; `overhead` is the median over the turns."""

    form: str
    seconds: float
    overhead: float
    epochs: int
    writes: int = 0
    stood: float = 0.0
    size: int = 0


class Clocked(Autosave):
    """An autosave that notes for how long training stood still at each checkpoint."""

    always = False

    def __post_init__(self):
        super().__post_init__()
        self.stood: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.always:
            self._cost = 0.0  # what the last has cost decides when the next is due
        super().on_epoch_end(epoch, logs)

    def pause(self, seconds: float) -> None:
        """Leave out the time in which others had their turns."""
        self._last += seconds

    def _save(self, *arguments: Any) -> None:
        start = time.perf_counter()
        super()._save(*arguments)
        self.stood.append(time.perf_counter() - start)


class Trainer:
    """A model that trains in one form, some epochs at a time, in an empty folder."""

    def __init__(self, recipe: Recipe, train: Split, form: str, folder: Path):
        model, _ = build.build(recipe, train.images.shape[1:])
        self.model = accelerate(model)
        build.compile_model(self.model, recipe)
        self.train = train
        # The smallest test set there is: its evaluation is not what is timed.
        self.test = Split(train.images[:1], train.labels[:1])
        self.plan = Plan(0, recipe.batch_size, seed=0, drop_last=True)
        self.times: list[float] = []
        self.paused = time.perf_counter()
        self.autosave = None
        if form in ("run", "epoch"):
            run = Run(folder)
            self.autosave = Clocked(
                run=run,
                identity={},
                steps=self.plan.steps(len(train)),
                epochs=sys.maxsize,  # the last of a run is written whatever it costs
                callbacks=[],
                record=Record(run, len(train)),
                signals=Signals(print),
                engine="epoch",
            )
            self.autosave.always = form == "epoch"

    def turn(self, epochs: int) -> None:
        """Train, wait until all is on the disk, and note the time of an epoch."""
        begun = self.plan.epochs
        self.plan = dataclasses.replace(
            self.plan, epochs=begun + epochs, initial_epoch=begun
        )
        start = time.perf_counter()
        callbacks = []
        if self.autosave:
            self.autosave.pause(start - self.paused)
            callbacks = [self.autosave.record]
        epoch_module.fit(
            *(self.model, self.train, self.test, self.plan, callbacks),
            autosave=self.autosave,
        )
        if self.autosave:
            self.autosave.writer.wait()
        self.paused = time.perf_counter()
        self.times.append((self.paused - start) / epochs)


@settings.computing()
def measure(recipe: Recipe, images: int, epochs: int, rounds: int) -> list[Result]:
    """Let every form train some epochs in turns; the first turn warms up."""
    # In one process: between two, steps differ by more than a checkpoint costs.
    train = repeated(data.load(recipe.dataset).train, images)
    # The engine keeps one model's compiled step; here several take turns.
    epoch_module._functions = functools.cache(epoch_module._functions.__wrapped__)  # type: ignore
    judge = finite.judge
    with tempfile.TemporaryDirectory(prefix="kerascnn-bench-") as place:
        trainers = {}
        for form in FORMS:
            folder = Path(place, form)
            folder.mkdir()
            trainers[form] = Trainer(recipe, train, form, folder)
            if form == "unguarded":
                finite.judge = lambda counts, *others: (True, counts)
            try:
                trainers[form].turn(1)  # compiles
            finally:
                finite.judge = judge
        progress = Estimate("all rounds", rounds + 1)
        progress.after(0)
        for number in range(rounds + 1):
            # In turns forwards and backwards, so that none always follows another.
            for each in list(trainers.values())[:: 1 if number % 2 else -1]:
                each.turn(epochs)
            progress.after(number + 1)
            if number == 0:
                for each in trainers.values():
                    each.times.clear()
                    if each.autosave:
                        each.autosave.stood.clear()
        return [
            _result(form, each, trainers["none"].times, epochs, Path(place, form))
            for form, each in trainers.items()
        ]


def _result(
    form: str, trained: Trainer, plain: list[float], epochs: int, folder: Path
) -> Result:
    pairs = zip(trained.times, plain, strict=True)
    result = Result(
        form,
        statistics.median(trained.times),
        statistics.median(mine / none - 1 for mine, none in pairs),
        epochs * len(trained.times),
    )
    if trained.autosave:
        stood = trained.autosave.stood
        result.writes = len(stood)
        result.stood = statistics.fmean(stood) if stood else 0.0
        files = checkpoint.numbered(folder)[-1].iterdir()
        result.size = sum(file.stat().st_size for file in files)
    return result
