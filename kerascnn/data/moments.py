"""Mean and standard deviation of a set's pixels."""

import math

import numpy as np

from kerascnn import UsageError
from kerascnn.data.streamed import StreamedImages

# Of images that are read as a stream, as many are looked at.
STREAMED, _AT_ONCE = 2000, 100


def statistics(
    images: np.ndarray, chunk: int = 4096
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of x/255 over all pixels, per channel.

    The 256 values of a channel are counted and the moments computed from the counts in
    whole numbers: exact, in one pass over images of any number. Of a stream the first
    `STREAMED` are counted.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UsageError(
            f"images of dtype {images.dtype} and shape {images.shape}: expected uint8 "
            "(number, height, width, channels) with at least one image."
        )
    number, channels = len(images), images.shape[-1]
    if isinstance(images, StreamedImages):
        number, chunk = min(number, STREAMED), _AT_ONCE
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, number, chunk):
        pixels = images[start : min(start + chunk, number)].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(pixels[:, channel], minlength=256)
    total = number * images.shape[1] * images.shape[2]
    means, deviations = [], []
    for row in counts.tolist():
        first = sum(value * count for value, count in enumerate(row))
        second = sum(value * value * count for value, count in enumerate(row))
        means.append(first / (255 * total))
        # Python's whole numbers do not round: no cancellation in this difference.
        variance = (total * second - first * first) / (255 * total) ** 2
        deviations.append(math.sqrt(variance))
    return tuple(means), tuple(deviations)
