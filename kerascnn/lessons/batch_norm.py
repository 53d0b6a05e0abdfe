"""Batch normalisation, lectures 3 and 4: what does it compute, forward and backward?

In each mini-batch every channel is moved to mean 0 and scaled to deviation 1, then to
a mean (beta) and a deviation (gamma) that are learned. The mean and the variance are
taken over batch, height and width: one of each per channel.

Two slides disagree on the variance they print, the biased one (divided by n) or the
unbiased one (by n - 1): the first table shows both, and sigma, the root of the biased
one. All normalise by the biased one. The other is what PyTorch keeps for evaluation;
Keras keeps the biased one. The second table has the outputs with gamma 1 and beta 0.
The slides cut them, and sigma, after two digits where we round. Two slides swap the
names, beta 1 and gamma 0: that layer would answer 1 to everything.

"No bias needed when using BN", a slide says. Look in the third table at the bias before
the layer: the mean takes it away again, and so its gradient is 0. But the course's code
has a ReLU between the convolution and the layer. There a bias is no longer a mere
shift, it decides what becomes 0; so the code, and ours, keeps the biases.

Look in the fourth, and at the right of the figure, at one picture in the company of
others: what the layer makes of it depends on the mini-batch. That is the noise of
lecture 4; it fades as the batch grows. Try other numbers in `NODE`, or a gamma of 0 in
`backward`.

    python -m kerascnn.lessons.batch_norm
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kerascnn import data
from kerascnn.lessons import page

import keras
import numpy as np
from keras import ops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Lecture 3. One node and six samples, (batch, channels). Where the slides print a
# result and lost the data, these numbers give that result.
NODE = np.array([[2.0], [5], [6], [7], [4], [6]])
ANOTHER_NODE = np.array([[9.0], [3], [1], [6], [4], [7]])

# Images as the slides print them, (batch, channels, height, width), turned into Keras's
# (batch, height, width, channels).
THREE_IMAGES = np.moveaxis(
    np.array([[[[7.0, 5], [0, 4]]], [[[0, 7], [3, 1]]], [[[2, 0], [0, 1]]]]), 1, -1
)
ONE_IMAGE = np.moveaxis(np.array([[[[0.0, 5], [3, 0]], [[7, 2], [0, 3]]]]), 1, -1)

# The slide prints mean [2, 3] and variance [4.0, 3.7], and lost the data. These have
# the biased variance [4, 3.75]; data with the unbiased one [28/7, 26/7] fit as well.
TWO_IMAGES = np.moveaxis(
    np.array(
        [[[[0.0, 4], [0, 4]], [[0, 6], [2, 4]]], [[[0, 4], [0, 4]], [[4, 2], [1, 5]]]]
    ),
    1,
    -1,
)


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and variance of each channel.

    Args:
        x: (batch, channels) or (batch, height, width, channels).

    Returns:
        The mean, the biased variance (divided by n) and the unbiased one (by n - 1),
        n = batch x height x width; (channels,) each.

    Example:
        >>> statistics(ONE_IMAGE)
        (array([2., 3.]), array([4.5, 6.5]), array([6.        , 8.66666667]))
    """
    axes = tuple(range(x.ndim - 1))
    n = x.size // x.shape[-1]
    mean = x.mean(axes)
    biased = ((x - mean) ** 2).mean(axes)
    return mean, biased, biased * n / (n - 1)


def forward(
    x: np.ndarray, gamma: Any = 1.0, beta: Any = 0.0, epsilon: float = 1e-5
) -> np.ndarray:
    """Batch normalisation by hand, as in training.

    Args:
        x: (batch, channels) or (batch, height, width, channels).
        gamma: The new deviation, one number or (channels,).
        beta: The new mean, in the same form.
        epsilon: Keeps a constant channel from a division by 0.

    Returns:
        Shape of `x`.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1; lecture 3.

    Example:
        >>> forward(NODE).ravel().round(2)
        array([-1.84,  0.  ,  0.61,  1.22, -0.61,  0.61])
    """
    mean, variance, _ = statistics(x)
    normalised = (x - mean) / np.sqrt(variance + epsilon)
    return gamma * normalised + beta


