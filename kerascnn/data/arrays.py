"""A data set as arrays: `Split` and `DataSet`."""

import hashlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerascnn import UsageError
from kerascnn.data.decoding import RESIZING

# One digest per array, in this order, makes up the hash of a data set.
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 (n, height, width, channels), and labels, int32 (n,), read-only."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, chosen: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Return some images and their labels as arrays."""
        return self.images[chosen], self.labels[chosen]

    def part(self, chosen: np.ndarray | slice) -> "Split":
        """Return some of the images as a split."""
        images, labels = self.batch(chosen)
        images.flags.writeable = labels.flags.writeable = False
        return Split(images, labels)


@dataclass(frozen=True, eq=False)
class DataSet:
    """An image classification set: training and test images with their labels.

    `notice` says in a line or two what the user must know of a sample, of a test set
    that is held out of the training set, or of images that are not used; else it is
    None. `skipped` counts files that are left out because they can't be used. `brought`
    says in a sentence how images were brought to one size and to grey.

    Raises:
        UsageError: Training and test images are not of one shape.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    sample: bool
    source: str
    version: str
    hash: str
    notice: str | None = None
    skipped: int = 0
    brought: str | None = None

    def __post_init__(self):
        train, test = (each.images.shape[1:] for each in (self.train, self.test))
        if train != test:
            raise UsageError(
                f"{self.source} has training images of {train} and test images of "
                f"{test}: take a recipe whose transform begins with {RESIZING}."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


def give_back(array: np.ndarray) -> None:
    """Let the system have the memory of what was read of an array in a file."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes, in memory order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def hash_of(digests: Sequence[str]) -> str:
    """Return the SHA-256, hexadecimal, over the digests of a set's `ARRAYS`."""
    return hashlib.sha256(b"".join(bytes.fromhex(each) for each in digests)).hexdigest()
