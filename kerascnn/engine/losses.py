"""The loss that a training lowers: cross-entropy, with smoothed labels or without."""

from __future__ import annotations

from typing import Any

import keras

# Keras's operations have no types of their own: pyright would take many for None.
ops: Any = keras.ops


def crossentropy(labels: Any, logits: Any, smoothing: float = 0.0) -> Any:
    """Return each example's cross-entropy with its label, `(batch,)`.

    Args:
        labels: Classes, integers `(batch,)`.
        logits: Floats `(batch, classes)`.
        smoothing: The share of a label that all classes have alike, 0 to 1.
    """
    entropy = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    if not smoothing:
        return entropy
    # The cross-entropy with a label that all classes share.
    spread = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
    return (1 - smoothing) * entropy + smoothing * spread


@keras.saving.register_keras_serializable("kerascnn")
class SmoothedCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy of logits with smoothed labels, the mean over a batch.

    `torch.nn.CrossEntropyLoss(label_smoothing=...)`. Keras smooths one-hot labels
    alone, and the labels here are integers.

    Args:
        label_smoothing: The share of a label that all classes have alike, 0 to 1.

    Example:
        >>> SmoothedCrossentropy(0.1)([1], [[0.0, 3.0]])
    """

    def __init__(self, label_smoothing: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return crossentropy(y_true, y_pred, self.label_smoothing)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"label_smoothing": self.label_smoothing}


def smoothing_of(model: Any) -> float:
    """Return the label smoothing that a model was compiled with."""
    loss = getattr(model, "loss", None)
    return loss.label_smoothing if isinstance(loss, SmoothedCrossentropy) else 0.0
