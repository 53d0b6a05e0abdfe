"""Optimisers, weight decay and learning-rate decay with PyTorch's meaning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kerascnn import UsageError


def adam(learning_rate: float, epsilon: float = 1e-8) -> keras.Optimizer:
    """Return `torch.optim.Adam(parameters, learning_rate, eps=epsilon)` for Keras.

    Args:
        learning_rate: The step size.
        epsilon: Added to the root of the mean square; 1e-8 as in PyTorch, where Keras
            has 1e-7 and adds it before the bias correction (see `Adam`).

    Example:
        >>> model.compile(optimizer=optim.adam(1e-3), loss="mse")
    """
    return Adam(learning_rate, epsilon=epsilon)


@keras.saving.register_keras_serializable("kerascnn")
class Adam(keras.optimizers.Adam):
    """Keras's Adam with epsilon where Kingma and Ba (2015), and PyTorch, have it.

    Both keep the same two averages, m and v. PyTorch, step t, as algorithm 1 of the
    paper: `m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon)`. Keras takes the paper's
    shortcut, which leaves epsilon out of the correction by b2, so in the first steps it
    weighs up to 30 times as much.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        step = ops.cast(self.iterations + 1, variable.dtype)
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        # 1 - beta^t; written out, float32 would lose four of its seven digits.
        correction_1 = -ops.expm1(step * math.log(self.beta_1))
        correction_2 = -ops.expm1(step * math.log(self.beta_2))
        root = ops.sqrt(v) / ops.sqrt(correction_2)
        rate = rate / correction_1
        self.assign_sub(variable, rate * m / (root + self.epsilon))


def weight_decay(factor: float) -> keras.regularizers.Regularizer:
    """Return the L2 penalty whose gradient is PyTorch's `weight_decay=factor`.

    PyTorch's optimisers add `factor * w` to the gradient: the gradient of
    `factor / 2 * w^2`. Keras's `L2(l)` is `l * w^2`, hence the half. PyTorch decays
    every parameter; as a `kernel_regularizer` this decays the kernels alone.

    Args:
        factor: PyTorch's `weight_decay`, such as 5e-4.

    Source: lecture 4, trick 4.

    Example:
        >>> layers.Conv2D(32, 3, kernel_regularizer=optim.weight_decay(5e-4))
    """
    return keras.regularizers.L2(factor / 2)


class ExponentialDecay(keras.callbacks.Callback):
    """Multiply the learning rate by `gamma` after every epoch.

    As `torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)`, stepped once an
    epoch: epoch k, counted from 0, trains at `learning_rate * gamma**k`. Keras's
    schedule of the same name counts steps instead. The rate is computed anew for each
    epoch, so a run that begins at a later `initial_epoch`, with the optimiser's first
    learning rate, trains at the same rates.

    Args:
        gamma: The factor, above 0.
        learning_rate: The first epoch's; by default the optimiser's when training
            begins.

    Source: lecture 4, trick 6.

    Example:
        >>> model.fit(images, labels, callbacks=[optim.ExponentialDecay(gamma=0.96)])
    """

    def __init__(self, gamma: float, learning_rate: float | None = None):
        super().__init__()
        if not gamma > 0:
            raise ValueError(f"`gamma` must be above 0. Received: gamma={gamma}")
        self.gamma = gamma
        self.learning_rate = learning_rate

    def get_config(self) -> dict[str, Any]:
        return {"gamma": self.gamma, "learning_rate": self.learning_rate}

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        optimizer = self.model.optimizer
        if isinstance(
            getattr(optimizer, "_learning_rate", None),
            keras.optimizers.schedules.LearningRateSchedule,
        ):
            raise UsageError(
                "ExponentialDecay sets the learning rate of each epoch, and this "
                "optimiser follows a schedule of its own: give it a number instead."
            )
        if self.learning_rate is None:
            # Rounded to the 7 digits of float32: 0.001, not 0.0010000000474974513.
            rate = float(ops.convert_to_numpy(optimizer.learning_rate))
            self.learning_rate = float(f"{rate:.7g}")

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        assert self.learning_rate is not None
        self.model.optimizer.learning_rate = self.learning_rate * self.gamma**epoch
