"""The figures of a run's model on a set of images."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from kerascnn import UsageError, data
from kerascnn.page import evidence, findings
from kerascnn.page.findings import Outcome
from kerascnn.prediction.predictor import Predictor
from kerascnn.text import choose


@dataclasses.dataclass(frozen=True, eq=False)
class Figures:
    """What a model gets right on a set.

    Args:
        name: The set's.
        outcome: Its images, and the model's answers.
        accuracy: The share that is right, 0 to 1.
        interval: Its 95 % interval (Wilson, 1927).
        crossentropy: The mean of the negative log probability of the true class.
        error: The expected calibration error.
        classes: Each class's accuracy, the lowest first.
        pairs: The classes that are confused most often.
    """

    name: str
    outcome: Outcome
    accuracy: float
    interval: tuple[float, float]
    crossentropy: float
    error: float
    classes: list[findings.ClassAccuracy]
    pairs: list[findings.Pair]


def evaluate(
    predictor: Predictor,
    dataset: str | None = None,
    choice: str = "auto",
    data_dir: data.loading.Folder = None,
    with_views: bool = False,
) -> Figures:
    """Measure a run's model on the run's images, or on another set's test images.

    Args:
        predictor: The run.
        dataset: A set of tensorflow-datasets or the path of images, whose classes have
            the names of the run's; by default the images that the run was evaluated on.
        choice: Which images, as `kerascnn run --data` has it.
        data_dir: Where tensorflow-datasets keeps its sets.
        with_views: As in `Predictor.probabilities`.

    Raises:
        UsageError: The set has other classes, or images of another size.
    """
    if dataset is None:
        name = predictor.run.config["data"]["name"]
        split = evidence.evaluated_images(predictor.run)
        labels = np.asarray(split.labels)
    else:
        shape = predictor.shape
        size = None if None in shape[:2] else shape[:2]
        form: dict[str, Any] = {"channels": shape[2], "exact": True, "stream": None}
        found = data.load(dataset, choice, data_dir, None, size, **form)
        name, split = found.name, found.test
        labels = _labels(predictor, found)
    probabilities = predictor.probabilities(split.images, with_views)
    outcome = Outcome(split.images, labels, probabilities, predictor.classes)
    right, number = int(outcome.right.sum()), len(outcome)
    matrix = findings.confusion(outcome)
    with np.errstate(divide="ignore"):
        crossentropy = float(-np.log(outcome.of_truth).mean())
    return Figures(
        name=name,
        outcome=outcome,
        accuracy=right / number,
        interval=findings.wilson(right, number),
        crossentropy=crossentropy,
        error=findings.calibration(outcome).error,
        classes=findings.per_class(outcome, matrix),
        pairs=findings.pairs(matrix),
    )


def _labels(predictor: Predictor, found: data.DataSet) -> np.ndarray:
    """Return a set's labels in the order of the run's classes."""
    known = list(predictor.classes)
    for name in found.classes:
        if name not in known:
            choose(name, known, f"class of {predictor.run.config['recipe']} called")
    if len(found.test) == 0:
        raise UsageError(f"{found.name} has no test images.")
    places = np.array([known.index(name) for name in found.classes])
    return places[found.test.labels]
