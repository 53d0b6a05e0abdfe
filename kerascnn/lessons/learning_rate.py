"""The learning rate, lecture 4: how large a step, and why smaller ones later?

Trick 6 multiplies the learning rate by 0.96 after every epoch, PyTorch's ExponentialLR:
epoch k trains at `first * 0.96^k`. (Keras's schedule of the same name counts steps, not
epochs.) Solution 6 of lecture 3 was a smaller rate from the start.

The surface is a ravine, 25 times as steep across as along. Plain gradient descent (SGD)
has one rate for both: above 2/25 it leaps out of the ravine, far below it creeps along
it. Adam divides each direction by the size of its own gradients, so it sets out along
the diagonal, and does not notice when the whole surface is made a hundred times as
steep.

What decay is for shows when the gradient is noisy, as that of a batch is: steps of a
constant size never settle, shrinking ones do. So it is for the recipe, fashion_mlp on
the bundled sample, in the last table and panel: Adam at 0.01 is ten times too fast to
end well, and fine with decay. Try Adam at 0.1 in `RUNS`, or SGD at 1.0.

    python -m kerascnn.lessons.learning_rate
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from kerascnn import data, optim, recipe
from kerascnn.lessons import page

import keras
import numpy as np
from keras import ops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How steep the surface is along x and across, along y.
CURVATURES = np.array([1.0, 25.0])
START = np.array([-4.0, 1.0])
ON_THE_SURFACE = (("SGD", 0.01), ("SGD", 0.07), ("SGD", 0.081), ("Adam", 0.2))
# Optimiser, first learning rate, its factor after each epoch.
RUNS = (
    ("SGD", 1e-3, 1.0),
    ("SGD", 1e-1, 1.0),
    ("Adam", 1e-3, 1.0),
    ("Adam", 1e-2, 1.0),
    ("Adam", 1e-2, 0.85),
)

Update = Callable[[np.ndarray, float], np.ndarray]


def exponential(first: float, gamma: float, epoch: int) -> float:
    """The learning rate of an epoch, counted from 0: `first * gamma^epoch`."""
    return first * gamma**epoch


def height(point: np.ndarray) -> float:
    """The surface: (x^2 + 25 y^2) / 2, lowest at (0, 0)."""
    return float(np.sum(CURVATURES * point**2) / 2)


def slope(point: np.ndarray) -> np.ndarray:
    """The gradient of `height`."""
    return CURVATURES * point


def sgd() -> Update:
    """Gradient descent: the step from a gradient and a learning rate."""
    return lambda gradient, learning_rate: -learning_rate * gradient


def adam(beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8) -> Update:
    """Adam: the mean gradient, divided by the root of the mean squared gradient.

    Both means favour the last steps, and are corrected for having begun at 0.

    Source: Kingma and Ba, 2015, algorithm 1.
    """
    count, mean, square = 0, 0.0, 0.0

    def update(gradient: np.ndarray, learning_rate: float) -> np.ndarray:
        nonlocal count, mean, square
        count += 1
        mean = beta_1 * mean + (1 - beta_1) * gradient
        square = beta_2 * square + (1 - beta_2) * gradient**2
        corrected_mean = mean / (1 - beta_1**count)
        corrected_square = square / (1 - beta_2**count)
        return -learning_rate * corrected_mean / (np.sqrt(corrected_square) + epsilon)

    return update


UPDATES = {"SGD": sgd, "Adam": adam}


def descend(
    update: Update,
    learning_rates: Sequence[float],
    scale: float = 1.0,
    noise: float = 0.0,
    seed: int = 0,
) -> np.ndarray:
    """Walk down the surface from `START`.

    Args:
        update: `sgd()` or `adam()`.
        learning_rates: one for each step.
        scale: the surface's height is multiplied by it.
        noise: standard deviation of what is added to each gradient.
        seed: of the noise.

    Returns:
        The points, (steps + 1, 2), the start first.
    """
    rng = np.random.default_rng(seed)
    points = [START]
    for learning_rate in learning_rates:
        gradient = scale * slope(points[-1]) + rng.normal(0, noise, 2)
        points.append(points[-1] + update(gradient, learning_rate))
    return np.array(points)


def noisy_descent(gamma: float, epochs: int = 60, steps: int = 10) -> np.ndarray:
    """The height after each epoch of SGD at 0.04, noisy gradients, mean of 20 walks.

    Args:
        gamma: the factor of the learning rate after each epoch.
        epochs: how many.
        steps: in each.

    Returns:
        (epochs + 1,), the start first.
    """
    rates = [exponential(0.04, gamma, k) for k in range(epochs) for _ in range(steps)]
    walks = [descend(sgd(), rates, noise=5.0, seed=seed) for seed in range(20)]
    heights = np.array([[height(point) for point in walk[::steps]] for walk in walks])
    return heights.mean(axis=0)


def train(
    runs: Sequence[tuple[str, float, float]], epochs: int = 15
) -> Iterator[list[float]]:
    """Train fashion_mlp once for each run, from the same initial weights.

    On the bundled sample, in batches of 50 in a fixed order: the recipe's 1,024 would
    make two steps an epoch.

    Args:
        runs: optimiser ("SGD" or "Adam"), first learning rate, gamma.
        epochs: passes over the 2,500 images.

    Yields:
        The mean loss of each epoch.
    """
    mlp = recipe.load("fashion_mlp")
    model = mlp.network()
    (scale,) = mlp.transform()
    split = data.load(mlp.dataset, data="sample").train
    images = np.asarray(ops.convert_to_numpy(scale(split.images)))
    # He's uniform rule as in the recipe, from NumPy: the same on every backend.
    rng = np.random.default_rng(0)
    bounds = [np.sqrt(6 / len(w)) if w.ndim == 2 else 0.0 for w in model.get_weights()]
    initial = [
        rng.uniform(-bound, bound, w.shape)
        for bound, w in zip(bounds, model.get_weights(), strict=True)
    ]
    optimizers = {"SGD": keras.optimizers.SGD(), "Adam": optim.adam(1e-3)}
    for name, first, gamma in runs:
        optimizer = optimizers[name]
        if optimizer is not getattr(model, "optimizer", None):
            model.compile(
                optimizer=optimizer,
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
        model.set_weights(initial)
        # A new optimiser's variables are all 0; this saves compiling a new one.
        for variable in optimizer.variables:
            variable.assign(np.zeros(variable.shape))
        optimizer.learning_rate = first
        history = model.fit(
            images,
            split.labels,
            batch_size=50,
            epochs=epochs,
            shuffle=False,
            verbose=0,  # pyright: ignore[reportArgumentType]
            callbacks=[optim.ExponentialDecay(gamma, first)],
        )
        yield history.history["loss"]


def main(arguments: Sequence[str] = ()) -> None:
    """Print the rates and how far each optimiser came; save the figure."""
    path = page.begin("learning_rate", arguments)
    gammas = (0.99, 0.96, 0.9)
    page.table(
        "Learning rate of an epoch: 0.001 x gamma^epoch",
        ["gamma", "epoch 0", "10", "20", "40", "60"],
        [
            [
                gamma,
                *(f"{exponential(1e-3, gamma, k):.2e}" for k in (0, 10, 20, 40, 60)),
            ]
            for gamma in gammas
        ],
    )
    walks = {
        (name, rate): descend(UPDATES[name](), [rate] * 60)
        for name, rate in ON_THE_SURFACE
    }
    page.table(
        f"Height on the surface, from {height(START)} at the start",
        ["optimiser", "rate", "10 steps", "20 steps", "60 steps", "60, 100x as steep"],
        [
            [
                name,
                rate,
                *(f"{height(walk[step]):.4f}" for step in (10, 20, 60)),
                f"{height(descend(UPDATES[name](), [rate] * 60, scale=100.0)[60]):.2g}",
            ]
            for (name, rate), walk in walks.items()
        ],
    )
    noisy = {gamma: noisy_descent(gamma) for gamma in (1.0, 0.96)}
    losses = dict(zip(RUNS, train(RUNS), strict=True))
    page.table(
        "fashion_mlp on the bundled sample: training loss",
        ["optimiser", "rate", "gamma", "epoch 1", "5", "10", "15"],
        [
            [name, rate, gamma, *(f"{values[k - 1]:.3f}" for k in (1, 5, 10, 15))]
            for (name, rate, gamma), values in losses.items()
        ],
    )
    page.save(_draw(gammas, walks, noisy, losses), path)


def _draw(
    gammas: Sequence[float],
    walks: dict[tuple[str, float], np.ndarray],
    noisy: dict[float, np.ndarray],
    losses: dict[tuple[str, float, float], list[float]],
) -> Figure:
    figure = page.figure(11, 8.5)
    (rates, surface), (noise, training) = figure.subplots(2, 2)
    epochs = range(61)
    colours = (page.GREEN, page.BLUE, page.ORANGE, page.GREY, "black")
    for gamma, colour in zip(gammas, colours, strict=False):
        curve = [exponential(1e-3, gamma, epoch) for epoch in epochs]
        rates.plot(epochs, curve, color=colour, label=f"gamma {gamma}")
    rates.set_title("Learning rate, 0.001 x gamma^epoch")
    rates.set_xlabel("epoch")
    rates.set_ylabel("learning rate")
    rates.legend()

    x, y = np.meshgrid(np.linspace(-4.6, 2.2, 200), np.linspace(-1.5, 1.5, 200))
    heights = CURVATURES[0] * x**2 / 2 + CURVATURES[1] * y**2 / 2
    surface.contour(x, y, heights, levels=np.geomspace(0.05, 40, 12), cmap="Greys")
    for ((name, rate), walk), colour in zip(walks.items(), colours, strict=False):
        # 30 steps: the rest is crowded around the minimum, or far away.
        surface.plot(
            *walk[:30].T, ".-", color=colour, linewidth=1, label=f"{name}, {rate}"
        )
    surface.plot(0, 0, "k*", markersize=10, label="minimum")
    surface.set_xlim(-4.6, 2.2)
    surface.set_ylim(-1.5, 1.5)
    surface.set_title("30 steps on one surface, 25 times as steep across")
    surface.set_xlabel("x")
    surface.set_ylabel("y")
    surface.legend(loc="lower right", fontsize=8)

    for (gamma, values), colour in zip(
        noisy.items(), (page.ORANGE, page.BLUE), strict=True
    ):
        label = "constant rate" if gamma == 1 else f"rate x {gamma} after each epoch"
        noise.plot(epochs, values, color=colour, label=label)
    noise.set_yscale("log")
    noise.set_title("SGD with noisy gradients on that surface")
    noise.set_xlabel("epoch of 10 steps")
    noise.set_ylabel("height, mean of 20 walks")
    noise.legend()

    for ((name, rate, gamma), values), colour in zip(
        losses.items(), colours, strict=True
    ):
        label = f"{name}, {rate:g}" + ("" if gamma == 1 else f" x {gamma} an epoch")
        training.plot(range(1, len(values) + 1), values, color=colour, label=label)
    training.set_yscale("log")
    training.set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
    training.minorticks_off()
    training.set_ylim(top=5)  # room for the legend
    training.set_title("fashion_mlp on the bundled sample")
    training.set_xlabel("epoch")
    training.set_ylabel("training loss")
    training.legend(fontsize=9)
    for axis in (rates, noise, training):
        axis.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    page.run(main)
