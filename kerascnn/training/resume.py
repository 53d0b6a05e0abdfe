"""Going on with a run: its own options, and what must not have changed since."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascnn import UsageError, describe
from kerascnn import recipe as recipes
from kerascnn.data.loading import is_path
from kerascnn.text import expanded
from kerascnn.training import checkpoint
from kerascnn.training.options import Overrides

if TYPE_CHECKING:
    from kerascnn.runs import Run
    from kerascnn.training.checkpoint import Checkpoint

_DEVICES = "number of devices"

# Where the data lie and how a run is kept may differ from one start to the next.
_OWN = ("resume", "force", "out", "report", "devices")
_OWN += ("coordinator", "num_processes", "process_id")
_FOLDERS = ("data_dir", "cache_dir")


def absolute(overrides: Overrides) -> Overrides:
    """Return options whose paths mean the same from any working directory."""
    paths = {
        name: expanded(path).resolve()
        for name in _FOLDERS
        if (path := getattr(overrides, name)) is not None
    }
    if overrides.dataset is not None:
        paths["dataset"] = absolute_dataset(overrides.dataset)
    if overrides.weights is not None and expanded(overrides.weights).exists():
        paths["weights"] = str(expanded(overrides.weights).resolve())
    return dataclasses.replace(overrides, **paths)


def absolute_dataset(name: str) -> str:
    """Return a data set's name; where it is a relative path, the absolute one."""
    return str(expanded(name).resolve()) if is_path(name) else name


def record(overrides: Overrides) -> dict[str, Any]:
    """Return a run's options as JSON values, for its `config.json`."""
    values = dataclasses.asdict(overrides)
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if name not in _OWN
    }


def recipe_of(run: Run) -> recipes.Recipe:
    """Load the recipe of a run, by its name or from the file that the run records."""
    name = name_of(run)
    with _legible(run):
        return recipes.load(name)


def name_of(run: Run) -> str | Path:
    """Return the name of a run's recipe, or the path of the file that it records."""
    with _legible(run):
        name, file = run.config.get("recipe"), run.config.get("recipe_file")
        if name is None:
            raise UsageError(
                f"{run.folder}/config.json names no recipe: it is damaged."
            )
        if file is None:
            if name in recipes.names():
                return name
            raise UsageError(
                f"the recipe {name} of {run.folder} is not one of this package: go on "
                f"with `python FILE --resume {shlex.quote(str(run.folder))}`, where "
                "FILE is the recipe's."
            )
        if not Path(file).is_file():
            raise UsageError(
                f"{file}, the recipe of {run.folder}, is gone: bring the file back, or "
                f"go on with `kerascnn run FILE --resume "
                f"{shlex.quote(str(run.folder))}`, where FILE is the recipe's."
            )
        return Path(file)


def options(
    run: Run, given: Overrides, names: Collection[str] | None = None
) -> Overrides:
    """Return the options that a run goes on with: its own and `names` of `given`."""
    # Without names, those that differ from their own defaults.
    if given.out is not None:
        raise UsageError(f"--out {given.out}: a run goes on in its own folder.")
    with _legible(run):
        return _options(run, given, names)


