"""What a training takes on this machine, in seconds and bytes, before it is begun."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from kerascnn import data, describe
from kerascnn.data.streamed import StreamedSplit
from kerascnn.engine import counts, finite
from kerascnn.engine.recorder import Recorder
from kerascnn.process import caches, machine, settings
from kerascnn.process import memory as process
from kerascnn.training import build, run
from kerascnn.training.case import case_of, opened
from kerascnn.training.options import Overrides

if TYPE_CHECKING:
    from kerascnn.data import DataSet, Split
    from kerascnn.engine.plan import Plan
    from kerascnn.recipe import Recipe

# Steps that are timed together, at least; of short ones as many as compute so many
# operations, because an epoch's begin takes its time too; on a GPU, calls of steps.
_STEPS, _WORK, _CALLS = 4, 3e10, 2
# Batches whose evaluation is timed.
_BATCHES = 4
# Seconds of training that are timed, at least, but for steps so long that one turn of
# them takes longer.
_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Costs:
    """The seconds that the parts of a training take.

    Attributes:
        build: Opening the images and building the models.
        compiling: What the first epoch takes more than another.
        step: A training step of a whole batch.
        tested: The evaluation of an image.
        between: What an epoch has besides, such as what is recorded of layers.
    """

    build: float
    compiling: float
    step: float
    tested: float
    between: float

    def epoch(self, plan: Plan, train: int, test: int) -> float:
        """Return the seconds of an epoch of so many images, and its evaluation."""
        whole, rest = divmod(train, plan.batch_size)
        steps = whole + (0 if plan.drop_last else rest / plan.batch_size)
        return steps * self.step + test * self.tested + self.between

    def whole(self, plan: Plan, train: int, test: int) -> float:
        """Return the seconds of a training, from its first image to its last epoch."""
        begun = self.build + self.compiling
        return begun + plan.epochs * self.epoch(plan, train, test)


def measured(
    recipe: Recipe, overrides: Overrides
) -> tuple[Costs, Plan, tuple[Split, Split]]:
    """Return what a training's parts take, measured here once and kept.

    The training itself is begun in this process: the same engine, options and record,
    for a few steps; its weights are thrown away.

    Args:
        recipe: The recipe.
        overrides: A run's options.

    Returns:
        The seconds, how the training goes through its images, and these: to train on
        and to evaluate on.

    Raises:
        UsageError: The training can't be begun.
    """
    with settings.computing(), contextlib.redirect_stdout(io.StringIO()):
        found, options, train, test, plan = opened(recipe, overrides)
        fingerprint = describe.fingerprint(describe.describe(found.recipe))
        wanted = key(fingerprint, options, found.dataset, train, plan)
        costs = kept([wanted])[0]
        if costs is None:
            costs = _measured(recipe, overrides)
            _keep(wanted, costs)
    return costs, plan, (train, test)


def memory(
    recipe: Recipe, overrides: Overrides, largest: bool = True
) -> dict[str, Any]:
    """Return the memory that a training will take, of which no step is computed.

    That is what the process holds, images, weights and optimiser on each device, and
    what XLA plans for a step. JAX alone says it.

    Args:
        recipe: The recipe.
        overrides: A run's options.
        largest: Look for the largest batch that fits, too: compiles some more steps.

    Returns:
        By name, in bytes: `bytes`, `room` (what is free for them), `process`, `images`
        (with weights and optimiser) and `step`, the first the sum of the last three;
        then `batch_size`, `devices`, and `largest_batch`, `None` where it was not
        looked for or where none fits.

    Raises:
        UsageError: The training can't be begun.
    """
    from kerascnn.engine import footprint, placement, stream

    with settings.computing(), contextlib.redirect_stdout(io.StringIO()):
        case = case_of(recipe, overrides)
        splits = case.train, case.test

        def planned(batch_size: int) -> footprint.Footprint:
            return footprint.footprint(
                *(case.model, splits, batch_size, overrides.recorded),
                *(case.plan.accumulate, case.plan.rematerialize),
                *(case.plan.devices, case.engine is stream),
            )

        first = planned(case.plan.batch_size)
        room, used = placement.free_on_device(), 0
        if room is None:  # a CPU, on whose memory the process lies too
            free = machine.free_memory()
            process.trim()
            used = machine.held_memory() or 0
            room = None if free is None else free + used
        found = {
            "bytes": used + first.held + first.step,
            "room": room,
            "process": used,
            "images": first.held,
            "step": first.step,
            "batch_size": case.plan.batch_size,
            "devices": first.devices,
            "largest_batch": None,
        }
        if largest and room is not None:

            def taken(batch_size: int) -> float:
                if batch_size == case.plan.batch_size:
                    return found["bytes"]
                other = planned(batch_size)
                return used + other.held + other.step

            found["largest_batch"] = footprint.largest_batch(
                taken, room, case.plan.batch_size, len(case.train)
            )
    return found


def key(
    fingerprint: str, options: Overrides, dataset: DataSet, train: Split, plan: Plan
) -> dict[str, Any]:
    """Return what decides the time of a training's parts, besides the machine."""
    names = ("precision", "engine", "accelerate", "deterministic")
    # What few trainings have, so that what was measured before they could is found.
    rare = {
        "remat": plan.rematerialize,
        "devices": plan.devices,
        "freeze": list(options.freeze),
        "decoding processes": [plan.workers] * isinstance(train, StreamedSplit),
    }
    return {
        "fingerprint": fingerprint,
        "shape": list(dataset.shape),
        "batch_size": plan.batch_size,
        "accumulate": plan.accumulate,
        "partial": not plan.drop_last and len(train) % plan.batch_size > 0,
        "record": options.recorded,
        **{name: value for name, value in rare.items() if value},
        **{name: getattr(options, name) for name in names},
    }


