"""Optimisers, weight decay and learning-rate decay with PyTorch's meaning."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kerascnn import UsageError
from kerascnn.text import one_line

# Keras's operations have no types of their own: pyright would take many for None.
ops: Any = keras.ops


def adam(learning_rate: float, epsilon: float = 1e-8) -> keras.Optimizer:
    """Return `torch.optim.Adam(parameters, learning_rate, eps=epsilon)` for Keras.

    Args:
        learning_rate: The step size.
        epsilon: Added to the root of the mean square; 1e-8 is PyTorch's default.
            Keras's is 1e-7, added before the bias correction (see `Adam`).

    Example:
        >>> model.compile(optimizer=optim.adam(1e-3), loss="mse")
    """
    return Adam(learning_rate, epsilon=epsilon)


@keras.saving.register_keras_serializable("kerascnn")
class Adam(keras.optimizers.Adam):
    """Keras's Adam with epsilon where Kingma and Ba (2015), and PyTorch, have it.

    Both keep the same two averages, m and v. PyTorch, step t, as algorithm 1 of the
    paper: `m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon)`. Keras takes the paper's
    shortcut, which leaves epsilon out of the correction by b2, so in the first steps
    epsilon weighs up to 30 times as much.

    For weights of float16 or bfloat16 the averages and the step are float32: float16
    has neither epsilon nor the squares of small gradients.
    """

    def add_variable_from_reference(
        self, reference_variable: Any, name: Any = None, initializer: Any = "zeros"
    ) -> Any:
        if initializer == "zeros":
            initializer = _zeros
        if reference_variable.dtype not in ("float16", "bfloat16"):
            return super().add_variable_from_reference(
                reference_variable, name, initializer
            )
        path = reference_variable.path.replace("/", "_")
        return self.add_variable(
            reference_variable.shape, initializer, "float32", name=f"{path}_{name}"
        )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        rate = ops.cast(learning_rate, m.dtype)
        gradient = ops.cast(gradient, m.dtype)
        step = ops.cast(ops.add(self.iterations, 1), m.dtype)
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        if self.amsgrad:
            largest = self._velocity_hats[index]
            self.assign(largest, ops.maximum(largest, v))
            v = largest
        root = ops.sqrt(v) / ops.sqrt(_one_minus_power(self.beta_2, step))
        rate = rate / _one_minus_power(self.beta_1, step)
        moved = rate * m / (root + self.epsilon)
        self.assign_sub(variable, ops.cast(moved, variable.dtype))


def _zeros(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    # JAX would compile a program for each shape.
    return np.zeros(shape, dtype)


def _one_minus_power(beta: float, step: Any) -> Any:
    # Written out, 1 - beta**step loses four of float32's seven digits in early steps.
    return -ops.expm1(step * math.log(beta)) if beta else 1.0


def sgd(
    learning_rate: float, momentum: float = 0.0, nesterov: bool = False
) -> keras.Optimizer:
    """Return `torch.optim.SGD(parameters, learning_rate, momentum)` for Keras.

    Args:
        learning_rate: The step size.
        momentum: The share of the last step's velocity that is kept, in 0..1.
        nesterov: Look one step of momentum ahead.

    Example:
        >>> model.compile(optimizer=optim.sgd(0.1, momentum=0.9), loss="mse")
    """
    return SGD(learning_rate, momentum=momentum, nesterov=nesterov)


@keras.saving.register_keras_serializable("kerascnn")
class SGD(keras.optimizers.SGD):
    """Keras's SGD with the learning rate outside the momentum, as PyTorch has it.

    PyTorch: `b = momentum * b + gradient; w -= learning_rate * b`. Keras puts the rate
    inside, `b = momentum * b - learning_rate * gradient; w += b`: the same while the
    rate stands still, but when it falls, Keras's next steps still move at the old one.
    """

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        step = gradient = ops.cast(gradient, variable.dtype)
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            step = self.momentum * velocity + gradient
            self.assign(velocity, step)
            if self.nesterov:
                step = gradient + self.momentum * step
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * step)


def muon(learning_rate: Any, momentum: float = 0.95, steps: int = 3) -> Any:
    """Return Muon with Nesterov momentum for convolutions' kernels, for `Optax`.

    The momentum of a kernel's gradients, as a matrix of one column a filter, gives its
    singular vectors to the step, and not its singular values: `orthogonal` makes them
    about 1, so all directions move alike. A kernel's length does not matter where
    BatchNorm follows, and lies at the root of the number of filters: each step scales
    the kernel to that length before it moves.

    Args:
        learning_rate: A number or an optax schedule.
        momentum: The share of the last step's velocity that is kept, in 0..1.
        steps: See `orthogonal`.

    Returns:
        An `optax.GradientTransformation` of kernels, `(height, width, channels,
        filters)`, to be combined with another for the other weights by
        `optax.partition`.

    Source: Keller Jordan, Muon (2024), as in KellerJordan/cifar10-airbench's
    airbench94_muon (MIT licence). optax.contrib.muon divides by no length, and averages
    where this adds.

    Example:
        >>> kinds = lambda weights: ["kernel" if w.ndim == 4 else "" for w in weights]
        >>> parts = {"kernel": optim.muon(0.2), "": optax.sgd(0.1, momentum=0.9)}
        >>> optimizer = optim.Optax(optax.partition(parts, kinds))
    """
    import jax
    import optax

    def orthogonalized(update: Any) -> Any:
        matrix = update.reshape(-1, update.shape[-1])
        return orthogonal(matrix, steps).reshape(update.shape)

    def scaled(update: Any, kernel: Any) -> Any:
        length = ops.sqrt(ops.sum(ops.square(kernel)))
        return update + (math.sqrt(kernel.shape[-1]) / length - 1) * kernel

    return optax.chain(
        optax.trace(momentum, nesterov=True),
        optax.stateless(lambda updates, _: jax.tree.map(orthogonalized, updates)),
        optax.scale_by_learning_rate(learning_rate),
        optax.stateless(lambda updates, old: jax.tree.map(scaled, updates, old)),
    )


def orthogonal(matrix: Any, steps: int = 3) -> Any:
    """Return about the nearest matrix with orthogonal rows or columns.

    Newton and Schulz's iteration, which takes products of matrices alone, on the matrix
    divided by its length. Its polynomial `a x + b x^3 + c x^5` brings singular values
    from all of 0..1 to between about 0.7 and 1.2 in five steps; three steps leave the
    smallest ones smaller, which does no harm to Muon.

    Args:
        matrix: `(m, n)` floats.
        steps: How often to apply the polynomial.

    Returns:
        A matrix of the same shape and type with the same singular vectors.

    Source: Keller Jordan, Muon (2024): the coefficients are chosen for a steep slope at
    zero.

    Example:
        >>> orthogonal(np.diag([3.0, 2.0]).astype("float32"), steps=5)
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = ops.convert_to_tensor(matrix)
    x = x / (ops.sqrt(ops.sum(ops.square(x))) + 1e-7)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = ops.transpose(x)
    for _ in range(steps):
        gram = ops.matmul(x, ops.transpose(x))
        x = a * x + ops.matmul(b * gram + c * ops.matmul(gram, gram), x)
    return ops.transpose(x) if tall else x


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


