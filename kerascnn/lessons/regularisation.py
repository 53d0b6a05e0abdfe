"""L2 regularisation, lecture 4: what does weight decay do to the weights?

Trick 4: add lambda * ||W||^2, the sum of the squared weights, to the loss. Each step
then also pulls every weight towards zero, by a little of itself: what the data do not
call for fades. "Smaller weights, a simpler model", say the slides, and "it prevents the
network from focusing on specific features". PyTorch writes it as `weight_decay`, the
factor of the weight in the gradient, which makes it 2 lambda.

The first table has two inputs that are always equal, x1 = x2 = 1, and a target 1: w1 +
w2 must be 1. Beginning at (1, 0), descent has no reason to move; with L2 it ends where
both share the work, since 0.5^2 + 0.5^2 < 1^2. The second table trains one network
three times from the same initial weights, on the bundled sample of Fashion-MNIST:
without, with the slide's 5e-4, with a hundred times as much. Watch the gap between the
training and the test set close, and which side gives way.

The figure shows how the weights of the hidden layer are spread, and what five of its
nodes look for in the image. Nothing but L2 takes the noise away that they started with;
under it the shapes of clothes come out. Try 0.5 for the last of `DECAYS`.

    python -m kerascnn.lessons.regularisation
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kerascnn import data, optim, transforms
from kerascnn.lessons import page

import keras
import numpy as np
from keras import layers, ops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# PyTorch's weight_decay; the slide's is the middle one.
DECAYS = (0.0, 5e-4, 5e-2)


def penalty(kernels: Iterable[np.ndarray], weight_decay: float) -> float:
    """The part that L2 adds to the loss: lambda * ||W||^2 with lambda = weight_decay/2.

    Args:
        kernels: arrays of any shape.
        weight_decay: PyTorch's, 2 lambda.
    """
    return weight_decay / 2 * sum(float(np.sum(np.square(w))) for w in kernels)


def penalty_gradient(kernel: np.ndarray, weight_decay: float) -> np.ndarray:
    """The gradient of `penalty` for one kernel: the kernel times `weight_decay`."""
    return weight_decay * kernel


def step(
    kernel: np.ndarray, gradient: np.ndarray, learning_rate: float, weight_decay: float
) -> np.ndarray:
    """One step of gradient descent with L2.

    Args:
        kernel: the weights, any shape.
        gradient: of the loss without the penalty, the same shape.
        learning_rate: the step size.
        weight_decay: PyTorch's; every step takes the share learning_rate * weight_decay
            of each weight away.

    Returns:
        The new weights.
    """
    total = gradient + penalty_gradient(kernel, weight_decay)
    return kernel - learning_rate * total


def two_equal_inputs(
    weight_decay: float, steps: int = 10_000, learning_rate: float = 0.1
) -> np.ndarray:
    """Fit w1 x1 + w2 x2 to 1 where x1 = x2 = 1, from w = (1, 0), squared loss / 2.

    The minimum with L2 is at w1 = w2 = 1 / (2 + weight_decay).

    Returns:
        The two weights after the last step.
    """
    w = np.array([1.0, 0.0])
    for _ in range(steps):
        error = w.sum() - 1.0
        w = step(w, np.array([error, error]), learning_rate, weight_decay)
    return w


@dataclass(frozen=True)
class Trained:
    """A network after training: its two kernels, and its accuracies."""

    kernels: tuple[np.ndarray, np.ndarray]
    train: float
    test: float


def train(weight_decay: float, epochs: int = 30) -> Trained:
    """Train a network with one hidden layer on the sample of Fashion-MNIST.

    Args:
        weight_decay: PyTorch's, for the kernels.
        epochs: passes over the 2,500 images, in a fixed order.
    """
    fashion = data.load("fashion_mnist", data="sample")
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten()])
    for inputs, nodes, activation in ((784, 64, "relu"), (64, 10, None)):
        bound = np.sqrt(6 / inputs)  # He's uniform rule
        dense: Any = layers.Dense(
            nodes,
            activation,
            kernel_initializer="zeros",
            kernel_regularizer=optim.weight_decay(weight_decay),
        )
        model.add(dense)
        # From NumPy, so that the initial weights are the same on every backend.
        dense.kernel.assign(rng.uniform(-bound, bound, (inputs, nodes)))
    model.compile(
        optimizer=optim.adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    scale = transforms.pm1()
    images = np.asarray(ops.convert_to_numpy(scale(fashion.train.images)))
    labels = fashion.train.labels
    model.fit(
        images,
        labels,
        batch_size=125,
        epochs=epochs,
        shuffle=False,
        verbose=0,  # pyright: ignore[reportArgumentType]
    )

    def accuracy(split: data.Split) -> float:
        logits = np.asarray(ops.convert_to_numpy(model(scale(split.images))))
        return float(np.mean(logits.argmax(axis=1) == split.labels))

    kernels = [
        np.asarray(ops.convert_to_numpy(layer.kernel)) for layer in model.layers[1:]
    ]
    return Trained(
        (kernels[0], kernels[1]), accuracy(fashion.train), accuracy(fashion.test)
    )


def main(arguments: Sequence[str] = ()) -> None:
    """Print the two inputs and the three networks; save the figure."""
    path = page.begin("regularisation", arguments)
    page.table(
        "Two equal inputs, from w = (1, 0)",
        ["weight_decay", "lambda", "w1", "w2", "w1 + w2"],
        [
            [decay, decay / 2, f"{w1:.3f}", f"{w2:.3f}", f"{w1 + w2:.3f}"]
            for decay in (0.0, 0.01, 0.1)
            for w1, w2 in [two_equal_inputs(decay)]
        ],
    )
    trained = {decay: train(decay) for decay in DECAYS}
    page.table(
        "One hidden layer of 64 nodes on Fashion-MNIST's sample",
        ["weight_decay", "||W||^2", "penalty", "|w| < 0.001", "train", "test", "gap"],
        [
            [
                decay,
                f"{2 * penalty(net.kernels, 1.0):.1f}",
                f"{penalty(net.kernels, decay):.3f}",
                f"{np.mean(np.abs(net.kernels[0]) < 0.001):.1%}",
                f"{net.train:.1%}",
                f"{net.test:.1%}",
                f"{net.train - net.test:.1%}",
            ]
            for decay, net in trained.items()
        ],
    )
    page.save(_draw({decay: net.kernels[0] for decay, net in trained.items()}), path)


def _draw(kernels: dict[float, np.ndarray]) -> Figure:
    figure = page.figure(9, 8.5)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.5))
    upper, lower = halves
    axis = upper.subplots()
    for (decay, kernel), colour in zip(
        kernels.items(), (page.ORANGE, page.GREEN, page.BLUE), strict=True
    ):
        axis.hist(
            kernel.ravel(),
            bins=np.linspace(-0.3, 0.3, 121),
            histtype="step",
            linewidth=1.5,
            color=colour,
            label=f"weight_decay {decay:g}",
        )
    axis.set_yscale("log")
    axis.set_title("Weights of the hidden layer after training")
    axis.set_xlabel("weight")
    axis.set_ylabel("number of weights")
    axis.legend()

    lower.suptitle(
        "The same five hidden nodes: their weights as images (red < 0 < blue)"
    )
    axes = lower.subplots(len(kernels), 5)
    # The nodes that keep most of their weights under the strongest decay.
    nodes = np.argsort(-np.sum(kernels[max(kernels)] ** 2, axis=0))[:5]
    for row, (decay, kernel) in zip(axes, kernels.items(), strict=True):
        for axis, node in zip(row, nodes, strict=True):
            picture = kernel[:, node].reshape(28, 28)
            largest = np.abs(picture).max()
            axis.imshow(picture, cmap="RdBu", vmin=-largest, vmax=largest)
            axis.set_title(f"largest |w| {largest:.2f}", fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(f"weight_decay {decay:g}")
    return figure


if __name__ == "__main__":
    page.run(main)
