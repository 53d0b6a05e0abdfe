"""Padding, lecture 2: what becomes of the border of an image?

Without padding a kernel of k x k fits fewer places than there are pixels, and each
layer takes k - 1 rows and columns away. A border of zeros gives them back: with p zeros
at each end and a stride of s, n pixels become floor((n + 2p - k) / s) + 1.

The first table has the slide's 4 x 4 example, the second the slide's network (recipe
fashion_padding), with the zeros that PyTorch and Keras put before and after each row.
With stride 1 both put the same. With stride 2 the slide's `padding=1` has one zero at
each end; Keras's "same" needs one zero in all and puts it last. The sizes agree, the
numbers do not: the windows lie one pixel apart, as the figure shows. To do in Keras
what PyTorch does, write `ZeroPadding2D(1)` and a convolution without padding.

Zeros are not image: at the right of the figure, how much of what an output sees is.
Try a kernel of 7 in `share_of_image`.

    python -m kerascnn.lessons.padding
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kerascnn import data
from kerascnn.lessons import page

import numpy as np
from keras import ops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Lecture 2: the data and the kernel of the example.
COUNTING = np.arange(1.0, 17).reshape(4, 4)
KERNEL = np.arange(1.0, 10).reshape(3, 3)

# Lecture 2, the network: channels, filters, stride. All kernels are 3 x 3, padding 1.
NETWORK = ((1, 32, 1), (32, 64, 2), (64, 128, 1), (128, 256, 2), (256, 512, 1))


def output_size(size: int, kernel: int, padding: int, stride: int) -> int:
    """Number of places along a side: floor((n + 2p - k) / s) + 1.

    Args:
        size: Pixels along the side.
        kernel: Along the side of the kernel.
        padding: Zeros at each end.
        stride: Pixels from one place to the next.
    """
    return (size + 2 * padding - kernel) // stride + 1


def same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """The zeros of "same" in Keras: as few as make ceil(n / s) places.

    Args:
        size: As for `output_size`, as `kernel` and `stride`.

    Returns:
        Zeros before and after a row. An odd one goes last.

    Example:
        >>> same(28, kernel=3, stride=1), same(28, kernel=3, stride=2)
        ((1, 1), (0, 1))
    """
    places = -(-size // stride)
    zeros = max((places - 1) * stride + kernel - size, 0)
    return zeros // 2, zeros - zeros // 2


def convolve(
    image: np.ndarray,
    kernel: np.ndarray,
    zeros: tuple[int, int] = (0, 0),
    stride: int = 1,
) -> np.ndarray:
    """Convolve one channel with one kernel by hand.

    Args:
        image: (height, width).
        kernel: (height, width).
        zeros: Zeros before and after each row and each column.
        stride: Pixels from one place to the next.

    Returns:
        (height, width) of the output.

    Example:
        >>> convolve(COUNTING, KERNEL)
        array([[348., 393.],
               [528., 573.]])
    """
    padded = np.pad(image, zeros)
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (kernel.shape[0], kernel.shape[1])
    )
    return (windows[::stride, ::stride] * kernel).sum((2, 3))


def convolve_in_keras(
    image: np.ndarray, kernel: np.ndarray, padding: int | str, stride: int
) -> np.ndarray:
    """The same by keras.ops.

    Args:
        image: (height, width).
        kernel: (height, width).
        padding: Zeros at each end, as PyTorch's `padding=1`; or Keras's "same".
        stride: Pixels from one place to the next.

    Returns:
        float32.
    """
    batch = ops.convert_to_tensor(image[None, ..., None], "float32")
    weights = ops.convert_to_tensor(kernel[..., None, None], "float32")
    if isinstance(padding, int):
        batch = ops.pad(batch, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        padding = "valid"
    maps = ops.conv(batch, weights, strides=stride, padding=padding)
    return np.asarray(ops.convert_to_numpy(maps))[0, :, :, 0]


def share_of_image(size: int, kernel: int, depth: int) -> np.ndarray:
    """How much of what the outputs see is image, not padding.

    Kernels that take the mean of their window, over an image of ones, leave exactly
    that share.

    Args:
        size: Pixels along the side.
        kernel: Along the side of the kernels.
        depth: Number of convolutions, all "same" with stride 1.

    Returns:
        (size, size) in 0..1: 1 where no zero ever came in.
    """
    share = np.ones((size, size))
    mean = np.full((kernel, kernel), kernel**-2)
    for _ in range(depth):
        share = convolve(share, mean, same(size, kernel, stride=1))
    return share


def draw() -> Figure:
    """The figure: sizes by layer, windows of stride 2, and the border."""
    figure = page.figure(13, 4)
    sizes, places, border = figure.subplots(1, 3)

    depth = np.arange(0, 6)
    for label, kernel, padding, strides, color in (
        ("7 x 7, no padding", 7, 0, [1] * 4, page.ORANGE),
        ("3 x 3, no padding", 3, 0, [1] * 5, page.GREEN),
        ("3 x 3, padding 1", 3, 1, [1] * 5, page.BLUE),
        ("the slide's network", 3, 1, [stride for *_, stride in NETWORK], page.GREY),
    ):
        side = [28]
        for stride in strides:
            side.append(output_size(side[-1], kernel, padding, stride))
        sizes.plot(depth[: len(side)], side, "o-", color=color, label=label)
    sizes.set(
        title="Fashion-MNIST through five convolutions",
        xlabel="convolutions",
        ylabel="pixels along the side",
        ylim=(0, 43),
    )
    sizes.legend(loc="upper right", ncols=2, fontsize=8)

    for pixel in range(-1, 9):
        inside = 0 <= pixel < 8
        places.text(pixel, 0, pixel if inside else "0", ha="center", va="center")
        places.axvspan(
            pixel - 0.5,
            pixel + 0.5,
            color=page.GREY,
            alpha=0.12 if inside else 0.4,
            linewidth=0,
        )
    for (before, _), color, level, label in (
        ((1, 1), page.ORANGE, 1, "padding=1: zeros (1, 1)"),
        (same(8, 3, 2), page.BLUE, -4, '"same": zeros (0, 1)'),
    ):
        starts = np.arange(4) * 2 - before
        heights = level + np.arange(4) * 0.7
        places.barh(heights, 2.9, 0.5, left=starts - 0.45, color=color, label=label)
        places.plot(starts + 1, heights, "o", color="white", markersize=4)
    places.set(
        title="3 x 3, stride 2: the windows in a row of 8",
        xlabel="pixel (dark: padding; dot: middle of a window)",
        xlim=(-1.5, 8.5),
        ylim=(-5, 6.5),
        xticks=[],
        yticks=[],
    )
    places.legend(loc="upper left", fontsize=8)

    for layers, color in ((1, page.GREEN), (3, page.BLUE), (9, page.ORANGE)):
        share = share_of_image(32, 3, layers)
        border.plot(share[16], color=color, label=f"{layers} deep, middle")
        border.plot(share[0], ":", color=color, label="top row")
    border.set(
        title='"same": how much of it is image',
        xlabel="column of an image of 32 x 32",
        ylabel="share",
        ylim=(-0.2, 1.05),
    )
    border.legend(loc="lower center", ncols=3, fontsize=7)
    for axes in (sizes, border):
        axes.grid(alpha=0.3)
    return figure


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables and save the figure."""
    path = page.begin("padding", arguments)

    page.table(
        "1..16 with the kernel 1..9, stride 1",
        ["without padding: 2 x 2", "with padding 1: 4 x 4"],
        [
            [
                _lines(convolve(COUNTING, KERNEL)),
                _lines(convolve(COUNTING, KERNEL, (1, 1))),
            ]
        ],
    )

    size, rows, parameters = 28, [], 0
    for channels, filters, stride in NETWORK:
        zeros = same(size, 3, stride)
        size = output_size(size, 3, padding=1, stride=stride)
        count = 3 * 3 * channels * filters + filters
        output = f"{size} x {size} x {filters}"
        rows.append([f"3 x 3, stride {stride}", output, (1, 1), zeros, f"{count:,}"])
        parameters += count
    inputs = size * size * NETWORK[-1][1]
    rows.append(["dense", "10", "", "", f"{inputs * 10 + 10:,}"])
    rows.append(["total", "", "", "", f"{parameters + inputs * 10 + 10:,}"])
    page.table(
        "The slide's network: zeros before and after",
        ["layer", "output", "slide", 'Keras "same"', "parameters"],
        rows,
    )

    garment = data.load("fashion_mnist", data="sample").train.images[0, :, :, 0] / 255
    kernel = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    rows = []
    for stride in (1, 2):
        slide = convolve(garment, kernel, (1, 1), stride)
        keras = convolve(garment, kernel, same(28, 3, stride), stride)
        check = [
            np.abs(slide - convolve_in_keras(garment, kernel, 1, stride)).max(),
            np.abs(keras - convolve_in_keras(garment, kernel, "same", stride)).max(),
        ]
        apart = np.abs(slide - keras).max()
        rows.append([stride, f"{apart:.2f}", *(f"{value:.0e}" for value in check)])
    page.table(
        "A sneaker, convolved with a 3 x 3 kernel: largest differences",
        [
            "stride",
            'padding 1 - "same"',
            "padding 1: hand - Keras",
            '"same": hand - Keras',
        ],
        rows,
    )
    page.save(draw(), path)


def _lines(matrix: np.ndarray) -> str:
    return "\n".join(" ".join(f"{cell:>4g}" for cell in row) for row in matrix)


if __name__ == "__main__":
    page.run(main)
