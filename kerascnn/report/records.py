"""What was measured, as a checkout keeps it: a record is a line of `recipes/*.jsonl`.

`NAME/runs` holds whole runs of a recipe (`cookbook add`), `NAME/ablation` runs without
one of its ingredients (`ladder ablation`), `starts` by which step a seed learns
(`learns --add`), `trainings` runs beside PyTorch (`parity --train --add`), `bench`
times and memory (`bench step --add`, `bench epoch --add`).
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kerascnn import UsageError, runs

# What two trainings must share to be set side by side: the recipe's name and its
# `fingerprint`, the `epochs`, the `twin`'s fingerprint, and the hash of the `data`.
CASE = ("recipe", "fingerprint", "epochs", "twin", "data")

# A network that is right this many times as often as a guesser has learned something.
GUESSING = 1.5

# A checkout's records, to which new ones are added.
FOLDER = Path(__file__).parents[2] / "recipes"

# An installed package's, which are a copy (.ci/cookbook.py); a checkout has none.
PACKAGED = Path(__file__).parents[1] / "cookbook"


def _file(name: str) -> Path:
    """Return where a file of the cookbook is read."""
    return (PACKAGED if PACKAGED.exists() else FOLDER) / name


def read(table: str) -> list[dict[str, Any]]:
    """Return the records of a table, oldest first: `"NAME/runs"`, or one of all."""
    file = _file(f"{table}.jsonl")
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines]


def add(table: str, record: Mapping[str, Any]) -> None:
    """Keep a record in a table, made where there is none."""
    file = FOLDER / f"{table}.jsonl"
    file.parent.mkdir(exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record) + "\n")


def text(name: str) -> str:
    """Return what stands in a file of the cookbook, `""` where there is none."""
    file = _file(name)
    return file.read_text("utf-8") if file.exists() else ""


def notes(name: str) -> str:
    """Return the notes on a recipe's runs, `recipes/NAME/notes.md`, if it has any."""
    return text(f"{name}/notes.md")


def check(sample: bool) -> None:
    """Raise `UsageError` where nothing is kept: no checkout, or a part of a set."""
    if not FOLDER.exists():
        raise UsageError(f"--add: there is no {FOLDER}: use a checkout.")
    if sample:
        raise UsageError("--add: the cookbook is of full sets, not samples.")


def trained(case: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """Return the first test accuracy, 0 to 1, of each side of a case and each seed."""
    found: dict[str, dict[int, float]] = {"recipe": {}, "twin": {}}
    for run in counted(read(f"{case['recipe']}/runs"), case["fingerprint"]):
        if (run["epochs"], run["data"]["sha256"]) == (case["epochs"], case["data"]):
            found["recipe"][run["seed"]] = run["result"]["test_accuracy"]
    for kept in read("trainings"):
        if all(kept[name] == case[name] for name in CASE):
            found[kept["side"]].setdefault(kept["seed"], kept["test_accuracy"])
    return found


def counted(
    records: Sequence[dict[str, Any]], fingerprint: str
) -> list[dict[str, Any]]:
    """Choose the records that a recipe's figure is made of."""
    # Those of the recipe as it is now, and of each seed the first: to run a seed again
    # is no second draw, and must not improve the figure.
    chosen: dict[int, dict[str, Any]] = {}
    for record in records:
        if record["fingerprint"] == fingerprint:
            chosen.setdefault(record["seed"], record)
    return list(chosen.values())


def measured(name: str) -> list[dict[str, Any]]:
    """Return a recipe's counted records without building the recipe."""
    # Its fingerprint is read off its card, `recipes/NAME/README.md`.
    card = _file(f"{name}/README.md")
    found = card.exists() and re.search("[0-9a-f]{64}", card.read_text("utf-8"))
    return counted(read(f"{name}/runs"), found[0]) if found else []


def has_learned(accuracy: float, classes: int) -> bool:
    """Whether an accuracy, 0 to 1, is better than guessing."""
    return accuracy * classes > GUESSING


def learned(records: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Choose the records of the seeds that did better than guessing, if any did."""
    # A network that stays at chance, as deep ones of sigmoids may with some seeds, has
    # another outcome, not a low one: no mean describes the two together.
    return [
        record
        for record in records
        if has_learned(
            record["result"]["test_accuracy"], len(record["data"]["classes"])
        )
    ] or records


def peeking_bonus(records: Sequence[dict[str, Any]]) -> float | None:
    """Return the mean of what the best epoch on the test set has above the last."""
    found = [runs.peeked(each["metrics"], each["result"]) for each in records]
    bonuses = [each["peeking_bonus"] for each in found if each]
    return statistics.fmean(bonuses) if bonuses else None


def accuracy(
    records: Sequence[dict[str, Any]], split: str, kind: str = ""
) -> tuple[float, float] | None:
    """Return mean and sample deviation, 0 to 1, of the last epoch's accuracies.

    Of the `kind` `"_with_views"` there are only those of recipes with views.
    """
    values = [record["result"].get(f"{split}_accuracy{kind}") for record in records]
    values = [value for value in values if value is not None]
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if values[1:] else 0.0
