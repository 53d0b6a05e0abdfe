"""The command `kerascnn sweep`: which learning rate and batch size do best?

Optuna chooses the settings, and each trial is a run in a process of its own, on a split
of the training set: the test set chooses nothing. All that a sweep knows lies in its
folder, so that one that was stopped, or killed, goes on.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from kerascnn import UsageError, runs, text
from kerascnn import recipe as recipes
from kerascnn.data import loading
from kerascnn.training import worker
from kerascnn.training.options import Folder, Integer, Overrides

Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
Count = Annotated[int, tyro.conf.arg(metavar="N")]
Values = Annotated[str | None, tyro.conf.arg(metavar="VALUES", help_behavior_hint="")]

FOLDER = Path("runs") / "sweep"
# Trials that are not pruned, and epochs of each that are not looked at.
STARTUP, WARMUP = 4, 1
# Runs of the best setting at the end.
SEEDS = 3

Range = tuple[float, float] | list[float]


@dataclasses.dataclass
class Sweep:
    """Look for the best learning rate and batch size, by trials on held-out images.

    Optuna's TPE chooses each setting by the trials before it; one whose accuracy lies
    below the median of the others after as many epochs is stopped. The best setting is
    trained at the end with three seeds on the whole training set, and measured on the
    test set, which has chosen nothing. Stopped or killed, the same command goes on.
    """

    recipe: Name
    """The recipe, or the path of a file of your own."""
    learning_rate: Values = None
    """From:to, such as 1e-4:1e-2, by the logarithm, or some values: 1e-3,3e-3."""
    batch_size: Values = None
    """Some values, such as 32,64,128, or from:to."""
    trials: Count = 20
    """Settings to try."""
    epochs: Integer = None
    """Passes over the training set in each (default: the recipe's)."""
    validation: Annotated[float, tyro.conf.arg(metavar="X")] = 0.1
    """The share of the training set that is held out, to choose by."""
    seed: Count = 0
    """Decides the settings, and each trial's weights, split and draws."""
    limit: Integer = None
    """Use the first N training and the first N test images only."""
    dataset: Annotated[
        str | None, tyro.conf.arg(metavar="SET", help_behavior_hint="")
    ] = None
    """Another set, as `kerascnn run` has it."""
    image_size: Integer = None
    """Bring the images to N x N pixels, as `kerascnn run` has it."""
    skip_bad: bool = False
    """Leave images out that can't be read, as `kerascnn run` has it."""
    data: Literal["auto", "full", "sample"] = "auto"
    """Which images, as `kerascnn run` has it."""
    data_dir: Folder = None
    """Where tensorflow-datasets keeps its sets."""
    out: Folder = None
    """The sweep's folder (default: runs/sweep/<recipe>)."""
    json: bool = False
    """Print a JSON object: recipe, trials (number, state, learning_rate, batch_size,
    epochs, accuracy on the held-out images, run), best (the same of one), seeds (seed,
    accuracy on the test set, run), mean, deviation."""

    def __post_init__(self):
        recipes.check(self.recipe)
        text.check_positive(self, "trials", "epochs", "limit")
        if not (self.learning_rate or self.batch_size):
            raise UsageError(
                "expected what to vary: --learning-rate 1e-4:1e-2, --batch-size "
                "32,64,128, or both."
            )
        self.space()
        self.options()
        if self.dataset is not None:
            loading.check(self.dataset, self.data, self.data_dir, self.skip_bad)

    def __call__(self) -> None:
        folder = text.expanded(self.out or FOLDER / Path(self.recipe).stem)
        study = _Study(self, folder)
        try:
            found = study.go_on()
        except KeyboardInterrupt:
            text.say(f"{study.done()} of {self.trials} trials are done, in {folder}.")
            text.say("The same command goes on.")
            raise
        if self.json:
            text.print_json(found, indent=2)
        else:
            show(found, self.recipe)

    def space(self) -> dict[str, Range]:
        """Return the values of each option that varies: two ends, or a list."""
        found: dict[str, Range] = {}
        if self.learning_rate:
            found["learning_rate"] = parsed(self.learning_rate, "--learning-rate")
        if self.batch_size:
            found["batch_size"] = parsed(self.batch_size, "--batch-size", whole=True)
        return found

    def options(self, **changed: Any) -> Overrides:
        """Return the options of a trial's run."""
        names = ("epochs", "seed", "limit", "validation", "data", "data_dir")
        names += ("dataset", "image_size", "skip_bad")
        own = {name: getattr(self, name) for name in names}
        return Overrides(**(own | {"record": "light"} | changed))


def parsed(words: str, option: str, whole: bool = False) -> Range:
    """Return the ends of `"1e-4:1e-2"`, or the values of `"32,64,128"`."""
    between = ":" in words
    try:
        values = [float(word) for word in words.split(":" if between else ",")]
        if not all(0 < value < float("inf") for value in values):
            raise ValueError
        if whole and any(value != int(value) for value in values):
            raise ValueError
        if between:
            low, high = values
            if low >= high:
                raise ValueError
            return low, high
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise UsageError(
            f"{option} {words}: expected {kind} above 0, as from:to or with commas."
        ) from None
    return list(dict.fromkeys(values))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UsageError(
            f"kerascnn sweep needs Optuna: `{text.install('sweep')}` installs it."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class _Study:
    """A sweep's folder: `sweep.json`, Optuna's journal, and a run for each trial."""

    def __init__(self, sweep: Sweep, folder: Path):
        self.sweep, self.folder = sweep, folder
        self.optuna = optuna = _optuna()
        self._open_folder()
        journal = folder / "journal.log"
        _cut_off_half_a_line(journal)
        backend = optuna.storages.journal.JournalFileBackend(str(journal))
        self.study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="sweep",
            direction="maximize",
            # Optuna keeps neither of the two: they are made anew at each start.
            pruner=optuna.pruners.MedianPruner(STARTUP, WARMUP),
            load_if_exists=True,
        )
        self._take_up()

    def _open_folder(self) -> None:
        """Make the folder, or check that it holds this sweep."""
        own = dataclasses.asdict(self.sweep)
        ours = {n: own[n] for n in own if n not in ("trials", "out", "json")}
        ours = {name: str(v) if isinstance(v, Path) else v for name, v in ours.items()}
        # An option that is younger than the sweep had its default.
        plain = {field.name: field.default for field in dataclasses.fields(self.sweep)}
        file = self.folder / "sweep.json"
        try:
            if file.exists():
                before = json.loads(file.read_text("utf-8"))
                other = [
                    name for name in ours if before.get(name, plain[name]) != ours[name]
                ]
                if other:
                    options = ", ".join(f"--{n.replace('_', '-')}" for n in other)
                    raise UsageError(
                        f"{self.folder} holds a sweep with another {options}: bring it "
                        "back, or name another folder with --out."
                    )
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(self.folder.iterdir()):
                raise UsageError(
                    f"{self.folder} holds other files: name another folder with --out."
                )
            partial = self.folder / ".sweep.json"
            partial.write_text(json.dumps(ours, indent=2), "utf-8")
            partial.replace(file)
        except (OSError, json.JSONDecodeError, AttributeError) as error:
            raise UsageError(
                f"the sweep's folder {self.folder} can't be used "
                f"({text.one_line(error)}): name another with --out."
            ) from error

    def _take_up(self) -> None:
        """Queue the trials again that ran when the sweep was killed, in their folders.

        Optuna has no way to go on with a trial: the old one is told off as failed.
        """
        state = self.optuna.trial.TrialState
        for old in self.study.get_trials(states=(state.RUNNING,)):
            kept = {"place": old.user_attrs.get("place", _place(old.number))}
            self.study.tell(old.number, state=state.FAIL)
            if old.params:
                self.study.enqueue_trial(old.params, user_attrs=kept)

    def _ended(self) -> list[Any]:
        """Return the trials that have ended of themselves, or were pruned."""
        state = self.optuna.trial.TrialState
        return [
            trial
            for trial in self.study.get_trials()
            if trial.state in (state.COMPLETE, state.PRUNED)
            or (trial.state == state.FAIL and "why" in trial.user_attrs)
        ]

    def done(self) -> int:
        """Return how many trials have ended."""
        return len(self._ended())

    def go_on(self) -> dict[str, Any]:
        """Try what is left to try, train the best with some seeds, and return all."""
        while (number := self.done()) < self.sweep.trials:
            # From its own seed each, so that a sweep that was stopped draws the same.
            seed = 1_000_003 * self.sweep.seed + number
            self.study.sampler = self.optuna.samplers.TPESampler(
                seed=seed % 2**32, n_startup_trials=STARTUP
            )
            self._try(number)
        trials = [
            self._record(number, each) for number, each in enumerate(self._ended())
        ]
        good = [each for each in trials if each["state"] == "complete"]
        if not good:
            raise UsageError(
                f"no trial came to its end: see the runs in {self.folder}."
            )
        best = max(good, key=lambda each: each["accuracy"])
        seeds = self._best(best)
        values = [each["accuracy"] for each in seeds]
        return {
            "recipe": self.sweep.recipe,
            "folder": str(self.folder),
            "trials": trials,
            "best": best,
            "seeds": seeds,
            "mean": statistics.fmean(values),
            "deviation": statistics.stdev(values),
        }

    def _try(self, number: int) -> None:
        """Train a setting, as far as the others' median lets it."""
        state = self.optuna.trial.TrialState
        trial = self.study.ask()
        chosen: dict[str, Any] = {}
        for name, values in self.sweep.space().items():
            if isinstance(values, list):
                chosen[name] = trial.suggest_categorical(name, values)
            else:
                chosen[name] = trial.suggest_float(name, *values, log=True)
        place = trial.user_attrs.get("place", _place(trial.number))
        trial.set_user_attr("place", place)
        words = ", ".join(f"{name} {value:.4g}" for name, value in chosen.items())
        text.say(f"trial {number + 1} of {self.sweep.trials}: {words}")
        folder, told = self.folder / place, 0

        def goes_on() -> bool:
            # Epoch by epoch: how many there are by now is the machine's doing.
            nonlocal told
            for epoch in _epochs(folder)[told:]:
                told += 1
                value = runs.evaluated(epoch, "accuracy")
                if value is not None:
                    trial.report(value, told)
                if trial.should_prune():
                    return False
            return True

        answer = train(self.sweep.recipe, self._run(folder, chosen), goes_on)
        if answer is None or not goes_on():
            self.study.tell(trial, state=state.PRUNED)
        elif (value := answer.get("accuracy")) is None:
            trial.set_user_attr("why", answer.get("failed", "no accuracy"))
            self.study.tell(trial, state=state.FAIL)
        else:
            self.study.tell(trial, value)

    def _run(self, folder: Path, chosen: dict[str, Any], **more: Any) -> Overrides:
        """Return the options of a run that begins in a folder, or goes on there."""
        if (folder / "config.json").exists():
            return Overrides(resume=folder)
        own = {"learning_rate": chosen.get("learning_rate"), "out": folder}
        if "batch_size" in chosen:
            own["batch_size"] = round(chosen["batch_size"])
        return self.sweep.options(**(own | more))

    def _record(self, number: int, trial: Any) -> dict[str, Any]:
        place = self.folder / trial.user_attrs["place"]
        size = trial.params.get("batch_size")
        return {
            "number": number,
            "state": trial.state.name.lower(),
            "learning_rate": trial.params.get("learning_rate"),
            "batch_size": None if size is None else round(size),
            "epochs": len(_epochs(place)),
            "accuracy": trial.value,
            "run": str(place),
        }

    def _best(self, best: dict[str, Any]) -> list[dict[str, Any]]:
        """Train the best setting with some seeds, on the whole training set."""
        found = []
        names = [n for n in ("learning_rate", "batch_size") if best[n] is not None]
        for seed in range(self.sweep.seed, self.sweep.seed + SEEDS):
            # Of the setting, because a longer sweep may find another.
            folder = self.folder / f"best-{Path(best['run']).name}" / f"seed-{seed}"
            if not runs.Run(folder).finished:
                text.say(f"the best setting, seed {seed}")
                chosen = {name: best[name] for name in names}
                options = self._run(folder, chosen, seed=seed, validation=None)
                answer = train(self.sweep.recipe, options, lambda: True) or {}
                if "failed" in answer:
                    raise UsageError(
                        f"the best setting, seed {seed}: {answer['failed']}"
                    )
            accuracy = runs.evaluated(runs.Run(folder).result, "accuracy")
            found.append({"seed": seed, "accuracy": accuracy, "run": str(folder)})
        return found


def _place(number: int) -> str:
    return f"trial-{number:03}"


def _epochs(folder: Path) -> list[dict[str, Any]]:
    """Return a run's epochs so far; none before it has begun."""
    return runs.Run(folder).metrics if (folder / "config.json").exists() else []


def _cut_off_half_a_line(journal: Path) -> None:
    """Take off what a process that was killed while it wrote has left at the end."""
    if not journal.exists():
        return
    content = journal.read_bytes()
    if not content.endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def train(
    recipe: str, options: Overrides, goes_on: Callable[[], bool]
) -> dict[str, Any] | None:
    """Train a run in a process of its own.

    Args:
        recipe: The recipe's name, or its file's path.
        options: The run's; with `resume` it goes on, or its result is read.
        goes_on: Asked now and then; where it returns False, the run is stopped.

    Returns:
        `{"accuracy": ...}` of the images it was evaluated on, or `{"failed": ...}`
        where its numbers were not finite; `None` where it was stopped.

    Raises:
        UsageError: The run can't be begun or go on.
    """
    if options.resume is not None and runs.Run(options.resume).finished:
        result = runs.Run(options.resume).result
        return {"accuracy": runs.evaluated(result, "accuracy")}
    try:
        return worker.ask("train", recipe, options, goes_on=goes_on)
    except UsageError as error:
        raise UsageError(f"a trial ended: {error}") from error


def show(found: dict[str, Any], name: str) -> None:
    """Print a row for each trial, then the best setting and what its seeds came to."""
    from rich import box
    from rich.table import Table

    table = Table(title=f"{name}: accuracy on held-out images", box=box.SIMPLE_HEAD)
    for column in ("trial", "learning rate", "batch", "epochs", "accuracy", "state"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in found["trials"]:
        rate, value = each["learning_rate"], each["accuracy"]
        table.add_row(
            str(each["number"] + 1),
            "–" if rate is None else f"{rate:.3g}",
            str(each["batch_size"] or "–"),
            str(each["epochs"]),
            "–" if value is None else f"{value:.2%}",
            each["state"] + ", best" * (each == found["best"]),
        )
    text.console().print(table)
    values = ", ".join(f"{each['accuracy']:.2%}" for each in found["seeds"])
    print(
        f"The best setting on the whole training set, test accuracy of {SEEDS} seeds: "
        f"{values}; mean {found['mean']:.2%}, deviation {found['deviation']:.2%}."
    )
    best, words = found["best"], ["kerascnn", "run", shlex.quote(name)]
    for option in ("learning_rate", "batch_size"):
        if best[option] is not None:
            words += [f"--{option.replace('_', '-')}", f"{best[option]:.6g}"]
    print(f"Try: {' '.join(words)}")
