"""Keras's side of the comparison: training steps that show everything, per backend."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerascnn import optim
from kerascnn.engine.losses import crossentropy
from kerascnn.engine.steps import LossOf, gradients


@dataclasses.dataclass
class Step:
    """What a step computed before its update; `crossentropy` is without penalties."""

    outputs: Sequence[Any]
    crossentropy: Any
    gradients: Sequence[Any]


class KerasTrainer:
    """A Keras network that trains step by step and shows what it computes."""

    def __init__(
        self,
        network: keras.Model,
        watched: Sequence[keras.layers.Layer],
        optimizer: keras.Optimizer,
        accelerate: bool,
        smoothing: float = 0.0,
    ):
        self.smoothing = smoothing
        outputs = [*(layer.output for layer in watched), network.output]
        self.model = self.plain = keras.Model(network.input, outputs)
        if accelerate and keras.backend.backend() == "jax":
            from kerascnn.acceleration import accelerate as fast

            self.model = fast(self.model)
        self.optimizer = optimizer
        self.variables = self.model.trainable_variables
        optimizer.build(self.variables)

    def step(self, images: np.ndarray, labels: np.ndarray) -> Step:
        """Take a training step on scaled images and their labels, int32."""
        raise NotImplementedError

    def step_of_zeros(
        self, images: np.ndarray, labels: np.ndarray, zeroed: Sequence[keras.Variable]
    ) -> Step | None:
        """Compute a step with some variables zero, and forget it; None if it can't."""
        return None

    def loss_of(self, labels: Any) -> LossOf:
        """Return the mean cross-entropy, without and with the penalties."""
        ops: Any = keras.ops

        def loss_of(outputs: Any) -> tuple[Any, Any]:
            entropy = ops.mean(crossentropy(labels, outputs[-1], self.smoothing))
            return entropy + sum(self.model.losses), entropy

        return loss_of

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return the logits in inference: of plain Keras, as a saved model is."""
        return keras.ops.convert_to_numpy(self.plain(images, training=False)[-1])

    def value(self, variable: keras.Variable) -> np.ndarray:
        """Return a variable's present value."""
        return keras.ops.convert_to_numpy(variable.value)

    def learning_rate(self) -> float | None:
        """Return the present learning rate; None where the optimiser shows none."""
        rate = optim.shown_rate(self.optimizer)
        return None if rate is None else float(keras.ops.convert_to_numpy(rate))


class JaxKerasTrainer(KerasTrainer):
    """On JAX: one compiled function, the state kept outside the model."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        import jax

        others = self.model.non_trainable_variables
        self.state = [
            [v.value for v in variables]
            for variables in (self.variables, others, self.optimizer.variables)
        ]
        # Variables keep their first values; this says where the present ones are.
        self.place = {
            id(variable): (group, i)
            for group, variables in enumerate((self.variables, others))
            for i, variable in enumerate(variables)
        }
        names = [v.name for v in self.optimizer.variables]
        self.rate = names.index("learning_rate") if "learning_rate" in names else None

        def step(state, images, labels):
            weights, values, optimizer = state
            pairs = [
                *zip(self.variables, weights, strict=True),
                *zip(others, values, strict=True),
            ]
            loss_of = self.loss_of(labels)
            *shown, values = gradients(self.model, images, loss_of, pairs)
            weights, optimizer = self.optimizer.stateless_apply(
                optimizer, shown[-1], weights
            )
            return [weights, values, optimizer], shown

        self.compiled = jax.jit(step)
        self.inference = jax.jit(
            lambda weights, others, images: self.plain.stateless_call(
                weights, others, images, training=False
            )[0][-1]
        )

    def step(self, images: np.ndarray, labels: np.ndarray) -> Step:
        if self.rate is not None:
            self.state[2][self.rate] = self.optimizer.learning_rate.value
        self.state, shown = self.compiled(self.state, images, labels)
        return Step(*shown)

    def step_of_zeros(
        self, images: np.ndarray, labels: np.ndarray, zeroed: Sequence[keras.Variable]
    ) -> Step | None:
        weights = list(self.state[0])
        for variable in zeroed:
            _, i = self.place[id(variable)]
            weights[i] = 0 * weights[i]
        _, shown = self.compiled([weights, *self.state[1:]], images, labels)
        return Step(*shown)

    def infer(self, images: np.ndarray) -> np.ndarray:
        plain = self.plain.trainable_variables, self.plain.non_trainable_variables
        weights, others = ([self._present(v) for v in group] for group in plain)
        return np.asarray(self.inference(weights, others, images))

    def value(self, variable: keras.Variable) -> np.ndarray:
        return np.asarray(self._present(variable))

    def _present(self, variable: keras.Variable) -> Any:
        group, i = self.place[id(variable)]
        return self.state[group][i]


class TensorFlowKerasTrainer(KerasTrainer):
    """On TensorFlow: a `tf.function` around a gradient tape."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        tf = sys.modules["tensorflow"]

        @tf.function
        def step(images, labels):
            *shown, _ = gradients(self.model, images, self.loss_of(labels))
            self.optimizer.apply(shown[-1], self.variables)
            return shown

        self.compiled = step

    def step(self, images: np.ndarray, labels: np.ndarray) -> Step:
        return Step(*self.compiled(images, labels))


class TorchKerasTrainer(KerasTrainer):
    """On PyTorch: eager, as Keras's own trainer has it."""

    def step(self, images: np.ndarray, labels: np.ndarray) -> Step:
        loss_of = self.loss_of(labels)
        outputs, entropy, found, _ = gradients(self.model, images, loss_of)
        with sys.modules["torch"].no_grad():
            shown = [gradient.clone() for gradient in found]
            self.optimizer.apply(found, self.variables)
        return Step(outputs, entropy, shown)


def make_trainer(*arguments: Any) -> KerasTrainer:
    """Return the `KerasTrainer` of the backend in use."""
    kinds = {
        "jax": JaxKerasTrainer,
        "tensorflow": TensorFlowKerasTrainer,
        "torch": TorchKerasTrainer,
    }
    return kinds[keras.backend.backend()](*arguments)
