"""What the command line may change about a training run."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import re
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from kerascnn import UsageError, text
from kerascnn.process.backend import BACKENDS

RECORDS = ("off", "light", "full")
LOGS = ("csv", "tensorboard")

# The help of an option that is None by default says in words what that means.
_arg = functools.partial(tyro.conf.arg, help_behavior_hint="")
Integer = Annotated[int | None, _arg(metavar="N")]
Number = Annotated[float | None, _arg(metavar="X")]
Folder = Annotated[Path | None, _arg(metavar="FOLDER")]
# Not a Literal: of those that may be left out, tyro also offers None.
Backend = Annotated[str | None, _arg(metavar=f"{{{','.join(BACKENDS)}}}")]
Logs = Annotated[str | None, _arg(metavar=",".join(LOGS))]
Recorded = Annotated[str | None, _arg(metavar=f"{{{','.join(RECORDS)}}}")]

_MOST_SEEDS = 1000
_MOST_WORKERS = 256
_LARGEST = 4096  # pixels, of --image-size


@dataclasses.dataclass(frozen=True)
class Overrides:
    """Train the recipe. Every option has the recipe's own value as its default."""

    epochs: Integer = None
    """Passes over the training set."""
    budget: Annotated[str | None, _arg(metavar="TIME")] = None
    """Choose the epochs, at most the recipe's, so that the run ends within this time,
    such as 90s, 10min or 1h30min: compiling, training and evaluation, by steps that are
    measured here. A learning rate that falls by the epoch then ends where the recipe's
    does. The run's page comes after it."""
    batch_size: Integer = None
    """Images a step."""
    accumulate: Annotated[int, tyro.conf.arg(metavar="K")] = 1
    """Compute each batch in K equal parts, one after the other, and update the weights
    once, by the gradient of all: a step takes the memory of a part. BatchNorm takes its
    mean and variance of each part."""
    remat: bool = False
    """Compute activations again in the backward pass instead of keeping them, but for
    the last block's (rematerialisation): less memory, more time (JAX)."""
    learning_rate: Number = None
    """The optimiser's learning rate, before any decay."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Decides the initial weights, the order of the images and every random draw."""
    limit: Integer = None
    """Use the first N training and the first N test images only."""
    dataset: Annotated[str | None, _arg(metavar="SET")] = None
    """Train on another set: a name of tensorflow-datasets, or images of yours: a
    folder, such as ./pets, with a folder for each class or train/CLASS/ and
    test/CLASS/, a CSV or Parquet of paths and labels, an .npz of arrays."""
    image_size: Integer = None
    """Bring the images to N x N pixels, cut to their centre and scaled, and rebuild the
    network for them (default: the size that the recipe takes)."""
    skip_bad: bool = False
    """Leave out files of --dataset that can't be used, and count them, instead of
    refusing the set."""
    label_smoothing: Number = None
    """The share of each label, 0 to below 1, that the loss spreads over all classes,
    such as 0.1."""
    class_weights: bool = False
    """Weigh each class in the loss by how few training images it has, so that all
    classes have the same say."""
    validation: Number = None
    """Hold out this share of the training set, such as 0.1, of each class alike, and
    evaluate on it instead of the test set: to choose a setting by."""
    weights: Annotated[str | None, _arg(metavar="RUN|FILE")] = None
    """Begin with the weights of a run, of a .keras file or of a network that comes with
    the package, in the layers whose name and shape are the same (fine-tuning)."""
    freeze: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], _arg(metavar="PATTERN")
    ] = ()
    """Leave the layers untrained whose names match, such as 'conv2d*'. May be given
    again for more. A frozen BatchNorm keeps its statistics, and normalises by them."""
    data: Literal["auto", "full", "sample"] = "auto"
    """auto: the full set if it is on this machine, else the bundled sample;
    full: the full set, downloaded if need be; sample: the bundled sample."""
    data_dir: Folder = None
    """Where tensorflow-datasets keeps its sets (default: TFDS_DATA_DIR, else
    ~/tensorflow_datasets)."""
    cache_dir: Folder = None
    """Where the decoded images are kept (default: the platform's cache folder)."""
    engine: Literal["auto", "epoch", "stream", "fit"] = "auto"
    """epoch: data on the device, whole step compiled (JAX); stream: the same step, and
    the images are decoded as they are needed, so that memory holds a few batches;
    fit: keras.Model.fit; auto: epoch where it can, stream where memory is too small."""
    workers: Integer = None
    """Processes that decode the images of a stream; 0: the training process decodes
    them (default: half of the cores). Losses and weights do not depend on them."""
    devices: Integer = None
    """Devices, of each process, that share every batch (default: all GPUs; of a CPU
    the cores, up to four, where that pays). Losses and weights are one device's but
    for rounding."""
    coordinator: Annotated[str | None, _arg(metavar="HOST:PORT")] = None
    """Train with several processes, on one host or several, that all run this command:
    the address of process 0 and a free port there (default: KERASCNN_COORDINATOR, or
    what SLURM's srun or Open MPI's mpirun say)."""
    num_processes: Integer = None
    """How many processes train together (default: KERASCNN_NUM_PROCESSES)."""
    process_id: Integer = None
    """This process's number among them, from 0 (default: KERASCNN_PROCESS_ID, or
    Kubernetes' JOB_COMPLETION_INDEX). Process 0 writes the run."""
    accelerate: bool = True
    """Fast convolution gradients on a CPU (JAX)."""
    backend: Backend = None
    """Keras's backend (default: KERAS_BACKEND, else jax)."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Keras's dtype policy."""
    out: Folder = None
    """The run's folder (default: runs/<recipe>/<time>)."""
    checkpoint_minutes: Annotated[float, tyro.conf.arg(metavar="X")] = 10.0
    """Save the run this often inside an epoch, and after each epoch; 0: after every
    step (on a GPU, every call of up to 50)."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What to do with a step whose loss or gradient is not finite. stop: end the run;
    skip: leave the step out, and end the run after ten in a row. The weights never
    see it."""
    deterministic: bool = False
    """Make a GPU compute the same bits each time. It costs speed: XLA takes only
    kernels that add in a fixed order and tries out no others; TensorFlow and PyTorch
    refuse operations that have none. A CPU computes the same bits anyway."""
    record: Recorded = None
    """What to keep of the training's inside in record.npz (default: KERASCNN_RECORD in
    the environment, else full). light: each step's loss, learning rate and gradient
    norm; full: each epoch's dead units, ratios and statistics by layer too."""
    log: Logs = None
    """Write each epoch's numbers for other programs too. csv: metrics.csv in the run's
    folder; tensorboard: its events, in the folder tensorboard there."""
    report: bool = True
    """Write the page of the run, report.html, when it has finished."""
    resume: Folder = None
    """Go on with the run in this folder, with its own options."""
    force: bool = False
    """Train also where the memory is too small by XLA's plan; with --resume go on also
    where the recipe, the data, the device or versions have changed, or over a run whose
    checkpoints are gone, from its beginning."""

    def __post_init__(self):
        for name, kind in typing.get_type_hints(Overrides).items():
            object.__setattr__(self, name, _as(kind, getattr(self, name), name))
        text.check_positive(self, "epochs", "batch_size", "limit", "accumulate")
        text.check_positive(self, "devices", "num_processes")
        if self.image_size is not None and not 1 <= self.image_size <= _LARGEST:
            raise UsageError(
                f"--image-size {self.image_size}: expected 1 to {_LARGEST} pixels."
            )
        for name in ("epochs", "batch_size", "limit"):
            value = getattr(self, name) or 0
            if value >= 2**31:
                option = name.replace("_", "-")
                raise UsageError(f"--{option} {value}: expected less than {2**31}.")
        if self.budget is not None:
            parsed_seconds(self.budget, "--budget")
        if self.backend is not None:
            text.choose(self.backend, BACKENDS, "backend")
        if self.record is not None:
            text.choose(self.record, RECORDS, "record")
        for name in self.log.split(",") if self.log is not None else ():
            text.choose(name, LOGS, "log")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise UsageError(
                f"--learning-rate {self.learning_rate}: expected a number above 0."
            )
        if self.validation is not None and not 0 < self.validation < 1:
            raise UsageError(
                f"--validation {self.validation}: expected a share between 0 and 1, "
                "such as 0.1."
            )
        if self.label_smoothing is not None and not 0 <= self.label_smoothing < 1:
            raise UsageError(
                f"--label-smoothing {self.label_smoothing}: expected a share from 0 to "
                "below 1, such as 0.1."
            )
        if self.workers is not None and not 0 <= self.workers <= _MOST_WORKERS:
            raise UsageError(
                f"--workers {self.workers}: expected 0 to {_MOST_WORKERS}."
            )
        if self.workers is not None and self.engine in ("epoch", "fit"):
            raise UsageError(
                f"--workers decode the images of a stream, and --engine {self.engine} "
                "keeps them in memory: leave one of the two out."
            )
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed {self.seed}: expected 0 to {2**32 - 1}.")
        if not 0 <= self.checkpoint_minutes < float("inf"):
            raise UsageError(
                f"--checkpoint-minutes {self.checkpoint_minutes}: expected 0 or more."
            )

    @property
    def recorded(self) -> str:
        """What of the training's inside is kept: one of `RECORDS`."""
        if self.record is not None:
            return self.record
        name = "KERASCNN_RECORD"
        return text.choose(os.environ.get(name) or "full", RECORDS, name)

    @property
    def changed(self) -> list[str]:
        """Names of the options that make the run another case than the recipe's."""
        # The seed, and where the data or the run lie, do not.
        deciding = (
            *("epochs", "batch_size", "accumulate", "learning_rate", "limit"),
            "validation",
            *("dataset", "image_size", "label_smoothing", "class_weights"),
            "precision",
            *("weights", "freeze"),
        )
        plain = Overrides()
        return [n for n in deciding if getattr(self, n) != getattr(plain, n)]


