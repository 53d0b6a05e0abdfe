"""The `epoch` engine's compiled step on batches that come as a stream, for JAX.

The images are not on the device, nor in memory: processes decode them, batch after
batch, in the order that seed and epoch decide (`data.batches`). While a step is
computed, the next batch goes to the device. The step is the one that `epoch` compiles,
given a batch for its images, so that the losses are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import keras
import numpy as np

from kerascnn.data.batches import Batch, Batches
from kerascnn.engine import epoch, placement
from kerascnn.engine.epoch import Call
from kerascnn.process import hosts

if TYPE_CHECKING:
    from kerascnn.data import Split
    from kerascnn.engine.plan import Plan
    from kerascnn.engine.recorder import Recorder
    from kerascnn.training.autosave import Autosave


def fit(
    model: keras.Model,
    train: Split,
    test: Split,
    plan: Plan,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    autosave: Autosave | None = None,
    recorder: Recorder | None = None,
    admit: Callable[[int], object] | None = None,
) -> None:
    """Train a compiled model as `epoch.fit` does, on images that are read meanwhile.

    Memory holds a few batches. `plan.workers` processes decode, and no bit of the
    training depends on their number.
    """
    loop = Loop(model, train, test, plan, callbacks, 1, autosave, recorder, admit)
    with contextlib.closing(loop):
        loop.run()


class Loop(epoch.Loop):
    """One training on a stream."""

    def place(self, train: Split, test: Split) -> None:
        plan = self.plan
        calls = epoch.evaluation_calls(len(test), plan.batch_size)
        self.batches = Batches(
            *(train, test, plan.seed, plan.epochs, plan.batch_size, plan.drop_last),
            evaluated=tuple(calls),
            workers=plan.workers,
            share=(hosts.index(), hosts.number()),
        )

    def training_calls(self, epoch: int, together: int = 0) -> Iterator[Call]:
        return map(self._call, self.batches.training(epoch, self.done))

    def evaluation_calls(self, epoch: int, images: int) -> Iterator[Call]:
        whole = images == self.images[1]
        batches = self.batches.evaluation(epoch)
        yield from map(self._call, batches if whole else islice(batches, 1))

    def _call(self, batch: Batch) -> Call:
        # Of several processes each reads its share. Images, uint8, are few bytes beside
        # the gradients that every step sends.
        images, labels = hosts.together(batch) if hosts.is_joined() else batch
        every = np.arange(len(images), dtype="int32")[None]
        arrays = placement.copied(self.mesh, (images, labels))
        return *arrays, placement.cut(self.mesh, every, self.fill)

    def close(self) -> None:
        """End the processes that decode."""
        self.batches.close()
