"""One training step's loss and gradients: a function a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import keras

# From a model's outputs to the scalar that is differentiated, and to what is shown.
LossOf = Callable[[Any], tuple[Any, Any]]


class Gradients(NamedTuple):
    """What `gradients` computes, as the backend's arrays.

    `others` are, on JAX, the new values of the variables that are not trained;
    elsewhere it is empty, because the variables have them already.
    """

    outputs: Any
    loss: Any
    gradients: list[Any]
    others: list[Any]


def gradients(
    model: keras.Model,
    images: Any,
    loss_of: LossOf,
    values: Sequence[tuple[keras.Variable, Any]] = (),
    forward: Callable[..., Any] | None = None,
) -> Gradients:
    """Return a batch's gradients, as `keras.Model.train_step` computes them.

    `loss_of` is called where the model's variables and `model.losses` have the values
    of this step. Inside a function that JAX compiles, `values` are the variables'
    values, those of the optimiser included where `loss_of` reads them. `forward`, on
    JAX, computes the model's outputs in its place.
    """
    import keras

    if keras.backend.backend() == "jax":
        return _jax(model, images, loss_of, values, forward or model)
    return _BACKENDS[keras.backend.backend()](model, images, loss_of, values)


def compiled_loss(model: Any, images: Any, labels: Any) -> LossOf:
    """Return the loss that a model was compiled with, scaled as its optimiser wants."""

    def loss_of(logits: Any) -> tuple[Any, Any]:
        loss = model.compute_loss(x=images, y=labels, y_pred=logits, training=True)
        return model.optimizer.scale_loss(loss), loss

    return loss_of


def build_metrics(model: keras.Model) -> None:
    """Make metrics and loss of a compiled model of logits, as Keras at their first use.

    The loss too, because a `fit` inside a callback would look at a batch to make it,
    and draw once more from the random numbers that shuffle the images.
    """
    from keras import ops

    labels, logits = ops.zeros((1,), "int32"), ops.zeros((1, model.output_shape[-1]))
    model.compute_loss(None, labels, logits)
    model.compute_metrics(None, labels, logits)
    model.reset_metrics()


def _jax(
    model: Any,
    images: Any,
    loss_of: LossOf,
    values: Sequence,
    forward: Callable[..., Any],
) -> Gradients:
    import jax
    import keras

    variables = model.trainable_variables
    given = {id(v): value for v, value in values} or {id(v): v.value for v in variables}
    weights = [given[id(v)] for v in variables]

    def loss(weights: list) -> tuple[Any, tuple]:
        pairs = [*values, *zip(variables, weights, strict=True)]
        with keras.StatelessScope(state_mapping=pairs, collect_losses=True) as scope:
            outputs = forward(images, training=True)
            differentiated, shown = loss_of(outputs)
        new = [scope.get_current_value(v) for v in model.non_trainable_variables]
        return differentiated, (outputs, shown, new)

    found, (outputs, shown, others) = jax.grad(loss, has_aux=True)(weights)
    return Gradients(outputs, shown, found, others)


def _tensorflow(model: Any, images: Any, loss_of: LossOf, _: Sequence) -> Gradients:
    import tensorflow

    with tensorflow.GradientTape() as tape:
        outputs = model(images, training=True)
        differentiated, shown = loss_of(outputs)
    variables = [v.value for v in model.trainable_variables]
    return Gradients(outputs, shown, tape.gradient(differentiated, variables), [])


def _torch(model: Any, images: Any, loss_of: LossOf, _: Sequence) -> Gradients:
    model.zero_grad()
    outputs = model(images, training=True)
    differentiated, shown = loss_of(outputs)
    differentiated.backward()
    found = [v.value.grad for v in model.trainable_variables]
    return Gradients(outputs, shown, found, [])


_BACKENDS = {"tensorflow": _tensorflow, "torch": _torch}
