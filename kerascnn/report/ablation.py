"""What each ingredient of a recipe is worth: the recipe's runs beside runs without it.

`recipes/NAME/ablation.toml` lists the ingredients, each with the edits of the recipe's
file that take it out. `kerascnn ladder ablation` trains what they leave, and keeps the
records in `recipes/NAME/ablation.jsonl`, from which the recipe's card has a table.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Sequence
from typing import Any

import scipy.stats

from kerascnn import UsageError
from kerascnn.report import markdown, records

TOP = """\
## What each ingredient is worth

Each row is the recipe with one ingredient taken out, {epochs} epochs, by `kerascnn
ladder ablation {name} --epochs {epochs}`: test accuracy after the last, mean ± standard
deviation over the seeds. An ingredient is worth what the whole recipe has above its
row, in points, here with the 95 % interval of that difference (Welch's t): one that
holds zero does not show that the ingredient helps.
"""
HEAD = ("without", "seeds", "one view", "worth", "with views", "worth")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A recipe with some places of its file changed; with none, the recipe itself.

    Attributes:
        recipe: The recipe's name.
        name: What is taken out, in one word; `""` for the recipe itself.
        words: The same for readers, and what takes its place.
        edits: Pairs of texts: the first, which stands once in the file, becomes the
            second.
    """

    recipe: str
    name: str = ""
    words: str = "nothing"
    edits: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """The SHA-256 of the edits, by which a record knows them again."""
        return hashlib.sha256(json.dumps(self.edits).encode()).hexdigest()

    def source(self, text: str, name: str) -> str:
        """Return the recipe's file with its edits made, under another name.

        Raises:
            UsageError: An edit's first text does not stand once in the file.
        """
        for old, new in ((f'name="{self.recipe}"', f'name="{name}"'), *self.edits):
            if text.count(old) != 1:
                raise UsageError(
                    f"{self.recipe} without {self.name}: {old.strip()!r} stands "
                    f"{text.count(old)} times in the recipe's file, and not once."
                )
            text = text.replace(old, new)
        return text


def variants(recipe: str) -> list[Variant]:
    """Return a recipe and what its ingredients leave of it.

    Raises:
        UsageError: It has no list of ingredients.
    """
    text = records.text(f"{recipe}/ablation.toml")
    if not text:
        raise UsageError(
            f"{recipe} has no list of ingredients, recipes/{recipe}/ablation.toml."
        )
    found = [Variant(recipe)]
    for each in tomllib.loads(text)["without"]:
        edits = tuple((edit["old"], edit["new"]) for edit in each["edits"])
        found.append(Variant(recipe, each["name"], each["words"], edits))
    return found


def runs_of(variant: Variant, fingerprint: str, epochs: int) -> dict[int, dict]:
    """Return the first record of each seed of a variant, by seed.

    The cookbook's runs of the recipe itself count too, where they have as many epochs.
    """
    kept = [
        record
        for record in records.read(f"{variant.recipe}/ablation")
        if record["without"] == variant.name and record["edits"] == variant.digest
    ]
    if not variant.name:
        kept += records.read(f"{variant.recipe}/runs")
    of_this_length = [record for record in kept if record["epochs"] == epochs]
    counted = records.counted(of_this_length, fingerprint)
    return {record["seed"]: record for record in counted}


def section(recipe: str, fingerprint: str) -> str:
    """Return the part of a recipe's card, empty where nothing was measured."""
    lengths = {record["epochs"] for record in records.read(f"{recipe}/ablation")}
    parts = []
    for epochs in sorted(lengths):
        whole, *without = [
            (variant, list(runs_of(variant, fingerprint, epochs).values()))
            for variant in variants(recipe)
        ]
        measured = [(variant, runs) for variant, runs in without if runs]
        if whole[1] and measured:
            rows = [_row(variant, runs, whole[1]) for variant, runs in measured]
            table = markdown.table(HEAD, [_row(*whole, []), *rows])
            parts.append(f"\n{TOP.format(name=recipe, epochs=epochs)}\n{table}\n")
    return "".join(parts)


def _row(variant: Variant, runs: Sequence[dict], whole: Sequence[dict]) -> list[str]:
    cells = [variant.words, str(len(runs))]
    for kind in ("", "_with_views"):
        mean = records.accuracy(runs, "test", kind)
        deviation = f" ± {100 * mean[1]:.2f}" if mean and runs[1:] else ""
        cells.append(f"{100 * mean[0]:.2f}{deviation}%" if mean else "–")
        cells.append(_worth(_accuracies(whole, kind), _accuracies(runs, kind)))
    return cells


def _accuracies(runs: Sequence[dict[str, Any]], kind: str) -> list[float]:
    found = [run["result"].get(f"test_accuracy{kind}") for run in runs]
    return [100 * each for each in found if each is not None]


def _worth(whole: Sequence[float], without: Sequence[float]) -> str:
    """Return the difference of the means, and its interval where it can be said."""
    if not whole or not without:
        return "–"
    worth = sum(whole) / len(whole) - sum(without) / len(without)
    if len(whole) < 2 or len(without) < 2:
        return f"{worth:+.2f}"
    found = scipy.stats.ttest_ind(whole, without, equal_var=False)
    low, high = found.confidence_interval(0.95)
    return f"{worth:+.2f} ({low:+.2f} to {high:+.2f})"