def follows_schedule(optimizer: keras.Optimizer) -> bool:
    """Whether an optimiser has a `LearningRateSchedule`: its rate can't be set."""
    return isinstance(
        getattr(optimizer, "_learning_rate", None),
        keras.optimizers.schedules.LearningRateSchedule,
    )


def shown_rate(optimizer: keras.Optimizer) -> Any:
    """Return an optimiser's learning rate; `None` of an `Optax` that shows none."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a scaled loss
    if isinstance(optimizer, Optax):
        return optimizer._get_current_learning_rate()
    return optimizer.learning_rate


def check_rate(optimizer: keras.Optimizer, callback: keras.callbacks.Callback) -> None:
    """Raise `UsageError` unless a callback can set an optimiser's learning rate."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a scaled loss
    sets = f"{type(callback).__name__} sets the learning rate of each epoch, and this"
    if shown_rate(optimizer) is None:
        raise UsageError(
            f"{sets} optax transformation shows none: build it with "
            "optax.inject_hyperparams, see optim.Optax."
        )
    if follows_schedule(optimizer) or not getattr(optimizer, "settable", True):
        raise UsageError(
            f"{sets} optimiser follows a schedule of its own: give it a number instead."
        )


def rate_of(optimizer: keras.Optimizer) -> keras.Variable:
    """Return the variable of an optimiser's learning rate.

    Raises:
        UsageError: The rate is no number that could be set.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a scaled loss
    rate = None if follows_schedule(optimizer) else shown_rate(optimizer)
    if rate is None or not getattr(optimizer, "settable", True):
        why = (
            "shows none: an optax transformation has one with optax.inject_hyperparams"
            if rate is None and not follows_schedule(optimizer)
            else "follows a schedule of its own"
        )
        raise UsageError(
            f"there is no learning rate to turn: the optimiser {why} (see optim.Optax)."
        )
    return rate


def check_callbacks(
    optimizer: keras.Optimizer, callbacks: Sequence[keras.callbacks.Callback]
) -> None:
    """Check before training the rate that Keras's callbacks would set, maybe late."""
    kinds = keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau
    for callback in callbacks:
        if isinstance(callback, kinds):
            check_rate(optimizer, callback)


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
        if not 0 < gamma < math.inf:
            raise ValueError(
                f"`gamma` must be finite and above 0. Received: gamma={gamma}"
            )
        self.gamma = gamma
        self.learning_rate = learning_rate

    def get_config(self) -> dict[str, Any]:
        return {"gamma": self.gamma, "learning_rate": self.learning_rate}

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        model: Any = self.model
        optimizer = model.optimizer
        check_rate(optimizer, self)
        if self.learning_rate is None:
            # Rounded to the 7 digits of float32: 0.001, not 0.0010000000474974513.
            rate = float(ops.convert_to_numpy(optimizer.learning_rate))
            self.learning_rate = float(f"{rate:.7g}")

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        assert self.learning_rate is not None
        model: Any = self.model
        model.optimizer.learning_rate = self.learning_rate * self.gamma**epoch


