"""One training run, from a recipe to a finished run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerascnn import UsageError, data, describe, runs
from kerascnn.data import usual
from kerascnn.data.decoding import RULE
from kerascnn.data.streamed import StreamedImages, StreamedSplit
from kerascnn.engine import finite, fit, views
from kerascnn.engine.recorder import Recorder
from kerascnn.process import (
    determinism,
    hosts,
    machine,
    memory,
    prepare,
    settings,
)
from kerascnn.process.backend import say_missed_backend, spare_tensorflow
from kerascnn.process.signals import Signals
from kerascnn.text import one_line, say, show, warn
from kerascnn.training import (
    build,
    checkpoint,
    devices,
    fine_tuning,
    forecast,
    images,
    logs,
    resume,
    room,
    shared,
)
from kerascnn.training.autosave import Autosave, check_start
from kerascnn.training.case import Case, case_of, fitted
from kerascnn.training.options import Overrides
from kerascnn.training.progress import Progress, Record, choosing_by, learning_rate

if TYPE_CHECKING:
    from kerascnn.recipe import Recipe

# What the backends say where memory is short: they have no exception in common.
_MEMORY = re.compile(
    "MemoryError|RESOURCE_EXHAUSTED|ResourceExhausted|out of memory|allocate memory",
    re.IGNORECASE,
)

# Bytes of a stream's test images, below which several views are taken of them.
_VIEWED = 256e6
# The share of the training set whose loss in each epoch is worth a line.
_MUCH = 0.05


def train(
    recipe: Recipe,
    overrides: Overrides | None = None,
    given: Collection[str] | None = None,
    *,
    draw: Callable[[runs.Run], object] = lambda run: None,
    tell: Callable[[runs.Run], object] = lambda run: None,
    open_weights: Callable[[str], fine_tuning.Source] = fine_tuning.opened,
    listen: bool = True,
    budget: Mapping[str, Any] | None = None,
) -> runs.Run:
    """Train a recipe, write its run folder and return the run.

    The test set is evaluated after every epoch, for the curve, and decides nothing: the
    result is the last epoch's. With `Overrides.validation`, a part of the training set
    takes its place, and the record says `validation_accuracy`. Where the weights change
    after the last epoch's evaluation, as an optimiser with `use_ema` and some callbacks
    have it, they are evaluated once more.

    `given` names the overrides that replace a resumed run's own; `draw` is called with
    the run before its result is written, `tell` after; `open_weights` finds what
    `Overrides.weights` names. With `listen`, Ctrl-C and
    SIGTERM stop the run after a step, and SIGUSR1 saves it; without,
    `KeyboardInterrupt` ends it wherever it is, and what was saved before is what there
    is to go on from. `budget` is what the record says of how a new run's epochs were
    chosen.
    """
    spare_tensorflow()
    say_missed_backend()
    if others := settings.others():
        said = ", ".join(f"{name}={value!r}" for name, value in others.items())
        say(f"Keras's settings {said} do not hold here: recipes have its defaults.")
    overrides = overrides or Overrides()
    shared.join(overrides)
    with shared.together(), settings.computing(say):
        # Before it is entered it notes nothing.
        signals = Signals(warn)
        heard = signals if listen else contextlib.nullcontext(signals)
        try:
            if overrides.resume is None:
                return _train(
                    *(recipe, overrides, None, heard, draw, tell, open_weights, budget)
                )
            run = runs.Run(overrides.resume)
            with run.lock() if hosts.is_first() else contextlib.nullcontext():
                overrides = resume.options(run, overrides, given)
                return _train(recipe, overrides, run, heard, draw, tell, open_weights)
        except ImportError as error:  # of what a callback or a layer imports when used
            raise UsageError(
                f"{recipe.name} needs what can't be imported here "
                f"({one_line(error, most=300)}): install that package, or take out "
                "of the recipe what needs it."
            ) from error


def _train(
    recipe: Recipe,
    overrides: Overrides,
    run: runs.Run | None,
    heard: contextlib.AbstractContextManager[Signals],
    draw: Callable[[runs.Run], object],
    tell: Callable[[runs.Run], object],
    open_weights: Callable[[str], fine_tuning.Source],
    budget: Mapping[str, Any] | None = None,
) -> runs.Run:
    """Train a recipe, in a new folder or from where a run has stopped."""
    case = case_of(recipe, overrides)
    config = _config(case) | ({"budget": dict(budget)} if budget else {})
    with contextlib.ExitStack() as stack:
        run, start, renewed = _opened(run, case, config, open_weights, stack)
        _announce(case, run.config, config["placement"])
        if start:
            case = _from(start, case)
        _forecast(case)
        trained_on = min(case.steps * case.plan.batch_size, len(case.train))
        record = Record(run, trained_on, case.kept, validation=case.held_out)
        recorder = Recorder(
            overrides.recorded,
            *(case.kept, case.train.images, case.steps, run.write_recorded),
        )
        progress = Progress(
            *(case.plan.epochs, case.steps, case.held_out, case.plan.batch_size),
            recorder=recorder,
            earlier=[runs.evaluated(epoch, "accuracy") for epoch in run.metrics],
        )
        listening = stack.enter_context(heard)
        autosave = Autosave(
            run=run,
            identity=resume.identity(run.config),
            steps=case.steps,
            epochs=case.plan.epochs,
            callbacks=case.callbacks,
            record=record,
            recorder=recorder,
            signals=hosts.Agreed(listening) if hosts.is_joined() else listening,
            engine=config["engine"],
            minutes=overrides.checkpoint_minutes,
            on_nan=overrides.on_nan,
            validation=case.held_out,
            start=start,
            renewed=renewed,
        )
        finished = False
        try:
            logged = logs.callbacks(overrides.log, run)
            own = [build.Epochs(case.model), record, *logged, progress]
            _fit(case, [*case.callbacks, *own], autosave)
            finished = True
        except KeyboardInterrupt as stop:
            stop.run = run  # type: ignore[attr-defined] # for whoever says how to go on
            raise
        finally:
            progress.close()
            # What is raised is the reason for the end: another error must not hide it.
            hidden = () if finished else (Exception,)
            with contextlib.suppress(*hidden):
                autosave.writer.wait()
            with contextlib.suppress(*hidden):
                recorder.write()
            # Also after Ctrl-C: the epochs that were trained are not to be lost.
            with contextlib.suppress(*hidden):
                if run.metrics:
                    _finish(case, autosave, finished, draw)
                    tell(run)
                    if finished:
                        checkpoint.keep_last(run.folder)
    return shared.ended(run)


def _opened(
    run: runs.Run | None,
    case: Case,
    config: dict[str, Any],
    open_weights: Callable[[str], fine_tuning.Source],
    stack: contextlib.ExitStack,
) -> tuple[runs.Run, checkpoint.Checkpoint | None, set[str]]:
    """Return the run that this process writes, and what `_go_on` says of it."""
    if run is not None:
        own = stack.enter_context(shared.own(run))
        return own, *_go_on(run, own, case, config, open_weights)
    config |= _begin_with_weights(case, open_weights)
    room.check(case)
    shared.agree(config)
    shared.begin_alike(case.model)
    own = stack.enter_context(
        shared.begun(lambda: runs.Run.create(case.recipe.name, case.overrides.out))
    )
    stack.enter_context(_new(own))
    own.write_config(config)
    return own, None, set()


def _announce(case: Case, config: dict[str, Any], placed: dict[str, Any]) -> None:
    """Print what the user must know of the images and settings of a run."""
    used = devices.said(case, placed)
    for line in [*runs.trained_on(config), *runs.fine_tuned(config), *used]:
        show(line)
    dataset, plan = case.dataset, case.plan
    if dataset.notice:
        show(dataset.notice)
    sizes = len(case.train), len(case.test)
    if not dataset.notice or sizes != (len(dataset.train), len(dataset.test)):
        show(
            f"{dataset.name} {dataset.version}: {sizes[0]:,} training and "
            f"{sizes[1]:,} {case.evaluated} images, from {dataset.source}"
        )
    balance = images.imbalance(dataset, case.class_weights)
    for line in (dataset.brought, case.images.said, balance):
        if line:
            show(line)
    if isinstance(case.train, StreamedSplit):
        many = plan.workers
        by = "1 process decodes" if many == 1 else f"{many} processes decode"
        by = by if many else "this process decodes"
        show(f"The images are read as a stream: {by} them.")
    asked = case.overrides.batch_size or case.recipe.batch_size
    if plan.batch_size == len(case.train) < asked:
        show(
            f"A batch of {asked:,} is larger than the training set: batches of "
            f"{plan.batch_size:,}, one step an epoch. --batch-size 32 takes more, and "
            "learns faster."
        )
    left_out = sizes[0] % plan.batch_size if plan.drop_last else 0
    if left_out > _MUCH * sizes[0]:
        show(
            f"{left_out:,} images, others in each epoch, are left out: they fill no "
            f"batch of {plan.batch_size:,}, and the recipe drops such a one."
        )
    choosing = [] if case.held_out else choosing_by(case.callbacks)
    if choosing:
        print(
            f"{', '.join(choosing)}: a callback that chooses by val_ numbers "
            "chooses by the test set here, so the test accuracy is no measure of "
            "new images. Hold out a share to choose by: --validation 0.1.",
            flush=True,
        )
    changed = fitted(case.recipe, case.overrides, plan)
    if changed and dataset.sample:
        own = " ".join(f"--{option} {value}" for option, value in changed.items())
        show(
            f"Settings that fit a sample: {plan.epochs} epoch"
            f"{'s' * (plan.epochs != 1)} in batches of "
            f"{plan.batch_size}; the recipe's own: {own}."
        )


def _forecast(case: Case) -> None:
    """Print what a large run will take."""
    splits = case.train, case.test
    large = forecast.line(
        *(case.recipe.name, case.model, case.plan, *splits), memory=case.engine is fit
    )
    if large:
        show(large)


def _fit(
    case: Case, callbacks: list[keras.callbacks.Callback], autosave: Autosave
) -> None:
    """Train to the end, or raise what the user can do about what went wrong."""
    try:
        if keras.backend.backend() == "jax":
            memory.forget_compiled()
        splits = case.train, case.test
        case.engine.fit(
            *(case.model, *splits, case.plan, callbacks),
            autosave=autosave,
            recorder=autosave.recorder,
            admit=room.admission(case),
        )
    except room.DoesNotFitError:
        raise
    except finite.NotFiniteError as error:
        # After a stop the model is as it was before the bad step. Where that can't be
        # computed again, such as for want of memory, the error stands alone.
        with contextlib.suppress(Exception):
            error = _explained(error, case, autosave)
        raise error
    except Exception as error:
        if (mistake := named(error, case)) is error:
            raise
        raise mistake from error


@contextlib.contextmanager
def _new(run: runs.Run) -> Iterator[None]:
    """Lock a new run's folder; remove the folder where the run is refused."""
    try:
        with run.lock():
            yield
    except room.DoesNotFitError:
        shutil.rmtree(run.folder, ignore_errors=True)
        raise


