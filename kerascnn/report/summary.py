"""The lines printed when a run has finished."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from kerascnn import runs
from kerascnn.recipe import Course
from kerascnn.text import duration

if TYPE_CHECKING:
    from kerascnn.runs import Run


def text(run: Run) -> str:
    """Summarise a finished run: accuracy beside the course's, what it ran on."""
    config, result = run.config, run.result
    data, environment = config["data"], config["environment"]
    course = Course(**config["course"])
    backend = environment["backend"]
    epochs = f"{result['epochs']} epoch" + "s" * (result["epochs"] != 1)
    if result["epochs"] != config["recipe_epochs"]:
        epochs += f" (the recipe's: {config['recipe_epochs']})"
    figures = compared(config)
    partial = data["sample"] or "limit" in config["overrides"]
    whose = "course" + ", on the full set" * bool(partial)
    accuracy = runs.evaluated(result, "accuracy")
    kind = "validation" if config.get("validation") else "test"
    evaluated = _accuracy("test accuracy ", accuracy, whose, figures.get("test"))
    if share := config.get("validation"):
        evaluated = _accuracy("validation    ", accuracy, whose, None)
        evaluated += f"   (on {share:.0%} of the training set, held out)"
    elif "limit" in config["overrides"]:
        evaluated += f"   (on {data['test_images']:,} images)"
    others = result.get("of_the_last_epochs_weights")
    if f"{kind}_accuracy_with_views" in result:
        seen = result[f"{kind}_accuracy_with_views"]
        evaluated += f"\n  with {result['views']} views    {seen:6.2%}"
    several = kind == "test" and len(run.metrics) > 1
    if several and (best := runs.peeked(run.metrics, result)):
        evaluated += f"\n  best epoch      {best['accuracy']:6.2%}   ({peeking(best)})"
    lines = [
        "",
        f"{config['recipe']}: {epochs} in {duration(result['seconds'])} on "
        f"{environment['processor']} ({environment['device']}), {backend} "
        f"{environment['versions'][backend]}, seed {config['seed']}",
        evaluated,
        _accuracy(
            "train accuracy", result["train_accuracy"], whose, figures.get("train")
        )
        + "   (of the last epoch, by other weights)" * bool(others),
        f"  course          {course.source}"
        + (f": {course.says}" if course.says and "test" in figures else ""),
        f"  run folder      {run.folder}",
    ]
    if not result["finished"]:
        lines.append("  The run was interrupted: this is what it had learned by then.")
    if accuracy is None:
        lines.append("  Its weights have changed since they were evaluated.")
    if result.get("evaluated_again"):
        lines.append(
            "  The weights that are kept are not those of the last epoch's evaluation: "
            "they were evaluated once more."
        )
    if others:
        lines.append(
            f"  {', '.join(others[:-1])} and {others[-1]} are still the last epoch's."
        )
    if result.get("steps_left_out"):
        lines.append(
            f"  {result['steps_left_out']} steps were left out: their loss or gradient "
            "was not finite."
        )
    if budget := config.get("budget"):
        lines.append(f"  {budget['said']}")
    marks = [*runs.trained_on(config), *runs.fine_tuned(config)]
    lines += [f"  {line}" for line in marks]
    if config["overrides"]:
        lines.append(f"  Changed from the recipe: {', '.join(config['overrides'])}")
    if data["sample"]:
        images = data.get(f"{kind}_images", data.get("test_images"))
        lines.append(
            f"  A run on the bundled sample, {data['train_images']:,} training and "
            f"{images:,} {kind} images, is for trying things: it does not "
            "show how far the recipe gets.\n"
            f"  The full set: kerascnn data get {data['name']}"
        )
    return "\n".join(lines)


def peeking(best: dict[str, Any]) -> str:
    """Say of a run's best epoch on the test set why it is no result."""
    if not best["peeking_bonus"]:
        return f"epoch {best['epoch']}, the last: no peeking bonus"
    bonus = 100 * best["peeking_bonus"]
    return f"epoch {best['epoch']}: {bonus:+.2f} points of peeking bonus, no result"


def tell(run: Run) -> None:
    """Print a run's summary when it has ended; on a terminal its figure stands out."""
    if sys.stdout is None:  # as it is after `>&-`
        return
    from rich.console import Console
    from rich.text import Text

    said = Text(text(run))
    said.highlight_regex(r"(?m)^  (?:test accuracy|validation) +[\d.]+%", "bold green")
    Console().print(said, soft_wrap=True)
    sys.stdout.flush()


def compared(config: dict[str, Any]) -> dict[str, str | None]:
    """Return the course's figures by split, where they are of a run's own images."""
    # Those of another data set are none to compare with; on held-out images there is
    # none for the test set.
    course = Course(**config["course"])
    if "dataset" in config["overrides"]:
        return {}
    splits = ("train",) if config.get("validation") else ("test", "train")
    return {split: course.figure(split) for split in splits}


def _accuracy(label: str, ours: float | None, whose: str, course: str | None) -> str:
    # No step of the last epoch was kept: there is nothing to take a mean of.
    line = f"  {label}  " + ("  none" if ours is None else f"{ours:6.2%}")
    return line + (f"   ({whose}: {course})" if course else "")
