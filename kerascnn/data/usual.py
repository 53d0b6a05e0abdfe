"""How bright a set's images usually are, so that one unlike them is told."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kerascnn.data import arrays
from kerascnn.data.streamed import StreamedImages

# Of a thousand images of the set itself, one lies outside a range.
_OUTSIDE = 0.001
_LOOKED_AT = 10_000
_AT_ONCE = 500  # images, whose arrays are small beside a set's

# Of each measure: what is said of an image below the usual range, and above it.
SAID = {
    "border": ("its border is darker", "its border is brighter"),
    "brightness": ("it is darker", "it is brighter"),
    "contrast": ("it has less contrast", "it has more contrast"),
}


def ranges(images: np.ndarray) -> dict[str, list[float]]:
    """Return the usual range of each measure over a set of images.

    Args:
        images: uint8, `(n, height, width, channels)`; of many, some are looked at.

    Returns:
        By the names of `SAID` the lowest and the highest usual value, 0 to 255: the
        mean of the outermost pixels, of all, and the standard deviation.
    """
    if isinstance(images, StreamedImages):
        found = _measured(images[:_AT_ONCE])
    else:
        step = -(-len(images) // _LOOKED_AT) or 1
        found = _measured(np.asarray(images[::step]))
        # Else it would be held while the training is compiled, which takes most.
        arrays.give_back(images)
    shares = _OUTSIDE / 2, 1 - _OUTSIDE / 2
    return {
        name: [round(float(x), 1) for x in np.quantile(values, shares)]
        for name, values in found.items()
    }


def unlike(images: np.ndarray, usual: Mapping[str, list[float]]) -> list[list[str]]:
    """Say of each image how it differs from a set: nothing of one that is like it.

    Args:
        images: uint8, `(n, height, width, channels)`.
        usual: What `ranges` said of the set.

    Returns:
        For each image its reasons, phrases of `SAID`.
    """
    found = _measured(images)
    said: list[list[str]] = [[] for _ in images]
    for name, (low, high) in usual.items():
        below, above = SAID[name]
        # The ranges are rounded.
        for each, value in zip(said, found[name].round(1), strict=True):
            if not low <= value <= high:
                each.append(below if value < low else above)
    return said


def _measured(images: np.ndarray) -> dict[str, np.ndarray]:
    parts = [
        _measures(images[start : start + _AT_ONCE])
        for start in range(0, max(1, len(images)), _AT_ONCE)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in SAID}


def _measures(images: np.ndarray) -> dict[str, np.ndarray]:
    light = images.mean(-1, dtype="float32")
    ring = [light[:, 0], light[:, -1], light[:, 1:-1, 0], light[:, 1:-1, -1]]
    return {
        "border": np.concatenate(ring, 1).mean(1),
        "brightness": light.mean((1, 2)),
        "contrast": light.std((1, 2)),
    }
