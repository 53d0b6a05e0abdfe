"""The reference engine: `keras.Model.fit`, on any backend.

On JAX several devices share a batch, as in the `epoch` engine (see `placement`):
`keras.distribution` takes no batch that the devices do not divide.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerascnn import data, optim
from kerascnn.engine import finite, recorder
from kerascnn.engine.steps import build_metrics, compiled_loss, gradients

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from kerascnn.data import Split
    from kerascnn.engine.plan import Plan
    from kerascnn.engine.recorder import Recorder
    from kerascnn.training.autosave import Autosave

# Keras's operations have no types of their own: pyright would take many for None.
ops: Any = keras.ops


class Batches(keras.utils.PyDataset):
    """Batches of one split for `fit`, in an order that seed and epoch decide."""

    # Without a plan they hold every example once, in the split's order, for an
    # evaluation.

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
        return self.split.batch(chosen)

    def begin(self, epoch: int) -> None:
        """Take the order of an epoch, counted from 0."""
        images = len(self.split)
        self._order = (
            data.order(self.plan.seed, epoch, images)
            if self.plan
            else np.arange(images)
        )


class _Order(keras.callbacks.Callback):
    """Tell the batches which epoch begins."""

    # `PyDataset.on_epoch_end` can't count them: `fit` also calls it before the first
    # epoch, when it has looked at a batch to build the model.

    def __init__(self, batches: Batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None):
        self.batches.begin(epoch)


class _Callbacks(keras.callbacks.CallbackList):
    """The callbacks of one `fit`; between steps, `finite.check` and the autosave."""

    # The autosave is no callback of batches here, because Keras hands those the logs of
    # each step as numbers, and waits for the device to have them.

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        plan: Plan,
        steps: int,
        autosave: Autosave | None,
        recorder: Recorder | None,
    ):
        super().__init__(
            [*callbacks, *(own for own in (recorder, autosave) if own)],
            add_history=True,
            model=model,
            epochs=plan.epochs,
            steps=steps,
            verbose=0,
        )
        self._trained: Any = model
        self._plan = plan
        self._steps = steps
        self._autosave = autosave
        self.recorder = recorder
        self._epoch = plan.initial_epoch
        self.counts: Any = None  # of the step that was called last
        self._counts: Any = None
        self._random = False
        self._sums: list[Any] = []
        self.step = 0
        self.no_logs: dict[str, float] = {}

    def skips(self, step: int) -> bool:
        """Whether a step was done before the run was interrupted."""
        return self._epoch == self._plan.initial_epoch and step < (
            self._plan.initial_step
        )

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        super().on_epoch_begin(epoch, logs)
        self.no_logs = dict.fromkeys(self._trained.get_metrics_result(), 0.0)
        if self._autosave and (measured := self._autosave.measured()):
            for variable, value in zip(
                self._trained.metrics_variables, measured, strict=True
            ):
                variable.assign(value)

    def on_train_batch_begin(self, batch, logs=None):
        self.step = batch
        if not self.skips(batch):
            self._restore_random()
            super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self._steps:  # the evaluation begins by setting them to zero
            self._sums = [ops.copy(variable) for variable in self._measured()]
        if self.skips(batch):
            return
        counts = self.counts
        super().on_train_batch_end(batch, logs)
        # The step before is over; this one may still be under way.
        self._check()
        self._counts = counts
        if self._autosave:
            self._autosave.after_step(batch + 1, self._measured)

    def on_test_begin(self, logs=None):
        self._check()
        self._restore_random()
        if self._autosave:
            self._autosave.before_evaluation()
        super().on_test_begin(logs)

    def on_test_batch_end(self, batch, logs=None):
        super().on_test_batch_end(batch, logs)
        if self._autosave and self._autosave.signals.stop:
            # The evaluation can be had again; the time until the end may be short.
            self._measured()
            self._autosave.after_step(self._steps, lambda: self._sums)

    def _restore_random(self) -> None:
        if self._autosave and not self._random:
            self._autosave.restore_random()
        self._random = True

    def _check(self) -> None:
        if self._counts is not None:
            finite.check(self._counts)

    def _measured(self) -> list[Any]:
        if keras.backend.backend() == "jax":
            self._trained.jax_state_sync()
        return self._trained.metrics_variables


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
    """Train a compiled model with `keras.Model.fit`; evaluate it after each epoch."""
    # After a `NotFiniteError` the model is as it was before that step. What a step
    # takes, Keras compiles too late to `admit` it.
    model.optimizer.build(model.trainable_variables)
    finite.counts(model.optimizer)
    build_metrics(model)  # a checkpoint's are put back before they are used
    batches = Batches(train, plan)
    hooks = _Callbacks(
        [_Order(batches), *callbacks],
        model,
        plan,
        plan.steps(len(train)),
        autosave,
        recorder,
    )
    trained: Any = model
    mesh = mesh_of(model, plan)
    arguments = model, recorder.kind if recorder else "off", plan.rematerialize, mesh
    if getattr(vars(model).get("train_step"), "args", None) != arguments:
        step = _jax_step if keras.backend.backend() == "jax" else _step
        trained.train_step = functools.partial(step, *arguments)
        trained.train_function = None
    with _on_devices(trained, mesh):
        trained.make_train_function()
        whole: Any = trained.train_function
        trained.train_function = functools.partial(_train_or_skip, whole, hooks)
        try:
            model.fit(
                batches,
                epochs=plan.epochs,
                initial_epoch=plan.initial_epoch,
                validation_data=Batches(test, batch_size=plan.batch_size),
                shuffle=False,  # the order is ours: Keras's depends on global state
                callbacks=hooks,  # type: ignore[arg-type]
                verbose=0,  # type: ignore[arg-type]
            )
        finally:
            trained.train_function = whole


def mesh_of(model: keras.Model, plan: Plan) -> Mesh | None:
    """Return the devices that share a batch, as `placement.mesh` does; JAX's alone."""
    if keras.backend.backend() != "jax":
        return None
    from kerascnn.engine import placement

    return placement.mesh(model, plan.batch_size, plan.devices)