def stretched(
    callbacks: Sequence[keras.callbacks.Callback], epochs: int, of: int
) -> list[keras.callbacks.Callback]:
    """Return callbacks whose `ExponentialDecay` falls as far in other epochs.

    Args:
        callbacks: Those of a training of `of` epochs; they stay as they are.
        epochs: The last of which is to have the rate of the last of the `of`.
        of: Epochs for which `gamma` was chosen.
    """
    found = []
    for callback in callbacks:
        if isinstance(callback, ExponentialDecay) and epochs > 1:
            callback = copy.copy(callback)
            callback.gamma **= (of - 1) / (epochs - 1)
        found.append(callback)
    return found


@keras.saving.register_keras_serializable("kerascnn")
class Optax(keras.Optimizer):
    """An optax gradient transformation as a Keras optimiser, on the JAX backend.

    It goes wherever a Keras optimiser does: `compile`, `stateless_apply` inside `jit`,
    checkpoints. The transformation sees the gradients and the values of all trainable
    variables as two lists, in the model's order; its state is held in Keras variables.

    optax compiles its learning rate into the transformation. To read it, or to let
    callbacks change it, have optax keep it in the state with `inject_hyperparams`, as
    in the second example: it is then `optimizer.learning_rate`, a Keras variable as in
    any Keras optimiser. Injected as an optax schedule, it can be read and not set.
    Without `inject_hyperparams`, or with two, there is none to read or set: callbacks
    that do, such as Keras's `ReduceLROnPlateau`, end with an error that says so.

    What Keras's optimisers do before a step (loss scaling, clipping, accumulation of
    gradients) and after it (averages of the weights) they do here too. A transformation
    that wants the loss itself (`optax.polyak_sgd`, `optax.lbfgs`) or pairs of weights
    (`optax.lookahead`) can't be used: Keras gives its optimisers the gradients alone.

    Args:
        transformation: An `optax.GradientTransformation`.
        name: The optimiser's name.
        **kwargs: What every Keras optimiser takes: `clipnorm`, `clipvalue`,
            `global_clipnorm`, `use_ema`, `ema_momentum`, `ema_overwrite_frequency`,
            `loss_scale_factor`, `gradient_accumulation_steps`.

    Raises:
        UsageError: `transformation` is none, or the learning rate or the weight decay
            is given outside it; when it is built, it takes more than gradients.

    Source: https://optax.readthedocs.io; asked for in keras#18539 and keras#18923.

    Examples:
        >>> model.compile(optimizer=optim.Optax(optax.lion(1e-4)), loss="mse")
        >>> adamw = optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3)
        >>> optimizer = optim.Optax(adamw)
        >>> optimizer.learning_rate = 1e-4

        The decay of kernels, and not of biases and BatchNorm's weights:

        >>> kernels = lambda weights: [w.ndim > 1 for w in weights]
        >>> optim.Optax(optax.adamw(1e-3, weight_decay=1e-4, mask=kernels))
    """

    def __init__(self, transformation: Any, name: str = "optax", **kwargs: Any):
        if not callable(getattr(transformation, "init", None)) or not callable(
            getattr(transformation, "update", None)
        ):
            raise UsageError(
                f"optim.Optax takes an optax gradient transformation, such as "
                f"optax.adamw(1e-3). Received: {transformation!r}"
            )
        if "learning_rate" in kwargs or kwargs.get("weight_decay") is not None:
            raise UsageError(
                "optim.Optax takes the learning rate and the weight decay inside the "
                "transformation: optax.inject_hyperparams(optax.adamw)("
                "learning_rate=1e-3, weight_decay=1e-4)"
            )
        rate, scheduled = _injected_learning_rate(transformation)
        # A float becomes a Keras variable; of a function, Keras asks the rate.
        super().__init__(_no_rate if rate is None else rate, name=name, **kwargs)
        self.transformation = transformation
        self.settable = rate is not None and not scheduled

    @staticmethod
    def check_backend() -> None:
        """Raise `UsageError` unless the backend is JAX: another trains nothing here."""
        if keras.backend.backend() != "jax":
            raise UsageError(
                f"optim.Optax needs the JAX backend, and this is "
                f"{keras.backend.backend()}: set KERAS_BACKEND=jax, or take one of "
                f"keras.optimizers."
            )

    def build(self, variables: Any) -> None:
        """Start the transformation's state, in variables of this optimiser."""
        self.check_backend()
        if self.built:
            return
        import jax

        super().build(variables)
        state = self._first_state([v.value for v in variables])
        leaves, self._structure = jax.tree_util.tree_flatten_with_path(state)
        self._kinds_of_key = [_kind_of_key(leaf) for _, leaf in leaves]
        self._state = [
            self._learning_rate
            if _is_learning_rate(path) and shown_rate(self) is not None
            else self._add_state(
                jax.tree_util.keystr(path, simple=True, separator="_"), leaf
            )
            for path, leaf in leaves
        ]

    def _first_state(self, weights: list[Any]) -> Any:
        """Return the transformation's state, or say that it takes something else."""
        import jax

        update = self.transformation.update
        try:
            state = self.transformation.init(weights)
            jax.eval_shape(lambda given: update(given, state, weights), weights)
        except Exception as error:
            raise UsageError(
                "optim.Optax gives its transformation gradients and weights, two lists "
                "of arrays, and this one takes something else, as optax.lookahead, "
                f"optax.polyak_sgd and optax.lbfgs do: {one_line(error)}"
            ) from error
        return state

    def _add_state(self, path: str, leaf: Any) -> keras.Variable:
        import jax

        # A copy: a leaf may be a model's own weight, which can't be donated twice.
        array = jax.numpy.array(_as_array(leaf))
        name = re.sub(r"\W", "_", f"state_{path}")
        variable = self.add_variable(array.shape, dtype=str(array.dtype), name=name)
        variable.assign(array)
        return variable

    # Keras calls this once a step, with the gradients clipped and averaged.
    def _backend_update_step(
        self, grads: Any, trainable_variables: Any, learning_rate: Any
    ) -> None:
        import jax
        import optax

        pairs = {
            self._get_variable_index(variable): (gradient, variable)
            for gradient, variable in zip(grads, trainable_variables, strict=True)
        }
        if len(pairs) != len(self._trainable_variables):
            raise UsageError(
                f"optim.Optax updates all the variables it was built with in one step. "
                f"Received: gradients for {len(pairs)} of "
                f"{len(self._trainable_variables)} variables"
            )
        pairs = [pairs[index] for index in range(len(pairs))]
        gradients = [ops.cast(gradient, v.dtype) for gradient, v in pairs]
        weights = [variable.value for _, variable in pairs]
        leaves = [
            jax.random.wrap_key_data(variable.value, impl=kind)
            if kind
            else variable.value
            for kind, variable in zip(self._kinds_of_key, self._state, strict=True)
        ]
        state = jax.tree.unflatten(self._structure, leaves)
        updates, state = self.transformation.update(gradients, state, weights)
        new: Any = optax.apply_updates(weights, updates)
        for (_, variable), weight in zip(pairs, new, strict=True):
            variable.assign(weight)
        for variable, leaf in zip(self._state, jax.tree.leaves(state), strict=True):
            variable.assign(_as_array(leaf))

    @property
    def learning_rate(self) -> Any:
        rate = shown_rate(self)
        return _HiddenRate() if rate is None else rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        if shown_rate(self) is None:
            raise UsageError(_HIDDEN)
        if not self.settable:
            raise UsageError(
                "this optax transformation's learning rate follows a schedule: inject "
                "a number to set it"
            )
        self._learning_rate.assign(learning_rate)

    def get_config(self) -> dict[str, Any]:
        """Return what Keras can write down: all but the transformation."""
        config = super().get_config()
        del config["learning_rate"], config["weight_decay"]
        return config

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> Optax:
        raise UsageError(
            "an optax transformation can't be read from a file: load the model with "
            "compile=False, then compile it with the same optim.Optax(...)"
        )