def named(error: Exception, case: Case) -> Exception:
    """Return an error of a training, or a `UsageError` where memory is short."""
    if not _MEMORY.search(f"{type(error).__name__}: {error}"):
        return error
    batch_size = case.plan.batch_size
    return UsageError(
        f"the memory of {machine.device()} is not enough for batches of "
        f"{batch_size}: train with smaller ones, as in "
        f"`{case.recipe.command} --batch-size {batch_size // 2 or 1}`."
    )


def _config(case: Case) -> dict[str, Any]:
    """Return what a run's `config.json` says of it."""
    recipe, overrides = case.recipe, case.overrides
    dataset, plan = case.dataset, case.plan
    description = describe.describe(recipe)
    placed = devices.placed(case)
    return {
        "format": runs.FORMAT,
        "id": uuid.uuid4().hex,
        "recipe": recipe.name,
        "recipe_file": recipe.own_file and str(recipe.own_file),
        "fingerprint": describe.fingerprint(description),
        "course": dataclasses.asdict(recipe.course),
        "overrides": overrides.changed
        + [o.replace("-", "_") for o in fitted(recipe, overrides, plan)],
        "options": resume.record(overrides),
        "epochs": plan.epochs,
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "drop_last": plan.drop_last,
        "recipe_epochs": recipe.epochs,
        "learning_rate": learning_rate(case.model.optimizer),
        "limit": overrides.limit,
        "class_weights": case.class_weights,
        "label_smoothing": overrides.label_smoothing,
        "validation": overrides.validation,
        "precision": overrides.precision,
        "accumulate": plan.accumulate,
        "remat": plan.rematerialize,
        "freeze": list(overrides.freeze),
        "frozen": fine_tuning.frozen(recipe, overrides.freeze),
        "engine": case.engine.__name__.rpartition(".")[2],
        "accelerate": overrides.accelerate,
        "deterministic": overrides.deterministic,
        "data": {
            "choice": overrides.data,
            "name": dataset.name,
            "version": dataset.version,
            "sample": dataset.sample,
            "source": dataset.source,
            "sha256": dataset.hash,
            "classes": list(dataset.classes),
            "image": list(dataset.shape),
            "form": case.images.form,
            "rule": RULE,
            "train_images": len(case.train),
            f"{case.evaluated}_images": len(case.test),
            "usual": usual.ranges(case.train.images),
        },
        "environment": machine.describe(),
        "process": prepare.done(),
        "settings": determinism.settings(placed["devices"]),
        "placement": placed,
        "description": description,
    }