@contextlib.contextmanager
def _on_devices(model: Any, mesh: Mesh | None) -> Iterator[None]:
    """Have a model's variables and Keras's compiled steps on a mesh's devices."""
    if mesh is None:
        yield
        return
    import jax

    from kerascnn.engine import placement
    from kerascnn.process import memory

    memory.keep_less()

    def compiled(step: Callable[..., Any]) -> Callable[..., Any]:
        # As Keras compiles a step, and with what XLA is told of several devices.
        on_mesh = jax.jit(step, donate_argnums=0, **placement.options(mesh))

        def call(state: tuple, iterator: Iterator[Any]) -> tuple[dict, tuple]:
            # Values that Keras or a callback assigns, metrics at zero or a learning
            # rate, lie on one device. XLA would compile the step again for them.
            return on_mesh(placement.copied(mesh, state), next(iterator))

        return call

    def place(where: Callable[[Any], Any]) -> None:
        own = model.variables, model.optimizer.variables, model.metrics_variables
        for variable in itertools.chain(*own):
            variable.assign(where(variable.value))

    before = model.test_function
    try:
        place(functools.partial(placement.copied, mesh))
        model.train_function = compiled(model.train_step)
        model.test_function = compiled(functools.partial(_jax_test_step, model, mesh))
        yield
    except BaseException:
        # Of a first step that fails, Keras does not give the values back.
        with contextlib.suppress(Exception):
            place(placement.own)
        raise
    else:
        place(placement.own)
    finally:
        # Keras compiles others where it is called with one device's variables.
        model.train_function, model.test_function = None, before


def evaluate(model: keras.Model, split: Split, plan: Plan) -> dict[str, float]:
    """Measure weights that have changed since the last epoch's evaluation."""
    batches = Batches(split, batch_size=plan.batch_size)
    found: Any = model.evaluate(batches, verbose=0, return_dict=True)  # type: ignore
    return {name: float(value) for name, value in found.items()}


def _train_or_skip(whole: Callable[..., Any], hooks: _Callbacks, *arguments: Any):
    """Call a model's training function, but not for steps that were done before.

    The guard's counts go to the hooks, and the step's numbers to the recorder: they are
    no metric, and neither Keras's epoch nor a callback that calls `train_on_batch` must
    find them in the logs.
    """
    on_jax = keras.backend.backend() == "jax"
    if not hooks.skips(hooks.step):
        found = whole(*arguments)
        logs = found[0] if on_jax else found
        hooks.counts = logs.pop("guard")
        numbers = logs.pop("recorded", None)
        if numbers is not None:
            hooks.recorder.add(hooks.step, numbers[None])
        return found
    if on_jax:
        state, iterator = arguments
        next(iterator)
        return hooks.no_logs, state
    if keras.backend.backend() == "tensorflow":
        next(arguments[0])
    return hooks.no_logs


