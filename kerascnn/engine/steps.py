"""What the engines share of a training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def build_metrics(model: keras.Model) -> None:
    """Make the metrics of a compiled model of logits; Keras does at their first use."""
    from keras import ops

    logits = ops.zeros((1, model.output_shape[-1]))
    model.compute_metrics(None, ops.zeros((1,), "int32"), logits)
    model.reset_metrics()
