"""Keras callbacks of a training run: its progress on the screen, its record on disk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerascnn.process import machine
from kerascnn.process.estimate import Estimate
from kerascnn.text import duration, notebook
from kerascnn.training import build
from kerascnn.training.screens import Notebook, Terminal, sparkline

if TYPE_CHECKING:
    from kerascnn.engine.recorder import Recorder
    from kerascnn.runs import Run


# What an engine measures in each epoch; the evaluation's have `val_` before them.
MEASURED = ("loss", "accuracy", "crossentropy")
# The most numbers that the record takes of an array, and letters of anything else.
_MOST = 100


def measured(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return an epoch's own measurements; NaN where a callback has put another value.

    Args:
        logs: The logs of the epoch, which callbacks may change.
    """
    found = {}
    for name in (*MEASURED, *(f"val_{name}" for name in MEASURED)):
        value = _recorded((logs or {}).get(name))
        found[name] = value if isinstance(value, float) else float("nan")
    return found


def _recorded(value: Any) -> Any:
    """Return a value of the logs as JSON has it: a number, a few numbers, or a text."""
    if value is None or isinstance(value, str):
        return value
    with contextlib.suppress(Exception):  # whatever an object makes of the question
        if not getattr(value, "shape", ()):
            return float(value)
    with contextlib.suppress(Exception):
        is_tensor = keras.ops.is_tensor(value)
        array = np.asarray(keras.ops.convert_to_numpy(value) if is_tensor else value)
        if array.dtype.kind in "biuf" and array.size <= _MOST:
            return array.astype(float).tolist()
    return " ".join(repr(value).split())[:_MOST]


class Record(keras.callbacks.Callback):
    """Write a line with the epoch's metrics to the run's `metrics.jsonl`.

    `weights_sha256` is the hash of the weights that were evaluated last.
    """

    # The epoch engine need not fill Keras's metrics and variables for this callback.
    needs_no_state = True

    def __init__(
        self,
        run: Run,
        images: int,
        kept: keras.Model | None = None,
        validation: bool = False,
    ):
        super().__init__()
        self.kept = kept
        self.evaluated = "validation" if validation else "test"
        self.weights_sha256: str | None = None
        self.run = run
        self.images = images
        self.earlier_seconds = 0.0
        self.learning_rate: float | None = None

    def elapsed(self) -> float:
        """Seconds that the epoch has trained, those before an interruption included."""
        return self.earlier_seconds + time.perf_counter() - self._start

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None):
        """Start the epoch's clock and note the learning rate it trains at."""
        self.earlier_seconds = 0.0
        self.learning_rate = learning_rate(self.model.optimizer)
        self._start = time.perf_counter()

    def go_on(self, seconds: float, rate: float | None) -> None:
        """Take the epoch that has just begun for one that was interrupted."""
        self.earlier_seconds = seconds
        self.learning_rate = rate

    def on_test_begin(self, logs: Mapping[str, Any] | None = None):
        """Stop the clock: the evaluation does not count as training."""
        self._seconds = self.elapsed()
        self._sha256 = None
        # `self.model` brings the weights of Keras's compiled steps into the variables.
        if self.kept is not None and self.model is not None:
            self._sha256 = build.weights_hash(self.kept)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None):
        """Write the record."""
        metrics = {
            f"{self.evaluated}_{name[4:]}" if name.startswith("val_") else name: value
            for name, value in (
                {name: _recorded(value) for name, value in (logs or {}).items()}
                | measured(logs)
            ).items()
        }
        self.weights_sha256 = self._sha256
        self.run.add_metrics(
            {"epoch": epoch + 1}
            | metrics
            | {
                "learning_rate": self.learning_rate,
                "seconds": round(self._seconds, 3),
                "images_per_second": round(self.images / self._seconds, 1),
            }
        )