def _options(run: Run, given: Overrides, names: Collection[str] | None) -> Overrides:
    config = run.config
    if "options" not in config:
        raise UsageError(f"the run {run.folder} is older than `resume`: start it anew.")
    own = {
        name: Path(value) if name in _FOLDERS and value is not None else value
        for name, value in config["options"].items()
    }
    # The set that was trained on, also if another is here by now.
    own["data"] = "sample" if config["data"]["sample"] else "auto"
    own["backend"] = config["environment"]["backend"]
    # Also where memory would hold the images by now.
    if config.get("engine") == "stream":
        own["engine"] = "stream"
    plain = Overrides()
    if names is None:
        names = [
            field.name
            for field in dataclasses.fields(given)
            if getattr(given, field.name) != getattr(plain, field.name)
        ]
    if run.finished:
        _check_further(run, given.epochs if "epochs" in names else None)
    if "weights" in names:
        raise UsageError(
            f"--weights: {run.folder} has begun with weights of its own, which its "
            "checkpoints hold: other weights are for another run."
        )
    now = {name: getattr(given, name) for name in {*names, "resume"}}
    if now.pop("budget", None) is not None:
        raise UsageError(
            "--budget: a run goes on with the epochs that it began with: leave it out."
        )
    source = Path(config["data"]["source"])
    named = not is_path(own["dataset"] or "")
    if own["data"] == "auto" and "data_dir" not in now and not source.exists():
        elsewhere = ", or say where it is now with --data-dir" * named
        raise UsageError(
            f"the run's data, {source}, are gone: bring the folder back{elsewhere}."
        )
    if own["data"] == "auto" and own["data_dir"] is None and named:
        # Found through TFDS_DATA_DIR, which may say another folder by now.
        own["data_dir"] = source.parents[config["data"]["name"].count("/") + 1]
    return Overrides(**{**own, **now})


def _check_further(run: Run, epochs: int | None) -> None:
    """Raise `UsageError` unless a finished run is to train for more epochs."""
    done = run.result["epochs"]
    if epochs is None or epochs <= done:
        given = f", not {epochs}" if epochs else ""
        raise UsageError(
            f"the run {run.folder} has finished its {done} epochs: `kerascnn resume "
            f"{shlex.quote(str(run.folder))} --epochs N` trains it on, to N of more "
            f"than {done}{given}."
        )


def further(run: Run, start: Checkpoint | None) -> int | None:
    """Return after how many epochs a finished run trains on; `None` of no such run.

    Raises:
        UsageError: The run has no checkpoint of its end, or a callback has ended it.
    """
    if not run.finished:
        return None
    done = run.result["epochs"]
    if start is None or (start.epoch, start.step) != (done, 0):
        raise UsageError(
            f"{run.folder} has no checkpoint of its end to train on from (`kerascnn "
            "runs clean` removes it): train another run that begins with its weights, "
            f"--weights {shlex.quote(str(run.folder))}."
        )
    if start.manifest["stop_training"]:
        raise UsageError(
            f"a callback has ended the run {run.folder} after {done} epochs, and would "
            "end it there again: train another run that begins with its weights, "
            f"--weights {shlex.quote(str(run.folder))}."
        )
    return done


@contextlib.contextmanager
def _legible(run: Run) -> Iterator[None]:
    """Take what reading a record of another shape raises for damage."""
    try:
        yield
    except UsageError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{run.folder / 'config.json'} is damaged ({type(error).__name__}: "
            f"{error}): start the run anew, with another --out."
        ) from error


def facts(config: dict[str, Any]) -> dict[str, Any]:
    """Return what decides a run's numbers, from its `config.json`, as JSON values."""
    data, environment = config["data"], config["environment"]
    names = ("epochs", "batch_size", "seed", "drop_last", "learning_rate")
    names += ("validation", "precision", "engine", "accelerate", "deterministic")
    places = ["backend", "device", "processor"]
    if environment["device"] == "cpu":  # XLA cuts its sums by the number of cores
        places.append("cores")
    return {
        "recipe": config["recipe"],
        "fingerprint": config["fingerprint"],
        "data": f"{data['name']} {data['version']}, SHA-256 {data['sha256']}",
        "training images": data["train_images"],
        "test images": data[
            "validation_images" if "validation_images" in data else "test_images"
        ],
        **{name.replace("_", " "): config[name] for name in names},
        "class weights": config.get("class_weights"),
        "label smoothing": config.get("label_smoothing"),
        "parts of a batch": config.get("accumulate", 1),
        "rematerialisation": config.get("remat", False),
        "weights": config.get("began_with", {}).get("sha256"),
        "freeze": config.get("freeze") or None,
        **{name: environment[name] for name in places},
        **{k: v for k, v in config.get("settings", {}).items() if k != _DEVICES},
        "kerascnn's code": environment.get("code"),
        **environment["versions"],
    }