def _jax_step(
    model: Any,
    record: str,
    rematerialize: bool,
    mesh: Mesh | None,
    state: tuple,
    data: Any,
) -> tuple[dict, tuple]:
    """As `keras.Model.train_step` on JAX, but a bad step changes nothing."""
    import jax

    from kerascnn.engine import placement, remat

    weights, others, optimizer, metrics = state
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
    values = [
        *zip(model.trainable_variables, weights, strict=True),
        *zip(model.non_trainable_variables, others, strict=True),
        *zip(model.optimizer.variables, optimizer, strict=True),
    ]
    loss_of = compiled_loss(model, images, labels)
    forward = placement.on_mesh(mesh, model, remat.forward(model, rematerialize))
    with placement.tracing(mesh):
        logits, loss, found, new_others = gradients(
            *(model, images, loss_of, values, forward)
        )
    new_weights, new_optimizer = model.optimizer.stateless_apply(
        optimizer, found, weights
    )
    pairs = zip(model.metrics_variables, metrics, strict=True)
    with keras.StatelessScope(state_mapping=list(pairs)) as scope:
        logs = _logs(model, images, labels, logits, loss)
    new_metrics = [scope.get_current_value(v) for v in model.metrics_variables]

    index = finite.index(model.optimizer)
    keep, counts = finite.judge(optimizer[index], loss, found, model.optimizer)
    new_state = jax.tree.map(
        functools.partial(jax.numpy.where, keep),
        (new_weights, new_others, new_optimizer, new_metrics),
        (weights, others, optimizer, metrics),
    )
    new_state[2][index] = counts
    logs["guard"] = counts
    if record != "off":
        with keras.StatelessScope(state_mapping=values):
            rate = optim.shown_rate(model.optimizer)
            logs["recorded"] = recorder.row(
                *(record, model, loss, rate, found, weights, new_state[0])
            )
    return logs, new_state


def _jax_test_step(
    model: Any, mesh: Mesh, state: tuple, data: Any
) -> tuple[dict, tuple]:
    """As `keras.Model.test_step` on JAX, with batches that a mesh's devices share."""
    from kerascnn.engine import placement

    weights, others, metrics = state
    images, labels, factors = keras.utils.unpack_x_y_sample_weight(data)
    values = [
        *zip(model.trainable_variables, weights, strict=True),
        *zip(model.non_trainable_variables, others, strict=True),
        *zip(model.metrics_variables, metrics, strict=True),
    ]
    with keras.StatelessScope(state_mapping=values, collect_losses=True) as scope:
        with placement.tracing(mesh):
            logits = placement.on_mesh(mesh, model, model)(images, training=False)
        loss = model.compute_loss(images, labels, logits, factors, training=False)
        logs = _logs(model, images, labels, logits, loss, factors)
    new = [scope.get_current_value(variable) for variable, _ in values]
    ends = len(weights), len(weights) + len(others)
    return logs, (new[: ends[0]], new[ends[0] : ends[1]], new[ends[1] :])


def _step(model: Any, record: str, rematerialize: bool, mesh: None, data: Any) -> dict:
    """As `keras.Model.train_step` elsewhere, but a bad step changes nothing."""
    # A mesh is JAX's alone.
    images, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
    # What a forward pass changes besides the weights, with its values.
    variables = [*model.non_trainable_variables, *model.metrics_variables]
    before = [(variable, ops.copy(variable)) for variable in variables]
    loss_of = compiled_loss(model, images, labels)
    logits, loss, found, _ = gradients(model, images, loss_of)
    with _no_gradients():
        variable = finite.counts(model.optimizer)
        keep, counts = finite.judge(variable.value, loss, found, model.optimizer)
        variable.assign(counts)
        rate = optim.shown_rate(model.optimizer) if record != "off" else None
        rate = rate if rate is None else ops.copy(rate)  # a schedule goes by the step
        full = record == "full"
        old = [ops.copy(v) if full else v for v in model.trainable_variables]

        def update() -> None:
            model.optimizer.apply(found, model.trainable_variables)

        ops.cond(keep, update, lambda: None)
        logs = _logs(model, images, labels, logits, loss)
        if record != "off":
            logs["recorded"] = recorder.row(
                *(record, model, loss, rate, found, old, model.trainable_variables)
            )
        for other, value in before:
            other.assign(ops.where(keep, other, value))
        return logs | {"guard": ops.copy(counts)}


def _no_gradients() -> contextlib.AbstractContextManager[Any]:
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def _logs(
    model: Any, images: Any, labels: Any, logits: Any, loss: Any, factors: Any = None
) -> dict:
    """Count a batch in the metrics, and return them."""
    # The first metric is Keras's mean of the loss.
    model.metrics[0].update_state(loss, sample_weight=ops.shape(images)[0])
    return model.compute_metrics(images, labels, logits, factors)
