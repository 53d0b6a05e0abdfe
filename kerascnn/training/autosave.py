"""What keeps a run from being lost while it trains: when to save, how to go on."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerascnn import UsageError
from kerascnn.engine import finite
from kerascnn.process import hosts
from kerascnn.process.signals import Interrupted, Signals
from kerascnn.runs import evaluated
from kerascnn.training import callback_state, checkpoint
from kerascnn.training.progress import Record, learning_rate, measured

if TYPE_CHECKING:
    from kerascnn.engine.recorder import Recorder
    from kerascnn.runs import Run
    from kerascnn.training.checkpoint import Checkpoint

ops: Any = keras.ops

# Saving after an epoch may take this share of the time of training.
SHARE = 0.02


@dataclasses.dataclass(eq=False)
class Autosave(keras.callbacks.Callback):
    """Saves a run, and brings a saved one back; the last of a run's callbacks.

    A checkpoint is written after every epoch, but where epochs are so short that
    writing takes more than 2 % of the time (`SHARE`), only as often as that allows; and
    every `minutes`, also inside an epoch. Beside that rule, the first checkpoint is
    waited for, so that a run of several epochs has one; and an epoch that did best on
    held-out images is always saved, so that the best can be kept. The engines call
    `after_step`; everything else happens in the hooks.

    `renewed` names what a forced change has set anew and `start` must not bring back:
    `"learning_rate"`, and callbacks' attributes.
    """

    run: Run
    identity: Mapping[str, Any]
    steps: int
    epochs: int
    callbacks: Sequence[keras.callbacks.Callback]
    record: Record
    signals: Signals | hosts.Agreed
    engine: str
    minutes: float = 10.0
    on_nan: str = "stop"
    start: Checkpoint | None = None
    validation: bool = False
    renewed: Collection[str] = ()
    recorder: Recorder | None = None

    def __post_init__(self):
        super().__init__()
        self.writer = checkpoint.Writer(self.run.folder)
        self.epoch = 0
        # Before an evaluation: random generators, callbacks and variables to save.
        self._random: list[Any] | None = None
        self._states: tuple[list, dict[str, np.ndarray]] | None = None
        self._variables: dict[str, list[Any]] = {}
        self._made: callback_state.Walk | None = None
        self.counted = 0  # steps that `finite` had counted before `start`
        self._saved = (self.start.epoch, self.start.step) if self.start else None
        self._last = time.perf_counter()
        self._begun = self._last
        self._cost = 0.0
        self._before = self.start.manifest["seconds"] if self.start else 0.0
        history = self.start.manifest["history"] if self.start else []
        losses = (evaluated(record, "loss") for record in history)
        self._best = min((x for x in losses if x is not None), default=float("inf"))

    @property
    def seconds(self) -> float:
        """Seconds of training, those before an interruption included."""
        return self._before + time.perf_counter() - self._begun

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Bring back the state, where a run goes on between two epochs."""
        self._made = callback_state.begin(self.callbacks)
        if self.start:
            self._restore(self.start)
        finite.begin(self.model.optimizer, self.on_nan)  # type: ignore[union-attr]

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Bring back the state, where a run goes on inside this epoch."""
        self.epoch = epoch
        if self._inside():
            # The other callbacks have begun this epoch once more; all that they did
            # then is in the checkpoint.
            assert self.start is not None
            self._restore(self.start)
            finite.begin(self.model.optimizer, self.on_nan)  # type: ignore[union-attr]
            rate = self.start.manifest["learning_rate"]
            if "learning_rate" in self.renewed:
                rate = learning_rate(self.model.optimizer)  # type: ignore[union-attr]
            self.record.go_on(self.start.manifest["epoch_seconds"], rate)

    def measured(self) -> list[np.ndarray] | None:
        """Return what the engine had measured when the epoch was interrupted, if so."""
        if not self._inside():
            return None
        assert self.start is not None
        return self.start.group("measured")

    def restore_random(self) -> None:
        """Bring back the random generators for the first step after an interruption."""
        # Later than the rest: PyTorch draws from them when an epoch's data are opened.
        if self._inside():
            assert self.start is not None
            _set_random_states(self.start.group("random"))

    def before_evaluation(self) -> None:
        """Keep what an evaluation changes as it is after an epoch's last step."""
        # An evaluation draws from PyTorch's random generators and calls callbacks,
        # which may write weights, and is done once more after an interruption.
        self._random = _random_states()
        if any(map(_watches_evaluation, self.callbacks)):
            self._states = callback_state.capture(self.callbacks, self._made)
            self._variables = {
                group: [_copy(variable) for variable in variables]
                for group, variables in _groups(self.model)
            }

    def after_step(self, step: int, measured: Callable[[], Sequence[Any]]) -> None:
        """Save what is due after `step` steps of an epoch; stop if asked to."""
        # `measured` puts the state into the model's variables and returns the metrics.
        self.signals.begin()
        self.writer.check()
        self.signals.agree()
        due = time.perf_counter() - self._last >= 60 * self.minutes
        if due or self.signals.save or self.signals.stop:
            self._save(self.epoch, step, measured)
            self._stop_if_asked(self.epoch, step, measured)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save the epoch; stop if that is asked for."""
        self._random, self._states, self._variables = None, None, {}
        self.writer.check()
        self.signals.agree()
        asked = self.signals.save or self.signals.stop
        # Training stood still for as long as the last checkpoint took; that it was
        # written in another thread helps where a core is free.
        affordable = time.perf_counter() - self._last >= self._cost / SHARE
        last = epoch + 1 == self.epochs or self.model.stop_training  # type: ignore
        must = asked or last or self.minutes == 0 or self._improved(logs)
        if must or (affordable and not self.writer.busy):
            self._save(epoch + 1, 0, list)
        if last or self.writer.last is None:
            self.writer.wait()
        if not last:
            self._stop_if_asked(epoch + 1, 0, list)

    def _improved(self, logs: Mapping[str, Any] | None) -> bool:
        """Whether an epoch did better on the held-out images than all before."""
        loss = measured(logs)["val_loss"]
        if not self.validation or not loss < self._best:
            return False
        self._best = loss
        return True

    def _inside(self) -> bool:
        return (
            self.start is not None
            and self.start.step > 0
            and self.start.epoch == self.epoch
        )

    def _stop_if_asked(
        self, epoch: int, step: int, measured: Callable[[], Sequence[Any]]
    ) -> None:
        if self.signals.stop is not None:
            # Also where the signal came after what called here had looked for it.
            self._save(epoch, step, measured)
            self.writer.wait()
            raise Interrupted(
                self.signals.stop,
                f"stopped; to go on: {checkpoint.to_go_on(self.run.folder)}",
            )

    def _save(
        self, epoch: int, step: int, measured: Callable[[], Sequence[Any]]
    ) -> None:
        model: Any = self.model
        self.signals.save = False
        if (epoch, step) == self._saved or not hosts.is_first():
            return
        start = time.perf_counter()
        values = measured()
        random = _random_states() if self._random is None else self._random
        finite.check(finite.counts(model.optimizer))
        # Copies: the next step overwrites the arrays, and the thread fetches the copies
        # while it computes.
        copies = {
            f"{group}/{index:04}/{getattr(variable, 'path', '')}": _copy(value)
            for group, variables in (
                *_groups(model),
                ("measured", values),
                ("random", random),
            )
            for index, (variable, value) in enumerate(
                zip(variables, self._variables.get(group, variables), strict=True)
            )
        }
        states, arrays = self._states or callback_state.capture(
            self.callbacks, self._made
        )
        state = self.recorder.state() if self.recorder else {}
        recorded = {f"recorded/{name}": array for name, array in state.items()}
        manifest = {
            "identity": dict(self.identity),
            "engine": self.engine,
            "epoch": epoch,
            "step": step,
            "steps": self.steps,
            "learning_rate": self.record.learning_rate,
            "history": self.run.metrics,
            "validation": self.validation,
            "callbacks": states,
            "stop_training": bool(model.stop_training),
            "seconds": self.seconds,
            "epoch_seconds": self.record.elapsed() if step else 0.0,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }

        # Called once: a copy goes as soon as it is fetched.
        def fetched() -> dict[str, np.ndarray]:
            on_host = {
                name: np.asarray(ops.convert_to_numpy(copies.pop(name)))
                for name in list(copies)
            }
            return on_host | arrays | recorded

        self._cost = time.perf_counter() - start + self.writer.seconds
        self.writer.start(fetched, manifest)
        if self.minutes == 0 or self.signals.stop is not None:
            self.writer.wait()
        self._saved, self._last = (epoch, step), time.perf_counter()

    def _restore(self, saved: Checkpoint) -> None:
        model: Any = self.model
        rate = learning_rate(model.optimizer)
        for group, variables in _groups(model):
            for variable, value in zip(variables, saved.group(group), strict=True):
                variable.assign(value)
        if "learning_rate" in self.renewed:
            model.optimizer.learning_rate = rate
        if self.recorder:
            named = (key.partition("/") for key in saved.arrays)
            names = [name for group, _, name in named if group == "recorded"]
            arrays = {name: saved.arrays[f"recorded/{name}"] for name in names}
            self.recorder.restore(arrays)
        self.counted = finite.steps(model.optimizer)
        _set_random_states(saved.group("random"))
        callback_state.restore(
            *(self.callbacks, saved.manifest["callbacks"], saved.arrays),
            renewed={"params", *self.renewed},  # Keras says the epochs anew
        )


def _watches_evaluation(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback may change something before an evaluation has ended."""
    names = ("on_test_begin", "on_test_batch_begin", "on_test_batch_end", "on_test_end")
    plain = keras.callbacks.Callback
    return any(
        getattr(getattr(callback, name), "__func__", None) is not getattr(plain, name)
        for name in names
    )