def spread(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Say that a run goes on with another number of devices than it had, if it does."""
    # Sums over a batch are then added in another order: no reason to refuse.
    if "settings" not in before:
        return None
    was, here = (config["settings"].get(_DEVICES, 1) for config in (before, now))
    for config in before.get("resumed", []):
        was = config.get("devices", was)
    if was == here:
        return None
    return (
        f"The run had {was} device{'s' * (was != 1)} and goes on with {here}: its "
        "numbers are the same but for rounding, not to the bit."
    )


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """Return what ties a checkpoint to its run, from the run's `config.json`."""
    # A run that is older than this has no `id`; nor have its checkpoints.
    return {
        "run": config.get("id"),
        "fingerprint": config["fingerprint"],
        "data": config["data"]["sha256"],
    }


def changes(
    run: Run, config: dict[str, Any], force: bool, start: Checkpoint | None = None
) -> bool:
    """Return whether what decides a run's numbers has changed; it may, by `force`."""
    from kerascnn.training import callback_state  # imports Keras

    with _legible(run):
        before = run.config
        changed = differences(before, config)
        if start:
            own = identity(config | {"id": before.get("id")})
            saved = start.manifest.get("identity", {"run": None})
            foreign = [name for name in saved if saved[name] != own[name]]
            if "run" in foreign:
                changed.append(f"the checkpoint {start.folder} is another run's")
            elif foreign and not changed:
                changed.append(
                    f"the checkpoint {start.folder} was written with another "
                    f"{' and other '.join(foreign)}"
                )
            changed += callback_state.left_out(start.manifest["callbacks"])
        if not all(type(before.get(x, [])) is list for x in ("overrides", "resumed")):
            raise TypeError("a list is none")
    if start is None and not force:
        _check_beginning(run)
    if changed and not force:
        raise UsageError(
            f"the run {run.folder} can't go on as it began: {'; '.join(changed)}. "
            "Bring back what it began with, or pass --force to go on all the same."
        )
    return bool(changed)


def _check_beginning(run: Run) -> None:
    """Raise `UsageError` if a run without checkpoints has had one."""
    # A run that was killed while it wrote its first has at most one epoch behind it,
    # and the folder for it.
    folder = run.folder / checkpoint.FOLDER
    epochs = len(run.metrics)
    if epochs > (1 if folder.is_dir() else 0):
        raise UsageError(
            f"{run.folder} has {epochs} epochs in metrics.jsonl and no checkpoint to "
            f"go on from: bring {folder} back, or train the run again from its "
            "beginning with --force."
        )


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say in phrases what decides a run's numbers and differs in two `config.json`."""
    if "settings" not in before:  # an older run, which has not recorded them
        now = {name: now[name] for name in now if name != "settings"}
    old, new = facts(before), facts(now)
    if old["recipe"] != new["recipe"]:
        # All else that differs follows from it.
        return [f"its recipe was {old['recipe']} and is {new['recipe']}"]
    found = [
        f"{name} was {_short(old.get(name))} and is {_short(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if name != "fingerprint" and old.get(name) != new.get(name)
    ]
    if old["fingerprint"] != new["fingerprint"]:
        parts = [
            f"{part} was {_line(was)} and is {_line(here)}"
            for part in (*recipes.PARTS, *recipes.EXTRAS)
            if (was := before["description"].get(part))
            != (here := now["description"].get(part))
        ]
        found += parts or ["the recipe's description is written otherwise"]
    return found


def _short(value: Any) -> str:
    """Write a number as it was given: 0.001, not float32's 0.0010000000474974513."""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def renewed(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    """Return what a forced change sets anew, and a checkpoint must not bring back."""
    # Settings of callbacks, and `"learning_rate"` where the run would begin at another.
    names = set()
    if before["learning_rate"] != now["learning_rate"]:
        names.add("learning_rate")
    callbacks = (config["description"]["callbacks"] for config in (before, now))
    for was, here in zip(*callbacks, strict=False):
        names |= {x for x in was.keys() | here.keys() if was.get(x) != here.get(x)}
    return names


def _line(part: Any) -> str:
    return "; ".join(describe.lines(part))
