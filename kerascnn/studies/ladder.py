"""Which of the course's recipes still want whole runs here, and the runs themselves."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from kerascnn import UsageError, data, describe, text
from kerascnn import recipe as recipes
from kerascnn.engine import counts
from kerascnn.page import cards
from kerascnn.process.estimate import Estimate
from kerascnn.report import ladder, records
from kerascnn.runs import Run
from kerascnn.training import build, costs, worker
from kerascnn.training.case import plan_of
from kerascnn.training.options import Overrides
from kerascnn.without_weights import without_weights

FOLDER = Path("runs") / "ladder"


@dataclasses.dataclass
class Rung:
    """One recipe: what a whole run takes on this machine, and which seeds it has.

    Attributes:
        name: The recipe's.
        fingerprint: Of the recipe as it is now.
        epochs: Of a whole run.
        measured: Seeds in the cookbook.
        wanted: Seeds to run, the next one first.
        seconds: Those of a whole run; `None` where the full set is not on the machine.
        step: Seconds of a training step, measured.
        begun: For seeds whose run was stopped, the share of it that is done.
    """

    name: str
    fingerprint: str
    epochs: int
    measured: list[int]
    wanted: list[int]
    seconds: float | None = None
    step: float | None = None
    begun: dict[int, float] = dataclasses.field(default_factory=dict)

    def left(self, seed: int) -> float:
        """Return the seconds that a seed's run still takes."""
        return (self.seconds or 0.0) * (1 - self.begun.get(seed, 0.0))


@dataclasses.dataclass(frozen=True)
class Turn:
    """A run that is wanted: the seconds it takes, and what an hour of it tells.

    The first run of a recipe counts 1. The variance of a mean of n runs is 1 / n of a
    run's own, so the next one counts 1 / n - 1 / (n + 1).
    """

    name: str
    seed: int
    seconds: float
    worth: float


def rungs(only: str, seeds: int, data_dir: Path | None, folder: Path) -> list[Rung]:
    """Return the recipes whose names match a pattern, lecture after lecture.

    Their steps are measured where this machine has not kept them: minutes for the large
    ones, so each is kept as soon as it is there.

    Raises:
        UsageError: No recipe's name matches.
    """
    names = [name for name in recipes.names() if fnmatchcase(name, only)]
    if not names:
        raise UsageError(
            f"--only {only}: no recipe's name matches; `kerascnn list` shows them."
        )
    found = []
    outlines = ladder.in_order([recipes.outline(name) for name in names])
    for outline in outlines:
        recipe = recipes.load(outline.name)
        fingerprint = describe.fingerprint(describe.describe(recipe))
        known = records.counted(records.read(f"{outline.name}/runs"), fingerprint)
        measured = [record["seed"] for record in known]
        missing = [seed for seed in range(seeds) if seed not in measured]
        wanted = missing[: max(0, seeds - len(measured))]
        rung = Rung(outline.name, fingerprint, outline.epochs, measured, wanted)
        for seed in wanted:
            begun = Run(folder_of(rung, seed, folder))
            with contextlib.suppress(UsageError):  # most have not begun
                rung.begun[seed] = len(begun.metrics) / rung.epochs
        found.append(rung)
    _time(found, data_dir)
    return found


def turns(found: Sequence[Rung]) -> list[Turn]:
    """Return the runs that are wanted, by what an hour of each tells, most first."""
    listed = []
    for rung in found:
        if rung.seconds is None:
            continue
        for number, seed in enumerate(rung.wanted, len(rung.measured)):
            told = 1 / number - 1 / (number + 1) if number else 1.0
            seconds = rung.left(seed)
            # A run that has ended and is not in the cookbook takes no time.
            worth = told / max(seconds, 1.0) * 3600
            listed.append(Turn(rung.name, seed, seconds, worth))
    return sorted(listed, key=lambda turn: -turn.worth)


def folder_of(rung: Rung, seed: int, folder: Path) -> Path:
    """Return the folder of a seed's run; a recipe that has changed gets another."""
    return folder / f"{rung.name}-{rung.fingerprint[:8]}" / f"seed-{seed}"


