"""Which networks learn: the cookbook's table of what `kerascnn learns` has found."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

TOP = """\
## Which networks learn

Trained on the full set, with the recipe's own settings but for the batch, until it was
right twice as often as guessing over 20 steps, or was given up: `kerascnn learns`.
"""
HEAD = ("recipe", "seeds that learned", "by step", "accuracy", "cross-entropy", "batch")


def rows(
    records: Sequence[dict[str, Any]], fingerprints: Mapping[str, str]
) -> list[list[str]]:
    """Return a row for each recipe and batch size, in the order of `fingerprints`.

    As in the ladder, only records of a recipe as it is now count, and of each seed the
    first.

    Args:
        records: What `records.starts` returns.
        fingerprints: Each recipe's, by name.
    """
    first: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    for record in records:
        name = record["recipe"]
        if record["fingerprint"] == fingerprints.get(name):
            seeds = first.setdefault((name, record["batch_size"]), {})
            seeds.setdefault(record["seed"], record)
    order = list(fingerprints)
    return [
        _row(name, batch, list(first[name, batch].values()))
        for name, batch in sorted(first, key=lambda key: (order.index(key[0]), key[1]))
    ]


def _row(name: str, batch: int, found: Sequence[dict[str, Any]]) -> list[str]:
    steps = [str(r["learned"] or f"not in {r['steps']}") for r in found]
    # Three times the same is said once.
    grouped = [(step, len(list(same))) for step, same in itertools.groupby(steps)]
    return [
        f"[{name}]({name}/README.md)",
        f"{sum(r['learned'] is not None for r in found)} of {len(found)}",
        ", ".join(f"{step} ({n} times)" if n > 1 else step for step, n in grouped),
        ", ".join(f"{r['accuracy']:.1%}" for r in found),
        ", ".join(f"{r['crossentropy']:.3f}" for r in found),
        str(batch),
    ]
