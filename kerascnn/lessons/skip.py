"""Skip connections, lecture 3: how does the gradient reach the first layers?

Solution 5 for the network of twelve convolutions that does not learn. The gradient of
the first layer is a product with a factor for every layer above it: factors below 1
leave next to nothing. A shortcut adds a second way round, and the factors of the two
ways are summed. By hand, n layers of derivative d: d^n; with x added to each layer's
output, (1 + d)^n.

The slide's shortcut is no bare x. A block of three convolutions halves the image and
changes the channels, so the block's input goes through one convolution of stride 2 and
ReLU, and is added after the pooling: from the loss to the first block, three shortcuts
in place of nine convolutions. Concatenation in place of the sum is among the variants
that the slides name (DenseNet).

The second table and the figure show the lecture's network before training, at an eighth
of its width, on real images: how large the signal still is after each convolution, and
how large the gradient of its kernel. A kernel's gradient is the signal from below times
what comes back from above. In the plain network both have shrunk, so that all its
gradients are small, the last layer's too; with the shortcuts each block begins afresh.

Try `scale=2.0` in `initial_kernels`, nearly He's rule: what is left for a shortcut to
do?

    python -m kerascnn.lessons.skip
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kerascnn import data
from kerascnn.lessons import page

import numpy as np
from keras import ops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JOINS = ("none", "add", "concatenate")


def chain(derivative: float, depth: int, skip: bool) -> float:
    """The derivative of a chain of layers that all have the same derivative.

    Args:
        derivative: of one layer, without the skip connection.
        depth: how many layers.
        skip: whether each layer's input is added to its output.
    """
    return (derivative + 1.0 if skip else derivative) ** depth


def initial_kernels(
    join: str, widths: Sequence[int] = (8, 16, 32, 64), scale: float = 1.0
) -> dict[str, np.ndarray]:
    """Draw the kernels of the lecture's twelve convolutions, Glorot's uniform rule.

    Biases begin at 0 and are left out.

    Args:
        join: "none", "add" or "concatenate".
        widths: filters of each block; the lecture's are 64, 128, 256, 512. The hidden
            dense layer is as wide as the last.
        scale: multiplies the variance 2 / (fan_in + fan_out).

    Returns:
        Kernels by layer, float32: "conv 1" to "conv 12", (3, 3, channels, filters), and
        "shortcut 1" to "shortcut 4" of the same form where there are skip connections;
        "dense 1" and "dense 2", (inputs, outputs).
    """
    rng = np.random.default_rng(0)

    def glorot(*shape: int) -> np.ndarray:
        fans = np.prod(shape[:-2]) * (shape[-2] + shape[-1])
        bound = np.sqrt(6 * scale / fans)
        return rng.uniform(-bound, bound, shape).astype("float32")

    kernels, channels = {}, 3
    for block, filters in enumerate(widths, start=1):
        block_channels = channels
        for number in (3 * block - 2, 3 * block - 1, 3 * block):
            kernels[f"conv {number}"] = glorot(3, 3, channels, filters)
            channels = filters
        if join != "none":
            kernels[f"shortcut {block}"] = glorot(3, 3, block_channels, filters)
        if join == "concatenate":
            channels = 2 * filters
    kernels["dense 1"] = glorot(2 * 2 * channels, widths[-1])
    kernels["dense 2"] = glorot(widths[-1], 10)
    return kernels


def forward(kernels: dict[str, Any], images: Any, join: str) -> tuple[Any, list[Any]]:
    """Run the network of twelve convolutions.

    Args:
        kernels: from `initial_kernels`.
        images: (batch, 32, 32, 3), pixels in 0..1.
        join: how a block's shortcut meets its output: "none", "add" or "concatenate".

    Returns:
        Logits (batch, 10), and the outputs of the twelve convolutions after ReLU.
    """
    x, outputs = images, []
    while f"conv {len(outputs) + 1}" in kernels:
        block_input = x
        for _ in range(3):
            kernel = kernels[f"conv {len(outputs) + 1}"]
            x = ops.relu(ops.conv(x, kernel, padding="same"))
            outputs.append(x)
        x = _halve(x)
        if join != "none":
            # PyTorch's padding=1; with stride 2 Keras's "same" pads one side only.
            padded = ops.pad(block_input, ((0, 0), (1, 1), (1, 1), (0, 0)))
            kernel = kernels[f"shortcut {len(outputs) // 3}"]
            shortcut = ops.relu(ops.conv(padded, kernel, strides=2, padding="valid"))
            x = x + shortcut if join == "add" else ops.concatenate([x, shortcut], -1)
    x = ops.reshape(x, (len(images), -1))
    x = ops.relu(x @ kernels["dense 1"])
    return x @ kernels["dense 2"], outputs


def _halve(x: Any) -> Any:
    """2x2 max pooling; in this form it compiles in half the time of `ops.max_pool`."""
    batch, height, width, channels = x.shape
    windows = ops.reshape(x, (batch, height // 2, 2, width // 2, 2, channels))
    return ops.max(windows, axis=(2, 4))


def loss(
    kernels: dict[str, Any], images: Any, labels: Any, join: str
) -> tuple[Any, list[Any]]:
    """The mean cross-entropy of `forward` on a batch, and the convolutions' outputs."""
    logits, outputs = forward(kernels, images, join)
    losses = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return ops.mean(losses), outputs


