"""Do whole trainings of a recipe and of its PyTorch twin end alike?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import scipy.stats

from kerascnn.report import markdown, records

# The course's tricks gain 1 to 4 points each. Intervals wider than this to either side
# would overlap for two networks that lie several tricks apart.
WIDEST = 0.05

TOP = """\
## Beside PyTorch

The recipe and the lecture's own network in PyTorch, each trained on the full set for as
many epochs by `kerascnn parity RECIPE --train --add`: test accuracy after the last, by
seed, and the 95 % interval of its mean over the seeds that learned.
"""
HEAD = ("recipe", "epochs", "recipe: accuracies", "mean")
HEAD += ("PyTorch: accuracies", "mean", "intervals")


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return mean and half width of its 95 % interval (Student's t), of two or more."""
    if len(values) < 2:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values))
    quantile = float(scipy.stats.t.ppf(0.975, len(values) - 1))
    return statistics.mean(values), quantile * error


def learned(accuracies: Sequence[float], classes: int) -> list[float]:
    """Return the accuracies of the networks that do better than guessing."""
    return [value for value in accuracies if records.has_learned(value, classes)]


def judge(sides: Mapping[str, Sequence[float]], classes: int) -> tuple[str, str]:
    """Return `"apart"`, `"overlap"` or `"inconclusive"` for two sides, and why.

    Fisher's exact test, at 5 %, compares how many networks learned; the 95 % intervals
    of the means compare the accuracies of those that did. Overlapping intervals say
    nothing where one is wider than `WIDEST` to either side.
    """
    found = [learned(sides[side], classes) for side in ("recipe", "twin")]
    runs = [len(sides[side]) for side in ("recipe", "twin")]
    counts = " and ".join(f"{len(x)} of {n}" for x, n in zip(found, runs, strict=True))
    stuck = [n - len(x) for x, n in zip(found, runs, strict=True)]
    if any(stuck):
        table = [[len(x), n] for x, n in zip(found, stuck, strict=True)]
        if scipy.stats.fisher_exact(table).pvalue < 0.05:
            return "apart", f"recipe and twin learned with {counts} seeds."
        if not any(found):
            return "overlap", "neither learns: both stay at chance with all seeds."
    ours, theirs = map(interval, found)
    who = f"of those that learned ({counts}) " if any(stuck) else ""
    if ours is None or theirs is None:
        return "inconclusive", (
            f"inconclusive: with too few seeds it learned ({counts}) to tell how far: "
            "take more --seeds or --epochs."
        )
    apart, widest = abs(ours[0] - theirs[0]), max(ours[1], theirs[1])
    means = f"{who}the means are {apart:.2%} apart, the 95 % intervals"
    beyond = f"(they would not beyond {ours[1] + theirs[1]:.2%})"
    if apart > ours[1] + theirs[1]:
        return "apart", f"{means} do not overlap {beyond}."
    if widest > WIDEST:
        return "inconclusive", (
            f"inconclusive: {means} overlap, but one is ± {widest:.2%} wide, and at "
            f"most ± {WIDEST:.0%} tells anything: take more --seeds or --epochs."
        )
    return "overlap", f"{means} overlap {beyond}."


def section(fingerprints: Mapping[str, str]) -> str:
    """Return the section of `recipes/README.md`, empty where nothing was found."""
    # Only records of the recipe, the twin and the data as the latest ones are count.
    latest = {
        (record["recipe"], record["epochs"]): record
        for record in records.read("trainings")
        if record["fingerprint"] == fingerprints.get(record["recipe"])
    }
    order = list(fingerprints)
    rows = []
    for name, epochs in sorted(latest, key=lambda key: (order.index(key[0]), key[1])):
        sides = records.trained(latest[name, epochs])
        if sides["twin"]:
            classes = latest[name, epochs]["classes"]
            rows.append([markdown.card(name), str(epochs), *_cells(sides, classes)])
    return f"\n{TOP}\n{markdown.table(HEAD, rows)}\n" if rows else ""


def _cells(sides: Mapping[str, Mapping[int, float]], classes: int) -> list[str]:
    values = {
        side: [found[seed] for seed in sorted(found)] for side, found in sides.items()
    }
    cells = []
    for accuracies in values.values():
        cells.append(", ".join(f"{100 * value:.2f}" for value in accuracies) or "–")
        between = interval(learned(accuracies, classes))
        cells.append(
            f"{100 * between[0]:.2f} ± {100 * between[1]:.2f}%" if between else "–"
        )
    return [*cells, judge(values, classes)[0] if all(values.values()) else "–"]