def _time(found: Sequence[Rung], data_dir: Path | None) -> None:
    """Set the times of the rungs that want runs."""
    options = Overrides(data="full", data_dir=data_dir)
    sets: dict[Any, data.DataSet | None] = {}
    cases, keys = [], []
    for rung in found:
        recipe = recipes.load(rung.name)
        size = build.image_size(recipe)
        case = recipe.dataset, size
        if case not in sets:
            here = data.prepared(recipe.dataset, data_dir) is not None
            sets[case] = (
                data.load(recipe.dataset, "full", data_dir, image_size=size)
                if here
                else None
            )
        dataset = sets[case]
        if rung.wanted and dataset is not None:
            plan = plan_of(recipe, options, dataset)
            words = rung.fingerprint, options, dataset, dataset.train, plan
            cases.append((rung, recipe, plan, dataset))
            keys.append(costs.key(*words))
    missing = []
    for (rung, recipe, plan, dataset), known in zip(
        cases, costs.kept(keys), strict=True
    ):
        if known is None:
            missing.append((rung, recipe))
            continue
        rung.step = known.step
        rung.seconds = known.whole(plan, len(dataset.train), len(dataset.test))
    work = [_operations(recipe) * recipe.batch_size for _, recipe in missing]
    progress, done = Estimate("steps to measure", sum(work)), 0.0
    for number, ((rung, _), one) in enumerate(zip(missing, work, strict=True), 1):
        text.say(f"{number} of {len(missing)}: a step of {rung.name}")
        took = worker.ask("seconds", rung.name, options)
        rung.step, rung.seconds = took["step"], took["whole"]
        done += one
        progress.after(done)


def _operations(recipe: recipes.Recipe) -> int:
    return counts.training_operations(without_weights(recipe.network))


def train(
    rung: Rung, seed: int, folder: Path, data_dir: Path | None, until: float
) -> bool:
    """Begin or go on with a seed's run, in a process of its own, until a time.

    Args:
        rung: The recipe.
        seed: The run's.
        folder: Where the ladder's runs lie.
        data_dir: Where tensorflow-datasets keeps its sets.
        until: A time of `time.monotonic`; the run is stopped then, with a checkpoint.

    Returns:
        Whether the run has ended, and was taken into the cookbook.

    Raises:
        UsageError: The run could not begin or go on, or the cookbook refuses it.
    """
    place = folder_of(rung, seed, folder)
    words = [rung.name, "--data", "full", "--seed", str(seed)]
    if not finished(words, place, data_dir, until):
        return False
    cards.Add((place,))()
    return True


def finished(
    words: Sequence[str], place: Path, data_dir: Path | None, until: float
) -> bool:
    """Begin or go on with `kerascnn run WORDS`; return whether the run has ended.

    Its folder is `place`; the rest is said at `train`.
    """
    if Run(place).finished:
        return True
    words = ["run", *words, "--out", str(place)]
    if (place / "config.json").exists():
        words = ["resume", str(place)]
    if data_dir is not None:
        words += ["--data-dir", str(data_dir)]
    with _process(words) as process:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
    if Run(place).finished:
        return True
    if time.monotonic() < until:
        raise UsageError(
            f"{place}: the run ended with code {process.returncode}, unfinished; its "
            "lines above say why."
        )
    return False


@contextlib.contextmanager
def _process(words: Sequence[str]) -> Iterator[subprocess.Popen]:
    """Run a command of this package; where this process must stop, it stops first."""
    process = subprocess.Popen([sys.executable, "-m", "kerascnn", *words])
    try:
        yield process
    except BaseException as error:
        # A terminal sends Ctrl-C to both.
        if not isinstance(error, KeyboardInterrupt) or (
            getattr(error, "exit_code", 130) != 130
        ):
            process.terminate()
        process.wait()
        raise


def climb(
    found: Sequence[Rung],
    hours: float,
    folder: Path,
    data_dir: Path | None,
    say: Callable[[str], None] = text.say,
) -> int:
    """Work through the runs that are wanted, for so many hours.

    Args:
        found: The rungs.
        hours: After which the run that trains is stopped, with a checkpoint.
        folder: Where the ladder's runs lie.
        data_dir: Where tensorflow-datasets keeps its sets.
        say: Is told what begins and what failed.

    Returns:
        How many runs the cookbook has taken in.
    """
    until = time.monotonic() + 3600 * hours
    by_name = {rung.name: rung for rung in found}
    taken = 0
    for turn in turns(found):
        if time.monotonic() >= until:
            break
        say(f"{turn.name}, seed {turn.seed}: about {text.duration(turn.seconds)}")
        try:
            rung = by_name[turn.name]
            taken += train(rung, turn.seed, folder, data_dir, until)
        except UsageError as mistake:  # one that fails does not end the night
            say(f"left out: {mistake}")
    return taken
