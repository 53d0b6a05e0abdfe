"""Convolution, lecture 1: what does a convolution layer compute, by hand?

A small kernel slides over the image. At each place the numbers under it are multiplied
by the kernel's and added up, plus a bias; the sums form the feature map. The same few
parameters serve every place. (In mathematics a convolution flips the kernel first; what
the layers of every library compute is the correlation, without the flip.)

An image of several channels needs a kernel with as many, and the products of all
channels go into one sum. Each further kernel makes one further feature map.

The first table has the slides' examples. The slide of the 5 x 5 data prints the
kernel's middle row as -.2, 0, .1, but its whole output follows from -.2, .1, 0. The one
cell it works out by hand cannot show the swap: there both kernels give -.1. Check it.
The figure has the same numbers, and four kernels over a photograph. Try your own kernel
in `kernels_for_a_photograph`.

    python -m kerascnn.lessons.convolution
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kerascnn import data
from kerascnn.lessons import page

import numpy as np
from keras import ops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTING = np.arange(1.0, 10).reshape(3, 3)
COUNTING_KERNEL = np.arange(1.0, 5).reshape(2, 2)

D = np.array(
    [
        [0.0, 0, 1, 2, 2],
        [1, 2, 2, 1, 2],
        [0, 2, 0, 2, 1],
        [0, 1, 1, 1, 0],
        [1, 0, 0, 0, 1],
    ]
)
K = np.array([[0, 0.1, -0.1], [-0.2, 0.1, 0], [0, 0, 0.1]])
K_AS_PRINTED = np.array([[0, 0.1, -0.1], [-0.2, 0, 0.1], [0, 0, 0.1]])


def output_size(size: int, kernel: int, padding: int = 0, stride: int = 1) -> int:
    """Number of places along one side: floor((n + 2p - k) / s) + 1.

    Args:
        size: Pixels along the side of the image.
        kernel: Along the side of the kernel.
        padding: Zeros added at each end.
        stride: Pixels from one place to the next.
    """
    return (size + 2 * padding - kernel) // stride + 1


def parameters(kernel: int, channels: int, filters: int) -> int:
    """Parameters of a convolution layer: one kernel and one bias for each filter."""
    return kernel * kernel * channels * filters + filters


def convolve(
    image: np.ndarray, kernel: np.ndarray, bias: Any = 0.0, stride: int = 1
) -> np.ndarray:
    """A convolution layer by hand, without padding.

    Args:
        image: (height, width, channels).
        kernel: (height, width, channels, filters).
        bias: One number, or (filters,).
        stride: Pixels from one place to the next.

    Returns:
        The feature maps, (height, width, filters).

    Example:
        >>> convolve(COUNTING[..., None], COUNTING_KERNEL[..., None, None])[..., 0]
        array([[37., 47.],
               [67., 77.]])
    """
    kernel_height, kernel_width, _, filters = kernel.shape
    height = output_size(image.shape[0], kernel_height, stride=stride)
    width = output_size(image.shape[1], kernel_width, stride=stride)
    feature_maps = np.empty((height, width, filters))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            window = image[top : top + kernel_height, left : left + kernel_width]
            products = window[..., None] * kernel
            feature_maps[row, column] = products.sum((0, 1, 2)) + bias
    return feature_maps


def convolve_in_keras(
    image: np.ndarray, kernel: np.ndarray, bias: Any = 0.0, stride: int = 1
) -> np.ndarray:
    """The same by `keras.ops.conv`, the heart of `keras.layers.Conv2D`.

    Returns:
        As `convolve`, float32.
    """
    batch = ops.convert_to_tensor(image[None], "float32")
    weights = ops.convert_to_tensor(kernel, "float32")
    maps = ops.add(ops.conv(batch, weights, strides=stride, padding="valid"), bias)
    return np.asarray(ops.convert_to_numpy(maps))[0]


def convolve_plane(
    plane: np.ndarray, kernel: np.ndarray, stride: int = 1
) -> np.ndarray:
    """Convolve an image of one channel with one kernel, as on the slides.

    Args:
        plane: (height, width).
        kernel: (height, width).
        stride: Pixels from one place to the next.

    Returns:
        (height, width).
    """
    return convolve(plane[..., None], kernel[..., None, None], stride=stride)[..., 0]


def kernels_for_a_photograph() -> np.ndarray:
    """Four 5 x 5 kernels, alike in red, green and blue.

    Returns:
        (5, 5, 3, 4): the mean; left against right; top against bottom; the centre
        against what surrounds it.
    """
    mean = np.full((5, 5), 1 / 25)
    left_right = np.tile([1.0, 1, 0, -1, -1], (5, 1)) / 20
    centre = -mean.copy()
    centre[1:4, 1:4] += 1 / 9
    kernels = np.stack([mean, left_right, left_right.T, centre], axis=-1)
    return np.repeat(kernels[:, :, None, :], 3, axis=2) / 3


def draw(photograph: np.ndarray, feature_maps: np.ndarray) -> Figure:
    """The figure.

    Args:
        photograph: (height, width, 3), in 0..1.
        feature_maps: (height, width, 4).
    """
    figure = page.figure(11, 5.2)
    halves: Any = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    above, below = halves
    above.suptitle("The slide's example")
    numbers = (
        ("data D (5 x 5)", D),
        ("kernel K (3 x 3)", K),
        ("K as printed", K_AS_PRINTED),
        ("D with K, stride 1", convolve_plane(D, K)),
        ("D with K, stride 2", convolve_plane(D, K, stride=2)),
    )
    for axes, (title, values) in zip(above.subplots(1, 5), numbers, strict=True):
        limit = np.abs(values).max()
        axes.imshow(values, cmap="RdBu_r", vmin=-2 * limit, vmax=2 * limit)
        for (row, column), value in np.ndenumerate(values):
            text = f"{value:.0f}" if values is D else f"{value:.1f}"
            axes.text(column, row, text, ha="center", va="center")
        axes.set(title=title, xticks=[], yticks=[])

    below.suptitle("A photograph (3, 32, 32) with four kernels (3, 5, 5): (4, 28, 28)")
    axes_of_row = below.subplots(1, 5)
    axes_of_row[0].imshow(photograph)
    axes_of_row[0].set(title="photograph")
    titles = ("mean", "left - right", "top - bottom", "centre - surround")
    for index, (axes, title) in enumerate(zip(axes_of_row[1:], titles, strict=True)):
        values = feature_maps[..., index]
        limit = np.abs(values).max()
        low, colours = (0, "gray") if index == 0 else (-limit, "RdBu_r")
        picture = axes.imshow(values, cmap=colours, vmin=low, vmax=limit)
        below.colorbar(picture, ax=axes, shrink=0.7)
        axes.set(title=title)
    for axes in axes_of_row:
        axes.set(xticks=[], yticks=[])
    return figure


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables and save the figure."""
    path = page.begin("convolution", arguments)

    printed = [[-0.1, -0.1, -0.2], [0.3, -0.2, 0.1], [0.3, -0.3, 0.1]]
    printed_stride_2 = [[-0.1, -0.2], [0.3, 0.1]]
    rows = []
    for name, plane, kernel, stride, slide in (
        ("1..9 with 1..4", COUNTING, COUNTING_KERNEL, 1, [["labels", "only"]]),
        ("D with K", D, K, 1, printed),
        ("D with K as printed", D, K_AS_PRINTED, 1, printed),
        ("D with K", D, K, 2, printed_stride_2),
        ("D with K as printed", D, K_AS_PRINTED, 2, printed_stride_2),
    ):
        output = convolve_plane(plane, kernel, stride)
        rows.append([name, stride, _lines(output), _lines(slide)])
    page.table(
        "The slides' examples", ["", "stride", "output", "printed on the slide"], rows
    )

    rows = []
    for size, channels, kernel, filters in (
        (3, 1, 2, 1),
        (32, 1, 5, 4),
        (32, 3, 5, 1),
        (32, 3, 5, 4),
        (28, 1, 7, 32),
    ):
        side = output_size(size, kernel)
        rows.append(
            [
                f"({channels}, {size}, {size})",
                f"{filters} x ({channels}, {kernel}, {kernel})",
                f"({filters}, {side}, {side})",
                f"{parameters(kernel, channels, filters):,}",
            ]
        )
    page.table(
        "Sizes as the slides write them: (channels, height, width)",
        ["image", "kernels", "feature maps", "parameters with biases"],
        rows,
    )

    images = data.load("cifar10", data="sample").train.images
    photograph = images[24] / 255
    kernels = kernels_for_a_photograph()
    by_hand = convolve(photograph, kernels)
    by_keras = convolve_in_keras(photograph, kernels)
    difference = np.abs(by_hand - by_keras).max()
    page.note(f"photograph, by hand against keras.ops: at most {difference:.0e} apart")
    page.save(draw(photograph, by_hand), path)


def _lines(matrix: Any) -> str:
    rounded = np.asarray(matrix)
    if rounded.dtype.kind == "f":
        # Adding 0 turns -0 into 0.
        rounded = (rounded.round(6) + 0.0).astype(str)
    return "\n".join(" ".join(f"{cell:>4}" for cell in row) for row in rounded)


if __name__ == "__main__":
    page.run(main)
