"""The cookbook: `recipes/` of a checkout, rendered from the recipes and their runs."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

from kerascnn import UsageError, describe, recipe
from kerascnn.report import (
    ablation,
    difference,
    headline,
    intervals,
    ladder,
    learning_starts,
    markdown,
    records,
    speed,
    staircase,
)
from kerascnn.runs import Run, peeked
from kerascnn.text import duration

CARD = """\
<!-- Written by `kerascnn cookbook` from the recipe and the records of its runs. -->
# {name}

{idea}

## The course and ours

| | course | ours | gap |
|---|---|---|---|
| test accuracy | {test} |
| training accuracy | {train} |

Course: {source}

Ours: after the last epoch, mean ± standard deviation over the seeds that learned. The
gap is in percentage points.
{peeking}{curve}{pictures}{ablation}{notes}
## What changes

{changes}

## Deviations

{deviations}

## Run it

    python -m kerascnn.recipes.{name}

[The recipe](../../kerascnn/recipes/{name}.py): {parameters:,} parameters,
{epochs} epochs.

## Environment

{environment}

Fingerprint: `{fingerprint}`
"""
TOP = """\
<!-- Written by `kerascnn cookbook` from the recipes and the records of their runs. -->
# The ladder

Every case of the course: the accuracy that the lectures print, and ours after the last
epoch, mean ± standard deviation over the seeds that learned. The gap is in percentage
points. The peeking bonus is the best epoch on the test set minus the last, on average:
others report that epoch, and we do not, because the test set has chosen it. A dash is a
figure that the course does not print, or that nobody has measured yet; where the course
has words only, they stand there. Time and machine are those of the first run: other
work ran beside some, so times of different recipes do not compare.

