"""All that the page and the figures show of a run, as arrays and numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascnn import UsageError, data, describe
from kerascnn.data.loading import is_path
from kerascnn.data.streamed import StreamedSplit
from kerascnn.page import findings, looking
from kerascnn.page.findings import Outcome
from kerascnn.process import settings
from kerascnn.text import say
from kerascnn.training.build import image_size
from kerascnn.training.options import Overrides
from kerascnn.training.resume import recipe_of

if TYPE_CHECKING:
    from kerascnn.recipe import Recipe
    from kerascnn.runs import Run

LOOKED_AT = 6  # right and wrong images, of each
MAPPED = 3  # images whose feature maps are shown
STREAMED = 2000  # images of a stream that the page is of, at most
SHOWN, DRAWS = 8, 3  # training images, and how often each is transformed


@dataclasses.dataclass(frozen=True, eq=False)
class Looked:
    """Images that Grad-CAM has looked at.

    Args:
        index: Their indices in the outcome.
        layer: The layer whose maps were weighted.
        predicted: The maps of the predicted class, 0 to 1, `(n, height, width)`.
        truth: Those of the true class.
    """

    index: np.ndarray
    layer: str
    predicted: np.ndarray
    truth: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a run.

    Args:
        run: The run.
        config: Its `config.json`.
        result: Its `result.json`.
        metrics: Its epochs.
        idea: What the recipe says of itself; empty where the recipe is gone.
        outcome: The images that the run was evaluated on, and the model's answers.
        matrix: The confusion matrix, true classes in rows.
        layers: The model's layers.
        filters: The first layer's, `None` where they are no pictures.
        mapped: Indices of the images in `stages`.
        stages: Feature maps through the depth; empty of a network without maps.
        looked: Grad-CAM, `None` of a network without maps.
        shown: Training images, uint8 `(n, height, width, channels)`.
        augmented: The same as training shows them, uint8 `(n, draws, height, width,
            channels)`; `None` where the transform draws nothing.
        recorded: The run's `record.npz`, as `Run.recorded` returns it; `None` where the
            run has recorded nothing.
    """

    run: Run
    config: dict[str, Any]
    result: dict[str, Any]
    metrics: list[dict[str, Any]]
    idea: str
    outcome: Outcome
    matrix: np.ndarray
    layers: Sequence[looking.Layer]
    filters: looking.Filters | None
    mapped: np.ndarray
    stages: Sequence[looking.Stage]
    looked: Looked | None
    shown: np.ndarray
    augmented: np.ndarray | None
    recorded: dict[str, np.ndarray] | None = None

    @property
    def held_out(self) -> bool:
        """Whether the run was evaluated on a part of the training set."""
        return bool(self.config.get("validation"))

    @property
    def evaluated(self) -> str:
        """What to call the images that the run was evaluated on."""
        return "held-out images" if self.held_out else "test set"


def gather(run: Run) -> Evidence:
    """Compute what the page shows of a run: each image is predicted once.

    Raises:
        UsageError: The run has no model yet, its data are gone or have changed, or its
            model predicts numbers that are not finite.
    """
    config, metrics = run.config, run.metrics
    model = run.model()
    recipe = _recipe(run)
    train, evaluated, classes = _data(config, recipe)
    with settings.keras_defaults():
        outcome = _outcome(model, evaluated, classes)
        net = looking.network(model)
        mistakes = findings.mistakes(outcome, LOOKED_AT)
        right = findings.surest(outcome, LOOKED_AT)
        mapped = np.concatenate([right[: MAPPED - 1], mistakes[:1]])
        looked = _looked(model, outcome, np.concatenate([right, mistakes]))
        stages = []
        if len(mapped):
            values = looking.prepared(model, outcome.images[mapped])
            stages = looking.feature_maps(net, values)
        order = data.order(config["seed"], 0, len(train))[:SHOWN]
        shown = np.asarray(train.images[np.sort(order)])
        augmented = None
        if recipe and _fingerprint(recipe) == config["fingerprint"]:
            augmented = looking.augmented(recipe, shown, DRAWS, config["seed"])
    return Evidence(
        run=run,
        config=config,
        result=run.result,
        metrics=metrics,
        idea=recipe.idea if recipe else "",
        outcome=outcome,
        matrix=findings.confusion(outcome),
        layers=looking.layers(model),
        filters=looking.filters(net),
        mapped=mapped,
        stages=stages,
        looked=looked,
        shown=shown,
        augmented=augmented,
        recorded=run.recorded,
    )


def outcome_of(run: Run) -> Outcome:
    """Return what a run's model answers on the images that it was evaluated on.

    Raises:
        UsageError: As `gather`.
    """
    model = run.model()
    _, evaluated, classes = _data(run.config, _recipe(run))
    with settings.keras_defaults():
        return _outcome(model, evaluated, classes)


def evaluated_images(run: Run) -> data.Split:
    """Return the images that a run was evaluated on.

    Raises:
        UsageError: They are gone or have changed.
    """
    return _data(run.config, _recipe(run))[1]


