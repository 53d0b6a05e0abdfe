"""Runs beside each other, image by image: what went from wrong to right, and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from kerascnn import UsageError, runs
from kerascnn.page import charts, document, pictures
from kerascnn.page.evidence import outcome_of
from kerascnn.page.findings import Outcome, confusion, wilson
from kerascnn.report import intervals
from kerascnn.runs import Run
from kerascnn.text import duration, option

# Below this an uneven split of the changed images is taken for more than chance.
CHANCE = 0.05
CHANGED = 12
# The lines' colours and dashes in the page.
ROLES = ("test", "train", "third", "fourth", "fifth", "sixth")


@dataclasses.dataclass(frozen=True, eq=False)
class Beside:
    """A run beside the first one.

    Args:
        run: The run.
        outcome: Its answers on the images that all runs were evaluated on.
        gained: Indices of the images that the first got wrong and this one right.
        lost: Indices of those that went the other way.
        chance: McNemar's exact test: how likely a split of the changed images as
            uneven as this is, were both runs equally good.
    """

    run: Run
    outcome: Outcome
    gained: np.ndarray
    lost: np.ndarray
    chance: float

    @property
    def accuracy(self) -> float:
        """The share of the images that is right."""
        return float(self.outcome.right.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval (Wilson)."""
        return wilson(int(self.outcome.right.sum()), len(self.outcome))

    @property
    def per_class(self) -> np.ndarray:
        """The share of each class's images that is right, `(classes,)`."""
        matrix = confusion(self.outcome)
        with np.errstate(invalid="ignore"):
            return np.diag(matrix) / matrix.sum(1)


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """The runs of one case, which differ in nothing but the seed.

    Args:
        letter: Its short name: A for the first.
        members: Its runs; alone, where no other seed is compared.
    """

    letter: str
    members: Sequence[Beside]

    @property
    def names(self) -> list[str]:
        """The runs' short names: the group's letter, with a number where several."""
        if len(self.members) == 1:
            return [self.letter]
        return [f"{self.letter}{n}" for n, _ in enumerate(self.members, 1)]

    @property
    def accuracies(self) -> list[float]:
        """Those of its runs."""
        return [each.accuracy for each in self.members]

    @property
    def per_class(self) -> np.ndarray:
        """The runs' mean share of each class that is right, `(classes,)`."""
        return np.mean([each.per_class for each in self.members], 0)


def grouped(found: Sequence[Beside]) -> list[Group]:
    """Return runs by case, in the order in which the first of each comes."""
    cases: dict[str, list[Beside]] = {}
    for each in found:
        config = each.run.config
        options = config.get("options") or {}
        case = [config["recipe"], config.get("fingerprint"), runs.changes(config)]
        case += [options.get(name) for name in ("engine", "backend", "accelerate")]
        key = json.dumps(case, sort_keys=True)
        if config["seed"] in [other.run.config["seed"] for other in cases.get(key, [])]:
            key += str(each.run.folder)  # the same seed twice is no second draw
        cases.setdefault(key, []).append(each)
    return [Group(letter(n), members) for n, members in enumerate(cases.values())]


def apart(first: Group, other: Group) -> str:
    """Say in a sentence how far two groups of seeds lie apart, beyond chance or not."""
    counts = [len(group.members) for group in (first, other)]
    gap = 100 * (np.mean(other.accuracies) - np.mean(first.accuracies))
    said = f"{gap:+.2f} points between the means"
    if min(counts) < 2:
        return f"{said}; with one seed of either nothing tells chance apart."
    if np.ptp(first.accuracies) == np.ptp(other.accuracies) == 0:
        return f"{said}; the seeds of each do not differ at all."
    test = scipy.stats.ttest_ind(other.accuracies, first.accuracies, equal_var=False)
    low, high = (100 * end for end in test.confidence_interval(0.95))
    beyond = "beyond chance" if test.pvalue < CHANCE else "no difference beyond chance"
    return (
        f"{said}, 95 % interval {low:+.2f} to {high:+.2f} (Welch's test, "
        f"{counts[0]} and {counts[1]} seeds): {beyond}."
    )


