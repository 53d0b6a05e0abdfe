"""Initialisation, lecture 3, solution 3: how large should the first weights be?

A unit adds up n products. If the weights are independent with variance v, the sum has
n v times the mean square of the inputs as its variance. So each layer multiplies the
signal by a factor, and twelve layers by its twelfth power. Glorot (2010) takes v = 1/n,
which keeps the variance of linear layers. ReLU sets half of the sums to 0 and with
them half of the mean square, so He (2015) takes v = 2/n. The gradient meets the same
factors on its way back. PyTorch's layers start with v = 1/(3n).

Of activations we show the mean square, which is what the next sums inherit: ReLU's,
never negative, vary less about their own mean. For weights, sums and gradients, whose
mean is 0, it is the variance.

The slides write N(0, 1/n) and N(0, 2/n). Their code calls `xavier_uniform_`, where n is
the mean of the inputs and the outputs, and `kaiming_normal_`, where it is the inputs.

The first table has the variance that each rule means and those that NumPy and Keras
draw. The second sends random inputs through twelve layers and random gradients back: it
shows the activations of the last layer and the gradient for those of the first. In the
figure, which shows every layer, the dots are measured and the lines computed from the
factors. PyTorch's activations end on a floor: its random biases, no longer the input.
The gradient has no such floor. SiLU passes less than ReLU, so even He's weights let it
fade, slowly. Try a depth of 50 in `measure`.

    python -m kerascnn.lessons.initialisation
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kerascnn.lessons import page

import keras
import numpy as np
from keras import ops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RULES = ("Glorot", "He", "PyTorch")


def variance(rule: str, inputs: int, outputs: int) -> float:
    """The variance of a weight.

    Args:
        rule: "Glorot", "He" or "PyTorch" (the default of its layers).
        inputs: Of one unit; for a convolution height x width x channels of its kernel.
        outputs: Units; for a convolution height x width x filters.

    Source: Glorot and Bengio 2010; He et al. 2015, arXiv:1502.01852; PyTorch's
    `nn.Linear`: uniform in +-1/sqrt(inputs).
    """
    return {
        "Glorot": 2 / (inputs + outputs),
        "He": 2 / inputs,
        "PyTorch": 1 / (3 * inputs),
    }[rule]


def weights(
    rule: str, inputs: int, outputs: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw a kernel by hand: He's from a normal distribution, the others uniform.

    Returns:
        (inputs, outputs).
    """
    deviation = np.sqrt(variance(rule, inputs, outputs))
    if rule == "He":
        return generator.normal(0, deviation, (inputs, outputs))
    # The variance of a uniform distribution in +-b is b^2 / 3.
    bound = np.sqrt(3) * deviation
    return generator.uniform(-bound, bound, (inputs, outputs))


def biases(rule: str, width: int, generator: np.random.Generator) -> np.ndarray:
    """Draw the biases of a layer of `width` inputs and outputs.

    Returns:
        (width,): PyTorch's as its weights, 0 by the other rules.
    """
    if rule == "PyTorch":
        return weights(rule, width, 1, generator)[:, 0]
    return np.zeros(width)


def weights_in_keras(rule: str, inputs: int, outputs: int, seed: int) -> np.ndarray:
    """Draw a kernel with Keras's initialisers.

    `keras.initializers.HeNormal` cuts the normal distribution off at two deviations;
    the course's does not.

    Returns:
        (inputs, outputs), float32.
    """
    scaling = keras.initializers.VarianceScaling
    initializer = {
        "Glorot": keras.initializers.GlorotUniform(seed),
        "He": scaling(2.0, "fan_in", "untruncated_normal", seed),
        "PyTorch": scaling(1 / 3, "fan_in", "uniform", seed),
    }[rule]
    return np.asarray(ops.convert_to_numpy(initializer((inputs, outputs))))


@dataclass(frozen=True)
class Activation:
    """An activation with its derivative, for NumPy."""

    value: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


