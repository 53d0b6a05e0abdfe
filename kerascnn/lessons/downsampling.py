"""Downsampling, lecture 2: four ways to halve a feature map, and what each one keeps.

Maximum and average pooling reduce each 2 x 2 window to one number. A convolution with
stride 2 takes a weighted sum of it, with weights that it learns, and costs no layer of
its own. Bilinear resizing by one half reads the image at the middle of each window, as
far from all four pixels: it is the average (recipe fashion_down_resize must therefore
equal fashion_down_avg).

The first table has the slides' 4 x 4 example. The second halves a map of edges twice:
the maximum keeps the strongest edge as strong as it was, the average dilutes it, and a
single pixel of each window (a strided convolution with such weights, or resizing by the
nearest pixel) keeps it or loses it by chance. Compare the pictures; then put another
photograph in `edges_of_a_photograph`.

    python -m kerascnn.lessons.downsampling
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kerascnn import data
from kerascnn.lessons import page

import numpy as np
from keras import layers, ops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Lecture 2: the data and the kernel of every example.
COUNTING = np.arange(1.0, 17).reshape(4, 4)
KERNEL = np.array([[1.0, 2], [3, 4]])


def windows(image: np.ndarray) -> np.ndarray:
    """Cut an image into windows of 2 x 2; a last odd row or column is left out.

    Args:
        image: (height, width).

    Returns:
        (height // 2, width // 2, 2, 2).
    """
    height, width = image.shape[0] // 2, image.shape[1] // 2
    even = image[: 2 * height, : 2 * width]
    return even.reshape(height, 2, width, 2).swapaxes(1, 2)


def maximum(image: np.ndarray) -> np.ndarray:
    """2 x 2 maximum pooling of (height, width).

    Example:
        >>> maximum(COUNTING)
        array([[ 6.,  8.],
               [14., 16.]])
    """
    return windows(image).max((2, 3))


def average(image: np.ndarray) -> np.ndarray:
    """2 x 2 average pooling of (height, width).

    Example:
        >>> average(COUNTING)
        array([[ 3.5,  5.5],
               [11.5, 13.5]])
    """
    return windows(image).mean((2, 3))


def strided(
    image: np.ndarray, kernel: np.ndarray = KERNEL, stride: int = 2
) -> np.ndarray:
    """Convolve (height, width) with a 2 x 2 kernel at every `stride`-th place.

    Example:
        >>> strided(COUNTING)
        array([[ 44.,  64.],
               [124., 144.]])
    """
    every_place = sum(
        kernel[row, column]
        * image[row : row + len(image) - 1, column : column + image.shape[1] - 1]
        for row in range(2)
        for column in range(2)
    )
    return np.asarray(every_place)[::stride, ::stride]


def resized(image: np.ndarray) -> np.ndarray:
    """Resize (height, width) by one half, bilinearly.

    PyTorch's `interpolate(scale_factor=0.5, mode="bilinear", align_corners=False)`. The
    new pixel i covers the old ones 2i and 2i + 1, and its centre lies on their border,
    at 2i + 1/2: there both count one half.
    """
    height, width = image.shape[0] // 2, image.shape[1] // 2
    rows = 2 * np.arange(height) + 0.5
    columns = 2 * np.arange(width) + 0.5
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - top)[:, None], (columns - left)[None, :]

    def pixels(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return image[np.ix_(row, column)]

    above = (1 - right) * pixels(top, left) + right * pixels(top, left + 1)
    below = (1 - right) * pixels(top + 1, left) + right * pixels(top + 1, left + 1)
    return (1 - down) * above + down * below


def nearest(image: np.ndarray) -> np.ndarray:
    """Keep the first pixel of each 2 x 2 window of (height, width)."""
    return windows(image)[:, :, 0, 0]


def in_keras(image: np.ndarray) -> dict[str, np.ndarray]:
    """The same in Keras.

    Args:
        image: (height, width), even.

    Returns:
        "maximum", "average", "stride 1", "stride 2" and "resized": float32. All but
        stride 1 have half the size.
    """
    height, width = image.shape
    batch = ops.convert_to_tensor(image.reshape(1, height, width, 1), "float32")
    kernel = ops.convert_to_tensor(KERNEL.reshape(2, 2, 1, 1), "float32")
    half = (height // 2, width // 2)
    results: dict[str, Any] = {
        "maximum": layers.MaxPooling2D(2)(batch),
        "average": layers.AveragePooling2D(2)(batch),
        "stride 1": ops.conv(batch, kernel, strides=1),
        "stride 2": ops.conv(batch, kernel, strides=2),
        "resized": ops.image.resize(batch, half, interpolation="bilinear"),
    }
    return {
        name: np.asarray(ops.convert_to_numpy(result))[0, :, :, 0]
        for name, result in results.items()
    }


def edges_of_a_photograph() -> tuple[np.ndarray, np.ndarray]:
    """A photograph and a feature map of it: the strength of its edges.

    Returns:
        (32, 32, 3) in 0..1, and (32, 32): the length of the change of grey from a pixel
        to its right and lower neighbours.
    """
    photograph = data.load("cifar10", data="sample").train.images[33] / 255
    grey = photograph.mean(-1)
    across = np.diff(grey, axis=1, append=grey[:, -1:])
    down = np.diff(grey, axis=0, append=grey[-1:])
    return photograph, np.hypot(across, down)


def twice(halve: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """Halve an image and halve it again, as the lecture's 220, 110 and 55 pixels."""
    return halve(halve(image))


WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "maximum": maximum,
    "average": average,
    "bilinear": resized,
    "first pixel": nearest,
}


