"""The page's panels: what each shows of a run, and how to read it.

A panel is data for a template of its own in `templates/`. A function returns `None`
where a run has nothing for its panel, and the page leaves the panel out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from markupsafe import Markup

from kerascnn import runs
from kerascnn.page import charts, findings, pictures, recorded
from kerascnn.page.evidence import Evidence
from kerascnn.page.panel import Panel
from kerascnn.page.pictures import Sheet
from kerascnn.recipe import Course
from kerascnn.report.summary import compared

WORST = 24
PAIRS = 10
# Images of the confusion matrix's cells: bytes of their pixels, and of one cell.
PIXELS, OF_CELL = 1_800_000, 8
# Beyond this number of classes the matrix is a picture, without numbers.
MOST_CLASSES = 25
HISTOGRAMS = 24
# Below it filters still show the noise that they began as.
FEW_EPOCHS = 10


def curves(evidence: Evidence) -> Panel | None:
    """Loss and accuracy by epoch; the learning rate, where no step recorded it."""
    metrics = evidence.metrics
    if not metrics:
        return None
    epochs = [record["epoch"] for record in metrics]
    figures = {} if evidence.held_out else compared(evidence.config)
    course = Course(**evidence.config["course"])

    def both(name: str) -> list[charts.Series]:
        ours = [runs.evaluated(record, name) for record in metrics]
        theirs = [record[name] for record in metrics]
        return [
            charts.Series("training set", "train", theirs),
            charts.Series(evidence.evaluated, "test", ours),
        ]

    levels = [
        charts.Level(f"course, {split} {printed}", split, getattr(course, split))
        for split in ("train", "test")
        if (printed := figures.get(split))
    ]
    drawn = {
        "Loss": charts.loss(epochs, both("crossentropy")),
        "Accuracy": charts.accuracy(epochs, both("accuracy"), levels),
    }
    rates = [record.get("learning_rate") for record in metrics]
    if any(rates) and evidence.recorded is None:
        drawn["Learning rate"] = charts.lines(
            "Learning rate by epoch",
            epochs,
            [charts.Series("learning rate", "rate", rates)],
            axis="learning rate",
        )
    names = ["epoch", "loss", "accuracy", "test loss", "test accuracy", "learning rate"]
    rows = [
        [
            str(record["epoch"]),
            _four(record["crossentropy"]),
            _share(record["accuracy"]),
            _four(runs.evaluated(record, "crossentropy")),
            _share(runs.evaluated(record, "accuracy")),
            _four(record.get("learning_rate")),
        ]
        for record in metrics
    ]
    return Panel(
        "curves",
        "Training, epoch by epoch",
        "Both losses fall and then level off. Worry if the test loss turns upwards "
        "while the training loss falls: the network learns its images by heart. Or if "
        "neither falls: the learning rate or the initial weights are wrong. Training "
        "values are taken while the weights change, with dropout and random transforms "
        "at work, so they may be the worse ones.",
        {"charts": drawn, "names": names, "rows": rows},
    )


def confusion(evidence: Evidence) -> Panel:
    """The confusion matrix, whose cells open their images, and the frequent pairs."""
    outcome, matrix = evidence.outcome, evidence.matrix
    classes = outcome.classes
    tiles, cells = _cells(evidence)
    wrong = matrix - np.diag(np.diag(matrix))
    of = matrix.sum(1)
    rows = []
    for truth in range(len(classes)):
        row = []
        for predicted, count in enumerate(matrix[truth]):
            same = truth == predicted
            share = count / max(of[truth] if same else wrong.max(), 1)
            level = f"{'r' if same else 'w'}{int(np.ceil(share * 5))}" if count else ""
            row.append(
                {
                    "count": int(count),
                    "level": level,
                    "cell": (truth, predicted) in cells,
                    "truth": truth,
                    "predicted": predicted,
                }
            )
        rows.append(row)
    frequent = findings.pairs(matrix, PAIRS)
    small = len(classes) <= MOST_CLASSES
    return Panel(
        "confusion",
        "Which classes are taken for which",
        "A row holds the images of one class, a column what the network called them: "
        "blue cells are right, orange ones wrong, and each opens its images. Worry "
        "about an orange cell far darker than its mirror image across the diagonal "
        "(one class swallows another), or a column that fills from top to bottom.",
        {
            "classes": classes,
            "rows": rows if small else [],
            "picture": None if small else _picture(matrix),
            "pairs": [
                (pair, cells.get((pair.truth, pair.predicted))) for pair in frequent
            ],
            "cells": cells,
            "matrix": matrix,
            "of": of,
        },
        (tiles,),
    )


def worst(evidence: Evidence) -> Panel | None:
    """The mistakes of which the network was surest."""
    outcome = evidence.outcome
    index = findings.mistakes(outcome, WORST)
    if not len(index):
        return None
    sheet = pictures.sheet("worst-sheet", pictures.thumbnails(outcome.images[index]))
    shown = [
        _said(outcome, n) | {"tile": sheet.show(k, _says(outcome, n))}
        for k, n in enumerate(index)
    ]
    return Panel(
        "worst",
        "The worst mistakes",
        "The images whose true class was given the least probability. If you would "
        "have said the same, the image or its label is at fault. Worry where you see "
        "at once what the network did not: it looks at something else.",
        {"shown": shown, "wrong": int((~outcome.right).sum()), "of": len(outcome)},
        (sheet,),
    )


def per_class(evidence: Evidence) -> Panel:
    """Each class's accuracy with its interval."""
    found = findings.per_class(evidence.outcome, evidence.matrix)
    known = [each for each in found if each.images]
    floor = max(np.floor(min(each.low for each in known) * 10) / 10, 0.0)
    rows = [
        (each, charts.interval(each.low, each.accuracy, each.high, floor))
        for each in known
    ]
    return Panel(
        "classes",
        "Accuracy of each class",
        "The mark is the class's accuracy, the bar its 95 % interval (Wilson): so far "
        "the figure could move with other images of the kind. Classes whose bars "
        "overlap may be equally hard. Worry about a class whose whole bar lies far "
        "below the others'.",
        {"rows": rows, "floor": floor},
    )


