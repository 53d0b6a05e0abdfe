"""Do whole trainings of a recipe and of its PyTorch twin end alike?

Each side's accuracies give an interval for its mean; what the two intervals say is also
the cookbook's table of what `kerascnn parity RECIPE --train --add` has found.
"""

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
seed, and the 95 % interval of its mean.
"""
HEAD = ("recipe", "epochs", "recipe's accuracies", "mean", "PyTorch's", "mean", "they")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and half width of its 95 % confidence interval (Student's t)."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    quantile = float(scipy.stats.t.ppf(0.975, len(values) - 1))
    return statistics.mean(values), quantile * error


def judge(intervals: Mapping[str, tuple[float, float]]) -> tuple[str, str]:
    """Compare the intervals of `"recipe"` and `"twin"`.

    Returns:
        `"apart"`, `"overlap"`, or `"inconclusive"` where they overlap because one is
        wider than `WIDEST` to either side; and that in words.
    """
    (ours, ours_half), (theirs, theirs_half) = intervals["recipe"], intervals["twin"]
    apart, widest = abs(ours - theirs), max(ours_half, theirs_half)
    means = f"the means are {apart:.2%} apart, the 95 % intervals"
    beyond = f"(they would not beyond {ours_half + theirs_half:.2%})"
    if apart > ours_half + theirs_half:
        return "apart", f"{means} do not overlap {beyond}."
    if widest > WIDEST:
        return "inconclusive", (
            f"inconclusive: {means} overlap, but one is ± {widest:.2%} wide, and at "
            f"most ± {WIDEST:.0%} tells anything: take more --seeds or --epochs."
        )
    return "overlap", f"{means} overlap {beyond}."


def section(fingerprints: Mapping[str, str]) -> str:
    """Return the section of `recipes/README.md`, empty where nothing was found.

    Args:
        fingerprints: Each recipe's as it is now, by name: older records do not count,
            nor do those of a twin or of data other than the latest ones.
    """
    latest = {
        (record["recipe"], record["epochs"]): record
        for record in records.trainings()
        if record["fingerprint"] == fingerprints.get(record["recipe"])
    }
    order = list(fingerprints)
    rows = []
    for name, epochs in sorted(latest, key=lambda key: (order.index(key[0]), key[1])):
        sides = records.trained(latest[name, epochs])
        if sides["twin"]:
            rows.append([markdown.card(name), str(epochs), *_cells(sides)])
    return f"\n{TOP}\n{markdown.table(HEAD, rows)}\n" if rows else ""


def _cells(sides: Mapping[str, Mapping[int, float]]) -> list[str]:
    cells, intervals = [], {}
    for side, accuracies in sides.items():
        values = [accuracies[seed] for seed in sorted(accuracies)]
        cells.append(", ".join(f"{100 * value:.2f}" for value in values) or "–")
        if len(values) > 1:
            mean, half = intervals[side] = interval(values)
            cells.append(f"{100 * mean:.2f} ± {100 * half:.2f}%")
        else:
            cells.append("–")
    return [*cells, judge(intervals)[0] if len(intervals) == 2 else "–"]
