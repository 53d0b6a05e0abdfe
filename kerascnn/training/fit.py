"""The reference engine: `keras.Model.fit`, on any backend."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from kerascnn import data

if TYPE_CHECKING:
    from kerascnn.data import Split


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to go through the training set.

    Args:
        epochs: Passes over the training set.
        batch_size: Images a step.
        seed: Decides, with the epoch's number, the order of the images.
        drop_last: Leave out an epoch's last batch when it is smaller.
        initial_epoch: The epoch to begin with, counted from 0.
    """

    epochs: int
    batch_size: int
    seed: int
    drop_last: bool = False
    initial_epoch: int = 0

    def steps(self, images: int) -> int:
        """Return the number of steps an epoch over so many images takes."""
        full, rest = divmod(images, self.batch_size)
        return full if self.drop_last or not rest else full + 1


class Batches(keras.utils.PyDataset):
    """Batches of one split for `fit`, in an order that seed and epoch decide.

    Args:
        split: The images and labels.
        plan: The order and size of the batches. Without one, the batches follow the
            split's order and hold every example exactly once, as evaluation wants it.
        batch_size: Images a batch where there is no plan.
    """

    def __init__(self, split: Split, plan: Plan | None = None, batch_size: int = 1000):
        super().__init__()
        self.split = split
        self.plan = plan
        self.batch_size = plan.batch_size if plan else batch_size
        self.epoch = plan.initial_epoch if plan else 0
        self._order = self._make_order()

    def __len__(self) -> int:
        if self.plan:
            return self.plan.steps(len(self.split))
        return -(-len(self.split) // self.batch_size)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._order[step * self.batch_size : (step + 1) * self.batch_size]
        return self.split.images[chosen], self.split.labels[chosen]

    def on_epoch_end(self) -> None:
        """Move on to the order of the next epoch."""
        self.epoch += 1
        self._order = self._make_order()

    def _make_order(self) -> np.ndarray:
        if self.plan is None:
            return np.arange(len(self.split))
        return data.order(self.plan.seed, self.epoch, len(self.split))


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
    model.fit(
        Batches(train, plan),
        epochs=plan.epochs,
        initial_epoch=plan.initial_epoch,
        validation_data=Batches(test),
        shuffle=False,  # the order is ours: Keras's depends on global state
        callbacks=list(callbacks),
        verbose=0,  # type: ignore[arg-type]
    )
