"""Edges, lecture 2: what can a convolution see whose kernel nobody trained?

Before networks learned their kernels, people designed them. An edge is where the
brightness changes fast, so its detectors are derivatives: the difference of the
neighbours on the left and right, and of those above and below. Sobel averages the
difference over three rows, the middle one twice: its kernel is the product of a column
(1, 2, 1) and a row (-1, 0, 1). Scharr and Prewitt weigh the rows otherwise, Roberts
compares diagonally; each takes the length of the two together. The Laplacian adds the
second derivatives instead, and keeps the sign.

(Two slides print Sobel's y kernel with opposite signs. The length is the same.)

The first table holds them against loops by hand, on a step of height 1 and on a real
image. The second cuts the strength off, as the slides do at 0.18 and 0.35 and at an
optimal threshold, ours by Otsu's rule: the cut whose two sides differ most. In the
figure the first two images keep their shape to the end, and the last one, before a
rough background, does not. The recipes cifar_edges and cifar_edges_cnn ask what such
filters are worth to a network, against as many that it learns.

    python -m kerascnn.lessons.edges
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kerascnn import data, edges
from kerascnn.lessons import page

import numpy as np
from keras import ops

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Test images of the bundled sample.
IMAGES = (35, 15, 3)
SLIDES_THRESHOLDS = (0.18, 0.35)

FILTERS: dict[str, Callable[[Any], Any]] = {
    "Sobel": edges.sobel,
    "Scharr": edges.scharr,
    "Prewitt": edges.prewitt,
    "Roberts": edges.roberts,
    "Laplacian": edges.laplacian,
}
KERNELS = {
    "Sobel": (edges.SOBEL_X, edges.SOBEL_Y),
    "Scharr": (edges.SCHARR_X, edges.SCHARR_Y),
    "Prewitt": (edges.PREWITT_X, edges.PREWITT_Y),
    "Roberts": (edges.ROBERTS_1, edges.ROBERTS_2),
    "Laplacian": (edges.LAPLACIAN,),
}


def product(column: Sequence[float], row: Sequence[float]) -> np.ndarray:
    """The kernel that does the work of two: entry (i, j) is column[i] * row[j]."""
    return np.array(column)[:, None] * np.array(row)[None, :]


def correlate(image: np.ndarray, kernel: edges.Kernel) -> np.ndarray:
    """Slide a kernel over an image, by loops.

    Args:
        image: (height, width), floats; beyond the border it is mirrored about its
            outermost pixels.
        kernel: rows of numbers, centred at row `height // 2`, column `width // 2`.

    Returns:
        float64 (height, width).
    """
    weights = np.array(kernel, dtype=np.float64)
    rows, columns = weights.shape
    padded = np.pad(
        image.astype(np.float64),
        ((rows // 2, (rows - 1) // 2), (columns // 2, (columns - 1) // 2)),
        mode="reflect",
    )
    output = np.zeros(image.shape)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            output[y, x] = np.sum(padded[y : y + rows, x : x + columns] * weights)
    return output


def by_hand(image: np.ndarray, name: str) -> np.ndarray:
    """A filter of `FILTERS` by loops: the length of its kernels' outputs, if two.

    Args:
        image: (height, width), floats.
        name: of the filter.
    """
    outputs = [correlate(image, kernel) for kernel in KERNELS[name]]
    return np.hypot(*outputs) if len(outputs) == 2 else outputs[0]


def in_keras(image: np.ndarray, name: str) -> np.ndarray:
    """The same by `kerascnn.edges`, on an image (height, width)."""
    batch = image[None, :, :, None].astype("float32")
    return np.asarray(ops.convert_to_numpy(FILTERS[name](batch)))[0, :, :, 0]


def strength(output: np.ndarray) -> np.ndarray:
    """How strong the edge is at each pixel, in 0..1: 1 at the image's strongest."""
    return np.abs(output) / np.abs(output).max()


