"""Trained networks that come with the package: weights in half precision, and records.

`python -m kerascnn.prediction.shipped RUN NAME` keeps a finished run's.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascnn import UsageError, recipe
from kerascnn.runs import Run
from kerascnn.text import expanded

if TYPE_CHECKING:
    from kerascnn.training.fine_tuning import Source

FOLDER = Path(__file__).parent / "shipped_runs"
WEIGHTS = "weights.npz"


@dataclasses.dataclass(frozen=True)
class Shipped(Run):
    """A run whose folder holds weights in place of a model."""

    def model(self) -> Any:
        """Build the recipe's network, and give it the weights."""
        from kerascnn.process.backend import say_missed_backend, spare_tensorflow
        from kerascnn.training import build

        say_missed_backend()
        spare_tensorflow()
        shape = self.config["data"]["image"]
        _, model = build.build(recipe.load(self.config["recipe"]), tuple(shape))
        with np.load(self.folder / WEIGHTS) as arrays:
            weights = [arrays[str(n)].astype("float32") for n in range(len(arrays))]
        model.set_weights(weights)
        return model


def names() -> list[str]:
    """Return the names of the networks that come with the package."""
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def run(place: Path) -> Run:
    """Return the run in a folder, or the shipped one of that name.

    Raises:
        UsageError: There is neither.
    """
    if str(place) in names() and not place.exists():
        return Shipped(FOLDER / str(place))
    found = Run(expanded(place))
    try:
        _ = found.config
    except UsageError as error:
        if place.exists() or len(place.parts) > 1:
            raise
        known = ", ".join(names())
        raise UsageError(f"{error} With the package come: {known}.") from error
    return found


def weights(place: str) -> Source:
    """Open the weights that a training begins with: as `fine_tuning.opened`, or ours.

    Raises:
        UsageError: There is neither, or the file is refused.
    """
    from kerascnn.training import fine_tuning

    check_weights(place)
    if place in names() and not expanded(place).exists():
        ours = Shipped(FOLDER / place)
        return fine_tuning.Source(ours.folder / WEIGHTS, ours.model())
    return fine_tuning.opened(place)


def check_weights(place: str) -> None:
    """Raise `UsageError` where there is nothing that a training may begin with."""
    if expanded(place).is_dir():
        _ = Run(expanded(place)).config  # where there is no run, that is the reason
    if place in names() or expanded(place).exists():
        return
    raise UsageError(
        f"there is no run and no file {place} to take weights from. With the "
        f"package come: {', '.join(names())}."
    )


def ship(source: Run, name: str) -> Shipped:
    """Keep a finished run of the full set, with what half precision makes of it."""
    from kerascnn.data import usual
    from kerascnn.page import evidence, findings
    from kerascnn.prediction import evaluation
    from kerascnn.prediction.predictor import Predictor
    from kerascnn.report import cookbook

    record = cookbook.record_of(source)
    made = Shipped(FOLDER / name)
    made.folder.mkdir(parents=True)
    result, metrics = record.pop("result"), record.pop("metrics")
    model = source.model()
    record["data"]["image"] = list(model.input_shape[1:])
    train = evidence.training_images(source)
    record["data"]["usual"] = usual.ranges(train.images)
    made.write_config(record)
    made.replace_metrics(metrics)
    arrays: dict[str, Any] = {
        str(n): weight.astype("float16") for n, weight in enumerate(model.get_weights())
    }
    np.savez_compressed(made.folder / WEIGHTS, **arrays)
    predictor, set_name = Predictor(made), record["data"]["name"]
    tested = evaluation.evaluate(predictor, set_name, "full")
    confusion = findings.confusion(tested.outcome).tolist()
    half = {
        "test_accuracy": tested.accuracy,
        # Of the images that come with the package, so that anybody can see it again.
        "sample_accuracy": evaluation.evaluate(predictor, set_name, "sample").accuracy,
    }
    if "test_accuracy_with_views" in result:
        half["test_accuracy_with_views"] = evaluation.evaluate(
            predictor, set_name, "full", with_views=True
        ).accuracy
    made.write_result(result | {"in_half_precision": half, "confusion": confusion})
    return made


if __name__ == "__main__":
    made = ship(Run(Path(sys.argv[1])), sys.argv[2])
    print(json.dumps(made.result["in_half_precision"]))
