"""What an epoch's images are summed to, and reported as a mean, for JAX."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from kerascnn.engine import losses

# By their names: loss, accuracy, cross-entropy, and how many images they are of.
Sums = dict[str, Any]


def measure(
    logits: jax.Array,
    labels: jax.Array,
    penalties: list,
    smoothing: float,
    class_weights: list[float] | None,
    counted: jax.Array | None = None,
) -> Sums:
    """Sum over a batch what is reported as a mean over an epoch."""

    def of_counted(each: jax.Array) -> jax.Array:
        return each if counted is None else jnp.where(counted, each, 0)

    logits = logits.astype("float32")  # as Keras's losses do under mixed precision
    entropy = of_counted(losses.crossentropy(labels, logits))
    images = (
        jnp.float32(len(labels)) if counted is None else counted.sum(dtype="float32")
    )
    total = entropy.sum().astype("float32")  # Keras computes in float64 with x64
    lowered = total
    if smoothing or class_weights:
        each = losses.crossentropy(labels, logits, smoothing, class_weights)
        lowered = of_counted(each).sum().astype("float32")
    right = of_counted(logits.argmax(-1) == labels)
    return {
        "loss": lowered + images * jnp.float32(sum(penalties)),
        "accuracy": right.sum(dtype="float32"),
        "crossentropy": total,
        "images": images,
    }


# What is measured, in the order of the metrics of `training.build.compile_model`.
MEASURED = ("loss", "accuracy", "crossentropy")


def zeros() -> Sums:
    """Return sums of no image yet."""
    # Four arrays of their own: one array given away twice would be an error.
    return {name: jnp.zeros((), "float32") for name in (*MEASURED, "images")}


def means(sums: Sums) -> dict[str, float]:
    """Return what is reported: means over the images."""
    sums = jax.device_get(sums)
    # Where every step was left out, there is nothing to take a mean of.
    images = float(sums["images"]) or float("nan")
    return {name: float(sums[name]) / images for name in MEASURED}


def _metrics(model: keras.Model) -> Iterator[tuple[str, Any, Any]]:
    """Give name, total and count of each Keras metric: variables, float32 `()`."""
    variables: list[Any] = model.metrics_variables
    return zip(MEASURED, variables[::2], variables[1::2], strict=False)


def read_metrics(model: keras.Model) -> Sums:
    """Return the sums that the model's metrics hold: zeros, or a callback's."""
    # Copies: the first step is given the arrays.
    sums = {name: np.array(total) for name, total, _ in _metrics(model)}
    images = np.array(next(count for *_, count in _metrics(model)))
    return {
        name: jnp.array(value) for name, value in (sums | {"images": images}).items()
    }


def write_metrics(model: keras.Model, sums: Sums) -> None:
    """Put sums into the model's metrics, for callbacks to read."""
    sums = jax.device_get(sums)
    for name, total, count in _metrics(model):
        total.assign(sums[name])
        count.assign(sums["images"])


def in_order(sums: Sums) -> list[jax.Array]:
    """Return the sums in the order of their names."""
    return [sums[name] for name in sorted(sums)]
