"""The loss that a training lowers: cross-entropy, smoothed, weighted, or neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

# Keras's operations have no types of their own: pyright would take many for None.
ops: Any = keras.ops


def crossentropy(
    labels: Any,
    logits: Any,
    smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> Any:
    """Return each example's cross-entropy with its label, `(batch,)`.

    Args:
        labels: Classes, integers `(batch,)`.
        logits: Floats `(batch, classes)`.
        smoothing: The share of a label that all classes have alike, 0 to 1.
        class_weights: A factor for the examples of each class.
    """
    entropy = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    if smoothing:
        # The cross-entropy with a label that all classes share.
        spread = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
        entropy = (1 - smoothing) * entropy + smoothing * spread
    if class_weights is None:
        return entropy
    weights = ops.convert_to_tensor(list(class_weights), dtype=entropy.dtype)
    return entropy * ops.take(weights, ops.cast(labels, "int32"), axis=0)


@keras.saving.register_keras_serializable("kerascnn")
class SmoothedCrossentropy(keras.losses.Loss):
    """Softmax cross-entropy of logits, smoothed and weighted, the mean over a batch.

    `torch.nn.CrossEntropyLoss(label_smoothing=...)`. Keras smooths one-hot labels
    alone, and the labels here are integers. Weights do what `class_weight` does in
    `keras.Model.fit`: the mean is over images, not over weights.

    Args:
        label_smoothing: The share of a label that all classes have alike, 0 to 1.
        class_weights: A factor for the examples of each class.

    Example:
        >>> SmoothedCrossentropy(0.1)([1], [[0.0, 3.0]])
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing
        self.class_weights = class_weights and [float(x) for x in class_weights]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        labels = ops.reshape(y_true, (-1,))  # Keras may give (batch, 1)
        return crossentropy(labels, y_pred, self.label_smoothing, self.class_weights)

    def get_config(self) -> dict[str, Any]:
        own = {"label_smoothing": self.label_smoothing}
        return super().get_config() | own | {"class_weights": self.class_weights}


def settings_of(model: Any) -> tuple[float, list[float] | None]:
    """Return the label smoothing and the class weights a model was compiled with."""
    loss = getattr(model, "loss", None)
    if isinstance(loss, SmoothedCrossentropy):
        return loss.label_smoothing, loss.class_weights
    return 0.0, None
