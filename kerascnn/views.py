"""Views of images: what an evaluation may show a network in place of one image.

A recipe's `views` names one of these functions, or is one of its own. At a run's end
the network sees each test image in each view, and the mean of its logits counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def flips_and_shifts(images: np.ndarray, pixels: int = 1) -> Iterator[np.ndarray]:
    """Yield six views of images, for an evaluation that takes the mean of their logits.

    The images as they are, shifted up and left, and shifted down and right, each also
    mirrored. What moves in at a border is the image reflected about it.

    Args:
        images: (n, height, width, channels), NumPy, any dtype.
        pixels: how far to shift, smaller than the images.

    Yields:
        Six arrays of the images' shape and dtype.

    Source: KellerJordan/cifar10-airbench (MIT licence), test-time augmentation.

    Example:
        >>> image = np.arange(1, 5).reshape(1, 2, 2, 1)
        >>> [view[0, :, :, 0].tolist() for view in flips_and_shifts(image)][:2]
        [[[1, 2], [3, 4]], [[2, 1], [4, 3]]]
    """
    height, width = images.shape[1:3]
    border = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    padded = np.pad(images, border, mode="reflect")
    for first in (pixels, 2 * pixels, 0):
        view = padded[:, first : first + height, first : first + width]
        yield np.ascontiguousarray(view)
        yield np.ascontiguousarray(view[:, :, ::-1])
