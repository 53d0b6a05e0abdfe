"""The fast engine, for JAX: the data on the device, the whole step compiled.

`keras.Model.fit` gathers each batch in NumPy, sends it to the device, and hands every
variable to Python and back at each step. Here the images go to the device once, as
uint8, and one compiled function picks a batch, transforms it, computes the gradient and
updates the weights in place. The numbers are those of `fit`: same order of images, same
random draws, same arithmetic (tests/engine/test_engines.py).
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from kerascnn import data, optim
from kerascnn.acceleration import counted, stock_operations
from kerascnn.engine import (
    accumulation,
    finite,
    losses,
    placement,
    recorder,
    remat,
    summed,
)
from kerascnn.engine.executables import Executables
from kerascnn.engine.placement import Images
from kerascnn.engine.steps import build_metrics
from kerascnn.process import memory

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from kerascnn.data import Split
    from kerascnn.engine.plan import Plan
    from kerascnn.engine.recorder import Recorder
    from kerascnn.training.autosave import Autosave

# On a GPU a small net's step is over before Python has called the next one, so one
# call runs up to so many steps. On a CPU a call holds one step, because XLA's
# convolutions are far slower inside a loop.
STEPS_A_CALL = 50

# XLA compiles the last, partial batch of an epoch anew because its shape is another.
# Where the batch is smaller than this part of the set, the step is made of the stock
# operations: compiling it takes less time and memory, and the step runs only once an
# epoch.
PARTIAL = 1 / 200

State = dict[str, Any]
# Images, labels, and the indices of the batches among them.
Call = tuple[Any, Any, Any]


def fit(
    model: keras.Model,
    train: Split,
    test: Split,
    plan: Plan,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    steps_a_call: int | None = None,
    autosave: Autosave | None = None,
    recorder: Recorder | None = None,
    admit: Callable[[int], object] | None = None,
) -> None:
    """Train a compiled model as `keras.Model.fit` would, faster.

    The loss is the mean softmax cross-entropy on logits plus the model's own losses
    (L2), whatever the model was compiled with; but a `losses.SmoothedCrossentropy`'s
    smoothing counts. Of the hooks for single batches only `on_train_batch_end` is
    called, without logs, and only where the callback says `needs_no_state = True`.
    After a `NotFiniteError` the model is as it was before that step. `admit` is called
    before the first step, with the bytes that it takes on all devices of one memory
    besides what is held by then, and may raise.
    """
    loop = Loop(
        model, train, test, plan, callbacks, steps_a_call, autosave, recorder, admit
    )
    loop.run()


class Loop:
    """One training: the epochs, and what Keras's hooks can read and write in each.

    `keras.Model.fit` lets a callback read and change weights, optimiser and metrics in
    every hook. The variables of weights and optimiser are up to date here between two
    compiled calls anyway; the metrics, and weights that change before an evaluation,
    cost a moment, so only callbacks from outside this package are given them.
    """

    def __init__(
        self,
        model: keras.Model,
        train: Split,
        test: Split,
        plan: Plan,
        callbacks: Sequence[keras.callbacks.Callback],
        steps_a_call: int | None,
        autosave: Autosave | None,
        recorder: Recorder | None,
        admit: Callable[[int], object] | None,
    ):
        if steps_a_call is None:
            on_cpu = jax.default_backend() == "cpu"
            whole = len(train) // plan.batch_size
            steps_a_call = 1 if on_cpu else steps_together(whole)
        self.model, self.plan, self.autosave = model, plan, autosave
        self.recorder = recorder if recorder and recorder.kind != "off" else None
        self.steps_a_call = steps_a_call
        self.images = len(train), len(test)
        model.optimizer.build(model.trainable_variables)
        self.mesh = placement.mesh(model, plan.batch_size, plan.devices)
        self.fill = placement.is_filled_up(model)
        if self.mesh is not None:
            memory.keep_less()
        self.training, self.evaluation = _functions(
            model,
            model.optimizer,
            self.mesh,
            plan.batch_size,
            self.recorder.kind if self.recorder else "off",
            plan.accumulate,
            plan.rematerialize,
            self.images[0],
        )
        self.place(train, test)
        self.foreign = not all(map(needs_no_state, callbacks))
        self.steppers = [c for c in callbacks if needs_no_state(c)]
        self.done = 0
        self.admit = admit
        if self.foreign:
            build_metrics(model)
        self.hooks = keras.callbacks.CallbackList(
            [*callbacks, *(own for own in (recorder, autosave) if own)],
            add_history=True,
            model=model,
            epochs=plan.epochs,
            steps=plan.steps(len(train)),
            verbose=0,
        )

    def place(self, train: Split, test: Split) -> None:
        """Bring the images to the devices."""
        self.train = placement.copied(self.mesh, (train.images, train.labels))
        self.test = placement.copied(self.mesh, (test.images, test.labels))

    def training_calls(self, epoch: int, together: int = 0) -> Iterator[Call]:
        """Yield what the compiled training steps are given in an epoch, call by call.

        A call holds `together` steps; 0: as many as the engine takes.
        """
        together = together or self.steps_a_call
        calls = _calls(self.plan, epoch, self.images[0], together, self.done)
        for chosen in calls:
            yield *self.train, placement.cut(self.mesh, chosen, self.fill)

    def evaluation_calls(self, epoch: int, images: int) -> Iterator[Call]:
        """Yield what the compiled evaluation of the first images is given."""
        for chosen in evaluation_calls(images, self.plan.batch_size):
            yield *self.test, placement.cut(self.mesh, chosen[None], self.fill)

    def run(self) -> None:
        model, logs = self.model, {}
        model.stop_training = False
        self.hooks.on_train_begin()
        try:
            for epoch in range(self.plan.initial_epoch, self.plan.epochs):
                if self.foreign:
                    model.reset_metrics()
                self.hooks.on_epoch_begin(epoch)
                state = self._train_epoch(epoch)
                logs = summed.means(state["sums"])
                if self.foreign:
                    summed.write_metrics(model, state["sums"])
                validation = self._evaluate(epoch, state)
                del state
                memory.trim()
                logs |= {f"val_{name}": value for name, value in validation.items()}
                self.hooks.on_epoch_end(epoch, logs)
                if model.stop_training:
                    break
        finally:
            # With `use_ema` the weights to keep are the averages.
            model.optimizer.finalize_variable_values(model.trainable_weights)
        self.hooks.on_train_end(logs)

    def _train_epoch(self, epoch: int) -> State:
        """Train an epoch from what the variables hold; return the state after it."""
        model, plan, autosave = self.model, self.plan, self.autosave
        # The index may change between epochs: where a callback sets a schedule as
        # learning rate, Keras drops the variable of the learning rate.
        counter = finite.index(model.optimizer)
        state = read_state(model)
        if self.foreign:
            state["sums"] = summed.read_metrics(model)
        self.done = plan.initial_step if epoch == plan.initial_epoch else 0
        if autosave and (measured := autosave.measured()):
            state["sums"] = dict(
                zip(sorted(state["sums"]), map(jnp.array, measured), strict=True)
            )
        state = placement.copied(self.mesh, state)
        calls = self.training_calls(epoch)
        if model.stop_training:
            # Keras looks at it after each step, so one step is trained all the same.
            calls = islice(self.training_calls(epoch, together=1), 1)
        try:
            for images, labels, chosen in calls:
                self._admit(state, images, labels, chosen)
                # Calls return before they are computed; waiting for the one before
                # keeps the bar honest and one call ready.
                finite.check(state["optimizer"][counter])
                state = self.training(state, images, labels, chosen)
                if self.recorder:
                    state, rows = state
                    self.recorder.add(self.done, rows)
                for step in range(self.done, self.done + chosen.shape[0]):
                    for callback in self.steppers:
                        callback.on_train_batch_end(step)
                self.done += chosen.shape[0]
                if autosave:
                    measured = functools.partial(_measured, model, state)
                    autosave.after_step(self.done, measured)
                if model.stop_training:
                    break
            finite.check(state["optimizer"][counter])
        finally:
            # The variables' own arrays were given away: without this, an interrupted
            # run would leave a model with no weights.
            _write(model, state)
        return state

    def _admit(self, state: State, *batch: Any) -> None:
        """Say before the first step what it takes; the step's compilation is needed."""
        admit, self.admit = self.admit, None
        if admit and (planned := self.training.planned(state, *batch)):
            admit(planned.besides * placement.sharing_memory(self.mesh))

    def _evaluate(self, epoch: int, state: State) -> dict[str, float]:
        """Evaluate a state, or what callbacks make of it; return the metrics."""
        model, autosave = self.model, self.autosave
        trained = summed.in_order(state["sums"])
        model.stop_evaluating = False
        if autosave:
            autosave.before_evaluation()
        self.hooks.on_test_begin()
        if self.foreign:
            state = placement.copied(self.mesh, read_state(model))
        images, batch_size = self.images[1], self.plan.batch_size
        if model.stop_evaluating:
            images = min(images, batch_size)
        sums = placement.copied(self.mesh, summed.zeros())
        for call in self.evaluation_calls(epoch, images):
            # Calls that wait would each have their own memory.
            jax.block_until_ready(sums)
            sums = self.evaluation(state, sums, *call)
            if autosave:
                autosave.signals.agree()
            if autosave and autosave.signals.stop:
                # The evaluation can be had again; the time until the end may be short.
                autosave.after_step(self.done, lambda: trained)
        if self.foreign:
            summed.write_metrics(model, sums)
        validation = summed.means(sums)
        self.hooks.on_test_end(validation)
        return validation