def _begin_with_weights(
    case: Case, open_weights: Callable[[str], fine_tuning.Source]
) -> dict[str, Any]:
    """Give the network the weights that the options name; return the record of them."""
    place = case.overrides.weights
    if place is None:
        return {}
    source = open_weights(place)
    return {"began_with": fine_tuning.take(case.recipe, case.kept, source)}


def _go_on(
    run: runs.Run,
    own: runs.Run,
    case: Case,
    config: dict[str, Any],
    open_weights: Callable[[str], fine_tuning.Source],
) -> tuple[checkpoint.Checkpoint | None, set[str]]:
    """Take a run's folder back to its newest checkpoint, and record that it goes on.

    Returns the checkpoint, if any, and what a forced change has set anew. `run` is
    read, and `own` written, which is another in a process that does not write the run.
    """
    before = run.config
    start = checkpoint.newest(run.folder, warn)
    # The checkpoint holds what was made of the weights; the file may be gone by now.
    began = {name: before[name] for name in ("began_with",) if name in before}
    config |= began if start else _begin_with_weights(case, open_weights)
    done = resume.further(run, start)
    compared = config if done is None else config | {"epochs": before["epochs"]}
    changed = resume.changes(run, compared, case.overrides.force, start)
    renewed = resume.renewed(before, config) if changed else set()
    if start:
        check_start(start, case.model, case.callbacks, case.steps, config["engine"])
    shared.agree(config, start.folder.name if start else None)
    here = config["environment"]
    going_on = {name: here[name] for name in ("time", "device", "processor", "commit")}
    if other := resume.spread(before, config):
        say(other)
    going_on |= {"devices": config["placement"]["devices"]}
    # A stream goes on as one, and was asked for as it was.
    asked = {} if changed else {"engine": before["options"]["engine"]}
    resumed = {
        "options": config["options"] | asked,
        "recipe_file": config["recipe_file"],  # which may have been moved
        "resumed": [*before.get("resumed", []), going_on],
    }
    if changed:
        # Such a run is no longer the recipe's, and says so.
        marks = {*before["overrides"], *config["overrides"], "force"}
        resumed |= {"overrides": sorted(marks), "id": before.get("id")}
        resumed |= {"budget": before["budget"]} if "budget" in before else {}
    if done is not None:
        resumed |= _further(own, case, done)
    elif "trained_on_after" in before:
        resumed |= {name: before[name] for name in ("trained_on_after", "schedule")}
    own.write_config((config if changed else before) | resumed)
    if own is run:
        checkpoint.remove_after(run.folder, start.folder if start else None)
    own.replace_metrics(start.manifest["history"] if start else [])
    own.remove_recorded()
    where = (
        f"epoch {start.epoch + 1}, after {start.step} of {case.steps} steps"
        if start
        else "the beginning: there is no checkpoint yet"
    )
    say(f"Going on with {run.folder} from {where}.")
    return start, renewed


