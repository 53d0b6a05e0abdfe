"""A run's figures as files of their own, for papers and slides: matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascnn import UsageError, runs
from kerascnn.page import findings, pictures
from kerascnn.page.evidence import Evidence
from kerascnn.recipe import Course
from kerascnn.report.plots import TEST, TRAIN, by_epoch, number
from kerascnn.report.summary import compared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#6b7480"


def write(
    evidence: Evidence,
    folder: Path,
    svg: bool = False,
    names: Collection[str] | None = None,
    dots: int = 200,
) -> list[Path]:
    """Write figures into a folder, made if need be.

    Args:
        evidence: What is known of the run.
        folder: Where to.
        svg: Write SVG instead of PNG.
        names: Of `FIGURES`; all, if none are given.
        dots: An inch of a PNG has.

    Returns:
        The files; what a run has nothing for is left out.

    Raises:
        UsageError: A file can't be written.
    """
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FIGURES if names is None else names:
            figure = FIGURES[name](evidence)
            if figure is not None:
                path = folder / f"{name}.{'svg' if svg else 'png'}"
                figure.savefig(path, dpi=dots)
                files.append(path)
    except OSError as error:
        raise UsageError(
            f"{error.filename or folder} can't be written ({error.strerror or error}): "
            "name another folder with --figures."
        ) from error
    return files


def curves(evidence: Evidence) -> Figure | None:
    """Loss and accuracy by epoch, with the course's figures."""
    metrics = evidence.metrics
    if not metrics:
        return None
    figure = _figure(9, 3.6)
    epochs = [record["epoch"] for record in metrics]
    marker = "o" if len(epochs) < 12 else None
    panels = zip(figure.subplots(1, 2), ("crossentropy", "accuracy"), strict=True)
    for axes, name in panels:
        for of, color, style, label in (
            (lambda r, n: r[n], TRAIN, "--", "training set"),
            (runs.evaluated, TEST, "-", evidence.evaluated),
        ):
            values = [number(of(record, name)) for record in metrics]
            axes.plot(epochs, values, style, color=color, marker=marker, label=label)
        by_epoch(axes)
    loss, accuracy = figure.axes
    loss.set_ylabel("cross-entropy (nats)")
    loss.set_ylim(bottom=0)
    accuracy.set_ylabel("accuracy (% of images)")
    _percent(accuracy.yaxis)
    figures = {} if evidence.held_out else compared(evidence.config)
    course = Course(**evidence.config["course"])
    for split, color in (("train", TRAIN), ("test", TEST)):
        if printed := figures.get(split):
            label = f"course, {split} {printed}"
            accuracy.axhline(
                getattr(course, split), color=color, linestyle=":", label=label
            )
    accuracy.legend(frameon=False)
    return figure


def learning_rate(evidence: Evidence) -> Figure | None:
    """The learning rate of every step; of a run without a record, of every epoch."""
    found = evidence.recorded
    if found and np.isfinite(found["learning_rate"]).any():
        figure = _figure(4.5, 3.2)
        axes = figure.subplots()
        axes.step(found["step"], found["learning_rate"], where="post", color=GREY)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("learning rate")
        axes.set_xlabel("step")
        axes.ticklabel_format(axis="y", scilimits=(-2, 3))
        return figure
    pairs = [(r["epoch"], r.get("learning_rate")) for r in evidence.metrics]
    pairs = [pair for pair in pairs if pair[1] is not None]
    if not pairs:
        return None
    figure = _figure(4.5, 3.2)
    axes = figure.subplots()
    axes.step(*zip(*pairs, strict=True), where="post", color=GREY)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("learning rate")
    axes.ticklabel_format(axis="y", scilimits=(-2, 3))
    by_epoch(axes)
    return figure


def confusion(evidence: Evidence) -> Figure:
    """The confusion matrix: each row's shares by colour, counts as numbers."""
    matrix, classes = evidence.matrix, evidence.outcome.classes
    size = min(2.5 + 0.5 * len(classes), 14)
    figure = _figure(size + 0.8, size)
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    few = len(classes) <= 25
    if few:
        for truth, predicted in np.argwhere(matrix):
            color = "white" if shares[truth, predicted] > 0.5 else "black"
            count = str(matrix[truth, predicted])
            axes.text(
                *(predicted, truth, count),
                **{"ha": "center", "va": "center", "color": color, "fontsize": 8},
            )
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    bar = figure.colorbar(image, label="share of the true class (%)", shrink=0.8)
    _percent(bar.ax.yaxis)
    return figure


def per_class(evidence: Evidence) -> Figure:
    """Each class's accuracy with its 95 % interval."""
    found = findings.per_class(evidence.outcome, evidence.matrix)[::-1]
    found = [each for each in found if each.images]
    figure = _figure(6, 1.2 + 0.26 * len(found))
    axes = figure.subplots()
    values = np.array([each.accuracy for each in found])
    ends = np.array([(each.low, each.high) for each in found]).T
    axes.errorbar(
        values,
        [each.name for each in found],
        xerr=abs(ends - values),
        fmt="o",
        color=TEST,
        capsize=3,
    )
    axes.set_xlabel("accuracy (% of the class's images), 95 % interval")
    _percent(axes.xaxis)
    axes.grid(axis="x", alpha=0.3)
    return figure