def needs_no_state(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback says that its hooks read no variables and no logs."""
    return getattr(callback, "needs_no_state", False)


def wants_batches(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback has a hook for single batches that `fit` serves."""
    # The compiled step has no logs, and its weights are not in the variables.
    names = [
        *("on_batch_begin", "on_batch_end", "on_train_batch_begin"),
        *("on_test_batch_begin", "on_test_batch_end"),
    ]
    if not needs_no_state(callback):
        names.append("on_train_batch_end")
    plain = keras.callbacks.Callback
    # A hook may also sit on the instance, as `LambdaCallback` puts it there.
    return any(
        getattr(getattr(callback, name), "__func__", None) is not getattr(plain, name)
        for name in names
    )


def fits(*splits: Split) -> bool:
    """Whether the device's free memory holds these splits with as much room again."""
    needed = 2 * sum(split.images.nbytes + split.labels.nbytes for split in splits)
    room = placement.free_on_device()
    if room is None:  # a CPU
        return not hasattr(os, "sysconf") or needed < (
            os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        )
    return needed < room


@functools.lru_cache(maxsize=1)
def _functions(
    model: keras.Model,
    optimizer: keras.Optimizer,
    mesh: Mesh | None,
    batch_size: int,
    record: str,
    accumulate: int,
    rematerialize: bool,
    images: int,
) -> tuple[Executables, Executables]:
    # Kept from one `fit` to the next, as Keras keeps its own: the second compiles
    # nothing. Another optimiser is part of the training step, so it counts too.
    training = training_function(
        model, mesh, batch_size, record, accumulate, rematerialize, images
    )
    return training, _evaluation_function(model, mesh)


def training_function(
    model: keras.Model,
    mesh: Mesh | None = None,
    batch_size: int = 0,
    record: str = "off",
    accumulate: int = 1,
    rematerialize: bool = False,
    number: int | None = None,
) -> Executables:
    """Return the compiled training step of a model, its optimiser built.

    It is a function of a state (as `read_state` returns it; its arrays are given away),
    the images, uint8, the labels, int32, and the indices of some batches, int32
    `(steps, batch)`; it returns the state after these steps, whose `sums` have grown by
    the batches' losses and hits; with `record`, that state and the steps' numbers, as
    `recorder.row` has them. State and images are on each device of the mesh, the
    batches cut. With `accumulate`, a step computes this part of `batch_size` images at
    a time, and updates the weights by the gradient of all; with `rematerialize`, the
    backward pass computes activations again. `number` is that of the set's images,
    where the images given are a part.
    """
    # XLA's own convolutions are slow inside a loop on a CPU.
    unroll = accumulate > 1 and not placement.is_fast_in_a_loop(model)
    forward = remat.forward(model, rematerialize)
    step = _step_function(model, record, unroll, forward)

    def parts(batch: jax.Array, number: int, alone: bool) -> tuple[Images, Images]:
        if accumulate > 1:
            return placement.pieces(mesh, batch, batch_size // accumulate, number)
        within = mesh if alone else None
        found = placement.in_parts(within, model, batch, number)
        return found, Images(batch[:0], None, 0)

    def steps(
        state: State, images: jax.Array, labels: jax.Array, batches: placement.Batches
    ) -> State | tuple[State, jax.Array]:
        chosen, counted_images = placement.of_arguments(batches)
        whole = len(images) if number is None else number
        partial = counted_images < min(batch_size, PARTIAL * whole)
        stock = mesh is not None and partial
        operations = stock_operations() if stock else contextlib.nullcontext()
        with placement.tracing(mesh), operations:
            if len(chosen) == 1:
                batch = parts(chosen[0], counted_images, True)
                state, numbers = step(state, images, labels, *batch)
                rows = None if numbers is None else numbers[None]
            else:
                state, rows = jax.lax.scan(
                    lambda state, each: step(
                        state, images, labels, *parts(each, counted_images, False)
                    ),
                    state,
                    chosen,
                )
            return state if rows is None else (state, rows)

    return Executables(steps, {"donate_argnums": 0, **placement.options(mesh)})


def _step_function(
    model: keras.Model, record: str, unroll: bool, forward: Callable[..., Any]
) -> Callable[..., tuple[State, jax.Array | None]]:
    """Return one training step: of a state, images, labels, and a batch's indices."""
    # The images come as equal parts, and what is left over, which may be nothing.
    optimizer, lowered = model.optimizer, losses.settings_of(model)
    finite.counts(optimizer)  # the variable must be there before a trace

    def loss_of(weights, others, slots, images, labels, some, number):
        with counted.only(some):
            logits, others, penalties = remat.stateless(
                model, forward, weights, others, images
            )
        sums = summed.measure(logits, labels, penalties, *lowered, counted=some)
        loss = sums["loss"] / (sums["images"] if some is None else number)
        # The scale of half precision is one of the optimiser's variables.
        pairs = zip(optimizer.variables, slots, strict=True)
        with keras.StatelessScope(state_mapping=list(pairs)):
            return optimizer.scale_loss(loss), (others, sums)

    gradient = jax.grad(loss_of, has_aux=True)

    def step(
        state: State,
        images: jax.Array,
        labels: jax.Array,
        parts: Images,
        rest: Images,
    ) -> tuple[State, jax.Array | None]:
        counter = finite.index(optimizer)

        def of(weights, others, chosen):
            batch = images[chosen.indices], labels[chosen.indices]
            count = chosen.counted, chosen.number
            return gradient(weights, others, state["optimizer"], *batch, *count)

        gradients, (others, sums) = accumulation.gradients(
            *(
                of,
                state["weights"],
                state["others"],
                parts,
                rest,
                summed.zeros(),
                unroll,
            )
        )
        weights, slots = optimizer.stateless_apply(
            state["optimizer"], gradients, state["weights"]
        )
        new = {
            "weights": weights,
            "others": others,
            "optimizer": slots,
            "sums": jax.tree.map(jnp.add, state["sums"], sums),
        }
        keep, counts = finite.judge(
            state["optimizer"][counter], sums["loss"], gradients, optimizer
        )

        def kept(new: jax.Array, old: jax.Array) -> jax.Array:
            # As in a Keras variable, a value has the variable's type: with JAX's 64-bit
            # types enabled it may have been computed in a wider one.
            return jnp.where(keep, new.astype(old.dtype), old)

        # The update reads the old values anyway: choosing costs no pass of its own.
        new = jax.tree.map(kept, new, state)
        new["optimizer"][counter] = counts
        return new, _numbers(record, model, state, new, gradients, sums)

    return step


def _numbers(
    record: str, model: Any, state: State, new: State, gradients: list, sums: State
) -> jax.Array | None:
    """Return what is recorded of a step from one state to a new one."""
    if record == "off":
        return None
    optimizer, loss = model.optimizer, sums["loss"] / sums["images"]
    pairs = zip(optimizer.variables, state["optimizer"], strict=True)
    with keras.StatelessScope(state_mapping=list(pairs)):
        return recorder.row(
            *(record, model, loss, optim.shown_rate(optimizer)),
            *(gradients, state["weights"], new["weights"]),
        )


def _evaluation_function(model: keras.Model, mesh: Mesh | None) -> Executables:
    lowered = losses.settings_of(model)

    def evaluate(
        state: State,
        sums: State,
        images: jax.Array,
        labels: jax.Array,
        batches: placement.Batches,
    ) -> State:
        chosen, number = placement.of_arguments(batches)
        every = chosen.shape[1]
        some = None if number == every else jnp.arange(every) < number
        with placement.tracing(mesh):
            logits, _, penalties = model.stateless_call(
                state["weights"],
                state["others"],
                images[chosen[0]],
                training=False,
                return_losses=True,
            )
            new = summed.measure(
                logits, labels[chosen[0]], penalties, *lowered, counted=some
            )
            return jax.tree.map(jnp.add, sums, new)

    options = {"donate_argnums": 1, **placement.options(mesh)}
    return Executables(evaluate, options)


def steps_together(whole: int) -> int:
    """Choose how many steps go into one call where one alone is too short.

    The largest divisor of an epoch's whole batches up to `STEPS_A_CALL`, because a step
    that is left over is compiled once more; `STEPS_A_CALL` where none is worth the
    name.
    """
    even = (n for n in range(STEPS_A_CALL, 9, -1) if whole % n == 0)
    return next(even, STEPS_A_CALL)


def _calls(
    plan: Plan, epoch: int, images: int, steps_a_call: int, done: int = 0
) -> list[np.ndarray]:
    """Cut an epoch's order into arrays `(steps, batch)`, one for each compiled call."""
    # The cuts are the same wherever the epoch goes on: a step inside a compiled loop
    # and one alone may round differently.
    order = data.order(plan.seed, epoch, images).astype(np.int32)
    whole = len(order) // plan.batch_size
    batches = order[: whole * plan.batch_size].reshape(whole, plan.batch_size)
    # The steps left over go one by one: a call of another length compiles anew.
    cut = whole - whole % steps_a_call
    calls = [batches[i : i + steps_a_call] for i in range(0, cut, steps_a_call)]
    calls += [batches[i : i + 1] for i in range(cut, whole)]
    rest = order[whole * plan.batch_size :]
    if len(rest) and not plan.drop_last:
        calls.append(rest[None])
    while done > 0:
        call = calls.pop(0)
        if done < len(call):  # saved where other steps went into one call
            calls[:0] = [call[i : i + 1] for i in range(done, len(call))]
        done -= len(call)
    return calls


def evaluation_calls(images: int, batch_size: int) -> list[np.ndarray]:
    """Cut a set into batches: of equal size, where one near `batch_size` divides it."""
    # A smaller last one would be compiled anew, and no value depends on the others.
    equal = (n for n in range(batch_size, batch_size // 2, -1) if images % n == 0)
    size = next(equal, batch_size)
    every = np.arange(images, dtype=np.int32)
    return [every[i : i + size] for i in range(0, images, size)]


def read_state(model: keras.Model) -> State:
    """Return a model's and its optimiser's values, with the epoch's sums at zero."""
    return {
        "weights": [v.value for v in model.trainable_variables],
        "others": [v.value for v in model.non_trainable_variables],
        "optimizer": [v.value for v in model.optimizer.variables],
        "sums": summed.zeros(),
    }


def _measured(model: keras.Model, state: State) -> list[jax.Array]:
    """Put a state into the model's variables; return the epoch's sums."""
    _write(model, state)
    return summed.in_order(state["sums"])


def _write(model: keras.Model, state: State) -> None:
    for variables, values in (
        (model.trainable_variables, state["weights"]),
        (model.non_trainable_variables, state["others"]),
        (model.optimizer.variables, state["optimizer"]),
    ):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(placement.own(value))
