"""Compare the initial weights of a recipe and its twin, and the weights' penalties."""

from __future__ import annotations

import math
from collections.abc import Iterator

import keras
import numpy as np
from torch import nn

from kerascnn.parity import mistakes, weights
from kerascnn.parity.check import FORWARD, Check
from kerascnn.parity.weights import Layout
from kerascnn.twins.twin import Twin

# Two samples of one distribution lie 6 standard errors apart once in 5e8 cases.
INITIAL = 6.0


def compare_initial(layouts: list[Layout], module: nn.Module) -> Iterator[Check]:
    """Compare the distributions of the initial weights: centre, spread and shape."""
    # The two draw from dice of their own, so the difference is in standard errors; what
    # is the same on both sides, as an identity's ones and zeros, was not drawn.
    for layout, other in zip(layouts, weights.learning(module), strict=True):
        if layout.kind == "BatchNormalization":
            yield from compare_vectors(layout, other)
            continue
        kernel = np.asarray(keras.ops.convert_to_numpy(layout.layer.kernel))
        weight = layout.to_keras(other.weight.detach().numpy())
        drawn = kernel != weight
        errors = [0.0]
        if drawn.any():
            found = zip(
                *(moments(sample(side[drawn])) for side in (kernel, weight)),
                strict=True,
            )
            errors = [
                in_errors(abs(ours - twin), math.hypot(ours_error, twin_error))
                for (ours, ours_error), (twin, twin_error) in found
            ]
        start = layout.layer.kernel_initializer
        he = getattr(start, "distribution", "") == "untruncated_normal"
        reason = mistakes.MISTAKES["he_truncated"][0] if he else "other initial weights"
        yield Check(
            "initial",
            f"{layout.layer.name} kernel",
            float(np.max(errors)),  # NaN, where there is one
            INITIAL,
            reason,
            "in standard errors",
        )
        if not layout.layer.use_bias:
            continue
        biases = [
            keras.ops.convert_to_numpy(layout.layer.bias),
            other.bias.detach().numpy(),
        ]
        # Zeros, or uniform: but for once in exp(10) cases, the largest of n is at least
        # exp(-10 / n) of the bound.
        ours, twin = (float(np.abs(b).max()) for b in biases)
        if ours or twin:
            yield Check(
                "initial",
                f"{layout.layer.name} bias",
                abs(ours - twin) / max(ours, twin),
                -math.expm1(-10 / biases[0].size) if ours and twin else 0,
                "other initial biases: PyTorch's default is not zero",
                "of the largest bias",
            )


def sample(array: np.ndarray, most: int = 200_000) -> np.ndarray:
    """Return at most so many entries of an array, evenly spaced, in float64."""
    flat = array.reshape(-1)
    return flat[:: -(-flat.size // most)].astype("float64")


def moments(values: np.ndarray) -> list[tuple[float, float]]:
    """Return mean, logarithm of the deviation, and kurtosis, with standard errors."""
    mean, n = values.mean(), values.size
    squares = np.square(values - mean)
    variance = squares.mean()
    if variance <= 1e-12 * mean**2:  # all the same but for rounding
        return [(mean, 0.0), (-math.inf, 0.0), (0.0, 0.0)]
    kurtosis = np.square(squares).mean() / variance**2
    # A normal distribution's error of the kurtosis, the largest among ours.
    return [
        (mean, math.sqrt(variance / n)),
        (0.5 * math.log(variance), math.sqrt(max(0.0, kurtosis - 1) / (4 * n))),
        (kurtosis, math.sqrt(24 / n)),
    ]


def in_errors(difference: float, error: float) -> float:
    """Return a difference in standard errors: infinite where there is no error."""
    if error == 0:
        return math.inf if difference > 0 else 0.0  # also for NaN, of two constants
    return difference / error


def compare_vectors(layout: Layout, other: nn.Module) -> Iterator[Check]:
    """Compare BatchNorm's four vectors, as they start, number by number."""
    for name, twin_name in layout.names:
        ours = keras.ops.convert_to_numpy(getattr(layout.layer, name))
        theirs = getattr(other, twin_name).detach().numpy()
        yield Check(
            "initial",
            f"{layout.layer.name} {name}",
            float(np.abs(ours - theirs).max()),
            0,
            "BatchNorm starts from gamma 1, beta 0, mean 0 and variance 1",
        )


def compare_penalties(
    layouts: list[Layout], module: nn.Module, twin: Twin
) -> Iterator[Check]:
    """Compare each kernel's penalty with the half square that PyTorch's decay is of."""
    # Beside a large gradient of the cross-entropy, a penalty twice as large is
    # rounding.
    for layout, other in zip(layouts, weights.learning(module), strict=True):
        if layout.kind == "BatchNormalization":
            continue
        kernel = layout.layer.kernel
        if not (kernel.regularizer or twin.weight_decay):
            continue
        ours = float(kernel.regularizer(kernel)) if kernel.regularizer else 0.0
        squares = float(other.weight.detach().double().square().sum())
        theirs = 0.5 * twin.weight_decay * squares
        yield Check(
            "penalty",
            f"{layout.layer.name} kernel",
            0.0 if ours == theirs else abs(ours - theirs) / max(ours, theirs),
            FORWARD,
            mistakes.MISTAKES["l2_half"][0],
        )