def calibration(evidence: Evidence) -> Panel:
    """Whether the network is right as often as it is sure."""
    found = findings.calibration(evidence.outcome)
    outcome = evidence.outcome
    over = float(outcome.confidence.mean() - outcome.right.mean())
    return Panel(
        "calibration",
        "Is it as often right as it is sure?",
        "Of all answers given with 80 % confidence 80 % should be right: bars that end "
        "on the diagonal. Orange tips are what is missing, blue tips what is more. "
        "Worry about bars that stay below it at the right end: the network is surer "
        "than it should be, and its confidence can't be used to decide anything.",
        {
            "chart": charts.reliability(found.counts, found.confidence, found.accuracy),
            "error": found.error,
            "bins": findings.BINS,
            "confidence": float(outcome.confidence.mean()),
            "accuracy": float(outcome.right.mean()),
            "over": over,
        },
    )


def filters(evidence: Evidence) -> Panel | None:
    """The first layer's weights as pictures."""
    found = evidence.filters
    if found is None:
        return None
    tiles = pictures.enlarged(pictures.signed(found.kernels), 24)
    sheet = pictures.sheet("filters-sheet", tiles)
    colour = found.kernels.shape[-1] == 3
    shown = [sheet.show(n, f"filter {n + 1}") for n in range(len(tiles))]
    key = (
        "Colours are the weights of red, green and blue; grey is zero."
        if colour
        else "Orange weights are positive, blue ones negative; white is zero."
    )
    return Panel(
        "filters",
        "What the first layer looks for",
        f"{key} {_filters_say(found.frozen, evidence.result['epochs'])}",
        {"shown": shown, "found": found},
        (sheet,),
    )


def _filters_say(frozen: bool, epochs: int) -> str:
    """Say what the first layer's filters show, learned or not, for long or not."""
    if frozen:
        return (
            "The network has not learned these filters: their layer is frozen. They "
            "were computed before the training, or come from another network. Worry "
            "where they look like noise all the same: nobody has set them."
        )
    said = (
        "Filters that have learned for long are smooth: edges, blobs, opposite colours."
    )
    if epochs < FEW_EPOCHS:
        many = f"{epochs} epochs are" if epochs > 1 else "One epoch is"
        return (
            f"{said} {many} few: much of the noise that weights begin as is still "
            "there, though the network may answer well. Worry about many that are "
            "alike, or about noise that stays in a longer run."
        )
    return f"{said} Worry about many that still look like noise, or that are alike."


