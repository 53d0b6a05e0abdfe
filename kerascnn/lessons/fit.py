"""The stages of a fit, lecture 4: random, robust, overfit.

One network, followed from its initial state to its last. Before training its decision
boundary is random. At the beginning of training it moves towards a better fit. Further
on it passes, without stopping there, through a robust fit, as good on new points as
this network gets. In the end it fits the training points alone, the odd ones too: the
training loss goes towards zero, and on new points the network has become worse.

Here the points have two coordinates, so that the boundary can be drawn: a cloud, and a
ring around it that reaches into it. Nothing in the training loss tells where the robust
fit was. It takes points kept aside for that, the validation set; and since they chose
the moment, a third set, the test set, has to say how good it is.

In the figure look for the tongues that reach for single points in the last stage, and
for the place where the two losses part. Try 1,000 for `TRAINING_POINTS`: does the
network still overfit?

    python -m kerascnn.lessons.fit
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kerascnn import optim
from kerascnn.lessons import page

import keras
import numpy as np
from keras import layers, ops

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAINING_POINTS = 100
BEGINNING = 20  # steps
# The steps after which the network is looked at, closer together at first.
LOOKS = tuple(np.unique(np.geomspace(1, 2000, 50).round().astype(int)).tolist())


def cloud_and_ring(
    number: int, seed: int, noise: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points from a small circle and from a large one around it, blurred.

    Args:
        number: of points, half of them in each class.
        seed: of the draw.
        noise: standard deviation of what is added to each coordinate.

    Returns:
        Points, float32 (number, 2), and their classes, int32 (number,): 0 the cloud
        (radius 0.3), 1 the ring (radius 1.2).
    """
    rng = np.random.default_rng(seed)
    classes = np.arange(number, dtype="int32") % 2
    angle = rng.uniform(0, 2 * np.pi, number)
    radius = np.where(classes == 0, 0.3, 1.2)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points += rng.normal(0, noise, points.shape)
    return points.astype("float32"), classes


def network(nodes: int = 128) -> keras.Model:
    """Two hidden layers, far more parameters than there are points."""
    point = keras.Input((2,))
    x = layers.Dense(nodes, activation="relu", kernel_initializer="zeros")(point)
    x = layers.Dense(nodes, activation="relu", kernel_initializer="zeros")(x)
    model = keras.Model(point, layers.Dense(2, kernel_initializer="zeros")(x))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 2:  # He's rule; from NumPy, the same on every backend
            weight.assign(rng.normal(0, np.sqrt(2 / weight.shape[0]), weight.shape))
    return model


@dataclass(frozen=True)
class Moment:
    """The network after some steps: its weights, and how it does on each set."""

    step: int
    weights: list[np.ndarray]
    loss: dict[str, float]
    accuracy: dict[str, float]


def cross_entropy(logits: np.ndarray, classes: np.ndarray) -> float:
    """The mean of -log(softmax(logits)[class])."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-np.mean(log_probabilities[np.arange(len(classes)), classes]))


def look(
    model: keras.Model, step: int, sets: dict[str, tuple[np.ndarray, np.ndarray]]
) -> Moment:
    """Measure the network on each set of points."""
    logits = {
        name: np.asarray(ops.convert_to_numpy(model(points)))
        for name, (points, _) in sets.items()
    }
    return Moment(
        step,
        model.get_weights(),
        {name: cross_entropy(logits[name], sets[name][1]) for name in sets},
        {
            name: float(np.mean(logits[name].argmax(axis=1) == sets[name][1]))
            for name in sets
        },
    )


def follow(
    model: keras.Model,
    sets: dict[str, tuple[np.ndarray, np.ndarray]],
    looks: Sequence[int] = LOOKS,
) -> list[Moment]:
    """Train on the set "training" and look at the network on the way.

    Args:
        model: from `network`.
        sets: points and classes by name.
        looks: the steps after which to look, rising; each step takes all points.

    Returns:
        The moments, the initial state first.
    """
    points, classes = sets["training"]
    model.compile(
        optimizer=optim.adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    moments = [look(model, 0, sets)]
    for step in looks:
        # One epoch over copies of the same points is so many steps, in one call.
        copies = step - moments[-1].step
        model.fit(
            np.tile(points, (copies, 1)),
            np.tile(classes, copies),
            batch_size=len(points),
            shuffle=False,
            verbose=0,  # pyright: ignore[reportArgumentType]
        )
        moments.append(look(model, step, sets))
    return moments


def stages(moments: Sequence[Moment]) -> dict[str, Moment]:
    """Name the lecture's four stages; the validation loss decides which is robust."""
    return {
        "before training": moments[0],
        "beginning": next(m for m in moments if m.step >= BEGINNING),
        "robust": min(moments, key=lambda moment: moment.loss["validation"]),
        "overfit": moments[-1],
    }


