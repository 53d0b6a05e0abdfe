"""Parameters, lecture 1: why does a convolution layer need so few of them?

A fully connected layer has one weight for each pair of input and output. A convolution
layer has one small kernel for each filter and uses it at every place, so that its
parameters depend on kernel and channels, never on the size of the image.

The first table counts, layer by layer, the network that lecture 1 prints, with the
slide's memory for one image. Look where its parameters are, and where its outputs are.

The second sets layers and networks side by side. To make the feature maps of the first
convolution, a fully connected layer would need 7,600 times as many parameters. Yet the
convolutional network has more than the perceptron: its kernels join many channels, and
they can, because the size of the image does not count. The figure shows that at its
right. Try `total(count((224, 224, 3), PERCEPTRON))`, the size of ImageNet's images.

    python -m kerascnn.lessons.parameters
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kerascnn.lessons import page

import keras
import numpy as np
from keras import layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Convolution:
    """A convolution layer without padding, stride 1."""

    kernel: int
    filters: int


@dataclass(frozen=True)
class Dense:
    """A fully connected layer."""

    units: int


@dataclass(frozen=True)
class Count:
    """What one layer needs."""

    layer: str
    output: tuple[int, ...]
    parameters: int

    @property
    def values(self) -> int:
        """The numbers that the layer puts out for one image."""
        return int(np.prod(self.output))


# Lecture 1: the network of recipe fashion_conv, and the perceptrons.
CONVOLUTIONAL = (
    Convolution(7, 32),
    Convolution(7, 64),
    Convolution(7, 128),
    Convolution(7, 256),
    Dense(128),
    Dense(10),
)
PERCEPTRON = (Dense(256), Dense(10))
PERCEPTRON_2 = (Dense(256), Dense(256), Dense(10))
PERCEPTRON_3 = (Dense(256), Dense(256), Dense(256), Dense(10))


def of_convolution(kernel: int, channels: int, filters: int) -> int:
    """A kernel for each pair of channel and filter, and a bias for each filter."""
    return kernel * kernel * channels * filters + filters


def of_dense(inputs: int, units: int) -> int:
    """A weight for each pair of input and unit, and a bias for each unit."""
    return inputs * units + units


def count(
    image: tuple[int, int, int], network: Sequence[Convolution | Dense]
) -> list[Count]:
    """Count a network by hand, in the rows of the slide's table.

    After every layer but the last stands a ReLU, and before the first fully connected
    one the feature maps are flattened.

    Args:
        image: (height, width, channels).
        network: The layers with parameters, in order.

    Returns:
        One count for each layer, those without parameters too.
    """
    shape: tuple[int, ...] = image
    rows = []
    for index, layer in enumerate(network):
        if isinstance(layer, Convolution):
            parameters = of_convolution(layer.kernel, shape[-1], layer.filters)
            height, width = (side - layer.kernel + 1 for side in shape[:2])
            shape = (height, width, layer.filters)
            rows.append(Count("Conv2D", shape, parameters))
        else:
            if len(shape) == 3:
                shape = (int(np.prod(shape)),)
                rows.append(Count("Flatten", shape, 0))
            parameters = of_dense(shape[0], layer.units)
            shape = (layer.units,)
            rows.append(Count("Dense", shape, parameters))
        if index < len(network) - 1:
            rows.append(Count("ReLU", shape, 0))
    return rows


def in_keras(
    image: tuple[int, int, int], network: Sequence[Convolution | Dense]
) -> keras.Model:
    """Build the same network in Keras, with the same rows; all weights are 0.

    Args:
        image: (height, width, channels).
        network: As for `count`.

    Returns:
        The model; `model.layers` starts with the input.
    """
    start = keras.Input(image)
    x: Any = start
    for index, layer in enumerate(network):
        if isinstance(layer, Convolution):
            x = layers.Conv2D(layer.filters, layer.kernel, kernel_initializer="zeros")(
                x
            )
        else:
            if len(x.shape) == 4:
                x = layers.Flatten()(x)
            x = layers.Dense(layer.units, kernel_initializer="zeros")(x)
        if index < len(network) - 1:
            x = layers.ReLU()(x)
    return keras.Model(start, x)


def total(rows: Sequence[Count]) -> int:
    """Parameters of the whole network."""
    return sum(row.parameters for row in rows)


def megabytes(rows: Sequence[Count]) -> tuple[float, float]:
    """Memory as the slide's table reckons it, for one image and 4 bytes a number.

    Returns:
        Forward and backward (every layer's output twice), and the parameters.
    """
    values = sum(row.values for row in rows)
    return values * 2 * 4 / 2**20, total(rows) * 4 / 2**20


def draw(rows: Sequence[Count], sizes: Sequence[int]) -> Figure:
    """The figure.

    Args:
        rows: The printed network's.
        sizes: Sides of square colour images.
    """
    figure = page.figure(11, 4.2)
    network, growth = figure.subplots(1, 2)

    drawn = [row for row in rows if row.parameters]
    names = [f"{row.layer}\n{' x '.join(map(str, row.output))}" for row in drawn]
    places = np.arange(len(drawn))
    network.bar(
        places - 0.2,
        [row.parameters for row in drawn],
        0.4,
        color=page.BLUE,
        label="parameters",
    )
    network.bar(
        places + 0.2,
        [row.values for row in drawn],
        0.4,
        color=page.ORANGE,
        label="outputs for one image",
    )
    network.set_xticks(places, names, fontsize=8)
    network.set(
        title=f"fashion_conv: {total(rows):,} parameters",
        yscale="log",
        ylabel="count",
        ylim=(5, 3e7),
    )
    network.legend(loc="upper right")

    growth.plot(
        sizes,
        [of_dense(size * size * 3, 256) for size in sizes],
        color=page.ORANGE,
        label="fully connected, 256 units",
    )
    growth.plot(
        sizes,
        [of_convolution(7, 3, 256) for _ in sizes],
        color=page.BLUE,
        label="convolution, 256 filters of 7 x 7",
    )
    for size, name in ((32, "CIFAR-10"), (224, "ImageNet")):
        growth.axvline(size, color=page.GREY, linestyle=":", linewidth=1)
        growth.text(size, 1.2e4, f" {name}", color=page.GREY)
    growth.set(
        title="The first layer as the image grows",
        xlabel="pixels along the side of a colour image",
        ylabel="parameters",
        yscale="log",
        ylim=(1e4, 1e8),
    )
    growth.legend(loc="upper left", bbox_to_anchor=(0.2, 0.62))
    for axes in (network, growth):
        axes.grid(axis="y", alpha=0.3)
    return figure


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables and save the figure."""
    path = page.begin("parameters", arguments)

    rows = count((28, 28, 1), CONVOLUTIONAL)
    model = in_keras((28, 28, 1), CONVOLUTIONAL)
    page.table(
        "The network of lecture 1 (recipe fashion_conv)",
        ["layer", "output", "parameters", "in Keras"],
        [
            [row.layer, row.output, f"{row.parameters:,}", f"{layer.count_params():,}"]
            for row, layer in zip(rows, model.layers[1:], strict=True)
        ]
        + [["total", "", f"{total(rows):,}", f"{model.count_params():,}"]],
    )
    outputs, parameters = megabytes(rows)
    page.note(
        f"one image: {outputs:.2f} MB forward and backward; "
        f"parameters: {parameters:.2f} MB"
    )

    maps = rows[0]
    page.table(
        "Side by side",
        ["layer or network", "parameters"],
        [
            ["28 x 28 to 22 x 22 x 32, convolution", f"{maps.parameters:,}"],
            ["the same maps, fully connected", f"{of_dense(28 * 28, maps.values):,}"],
        ]
        + [
            [name, f"{total(count(image, network)):,}"]
            for name, image, network in (
                ("fashion_mlp", (28, 28, 1), PERCEPTRON),
                ("cifar_mlp", (32, 32, 3), PERCEPTRON),
                ("cifar_mlp_2", (32, 32, 3), PERCEPTRON_2),
                ("cifar_mlp_3", (32, 32, 3), PERCEPTRON_3),
                ("fashion_conv", (28, 28, 1), CONVOLUTIONAL),
                ("cifar_conv", (32, 32, 3), CONVOLUTIONAL),
            )
        ],
    )
    page.save(draw(rows, range(8, 257, 8)), path)


if __name__ == "__main__":
    page.run(main)
