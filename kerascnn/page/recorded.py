"""The panels of what was recorded inside a training, by step and by layer."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
from markupsafe import Markup

from kerascnn.page import charts
from kerascnn.page.evidence import Evidence
from kerascnn.page.panel import Panel
from kerascnn.training import build

# The most points of a line, and columns of a map: of more, several are put together.
POINTS, COLUMNS = 240, 20
# The most layers that are drawn.
LAYERS = 24
# Dead units are a worry where they are this share of a layer, or so much more of it
# than after the first epoch.
DEAD, MORE_DEAD = 0.5, 0.1

Recorded = dict[str, np.ndarray]


def steps(evidence: Evidence) -> Panel | None:
    """Learning rate, loss and gradient norm of every step."""
    found = evidence.recorded
    if not found or not len(found.get("step", ())):
        return None
    together = -(-len(found["step"]) // POINTS)
    last = np.arange(together, len(found["step"]) + together, together) - 1
    points = found["step"][np.minimum(last, len(found["step"]) - 1)].tolist()

    def drawn(name: str, title: str, role: str, axis: str, log: bool) -> Markup | None:
        values = found[name].astype("float64")
        if not np.isfinite(values).any():
            return None
        series = _together(title, role, values, together, above_zero=log)
        return charts.lines(
            f"{title} by step", points, [series], axis=axis, unit="step", log=log
        )

    network = evidence.config.get("description", {}).get("network")
    penalties = "regulari" in json.dumps(network).lower()
    axis = "loss with penalties" if penalties else "loss"
    made = {
        "Learning rate": drawn(
            "learning_rate", "learning rate", "rate", "learning rate", False
        ),
        "Loss": drawn("loss", "loss", "train", axis, False),
        "Gradient norm": drawn(
            "gradient_norm", "gradient norm", "test", "norm of all gradients", True
        ),
    }
    return Panel(
        "steps",
        "Training, step by step",
        "The learning rate is the one that each step used, the loss that of its own "
        "batch, so it jitters. The gradient norm often grows in the first steps and "
        "stays larger: that is usual while the loss falls. Worry if both leap up and "
        "the loss stays there, at the start or where the learning rate is highest: it "
        "is too high, or needs a warm-up. Or if the norm sinks to nothing while the "
        "loss is high.",
        {
            "charts": {k: chart for k, chart in made.items() if chart is not None},
            "together": together,
        },
    )


def by_layer(evidence: Evidence) -> Panel | None:
    """Dead units, and gradients and updates beside weights, by layer over epochs."""
    found = evidence.recorded
    if not found or "epoch" not in found:
        return None
    maps = []
    shape = evidence.config["data"]["train_images"], *evidence.shown.shape[1:]
    images = build.images_looked_at(shape)
    kinds: list[tuple] = [
        (
            "dead",
            "activation_layers",
            "Dead units",
            "Share of a layer’s filters or units that gave 0 for each of the same "
            f"{images:,} training images. They learn nothing from these, though others "
            "may still reach them. Often a part of a dense layer is so from the first "
            f"epoch on, and the rest does its work. Orange is a worry: {DEAD:.0%} of "
            f"the layer or more, or {100 * MORE_DEAD:.0f} points more than after the "
            "first epoch.",
            ([0.1, 0.25, DEAD], charts.percent),
        ),
        (
            "gradient_to_weight",
            "kernel_layers",
            "Gradient / weight",
            "Norm of a kernel’s gradient by the norm of its weights. Far smaller in "
            "the first layers than in the last: the gradient vanishes on its way.",
            ([1e-4, 1e-3, 1e-2, 1e-1], _digits),
        ),
        (
            "update_to_weight",
            "kernel_layers",
            "Update / weight",
            "How much of itself a kernel changes in a step. About 0.001 is usual, more "
            "in the first epochs.",
            ([1e-5, 1e-4, 1e-3, 1e-2], _digits),
        ),
    ]
    for name, of, title, says, (bounds, write) in kinds:
        chart = _map(found, name, of, title, bounds, write)
        if chart is not None:
            maps.append((title, says, chart))
    if not maps:
        return None
    return Panel(
        "by_layer",
        "Dead units, gradients and updates",
        "A row is a layer, from the image down to the logits; a column is an epoch. "
        "Worry about orange cells, about rows of one map that differ by decades, or "
        "about updates that stay above 0.01 (the learning rate is too high) or below "
        "0.00001 (the layer stands still).",
        {"maps": maps},
    )


def activations(evidence: Evidence) -> Panel | None:
    """Mean and deviation of what layers answer, over epochs."""
    found = evidence.recorded
    if not found or not len(found.get("activation_layers", ())):
        return None
    mean, deviation = found["activation_mean"], found["activation_deviation"]
    # Of ReLU alone dead units are counted, and ReLU never answers below 0.
    low = np.where(np.isfinite(found["dead"]), 0, -np.inf)
    low = np.maximum(mean - deviation, low)
    names = found["activation_layers"]
    made = [
        (
            name,
            charts.small(
                f"Activations of {name} by epoch",
                found["epoch"].tolist(),
                *(
                    low[:, i],
                    mean[:, i],
                    mean[:, i] + deviation[:, i],
                ),
            ),
        )
        for i, name in enumerate(names[:LAYERS].tolist())
    ]
    return Panel(
        "activations",
        "What the layers answer",
        "The line is the mean of a layer’s outputs over epochs, the band one standard "
        "deviation on both sides; of ReLU it ends at 0, below which ReLU never "
        "answers. Worry about a band that closes (the layer answers the same to every "
        "image) or opens without end.",
        {
            "rows": [("", made)],
            "note": _note(
                len(names),
                "Measured after each epoch on the same images of the training set, "
                "without random transforms and dropout.",
            ),
        },
    )


def statistics(evidence: Evidence) -> Panel | None:
    """BatchNorm's moving statistics over epochs."""
    found = evidence.recorded
    if not found or not len(found.get("norm_layers", ())):
        return None
    names = found["norm_layers"]
    rows = []
    for name, title, log in (
        ("moving_mean", "Moving mean", False),
        ("moving_variance", "Moving variance, by powers of ten", True),
    ):
        made = [
            (
                layer,
                charts.small(
                    f"{title} of {layer} by epoch",
                    found["epoch"].tolist(),
                    *found[name][:, i].T,
                    log=log,
                ),
            )
            for i, layer in enumerate(names[:LAYERS].tolist())
        ]
        rows.append((title, made))
    return Panel(
        "statistics",
        "BatchNorm’s moving statistics",
        "What evaluation normalises by: the line is the middle channel, the band goes "
        "from the lowest to the highest. Worry where they still drift at the end: the "
        "test accuracy then lags behind the training. Or about variances near zero, "
        "which blow small differences up.",
        {"rows": rows, "note": _note(len(names))},
    )


