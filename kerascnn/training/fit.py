"""The reference engine: `keras.Model.fit`, on any backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerascnn import data

if TYPE_CHECKING:
    from kerascnn.data import Split
    from kerascnn.training.plan import Plan


class Batches(keras.utils.PyDataset):
    """Batches of one split for `fit`, in an order that seed and epoch decide.

    Args:
        split: The images and labels.
        plan: The order and size of the batches. Without one, the batches follow the
            split's order and hold every example exactly once, as evaluation wants it.
        batch_size: Images a batch where there is no plan.
    """

    def __init__(self, split: Split, plan: Plan | None = None, batch_size: int = 256):
        super().__init__()
        self.split = split
        self.plan = plan
        self.batch_size = plan.batch_size if plan else batch_size
        self.begin(plan.initial_epoch if plan else 0)

    def __len__(self) -> int:
        if self.plan:
            return self.plan.steps(len(self.split))
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._order[step * self.batch_size : (step + 1) * self.batch_size]
        return self.split.images[chosen], self.split.labels[chosen]

    def begin(self, epoch: int) -> None:
        """Take the order of an epoch, counted from 0."""
        images = len(self.split)
        self._order = (
            data.order(self.plan.seed, epoch, images)
            if self.plan
            else np.arange(images)
        )


class _Order(keras.callbacks.Callback):
    """Tell the batches which epoch begins.

    `PyDataset.on_epoch_end` can't count them: `fit` also calls it before the first
    epoch, when it has looked at a batch to build the model.
    """

    def __init__(self, batches: Batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None):
        self.batches.begin(epoch)


def fit(
    model: keras.Model,
    train: Split,
    test: Split,
    plan: Plan,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Train a compiled model with `keras.Model.fit`; evaluate it after each epoch.

    Args:
        model: A compiled model that takes raw images.
        train: The training set.
        test: The set to evaluate on; its metrics are the logs that begin with `val_`.
        plan: Epochs, batches and their order.
        callbacks: Keras callbacks.
    """
    batches = Batches(train, plan)
    model.fit(
        batches,
        epochs=plan.epochs,
        initial_epoch=plan.initial_epoch,
        validation_data=Batches(test, batch_size=plan.batch_size),
        shuffle=False,  # the order is ours: Keras's depends on global state
        callbacks=[_Order(batches), *callbacks],
        verbose=0,  # type: ignore[arg-type]
    )