def mcnemar(gained: int, lost: int) -> float:
    """Return the p-value of McNemar's exact test (1947), two-sided."""
    if gained + lost == 0:
        return 1.0
    return float(scipy.stats.binomtest(gained, gained + lost, 0.5).pvalue)


def beside(compared: Sequence[Run]) -> list[Beside]:
    """Evaluate runs on the same images, each beside the first.

    Raises:
        UsageError: They were evaluated on different images, or one has no model yet.
    """
    first = compared[0].config
    for run in compared[1:]:
        if other := _other_images(first, run.config):
            raise UsageError(
                f"{run.folder} was evaluated on other images than {compared[0].folder} "
                f"({other}): only runs on the same images can be compared."
            )
    found: list[Beside] = []
    for run in compared:
        outcome = outcome_of(run)
        base = found[0].outcome.right if found else outcome.right
        gained = np.flatnonzero(outcome.right & ~base)
        lost = np.flatnonzero(~outcome.right & base)
        chance = mcnemar(len(gained), len(lost))
        found.append(Beside(run, outcome, gained, lost, chance))
    return found


def letter(number: int) -> str:
    """Return a run's short name: A for the first."""
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def label(run: Run) -> str:
    """Return a run's recipe and what was changed in it."""
    changed = ", ".join(_changes(run))
    return run.config["recipe"] + (f" ({changed})" if changed else "")


def _changes(run: Run) -> list[str]:
    """Return what a run changes in its recipe: options with their values."""
    return [option(*each) for each in runs.changes(run.config).items()]


def verdict(each: Beside) -> str:
    """Say in a sentence whether a run is better than the first on these images."""
    gained, lost = len(each.gained), len(each.lost)
    if gained + lost == 0:
        return "they get the same images right."
    counts = f"{gained + lost:,} images changed, {gained:,} for the better"
    if each.chance >= CHANCE:
        return f"no difference beyond chance ({counts})."
    better = "better" if gained > lost else "worse"
    return (
        f"{better}, beyond what chance explains ({counts}). Another seed of the same "
        "recipe may differ as much: compare several."
    )


def render(found: Sequence[Beside]) -> str:
    """Return the comparison as a page: HTML that needs nothing else."""
    groups = grouped(found)
    several = len(groups) < len(found)
    first, sheets, rows, shown = found[0], [], [], []
    of_each = [_changes(each.run) for each in found]
    shared = [each for each in of_each[0] if all(each in some for some in of_each)]

    def named(each: Beside) -> dict[str, Any]:
        own = [change for change in _changes(each.run) if change not in shared]
        return {"name": each.run.config["recipe"], "changes": ", ".join(own)}

    for number, group in enumerate(groups):
        role = ROLES[number % len(ROLES)]
        case = named(group.members[0])
        shown.append(_group(groups[0], group) | case | {"role": role})
        for name, each in zip(group.names, group.members, strict=True):
            row = _row(first, each) | named(each) | {"letter": name, "role": role}
            # Of several seeds the first stands for the others' images.
            if number and each is group.members[0]:
                for kind in ("gained", "lost"):
                    sheet, tiles = _changed(first, each, f"{kind}-{number}", row[kind])
                    sheets.append(sheet)
                    row[f"{kind}_tiles"] = tiles
            rows.append(row)
    return document.filled(
        "compare.html",
        sheets,
        title=_title([row["name"] for row in rows]),
        shared=", ".join(shared),
        chance=CHANCE,
        runs=rows,
        groups=shown,
        several=several,
        images=len(first.outcome),
        set=first.run.config["data"]["name"],
        sample=first.run.config["data"]["sample"],
        classes=first.outcome.classes,
        charts=_charts(groups),
    )


def _title(names: Sequence[str]) -> str:
    """Name recipes: `"a, b and c"`, or of one the number of its runs."""
    *before, last = dict.fromkeys(names)
    if before:
        return f"{', '.join(before)} and {last}"
    return f"{last}: {len(names)} runs"


