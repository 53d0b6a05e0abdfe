"""The run folder: what a training run leaves behind."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascnn import UsageError
from kerascnn.text import as_json, expanded, listed, notebook

if TYPE_CHECKING:
    import keras
    import numpy as np

    from kerascnn.prediction.evaluation import Figures

# What a run leaves when it ends, beside its checkpoints.
_OF_THE_END = ("config.json", "metrics.jsonl", "record.npz", "model.keras")
_OF_THE_END += ("curve.png", "report.html", "result.json")
# Of a run folder's files, in `config.json`: raised whenever an older program could
# misread what a newer one writes. Folders without a number are of format 1 too.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Run:
    """A folder with one training run.

    It holds `config.json` (all resolved values, written at the start), `metrics.jsonl`
    (a line an epoch), `record.npz` (arrays by step and layer), `checkpoints/`, and,
    once it has ended, `model.keras`, `curve.png` and `result.json`. A run stopped after
    an epoch or more has those too; its result says that it is not finished.

    Args:
        folder: The run's folder; a notebook shows the run's curve.

    Example:
        >>> run = kerascnn.train("fashion_mlp", data="sample", epochs=2)
        >>> run.history["test_accuracy"]
        >>> run.model().predict(images).argmax(-1)
    """

    folder: Path

    def __post_init__(self):
        object.__setattr__(self, "folder", Path(self.folder))

    @classmethod
    def create(cls, recipe: str, out: Path | None = None) -> Run:
        """Make a new run's folder: an empty `out`, or `runs/<recipe>/<time>/`."""
        try:
            if out is None:
                return cls(_new_folder(Path("runs") / recipe))
            check_new(out)
            out = expanded(out)  # the shell leaves --out=~/run as it is
            out.mkdir(parents=True, exist_ok=True)
            return cls(out)
        except OSError as error:
            raise UsageError(
                f"the run folder {error.filename or out} can't be made "
                f"({error.strerror or error}): name another with --out."
            ) from error

    @property
    def config(self) -> dict[str, Any]:
        """What the run was started with.

        Raises:
            UsageError: The folder holds no run, its file is damaged, or a newer version
                of this package wrote it.
        """
        config = self._read("config.json")
        written = config.get("format", FORMAT)
        if type(written) is not int or not 1 <= written <= FORMAT:
            raise UsageError(
                f"the run {self.folder} has format {written!r:.40}, and this version "
                f"of kerascnn {FORMAT}: open it with the one that wrote it."
            )
        return config

    @property
    def result(self) -> dict[str, Any]:
        """How the run ended.

        Raises:
            UsageError: The run has not finished, or its file is damaged.
        """
        return self._read("result.json")

    @property
    def finished(self) -> bool:
        """Whether the run has trained to its end; one with a damaged result has not."""
        try:
            return self.result.get("finished") is True
        except UsageError:
            return False

    @property
    def state(self) -> str:
        """`"finished"`, `"interrupted"`, `"running"` or `"damaged"`.

        Damaged is a run whose records can't be read, or that has finished and has lost
        its model. Where files can't be locked, as on Windows, a run that another
        process trains is called interrupted.
        """
        if self._locked():
            return "running"
        try:
            _ = self.config["recipe"], self.metrics
            if not (self.folder / "result.json").exists() or not self.finished:
                _ = (self.folder / "result.json").exists() and self.result
                return "interrupted"
        except (UsageError, KeyError):
            return "damaged"
        return "finished" if (self.folder / "model.keras").exists() else "damaged"

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dictionary an epoch, in order; none before the first epoch's end.

        Raises:
            UsageError: The folder holds no run, or its file is damaged.
        """
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            _ = self.config  # where there is no run, that is the reason
            return []
        try:
            lines = path.read_text("utf-8").splitlines(keepends=True)
            # A run that was killed may have left half a line at the end.
            return [_record(line) for line in lines if line.endswith("\n")]
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{path} can't be read: {error}") from error

    @property
    def history(self) -> dict[str, list[Any]]:
        """The epochs' numbers as lists by name, in the epochs' order.

        Such as `"epoch"`, `"loss"`, `"accuracy"`, `"test_accuracy"` (both 0 to 1) and
        `"seconds"`; `None` stands for a number that was not finite.

        Raises:
            UsageError: The folder holds no run, or its file is damaged.
        """
        records = self.metrics
        names = dict.fromkeys(name for record in records for name in record)
        return {name: [record.get(name) for record in records] for name in names}

    @property
    def recorded(self) -> dict[str, np.ndarray] | None:
        """What was recorded inside the training, as arrays by name.

        Of every step, float32 `(steps,)`: `loss`, `learning_rate`, `gradient_norm`,
        with `step`, counted from 1. In a full record of every epoch, float32 `(epochs,
        layers)`, with `epoch`: `gradient_to_weight` and `update_to_weight` of
        `kernel_layers`; `dead` (a share, NaN where there is no ReLU), `activation_mean`
        and `activation_deviation` of `activation_layers`; and of BatchNorm's channels
        the lowest, middle and highest `moving_mean` and `moving_variance`, `(epochs,
        layers, 3)`, of `norm_layers`. `None` where the run has recorded nothing.

        Raises:
            UsageError: The file is damaged.
        """
        path = self.folder / "record.npz"
        if not path.exists():
            return None
        import numpy as np

        try:
            with np.load(path) as file:  # never unpickles
                return dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{path} can't be read: {error}. Without it, the run's page shows the "
                "rest."
            ) from error

    def model(self) -> keras.Model:
        """Return the trained network: plain Keras, not compiled.

        Returns:
            A model from raw images, uint8, `(n, height, width, channels)`, to logits,
            `(n, classes)`; `config["data"]["classes"]` names the classes in order.

        Raises:
            UsageError: The run has not come as far as to save it.
        """
        path = self.folder / "model.keras"
        if not path.exists():
            _ = self.config  # where there is no run, that is the reason
            raise UsageError(f"{self.folder} has no model.keras yet: train it first.")
        from kerascnn.process.backend import say_missed_backend, spare_tensorflow

        say_missed_backend()
        spare_tensorflow()
        import keras

        return keras.saving.load_model(path)

    def show(self) -> Path | None:
        """Show the curve, loss and accuracy by epoch.

        Returns:
            `None` in a notebook, which shows it; elsewhere the picture's path.

        Raises:
            UsageError: No epoch of the run has ended.
        """
        path = self._curve()
        if notebook() is None:
            return path
        from IPython.display import Image, display  # type: ignore[import-not-found]

        display(Image(filename=str(path)))
        return None

    def report(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the page of the run: one HTML file, which needs no network.

        Args:
            path: Where to; by default `report.html` in the run's folder.

        Returns:
            The file.

        Raises:
            UsageError: The run has no model yet, its data are gone or have changed, or
                the file can't be written.
        """
        from kerascnn.page import document

        return document.write(self, path and expanded(path))

    def demo(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write a page with the network in it: one HTML file, which needs no server.

        Args:
            path: Where to; by default `demo.html` in the run's folder.

        Returns:
            The file.

        Raises:
            UsageError: The extra `demo` is not installed, the run has no model yet or
                its data are gone, a layer has no mapping to ONNX, or the file can't be
                written or is no such page.
        """
        from kerascnn.demo import page

        return page.write(self, path and expanded(path))

    def predict(self, images: np.ndarray, views: bool = False) -> np.ndarray:
        """Return the probabilities of the classes for images.

        Args:
            images: uint8, `(n, height, width, channels)`, of the size that the run was
                trained on; raw, because the model does the rest.
            views: Take the mean logits of six views of each image, moved by a pixel and
                mirrored (`kerascnn.views.flips_and_shifts`).

        Returns:
            float64, `(n, classes)`, each row of sum 1; `config["data"]["classes"]`
            names the classes in order.

        Raises:
            UsageError: The run has no model yet, or the images are of another shape or
                type.

        Example:
            >>> run.predict(images).argmax(-1)
        """
        from kerascnn.prediction import predictor

        return predictor.Predictor(self).probabilities(images, views)

    def evaluate(self, dataset: str | None = None, views: bool = False) -> Figures:
        """Measure the run's model on its test images, or on another set's.

        Args:
            dataset: As in `kerascnn.train`; its classes must have the run's names.
            views: As in `predict`.

        Returns:
            `accuracy`, `interval`, `crossentropy`, `error` (calibration), `classes`.

        Raises:
            UsageError: The run has no model yet, or the set does not fit it.
        """
        from kerascnn.prediction import evaluation, predictor

        own = predictor.Predictor(self)
        return evaluation.evaluate(own, dataset, with_views=views)

    def export(self, to: str, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the model as `kerascnn export --to` does, and return the file.

        Raises:
            UsageError: A package is missing, a layer has no mapping, the logits are not
                Keras's, or the file can't be written.
        """
        from kerascnn.export import formats

        return formats.export(self, to, path and expanded(path)).file

    def _repr_png_(self) -> str | None:
        """What a notebook shows: the curve, if there is one."""
        with contextlib.suppress(UsageError):
            return base64.b64encode(self._curve().read_bytes()).decode()
        return None

    def _curve(self) -> Path:
        path = self.folder / "curve.png"
        if not path.exists():
            if not self.metrics:
                raise UsageError(f"{self.folder} has no curve: no epoch has ended.")
            from kerascnn.report import plots

            plots.curve(self)
        return path

    def write_config(self, config: dict[str, Any]) -> None:
        """Record what the run starts with."""
        self._write("config.json", config)

    def write_result(self, result: dict[str, Any]) -> None:
        """Record how the run ended."""
        self._write("result.json", result)

    def write_recorded(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write what was recorded inside the training, whole or not at all."""
        import numpy as np

        with self.writing("record.npz") as path:
            temporary = self.folder / ".record.partial.npz"
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
            temporary.replace(path)

    def remove_recorded(self) -> None:
        """Remove it, for a run that goes back to a checkpoint, which has its own."""
        with self.writing("record.npz") as path:
            path.unlink(missing_ok=True)

    def keep_end(self, epochs: int) -> Path:
        """Move how the run has ended into a folder of its own, which is a run too."""
        kept = self.folder / ended(epochs)
        with self.writing(kept.name):
            if not kept.exists():
                partial = self.folder / f".{kept.name}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                for name in _OF_THE_END:
                    if (self.folder / name).exists():
                        shutil.copy2(self.folder / name, partial / name)
                        sync(partial / name)
                partial.rename(kept)
            names = {path.name for path in self.folder.glob("model*")}
            for name in (names | {"demo.html", "README.md"}).difference(_OF_THE_END):
                with contextlib.suppress(FileNotFoundError):
                    shutil.move(self.folder / name, kept / name)
            (self.folder / "result.json").unlink()
        return kept

    def add_metrics(self, metrics: dict[str, Any]) -> None:
        """Append the record of one epoch."""
        with (
            self.writing("metrics.jsonl") as path,
            path.open("a", encoding="utf-8") as file,
        ):
            file.write(as_json(metrics) + "\n")

    def replace_metrics(self, metrics: list[dict[str, Any]]) -> None:
        """Write the records of the epochs anew, for a run that goes back to them."""
        text = "".join(as_json(record) + "\n" for record in metrics)
        self.write_text("metrics.jsonl", text)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing this run as long as the block lasts."""
        # The lock goes with the process, so a killed one leaves none behind. Windows
        # has no such locks, and some network file systems have none: nothing is locked
        # there.
        try:
            import fcntl
        except ImportError:
            yield
            return
        try:
            descriptor = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise UsageError(f"{self.folder} is no run: {error.strerror}.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise UsageError(
                f"another process is training the run {self.folder}: wait for it, or "
                "stop it first."
            ) from error
        except OSError:
            pass
        try:
            yield
        finally:
            os.close(descriptor)

    def _locked(self) -> bool:
        """Whether another process holds the lock."""
        try:
            import fcntl
        except ImportError:
            return False
        with contextlib.suppress(OSError):
            descriptor = os.open(self.folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(descriptor)
        return False

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give the path of a file of the run; an error in writing it names the file."""
        path = self.folder / name
        try:
            yield path
        except OSError as error:
            raise UsageError(
                f"{path} can't be written ({error.strerror or error}); what the run "
                "wrote before is still there."
            ) from error

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not (self.folder / "config.json").exists():
            if inside := [str(run.folder) for run in below(self.folder, most=2)]:
                raise UsageError(
                    f"{self.folder} is no run, and holds {len(inside):,}: name one, "
                    f"of {listed(inside)}."
                )
            raise UsageError(
                f"there is no run in {self.folder}: expected the folder that a run "
                "printed at its end, such as runs/fashion_mlp/20261124-101500."
            )
        try:
            return _record(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{path} can't be read: {error}") from error

    def _write(self, name: str, value: dict[str, Any]) -> None:
        self.write_text(name, as_json(value, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run whole or not at all."""
        with self.writing(name) as path:
            temporary = self.folder / f".{name}.partial"
            temporary.write_text(text, "utf-8")
            sync(temporary)
            temporary.replace(path)


def check_new(out: Path) -> None:
    """Raise `UsageError` where the folder of a new run holds files."""
    out = expanded(out)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a new folder.")
    # A run that was killed in its first moments left nothing but this.
    here = {path.name for path in out.iterdir()} if out.exists() else set()
    if here - {".config.json.partial"}:
        raise UsageError(
            f"--out {out} already holds files; name a new folder, so that "
            "nothing is overwritten."
        )


def evaluated(record: dict[str, Any], name: str) -> float | None:
    """Return what an epoch or a run measured on the images it was evaluated on."""
    # Held-out images have `validation_` before the name, test images `test_`. Older
    # runs say `test_` of both.
    held_out = f"validation_{name}"
    return record[held_out if held_out in record else f"test_{name}"]


def peeked(
    metrics: Sequence[Mapping[str, Any]], result: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return what others report of a run: its best epoch on the test set.

    Args:
        metrics: The run's epochs.
        result: How it ended.

    Returns:
        `"epoch"`, its `"accuracy"` (0 to 1), and by how much it is above the result,
        the `"peeking_bonus"`: 0 where no epoch was better. `None` where the test set
        was not evaluated, or the result is not of the last epoch's weights.
    """
    ours = None if result.get("evaluated_again") else result.get("test_accuracy")
    seen = [(r.get("test_accuracy"), r.get("epoch")) for r in metrics]
    known = [(accuracy, epoch) for accuracy, epoch in seen if accuracy is not None]
    if ours is None or not known or "validation_accuracy" in metrics[-1]:
        return None
    accuracy, epoch = max(known, key=lambda pair: pair[0])
    if accuracy <= ours:
        accuracy, epoch = ours, result.get("epochs", epoch)
    return {"epoch": epoch, "accuracy": accuracy, "peeking_bonus": accuracy - ours}


def changes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run changes in its recipe: options and their values."""
    options = config.get("options") or {}
    return {
        name: config[name] if name in config else options.get(name, True)
        for name in config.get("overrides", [])
    }


def ended(epochs: int) -> str:
    """Return the folder inside a run's that keeps how it ended after some epochs."""
    return f"after-{epochs}-epoch{'s' * (epochs != 1)}"


def trained_on(config: Mapping[str, Any]) -> list[str]:
    """Say of a run that has trained on after its end what that means, if it has."""
    if not (ends := config.get("trained_on_after")):
        return []
    kept = ", ".join(map(ended, ends))
    after = " and ".join(map(str, ends))
    said = f"Trained on after its end at epoch {after}, kept in {kept}."
    if config.get("schedule") == "of the longer run":
        return [
            said,
            "Its learning rate follows the steps of the whole run: after epoch "
            f"{ends[-1]} that of {config['epochs']} epochs, so a run of so many from "
            "its start ends otherwise.",
        ]
    return [said, f"It ends as one of {config['epochs']} epochs from its start."]


def fine_tuned(config: Mapping[str, Any]) -> list[str]:
    """Say what a run began with and what it does not train, if it is fine-tuned."""
    said, frozen = [], config.get("frozen")
    if began := config.get("began_with"):
        taken, fresh = began["taken"], began["fresh"]
        count = f"{len(taken)} of {len(taken) + len(fresh)} layers"
        said.append(f"Weights of {began['file']} in {count}: {listed(taken)}.")
        if fresh:
            reasons = [f"{name} ({why})" for name, why in fresh.items()]
            said.append(f"Beginning fresh: {listed(reasons)}.")
    if frozen:
        said.append(f"Frozen, not trained: {listed(frozen)}.")
    return said


def below(folder: Path, most: int | None = None) -> list[Run]:
    """Return the runs in a folder and `most` levels of folders, ordered by path."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if {"config.json", "metrics.jsonl", "result.json"} & {*files}:
            found.append(Run(Path(parent)))
            folders.clear()
        if most == len(Path(parent).relative_to(folder).parts):
            folders.clear()
    return found


def sync(path: Path) -> None:
    """Return when what was written to a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _new_folder(parent: Path) -> Path:
    start = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1, 1000):
        folder = parent / (start if attempt == 1 else f"{start}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue  # another run began in the same second
        return folder
    raise UsageError(f"{parent} holds a thousand runs of this second.")


def _record(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"it holds {value!r:.40} instead of names and values")
    return value