def _copy(value: Any) -> Any:
    """Copy a value where it is."""
    # For a copy on the device JAX compiles a program for each shape and keeps it; on a
    # CPU NumPy's is as good.
    if keras.backend.backend() == "jax":
        array = ops.convert_to_tensor(value)
        if all(device.platform == "cpu" for device in array.devices()):
            return np.array(array)
    return ops.copy(value)


def _random_states() -> list[Any]:
    """Return the states of random generators that are no variables: PyTorch's own."""
    # Keras's Dropout draws from them on that backend.
    if keras.backend.backend() != "torch":
        return []
    torch = sys.modules["torch"]
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *gpus]


def _set_random_states(states: Sequence[np.ndarray]) -> None:
    if not states:
        return
    torch = sys.modules["torch"]
    first, *gpus = (torch.from_numpy(state.copy()) for state in states)
    torch.set_rng_state(first)
    if gpus:
        torch.cuda.set_rng_state_all(gpus)


def _groups(model: Any) -> list[tuple[str, list[Any]]]:
    """Return what a checkpoint keeps of a model: variables by name of their group."""
    return [
        ("model", model.trainable_variables + model.non_trainable_variables),
        ("optimizer", model.optimizer.variables),
    ]


def check_start(
    start: Checkpoint,
    model: keras.Model,
    callbacks: Sequence[keras.callbacks.Callback],
    steps: int,
    engine: str,
) -> None:
    """Check that a run can go on from a checkpoint, before anything is changed."""
    optimizer: Any = model.optimizer
    optimizer.build(model.trainable_variables)
    finite.counts(optimizer)
    for group, variables in _groups(model):
        _check_variables(variables, start.group(group), start.folder)
    callback_state.check(callbacks, start.manifest["callbacks"])
    saved = start.manifest
    was = saved.get("engine", engine)
    if start.step > 0 and (was, saved["steps"]) != (engine, steps):
        raise UsageError(
            f"the checkpoint {start.folder} lies inside an epoch of {saved['steps']} "
            f"steps of the engine {was}, and the run would go on with {steps} steps of "
            f"{engine}: bring back --engine, --limit and --batch-size, or start the "
            "run anew."
        )


def _check_variables(
    variables: Sequence[Any], values: Sequence[np.ndarray], folder: Path
) -> None:
    """Raise `UsageError` unless arrays have the shapes and types of variables."""
    there = [f"{v.dtype} {tuple(v.shape)}" for v in variables]
    saved = [f"{value.dtype.name} {value.shape}" for value in values]
    if there == saved:
        return
    pairs = list(itertools.zip_longest(saved, there, fillvalue="nothing"))
    first = next(i for i, (was, now) in enumerate(pairs) if was != now)
    name = variables[first].path if first < len(variables) else "a variable"
    raise UsageError(
        f"the checkpoint {folder} holds other variables than the model has: {name} "
        f"was {pairs[first][0]} and is {pairs[first][1]}; bring the recipe back, or "
        "start the run anew."
    )
