"""What reading images as a stream adds to a training step: `kerascnn bench input`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import statistics
import time
from typing import Annotated, Any

import keras
import tyro
from rich.console import Console
from rich.table import Table

from kerascnn import UsageError, data, text
from kerascnn import recipe as recipes
from kerascnn.data import Split
from kerascnn.engine import epoch, stream
from kerascnn.process import settings
from kerascnn.training.case import Case, case_of
from kerascnn.training.options import Folder, Integer, Overrides

# Steps of a turn that are not timed: they compile, and processes begin.
_BEFORE = 5


@dataclasses.dataclass
class Input:
    """Time a training step on a stream beside the same step on images in memory.

    Both train the recipe on the same images, in turns. The input's share is the part of
    the stream's step by which that step takes longer, because it waits for images and
    because the processes that decode take cores.
    """

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")] = (
        "cifar_vgg_aug"
    )
    """What to train."""
    dataset: Annotated[
        str | None, tyro.conf.arg(metavar="SET", help_behavior_hint="")
    ] = None
    """Another set, as `kerascnn run --dataset` takes it (default: the recipe's)."""
    data_dir: Folder = None
    """Where tensorflow-datasets keeps its sets."""
    workers: Integer = None
    """Processes that decode; 0: the one that trains (default: half of the cores)."""
    batch: Integer = None
    """Images a step (default: the recipe's)."""
    steps: int = 40
    """Steps of a turn that are timed."""
    rounds: int = 3
    """Turns of each; the medians are shown."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self):
        text.check_positive(self, "batch", "steps", "rounds")

    def __call__(self) -> None:
        options = Overrides(
            engine="stream",
            dataset=self.dataset,
            data_dir=self.data_dir,
            workers=self.workers,
            batch_size=self.batch,
            record="off",
        )
        with settings.computing():
            with contextlib.redirect_stdout(io.StringIO()):
                case = case_of(recipes.load(self.recipe), options)
            found = measured(case, self.steps, self.rounds)
        if self.json:
            print(json.dumps(found))
            return
        size, workers = case.plan.batch_size, found["workers"]
        table = Table(title=f"{self.recipe}: one training step, batch {size}")
        table.add_column("images")
        table.add_column("a step", justify="right")
        table.add_row("in memory", f"{found['memory']:.4f} s")
        table.add_row(f"as a stream, --workers {workers}", f"{found['stream']:.4f} s")
        Console().print(table)
        print(f"The input takes {found['share']:.1%} of the stream's step.")


def measured(case: Case, steps: int, rounds: int) -> dict[str, Any]:
    """Time steps of a case in turns, on images in memory and as a stream.

    Returns:
        `memory` and `stream`, seconds a step; `share`, what the stream's step takes
        longer by what it takes; `workers`.
    """
    plan = case.plan
    number = (_BEFORE + steps) * plan.batch_size
    if len(case.train) < number:
        raise UsageError(
            f"{case.dataset.name} has {len(case.train):,} training images, and "
            f"{_BEFORE + steps} steps of {plan.batch_size} take {number:,}: time fewer "
            "steps, with --steps, or smaller ones, with --batch."
        )
    train, test = data.limited(case.train, number), data.limited(case.test, 1)
    held, tested = (Split(*each.batch(slice(None))) for each in (train, test))
    times: dict[str, list[float]] = {"memory": [], "stream": []}
    for turn in range(rounds):
        text.say(f"round {turn + 1} of {rounds}")
        now = dataclasses.replace(plan, epochs=turn + 1, initial_epoch=turn)
        clock = _Clock()
        epoch.fit(case.model, held, tested, now, [clock], steps_a_call=1)
        times["memory"].append(clock.step)
        clock = _Clock()
        stream.fit(case.model, train, test, now, [clock])
        times["stream"].append(clock.step)
    memory, streamed = (statistics.median(each) for each in times.values())
    return {
        "memory": memory,
        "stream": streamed,
        "share": max(0.0, 1 - memory / streamed),
        "workers": plan.workers,
    }


class _Clock(keras.callbacks.Callback):
    """Notes when steps have been begun, each of which waits for the one before."""

    needs_no_state = True

    def __init__(self):
        super().__init__()
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.ends.append(time.perf_counter())

    @property
    def step(self) -> float:
        """Seconds a step, without the first steps."""
        timed = self.ends[_BEFORE:]
        return (timed[-1] - timed[0]) / (len(timed) - 1)