def calibration(evidence: Evidence) -> Figure:
    """Accuracy by confidence, and how many images each bin holds."""
    found = findings.calibration(evidence.outcome)
    figure = _figure(4.2, 4.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    bins = len(found.counts)
    middles = (np.arange(bins) + 0.5) / bins
    above.bar(middles, np.nan_to_num(found.accuracy), 0.9 / bins, color=TEST)
    above.plot([0, 1], [0, 1], "--", color=GREY, label="sure as often as right")
    above.set_ylabel("accuracy (% of images)")
    _percent(above.yaxis)
    above.set_title(f"calibration error (ECE) {found.error:.1%}", fontsize=10)
    above.legend(frameon=False)
    below.bar(middles, found.counts, 0.9 / bins, color=GREY)
    below.set_ylabel("images")
    below.set_xlabel("confidence (probability of the predicted class, %)")
    _percent(below.xaxis)
    return figure


def mistakes(evidence: Evidence) -> Figure | None:
    """The mistakes whose true class was given the least probability."""
    outcome = evidence.outcome
    index = findings.mistakes(outcome, 15)
    if not len(index):
        return None
    says = [
        f"{outcome.classes[outcome.labels[n]]} {outcome.of_truth[n]:.1%}\n"
        f"said {outcome.classes[outcome.predicted[n]]} {outcome.confidence[n]:.1%}"
        for n in index
    ]
    return _grid(outcome.images[index], says, columns=5)


def filters(evidence: Evidence) -> Figure | None:
    """The first layer's filters."""
    found = evidence.filters
    if found is None:
        return None
    return _grid(pictures.signed(found.kernels), [""] * len(found.kernels), 8, 0.7)


def feature_maps(evidence: Evidence) -> Figure | None:
    """Feature maps of the first chosen image, a layer a row."""
    if not evidence.stages:
        return None
    stages = evidence.stages
    columns = 1 + max(stage.maps.shape[1] for stage in stages)
    figure = _figure(0.95 * columns, 1.15 * len(stages))
    grid = figure.subplots(len(stages), columns, squeeze=False)
    for stage, row in zip(stages, grid, strict=True):
        for axes in row:
            axes.axis("off")
        row[0].text(0, 0.5, stage.call.replace("(", "\n("), va="center", fontsize=7)
        for axes, values in zip(row[1:], stage.maps[0], strict=False):
            axes.imshow(values, cmap="cividis")
    image = evidence.outcome.images[evidence.mapped[0]]
    _show(grid[0, 0].inset_axes((0, 0.75, 0.6, 0.6)), image)
    return figure


def grad_cam(evidence: Evidence) -> Figure | None:
    """Images, and where the network saw the class that it predicted."""
    looked = evidence.looked
    if looked is None:
        return None
    outcome, index = evidence.outcome, looked.index
    figure = _figure(1.15 * len(index), 2.9)
    grid = figure.subplots(2, len(index), squeeze=False)
    for k, n in enumerate(index):
        image = np.asarray(outcome.images[n])
        heat = pictures.resized(looked.predicted[k : k + 1], *image.shape[:2])
        said = f"said {outcome.classes[outcome.predicted[n]]}"
        truth = outcome.classes[outcome.labels[n]]
        _show(grid[0, k], image, truth)
        _show(grid[1, k], pictures.heated(image[None], heat)[0], said)
    return figure


def augmentation(evidence: Evidence) -> Figure | None:
    """Training images, and draws of the random transforms below each."""
    drawn = evidence.augmented
    if drawn is None:
        return None
    rows = [evidence.shown, *drawn.transpose(1, 0, 2, 3, 4)]
    figure = _figure(1.1 * len(drawn), 1.15 * len(rows))
    grid = figure.subplots(len(rows), len(drawn), squeeze=False)
    for axes_row, images in zip(grid, rows, strict=True):
        for axes, image in zip(axes_row, images, strict=True):
            _show(axes, image)
    return figure


FIGURES: dict[str, Callable[[Evidence], Figure | None]] = {
    "curves": curves,
    "learning_rate": learning_rate,
    "confusion": confusion,
    "classes": per_class,
    "calibration": calibration,
    "mistakes": mistakes,
    "grad_cam": grad_cam,
    "feature_maps": feature_maps,
    "filters": filters,
    "augmentation": augmentation,
}


def _figure(width: float, height: float) -> Figure:
    """Start a figure, in inches, that needs no screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _grid(
    images: np.ndarray, says: Sequence[str], columns: int, inches: float = 1.5
) -> Figure:
    rows = -(-len(images) // columns)
    text = 0.45 * any(says)
    figure = _figure(inches * columns, (inches + text) * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, image, words in zip(grid, images, says, strict=False):
        _show(axes, image, words)
    return figure


def _show(axes: Axes, image: np.ndarray, title: str = "") -> None:
    squeezed = image[..., 0] if image.shape[-1] != 3 else image
    axes.imshow(squeezed, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title, fontsize=8)
    axes.axis("off")


def _percent(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
