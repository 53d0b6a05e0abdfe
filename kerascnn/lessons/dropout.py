"""Dropout, lecture 4: what happens to a layer whose nodes are switched off at random?

In training, each output of the layer is set to zero with probability `rate`, drawn anew
for every step, and the others are divided by 1 - rate, so that on average the next
layer receives what it received before. No node can rely on a certain other node being
there. In evaluation nothing happens. The backward pass multiplies the gradient by the
same mask.

The slide's NumPy class has the same forward and backward pass, but its `prob` is the
probability to KEEP a node, where `keras.layers.Dropout` and PyTorch's `nn.Dropout` take
the probability to drop one: the two agree at 0.5 only, as the first table shows. It has
no evaluation mode either. The second table holds the passes by hand against Keras.

The figure: the same hidden layer before dropout, in two training steps and in
evaluation; below, the sum over its nodes in many steps. The mean stays, the noise grows
with the rate. Try 0.95 in place of 0.8 in `RATES`: what does the next layer still learn
from?

    python -m kerascnn.lessons.dropout
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kerascnn.lessons import page

import keras
import numpy as np
from keras import ops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (0.1, 0.3, 0.5, 0.8)


def mask_keeping(prob: float, shape: Sequence[int], rng: np.random.Generator):
    """Draw the slide's mask: `prob` is the probability to keep a node.

    Args:
        prob: in 0..1, more than 0.
        shape: of the layer's output.
        rng: NumPy's generator.

    Returns:
        float64 of that shape: 1/prob where a node is kept, 0 where it is dropped.
    """
    return rng.binomial(1, prob, size=shape) / prob


def mask_dropping(rate: float, shape: Sequence[int], rng: np.random.Generator):
    """Draw the mask as Keras and PyTorch mean it: `rate` is the probability to drop.

    Args:
        rate: in 0..1, less than 1.
        shape: of the layer's output.
        rng: NumPy's generator.

    Returns:
        float64 of that shape: 1/(1 - rate) where a node is kept, 0 where it is dropped.
    """
    return mask_keeping(1 - rate, shape, rng)


def forward(x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Apply a mask in training; without one, in evaluation, the layer does nothing."""
    return x if mask is None else x * mask


def backward(upstream: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The gradient for x from the gradient for the output, in the same step."""
    return upstream if mask is None else upstream * mask


def keras_mask(rate: float, shape: Sequence[int], seed: int) -> np.ndarray:
    """The mask that `keras.random.dropout` draws: what it makes of ones."""
    return np.asarray(
        ops.convert_to_numpy(keras.random.dropout(ops.ones(shape), rate, seed=seed))
    )


def keras_backward(x: np.ndarray, upstream: np.ndarray, rate: float, seed: int) -> Any:
    """The gradient of sum(upstream * dropout(x)) for x, by automatic differentiation.

    Needs the JAX backend.
    """
    import jax

    def weighted_sum(x):
        return ops.sum(upstream * keras.random.dropout(x, rate, seed=seed))

    return np.asarray(jax.grad(weighted_sum)(ops.convert_to_tensor(x)))


def noise(x: np.ndarray, rate: float) -> float:
    """Standard deviation of the sum of a layer's outputs under dropout.

    Each term is x/(1 - rate) with probability 1 - rate, else 0: its variance is
    x^2 rate/(1 - rate), and the terms are independent.

    Args:
        x: the outputs before dropout, any shape.
        rate: the probability to drop.
    """
    return float(np.sqrt(rate / (1 - rate) * np.sum(np.square(x))))


def main(arguments: Sequence[str] = ()) -> None:
    """Print the two meanings of the argument and the comparison; save the figure."""
    page.needs_jax("dropout")
    path = page.begin("dropout", arguments)
    rng = np.random.default_rng(0)
    # One hundred nodes after ReLU: about half of them are silent anyway.
    layer = np.maximum(rng.normal(size=(10, 10)), 0).astype("float32")
    sums = {
        rate: (layer * mask_dropping(rate, (4000, 10, 10), rng)).sum(axis=(1, 2))
        for rate in RATES
    }
    rows = []
    for rate in RATES:
        slide = mask_keeping(rate, (100, 100), rng)
        library = keras_mask(rate, (100, 100), seed=1)
        rows.append(
            [
                rate,
                f"{np.mean(slide == 0):.1%} (x {slide.max():.2f})",
                f"{np.mean(library == 0):.1%} (x {library.max():.2f})",
                f"{sums[rate].mean():.1f} ± {sums[rate].std():.1f}",
                f"{layer.sum():.1f} ± {noise(layer, rate):.1f}",
            ]
        )
    page.table(
        "Nodes set to zero (factor for the others); the sum over a layer",
        ["p", "slide, prob=p", "Keras, rate=p", "sum, rate=p", "expected"],
        rows,
    )

    upstream = rng.normal(size=layer.shape).astype("float32")
    mask = keras_mask(0.5, layer.shape, seed=1)
    trained = keras.random.dropout(layer, 0.5, seed=1)
    evaluated = keras.layers.Dropout(0.5)(layer, training=False)
    page.table(
        "By hand against Keras",
        ["pass, rate 0.5, one mask", "largest difference"],
        [
            ["forward, training", _difference(forward(layer, mask), trained)],
            ["forward, evaluation", _difference(forward(layer, None), evaluated)],
            [
                "backward, training",
                _difference(
                    backward(upstream, mask), keras_backward(layer, upstream, 0.5, 1)
                ),
            ],
        ],
    )
    steps = [
        forward(layer, mask_dropping(0.5, layer.shape, np.random.default_rng(seed)))
        for seed in (1, 2)
    ]
    page.save(_draw(layer, steps, sums), path)


def _difference(hand: np.ndarray, library: Any) -> str:
    return f"{np.abs(hand - np.asarray(ops.convert_to_numpy(library))).max():.1e}"


def _draw(
    layer: np.ndarray, steps: list[np.ndarray], sums: dict[float, np.ndarray]
) -> Figure:
    figure = page.figure(10, 7)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    upper, lower = halves
    upper.suptitle("A hidden layer of 100 nodes, dropout 50%")
    axes = upper.subplots(1, 4)
    for axis, title, values in zip(
        axes,
        ("before dropout", "training, step 1", "training, step 2", "evaluation"),
        (layer, *steps, layer),
        strict=True,
    ):
        picture = axis.imshow(values, cmap="viridis", vmin=0, vmax=steps[0].max())
        dropped = np.argwhere((values == 0) & (layer > 0))
        if len(dropped):
            axis.plot(
                *dropped.T[::-1], "x", color=page.ORANGE, markersize=5, label="dropped"
            )
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), frameon=False)
    upper.colorbar(picture, ax=axes, label="output of the node", shrink=0.75)

    axis = lower.subplots()
    colours = (page.GREEN, page.GREY, page.BLUE, page.ORANGE)
    for (rate, values), colour in zip(sums.items(), colours, strict=True):
        axis.hist(
            values,
            bins=np.linspace(0, 2 * layer.sum(), 81),
            histtype="step",
            linewidth=1.5,
            color=colour,
            label=f"rate {rate}",
        )
    axis.axvline(layer.sum(), color="black", linewidth=1, label="without dropout")
    axis.set_title("The mean stays, the noise grows: the sum over the layer's nodes")
    axis.set_xlabel("sum of the 100 outputs")
    axis.set_ylabel("training steps, of 4,000")
    axis.legend()
    return figure


if __name__ == "__main__":
    page.run(main)
