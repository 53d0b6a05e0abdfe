"""Keras callbacks of a training run: its progress on the screen, its record on disk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerascnn.process.estimate import Estimate
from kerascnn.text import notebook
from kerascnn.training import build

if TYPE_CHECKING:
    from rich.console import Console

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

    A terminal has a bar and a line an epoch, a notebook one line that changes, and a
    pipe or a file a line an epoch.
    """

    # The epoch engine need not fill Keras's metrics and variables for this callback.
    needs_no_state = True

    # Reads nothing but the step's number, so Keras need not wait for the step's logs.
    async_safe = True

    def __init__(self, epochs: int, steps: int, validation: bool = False):
        super().__init__()
        self.epochs = epochs
        self.steps = steps
        self.evaluated = "validation" if validation else "test"
        self._screen: _Bar | _Line | None = None
        self._estimate = Estimate(f"{epochs} epochs of {steps} steps", epochs * steps)
        # In its first epoch a model is compiled, but by PyTorch.
        self._compiles = keras.backend.backend() != "torch"

    def on_train_begin(self, logs: Mapping[str, Any] | None = None):
        """Open the bar or the line, where there is a screen for one."""
        from rich.console import Console

        console = Console()
        if notebook() is not None:
            self._screen = _Line()
        elif console.is_terminal:
            self._screen = _Bar(console, self.epochs * self.steps)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None):
        """Start the epoch's clock."""
        self._epoch = epoch
        self._start = time.perf_counter()
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
        if self._screen is None:
            return
        compiling = self._compiles and step == 0
        doing = "compiling" if compiling else f"step {step}/{self.steps}"
        self._screen.at(
            f"epoch {self._epoch + 1}/{self.epochs} {doing}",
            self._epoch * self.steps + step,
        )


class _Bar:
    """A bar on a terminal, below the lines of the epochs that have ended."""

    def __init__(self, console: Console, total: int):
        from rich import progress

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.percentage:>3.0f} %"),
            progress.TextColumn("time left"),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total)
        self._bar.start()

    def at(self, text: str, done: int) -> None:
        self._bar.update(self._task, completed=done, description=text)

    def ended(self, line: str) -> None:
        self._bar.console.print(line, highlight=False)

    def close(self) -> None:
        self._bar.stop()


class _Line:
    """A line in a notebook: the step, beside the epoch that ended last."""

    SECONDS = 0.25  # between changes: each is a message to the browser

    def __init__(self):
        from IPython.display import display  # type: ignore[import-not-found]

        self._last = ""
        self._next = 0.0
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def at(self, text: str, done: int) -> None:
        if time.perf_counter() >= self._next:
            self._put(f"{text}   {self._last}".rstrip())

    def ended(self, line: str) -> None:
        self._last = line
        self._put(line)

    def close(self) -> None:
        pass

    def _put(self, text: str) -> None:
        self._next = time.perf_counter() + self.SECONDS
        self._handle.update({"text/plain": text}, raw=True)


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