def _row(first: Beside, each: Beside) -> dict[str, Any]:
    """Return what the page says of a run."""
    low, high = each.interval
    return {
        "seed": each.run.config["seed"],
        "time": duration(each.run.result["seconds"]),
        "accuracy": each.accuracy,
        "low": low,
        "high": high,
        "gap": 100 * (each.accuracy - first.accuracy),
        "gained": each.gained,
        "lost": each.lost,
        "chance": each.chance,
        "verdict": verdict(each),
    }


def _group(first: Group, group: Group) -> dict[str, Any]:
    """Return what the page says of the seeds of a case."""
    between = intervals.interval(group.accuracies)
    return {
        "letter": group.letter,
        "seeds": [each.run.config["seed"] for each in group.members],
        "mean": float(np.mean(group.accuracies)),
        "deviation": deviation(group),
        "interval": between and (between[0] - between[1], between[0] + between[1]),
        "classes": group.per_class,
        "apart": None if group is first else apart(first, group),
    }


def deviation(group: Group) -> float | None:
    """Return the sample deviation of a group's accuracies, of two or more."""
    several = len(group.members) > 1
    return float(np.std(group.accuracies, ddof=1)) if several else None


def _charts(groups: Sequence[Group]) -> dict[str, Any]:
    metrics = [each.run.metrics for group in groups for each in group.members]
    longest = max(map(len, metrics))

    def line(group: Group, role: str, name: str) -> charts.Series:
        columns: list[list[float]] = [[] for _ in range(longest)]
        for each in group.members:
            for at, record in enumerate(each.run.metrics):
                value = runs.evaluated(record, name)
                if value is not None:
                    columns[at].append(value)
        # Seeds that ended early would bend the mean of those that went on.
        columns = [c if len(c) == len(group.members) else [] for c in columns]
        values = [float(np.mean(c)) if c else None for c in columns]
        if len(group.members) == 1:
            return charts.Series(group.letter, role, values)
        low = [min(c) if c else None for c in columns]
        high = [max(c) if c else None for c in columns]
        name = f"{group.letter}, {len(group.members)} seeds"
        return charts.Series(name, role, values, low, high)

    def lines(name: str) -> list[charts.Series]:
        roles = (ROLES[number % len(ROLES)] for number in range(len(groups)))
        return [line(g, role, name) for g, role in zip(groups, roles, strict=True)]

    epochs = range(1, longest + 1)
    return {
        "Accuracy": charts.accuracy(epochs, lines("accuracy")),
        "Loss": charts.loss(epochs, lines("crossentropy")),
    }


def _changed(
    first: Beside, each: Beside, name: str, index: np.ndarray
) -> tuple[pictures.Sheet, list[dict[str, Any]]]:
    """Show the changed images on which the two runs differ most."""
    before, after = first.outcome, each.outcome
    apart = abs(after.of_truth[index] - before.of_truth[index])
    index = index[np.argsort(-apart, kind="stable")][:CHANGED]
    sheet = pictures.sheet(name, pictures.thumbnails(before.images[index]))
    return sheet, [
        {
            "truth": (truth := before.classes[before.labels[n]]),
            "before": before.classes[before.predicted[n]],
            "after": after.classes[after.predicted[n]],
            "sure_before": before.confidence[n],
            "sure_after": after.confidence[n],
            "tile": sheet.show(k, f"{truth}, image {n}"),
        }
        for k, n in enumerate(index)
    ]


def _other_images(first: dict, other: dict) -> str | None:
    """Say in which respect two runs' evaluated images differ; `None` in none."""
    if first["data"]["sha256"] != other["data"]["sha256"]:
        names = [
            f"{config['data']['name']}{', sample' * config['data']['sample']}"
            for config in (first, other)
        ]
        return " and ".join(names)
    held_out = first.get("validation")
    for name in ["validation", *(["limit", "seed"] if held_out else [])]:
        values = other.get(name), first.get(name)
        if values[0] != values[1]:
            return f"--{name} {values[0]} and {values[1]}"
    # Of a test set the first are evaluated, as many as --limit says and there are.
    numbers = [] if held_out else [c["data"].get("test_images") for c in (other, first)]
    if len(set(numbers)) > 1:
        return f"{numbers[0]} and {numbers[1]} test images"
    return None
