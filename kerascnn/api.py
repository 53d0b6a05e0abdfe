"""Training from Python: `kerascnn.train` and `kerascnn.resume`.

The command line trains through the same function, `completed`, but listens to signals
and prepares the process; from here no signal handler is installed, the process is not
replaced, and nothing of it is changed for good. TensorFlow's seed, where that is the
backend, stays as it was set: TensorFlow tells it nobody.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kerascnn import UsageError, text
from kerascnn import recipe as recipes
from kerascnn.process import hosts
from kerascnn.process.signals import Interrupted
from kerascnn.recipe import Recipe
from kerascnn.runs import Run

if TYPE_CHECKING:
    import numpy as np

    from kerascnn.training.options import Overrides

Folder = str | os.PathLike[str] | None


def train(
    recipe: Recipe | str | Path,
    *,
    epochs: int | None = None,
    budget: str | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    remat: bool = False,
    learning_rate: float | None = None,
    seed: int = 0,
    limit: int | None = None,
    dataset: str | None = None,
    image_size: int | None = None,
    skip_bad: bool = False,
    label_smoothing: float | None = None,
    class_weights: bool = False,
    validation: float | None = None,
    weights: str | None = None,
    freeze: tuple[str, ...] = (),
    data: Literal["auto", "full", "sample"] = "auto",
    data_dir: Folder = None,
    cache_dir: Folder = None,
    engine: Literal["auto", "epoch", "stream", "fit"] = "auto",
    workers: int | None = None,
    devices: int | None = None,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    accelerate: bool = True,
    backend: str | None = None,
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32",
    out: Folder = None,
    checkpoint_minutes: float = 10.0,
    on_nan: Literal["stop", "skip"] = "stop",
    deterministic: bool = False,
    record: str | None = None,
    log: str | None = None,
    report: bool = True,
    resume: Folder = None,
    force: bool = False,
    quiet: bool = False,
) -> Run:
    """Train a recipe and write its run folder.

    Random seeds, the dtype policy, warnings and JAX's settings are afterwards what they
    were before, but for TensorFlow's seed. Ctrl-C, or a notebook's "interrupt", ends
    the run where it is; `kerascnn.resume` goes on from what was saved last.

    Args:
        recipe: A recipe, its name, or the path of its file.
        epochs: Passes over the training set (default: the recipe's).
        budget: A time, such as `"10min"`, within which the run ends, by fewer epochs.
        batch_size: Images a step (default: the recipe's).
        accumulate: Compute a step in so many parts, in the memory of one (JAX).
        remat: Compute activations again in the backward pass, not keep them (JAX).
        learning_rate: The optimiser's, before any decay (default: the recipe's).
        seed: Decides the initial weights, the order of the images and random draws.
        limit: Use the first so many training and test images only.
        dataset: A name of tensorflow-datasets, or the path of images of yours, a
            folder, CSV, Parquet or .npz (default: the recipe's).
        image_size: Pixels of height and width for images and network (default: its).
        skip_bad: Leave out files of `dataset` that can't be used, and count them.
        label_smoothing: The share of each label that the loss spreads over all classes,
            such as 0.1 (default: the recipe's).
        class_weights: Weigh classes in the loss by how few training images they have.
        validation: Evaluate on this share of the training set, 0 to 1, held out of it.
        weights: Begin with those of a run's folder, a `.keras` file or a network of the
            package (`"cifar10"`), in the layers whose name and shape are the same.
        freeze: Names of layers to leave untrained, or patterns: `("conv2d*",)`.
        data: `"full"`, the bundled `"sample"`, or `"auto"`: the full set if it is here.
        data_dir: Where tensorflow-datasets keeps its sets.
        cache_dir: Where the decoded images are kept.
        engine: `"epoch"`, compiled whole (JAX); `"stream"`, the same on images that are
            decoded as they are needed; `"fit"`, Keras's own; `"auto"`: which fits.
        workers: Processes that decode a stream's images (default: half of the cores).
            They begin as `multiprocessing`'s do, without running a script's file again.
        devices: So many, of each process, share every batch (JAX; default: all GPUs).
        coordinator: Of several processes that train a run, `"HOST:PORT"` of the first.
        num_processes: How many they are.
        process_id: Which one this is, from 0; it writes the run.
        accelerate: Fast convolution gradients on a CPU (JAX).
        backend: Must be Keras's; the environment's `KERAS_BACKEND` chooses it before.
        precision: Keras's dtype policy for the network.
        out: The run's folder (default: `runs/<recipe>/<time>` below the present one).
        checkpoint_minutes: Minutes between checkpoints inside an epoch; 0: every step.
        on_nan: Where a loss or gradient is not finite, `"stop"` or `"skip"` the step.
        deterministic: Make a GPU compute the same bits each time.
        record: What `run.recorded` keeps: `"off"`, nothing; `"light"`, steps; `"full"`
            (default: the environment's `KERASCNN_RECORD`), steps and layers.
        log: Write the epochs for others: `"csv"`, `"tensorboard"`, `"csv,tensorboard"`.
        report: Write `report.html` at the end, unless `KERASCNN_REPORT` is 0.
        resume: The folder of a run to go on with; options given here replace its own.
        force: Train also where memory is short by XLA's plan; go on with `resume` also
            where recipe, data, device or versions have changed.
        quiet: Print the result, warnings and errors alone.

    Returns:
        The finished run: `run.show()`, `run.model()`, `run.history`, `run.result`.

    Raises:
        UsageError: An option does not fit, or the data are not to be had.
        NotFiniteError: The loss or a gradient was not finite.
        KeyboardInterrupt: Ctrl-C; the message says how to go on.

    Example:
        >>> run = kerascnn.train("fashion_mlp", epochs=2, data="sample")
        >>> run.result["test_accuracy"]
    """
    return _trained(**locals())


def resume(
    run: Run | Folder,
    *,
    epochs: int | None = None,
    learning_rate: float | None = None,
    data_dir: Folder = None,
    cache_dir: Folder = None,
    checkpoint_minutes: float | None = None,
    on_nan: Literal["stop", "skip"] | None = None,
    workers: int | None = None,
    devices: int | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Run:
    """Go on with a run that was stopped, to the bits that it would have reached.

    The run's own options hold, but for those that are given; see `train` for what they
    mean. A run that has finished trains on with more `epochs`, and how it had ended is
    kept in a folder inside its own, such as `after-20-epochs`. Otherwise `epochs` and
    `learning_rate` need `force`, because they change the run's numbers. A recipe that
    no file holds goes on with `train(recipe, resume=folder)`.

    Args:
        run: The run or its folder.
        epochs: Of the whole run, those before its end included.
        force: Go on also where what decides its numbers has changed.
        quiet: Print the result, warnings and errors alone.

    Returns:
        The finished run.

    Raises:
        UsageError: The folder holds no run that can go on, or its recipe is gone.
        NotFiniteError: The loss or a gradient was not finite.
        KeyboardInterrupt: Ctrl-C; the message says how to go on.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    folder = run.folder if isinstance(run, Run) else run
    given["resume"] = folder
    del given["run"], given["quiet"]
    from kerascnn.training.options import Overrides
    from kerascnn.training.resume import recipe_of

    options = Overrides(**given)
    return _from_python(recipe_of(Run(options.resume)), options, quiet, given)


def predict(
    run: Run | Folder, images: np.ndarray | Folder | Sequence[Folder]
) -> np.ndarray:
    """Return the probabilities of the classes for images, as arrays or files.

    Args:
        run: A run, its folder, or the name of a network that comes with the package:
            `"cifar10"`, `"fashion"`.
        images: uint8 `(n, height, width, channels)`, as `Run.predict` takes them; or an
            image file, a folder of them, or several of either, which are brought to the
            network's size by the rule of training.

    Returns:
        float64, `(n, classes)`, each row of sum 1, in the order of the files.

    Raises:
        UsageError: There is no such run, or an image can't be used.

    Example:
        >>> kerascnn.predict("cifar10", "cat.png").argmax(-1)
    """
    import numpy as np

    from kerascnn.prediction import files, predictor, shipped

    found = run if isinstance(run, Run) else shipped.run(Path(run or ""))
    own = predictor.Predictor(found)
    if isinstance(images, np.ndarray):
        return own.probabilities(images)
    places = [images] if isinstance(images, str | os.PathLike) else images or []
    rows = [np.zeros((0, len(own.classes)))]
    named, refused = files.find(map(Path, places))
    if refused:
        raise UsageError(refused[0])
    for pictures in files.read(named, own.shape):
        for each in pictures:
            if each.image is None:
                raise UsageError(each.wrong)
        found: dict[int, np.ndarray] = {}
        for group in files.of_one_size(pictures):
            shares = own.probabilities(np.stack([each.image for each in group]))
            found |= zip(map(id, group), shares, strict=True)
        rows += [found[id(each)][None] for each in pictures]
    return np.concatenate(rows)


def completed(
    recipe: Recipe,
    overrides: Overrides,
    given: Collection[str] | None = None,
    listen: bool = True,
) -> Run:
    """Train a recipe; draw the curve, print the summary, write the page at the end."""
    from kerascnn.prediction import shipped
    from kerascnn.report import plots, summary
    from kerascnn.training import run as training_run

    chosen = None
    group = overrides.coordinator, overrides.num_processes, overrides.process_id
    if overrides.budget is not None and hosts.wanted(*group):
        raise UsageError(
            "--budget measures the steps of one process: leave it out for several."
        )
    if overrides.budget is not None and overrides.resume is None:
        from kerascnn.training import budget

        overrides, chosen = budget.fitted(recipe, overrides)
    run = training_run.train(
        *(recipe, overrides, given),
        draw=plots.curve,
        tell=summary.tell,
        open_weights=shipped.weights,
        listen=listen,
        budget=chosen,
    )
    wanted = overrides.report and os.environ.get("KERASCNN_REPORT") != "0"
    if wanted and hosts.is_first():
        _report(run)
    return run


def _report(run: Run) -> None:
    """Write a finished run's page and name it; the run stands also where that fails."""
    try:
        print(f"  page            {run.report()}", flush=True)
    except Exception as error:
        command = f"kerascnn report {shlex.quote(str(run.folder))}"
        why = text.one_line(error)
        text.warn(f"The page was not written ({why}). `{command}` tries again.")


def _trained(recipe: Recipe | str | Path, quiet: bool, **options: Any) -> Run:
    from kerascnn.training.options import Overrides

    if not isinstance(recipe, Recipe):
        recipe = recipes.load(recipe)
    return _from_python(recipe, Overrides(**options), quiet)


def _from_python(
    recipe: Recipe,
    overrides: Overrides,
    quiet: bool,
    given: Collection[str] | None = None,
) -> Run:
    """Train without signal handlers, and put back what was set before."""
    try:
        with _put_back(), text.quietly(quiet):
            return completed(recipe, overrides, given, listen=False)
    except KeyboardInterrupt as stop:
        run = getattr(stop, "run", None)
        if run is None:  # before there was a folder
            raise
        line = f"stopped; to go on: kerascnn.resume({str(run.folder)!r})"
        raise Interrupted(signal.SIGINT, line) from None


@contextlib.contextmanager
def _put_back() -> Iterator[None]:
    """Put back random seeds, warnings and the settings of backends after a block."""
    import keras
    import numpy as np
    from keras.src.backend.common import global_state

    backend = keras.backend.backend()
    drawn = random.getstate(), np.random.get_state()  # noqa: NPY002
    kerass = {
        name: global_state.get_global_attribute(name)
        for name in ("global_random_seed", "global_seed_generator")
    }
    jaxs = dict(sys.modules["jax"].config.values) if backend == "jax" else {}
    torch: Any = sys.modules["torch"] if backend == "torch" else None
    if torch:
        torchs = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])  # noqa: NPY002
        for name, value in kerass.items():
            global_state.set_global_attribute(name, value)
        for name, value in jaxs.items():
            if sys.modules["jax"].config.values[name] != value:
                sys.modules["jax"].config.update(name, value)
        if torch:
            torch.set_rng_state(torchs[0])
            torch.use_deterministic_algorithms(torchs[1])