def draw(photograph: np.ndarray, edges: np.ndarray) -> Figure:
    """The figure: a photograph, its edges, and what is left after halving them twice.

    Args:
        photograph: (height, width, 3), in 0..1.
        edges: (height, width).
    """
    figure = page.figure(11, 4.6)
    grid = figure.subplots(2, 5)
    strongest = edges.max()
    grid[0, 0].imshow(photograph)
    grid[0, 0].set(title="photograph, 32 x 32")
    grid[1, 0].imshow(edges, cmap="magma", vmin=0, vmax=strongest)
    grid[1, 0].set(title="its edges, 32 x 32")
    picture = None
    for (name, halve), upper, lower in zip(
        WAYS.items(), grid[0, 1:], grid[1, 1:], strict=True
    ):
        for axes, values in ((upper, halve(edges)), (lower, twice(halve, edges))):
            picture = axes.imshow(values, cmap="magma", vmin=0, vmax=strongest)
            axes.set(title=f"{name}, {len(values)} x {values.shape[1]}")
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    assert picture is not None
    figure.colorbar(picture, ax=grid, label="strength of the edge", shrink=0.8)
    return figure


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables and save the figure."""
    path = page.begin("downsampling", arguments)

    by_keras = in_keras(COUNTING)
    rows = []
    for name, output in (
        ("maximum", maximum(COUNTING)),
        ("average", average(COUNTING)),
        ("stride 1", strided(COUNTING, stride=1)),
        ("stride 2", strided(COUNTING)),
        ("resized", resized(COUNTING)),
    ):
        difference = np.abs(output - by_keras[name]).max()
        rows.append([name, *map(_lines, (output, by_keras[name])), f"{difference:.0e}"])
    page.table(
        "1..16 in a 4 x 4 grid (kernel for the strides: 1 2, 3 4)",
        ["", "by hand", "in Keras", "difference"],
        rows,
    )

    photograph, edges = edges_of_a_photograph()
    rows = [["not halved", "32 x 32", f"{edges.max():.2f}", f"{edges.mean():.3f}"]]
    for name, halve in WAYS.items():
        left = twice(halve, edges)
        size = f"{left.shape[0]} x {left.shape[1]}"
        rows.append([name, size, f"{left.max():.2f}", f"{left.mean():.3f}"])
    page.table(
        "The edges of a photograph, halved twice",
        ["", "size", "strongest edge", "mean"],
        rows,
    )
    page.save(draw(photograph, edges), path)


def _lines(matrix: np.ndarray) -> str:
    return "\n".join(" ".join(f"{cell:>5g}" for cell in row) for row in matrix)


if __name__ == "__main__":
    page.run(main)