def otsu(values: np.ndarray, bins: int = 64) -> float:
    """The threshold that parts values best in two.

    Of all cuts the one with the largest variance between the two sides,
    w0 w1 (m0 - m1)^2 with w the sides' shares and m their means.

    Args:
        values: any shape, in 0..1.
        bins: how many cuts are tried, plus one.

    Source: Otsu 1979, "A threshold selection method from gray-level histograms".
    """

    def variance_between(cut: float) -> float:
        above = values > cut
        if above.all() or not above.any():
            return 0.0
        share = np.mean(above)
        difference = values[above].mean() - values[~above].mean()
        return float(share * (1 - share) * difference**2)

    return float(max(np.linspace(0, 1, bins + 1), key=variance_between))


def step_image() -> np.ndarray:
    """A step of height 1: the left half dark, the right half light."""
    return np.repeat([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]], 6, axis=0)


def main(arguments: Sequence[str] = ()) -> None:
    """Print the filters and the thresholds; save the figure."""
    path = page.begin("edges", arguments)
    cifar = data.load("cifar10", data="sample")
    images = cifar.test.images[list(IMAGES)] / 255
    names = [cifar.classes[label] for label in cifar.test.labels[list(IMAGES)]]
    grey = np.asarray(ops.convert_to_numpy(edges.grey()(images.astype("float32"))))[
        ..., 0
    ]
    rows = []
    for name, kernels in KERNELS.items():
        hand, keras = by_hand(grey[0], name), in_keras(grey[0], name)
        rows.append(
            [
                name,
                f"{len(kernels)} of {len(kernels[0])}x{len(kernels[0])}",
                f"{np.abs(by_hand(step_image(), name)).max():.2f}",
                f"{np.abs(hand).max():.2f}",
                f"{np.abs(hand - keras).max():.0e}",
            ]
        )
    page.table(
        "Five filters, by hand and in Keras",
        ["filter", "kernels", "on a step of 1", "largest on an image", "difference"],
        rows,
    )
    strengths = [strength(in_keras(image, "Sobel")) for image in grey]
    optimal = [otsu(values) for values in strengths]
    page.table(
        "Pixels whose Sobel strength is above a threshold",
        ["threshold", *names],
        [
            *(
                [cut, *(f"{np.mean(values > cut):.1%}" for values in strengths)]
                for cut in SLIDES_THRESHOLDS
            ),
            [
                "optimal",
                *(
                    f"{np.mean(values > cut):.1%} (at {cut:.2f})"
                    for values, cut in zip(strengths, optimal, strict=True)
                ),
            ],
        ],
    )
    titles = (
        "image",
        "Sobel x",
        "Sobel y",
        *FILTERS,
        *(f"Sobel > {cut}" for cut in SLIDES_THRESHOLDS),
        "> optimal",
    )
    figure = page.figure(13, 4.2)
    figure.suptitle("Edges of three images of CIFAR-10 (grey in x, y, Laplacian: 0)")
    axes = figure.subplots(len(images), len(titles))
    for row, image, single, name in zip(axes, images, grey, names, strict=True):
        _draw(row, image, single)
        row[0].set_ylabel(name)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    page.save(figure, path)


def _draw(row: Sequence[Axes], image: np.ndarray, grey: np.ndarray) -> None:
    """Fill a row of the figure with an image and its edges."""
    sobel = strength(in_keras(grey, "Sobel"))
    signed = [correlate(grey, kernel) for kernel in KERNELS["Sobel"]]
    outputs = [*signed, *(in_keras(grey, name) for name in FILTERS)]
    cuts = [sobel > cut for cut in (*SLIDES_THRESHOLDS, otsu(sobel))]
    for axis, picture in zip(row, [image, *outputs, *cuts], strict=True):
        largest = np.abs(picture).max()
        smallest = -largest if np.min(picture) < 0 else 0
        axis.imshow(picture, cmap="gray", vmin=smallest, vmax=largest)
        axis.set_xticks([])
        axis.set_yticks([])


if __name__ == "__main__":
    page.run(main)