def _further(run: runs.Run, case: Case, done: int) -> dict[str, Any]:
    """Keep how a run has ended that trains on; return what its record says of it."""
    before = run.config
    kept = run.keep_end(done)
    say(f"How the run had ended, and its exports, are kept in {kept}.")
    falls = getattr(case.recipe.optimizer, "of_steps", False)
    return {
        "epochs": case.plan.epochs,
        "overrides": sorted({*before["overrides"], "epochs", "trained_on_after"}),
        "trained_on_after": [*before.get("trained_on_after", []), done],
        # What a recipe computes from the run's steps is computed anew.
        "schedule": "of the longer run" if falls else "goes on",
    }


def _from(start: checkpoint.Checkpoint, case: Case) -> Case:
    """Return a case whose plan begins at a checkpoint."""
    plan = dataclasses.replace(
        case.plan,
        epochs=start.epoch if start.manifest["stop_training"] else case.plan.epochs,
        initial_epoch=start.epoch,
        initial_step=start.step,
    )
    return dataclasses.replace(case, plan=plan)


def _explained(
    error: finite.NotFiniteError, case: Case, autosave: Autosave
) -> finite.NotFiniteError:
    """Say of a bad step where its numbers broke, and what there is to go back to."""
    plan, steps, folder = case.plan, case.steps, autosave.run.folder
    # Epochs before a forced change may have had another number of steps.
    since = plan.initial_step + error.step - autosave.counted
    epoch, step = plan.initial_epoch + since // steps, since % steps
    order = data.order(plan.seed, epoch, len(case.train))
    chosen = order[step * plan.batch_size : (step + 1) * plan.batch_size]
    loss, gradients = finite.largest_gradients(
        case.model, case.train.images[chosen], case.train.labels[chosen]
    )
    # The ones that are not finite first, then the largest.
    worst = sorted(gradients.items(), key=lambda pair: (pair[1] < np.inf, -pair[1]))
    layers = ", ".join(f"{path} {largest:.3g}" for path, largest in worst[:5])
    saved = checkpoint.numbered(folder)
    good = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint yet"
    rate = learning_rate(case.model.optimizer)
    rate = rate if rate is None else f"{rate:.7g}"
    advice = f"Try `{checkpoint.to_go_on(folder)} --force` with a smaller "
    advice += "--learning-rate"
    if autosave.on_nan == "stop":
        advice += ", or with --on-nan skip instead to leave such steps out"
    return finite.NotFiniteError(
        f"epoch {epoch + 1}, step {step + 1} of {steps}: {error} Loss {loss:.4g}, "
        f"learning rate {rate}, largest gradients: {layers}; {good}. {advice}.",
        error.step,
    )


