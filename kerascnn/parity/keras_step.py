"""Keras's side of the comparison: training steps that show everything, per backend."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass
class Step:
    """What one training step computed, before its update, as the backend's arrays.

    Args:
        outputs: Of the watched layers, `(batch, ...)`, channels last.
        crossentropy: The batch's mean, without any penalty.
        gradients: Of the loss with its penalty, one for each trainable variable.
    """

    outputs: Sequence[Any]
    crossentropy: Any
    gradients: Sequence[Any]


class KerasTrainer:
    """A Keras network that trains step by step and shows what it computes.

    Args:
        network: A Functional model from scaled images to logits, the last layer's.
        watched: The layers whose outputs to show.
        optimizer: Its optimiser.
        accelerate: Use this package's fast gradients (JAX).
    """

    def __init__(
        self,
        network: keras.Model,
        watched: Sequence[keras.layers.Layer],
        optimizer: keras.Optimizer,
        accelerate: bool,
    ):
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

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return the logits in inference: of plain Keras, as a saved model is."""
        return keras.ops.convert_to_numpy(self.plain(images, training=False)[-1])

    def value(self, variable: keras.Variable) -> np.ndarray:
        """Return a variable's present value."""
        return keras.ops.convert_to_numpy(variable.value)

    def learning_rate(self) -> float:
        """Return the present learning rate."""
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))


def crossentropy(labels: Any, logits: Any) -> Any:
    """Return the mean softmax cross-entropy of a batch, as training has it."""
    ops: Any = keras.ops
    return ops.mean(
        ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    )


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
        self.rate = [v.name for v in self.optimizer.variables].index("learning_rate")

        def loss_of(weights, others, images, labels):
            outputs, others, penalties = self.model.stateless_call(
                weights, others, images, training=True, return_losses=True
            )
            entropy = crossentropy(labels, outputs[-1])
            return entropy + sum(penalties), (others, outputs, entropy)

        gradient = jax.grad(loss_of, has_aux=True)

        def step(state, images, labels):
            weights, others, optimizer = state
            gradients, (others, *shown) = gradient(weights, others, images, labels)
            weights, optimizer = self.optimizer.stateless_apply(
                optimizer, gradients, weights
            )
            return [weights, others, optimizer], [*shown, gradients]

        self.compiled = jax.jit(step)
        self.inference = jax.jit(
            lambda weights, others, images: self.plain.stateless_call(
                weights, others, images, training=False
            )[0][-1]
        )

    def step(self, images: np.ndarray, labels: np.ndarray) -> Step:
        self.state[2][self.rate] = self.optimizer.learning_rate.value
        self.state, shown = self.compiled(self.state, images, labels)
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
            with tf.GradientTape() as tape:
                outputs = self.model(images, training=True)
                entropy = crossentropy(labels, outputs[-1])
                loss = tf.add_n([entropy, *self.model.losses])
            gradients = tape.gradient(loss, [v.value for v in self.variables])
            self.optimizer.apply(gradients, self.variables)
            return outputs, entropy, gradients

        self.compiled = step

    def step(self, images: np.ndarray, labels: np.ndarray) -> Step:
        return Step(*self.compiled(images, labels))


class TorchKerasTrainer(KerasTrainer):
    """On PyTorch: eager, as Keras's own trainer has it."""

    def step(self, images: np.ndarray, labels: np.ndarray) -> Step:
        torch = sys.modules["torch"]
        self.model.zero_grad()
        outputs = self.model(images, training=True)
        entropy = crossentropy(labels, outputs[-1])
        (entropy + sum(self.model.losses)).backward()
        with torch.no_grad():
            gradients = [v.value.grad.clone() for v in self.variables]
            self.optimizer.apply(gradients, self.variables)
        return Step(outputs, entropy, gradients)


def make_trainer(*arguments: Any) -> KerasTrainer:
    """Return the `KerasTrainer` of the backend in use."""
    kinds = {
        "jax": JaxKerasTrainer,
        "tensorflow": TensorFlowKerasTrainer,
        "torch": TorchKerasTrainer,
    }
    return kinds[keras.backend.backend()](*arguments)
