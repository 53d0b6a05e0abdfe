"""A model's logits for several views of the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerascnn.data import Split
from kerascnn.engine import fit

if TYPE_CHECKING:
    from types import ModuleType


def mean_logits(
    model: keras.Model,
    views: Iterable[np.ndarray],
    batch_size: int,
    engine: ModuleType,
    devices: int | None = None,
) -> tuple[np.ndarray, int]:
    """Return the mean of a model's logits over views of some images.

    Args:
        model: The model, from raw images to logits.
        views: Arrays of one shape, uint8 `(n, height, width, channels)`, one of all
            images for each view.
        batch_size: Images that are computed together.
        engine: The one that has trained the model.
        devices: Those that have shared a batch, as in `placement.mesh`.

    Returns:
        The mean logits, float32 `(n, classes)`, and the number of views.
    """
    logits_of = _by_keras(model, batch_size)
    if engine is not fit:
        logits_of = _compiled(model, batch_size, devices)
    found = [logits_of(images) for images in views]
    return np.mean(found, axis=0), len(found)


def _by_keras(model: Any, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    def logits_of(images: np.ndarray) -> np.ndarray:
        split = Split(images, np.zeros(len(images), "int32"))
        batches = fit.Batches(split, batch_size=batch_size)
        return np.asarray(model.predict(batches, verbose=0))

    return logits_of


def _compiled(
    model: Any, batch_size: int, devices: int | None
) -> Callable[[np.ndarray], np.ndarray]:
    """Cut the batches among the devices as `epoch` does, which has compiled the model.

    Keras's `predict` computes on the first device alone.
    """
    from kerascnn.engine import epoch, placement
    from kerascnn.engine.executables import Executables

    mesh = placement.mesh(model, batch_size, devices)
    fill = placement.is_filled_up(model)

    def logits(state: dict[str, Any], images: Any) -> Any:
        weights, others = state["weights"], state["others"]
        images, number = placement.of_arguments(images)
        with placement.tracing(mesh):
            found = model.stateless_call(weights, others, images[0], training=False)
            return found[0][:number].astype("float32")

    compute = Executables(logits, placement.options(mesh))
    state = epoch.read_state(model)
    state = {name: state[name] for name in ("weights", "others")}
    state = placement.copied(mesh, state)

    def logits_of(images: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [
                np.asarray(
                    compute(state, placement.cut(mesh, images[chosen][None], fill))
                )
                for chosen in epoch.evaluation_calls(len(images), batch_size)
            ]
        )

    return logits_of