class Progress(keras.callbacks.Callback):
    """Show how far the training is.

    A terminal has a line an epoch, and below them a bar with loss, learning rate, speed
    and memory; a notebook has one line that changes, and a pipe or a file a line an
    epoch. A step's numbers are those of `recorder`; `earlier` are the accuracies of
    epochs before this start of the run.
    """

    # The epoch engine need not fill Keras's metrics and variables for this callback.
    needs_no_state = True

    # Reads nothing but the step's number, so Keras need not wait for the step's logs.
    async_safe = True

    def __init__(
        self,
        epochs: int,
        steps: int,
        validation: bool = False,
        batch_size: int = 0,
        recorder: Recorder | None = None,
        earlier: Sequence[float | None] = (),
    ):
        super().__init__()
        self.epochs = epochs
        self.steps = steps
        self.evaluated = "validation" if validation else "test"
        self._batch_size, self._recorder = batch_size, recorder
        self._accuracies = list(earlier)
        self._screen: Terminal | Notebook | None = None
        self._shown = 0.0
        # When the first step of the epoch had ended, which may have been compiled.
        self._since: tuple[float, int] | None = None
        plural = "s" * (steps > 1)
        what = f"{epochs} epochs of {steps} step{plural}"
        self._estimate = Estimate(what, epochs * steps)
        # In its first epoch a model is compiled, but by PyTorch.
        self._compiles = keras.backend.backend() != "torch"

    def on_train_begin(self, logs: Mapping[str, Any] | None = None):
        """Open the bar or the line, where there is a screen for one."""
        from rich.console import Console

        console = Console()
        if notebook() is not None:
            self._screen = Notebook()
        elif console.is_terminal:
            self._screen = Terminal(console, self.epochs * self.steps)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None):
        """Start the epoch's clock."""
        self._epoch = epoch
        self._start = time.perf_counter()
        self._since, self._shown = None, 0.0
        if self._screen is None and self._compiles:
            print("The first epoch begins with compiling: a minute or so.", flush=True)
        self._show(step=0)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None):
        """Move the bar; without a screen, say once how long training will take."""
        if self._screen is None:
            self._estimate.after(self._epoch * self.steps + batch + 1)
        self._show(step=batch + 1)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None):
        """Print the epoch's line."""
        numbers = measured(logs)
        self._accuracies.append(numbers["val_accuracy"])
        line = (
            f"epoch {epoch + 1:{len(str(self.epochs))}}/{self.epochs}"
            f"  loss {numbers['loss']:.4f}  accuracy {numbers['accuracy']:6.2%}"
            f"  {self.evaluated} accuracy {numbers['val_accuracy']:6.2%}"
            f"  {time.perf_counter() - self._start:.1f} s"
            f"{', compiling included' if self._compiles else ''}"
        )
        self._compiles = False
        if self._screen is None:
            print(line, flush=True)
        else:
            self._screen.ended(line)

    def on_train_end(self, logs: Mapping[str, Any] | None = None):
        """Take the bar away."""
        self.close()

    def close(self) -> None:
        """Take the bar away, also when the training was stopped."""
        if self._screen is not None:
            self._screen.close()
            self._screen = None

    def _show(self, step: int) -> None:
        now = time.perf_counter()
        if step and self._since is None:
            self._since = now, step
        if self._screen is None or now - self._shown < self._screen.SECONDS:
            return
        self._shown = now
        compiling = self._compiles and step == 0
        doing = f"step {step}/{self.steps}"
        self._screen.at(
            f"epoch {self._epoch + 1}/{self.epochs} "
            f"{'compiling, a minute or so' if compiling else doing}",
            self._epoch * self.steps + step,
            self._facts(step, now),
            self._curve(),
        )

    def _facts(self, step: int, now: float) -> list[str]:
        """Say what is known of the training at a step of the epoch."""
        facts = []
        if self._recorder and (latest := self._recorder.latest()):
            facts = [f"loss {latest[0]:.4f}", f"learning rate {latest[1]:.3g}"]
        if self._since and (steps := step - self._since[1]) > 0:
            pace = (now - self._since[0]) / steps
            left = pace * (self.steps * (self.epochs - self._epoch) - step)
            facts.append(f"{self._batch_size / pace:,.0f} images/s")
            if isinstance(self._screen, Notebook):  # the terminal's bar says it
                facts.append(f"{duration(left)} left")
        if memory := machine.peak_memory():
            facts.append(f"peak memory {memory / 1e9:.2f} GB")
        return facts

    def _curve(self) -> str:
        """Draw the epochs' accuracies, where there are two or more."""
        if len(self._accuracies) < 2 or not (self._screen and self._screen.draws):
            return ""
        last = self._accuracies[-1]
        last = float("nan") if last is None else last
        curve = sparkline(self._accuracies)
        return f"{self.evaluated} accuracy {curve} {last:.2%}"


def choosing_by(callbacks: Sequence[keras.callbacks.Callback]) -> list[str]:
    """Name the callbacks that choose by what is measured on the evaluated images."""
    return [
        f"{type(callback).__name__} by {callback.monitor}"
        for callback in callbacks
        if str(getattr(callback, "monitor", "")).startswith("val_")
        # Keras's ModelCheckpoint has a monitor also where it keeps every epoch.
        and getattr(callback, "save_best_only", True)
    ]


def learning_rate(optimizer: keras.Optimizer) -> float | None:
    """Return an optimiser's present learning rate, `None` where it shows none."""
    rate = optimizer.learning_rate
    return None if rate is None else float(keras.ops.convert_to_numpy(rate))