def feature_maps(evidence: Evidence) -> Panel | None:
    """What layers make of a few images, from the first to the last."""
    if not evidence.stages:
        return None
    outcome, mapped = evidence.outcome, evidence.mapped
    images = pictures.sheet("maps-images", pictures.thumbnails(outcome.images[mapped]))
    sheets, rows = [images], []
    for at, stage in enumerate(evidence.stages):
        n, channels, height, width = stage.maps.shape
        tiles = pictures.grey(stage.maps.reshape(-1, height, width))
        tiles = pictures.enlarged(pictures.thumbnails(tiles, 32), 32)
        sheet = pictures.sheet(f"maps-{at}", tiles)
        sheets.append(sheet)
        rows.append(
            [
                [
                    sheet.show(k * channels + c, f"{stage.layer}, map {c + 1}")
                    for c in range(channels)
                ]
                for k in range(n)
            ]
        )
    shown = [
        _said(outcome, n)
        | {
            "tile": images.show(k, _says(outcome, n)),
            "stages": [
                (stage, row[k])
                for stage, row in zip(evidence.stages, rows, strict=True)
            ],
        }
        for k, n in enumerate(mapped)
    ]
    return Panel(
        "maps",
        "What becomes of an image on its way",
        "Each row is a layer, each square one of its most active maps; bright is "
        "strong. Early maps still look like the image, late ones are coarse and answer "
        "to parts of it. Worry about rows that are all alike or all dark: nothing "
        "passes there.",
        {"shown": shown},
        tuple(sheets),
    )


def grad_cam(evidence: Evidence) -> Panel | None:
    """Where the network looks, on images that it got right and wrong."""
    looked = evidence.looked
    if looked is None:
        return None
    outcome, index = evidence.outcome, looked.index
    images = pictures.enlarged(pictures.thumbnails(outcome.images[index], 64), 64)
    height, width = images.shape[1:3]
    wrong = np.flatnonzero(~outcome.right[index])
    maps = np.concatenate([looked.predicted, looked.truth[wrong]])
    sheet = pictures.sheet(
        "cam-sheet",
        pictures.heated(
            images[[*range(len(index)), *wrong]],
            pictures.resized(maps, height, width),
        ),
    )
    plain = pictures.sheet("cam-images", images)
    shown = []
    for k, n in enumerate(index):
        said = _said(outcome, n)
        heat = [
            (said["predicted"], sheet.show(k, f"where it sees {said['predicted']}"))
        ]
        if not outcome.right[n]:
            at = len(index) + int(np.flatnonzero(wrong == k)[0])
            tile = sheet.show(at, f"where it sees {said['truth']}")
            heat.append((said["truth"], tile))
        shown.append(said | {"tile": plain.show(k, _says(outcome, n)), "heat": heat})
    return Panel(
        "cam",
        "Where it looks",
        "Grad-CAM: bright places spoke for the class below the picture. Worry where a "
        "right answer comes from the background: it may be right for the wrong reason.",
        {
            "right": [each for each in shown if each["right"]],
            "wrong": [each for each in shown if not each["right"]],
            "layer": looked.layer,
            "size": looked.predicted.shape[1:],
        },
        (plain, sheet),
    )


def augmentation(evidence: Evidence) -> Panel | None:
    """Training images as the network was shown them."""
    found = evidence.augmented
    if found is None:
        return None
    n, draws = found.shape[:2]
    before = pictures.sheet("shown-images", pictures.thumbnails(evidence.shown))
    after = pictures.sheet(
        "shown-draws", pictures.thumbnails(found.reshape(-1, *found.shape[2:]))
    )
    rows = [
        (
            before.show(k, f"training image {k + 1}"),
            [after.show(k * draws + d, f"draw {d + 1}") for d in range(draws)],
        )
        for k in range(n)
    ]
    return Panel(
        "augmentation",
        "Training images as the network was shown them",
        "The first of each four is the photograph, the others are draws of the random "
        "transforms. Each should still be what its label says, to your eye too. Worry "
        "where it is not: the network learns from wrong labels.",
        {"rows": rows},
        (before, after),
    )


def layers(evidence: Evidence) -> Panel:
    """The model's layers."""
    found = evidence.layers
    return Panel(
        "layers",
        "The network, layer by layer",
        "From the raw image to the logits. Worry about a layer that holds most of the "
        "parameters without need: often the first dense one.",
        {"layers": found, "total": sum(layer.parameters for layer in found)},
    )


