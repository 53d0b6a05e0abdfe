"""See a loss or gradient that is not finite before the update is kept.

The training step of both engines asks `judge`, inside the compiled code, whether its
numbers are finite; where they are not, weights, statistics, optimiser and metrics stay
as they were. What was left out is counted in a variable of the optimiser, so it travels
with it, costs no call of its own, and a stopped run stays as it was however many steps
are under way already.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerascnn import UsageError
from kerascnn.engine.steps import gradients as gradients_of

# Keras's operations have no types of their own: pyright would take many for None.
ops: Any = keras.ops

# What `counts` holds, in this order.
STEPS, LEFT_OUT, IN_A_ROW, LIMIT = range(4)
# Bad steps in a row after which a run stops; of steps that are only timed, none.
LIMITS = {"stop": 1, "skip": 10, "never": 2**31 - 1}


class NotFiniteError(UsageError):
    """The loss or a gradient was not finite at a step of the run, counted from 0."""

    exit_code = 3

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def counts(optimizer: keras.Optimizer) -> keras.Variable:
    """Return the variable, int32 `(4,)`, that counts a built optimiser's steps."""
    for variable in optimizer.variables:
        if variable.name == "guard":
            return variable
    variable = optimizer.add_variable((4,), dtype="int32", name="guard")
    variable.assign(np.array([0, 0, 0, LIMITS["stop"]], "int32"))
    return variable


def index(optimizer: keras.Optimizer) -> int:
    """Return the place of `counts` among an optimiser's variables."""
    variable = counts(optimizer)
    return next(i for i, v in enumerate(optimizer.variables) if v is variable)


def begin(optimizer: keras.Optimizer, on_nan: str) -> None:
    """Say what happens with bad steps from now on: `on_nan` is `"stop"` or `"skip"`."""
    variable = counts(optimizer)
    value = np.array(ops.convert_to_numpy(variable))
    if value[LIMIT] != LIMITS[on_nan]:
        value[[IN_A_ROW, LIMIT]] = 0, LIMITS[on_nan]
    variable.assign(value)


def steps(optimizer: keras.Optimizer) -> int:
    """Return the number of steps since the start of the run."""
    return int(ops.convert_to_numpy(counts(optimizer))[STEPS])


def left_out(optimizer: keras.Optimizer) -> int:
    """Return the number of steps whose update was left out."""
    return int(ops.convert_to_numpy(counts(optimizer))[LEFT_OUT])


def judge(
    counts: Any, loss: Any, gradients: Sequence[Any], optimizer: keras.Optimizer
) -> tuple[Any, Any]:
    """Decide inside a training step whether its update is kept; count the steps."""
    # An optimiser that scales the loss (mixed_float16) expects gradients that overflow
    # and leaves those steps out itself: then only the loss counts.
    finite = ops.isfinite(loss)
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        finite = ops.logical_and(finite, _all_finite(gradients))
    going = counts[IN_A_ROW] < counts[LIMIT]
    bad = ops.cast(ops.logical_and(going, ops.logical_not(finite)), "int32")
    going = ops.cast(going, "int32")
    row = ops.where(going > 0, (counts[IN_A_ROW] + 1) * bad, counts[IN_A_ROW])
    new = ops.stack([counts[STEPS] + going, counts[LEFT_OUT] + bad, row, counts[LIMIT]])
    keep = going > bad
    if keras.backend.backend() == "jax":
        from kerascnn.acceleration import stored

        # XLA would judge all gradients again for each value that it decides on.
        keep = stored(ops.cast(keep, "float32")) > 0
    return keep, new


def _all_finite(gradients: Sequence[Any]) -> Any:
    """Return whether all numbers of some arrays are finite."""
    if keras.backend.backend() == "jax":
        # Finite numbers times zero are zero, all others NaN. XLA compiles a sum to one
        # loop, `all` to several. TensorFlow may drop a product with zero.
        return ops.isfinite(sum(ops.sum(each * 0) for each in gradients))
    finite = (ops.all(ops.isfinite(each)) for each in gradients)
    return functools.reduce(ops.logical_and, finite, True)


def check(counts: Any) -> None:
    """Raise `NotFiniteError` if a run must stop, by the value of `counts`."""
    steps, _, row, limit = (int(value) for value in ops.convert_to_numpy(counts))
    if row < limit:
        return
    what = (
        "the loss or a gradient was not finite"
        if row == 1
        else f"the loss or a gradient was not finite in {row} steps in a row"
    )
    raise NotFiniteError(f"{what}, and the update was left out.", steps - 1)


def largest_gradients(
    model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> tuple[float, dict[str, float]]:
    """Compute again a bad step's loss and each variable's largest absolute gradient."""
    variables = model.trainable_variables

    def loss_of(logits: Any) -> tuple[Any, Any]:
        # Not scaled for half precision, because the user is to see the gradients.
        loss = model.compute_loss(x=images, y=labels, y_pred=logits, training=True)
        return loss, loss

    def compute(weights: list) -> tuple[Any, list]:
        pairs = list(zip(variables, weights, strict=True))
        return gradients_of(model, images, loss_of, pairs)[1:3]

    if keras.backend.backend() == "jax":
        import jax

        compute = jax.jit(compute)
    loss, gradients = compute([v.value for v in variables])
    largest = {
        variable.path: float(np.max(np.abs(ops.convert_to_numpy(gradient))))
        for variable, gradient in zip(variables, gradients, strict=True)
    }
    return float(ops.convert_to_numpy(loss)), largest
