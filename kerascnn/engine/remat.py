"""Activations that the backward pass computes again, instead of keeping them.

The network is cut into stretches, where one array alone leads on. The forward pass
keeps the input of each stretch, and the backward pass computes the stretch again from
it: Chen et al. (2016), "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import keras

from kerascnn import UsageError
from kerascnn.acceleration import counted, materialize


@functools.lru_cache(maxsize=1)
def forward(model: keras.Model, rematerialize: bool) -> Callable[..., Any]:
    """Return what computes a model's outputs in a training."""
    return Forward(model) if rematerialize else model


def stateless(
    model: Any, forward: Callable[..., Any], weights: list, others: list, images: Any
) -> tuple[Any, list, list]:
    """Return what `model.stateless_call` does in training, by a forward pass."""
    if forward is model:
        return model.stateless_call(
            weights, others, images, training=True, return_losses=True
        )
    pairs = [
        *zip(model.trainable_variables, weights, strict=True),
        *zip(model.non_trainable_variables, others, strict=True),
    ]
    with keras.StatelessScope(state_mapping=pairs, collect_losses=True) as scope:
        logits = forward(images, training=True)
        penalties = model.losses
    new = [scope.get_current_value(v) for v in model.non_trainable_variables]
    return logits, new, penalties


class Forward:
    """The forward pass of a training that keeps only the inputs of stretches.

    It is called in a `keras.StatelessScope`, as the model would be.

    Args:
        model: As `training.build.build` returns the model to train: a chain that ends
            with the network.

    Raises:
        UsageError: The network is no graph of layers, or computes something else.
    """

    def __init__(self, model: keras.Model):
        network = model.layers[-1]
        if type(network) not in (type(model), keras.Sequential):
            raise UsageError(
                f"--remat cuts a Functional or Sequential network, and this "
                f"one is a {type(network).__name__}: train without --remat."
            )
        image, calls = _called(model)
        (x,), _ = calls[-1]
        self._before = keras.Model(image, x, name="before")
        self.stretches = _cut(network)

    def __call__(self, images: Any, training: bool = True) -> Any:
        x = self._before(images, training=training)
        for stretch in self.stretches[:-1]:
            x = _computed_again(stretch, x)
        # The backward pass begins with the last stretch, whose results are there.
        return self.stretches[-1](x, training=training)


def _computed_again(stretch: Any, x: Any) -> Any:
    """Call a stretch, of which its input and its variables alone are kept."""
    trained, others = stretch.trainable_variables, stretch.non_trainable_variables
    # The backward pass is traced later, when no images are left out of the means.
    y, values, penalties = _kept(stretch)(
        [v.value for v in trained], [v.value for v in others], x, counted.images()
    )
    if len(penalties) > sum(v.regularizer is not None for v in trained):
        raise UsageError(
            "--remat: a layer of the network adds a loss of its activations, which "
            "would be lost: train without --remat."
        )
    for variable, value in zip(others, values, strict=True):
        variable.assign(value)
    return y


def _kept(stretch: Any) -> Callable[..., Any]:
    """Return a stretch's stateless call, which its backward pass computes again."""

    def call(trained: list, others: list, x: Any, some: Any) -> Any:
        with counted.only(some):
            return stretch.stateless_call(
                trained, others, x, training=True, return_losses=True
            )

    def forward(*given: Any) -> tuple[Any, Any]:
        return call(*given), given

    def back(given: Any, gradients: Any) -> tuple[Any, Any, Any, Any]:
        trained, others, x, some = given
        # XLA drops `optimization_barrier` on a CPU before it merges equal operations,
        # those of the forward pass and these, so `jax.checkpoint` would keep them all.
        x, gradients = jax.lax.optimization_barrier((x, gradients))
        x = materialize.after(x, gradients[0])
        _, of = jax.vjp(lambda trained, x: call(trained, others, x, some), trained, x)
        found, of_x = of(gradients)
        return found, None, of_x, None

    again = jax.custom_vjp(call)
    again.defvjp(forward, back)
    return again


def _cut(network: Any) -> list[keras.Model]:
    """Cut a network into models, each of which takes what the one before returns."""
    image, calls = _called(network)
    found = []
    ends = [image, *_cuts(image, calls), calls[-1][1]]
    for begin, end in itertools.pairwise(ends):
        stretch: Any = keras.Model(begin, end, name=f"stretch_{len(found)}")
        # What the first one takes, the network casts to its own type.
        stretch.dtype_policy = network.dtype_policy
        stretch.autocast = network.autocast and not found
        found.append(stretch)
    return found


def _called(model: Any) -> tuple[Any, list[tuple[list, Any]]]:
    """Call a model's layers anew; return the input, and what each reads and returns."""
    # A layer's own `output` may be that of another model, which has the layer too.
    calls: list[tuple[list, Any]] = []

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        result = layer(*args, **kwargs)
        read = [each for each in keras.tree.flatten((args, kwargs)) if is_tensor(each)]
        calls.append((read, result))
        return result

    is_tensor = keras.backend.is_keras_tensor
    plain = keras.Model(model.inputs, model.outputs)
    (whole,) = plain.inputs
    image = keras.Input(batch_shape=whole.shape, dtype=whole.dtype)
    keras.models.clone_model(
        plain,
        input_tensors=[image],
        clone_function=lambda layer: layer,
        call_function=call,
    )
    return image, calls


def _cuts(image: Any, calls: list[tuple[list, Any]]) -> list[Any]:
    """Return the tensors to cut a network at, so that the fewest numbers are kept."""
    last = {id(x): place for place, (read, _) in enumerate(calls) for x in read}
    alone, between, computed, largest = last.get(id(image), 0), [], [0], 0
    for place, (_, result) in enumerate(calls[:-1]):
        computed[-1] += _numbers(result)
        largest = max(largest, _numbers(result))
        # At a block's end: no other tensor is read from here on, and the map has
        # become smaller. Inside a block fast layers know of each other.
        if place >= alone and 2 * _numbers(result) <= largest:
            between.append(result)
            computed.append(0)
            largest = 0
        alone = max(alone, last.get(id(result), 0))
    computed[-1] += _numbers(calls[-1][1])
    return [between[i] for i in cheapest(list(map(_numbers, between)), computed)]


def _numbers(tensor: Any) -> int:
    return math.prod(size or 1 for size in tensor.shape[1:])


def cheapest(kept: list[int], computed: list[int]) -> list[int]:
    """Choose cuts for the least sum of what is kept and the largest stretch.

    Args:
        kept: For each place where a cut may be, the numbers that it keeps.
        computed: The numbers that are computed before, between and after these places.
    """
    ends = list(itertools.accumulate(computed, initial=0))
    best, chosen = math.inf, []
    pairs = itertools.combinations(ends, 2)
    for most in sorted({end - begin for begin, end in pairs}):
        if most < max(computed):
            continue
        # The cheapest way to have a cut at each place, and the cut before it.
        costs: list[tuple[float, int]] = [(0, -1)]
        for place in range(1, len(ends)):
            own = kept[place - 1] if place <= len(kept) else 0
            costs.append(
                min(
                    (costs[before][0] + own, before)
                    for before in range(place)
                    if ends[place] - ends[before] <= most
                )
            )
        if costs[-1][0] + most < best:
            best, chosen, place = costs[-1][0] + most, [], costs[-1][1]
            while place > 0:
                chosen.insert(0, place - 1)
                place = costs[place][1]
    return chosen
