"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kerascnn.recipe import Course
from kerascnn.report.summary import compared
from kerascnn.runs import evaluated as evaluated_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kerascnn.runs import Run

TRAIN, TEST = "#d95f02", "#1b6ca8"


def curve(run: Run) -> Path:
    """Draw a run's loss and accuracy by epoch, with the course's figures as lines."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    config, metrics = run.config, run.metrics
    epochs = [m["epoch"] for m in metrics]
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    marker = "o" if len(epochs) < 3 else None
    validation = config.get("validation")
    evaluated = f"{validation:.0%} of the training set, held out" if validation else ""
    for axes, name in ((loss, "crossentropy"), (accuracy, "accuracy")):
        for prefix, color, label in (
            ("", TRAIN, "training set"),
            ("test_", TEST, evaluated or "test set"),
        ):
            values = [
                number(evaluated_on(m, name) if prefix else m[name]) for m in metrics
            ]
            axes.plot(epochs, values, color=color, marker=marker, label=label)
        by_epoch(axes)
    loss.set_ylabel("cross-entropy")
    loss.set_ylim(bottom=0)
    accuracy.set_ylabel("accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    course = Course(**config["course"])
    figures = {} if validation else compared(config)
    partial = config["data"]["sample"] or "limit" in config["overrides"]
    whose = "course" + " (full set)" * bool(partial)
    for split, color in (("train", TRAIN), ("test", TEST)):
        if printed := figures.get(split):
            accuracy.axhline(
                getattr(course, split),
                color=color,
                linestyle="--",
                linewidth=1,
                label=f"{whose}, {split} {printed}",
            )
    accuracy.legend()
    figure.suptitle(_title(config))
    path = run.folder / "curve.png"
    figure.savefig(path, dpi=120)
    return path


def by_epoch(axes: Axes) -> None:
    """Make the x axis one of whole epochs."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _title(config: dict) -> str:
    title = config["recipe"]
    data = config["data"]
    if data["sample"]:
        title += f": bundled sample, {data['train_images']:,} training images"
    if config["overrides"]:
        title += f" (changed: {', '.join(config['overrides'])})"
    return title


def number(value: float | None) -> float:
    """Undo the record's null for a value that was not finite."""
    return float("nan") if value is None else value
