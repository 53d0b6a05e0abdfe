"""Runs beside each other, image by image: what went from wrong to right, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from kerascnn import UsageError, runs
from kerascnn.page import charts, document, pictures
from kerascnn.page.evidence import outcome_of
from kerascnn.page.findings import Outcome, confusion, wilson
from kerascnn.runs import Run
from kerascnn.text import duration

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
    config = run.config
    changed = ", ".join(config["overrides"])
    return config["recipe"] + (f" ({changed})" if changed else "")


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
    first, sheets, rows = found[0], [], []
    for number, each in enumerate(found):
        low, high = each.interval
        shown = {
            "letter": letter(number),
            "role": ROLES[number % len(ROLES)],
            "name": label(each.run),
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
            "classes": each.per_class,
        }
        for kind in ("gained", "lost") if number else ():
            sheet, tiles = _changed(first, each, f"{kind}-{number}", shown[kind])
            sheets.append(sheet)
            shown[f"{kind}_tiles"] = tiles
        rows.append(shown)
    return document.filled(
        "compare.html",
        sheets,
        title=" and ".join(dict.fromkeys(row["name"] for row in rows)),
        runs=rows,
        images=len(first.outcome),
        set=first.run.config["data"]["name"],
        classes=first.outcome.classes,
        charts=_charts(found),
    )


def _charts(found: Sequence[Beside]) -> dict[str, Any]:
    longest = max(len(each.run.metrics) for each in found)

    def lines(name: str) -> list[charts.Series]:
        series = []
        for number, each in enumerate(found):
            values = [runs.evaluated(record, name) for record in each.run.metrics]
            values += [None] * (longest - len(values))
            role = ROLES[number % len(ROLES)]
            series.append(charts.Series(letter(number), role, values))
        return series

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
    names = ["validation", "limit"] + ["seed"] * bool(first.get("validation"))
    for name in names:
        values = first.get(name), other.get(name)
        if values[0] != values[1]:
            return f"--{name} {values[0]} and {values[1]}"
    return None