def backward(
    gradient: np.ndarray, x: np.ndarray, gamma: Any = 1.0, epsilon: float = 1e-5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of batch normalisation by hand, in the slides' steps.

    Every output of a channel depends on every input of it, through the mean and the
    variance; so each input collects three gradients. They cancel for a common shift of
    the inputs: the gradient of `x`, summed over a channel, is 0.

    Args:
        gradient: The gradient of the loss with respect to the output; shape of `x`.
        x: What `forward` was given.
        gamma: What `forward` was given, as `epsilon`.

    Returns:
        The gradients of `x`, of gamma and of beta; the last two (channels,).

    Source: lecture 4, "backward"; Ioffe and Szegedy 2015, section 3.
    """
    axes = tuple(range(x.ndim - 1))
    n = x.size // x.shape[-1]
    mean, variance, _ = statistics(x)
    deviation = np.sqrt(variance + epsilon)
    normalised = (x - mean) / deviation

    gradient_gamma = (gradient * normalised).sum(axes)
    gradient_beta = gradient.sum(axes)

    of_normalised = gradient * gamma
    of_variance = (of_normalised * (x - mean)).sum(axes) * -0.5 * deviation**-3
    # The variance depends on the mean too, but at the mean its slope is 0.
    of_mean = -of_normalised.sum(axes) / deviation
    gradient_x = (
        of_normalised / deviation + of_variance * 2 * (x - mean) / n + of_mean / n
    )
    return gradient_x, gradient_gamma, gradient_beta


def backward_by_autodiff(
    gradient: np.ndarray,
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    epsilon: float = 1e-5,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same gradients, by JAX, of the same function written in keras.ops.

    Returns:
        As `backward`, float32.

    Raises:
        UsageError: Keras does not run on JAX.
    """
    page.needs_jax("batch_norm")
    import jax

    def forward_in_keras(x: Any, gamma: Any, beta: Any) -> Any:
        axes = tuple(range(len(x.shape) - 1))
        mean: Any = ops.mean(x, axes)
        variance: Any = ops.var(x, axes)
        return gamma * (x - mean) / ops.sqrt(variance + epsilon) + beta

    inputs = [np.float32(value) for value in (x, gamma, beta)]
    _, pull_back = jax.vjp(forward_in_keras, *inputs)
    of_x, of_gamma, of_beta = pull_back(np.float32(gradient))
    return np.asarray(of_x), np.asarray(of_gamma), np.asarray(of_beta)


def variance_kept_by_keras(x: np.ndarray) -> np.ndarray:
    """The variance that Keras's layer keeps for evaluation, after seeing one batch.

    Args:
        x: (batch, channels) or (batch, height, width, channels).

    Returns:
        (channels,) float32. With momentum 0 the layer keeps the last batch's alone.
    """
    layer = keras.layers.BatchNormalization(momentum=0.0, epsilon=1e-5)
    layer(np.float32(x), training=True)
    return np.asarray(ops.convert_to_numpy(layer.moving_variance))


def effect_of_bias(x: np.ndarray, bias: float, relu: bool) -> float:
    """How much a bias before the layer changes its output.

    Args:
        x: (batch, channels), the outputs of a layer without bias.
        bias: What is added to them.
        relu: Whether a ReLU stands between, as in the course: convolution, ReLU,
            BatchNorm.

    Returns:
        The largest change of an output.
    """
    activation = (lambda z: np.maximum(z, 0)) if relu else (lambda z: z)
    change = forward(activation(x + bias)) - forward(activation(x))
    return float(np.abs(change).max())


def in_many_batches(
    sample: np.ndarray, others: np.ndarray, batch_size: int, draws: int, seed: int
) -> np.ndarray:
    """What the layer makes of one image in the company of different others.

    Args:
        sample: (height, width, channels), floats.
        others: (images, height, width, channels), floats.
        batch_size: Images in a mini-batch, the sample among them.
        draws: Number of mini-batches.
        seed: Chooses the company.

    Returns:
        (draws, height, width, channels): the sample's outputs.
    """
    generator = np.random.default_rng(seed)
    outputs = []
    for _ in range(draws):
        company = generator.choice(len(others), batch_size - 1, replace=False)
        batch = np.concatenate([sample[None], others[company]])
        outputs.append(forward(batch)[0])
    return np.stack(outputs)


def draw(spread: dict[int, np.ndarray]) -> Figure:
    """The figure.

    Args:
        spread: For each batch size the outputs of one pixel, (draws,).
    """
    figure = page.figure(13, 4)
    examples, bias, noise = figure.subplots(1, 3)

    sample = np.arange(1, len(NODE) + 1)
    examples.axhline(0, color=page.GREY, linewidth=0.8)
    examples.plot(
        sample, NODE, "o--", color=page.GREY, label="x: mean 5, deviation 1.63"
    )
    examples.plot(
        sample,
        forward(NODE),
        "o-",
        color=page.BLUE,
        label="gamma 1, beta 0: mean 0, deviation 1",
    )
    examples.plot(
        sample,
        forward(NODE, gamma=0.5, beta=3),
        "o-",
        color=page.ORANGE,
        label="gamma 0.5, beta 3: mean 3, deviation 0.5",
    )
    examples.set(
        title="The slides' node",
        xlabel="sample of the mini-batch",
        ylabel="value",
        ylim=(-2.5, 11),
    )
    examples.legend(loc="upper left")

    shifts = np.linspace(-2, 2, 81)
    outputs = np.random.default_rng(0).normal(size=(256, 1))
    for relu, color, label in (
        (False, page.BLUE, "convolution, BatchNorm"),
        (True, page.ORANGE, "convolution, ReLU, BatchNorm"),
    ):
        changes = [effect_of_bias(outputs, shift, relu) for shift in shifts]
        bias.plot(shifts, changes, color=color, label=label)
    bias.set(
        title="A bias before the layer",
        xlabel="bias of the convolution",
        ylabel="largest change of an output",
    )
    bias.legend()

    noise.boxplot(
        list(spread.values()),
        tick_labels=[str(size) for size in spread],
        medianprops={"color": page.ORANGE},
        showfliers=False,
    )
    noise.set(
        title="The same pixel in 50 mini-batches",
        xlabel="images in the mini-batch",
        ylabel="output of the layer",
    )
    for axes in (examples, bias, noise):
        axes.grid(alpha=0.3)
    return figure


def differences() -> list[list[str]]:
    """Return how far the gradients are from autodiff's, and what they must give."""
    x = np.random.default_rng(0).normal(2, 3, size=(8, 4, 4, 2))
    gradient = np.random.default_rng(1).normal(size=x.shape)
    gamma, beta = np.array([0.5, 2.0]), np.array([1.0, -1.0])
    by_hand = backward(gradient, x, gamma)
    by_autodiff = backward_by_autodiff(gradient, x, gamma, beta)
    mean, variance, _ = statistics(x)
    identity = forward(x, np.sqrt(variance + 1e-5), mean)
    node = np.random.default_rng(0).normal(size=(256, 1))
    rows = [
        [f"gradient of {name}: by hand - by autodiff", _size(hand - auto)]
        for name, hand, auto in zip(
            ("x", "gamma", "beta"), by_hand, by_autodiff, strict=True
        )
    ]
    return [
        *rows,
        ["gamma = sigma, beta = mean: output - input", _size(identity - x)],
        ["gradient of a bias before BatchNorm - 0", _size(by_hand[0].sum((0, 1, 2)))],
        [
            "output with bias 1 before BatchNorm - without",
            f"{effect_of_bias(node, 1, False):.1e}",
        ],
        [
            "output with bias 1 before ReLU, BatchNorm - without",
            f"{effect_of_bias(node, 1, True):.2f}",
        ],
    ]


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables and save the figure."""
    page.needs_jax("batch_norm")
    path = page.begin("batch_norm", arguments)

    rows = []
    for name, x, printed in (
        ("node", NODE, "sigma 1.63"),
        ("node 2", ANOTHER_NODE, "sigma 2.64"),
        ("3 images", THREE_IMAGES, "6.58"),
        ("1 image", ONE_IMAGE, "6.0 8.67"),
        ("2 images", TWO_IMAGES, "4.0 3.7"),
    ):
        mean, *variances = statistics(x)
        variances.append(variance_kept_by_keras(x))
        means = " ".join(f"{value:g}" for value in mean)
        sigma = _few(np.sqrt(variances[0]))
        rows.append([name, means, sigma, *map(_few, variances), printed])
    page.table(
        "Mean, sigma and variance of each channel: over n, over n - 1, kept by Keras",
        ["slide", "mean", "sigma", "/n", "/(n-1)", "Keras", "printed"],
        rows,
    )

    three, one = forward(THREE_IMAGES), forward(ONE_IMAGE)
    page.table(
        "Outputs: two nodes, the three images, the two channels of one image",
        ["slide", "output", "slide prints"],
        [
            [name, _few(values.ravel()), printed]
            for name, values, printed in (
                ("node", forward(NODE), "-1.83 0 .61 1.22 -.61 .61"),
                # The signs on this slide are lost.
                ("node 2", forward(ANOTHER_NODE), "± 1.51 .75 1.51 .37 .37 .75"),
                ("image 1", three[0], "1.75 .97 -.97 .58"),
                ("image 2", three[1], "-.97 1.75 .19 -.58"),
                ("image 3", three[2], "-.19 -.97 -.97 -.58"),
                ("channel 1", one[..., 0], "-.94 1.41 .47 -.94"),
                ("channel 2", one[..., 1], "1.56 -.39 -1.17 0"),
            )
        ],
    )

    page.table(
        "Forward and backward", ["compared", "largest difference"], differences()
    )

    images = data.load("cifar10", data="sample").train.images / np.float32(255)
    outputs = {
        size: in_many_batches(images[0], images[1:], size, draws=50, seed=0)
        for size in (4, 16, 64, 256)
    }
    pixel = {size: values[:, 16, 16, 0] for size, values in outputs.items()}
    page.table(
        "Red in the middle of one image, in 50 mini-batches",
        ["images in the mini-batch", "mean output", "deviation"],
        [
            [str(size), f"{values.mean():.3f}", f"{values.std():.3f}"]
            for size, values in pixel.items()
        ],
    )
    page.save(draw(pixel), path)


def _few(values: np.ndarray) -> str:
    # + 0: without it a sum that rounding left just below 0 shows as -0.00.
    return " ".join(f"{value.round(2) + 0:.2f}" for value in values)


def _size(values: np.ndarray) -> str:
    return f"{np.abs(values).max():.1e}"


if __name__ == "__main__":
    page.run(main)