def _with_views(case: Case) -> dict[str, float]:
    """Return the accuracy of the mean logits of a recipe's views, and their number."""
    if case.recipe.views is None:
        return {}
    images = case.test.images
    if isinstance(images, StreamedImages):
        if images.nbytes > _VIEWED:
            warn(
                f"The mean of several views is left out: {len(images):,} images of a "
                "stream are too many to be held at once."
            )
            return {}
        images = images[:]
    logits, number = views.mean_logits(
        case.model,
        case.recipe.views(images),
        case.plan.batch_size,
        case.engine,
        case.plan.devices,
    )
    right = float(np.mean(logits.argmax(-1) == case.test.labels))
    return {f"{case.evaluated}_accuracy_with_views": right, "views": number}


def _finish(
    case: Case,
    autosave: Autosave,
    finished: bool,
    draw: Callable[[runs.Run], object],
) -> None:
    """Save the model, what the caller draws, and the result, which comes last."""
    # A run that has a result is whole.
    run, kept = autosave.run, case.kept
    result = _figures(case, autosave, finished)
    with run.writing("model.keras") as path:
        partial = run.folder / ".partial.keras"
        kept.save(partial)
        runs.sync(partial)
        partial.replace(path)
    with run.writing("metrics.jsonl") as path:
        runs.sync(path)
    with run.writing("curve.png"):
        draw(run)
    names = ("trained_on_after", "schedule")
    marks = {name: run.config[name] for name in names if name in run.config}
    run.write_result(result | marks | {"weights_sha256": build.weights_hash(kept)})


def _figures(case: Case, autosave: Autosave, finished: bool) -> dict[str, Any]:
    """Return how a run ended, but for the hash of its weights."""
    left_out = finite.left_out(case.model.optimizer)
    last = autosave.run.metrics[-1]
    names = ("accuracy", "crossentropy")
    measured = {name: runs.evaluated(last, name) for name in names}
    again = autosave.record.weights_sha256 != build.weights_hash(case.kept)
    if again:
        # The last epoch evaluated others than these weights; of a run that was stopped
        # nobody has.
        found = fit.evaluate(case.model, case.test, case.plan) if finished else {}
        measured = {name: found.get(name) for name in names}
    return {
        "finished": finished,
        "epochs": last["epoch"],
        **{f"{case.evaluated}_{name}": value for name, value in measured.items()},
        **(_with_views(case) if finished else {}),
        "evaluated_again": again and finished,
        "train_accuracy": last["accuracy"],
        # What no one has measured of the weights that are kept.
        "of_the_last_epochs_weights": ["train_accuracy", "metrics.jsonl", "curve.png"]
        if again
        else [],
        "seconds": round(autosave.seconds, 3),
        "peak_memory_bytes": machine.peak_memory(),
        "steps_left_out": left_out,
    }
