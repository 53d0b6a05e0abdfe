"""The vanishing gradient, lecture 3: why do nine convolutions with sigmoid not learn?

Backpropagation multiplies: on its way from the loss to the first layer the gradient
takes a factor for each activation it passes, the slope of the activation there. The
sigmoid's slope is 1/4 at most, and less away from 0. Nine of them shrink a gradient by
4^9 = 262,144 at least, unless the weights make up for it. ReLU has the slope 1 wherever
it is active.

The first table shows the gradient of each layer's kernel before the first step, for the
lecture's networks of nine convolutions (recipes cifar_sigmoid_9 and cifar_relu_9) on
real images. Read it from the last layer up: each row is one layer closer to the image.

Adam divides every gradient by its usual size. For one of the 1,728 weights in the first
row that is about 1e-8, as large as the epsilon that Adam adds to the divisor; yet its
first step is half a full one, as the second table shows. So Adam nearly makes up for
the size, but not for the direction. What shrinks the gradient on its way back shrinks
the differences between the images on their way forward: the logits differ by 1e-7 from
image to image, float32's rounding. So the loss sends back the same gradient for every
image of a class. In a mini-batch it says which classes are more frequent than the
network expects; in the next one others are. Steps along it teach nothing of images.

In the figure, compare the steepness of the two lines. Try `network("tanh")`, whose
slope is 1 at 0, or `network("silu")`.

    python -m kerascnn.lessons.vanishing_gradient
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


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x), for NumPy."""
    return 1 / (1 + np.exp(-np.asarray(x, float)))


def slope_of_sigmoid(x: Any) -> Any:
    """The derivative of the sigmoid: s(x) (1 - s(x)), 1/4 at 0 and less elsewhere."""
    return sigmoid(x) * (1 - sigmoid(x))


def slope_of_relu(x: Any) -> Any:
    """The derivative of ReLU: 1 for a positive input, else 0."""
    return np.where(np.asarray(x) > 0, 1.0, 0.0)


def slope_of_chain(x: float, weights: Sequence[float], activation: str) -> float:
    """The gradient through a chain of units with one input each, by hand.

    Each unit computes activation(weight * input). The derivative of the last output for
    the first input is a product: for each unit, its weight and its slope.

    Args:
        x: The first input.
        weights: One for each unit.
        activation: "sigmoid" or "relu".

    Example:
        >>> slope_of_chain(0.0, [1.0], "sigmoid")
        0.25
    """
    slope = 1.0
    for weight in weights:
        z = weight * x
        if activation == "sigmoid":
            x, own = sigmoid(z), slope_of_sigmoid(z)
        else:
            x, own = max(z, 0.0), slope_of_relu(z)
        slope *= weight * float(own)
    return slope


def glorot_uniform(shape: Sequence[int], generator: np.random.Generator) -> np.ndarray:
    """Glorot's initial kernel: uniform in +-sqrt(6 / (fan_in + fan_out)).

    Args:
        shape: (..., inputs, outputs); what stands before is the kernel's height and
            width, if any.
        generator: NumPy's. It spares JAX from compiling a draw for each shape.
    """
    places = int(np.prod(shape[:-2]))
    bound = np.sqrt(6 / (places * (shape[-2] + shape[-1])))
    return generator.uniform(-bound, bound, shape)


