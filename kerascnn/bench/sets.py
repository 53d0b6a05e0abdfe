"""The sets that the benchmarks train on."""

import numpy as np

from kerascnn.data import Split


def repeated(split: Split, images: int) -> Split:
    """Return so many images of a set, again and again if it has fewer."""
    chosen = np.arange(images) % len(split)
    return Split(split.images[chosen], split.labels[chosen])