@dataclasses.dataclass(frozen=True)
class Command(Overrides):
    """Train the recipe. Every option has the recipe's own value as its default."""

    seeds: Annotated[str | None, _arg(metavar="SEEDS")] = None
    """Train with each of these seeds in turn, such as 0-4 or 0,3,7, a run each, and
    give mean, deviation and interval. The same command, stopped, goes on where it was:
    seeds that have finished are not trained again."""
    json: bool = False
    """With --seeds: print the figures as JSON, all else on standard error: recipe,
    runs (as `kerascnn runs --json`), evaluated_on, learned (seeds better than
    guessing), mean, deviation, interval (low, high), peeking_bonus, course. Shares are
    0 to 1; null is what is not known."""

    def __post_init__(self):
        super().__post_init__()
        if self.seeds is not None:
            parsed_seeds(self.seeds)
            if self.budget is not None:
                raise UsageError(
                    "--budget is for one run: leave out --budget or --seeds, or give "
                    "all seeds the same --epochs."
                )
            if self.seed or self.resume:
                other = "--seed" if self.seed else "--resume"
                raise UsageError(
                    f"{other} is for one run: leave out {other} or --seeds."
                )
        elif self.json:
            raise UsageError("--json is for --seeds: give the seeds, such as 0-4.")

    @property
    def overrides(self) -> Overrides:
        """The options of each run."""
        names = [field.name for field in dataclasses.fields(Overrides)]
        return Overrides(**{name: getattr(self, name) for name in names})