def network(
    activation: str, widths: Sequence[int] = (64, 128, 256), seed: int = 0
) -> keras.Model:
    """The lecture's network: three blocks of three convolutions, and two dense layers.

    Args:
        activation: Keras's name of it.
        widths: Filters of each block.
        seed: Of the initial weights.

    Returns:
        A model from (32, 32, 3) in 0..1 to 10 logits.
    """
    generator = np.random.default_rng(seed)

    def start(shape: Sequence[int], dtype: Any = None) -> Any:
        return glorot_uniform(shape, generator)

    glorot: Any = start
    image = keras.Input((32, 32, 3))
    x: Any = image
    for block, filters in enumerate(widths):
        for index in range(3):
            x = layers.Conv2D(
                filters,
                3,
                padding="same",
                activation=activation,
                kernel_initializer=glorot,
                name=f"convolution_{3 * block + index + 1}",
            )(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(
        512, activation=activation, kernel_initializer=glorot, name="dense_1"
    )(x)
    logits = layers.Dense(10, kernel_initializer=glorot, name="dense_2")(x)
    return keras.Model(image, logits)


def gradient_norms(
    model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """The size of the loss's gradient for each kernel.

    Args:
        model: From images to logits.
        images: (batch, 32, 32, 3), floats.
        labels: (batch,) integers.

    Returns:
        The root of the sum of squares, by the layer's name, first layer first.

    Raises:
        UsageError: Keras does not run on JAX.
    """
    page.needs_jax("vanishing_gradient")
    import jax

    variables = model.trainable_variables
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def loss(weights: list[Any]) -> Any:
        return crossentropy(labels, model.stateless_call(weights, [], images)[0])

    gradients = jax.jit(jax.grad(loss))([variable.value for variable in variables])
    return {
        variable.path.split("/")[0]: float(np.linalg.norm(np.asarray(gradient)))
        for variable, gradient in zip(variables, gradients, strict=True)
        if variable.name == "kernel"
    }


def first_step_of_adam(gradient: float, epsilon: float = 1e-8) -> float:
    """Adam's first step for one weight, in learning rates.

    The means that Adam keeps are then the gradient itself and its square.

    Example:
        >>> first_step_of_adam(1e-8)
        0.5
    """
    return gradient / (abs(gradient) + epsilon)


def differences_of_logits(
    model: keras.Model, images: np.ndarray
) -> tuple[float, float]:
    """How much the logits differ from class to class, and from image to image.

    Args:
        model: From images to logits.
        images: (batch, 32, 32, 3), floats.

    Returns:
        The deviation among the classes' mean logits; and the deviation of a logit among
        the images, its mean over the classes.
    """
    logits = np.asarray(ops.convert_to_numpy(model(images)))
    return float(logits.mean(0).std()), float(logits.std(0).mean())


def draw(norms: dict[str, dict[str, float]]) -> Figure:
    """The figure: the activations' slopes, and the gradients by layer.

    Args:
        norms: What `gradient_norms` returns, by the activation's name.
    """
    figure = page.figure(11, 4.2)
    slopes, by_layer = figure.subplots(1, 2, width_ratios=[1, 1.6])

    x = np.linspace(-6, 6, 481)
    slopes.plot(x, slope_of_sigmoid(x), color=page.ORANGE, label="sigmoid: 1/4 at most")
    slopes.plot(x, slope_of_relu(x), color=page.BLUE, label="ReLU: 0 or 1")
    slopes.set(
        title="The slope of the activation",
        xlabel="input",
        ylabel="slope",
        ylim=(0, 1.3),
    )
    slopes.legend(loc="upper left")

    for (activation, of_layers), color in zip(
        norms.items(), (page.ORANGE, page.BLUE), strict=True
    ):
        names = list(of_layers)
        by_layer.plot(
            np.arange(1, len(names) + 1),
            list(of_layers.values()),
            "o-",
            color=color,
            label=activation,
        )
    by_layer.axvspan(9.5, 11.5, color=page.GREY, alpha=0.15, linewidth=0)
    by_layer.set(
        title="Gradient of each kernel before the first step",
        xlabel="layer, from the image to the loss",
        ylabel="norm of the gradient",
        yscale="log",
        xlim=(0.5, 11.5),
        xticks=range(1, 12),
    )
    by_layer.legend(loc="lower right")
    for axes in (slopes, by_layer):
        axes.grid(alpha=0.3)
    return figure


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table and save the figure."""
    page.needs_jax("vanishing_gradient")
    path = page.begin("vanishing_gradient", arguments)

    photographs = data.load("cifar10", data="sample").train
    images = photographs.images[:8].astype("float32") / 255
    models = {activation: network(activation) for activation in ("sigmoid", "relu")}
    norms = {
        activation: gradient_norms(model, images, photographs.labels[:8])
        for activation, model in models.items()
    }
    rows = [
        [name, *(f"{size:.1e}" for size in sizes)]
        for name, sizes in zip(
            norms["sigmoid"],
            zip(*(of.values() for of in norms.values()), strict=True),
            strict=True,
        )
    ]
    page.table(
        "Norm of each kernel's gradient",
        ["layer", *norms],
        rows,
    )
    for activation, of_layers in norms.items():
        first, *_, last = of_layers.values()
        page.note(
            f"{activation}: the first layer's is {first / last:.0e} of the last one's"
        )

    weights = 3 * 3 * 3 * 64
    per_weight = [of["convolution_1"] / np.sqrt(weights) for of in norms.values()]
    by_class, by_image = zip(
        *(differences_of_logits(model, images) for model in models.values()),
        strict=True,
    )
    page.table(
        "Adam's first step, and what the logits show of the images",
        ["quantity", *norms],
        [
            [
                "gradient of one weight of the first row",
                *(f"{g:.1e}" for g in per_weight),
            ],
            [
                "Adam's first step with it, in learning rates",
                *(f"{first_step_of_adam(g):.2f}" for g in per_weight),
            ],
            ["logits: deviation among classes", *(f"{d:.1e}" for d in by_class)],
            ["logits: deviation among images", *(f"{d:.1e}" for d in by_image)],
        ],
    )
    page.save(draw(norms), path)


if __name__ == "__main__":
    page.run(main)
