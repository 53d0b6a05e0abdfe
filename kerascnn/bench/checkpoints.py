"""Epochs with checkpoints, and epochs without the guard, for `bench checkpoints`."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import keras

from kerascnn.data import Split
from kerascnn.runs import Run
from kerascnn.training import checkpoint, epoch, guard
from kerascnn.training.callbacks import Record
from kerascnn.training.plan import Plan
from kerascnn.training.session import Session
from kerascnn.training.signals import Signals

# The forms of training that are compared, with what each is called in the table.
FORMS = {
    "plain": "no checkpoints",
    "saving": "after each epoch",
    "often": "and every minute",
    "unguarded": "none, and no guard",
}
Form = Literal["plain", "saving", "often", "unguarded"]


class Clocked(Session):
    """A session that notes for how long training stood still at each checkpoint."""

    def __post_init__(self):
        super().__post_init__()
        self.stood: list[float] = []

    def _save(self, *arguments: Any) -> None:
        start = time.perf_counter()
        super()._save(*arguments)
        self.stood.append(time.perf_counter() - start)


def epochs(
    model: keras.Model, train: Split, test: Split, plan: Plan, form: Form
) -> Callable[[int], dict[str, float]]:
    """Prepare to train a model on JAX, with a run's checkpoints or without.

    Args:
        model: A compiled model that takes raw images.
        train: The training set.
        test: What each epoch is evaluated on.
        plan: The order and size of the batches.
        form: See `FORMS`.

    Returns:
        A function that trains a number of epochs and waits until all is on the disk;
        it returns their number (`epochs`) and that of the checkpoints (`writes`), the
        seconds for which training stood still for them (`stood`), and the bytes of one
        (`bytes`).
    """
    folder = tempfile.TemporaryDirectory(prefix="kerascnn-bench-")
    run = Run(Path(folder.name))
    record = Record(run, len(train))
    # One for all turns: what a checkpoint has cost decides when the next is due.
    session = Clocked(
        run=run,
        steps=plan.steps(len(train)),
        epochs=sys.maxsize,  # the last of a run is saved whatever it costs
        callbacks=[],
        record=record,
        signals=Signals(print),
        engine="epoch",
        minutes=1.0 if form == "often" else float("inf"),
    )
    saves = form in ("saving", "often")
    if form == "unguarded":
        # In this process alone, and before the step is compiled.
        guard.judge = lambda counts, *others: (True, counts)
    begun, paused = 0, time.perf_counter()

    def work(number: int) -> dict[str, float]:
        nonlocal begun, paused
        begun += number
        chosen = dataclasses.replace(plan, epochs=begun, initial_epoch=begun - number)
        if not saves:
            epoch.fit(model, train, test, chosen)
            return {}
        session.stood.clear()
        session._last += time.perf_counter() - paused  # while others had their turns
        epoch.fit(model, train, test, chosen, [record], session=session)
        session.writer.wait()
        paused = time.perf_counter()
        files = checkpoint.numbered(run.folder)[-1].iterdir()
        return {
            "epochs": number,
            "writes": len(session.stood),
            "stood": sum(session.stood),
            "bytes": sum(file.stat().st_size for file in files),
        }

    work.folder = folder  # type: ignore[attr-defined] # it goes with the process
    return work