def size(values: Any) -> float:
    """The root mean square of an array: the size of a typical entry."""
    return float(np.sqrt(np.mean(np.square(np.asarray(values)))))


def sizes(
    join: str, images: np.ndarray, labels: np.ndarray
) -> tuple[list[float], list[float]]:
    """How large signal and gradient are before training.

    Args:
        join: "none", "add" or "concatenate".
        images: float32 (batch, 32, 32, 3), pixels in 0..1.
        labels: int (batch,).

    Returns:
        For each of the twelve convolutions the root mean square of its output, and of
        the loss's gradient for its kernel.
    """
    import jax

    gradient = jax.jit(
        jax.value_and_grad(functools.partial(loss, join=join), has_aux=True)
    )
    (_, outputs), gradients = gradient(initial_kernels(join), images, labels)
    return (
        [size(output) for output in outputs],
        [size(gradients[f"conv {i + 1}"]) for i in range(len(outputs))],
    )


def main(arguments: Sequence[str] = ()) -> None:
    """Print the chain by hand and the network's gradients; save the figure."""
    page.needs_jax("skip")
    path = page.begin("skip", arguments)
    page.table(
        "By hand: the derivative of a chain of layers",
        ["one layer", "layers", "without skip", "with skip"],
        [
            [d, depth, *(f"{chain(d, depth, skip):.1e}" for skip in (False, True))]
            for d in (0.1, 0.25, 0.5)
            for depth in (4, 12)
        ],
    )

    train = data.load("cifar10", data="sample").train
    images = (train.images[:32] / 255).astype("float32")
    measured = {join: sizes(join, images, train.labels[:32]) for join in JOINS}
    plain, added, concatenated = (measured[join] for join in JOINS)
    page.table(
        "Twelve convolutions: signal and gradient (root mean square)",
        ["conv", "signal", "+ add", "gradient", "+ add", "+ concat", "add / plain"],
        [
            [
                i + 1,
                *(f"{signals[i]:.4f}" for signals in (plain[0], added[0])),
                *(f"{form[1][i]:.1e}" for form in (plain, added, concatenated)),
                f"{added[1][i] / plain[1][i]:.0f}x",
            ]
            for i in (0, 2, 3, 5, 6, 8, 9, 11)
        ],
    )
    page.save(_draw(measured), path)


def _draw(measured: dict[str, tuple[list[float], list[float]]]) -> Figure:
    figure = page.figure(10, 4.6)
    figure.suptitle("Twelve convolutions before training, with and without shortcuts")
    labels = {
        "none": "no skip connection",
        "add": "shortcut added",
        "concatenate": "shortcut concatenated",
    }
    styles = zip(
        JOINS, (page.ORANGE, page.BLUE, page.GREEN), ("o-", "s-", "^--"), strict=True
    )
    axes = figure.subplots(1, 2)
    for join, colour, style in styles:
        for axis, values in zip(axes, measured[join], strict=True):
            axis.plot(range(1, 13), values, style, color=colour, label=labels[join])
    for axis, title in zip(
        axes, ("the convolution's output", "gradient of its kernel"), strict=True
    ):
        axis.set_yscale("log")
        axis.set_title(title)
        axis.set_xlabel("convolution, from the image to the loss")
        axis.set_ylabel("root mean square")
        axis.set_xticks(range(1, 13))
        axis.grid(alpha=0.3)
        for end in (3.5, 6.5, 9.5):
            axis.axvline(end, color=page.GREY, linewidth=0.8, linestyle=":")
    # The ends of the blocks, where the shortcuts arrive.
    axes[0].plot([], [], ":", color=page.GREY, label="end of a block")
    axes[0].legend(loc="lower left")
    return figure


if __name__ == "__main__":
    page.run(main)
