"""A data set as arrays: `Split` and `DataSet`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# One digest per array, in this order, makes up the hash of a data set.
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, in one fixed order.

    Args:
        images: uint8 array (number, height, width, channels), read-only; memory-mapped
            when it comes from the cache.
        labels: int32 array (number,), the index of each image's class.

    Example:
        >>> split = load("cifar10", data="sample").test
        >>> len(split), split.images.shape
        (1000, (1000, 32, 32, 3))
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class DataSet:
    """An image classification set: training and test images with their labels.

    Args:
        name: the set's name in tensorflow-datasets.
        classes: the names of the classes; a label is an index into them.
        train: the training images.
        test: the test images.
        sample: whether this is the small sample that comes with the package.
        source: the folder it was read from, or "bundled sample".
        version: the version tensorflow-datasets gives the prepared set.
        hash: SHA-256 over the images and labels of both splits, see `hash_of`.
        notice: what the user must know of a sample, of a test set that is held out of
            the training set, or of images that are not used, in a line or two; None
            for any other.
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

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes, in memory order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def hash_of(digests: Sequence[str]) -> str:
    """Return the SHA-256, hexadecimal, over the digests of a set's `ARRAYS`."""
    return hashlib.sha256(b"".join(bytes.fromhex(each) for each in digests)).hexdigest()
