"""Which networks learn: the cookbook's table of what `kerascnn learns` has found."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from kerascnn.report import markdown, records

TOP = """\
## Which networks learn

Trained on the full set, with the recipe's own network, transform and optimiser, until a
network was right twice as often as guessing over 20 steps, or was given up, by
`kerascnn learns`. A batch below the recipes' 256 makes the trial shorter.
"""
HEAD = ("recipe", "seeds that learned", "by step", "accuracy", "cross-entropy", "batch")


def section(fingerprints: Mapping[str, str]) -> str:
    """Return the section of `recipes/README.md`, empty where nothing was found."""
    found = rows(records.read("starts"), fingerprints)
    return f"\n{TOP}\n{markdown.table(HEAD, found)}\n" if found else ""


def rows(
    found: Sequence[dict[str, Any]], fingerprints: Mapping[str, str]
) -> list[list[str]]:
    """Return a row for each recipe and batch size, in the order of `fingerprints`."""
    # Only records of a recipe as it is now count, and of each seed the one that was
    # given the most steps: a longer trial of a seed begins with the shorter one.
    longest: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    for record in found:
        name = record["recipe"]
        if record["fingerprint"] == fingerprints.get(name):
            seeds = longest.setdefault((name, record["batch_size"]), {})
            before = seeds.get(record["seed"])
            if before is None or before["at_most"] < record["at_most"]:
                seeds[record["seed"]] = record
    order = list(fingerprints)
    return [
        _row(name, batch, [seeds[seed] for seed in sorted(seeds)])
        for (name, batch), seeds in sorted(
            longest.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
        )
    ]


def _row(name: str, batch: int, found: Sequence[dict[str, Any]]) -> list[str]:
    steps = [str(r["learned"] or f"not in {r['steps']}") for r in found]
    # Three times the same is said once.
    grouped = [(step, len(list(same))) for step, same in itertools.groupby(steps)]
    entropies = [r["crossentropy"] for r in found]
    return [
        markdown.card(name),
        f"{sum(r['learned'] is not None for r in found)} of {len(found)}",
        ", ".join(f"{step} ({n} times)" if n > 1 else step for step, n in grouped),
        ", ".join(f"{r['accuracy']:.1%}" for r in found),
        ", ".join("not finite" if e is None else f"{e:.3f}" for e in entropies),
        str(batch),
    ]
