"""1 x 1 convolutions, lecture 2: why is there no such thing as a fully connected layer?

A 1 x 1 convolution multiplies the channels of each pixel by one matrix: a dense layer,
the same for every pixel. And a dense layer over 7 x 7 x 64 features is a convolution
whose 7 x 7 kernel fits at one place only. Written as convolutions, the network keeps
its parameters and its outputs: below the first table the weights of one have moved to
the other, and the two are compared.

But now it takes images of any size (LeCun, 2015). A larger image gives a map of output
vectors, one for each window of 28 x 28, four pixels apart, and windows that overlap
share the work. The figure: a network that has only ever seen single garments, applied
once to a canvas of nine. It must answer everywhere, also where there is nothing: no
class is called background. The second table looks at the nine windows that hold exactly
one garment. Try a `GAP` of 4, so that windows see parts of the neighbours.

    python -m kerascnn.lessons.one_by_one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kerascnn import data
from kerascnn.lessons import page

import keras
import numpy as np
from keras import layers, ops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = 28
STEP = 4  # pixels from one window to the next: two poolings
GAP = 12  # pixels between the garments; with a multiple of STEP some windows fit one


def one_by_one(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A 1 x 1 convolution by hand.

    Args:
        x: (height, width, channels).
        kernel: (channels, filters).
        bias: (filters,).

    Returns:
        (height, width, filters).
    """
    outputs = np.empty((*x.shape[:2], kernel.shape[1]))
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            outputs[row, column] = x[row, column] @ kernel + bias
    return outputs