def _together(
    name: str, role: str, values: np.ndarray, steps: int, above_zero: bool
) -> charts.Series:
    """Return a line of the mean of every so many steps, and their range."""
    known = np.isfinite(values) & ((values > 0) | (not above_zero))
    starts = range(0, len(values), steps)
    parts = [values[a : a + steps][known[a : a + steps]] for a in starts]
    mean, low, high = (
        [float(of(part)) if len(part) else None for part in parts]
        for of in (np.mean, np.min, np.max)
    )
    if steps == 1:
        return charts.Series(name, role, mean)
    return charts.Series(name, role, mean, low, high)


def _map(
    found: Recorded,
    name: str,
    of: str,
    title: str,
    bounds: list[float],
    write: Callable[[float], str],
) -> Markup | None:
    """Draw one number of layers over epochs, `None` where no layer has it."""
    values = found[name].T
    rows = np.isfinite(values).any(1)
    values, names = values[rows][:LAYERS], found[of][rows][:LAYERS]
    if not len(values):
        return None
    epochs = found["epoch"]
    every = -(-len(epochs) // COLUMNS)
    chosen = np.arange(len(epochs) - 1, -1, -every)[::-1]
    worry = None
    if name == "dead":
        worry = worrying(values)[:, chosen]
    return charts.heat(
        f"{title} by layer and epoch",
        *(names.tolist(), epochs[chosen].tolist(), values[:, chosen], bounds),
        worry=worry,
        write=write,
    )


def worrying(dead: np.ndarray) -> np.ndarray:
    """Return which shares of dead units are a worry, of `(layers, epochs)`."""
    return (dead >= DEAD) | (dead - dead[:, :1] >= MORE_DEAD)


def _digits(value: float) -> str:
    """Write a small number without an exponent: `0.00001`."""
    return np.format_float_positional(float(f"{value:.3g}"), trim="-")


def _note(layers: int, says: str = "") -> str:
    more = f" {layers - LAYERS} more layers are not shown." if layers > LAYERS else ""
    return (says + more).strip()