def training_images(run: Run) -> data.Split:
    """Return the images that a run was trained on.

    Raises:
        UsageError: They are gone or have changed.
    """
    return _data(run.config, _recipe(run))[0]


def command(config: dict[str, Any]) -> str:
    """Return the command that does a run again, without what decides no number."""
    if ends := config.get("trained_on_after"):
        first, *more = [*ends, config["epochs"]]
        options = {**config.get("options", {}), "epochs": first, "out": "again"}
        given = {**config, "options": options, "trained_on_after": []}
        resume = ["kerascnn", "resume", "again"]
        further = [shlex.join([*resume, *_option("epochs", each)]) for each in more]
        return " && ".join([command(given), *further])
    plain, given = Overrides(), config.get("options", {})
    backend = config["environment"]["backend"]
    file = config.get("recipe_file")
    words = ["kerascnn", "run", f"./{Path(file).name}" if file else config["recipe"]]
    chosen = {**given, "data": "sample" if config["data"]["sample"] else "full"}
    if is_path(given.get("dataset") or ""):
        chosen["data"] = plain.data
    chosen["backend"] = None if backend == "jax" else backend
    kept = ("data_dir", "cache_dir", "checkpoint_minutes", "record", "log")
    for name, value in chosen.items():
        if name in kept or value == getattr(plain, name, None):
            continue
        for each in value if isinstance(value, list) else [value]:
            words += _option(name, each)
    return shlex.join(words)


def _option(name: str, value: Any) -> list[str]:
    """Return the words that give an option."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    return [f"--{option}", str(value)]


def _recipe(run: Run) -> Recipe | None:
    """Return a run's recipe, `None` where its file is gone."""
    with contextlib.suppress(UsageError):
        return recipe_of(run)
    return None


def _fingerprint(recipe: Recipe) -> str:
    return describe.fingerprint(describe.describe(recipe))


def _data(
    config: dict[str, Any], recipe: Recipe | None
) -> tuple[data.Split, data.Split, tuple[str, ...]]:
    """Return a run's training images, those it was evaluated on, and the classes.

    Raises:
        UsageError: They are gone or have changed.
    """
    options, recorded = config.get("options", {}), config["data"]
    name = options.get("dataset") or (recipe and recipe.dataset) or recorded["name"]
    folders = [options.get("data_dir"), options.get("cache_dir")]
    sample = recorded["sample"]
    # Older runs have not recorded what their images were brought to.
    form = dict(recorded.get("form") or {})
    size = form.get("image_size") or (recipe and not form and image_size(recipe))
    form["image_size"] = tuple(size) if size else None
    found = data.load(
        name,
        "sample" if sample else "auto",
        None if sample else folders[0],
        folders[1],
        **form,
    )
    if found.sample and not sample:
        raise UsageError(
            f"the run was trained on the full {name}, which is not here: `kerascnn "
            f"data get {name}` fetches it, and TFDS_DATA_DIR names another place."
        )
    if found.hash != recorded["sha256"]:
        raise UsageError(
            f"{name} is no longer what the run was trained on: the images found here "
            f"({found.source}) have the SHA-256 {found.hash[:12]}, the run's "
            f"{recorded['sha256'][:12]}."
        )
    train, evaluated = found.train, found.test
    if share := config.get("validation"):
        train, evaluated = data.split(train, share, config["seed"])
    limit = config.get("limit")
    return data.limited(train, limit), data.limited(evaluated, limit), found.classes


def _outcome(model: Any, split: data.Split, classes: tuple[str, ...]) -> Outcome:
    if isinstance(split, StreamedSplit) and len(split) > STREAMED:
        say(
            f"The page is of the first {STREAMED:,} of the {len(split):,} images that "
            "the run was evaluated on."
        )
        split = data.limited(split, STREAMED)
    found = looking.logits(model, split.images)
    if not np.isfinite(found.astype("float32")).all():
        raise UsageError(
            "the run's model predicts numbers that are not finite: there is nothing to "
            "show of it."
        )
    unused = [f"unused {n}" for n in range(len(classes), found.shape[1])]
    return Outcome(
        split.images, split.labels, findings.softmax(found), (*classes, *unused)
    )


def _looked(model: Any, outcome: Outcome, index: np.ndarray) -> Looked | None:
    """Look at images for their predicted and their true classes."""
    if not len(index):
        return None
    # Both classes in one batch where the size allows, because each call is traced.
    images = outcome.images[[*index, *index]]
    classes = np.concatenate([outcome.predicted[index], outcome.labels[index]])
    net, size, maps, layer = looking.network(model), looking.batch_size(images), [], ""
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        values = looking.prepared(model, images[part])
        found = looking.grad_cam(net, values, classes[part])
        if found is None:
            return None
        maps.append(found.maps)
        layer = found.layer
    predicted, truth = np.split(np.concatenate(maps), 2)
    return Looked(index, layer, predicted, truth)