def one_by_one_in_keras(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same in Keras: as a convolution layer, and as a dense layer.

    Returns:
        As `one_by_one`, float32, twice.
    """
    batch = ops.convert_to_tensor(x[None], "float32")
    convolution = layers.Conv2D(kernel.shape[1], 1)
    dense = layers.Dense(kernel.shape[1])
    outputs = []
    for layer, weights in ((convolution, kernel[None, None]), (dense, kernel)):
        layer.build((1, *x.shape))
        layer.set_weights([weights, bias])
        outputs.append(np.asarray(ops.convert_to_numpy(layer(batch)))[0])
    return outputs[0], outputs[1]


def with_dense_layers(seed: int = 0) -> keras.Model:
    """The lecture's first network: from (28, 28, 1), scaled to 0..1, to 10 logits."""
    start = _he_normal(seed)
    image = keras.Input((SIZE, SIZE, 1))
    x = layers.Flatten()(_features(image, start))
    x = layers.Dense(128, activation="relu", kernel_initializer=start)(x)
    logits = layers.Dense(10, kernel_initializer=start)(x)
    return keras.Model(image, logits)


def with_convolutions(seed: int = 0) -> keras.Model:
    """The lecture's second network, for images of any size from 28 x 28.

    Returns:
        A model from (height, width, 1) to logits
        (height // 4 - 6, width // 4 - 6, 10).
    """
    start = _he_normal(seed)
    image = keras.Input((None, None, 1))
    x = _features(image, start)
    x = layers.Conv2D(128, 7, activation="relu", kernel_initializer=start)(x)
    logits = layers.Conv2D(10, 1, kernel_initializer=start)(x)
    return keras.Model(image, logits)


def _features(x: Any, start: Any) -> Any:
    for filters in (32, 64):
        x = layers.Conv2D(
            filters, 3, padding="same", activation="relu", kernel_initializer=start
        )(x)
        x = layers.MaxPooling2D(2)(x)
    return x


def _he_normal(seed: int) -> Any:
    # NumPy draws the same on every backend.
    generator = np.random.default_rng(seed)

    def start(shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        return generator.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)

    return start


def move_weights(dense: keras.Model, convolutional: keras.Model) -> None:
    """Give the second network the weights of the first.

    The dense kernel of 3136 x 128 becomes 7 x 7 x 64 x 128 without a change of order:
    Keras flattens row by row, then column by column, the channels together. (PyTorch
    has the channels first, in the features and in the kernels; it works there as well.)
    """
    shapes = [weight.shape for weight in convolutional.weights]
    moved = [
        weight.reshape(shape)
        for weight, shape in zip(dense.get_weights(), shapes, strict=True)
    ]
    convolutional.set_weights(moved)


def canvas(images: np.ndarray, gap: int = GAP) -> np.ndarray:
    """Hang images in a square, on black.

    Args:
        images: (n * n, 28, 28).
        gap: Pixels around each image.

    Returns:
        (side, side), side = n * 28 + (n + 1) * gap.
    """
    n = int(np.sqrt(len(images)))
    hung = np.zeros((n * SIZE + (n + 1) * gap,) * 2, images.dtype)
    for index, image in enumerate(images):
        top, left = corner(index, n, gap)
        hung[top : top + SIZE, left : left + SIZE] = image
    return hung


def corner(index: int, n: int, gap: int = GAP) -> tuple[int, int]:
    """The first row and column of an image on a canvas of n x n images."""
    row, column = divmod(index, n)
    return gap + row * (SIZE + gap), gap + column * (SIZE + gap)


def multiplications(side: int) -> int:
    """Products that the network computes on an image of side x side pixels."""
    half, quarter = side // 2, side // 4
    windows = (quarter - 6) ** 2
    return (
        side**2 * 9 * 1 * 32
        + half**2 * 9 * 32 * 64
        + windows * (49 * 64 * 128 + 128 * 10)
    )


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def nine_garments(labels: np.ndarray) -> np.ndarray:
    """The index of the first image of each class but one; shirts are left out."""
    classes = (0, 1, 2, 3, 4, 5, 7, 8, 9)
    return np.array([np.flatnonzero(labels == wanted)[0] for wanted in classes])


def draw(hung: np.ndarray, logits: np.ndarray, classes: Sequence[str]) -> Figure:
    """The figure: the canvas, the map of classes, and how sure each vector is.

    Args:
        hung: (side, side), in 0..1.
        logits: (rows, columns, 10).
        classes: Their names.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    figure = page.figure(14, 4.6)
    axes = figure.subplots(1, 3)
    colours = [colormaps["tab10"](index) for index in range(10)]
    chosen = logits.argmax(-1)
    # A vector belongs to the middle of its window.
    middle = (SIZE - 1) / 2
    first, last = middle - STEP / 2, middle + STEP * (len(chosen) - 0.5)
    extent = (first, last, last, first)

    axes[0].imshow(hung, cmap="gray")
    axes[0].set(title=f"the canvas, {len(hung)} x {len(hung)} pixels")
    axes[1].imshow(hung, cmap="gray")
    axes[1].imshow(
        chosen, cmap=ListedColormap(colours), vmin=0, vmax=9, extent=extent, alpha=0.6
    )
    axes[1].set(title=f"class of each window, {len(chosen)} x {len(chosen)}")
    axes[1].legend(
        handles=[
            Patch(color=colours[index], label=classes[index])
            for index in np.unique(chosen)
        ],
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        fontsize=8,
    )
    picture = axes[2].imshow(
        probabilities(logits).max(-1), cmap="viridis", extent=extent, vmin=0, vmax=1
    )
    axes[2].set(title="probability of that class")
    figure.colorbar(picture, ax=axes[2], shrink=0.8)
    for each in axes:
        ends = (-0.5, len(hung) - 0.5)
        each.set(xlim=ends, ylim=ends[::-1], xticks=[], yticks=[])
        for index in range(9):
            top, left = corner(index, 3)
            each.plot(left + middle, top + middle, "+", color="white", markersize=8)
    return figure


def train(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
    """Train for one epoch, in mini-batches of 50, in the order of the images.

    Args:
        model: From images to logits.
        images: (n, 28, 28, 1), in 0..1.
        labels: (n,) integers.
    """
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    for start in range(0, len(images), 50):
        batch = slice(start, start + 50)
        model.train_on_batch(images[batch], labels[batch])


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables and save the figure."""
    path = page.begin("one_by_one", arguments)
    garments = data.load("fashion_mnist", data="sample")
    names = garments.classes
    # In 0..1 the black of the canvas is 0, as the padding of the convolutions is.
    images = garments.train.images.astype("float32") / 255
    tests = garments.test.images.astype("float32") / 255

    dense, convolutional = with_dense_layers(), with_convolutions()
    train(dense, images, garments.train.labels)
    move_weights(dense, convolutional)

    rows = []
    for one, other in zip(dense.weights[::2], convolutional.weights[::2], strict=True):
        shapes = (" x ".join(map(str, weight.shape)) for weight in (one, other))
        rows.append([*shapes, f"{np.prod(one.shape) + one.shape[-1]:,}"])
    rows.append(["total", "", f"{dense.count_params():,}"])
    page.table(
        "The kernels of the two networks",
        ["with dense layers", "with convolutions", "parameters"],
        rows,
    )

    nine = nine_garments(garments.test.labels)
    of_dense = dense.predict_on_batch(tests[nine])
    of_convolutions = convolutional.predict_on_batch(tests[nine])
    difference = np.abs(of_dense - of_convolutions[:, 0, 0]).max()
    page.note(
        f"nine garments: outputs of the two networks at most {difference:.0e} apart"
    )

    hung = canvas(tests[nine, :, :, 0])
    logits = convolutional.predict_on_batch(hung[None, ..., None])[0]
    rows = []
    for index, image in enumerate(nine):
        top, left = corner(index, 3)
        alone = probabilities(of_dense[index])
        there = probabilities(logits[top // STEP, left // STEP])
        answers = (f"{names[p.argmax()]} {p.max():.0%}" for p in (alone, there))
        rows.append([names[garments.test.labels[image]], *answers])
    page.table(
        f"The map of {len(logits)} x {len(logits)}, where the garments are",
        ["garment", "alone", "on the canvas"],
        rows,
    )
    at_once = multiplications(len(hung)) / 1e6
    apart = len(logits) ** 2 * multiplications(SIZE) / 1e6
    page.note(
        f"multiplications: {at_once:,.0f} million at once, "
        f"{apart:,.0f} million window by window"
    )
    page.save(draw(hung, logits, names), path)


if __name__ == "__main__":
    page.run(main)
