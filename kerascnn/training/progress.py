"""Keras callbacks of a training run: its progress on the screen, its record on disk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerascnn import optim, text
from kerascnn.process import machine
from kerascnn.process.estimate import LOOK, WORTH
from kerascnn.text import duration, notebook, say, show
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
        # Seconds of a step, and between an epoch's last and the next one's first; when
        # the latest step ended. What happens once, such as compiling, is in none.
        self._pace: float | None = None
        self._between, self._ended, self._trained = 0.0, 0.0, 0
        self._said = False
        # In its first epoch a model is compiled, but by PyTorch.
        self._compiles = keras.backend.backend() != "torch"

    def on_train_begin(self, logs: Mapping[str, Any] | None = None):
        """Open the bar or the line, where there is a screen for one."""
        if text.quiet:
            return
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
        self._trained += 1
        if self._screen is None and self._compiles:
            show("The first epoch begins with compiling: a minute or so.")
        self._show(step=0)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None):
        """Move the bar; without a screen, say once how long training will take."""
        now, step = time.perf_counter(), batch + 1
        self._look(step, now)
        if self._screen is None and not self._said:
            self._say_left(step, now)
        self._show(step)

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
            show(line)
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
        if self._screen is None or now - self._shown < self._screen.SECONDS:
            return
        self._shown = now
        compiling = self._compiles and step == 0
        doing = f"step {step}/{self.steps}"
        self._screen.at(
            f"epoch {self._epoch + 1}/{self.epochs} "
            f"{'compiling, a minute or so' if compiling else doing}",
            self._epoch * self.steps + step,
            self._facts(step),
            self._curve(),
        )

    def _look(self, step: int, now: float) -> None:
        """Note what a step has taken; the first epoch compiles in its last one too."""
        if self._since is None:
            self._since = now, step
            if self._trained > 2:  # the first epoch's evaluation was compiled
                self._between = max(0.0, now - self._ended - (self._pace or 0.0))
        elif step < self.steps or self._trained > 1:
            self._pace = (now - self._since[0]) / (step - self._since[1])
        self._ended = now

    def _left(self, step: int) -> float:
        """Return the seconds that training and evaluations will still take."""
        epochs = self.epochs - self._epoch
        return (self._pace or 0.0) * (self.steps * epochs - step) + (
            self._between * epochs
        )

    def _say_left(self, step: int, now: float) -> None:
        """Say once how long the rest takes, where it takes over a minute."""
        looked = self._since is not None and now - self._since[0] >= LOOK
        if self._pace is None or not (looked or self._trained > 2):
            return
        self._said = True
        if (left := self._left(step)) > WORTH:
            plural = "s" * (self.steps > 1)
            what = f"{self.epochs} epochs of {self.steps} step{plural}"
            say(f"{what}: about {duration(left)} more.")

    def _facts(self, step: int) -> list[str]:
        """Say what is known of the training at a step of the epoch."""
        facts = []
        if self._recorder and (latest := self._recorder.latest()):
            facts = [f"loss {latest[0]:.4f}", f"learning rate {latest[1]:.3g}"]
        if self._pace:
            facts.append(f"{self._batch_size / self._pace:,.0f} images/s")
            facts.append(f"{duration(self._left(step))} left")
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
    rate = optim.shown_rate(optimizer)
    return None if rate is None else float(keras.ops.convert_to_numpy(rate))