def main(arguments: Sequence[str] = ()) -> None:
    """Print the stages and save the figure."""
    path = page.begin("fit", arguments)
    sets = {
        "training": cloud_and_ring(TRAINING_POINTS, seed=1),
        "validation": cloud_and_ring(500, seed=2),
        "test": cloud_and_ring(2000, seed=3),
    }
    model = network()
    moments = follow(model, sets)
    named = stages(moments)
    page.table(
        "One network through its stages",
        ["stage", "steps", "train loss", "accuracy", "val loss", "test accuracy"],
        [
            [
                name,
                f"{moment.step:,}",
                f"{moment.loss['training']:.3f}",
                f"{moment.accuracy['training']:.1%}",
                f"{moment.loss['validation']:.3f}",
                f"{moment.accuracy['test']:.1%}",
            ]
            for name, moment in named.items()
        ],
    )
    page.save(_draw(model, sets, moments, named), path)


def _draw(
    model: keras.Model,
    sets: dict[str, tuple[np.ndarray, np.ndarray]],
    moments: list[Moment],
    named: dict[str, Moment],
) -> Figure:
    figure = page.figure(12, 7)
    figure.suptitle("One network, from its initial state to its last")
    grid = figure.add_gridspec(2, 4)
    for column, (name, moment) in enumerate(named.items()):
        axis = figure.add_subplot(grid[0, column])
        _regions(axis, model, moment, *sets["training"])
        axis.set_title(f"{name}: {moment.step:,} steps")
        if column == 0:
            axis.legend(loc="upper left", fontsize=8)
    for column, name in ((2, "robust"), (3, "overfit")):
        axis = figure.add_subplot(grid[1, column])
        points, classes = sets["test"]
        _regions(axis, model, named[name], points[:200], classes[:200])
        axis.set_title(f"{name}, on new points: {named[name].accuracy['test']:.1%}")

    axis = figure.add_subplot(grid[1, :2])
    steps = [moment.step for moment in moments]
    for name, colour in (("training", page.ORANGE), ("validation", page.BLUE)):
        axis.plot(
            steps, [moment.loss[name] for moment in moments], color=colour, label=name
        )
    for name, moment in list(named.items())[1:]:
        axis.axvline(moment.step, color=page.GREY, linestyle=":")
        axis.annotate(
            name,
            (moment.step, 1.02),
            xycoords=("data", "axes fraction"),
            horizontalalignment="center",
        )
    axis.set_xscale("symlog")
    axis.set_xticks([0, 1, 10, 100, 1000], ["0", "1", "10", "100", "1,000"])
    axis.set_xlim(0, steps[-1] * 1.2)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("steps of training")
    axis.set_ylabel("loss (cross-entropy)")
    axis.legend(loc="lower left")
    return figure


def _regions(
    axis: Axes,
    model: keras.Model,
    moment: Moment,
    points: np.ndarray,
    classes: np.ndarray,
) -> None:
    """Colour the plane by the network's probability of class 1; draw the points."""
    x, y = np.meshgrid(np.linspace(-2.4, 2.4, 120), np.linspace(-2.4, 2.4, 120))
    model.set_weights(moment.weights)
    plane = np.stack([x.ravel(), y.ravel()], axis=1).astype("float32")
    logits = np.asarray(ops.convert_to_numpy(model(plane)))
    difference = np.clip(logits[:, 1] - logits[:, 0], -50, 50)
    probability = (1 / (1 + np.exp(-difference))).reshape(x.shape)
    axis.contourf(x, y, probability, levels=20, cmap="RdBu", vmin=-0.4, vmax=1.4)
    axis.contour(x, y, probability, levels=[0.5], colors="black", linewidths=1)
    for number, (marker, colour, name) in enumerate(
        (("o", "#8b1a1a", "cloud"), ("x", "#08306b", "ring"))
    ):
        of_class = points[classes == number]
        axis.plot(*of_class.T, marker, color=colour, markersize=4, label=name)
    axis.set_xlim(x.min(), x.max())
    axis.set_ylim(y.min(), y.max())
    axis.set_xticks([])
    axis.set_yticks([])


if __name__ == "__main__":
    page.run(main)