ACTIVATIONS = {
    "linear": Activation(lambda z: z, np.ones_like),
    "ReLU": Activation(lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
    "SiLU": Activation(
        lambda z: z * _sigmoid(z),
        lambda z: _sigmoid(z) * (1 + z * (1 - _sigmoid(z))),
    ),
}


def there_and_back(
    x: np.ndarray,
    kernels: Sequence[np.ndarray],
    shifts: Sequence[np.ndarray],
    activation: str,
    gradient: np.ndarray,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The forward and the backward pass through dense layers, by hand.

    Args:
        x: (batch, inputs).
        kernels: (inputs, outputs) of each layer.
        shifts: The biases, (outputs,) of each layer.
        activation: A key of `ACTIVATIONS`, after every layer.
        gradient: Of the loss, with respect to the last activation; (batch, outputs).

    Returns:
        For each layer its activations, and the gradient with respect to them.
    """
    function = ACTIVATIONS[activation]
    sums, activations, gradients = [], [], []
    for kernel, shift in zip(kernels, shifts, strict=True):
        sums.append(x @ kernel + shift)
        x = function.value(sums[-1])
        activations.append(x)
    for of_layer, kernel in zip(reversed(sums), reversed(kernels), strict=True):
        gradients.append(gradient)
        gradient = (gradient * function.slope(of_layer)) @ kernel.T
    return activations, gradients[::-1]


def measure(
    rule: str, activation: str, depth: int = 12, width: int = 256, draws: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Send random inputs through random layers, and random gradients back.

    Args:
        rule: See `variance`.
        activation: A key of `ACTIVATIONS`.
        depth: Number of layers.
        width: Units of each, and number of inputs.
        draws: Of all the weights; the results are means over them.

    Returns:
        For each layer the mean square of its activations, where the inputs' is 1; and
        that of the gradient with respect to them, where the last layer's is 1.
    """
    forward, backward = np.zeros(depth), np.zeros(depth)
    for seed in range(draws):
        generator = np.random.default_rng(seed)
        activations, gradients = there_and_back(
            generator.normal(size=(4, width)),
            [weights(rule, width, width, generator) for _ in range(depth)],
            [biases(rule, width, generator) for _ in range(depth)],
            activation,
            generator.normal(size=(4, width)),
        )
        forward += [(of_layer**2).mean() / draws for of_layer in activations]
        backward += [(of_layer**2).mean() / draws for of_layer in gradients]
    return forward, backward


def mean_square(function: Callable[[np.ndarray], np.ndarray], variance: float) -> float:
    """The mean of function(z)^2 for z from N(0, variance), by numerical integration."""
    # An even number of points: none at 0, where ReLU's slope jumps.
    z = np.linspace(-8, 8, 4000)
    density = np.exp(-(z**2) / 2)
    values = function(z * np.sqrt(variance)) ** 2
    return float((values * density).sum() / density.sum())


def predict(
    rule: str, activation: str, depth: int = 12, width: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """What `measure` should find, from the factors alone.

    Exact for ReLU and linear layers. For SiLU, which passes a larger share of a larger
    signal, only in the limit of wide layers, whose variance does not vary by chance.

    Returns:
        As `measure`.
    """
    function = ACTIVATIONS[activation]
    of_weights = variance(rule, width, width)
    of_biases = of_weights if rule == "PyTorch" else 0.0
    sums, forward, power = [], [], 1.0
    for _ in range(depth):
        sums.append(width * of_weights * power + of_biases)
        power = mean_square(function.value, sums[-1])
        forward.append(power)
    backward, power = [], 1.0
    for of_sums in reversed(sums):
        backward.append(power)
        power *= width * of_weights * mean_square(function.slope, of_sums)
    return np.array(forward), np.array(backward[::-1])


CASES = (
    ("linear", "Glorot"),
    ("ReLU", "Glorot"),
    ("ReLU", "He"),
    ("ReLU", "PyTorch"),
    ("SiLU", "Glorot"),
    ("SiLU", "He"),
    ("SiLU", "PyTorch"),
)


def draw(measured: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]) -> Figure:
    """The figure: mean squares by layer, forward and backward.

    Args:
        measured: What `measure` returns, by activation and rule.
    """
    figure = page.figure(12, 4.6)
    panels = figure.subplots(1, 2, sharex=True)
    colours = {"Glorot": page.ORANGE, "He": page.BLUE, "PyTorch": page.GREEN}
    styles = {"linear": ("s", ":"), "ReLU": ("o", "-"), "SiLU": ("^", "--")}
    for (activation, rule), values in measured.items():
        marker, line = styles[activation]
        for axes, of_layers, expected in zip(
            panels, values, predict(rule, activation, len(values[0])), strict=True
        ):
            layers = np.arange(1, len(of_layers) + 1)
            axes.plot(layers, expected, line, color=colours[rule], linewidth=1.2)
            axes.plot(layers, of_layers, marker, color=colours[rule], markersize=5)
    for axes, title in zip(
        panels,
        ("Forward: the activations", "Backward: the gradient for them"),
        strict=True,
    ):
        axes.set(title=title, xlabel="layer, from the input to the loss", yscale="log")
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="mean square, 1 in the input")
    panels[1].set(ylabel="mean square, 1 in the last layer")
    handles = [
        panels[0].plot([], [], marker + line, color=colours[rule], markersize=5)[0]
        for activation, rule in measured
        for marker, line in [styles[activation]]
    ]
    labels = [f"{activation}, {rule}" for activation, rule in measured]
    figure.legend(handles, labels, loc="outside right center")
    return figure


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables and save the figure."""
    path = page.begin("initialisation", arguments)

    inputs, outputs = 576, 128
    rows = []
    for rule in RULES:
        drawn = (
            weights(rule, inputs, outputs, np.random.default_rng(0)),
            weights_in_keras(rule, inputs, outputs, seed=0),
        )
        rows.append(
            [
                rule,
                f"{variance(rule, inputs, outputs):.6f}",
                *(f"{kernel.var():.6f}" for kernel in drawn),
                *(f"{np.abs(kernel).max() / kernel.std():.2f}" for kernel in drawn),
            ]
        )
    page.table(
        f"Variance of a kernel of {inputs} inputs and {outputs} outputs",
        ["rule", "meant", "NumPy", "Keras", "largest/dev.", "in Keras"],
        rows,
    )

    measured, rows = {}, []
    for activation, rule in CASES:
        forward, backward = measured[activation, rule] = measure(rule, activation)
        expected_forward, expected_backward = predict(rule, activation)
        rows.append(
            [
                f"{activation}, {rule}",
                f"{forward[-1]:.1e}",
                f"{expected_forward[-1]:.1e}",
                f"{backward[0]:.1e}",
                f"{expected_backward[0]:.1e}",
            ]
        )
    page.table(
        "Twelve layers: activations of the last, gradient at the first",
        ["activation, rule", "activation²", "expected", "gradient²", "expected"],
        rows,
    )
    page.save(draw(measured), path)


if __name__ == "__main__":
    page.run(main)