def kept(keys: list[dict[str, Any]]) -> list[Costs | None]:
    """Return what this machine has measured, newest first, or `None`, for each key."""
    here, found = _here(), {}
    with contextlib.suppress(OSError):
        for line in _file().read_text("utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                if record["environment"] == here:
                    names = [field.name for field in dataclasses.fields(Costs)]
                    times = {name: float(record["seconds"][name]) for name in names}
                    found[json.dumps(record["key"], sort_keys=True)] = Costs(**times)
    return [found.get(json.dumps(each, sort_keys=True)) for each in keys]


def _keep(wanted: dict[str, Any], costs: Costs) -> None:
    record = {"key": wanted, "seconds": dataclasses.asdict(costs)}
    line = json.dumps({**record, "environment": _here()})
    with contextlib.suppress(OSError):  # then it is measured again
        _file().parent.mkdir(parents=True, exist_ok=True)
        with _file().open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _file() -> Path:
    return caches.cache_directory() / "costs.jsonl"


def _here() -> dict[str, Any]:
    """Return what a step's time depends on, besides the training."""
    names = ("backend", "device", "processor", "cores", "versions", "code")
    here = machine.for_record()
    return {name: here[name] for name in names}


class _Clock(keras.callbacks.Callback):
    """Notes how long epochs, evaluations and what lies between them take."""

    # The epoch engine need not fill Keras's metrics and variables for this callback.
    needs_no_state = True

    def __init__(self):
        super().__init__()
        self.trained: list[float] = []
        self.tested: list[float] = []
        self.between: list[float] = []
        self._at: float | None = None

    def _lap(self, into: list[float]) -> None:
        now = time.perf_counter()
        if self._at is not None:
            into.append(now - self._at)
        self._at = now

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._lap(self.between)

    def on_test_begin(self, logs: Any = None) -> None:
        self._lap(self.trained)

    def on_test_end(self, logs: Any = None) -> None:
        self._lap(self.tested)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # The first epoch compiles, and so may what comes after it.
        if sum(self.trained[1:]) >= _SECONDS:
            self.model.stop_training = True  # type: ignore[union-attr]

    def on_train_end(self, logs: Any = None) -> None:
        self._lap(self.between)


def _measured(recipe: Recipe, overrides: Overrides) -> Costs:
    """Begin a training, and time its parts."""
    began = time.perf_counter()
    case = case_of(recipe, overrides)
    built = time.perf_counter() - began
    size = case.plan.batch_size
    whole, rest = divmod(len(case.train), size)
    rest = 0 if case.plan.drop_last else rest
    steps, words = min(whole, _steps(case.model, size)), {}
    if hasattr(case.engine, "steps_together") and machine.device() != "cpu":
        together = case.engine.steps_together(whole)
        steps, words = min(whole, _CALLS * together), {"steps_a_call": together}
    train = data.limited(case.train, steps * size + rest)
    test = data.limited(case.test, _BATCHES * size)
    plan = dataclasses.replace(case.plan, epochs=200)
    clock, own = _Clock(), build.Epochs(case.model)
    recorder = Recorder(
        *(overrides.recorded, case.kept, case.train.images, plan.steps(len(train)))
    )
    case.model.optimizer.build(case.model.trainable_variables)
    finite.begin(case.model.optimizer, "never")
    try:
        case.engine.fit(
            *(case.model, train, test, plan, [own, clock]), recorder=recorder, **words
        )
    except Exception as error:
        if (mistake := run.named(error, case)) is error:
            raise
        raise mistake from error
    trained, tested, between = (
        statistics.median(times[1:])
        for times in (clock.trained, clock.tested, clock.between)
    )
    first = clock.trained[0] + clock.tested[0] + clock.between[0]
    return Costs(
        build=built,
        compiling=max(0.0, first - trained - tested - between),
        step=trained / (steps + rest / size),
        tested=tested / len(test),
        between=between,
    )


def _steps(model: keras.Model, batch_size: int) -> int:
    """Return how many steps to time together: more of those that are short."""
    try:
        work = counts.training_operations(model) * batch_size
    except (TypeError, AttributeError):  # of images of any size, or a layer used twice
        return _STEPS
    return max(_STEPS, int(_WORK / max(1, work)))
