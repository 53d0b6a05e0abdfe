"""Runs beside each other, image by image: what the first got wrong and another right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.stats

from kerascnn import UsageError
from kerascnn.page.evidence import outcome_of
from kerascnn.page.findings import Outcome, wilson
from kerascnn.runs import Run


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
        right, labels = self.outcome.right, self.outcome.labels
        n = len(self.outcome.classes)
        with np.errstate(invalid="ignore"):
            return np.bincount(labels, right, n) / np.bincount(labels, minlength=n)


def mcnemar(gained: int, lost: int) -> float:
    """Return the p-value of McNemar's exact test (1947), two-sided."""
    if gained + lost == 0:
        return 1.0
    return float(scipy.stats.binomtest(gained, gained + lost, 0.5).pvalue)


def beside(runs: Sequence[Run]) -> list[Beside]:
    """Evaluate runs on the same images, each beside the first.

    Raises:
        UsageError: They were evaluated on different images, or one has no model yet.
    """
    first = runs[0].config
    for run in runs[1:]:
        if other := _other_images(first, run.config):
            raise UsageError(
                f"{run.folder} was evaluated on other images than {runs[0].folder} "
                f"({other}): only runs on the same images can be compared."
            )
    found: list[Beside] = []
    for run in runs:
        outcome = outcome_of(run)
        base = found[0].outcome.right if found else outcome.right
        gained = np.flatnonzero(outcome.right & ~base)
        lost = np.flatnonzero(~outcome.right & base)
        chance = mcnemar(len(gained), len(lost))
        found.append(Beside(run, outcome, gained, lost, chance))
    return found


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
