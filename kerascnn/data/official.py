"""What the two sets of the course are, so that an archive can be told from a fake."""

import hashlib
from dataclasses import dataclass

import numpy as np

from kerascnn import UsageError


@dataclass(frozen=True)
class Official:
    """The true content of a set: image shape, classes in the labels' order, counts."""

    title: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    counts: dict[str, int]
    contents: dict[str, str]

    def check(self, split: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Raise `UsageError` unless arrays hold this split, image by image."""
        if len(labels) != self.counts[split]:
            raise UsageError(
                f"found {len(labels):,} {split} images, but {self.title} has "
                f"{self.counts[split]:,}: take a complete copy."
            )
        if content(images, labels) != self.contents[split]:
            raise UsageError(
                f"the {split} images or labels are not those of {self.title}: take an "
                "unchanged copy of the official files."
            )


def content(images: np.ndarray, labels: np.ndarray) -> str:
    """Return a hash, 64 hexadecimal digits, of labelled images in any order."""
    # In any order, because tensorflow-datasets shuffles.
    each = sorted(
        hashlib.sha256(bytes([label]) + image.tobytes()).digest()
        for label, image in zip(labels.tolist(), images, strict=True)
    )
    return hashlib.sha256(b"".join(each)).hexdigest()


# The contents are `content` of the sets as tensorflow-datasets prepares them (cifar10
# 3.0.2, fashion_mnist 3.0.1); the four files of Debian's dataset-fashion-mnist give
# the same.
OFFICIAL = {
    "cifar10": Official(
        title="CIFAR-10",
        shape=(32, 32, 3),
        classes=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        counts={"train": 50_000, "test": 10_000},
        contents={
            "train": "d59acf989e068e709ce686cda292672c7b212c08d29d3d3e6d8c3aa99eba6a85",
            "test": "899683d46c3a8c66fd56e1af12202e69fe5a4517be10b0f68e04c78fe585c57c",
        },
    ),
    "fashion_mnist": Official(
        title="Fashion-MNIST",
        shape=(28, 28, 1),
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        counts={"train": 60_000, "test": 10_000},
        contents={
            "train": "0c69d5cdeb902b69084012f812f066de080317bb3c64f43ca87f910d8ec86906",
            "test": "90c92c0507755a7d443edde8297ce4d0f131e42884e2e87e7fc9b81ffe215258",
        },
    ),
}
