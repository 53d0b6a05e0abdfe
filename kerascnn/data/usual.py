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
        By the names of `SAID` the lowest and the highest usual value, in levels of 0
        to 255, of few images maybe beyond: the mean of the outermost pixels, of all,
        and the standard deviation.
    """
    if isinstance(images, StreamedImages):
        found = _measured(images[:_AT_ONCE])
    else:
        step = -(-len(images) // _LOOKED_AT) or 1
        found = _measured(np.asarray(images[::step]))
        # Else it would be held while the training is compiled, which takes most.
        arrays.give_back(images)
    return {
        name: [round(float(x), 1) for x in _range(values)]
        for name, values in found.items()
    }


def _range(values: np.ndarray) -> tuple[float, float]:
    """Return the range that one in a thousand of further values lies outside of."""
    number, tail = len(values), _OUTSIDE / 2
    if number < 2:
        return 0, 255
    low, high = np.quantile(values, (tail, 1 - tail))
    if number * tail < 1:
        # Too few for quantiles, which would be their extremes: one new image in sixty
        # is darker than all of sixty. Student's interval for one more value is wider.
        import scipy.stats

        reach = scipy.stats.t.ppf(1 - tail, number - 1) * np.sqrt(1 + 1 / number)
        reach *= values.std(ddof=1)
        low, high = min(low, values.mean() - reach), max(high, values.mean() + reach)
    return low, high


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
    # Channels first, because NumPy is slow to add up a last axis of three.
    planes = np.stack([images[..., i] for i in range(images.shape[-1])])
    light = planes.mean(0, dtype="float32")
    ring = [light[:, 0], light[:, -1], light[:, 1:-1, 0], light[:, 1:-1, -1]]
    return {
        "border": np.concatenate(ring, 1).mean(1),
        "brightness": light.mean((1, 2)),
        "contrast": light.std((1, 2)),
    }