def parsed_seeds(words: str) -> list[int]:
    """Return the seeds that `"0-4"`, `"0,3,7"` or `"0-2,9"` means, each once."""
    found: dict[int, None] = {}
    for word in words.split(","):
        ends = re.fullmatch(r" *([0-9]{1,10})(?:-([0-9]{1,10}))? *", word)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (1, 0)
        if first > last or last >= 2**32:
            raise UsageError(
                f"--seeds {words}: expected whole numbers, such as 0-4 or 0,3,7, each "
                f"0 to {2**32 - 1}."
            )
        if len(found) + last - first >= _MOST_SEEDS:
            raise UsageError(f"--seeds {words}: expected {_MOST_SEEDS} at most.")
        found |= dict.fromkeys(range(first, last + 1))
    return list(found)


def parsed_seconds(words: str, option: str) -> float:
    """Return the seconds that `"90s"`, `"10min"`, `"1.5h"` or `"1h30min"` means."""
    parts = re.fullmatch(
        r" *(?:([0-9.]+) *h)? *(?:([0-9.]+) *min)? *(?:([0-9.]+) *s)? *", words
    )
    try:
        hours, minutes, seconds = (float(part or 0) for part in parts.groups())  # type: ignore[union-attr]
        found = 3600 * hours + 60 * minutes + seconds
    except (ValueError, AttributeError):
        found = 0.0
    if not 0 < found < float("inf"):
        raise UsageError(
            f"{option} {words}: expected a time with its unit, such as 90s, 10min or "
            "1h30min."
        )
    return found


def _as(kind: Any, value: Any, name: str) -> Any:
    """Return an option's value as its type has it: NumPy's numbers as Python's own."""
    if typing.get_origin(kind) is Literal:
        return text.choose(str(value), typing.get_args(kind), name)
    if typing.get_origin(kind) is tuple:
        words = (value,) if isinstance(value, str) else value
        if isinstance(words, list | tuple) and all(isinstance(w, str) for w in words):
            return tuple(words)
        option = name.replace("_", "-")
        raise UsageError(f"--{option} {value!r}: expected words.")
    kinds = typing.get_args(kind) or (kind,)
    if value is None and type(None) in kinds:
        return None
    convert, expected = _TYPES[kinds[0]]
    try:
        if (kinds[0] is bool) != isinstance(value, bool):
            raise TypeError
        return convert(value)
    except (TypeError, ValueError):
        option = name.replace("_", "-")
        raise UsageError(f"--{option} {value!r}: expected {expected}.") from None


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise TypeError
    return float(value)


# How an option of a type is taken, and what to say where that fails.
_TYPES: dict[type, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (operator.index, "a whole number"),
    float: (_number, "a number"),
    str: (os.fspath, "a word"),
    Path: (Path, "a folder's path"),
}
