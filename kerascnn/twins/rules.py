"""torchvision's transforms in NumPy: for a batch, each with its draw given.

A rule has two halves, as the layers of `kerascnn.transforms` have: `draw` rolls the
dice as torchvision does, `apply` is a pure function of images and draw. Images are
`(batch, height, width, channels)`; before `Normalize` in 0..255, after it scaled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np


class Rule:
    """A transform; with `random` it rolls dice, and so acts in training only."""

    random = False

    def draw(self, dice: np.random.Generator, shape: Sequence[int]) -> Any:
        """Roll the dice for a batch of this shape."""
        return None

    def apply(self, images: np.ndarray, draw: Any) -> np.ndarray:
        """Transform a batch."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Normalize(Rule):
    """`ToTensor()`, then `Normalize(mean, std)`: `(x / 255 - mean) / std`."""

    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)

    def apply(self, images: np.ndarray, draw: Any) -> np.ndarray:
        unit = images.astype("float32") / np.float32(255)
        return (unit - np.float32(self.mean)) / np.float32(self.std)


@dataclasses.dataclass(frozen=True)
class Grayscale(Rule):
    """`Grayscale()`: `0.299 red + 0.587 green + 0.114 blue`."""

    def apply(self, images: np.ndarray, draw: Any) -> np.ndarray:
        return images @ np.float32([[0.299], [0.587], [0.114]])


@dataclasses.dataclass(frozen=True)
class ResizeAndCenterCrop(Rule):
    """`Resize(size)`, bilinear and antialiased, then `CenterCrop(size)`."""

    # Where an image gets smaller, the triangle that weighs its pixels gets wider. Whole
    # numbers stay whole numbers.

    size: int

    def apply(self, images: np.ndarray, draw: Any) -> np.ndarray:
        whole = images.dtype.kind in "iu"
        shorter = min(images.shape[1:3])
        height, width = (int(self.size * side / shorter) for side in images.shape[1:3])
        images = np.einsum(
            "yh,nhwc,xw->nyxc",
            _triangles(images.shape[1], height),
            images.astype("float64"),
            _triangles(images.shape[2], width),
            optimize=True,
        )
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        images = images[:, top : top + self.size, left : left + self.size]
        return (np.rint(images) if whole else images).astype("float32")


def _triangles(old: int, new: int) -> np.ndarray:
    """Return each old pixel's weight in each new one, `(new, old)`."""
    scale = old / new
    centres = (np.arange(new)[:, None] + 0.5) * scale
    distances = np.abs(np.arange(old) + 0.5 - centres) / max(scale, 1)
    weights = np.maximum(0, 1 - distances)
    return weights / weights.sum(axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class RandomHorizontalFlip(Rule):
    """`RandomHorizontalFlip(p)`. The draw: whether to mirror each image."""

    random = True

    p: float = 0.5

    def draw(self, dice: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        return dice.random(shape[0]) < self.p

    def apply(self, images: np.ndarray, draw: np.ndarray) -> np.ndarray:
        return np.where(draw.reshape(-1, 1, 1, 1), images[:, :, ::-1], images)


@dataclasses.dataclass(frozen=True)
class RandomAlternatingFlip(Rule):
    """airbench's: half of the images, and in the next epoch the others.

    The draw, that of one epoch: whether to mirror each image.
    """

    random = True

    def draw(self, dice: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        return dice.random(shape[0]) < 0.5

    def apply(self, images: np.ndarray, draw: np.ndarray) -> np.ndarray:
        return RandomHorizontalFlip().apply(images, draw)


@dataclasses.dataclass(frozen=True)
class RandomCrop(Rule):
    """`RandomCrop(size, padding, padding_mode=mode)`.

    A draw is rows and columns of the padded image.
    """

    random = True

    padding: int
    mode: Literal["constant", "reflect"] = "constant"

    def draw(self, dice: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        return dice.integers(0, 2 * self.padding + 1, (shape[0], 2))

    def apply(self, images: np.ndarray, draw: np.ndarray) -> np.ndarray:
        n, height, width, _ = images.shape
        p = self.padding
        padded = np.pad(images, ((0, 0), (p, p), (p, p), (0, 0)), self.mode)
        rows = draw[:, :1] + np.arange(height)
        columns = draw[:, 1:] + np.arange(width)
        which = np.arange(n)[:, None, None]
        return padded[which, rows[:, :, None], columns[:, None, :]]


@dataclasses.dataclass(frozen=True)
class RandomRotation(Rule):
    """`RandomRotation((low, high))`: nearest pixel, black corners; degrees."""

    random = True

    degrees: tuple[float, float]

    def draw(self, dice: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        return dice.uniform(*self.degrees, shape[0])

    def apply(self, images: np.ndarray, draw: np.ndarray) -> np.ndarray:
        n, height, width, _ = images.shape
        angle = np.radians(np.asarray(draw, "float64"))[:, None, None]
        # Each new pixel's centre, turned back about the middle, is its source.
        y, x = np.mgrid[:height, :width] - np.reshape(
            [(height - 1) / 2, (width - 1) / 2], (2, 1, 1)
        )
        row = np.rint(np.cos(angle) * y + np.sin(angle) * x + (height - 1) / 2)
        column = np.rint(np.cos(angle) * x - np.sin(angle) * y + (width - 1) / 2)
        row, column = row.astype(int), column.astype(int)
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        found = images[
            np.arange(n)[:, None, None],
            row.clip(0, height - 1),
            column.clip(0, width - 1),
        ]
        return np.where(inside[..., None], found, np.zeros_like(found))


@dataclasses.dataclass(frozen=True)
class RandomErasing(Rule):
    """`RandomErasing(p, scale, ratio)`; a draw is row, column, height, width."""

    random = True

    p: float
    scale: tuple[float, float]
    ratio: tuple[float, float]

    def draw(self, dice: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        return np.array([self._box(dice, shape) for _ in range(shape[0])])

    def _box(self, dice: np.random.Generator, shape: Sequence[int]) -> list[int]:
        _, rows, columns, _ = shape
        if dice.random() >= self.p:
            return [0, 0, 0, 0]
        for _ in range(10):
            area = rows * columns * dice.uniform(*self.scale)
            ratio = math.exp(dice.uniform(*map(math.log, self.ratio)))
            height = round(math.sqrt(area * ratio))
            width = round(math.sqrt(area / ratio))
            if height < rows and width < columns:
                top = int(dice.integers(0, rows - height + 1))
                left = int(dice.integers(0, columns - width + 1))
                return [top, left, height, width]
        return [0, 0, 0, 0]

    def apply(self, images: np.ndarray, draw: np.ndarray) -> np.ndarray:
        images = images.copy()
        for image, (top, left, height, width) in zip(images, draw, strict=True):
            image[top : top + height, left : left + width] = 0
        return images
