"""What a network's kernels compute for one image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import keras


def multiplications(model: keras.Model) -> list[int]:
    """Count, for each kernel, its multiplications in one image's forward pass."""
    return [
        math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
        for layer in _with_kernels(model)
    ]


def results(model: keras.Model) -> list[int]:
    """Count, for each kernel, the numbers that one image's forward pass makes."""
    # A layer used twice counts once.
    return [math.prod(layer.output.shape[1:]) for layer in _with_kernels(model)]


def training_operations(model: keras.Model) -> int:
    """Count the floating-point operations of one training step on one image.

    A multiplication and an addition for each weight and place it is used at, three
    times: forward, the gradient of the inputs, the gradient of the weights. The first
    layer needs no gradient of its inputs. Everything else is left out.
    """
    counts = multiplications(model)
    return 2 * (3 * sum(counts) - sum(counts[:1]))


def _with_kernels(model: keras.Model) -> Iterator[keras.Layer]:
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _with_kernels(layer)
        elif getattr(layer, "kernel", None) is not None:
            yield layer
