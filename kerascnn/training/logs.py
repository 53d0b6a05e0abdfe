"""A run's epochs in the form of other programs: a table, TensorBoard's events."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras

from kerascnn import UsageError, text

if TYPE_CHECKING:
    from kerascnn.runs import Run


def callbacks(names: str | None, run: Run) -> list[keras.callbacks.Callback]:
    """Return the callbacks that write a run's logs, for `--log csv,tensorboard`.

    They follow `Record`, which has added an epoch to the run before them.

    Raises:
        UsageError: A package that one of them needs is not installed.
    """
    return [_KINDS[name](run) for name in (names.split(",") if names else ())]


class Table(keras.callbacks.Callback):
    """Write `metrics.csv`, a row an epoch; a run that goes on has one table."""

    needs_no_state = True

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        history, text = self.run.history, io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(history)
        table.writerows(zip(*history.values(), strict=True))
        self.run.write_text("metrics.csv", text.getvalue())


class Events(keras.callbacks.Callback):
    """Write TensorBoard's events, named as `keras.callbacks.TensorBoard` names them.

    They go to `tensorboard/train` and `tensorboard/validation` in the run's folder; the
    steps are the epochs, counted from 0. A run that goes on adds files to these, and
    TensorBoard leaves out what it had written beyond the checkpoint.
    """

    needs_no_state = True

    def __init__(self, run: Run):
        super().__init__()
        self.run = run
        self._writer = _summary_writer()
        self._open: dict[str, Any] = {}

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        for name, value in self.run.metrics[-1].items():
            part, _, rest = name.partition("_")
            evaluated = part in ("test", "validation")
            tag = f"epoch_{rest if evaluated else name}"
            if name == "epoch" or not isinstance(value, int | float):
                continue
            self._of("validation" if evaluated else "train", epoch).add_scalar(
                tag, value, epoch
            )
        for writer in self._open.values():
            writer.flush()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        for writer in self._open.values():
            writer.close()

    def _of(self, part: str, epoch: int) -> Any:
        if part not in self._open:
            folder = self.run.folder / "tensorboard" / part
            again = {"purge_step": epoch} if folder.exists() else {}
            self._open[part] = self._writer(str(folder), **again)
        return self._open[part]


_KINDS = {"csv": Table, "tensorboard": Events}


def _summary_writer() -> Any:
    """Return tensorboardX's writer, imported without JAX and PyTorch."""
    try:
        with _hidden("jax", "torch"):
            from tensorboardX import SummaryWriter  # type: ignore[import-not-found]
    except ImportError as error:
        raise UsageError(
            "--log tensorboard needs the package tensorboardX: "
            f"`{text.install('tensorboard')}` installs it."
        ) from error
    return SummaryWriter


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Keep a block from importing packages, whether they are imported or not."""
    # tensorboardX imports both where they are installed: seconds, and 180 MB.
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