def weights(evidence: Evidence) -> Panel | None:
    """How the kernels' weights are distributed."""
    found = [layer for layer in evidence.layers if layer.kernel is not None]
    if not found:
        return None
    shown = [
        (layer, charts.histogram(layer.kernel), float(layer.kernel.std()))
        for layer in found[:HISTOGRAMS]
    ]
    return Panel(
        "weights",
        "Weights",
        "A hill around zero, the wider the fewer inputs a unit of its layer has, as "
        "initial weights are drawn. Worry about one peak at zero with "
        "nothing beside it (the layer is not used, or the weight decay is too strong), "
        "or about weights far out on both sides.",
        {"shown": shown, "more": len(found) - len(shown)},
    )


GROUPS: tuple[tuple[str, str, tuple[Callable[[Evidence], Panel | None], ...]], ...] = (
    ("training", "Did training go well?", (curves, recorded.steps)),
    ("errors", "Where is it wrong?", (confusion, worst, per_class, calibration)),
    ("inside", "What does it see?", (grad_cam, feature_maps, filters)),
    (
        "layers_trained",
        "How did its layers train?",
        (recorded.by_layer, recorded.activations, recorded.statistics),
    ),
    ("made", "What it was made of", (augmentation, layers, weights)),
)


def grouped(evidence: Evidence) -> Iterator[tuple[str, str, list[Panel]]]:
    """Return anchor, heading and panels of each group, in reading order."""
    for name, title, makers in GROUPS:
        found = [panel for make in makers if (panel := make(evidence)) is not None]
        if found:
            yield name, title, found


def _cells(evidence: Evidence) -> tuple[Sheet, dict[tuple[int, int], list[dict]]]:
    """Choose images for the confusion matrix's cells, as many as the page can hold.

    Cells take turns, mistakes first and the fullest before others, so that each has an
    image before any has two.
    """
    outcome, matrix = evidence.outcome, evidence.matrix
    example = pictures.thumbnails(outcome.images[:1])
    room = max(PIXELS // example[0].size, 1)
    places = [tuple(map(int, place)) for place in np.argwhere(matrix)]
    places.sort(key=lambda place: (place[0] == place[1], -matrix[place]))
    members = {
        place: findings.members(outcome, *place, most=OF_CELL)
        for place in places[:room]
    }
    chosen = [
        (place, found[turn])
        for turn in range(OF_CELL)
        for place, found in members.items()
        if turn < len(found)
    ][:room]
    index = np.array([n for _, n in chosen])
    sheet = pictures.sheet("cells-sheet", pictures.thumbnails(outcome.images[index]))
    cells: dict[tuple[int, int], list[dict]] = {}
    for k, (place, n) in enumerate(chosen):
        said = _said(outcome, n) | {"tile": sheet.show(k, _says(outcome, n))}
        cells.setdefault(place, []).append(said)
    return sheet, cells


def _picture(matrix: np.ndarray) -> Markup:
    """Draw the matrix of many classes as a picture, darker where images are."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    tile = (255 * (1 - shares**0.5)).round().astype("uint8")[..., None]
    tile = pictures.enlarged(tile[None], 400)[0]
    return Markup('<img class="matrix" alt="{}" src="{}">').format(
        "Confusion matrix: true classes in rows, predicted ones in columns; dark cells "
        "hold many images of their row.",
        pictures.png(tile),
    )


def _said(outcome: findings.Outcome, index: int) -> dict[str, Any]:
    """Return an image's classes and probabilities, for its caption."""
    return {
        "index": int(index),
        "truth": outcome.classes[outcome.labels[index]],
        "predicted": outcome.classes[outcome.predicted[index]],
        "confidence": float(outcome.confidence[index]),
        "of_truth": float(outcome.of_truth[index]),
        "right": bool(outcome.right[index]),
    }


def _says(outcome: findings.Outcome, index: int) -> str:
    """Return what is read aloud in an image's place."""
    said = _said(outcome, index)
    if said["right"]:
        return f"{said['truth']}, {said['confidence']:.1%} sure"
    return (
        f"{said['truth']}, taken for {said['predicted']}, {said['confidence']:.1%} sure"
    )


def _four(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"
