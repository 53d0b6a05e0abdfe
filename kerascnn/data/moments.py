"""Mean and standard deviation of a set's pixels."""

import math

import numpy as np

from kerascnn import UsageError


def statistics(
    images: np.ndarray, chunk: int = 4096
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of x/255 over all pixels, per channel.

    The 256 values of a channel are counted and the moments computed from the counts in
    whole numbers: exact, in one pass over images of any number.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UsageError(
            f"images of dtype {images.dtype} and shape {images.shape}: expected uint8 "
            "(number, height, width, channels) with at least one image."
        )
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(images), chunk):
        pixels = images[start : start + chunk].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(pixels[:, channel], minlength=256)
    total = images.size // channels
    means, deviations = [], []
    for row in counts.tolist():
        first = sum(value * count for value, count in enumerate(row))
        second = sum(value * value * count for value, count in enumerate(row))
        means.append(first / (255 * total))
        # Python's whole numbers do not round: no cancellation in this difference.
        variance = (total * second - first * first) / (255 * total) ** 2
        deviations.append(math.sqrt(variance))
    return tuple(means), tuple(deviations)