def _no_rate() -> None:
    return None


_HIDDEN = (
    "this optax transformation shows no learning rate to read or to set, as callbacks "
    "do: build it with optax.inject_hyperparams, as in optax.inject_hyperparams("
    "optax.adamw)(learning_rate=1e-3)"
)


class _HiddenRate:
    """Stands for a rate that is not shown, and says so where a number is wanted."""

    # Of None, Keras's callbacks make no number either, but their error says nothing.

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise UsageError(_HIDDEN)

    def __float__(self) -> float:
        raise UsageError(_HIDDEN)


def _injected_learning_rate(transformation: Any) -> tuple[float | None, bool]:
    """Return the one learning rate in a state, or None, and if it's a schedule's."""
    import jax

    try:
        state = transformation.init([jax.numpy.zeros(())])
    except (
        Exception
    ):  # made for other weights; if anything else is wrong, `build` fails
        return None, False
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    rates = [leaf for path, leaf in leaves if _is_learning_rate(path)]
    scheduled = any(
        _is_learning_rate(path[:-1], "hyperparams_states") for path, _ in leaves
    )
    return (float(rates[0]) if len(rates) == 1 else None), scheduled


def _is_learning_rate(path: Sequence[Any], where: str = "hyperparams") -> bool:
    # The fields of the state that `optax.inject_hyperparams` keeps.
    names = [getattr(key, "name", getattr(key, "key", None)) for key in path]
    return names[-2:] == [where, "learning_rate"]


def _kind_of_key(leaf: Any) -> Any:
    """Return a random key's implementation; None for any other array."""
    import jax

    if jax.dtypes.issubdtype(jax.numpy.asarray(leaf).dtype, jax.dtypes.prng_key):
        return jax.random.key_impl(leaf)
    return None


def _as_array(leaf: Any) -> Any:
    # A Keras variable holds numbers, not JAX's typed random keys.
    import jax

    return jax.random.key_data(leaf) if _kind_of_key(leaf) else leaf