![CIFAR-10, rung after rung: the course's accuracy and ours](staircase.svg)
"""
RUNGS = ("recipe", "parameters", *("course: test", "ours", "gap", "peeking bonus"))
RUNGS += (*("course: training", "ours", "gap"), "time", "machine")
RUNS = ("seed", "test", "best epoch", "training", "time", "machine", "software")
RUNS += ("engine", "begun")
DASH = "–"
# The figures of a run that a card shows, where its folder has them, and what they show.
PICTURES = {
    "confusion": "How often images of a class, a row, were taken for each class",
    "mistakes": "Its worst mistakes: the images whose true class it believed in least",
    "grad_cam": "Where it saw the class that it named: warm places count for it",
    "filters": "The first layer's filters",
}


@dataclasses.dataclass
class Cookbook:
    """Render `recipes/` and README's tables from recipes and what was measured.

    `kerascnn cookbook add RUN...` takes runs in.
    """

    check: bool = False
    """Write nothing: name each stale page, and exit with code 1 if there is one."""

    def __call__(self) -> None:
        stale = False
        for page, text in pages().items():
            if page.exists() and page.read_text("utf-8") == text:
                continue
            stale = True
            if self.check:
                short = page.relative_to(records.FOLDER.parent)
                print(f"{short} is stale: `kerascnn cookbook` renders it.")
            else:
                page.parent.mkdir(exist_ok=True)
                page.write_text(text, "utf-8")
        if self.check and stale:
            raise SystemExit(1)


# The fingerprint stands for the description; the other fields say the options.
_LEFT_OUT = ("description", "options", "recipe_file")


def record_of(run: Run) -> dict[str, Any]:
    """Return what the cookbook keeps of a run; `UsageError` if it keeps none."""
    # It keeps runs of a recipe as it stands, on the full set, to the last epoch, and
    # all of their records but the paths of the machine.
    config, mistake = run.config, None
    try:
        if file := config.get("recipe_file"):
            raise UsageError(
                f"{run.folder} is not for the cookbook: its recipe is {file}, and none "
                "of the course."
            )
        described = describe.describe(recipe.load(config["recipe"]))
        if config["overrides"]:
            mistake = f"it changed the recipe: {', '.join(config['overrides'])}"
        elif config["data"]["sample"]:
            mistake = "it trained on the bundled sample"
        elif config["fingerprint"] != describe.fingerprint(described):
            mistake = f"{config['recipe']} has changed since (another fingerprint)"
        elif not (run.folder / "curve.png").exists() or not run.result["finished"]:
            mistake = "it has not finished"
        elif run.result.get("steps_left_out"):
            mistake = "it left out steps whose numbers were not finite"
    except KeyError as missing:
        mistake = f"its record says nothing of {missing}"
    except (TypeError, AttributeError) as error:
        mistake = f"its record is damaged ({error})"
    if mistake:
        raise UsageError(f"{run.folder} is not for the cookbook: {mistake}.")
    kept = without_paths({k: v for k, v in config.items() if k not in _LEFT_OUT})
    return kept | {"result": run.result, "metrics": run.metrics}


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's configuration, or a part, without the paths of its machine."""
    paths = {"data": "source", "environment": "command", "process": "compile cache"}
    return {
        part: {k: v for k, v in value.items() if k != paths[part]}
        if part in paths
        else value
        for part, value in config.items()
    }


def pages() -> dict[Path, str]:
    """Render each file of the cookbook; `UsageError` where this is no checkout."""
    if not records.FOLDER.exists():
        raise UsageError(f"there is no {records.FOLDER}: run it in a checkout.")
    outlines = ladder.in_order([recipe.outline(name) for name in recipe.names()])
    described = {o.name: describe.describe(recipe.load(o.name)) for o in outlines}
    fingerprints = {name: describe.fingerprint(d) for name, d in described.items()}
    rendered, top, climbed = {}, TOP, []
    for lecture, rungs in itertools.groupby(outlines, ladder.lecture):
        rows = []
        for item in rungs:
            before, after = described[item.after or item.name], described[item.name]
            fingerprint = fingerprints[item.name]
            runs = records.counted(records.read(f"{item.name}/runs"), fingerprint)
            changes = difference.between(before, after)
            page = records.FOLDER / item.name / "README.md"
            rendered[page] = _card(item, runs, changes, fingerprint)
            rows.append(_rung(item, runs))
            climbed.append(ladder.Rung(item, runs))
        top += f"\n## {lecture.capitalize()}\n\n{markdown.table(RUNGS, rows)}\n"
    top += learning_starts.section(fingerprints) + intervals.section(fingerprints)
    rendered[staircase.path()] = staircase.render(climbed)
    readme = records.FOLDER.parent / "README.md"
    if readme.exists():
        text = speed.rendered(readme.read_text("utf-8"))
        if known := fingerprints.get(headline.RECIPE):
            text = headline.rendered(text, known)
        rendered[readme] = text
    return {records.FOLDER / "README.md": top, **rendered}


def _card(
    item: recipe.Outline,
    runs: list[dict[str, Any]],
    changes: dict[str, list[str]],
    fingerprint: str,
) -> str:
    idea, *deviations = re.split(r"\nDeviations from [\w ]+: ", item.idea, maxsplit=1)
    deviations = "".join(deviations)
    delta = [x for part, lines in changes.items() for x in (f"@@ {part} @@", *lines)]
    before = f"After [{item.after}](../{item.after}/README.md):"
    return CARD.format(
        name=item.name,
        idea=idea.replace(f"    python -m kerascnn.recipes.{item.name}\n", "").strip(),
        test=" | ".join(_cells(item, runs, "test")),
        train=" | ".join(_cells(item, runs, "train")),
        source=": ".join(filter(None, (item.course.source, item.course.says))),
        peeking=_peeking(runs),
        curve="\n![Loss and accuracy by epoch](curve.png)\n" if runs else "",
        pictures=_pictures(item.name),
        ablation=ablation.section(item.name, fingerprint),
        notes=f"\n## Of the runs\n\n{notes}"
        if (notes := records.notes(item.name))
        else "",
        changes="\n".join([before, "", "```diff", *delta, "```"]) if delta else DASH,
        deviations=(deviations[:1].upper() + deviations[1:]) or DASH,
        parameters=item.parameters,
        epochs=item.epochs,
        environment=markdown.table(RUNS, map(run_row, runs)) if runs else DASH,
        fingerprint=fingerprint,
    )


def _pictures(name: str) -> str:
    """Show the figures that a recipe's first run has left in its folder."""
    shown = [
        f"![{says}]({figure}.png)\n\n{says}.\n"
        for figure, says in PICTURES.items()
        if (records.FOLDER / name / f"{figure}.png").exists()
    ]
    return "\n## What it sees\n\n" + "\n".join(shown) if shown else ""


def _cells(item: recipe.Outline, runs: list[dict[str, Any]], split: str) -> list[str]:
    """Write the course's figure, ours and the gap between them."""
    kept = records.learned(runs)
    course, ours = getattr(item.course, split), records.accuracy(kept, split)
    cells = [item.course.figure(split) or DASH, DASH, DASH]
    if ours:
        seeds = f"{len(kept)} seed" + "s" * (len(kept) > 1)
        if len(kept) < len(runs):
            seeds = f"{len(kept)} of {len(runs)} seeds, the rest at chance"
        deviation = f" ± {100 * ours[1]:.2f}" * (len(kept) > 1)
        cells[1] = f"{100 * ours[0]:.2f}{deviation}% ({seeds})"
        seen = records.accuracy(kept, split, "_with_views") if split == "test" else None
        if seen:
            deviation = f" ± {100 * seen[1]:.2f}" * (len(kept) > 1)
            cells[1] += f"; {100 * seen[0]:.2f}{deviation}% with views"
        if course is not None:
            cells[2] = f"{100 * (ours[0] - course):+.1f}"
    return cells


def _peeking(runs: list[dict[str, Any]]) -> str:
    """Write the sentence on what the best epoch on the test set would have given."""
    bonus = records.peeking_bonus(records.learned(runs))
    if bonus is None:
        return ""
    return (
        f"\nPeeking bonus: {100 * bonus:+.2f} points. That is the best epoch on the "
        "test set minus the\nlast, on average, and no result: the test set has chosen "
        "the epoch.\n"
    )


def _rung(item: recipe.Outline, runs: list[dict[str, Any]]) -> list[str]:
    bonus = records.peeking_bonus(records.learned(runs))
    peeking = DASH if bonus is None else f"{100 * bonus:+.2f}"
    figures = [*_cells(item, runs, "test"), peeking, *_cells(item, runs, "train")]
    figures[0] = figures[0] if item.course.test else item.course.says or DASH
    place = run_row(runs[0])[4:6] if runs else [DASH, DASH]
    return [markdown.card(item.name), f"{item.parameters:,}", *figures, *place]


def run_row(record: dict[str, Any]) -> list[str]:
    """Return a run's cells below `RUNS`."""
    result, environment = record["result"], record["environment"]
    machine, versions = environment["device"], environment["versions"]
    seen = result.get("test_accuracy_with_views")
    best = peeked(record["metrics"], result)
    if machine == "cpu":
        machine = f"{environment['processor']}, {environment['cores']} cores"
    return [
        str(record["seed"]),
        f"{result['test_accuracy']:.2%}"
        + (f" ({seen:.2%} with views)" if seen is not None else ""),
        f"{best['accuracy']:.2%} ({best['epoch']})" if best else DASH,
        f"{result['train_accuracy']:.2%}",
        duration(result["seconds"]),
        machine,
        ", ".join(f"{x} {versions[x]}" for x in ("keras", environment["backend"])),
        record["engine"],
        environment["time"][:10],
    ]
