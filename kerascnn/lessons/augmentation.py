"""Augmentation, lecture 4: what does the network see of one image, epoch after epoch?

The training set should cover all that the test set may hold, and never does. Changing
the images at random, in ways that keep their class, is a step towards it: each epoch
shows the network another version of the same 50,000 images. Trick 1 ("learn hard")
erases a square; trick 5 moves the image by up to two pixels and mirrors it; the slide
"predict" has these and a rotation by up to five degrees all together.

In the figure each row is a transform and each column another draw. The order decides
what is filled in: the crop comes before normalising, so its border is black; the
erasing comes after it, so that its value 0 is the mean colour of the data set, a grey.
The table draws many times and holds what happened against what the rule promises.

Images are changed in training only: call a transform without `training=True` and it
does nothing. Try RandomRotation(45), or a vertical flip: which classes would not mind?

    python -m kerascnn.lessons.augmentation
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kerascnn import data, transforms
from kerascnn.lessons import page

import numpy as np
from keras import layers, ops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Layers = Sequence[layers.Layer]

# The training image of the bundled sample that is shown, and how often it is drawn.
IMAGE, DRAWS = 7, 2000


def crop(seed: int = 0) -> transforms.RandomCrop:
    """Trick 5: pad by two black pixels, cut 32x32 out at a random place."""
    return transforms.RandomCrop(padding=2, seed=seed)


def flip(seed: int = 0) -> layers.RandomFlip:
    """Trick 5: mirror left and right, with probability 1/2."""
    return layers.RandomFlip("horizontal", seed=seed)


def rotation(seed: int = 0) -> transforms.RandomRotation:
    """The slide "predict": turn by an angle uniform in -5..5 degrees."""
    return transforms.RandomRotation(5, seed=seed)


def erasing(seed: int = 0) -> transforms.RandomErasing:
    """Trick 1: a square of 1 to 30% of the image, with probability 0.75."""
    return transforms.RandomErasing(
        p=0.75, scale=(0.01, 0.3), ratio=(1.0, 1.0), value=0, seed=seed
    )


def rows(seed: int = 0) -> dict[str, Layers]:
    """The lecture's augmentations, each with the normalising where the slides have it.

    Args:
        seed: of the draws.

    Returns:
        For each name its layers, in order.
    """
    normalise = transforms.standard("cifar10")
    return {
        "as it is": [normalise],
        "erase": [normalise, erasing(seed)],
        "crop": [crop(seed), normalise],
        "flip": [flip(seed), normalise],
        "rotate": [rotation(seed), normalise],
        "all": [crop(seed), flip(seed), rotation(seed), normalise, erasing(seed)],
    }


def apply(transform: Layers, images: np.ndarray) -> np.ndarray:
    """Run images through layers, as in a training step.

    Args:
        transform: layers, in order.
        images: (batch, height, width, channels), raw pixels in 0..255.

    Returns:
        float32 of the same shape.
    """
    x: Any = ops.convert_to_tensor(images.astype("float32"))
    for layer in transform:
        random = type(layer).__name__.startswith("Random")
        x = layer(x, training=True) if random else layer(x)
    return np.asarray(ops.convert_to_numpy(x))


def for_the_eye(normalised: np.ndarray) -> np.ndarray:
    """Undo the normalising of CIFAR-10: back to pixels in 0..1."""
    mean, std = transforms.CHANNEL_STATISTICS["cifar10"]
    return np.clip(normalised * np.array(std) + np.array(mean), 0, 1)


def share_changed(before: np.ndarray, after: np.ndarray) -> float:
    """The share of images with at least one pixel that is not the same any more."""
    return float(np.mean(np.any(before != after, axis=(1, 2, 3))))


def share_erased(normalised: np.ndarray) -> float:
    """The mean share of an image's pixels that are 0 in every channel: erased."""
    return float(np.mean(np.all(normalised == 0, axis=3)))


def share_erased_by_the_rule(
    size: int = 32, p: float = 0.75, low: float = 0.01, high: float = 0.3
) -> float:
    """The mean share that a square erases, its side rounded to whole pixels.

    Args:
        size: height and width of the image, in pixels.
        p: the probability to erase.
        low: smallest area, a share of the image.
        high: largest area.
    """
    areas = np.linspace(low, high, 100_001) * size**2
    return float(p * np.mean(np.round(np.sqrt(areas)) ** 2) / size**2)


def places(offsets: np.ndarray) -> int:
    """How many different places crops were cut from."""
    return len(np.unique(offsets, axis=0))


def main(arguments: Sequence[str] = ()) -> None:
    """Print what the draws did against the rules; save the figure."""
    path = page.begin("augmentation", arguments)
    cifar = data.load("cifar10", data="sample")
    image = cifar.train.images[IMAGE]
    many = np.repeat(image[None], DRAWS, axis=0)
    seen = {name: apply(transform, many) for name, transform in rows().items()}
    changed = {
        name: f"{share_changed(seen['as it is'], after):.1%}"
        for name, after in seen.items()
    }
    offsets = np.asarray(ops.convert_to_numpy(crop().draw(many.shape)))
    angles = np.asarray(ops.convert_to_numpy(rotation().draw(many.shape)))
    page.table(
        f"One image, {DRAWS:,} draws of each transform",
        ["transform", "what is counted", "the rule", "happened"],
        [
            ["erase", "images changed", "75%", changed["erase"]],
            [
                "erase",
                "pixels erased",
                f"{share_erased_by_the_rule():.1%}",
                f"{share_erased(seen['erase']):.1%}",
            ],
            ["crop", "places", 25, places(offsets)],
            ["crop", "images changed", "96%", changed["crop"]],
            ["flip", "images changed", "50%", changed["flip"]],
            ["rotate", "largest angle", "5.0", f"{np.abs(angles).max():.1f}"],
            [
                "rotate",
                "mean angle, without its sign",
                2.5,
                f"{_mean_size(angles):.2f}",
            ],
            ["all", "images changed", "-", changed["all"]],
        ],
    )
    page.save(_draw(seen, cifar.classes[cifar.train.labels[IMAGE]]), path)


def _mean_size(values: np.ndarray) -> float:
    return float(np.mean(np.abs(values)))


def _draw(seen: dict[str, np.ndarray], label: str) -> Figure:
    shown = 7
    figure = page.figure(9.5, 6.6)
    figure.suptitle(f"One image ({label}), seven draws of each transform, and the mean")
    axes = figure.subplots(len(seen) - 1, shown + 1)
    for row, name in zip(axes, list(seen)[1:], strict=True):
        draws = for_the_eye(seen[name])
        for axis, picture in zip(
            row, [*draws[:shown], draws.mean(axis=0)], strict=True
        ):
            axis.imshow(picture)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name)
    for column in range(shown):
        axes[0, column].set_title(f"draw {column + 1}", fontsize=10)
    axes[0, shown].set_title(f"mean of {DRAWS:,}", fontsize=10)
    return figure


if __name__ == "__main__":
    page.run(main)
