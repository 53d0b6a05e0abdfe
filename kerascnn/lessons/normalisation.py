"""Normalisation, lecture 3: what becomes of an image made darker or paler?

Solution 1 for the network that does not learn: subtract the mean, divide by the
standard deviation. Whatever was multiplied (by a positive number) or added before is
gone then. The slide shows it for the pixels of one image; the code after it takes one
mean and one deviation for each channel of the whole training set. That makes it the
same whether pixels are stored in 0..255 or 0..1, but keeps a dark image darker than the
others.

The first table computes those statistics by the slide's two passes over the data, once
over the sums of the pixels, once over their squared distances from the mean. Its last
row is the shortcut that many programs took, the mean of each image's own deviation: too
small, since it leaves out that some images are darker than others. The second table
changes one image and normalises it by its own statistics, then by the data set's. In
the figure, look along the second row: three different images have become one.

Try a negative `gain` in `CHANGES`: what survives?

    python -m kerascnn.lessons.normalisation
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kerascnn import data, transforms
from kerascnn.lessons import page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What happens to the pixels: gain * x + offset.
CHANGES = {"as it is": (1.0, 0.0), "darker": (0.4, 0.0), "faded": (0.4, 0.5)}


def normalise(x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Shift and scale to zero mean and unit deviation: `(x - mean) / std`.

    Args:
        x: (..., channels), floats.
        mean: (channels,), or one number.
        std: its standard deviation, in the same form.
    """
    return (x - mean) / std


def of_one_image(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over the P pixels of an image.

    Args:
        image: (height, width, channels), floats.

    Returns:
        Two arrays (channels,).
    """
    return image.mean(axis=(0, 1)), image.std(axis=(0, 1))


def of_a_data_set(
    images: np.ndarray, batch_size: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over all pixels, in two passes.

    The slide's rule: the first pass gives the mean, the second the squared distances
    from it. A batch at a time, so the set need not fit into memory as floats.

    Args:
        images: uint8 (number, height, width, channels).
        batch_size: how many images are held as floats at once.

    Returns:
        Two float64 arrays (channels,), of pixels in 0..1.
    """
    starts = range(0, len(images), batch_size)
    pixels = images.size // images.shape[-1]
    total = 0.0
    for start in starts:
        total += _unit(images[start : start + batch_size]).sum(axis=(0, 1, 2))
    mean = total / pixels
    squares = 0.0
    for start in starts:
        batch = _unit(images[start : start + batch_size])
        squares += ((batch - mean) ** 2).sum(axis=(0, 1, 2))
    return mean, np.sqrt(squares / pixels)


def mean_of_deviations(images: np.ndarray) -> np.ndarray:
    """The shortcut: each image's own standard deviation, averaged over the images.

    Args:
        images: uint8 (number, height, width, channels).

    Returns:
        float64 (channels,), of pixels in 0..1; never more than the deviation over all.
    """
    # One image at a time: the whole set as float64 would be gigabytes.
    return np.mean([_unit(image).std(axis=(0, 1)) for image in images], axis=0)


def _unit(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float64) / 255


def main(arguments: Sequence[str] = ()) -> None:
    """Print the statistics and the changed image; save the figure."""
    path = page.begin("normalisation", arguments)
    cifar = data.load("cifar10", data="sample")
    images = cifar.train.images
    mean, std = of_a_data_set(images)
    course_mean, course_std = transforms.CHANNEL_STATISTICS["cifar10"]
    page.table(
        f"CIFAR-10, {len(images):,} images (slide: 50,000)",
        ["", "red", "green", "blue"],
        [
            ["mean", *_figures(mean)],
            ["mean, slide", *_figures(course_mean)],
            ["std", *_figures(std)],
            ["std, slide", *_figures(course_std)],
            ["mean of each image's std", *_figures(mean_of_deviations(images))],
        ],
    )

    image = _unit(cifar.test.images[0])
    changed = {name: gain * image + add for name, (gain, add) in CHANGES.items()}
    by_itself = {name: normalise(x, *of_one_image(x)) for name, x in changed.items()}
    by_the_set = {name: normalise(x, mean, std) for name, x in changed.items()}
    page.table(
        "Largest difference from the unchanged image",
        ["change", "x", "before", "by its own statistics", "by the data set's"],
        [
            [
                name,
                f"{gain} x + {add}",
                *(
                    f"{np.abs(form[name] - form['as it is']).max():.3f}"
                    for form in (changed, by_itself, by_the_set)
                ),
            ]
            for name, (gain, add) in CHANGES.items()
        ],
    )
    page.save(_draw(changed, by_itself, by_the_set), path)


def _figures(values: Sequence[float] | np.ndarray) -> list[str]:
    return [f"{value:.4f}" for value in values]


def _draw(
    changed: dict[str, np.ndarray],
    by_itself: dict[str, np.ndarray],
    by_the_set: dict[str, np.ndarray],
) -> Figure:
    figure = page.figure(9, 8.4)
    figure.suptitle("One image, three exposures: pixels before and after normalising")
    axes = figure.subplots(3, len(changed) + 1)
    rows = (
        ("pixels in 0..1", changed, (0, 1)),
        ("by its own statistics", by_itself, (-3, 3)),
        ("by the data set's statistics", by_the_set, (-3, 3)),
    )
    colours = (page.BLUE, page.ORANGE, page.GREEN)
    for row, (label, images, (low, high)) in zip(axes, rows, strict=True):
        for axis, (name, image) in zip(row, images.items(), strict=False):
            axis.imshow(np.clip((image - low) / (high - low), 0, 1))
            axis.set_title(name)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(label)
        styles = ("-", "--", ":")
        for (name, image), colour, style in zip(
            images.items(), colours, styles, strict=False
        ):
            row[-1].hist(
                image.ravel(),
                bins=40,
                range=(low, high),
                histtype="step",
                color=colour,
                linestyle=style,
                linewidth=1.5,
                label=name,
            )
        row[-1].set_yticks([])
        row[-1].set_xlabel("value")
        row[-1].set_ylabel("number of pixels")
    axes[1, -1].legend(loc="upper left", fontsize=8)
    return figure


if __name__ == "__main__":
    page.run(main)
