"""What both sides share in a step: learning rate, Dropout's masks, sides of kinks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch

from kerascnn.parity.keras_step import KerasTrainer
from kerascnn.parity.torch_step import Branches, TorchTrainer
from kerascnn.recipe import Recipe


class Rates:
    """Keras's learning rate: the callbacks, called as training calls them."""

    def __init__(self, recipe: Recipe, keras_trainer: KerasTrainer):
        self.callbacks = recipe.callbacks()
        self.keras_trainer = keras_trainer
        self.epoch = -1
        self.batch = 0
        self.logs: dict[str, float] = {}
        model = keras_trainer.model
        # The callbacks look for the optimiser where a compiled model has it.
        model.optimizer = keras_trainer.optimizer
        for callback in self.callbacks:
            callback.set_model(model)
            callback.on_train_begin()

    def begin(self, epoch: int) -> None:
        """Tell the callbacks that a step of an epoch, counted from 0, begins."""
        if epoch != self.epoch:
            if self.epoch >= 0:
                self._call("on_epoch_end", self.epoch, self.logs)
            self.epoch, self.batch = epoch, 0
            self._call("on_epoch_begin", epoch)
        self._call("on_train_batch_begin", self.batch)

    def end(self, loss: float) -> None:
        """Tell them that it has ended, with this loss."""
        self.logs = {"loss": loss}
        self._call("on_train_batch_end", self.batch, self.logs)
        self.batch += 1

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments)

    def difference(self, torch_trainer: TorchTrainer) -> float | None:
        """Return the relative difference of this rate and the twin's.

        None where optax keeps the rates to itself: they show in the losses.
        """
        rate = self.keras_trainer.learning_rate()
        return None if rate is None else abs(rate / torch_trainer.learning_rate - 1)


class Dice:
    """A new network's next Dropout masks, drawn as its layers will draw them."""

    def __init__(self, network: keras.Model):
        self.layers = [x for x in network.layers if isinstance(x, keras.layers.Dropout)]
        self.states = [
            keras.ops.convert_to_numpy(x.seed_generator.state) for x in self.layers
        ]
        # Made as the layers' own: on PyTorch, Keras rolls the global dice of a layer
        # that was given no seed.
        self.generators = [keras.random.SeedGenerator(x.seed) for x in self.layers]

    def masks(self, batch: int) -> list[np.ndarray]:
        """Draw what each layer keeps next: booleans, `(batch, channels, ...)`."""
        found, before = [], torch.get_rng_state()
        for i, layer in enumerate(self.layers):
            self.generators[i].state.assign(self.states[i])
            self.states[i] = self.states[i] + np.array([0, 1], self.states[i].dtype)
            # In memory as PyTorch's pooling leaves them: its dice follow the memory.
            *places, channels = layer.output.shape[1:]
            ones = keras.ops.ones((batch, channels, *places), "float32")
            ones = keras.ops.moveaxis(ones, 1, -1)
            kept = keras.random.dropout(ones, layer.rate, seed=self.generators[i])
            mask = keras.ops.convert_to_numpy(kept) != 0
            found.append(np.moveaxis(mask, -1, 1))
        torch.set_rng_state(before)
        return found


def branches(
    watched: list[tuple[keras.layers.Layer, str]],
    outputs: dict[keras.layers.Layer, np.ndarray],
) -> Branches:
    """Return which side of their kinks Keras's layers were on."""
    relus, pools = [], []
    for layer, _ in watched:
        if getattr(layer, "activation", None) is keras.activations.relu:
            relus.append(outputs[layer] > 0)
        if isinstance(layer, keras.layers.MaxPooling2D):
            x = outputs.get(layer.input._keras_history.operation)
            pools.append(None if x is None else largest(x, layer.pool_size[0]))
    return Branches(relus, pools)


def largest(x: np.ndarray, side: int = 2) -> np.ndarray:
    """Return which of each square window's values is the largest, counted in rows."""
    n, height, width, channels = x.shape
    height, width = height // side, width // side
    x = x[:, : side * height, : side * width]
    x = x.reshape(n, height, side, width, side, channels)
    windows = x.transpose(0, 1, 3, 5, 2, 4).reshape(n, height, width, channels, -1)
    return windows.argmax(-1)
