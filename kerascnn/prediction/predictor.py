"""A run's model, from images to the probabilities of its classes."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascnn import UsageError, views
from kerascnn.data import usual
from kerascnn.data.streamed import StreamedImages
from kerascnn.page import findings, looking, pictures
from kerascnn.process import settings

if TYPE_CHECKING:
    from kerascnn.runs import Run

# Images of a stream that are decoded together.
_AT_ONCE = 256
# How many pixels wide a picture of `explained` is, about.
_WIDE = 224


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A finished run, opened to predict.

    Args:
        run: The run.
    """

    run: Run

    @functools.cached_property
    def model(self) -> Any:
        """The run's model: raw images to logits."""
        model = self.run.model()
        if model.input_shape[-1] not in (1, 3):
            raise UsageError(
                f"{self.run.folder} takes images of {model.input_shape[-1]} channels: "
                "expected 1 or 3."
            )
        return model

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities."""
        names = tuple(self.run.config["data"]["classes"])
        outputs = self.model.output_shape[-1]
        return (*names, *(f"unused {n}" for n in range(len(names), outputs)))

    @property
    def shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels that the model takes."""
        return tuple(self.model.input_shape[1:])

    def probabilities(self, images: np.ndarray, with_views: bool = False) -> np.ndarray:
        """Return the probabilities of the classes, float64 `(n, classes)`.

        Args:
            images: uint8, `(n, height, width, channels)`, as the model takes them.
            with_views: Take the mean logits of six views, moved by a pixel and
                mirrored.

        Raises:
            UsageError: The images are of another shape or type.
        """
        if isinstance(images, StreamedImages):
            parts = [
                self.probabilities(images[start : start + _AT_ONCE], with_views)
                for start in range(0, len(images), _AT_ONCE)
            ]
            return np.concatenate(parts)
        images = np.asarray(images)
        wrong = images.ndim != 4 or any(
            wanted not in (None, got)
            for wanted, got in zip(self.shape, images.shape[1:], strict=False)
        )
        if wrong or images.dtype != "uint8":
            size = ", ".join("any" if n is None else str(n) for n in self.shape)
            raise UsageError(
                f"predict got {images.dtype} of shape {images.shape}: expected uint8 "
                f"of shape (n, {size})."
            )
        if not len(images):
            return np.zeros((0, len(self.classes)))
        seen = views.flips_and_shifts(images) if with_views else [images]
        with settings.keras_defaults():
            found = [looking.logits(self.model, each) for each in seen]
        return findings.softmax(np.mean(found, axis=0))

    def unlike(self, images: np.ndarray) -> list[list[str]]:
        """Say how each image differs from the training set's, in phrases."""
        ranges = self.run.config["data"].get("usual")  # older runs have none
        if not ranges:
            return [[] for _ in images]
        return usual.unlike(images, ranges)

    def explained(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return images beside where the network finds a class in each, by Grad-CAM.

        Args:
            images: As in `probabilities`.
            classes: A class for each image, indices `(n,)`.

        Returns:
            uint8, `(n, height, width, 3)`, the pair side by side, enlarged.

        Raises:
            UsageError: No layer of the network has maps.
        """
        net = looking.network(self.model)
        with settings.keras_defaults():
            values = looking.prepared(self.model, images)
            seen = looking.grad_cam(net, values, classes)
        if seen is None:
            raise UsageError(
                f"{self.run.config['recipe']} has no layer with maps to explain by."
            )
        maps = pictures.resized(seen.maps, *images.shape[1:3])
        heated = pictures.heated(images, maps)
        plain = np.broadcast_to(images, heated.shape)
        return pictures.enlarged(np.concatenate([plain, heated], 2), 2 * _WIDE)
