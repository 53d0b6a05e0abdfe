"""A model whose layers are replaced by fast ones."""

import collections
import functools
import types
from typing import Any

import keras

from kerascnn import UsageError
from kerascnn.acceleration.layers import (
    FAST_LAYERS,
    BatchNormalization,
    Conv2D,
    MaxPooling2D,
)


def accelerate(model):
    """A model that computes the same from the same weights, with faster gradients.

    Every `Conv2D`, `MaxPooling2D`, `BatchNormalization`, `Activation` and `Dropout` is
    replaced by a fast layer, in nested models too; every other layer is shared with the
    model that was passed.
    A fast layer and its original are one layer in two graphs: variables, settings and
    `trainable` are common to both, whenever they are set, so training either model
    trains both. The models' own settings, and which layers they have, are the fast
    one's from now on: set `trainable` of a whole model on the one that you train, and
    call `accelerate` again after `Sequential.add` or `compile`.
    Train the fast one, save the original: the file is plain Keras and needs nothing of
    this package. A file of the fast one needs `import kerascnn.acceleration` before it
    is opened.

    A subclass stays one, with its own `train_step`, `compute_loss` and attributes; its
    constructor is not called. A compiled model comes back compiled with the same
    objects: losses, metrics, and the optimiser, whose state belongs to the variables
    that both models share.

    Args:
        model: a built Functional or Sequential model.

    Returns:
        The fast model, or `model` itself if Keras does not run on JAX.

    Raises:
        UsageError: if the model is no graph of layers or has no weights yet, or if an
            attribute or a weight of its own cannot be set in the fast model.

    Example:
        >>> model = keras.Sequential(
        ...     [keras.Input((28, 28, 1)), keras.layers.Conv2D(6, 5)]
        ... )
        >>> accelerate(model).layers[0].kernel is model.layers[0].kernel
        True
    """
    if keras.backend.backend() != "jax":
        return model
    if not is_graph(model):
        raise UsageError(
            f"accelerate() got a {type(model).__name__}; it takes a Functional or "
            "Sequential model: pass its inputs and outputs to keras.Model first."
        )
    if not model.built:
        raise UsageError(
            f"accelerate() got the unbuilt model {model.name!r}; it takes a built one: "
            "start the model with keras.Input(shape)."
        )
    return _fast_model(model, fast_layers={})


def is_graph(layer):
    """Whether a layer is a model that is its layers, Functional or Sequential."""
    # Keras exports no class for Functional models; their list of operations is public.
    return isinstance(layer, keras.Sequential) or (
        isinstance(layer, keras.Model) and hasattr(layer, "operations")
    )


def _fast_model(model, fast_layers):
    """The fast model of a model; `fast_layers` are those made before, by identity."""

    def fast(layer):
        if id(layer) not in fast_layers:
            fast_layers[id(layer)] = make(layer)
        return fast_layers[id(layer)]

    def make(layer):
        if is_graph(layer):
            return _fast_model(layer, fast_layers)
        kind = FAST_LAYERS.get(type(layer))  # a subclass may compute something else
        return kind.sharing(layer) if kind else layer

    read = []  # the tensors that each operation of the graph reads

    def call(operation, *args, **kwargs):
        read.extend(keras.tree.flatten((args, kwargs)))
        return operation(*args, **kwargs)

    # Neither compiled nor a subclass: Keras would take the class by the arguments of
    # its constructor, and compile from a configuration.
    is_sequential = isinstance(model, keras.Sequential)
    ends = ("inputs", "outputs") if is_sequential else ("input", "output")
    plain = keras.Model(*(getattr(model, end) for end in ends), name=model.name)
    inputs: Any = _inputs_like(plain)
    if is_sequential:
        parent, graph = keras.Sequential, ([*inputs, *map(fast, model.layers)],)
    else:
        clone = keras.models.clone_model(
            plain, input_tensors=inputs, clone_function=fast, call_function=call
        )
        parent, graph = type(plain), (clone.input, clone.output)
    # The user's own constructor is passed over, because its arguments are not known.
    made = parent.__new__(type(model))
    parent.__init__(made, *graph, trainable=model.trainable, name=model.name)
    for name in _SWITCHES:
        setattr(made, name, getattr(model, name))
    made._remat_mode = model._remat_mode
    _copy_attributes(model, made, fast_layers)
    _check_weights(model, made)
    if is_sequential:
        read = [each.input for each in made.layers]
    _link(made.layers, [*read, *made.outputs])
    if model.compiled:
        _compile_alike(model, made)
    return made


# Settings of a model that its constructor takes from the process, or from nowhere.
_SWITCHES = ("dtype_policy", "autocast", "activity_regularizer")
_SWITCHES += ("supports_jit", "supports_masking")


def _link(layers, read):
    """Let fast layers ask the layer before, where JAX shows them its result alone.

    A convolution asks a BatchNorm for its affine input; a pooling asks a convolution
    whose result nothing else reads to pool it.

    Args:
        layers: of a model.
        read: the tensors that something reads, as often as they are read.
    """
    asked = (BatchNormalization, Conv2D)
    before = {id(each.output): each for each in layers if type(each) in asked}
    times = collections.Counter(map(id, read))
    for layer in layers:
        if type(layer) not in (Conv2D, MaxPooling2D):
            continue
        other = before.get(id(layer.input))
        if type(layer) is Conv2D and type(other) is BatchNormalization:
            layer.asks = other.affine_input
        elif (
            type(layer) is MaxPooling2D
            and type(other) is Conv2D
            and times[id(layer.input)] == 1
            and other.activation in (keras.activations.linear, keras.activations.relu)
            and other.activity_regularizer is None
        ):
            layer.asks, other.feeds_pooling = other.pooled, True


def _inputs_like(model):
    """New inputs as a functional model's own."""
    # Left alone, clone_model gives the inputs new names.
    made = {
        id(layer.output): keras.Input(
            batch_shape=layer.output.shape,
            dtype=layer.output.dtype,
            sparse=layer.output.sparse,
            name=layer.name,
            optional=layer.optional,
        )
        for layer in model.layers
        if isinstance(layer, keras.layers.InputLayer)
    }
    return keras.tree.map_structure(lambda x: made[id(x)], model.input)


# Attributes of a model in which `compile` and `fit` keep their own state.
_OF_COMPILE_AND_FIT = {
    *("optimizer", "history", "stop_training", "stop_evaluating", "stop_predicting"),
    *("_compile_config", "_compiled_trainable_state", "_eval_epoch_iterator"),
    *("_jax_state", "_losses_override"),
}


def _copy_attributes(original, made, fast_layers):
    """Set what the user has set in a model, and Keras has not."""
    for name, value in list(vars(original).items()):
        if name in vars(made) or name in _OF_COMPILE_AND_FIT:
            continue
        try:
            setattr(made, name, _moved(value, original, made, fast_layers))
        except Exception as error:
            raise UsageError(
                f"accelerate() cannot set the attribute {name!r} of "
                f"{original.name!r}, a {type(original).__name__}, anew: {error}"
            ) from error


def _moved(value, original, made, fast_layers):
    """A value of a model as the fast one holds it."""
    # A layer of the graph becomes its fast one, a method bound to the original is bound
    # to what was made.
    move = functools.partial(
        _moved, original=original, made=made, fast_layers=fast_layers
    )
    if value is original:
        return made
    if isinstance(value, types.MethodType) and value.__self__ is original:
        return types.MethodType(value.__func__, made)
    if isinstance(value, functools.partial):
        keywords = {name: move(each) for name, each in value.keywords.items()}
        return functools.partial(move(value.func), *map(move, value.args), **keywords)
    if isinstance(value, list | tuple | dict):
        held = [id(each) for each in keras.tree.flatten(value)]
        if not fast_layers.keys().isdisjoint(held):
            return keras.tree.map_structure(move, value)
    return fast_layers.get(id(value), value)


def _check_weights(model, made):
    """Refuse a model with a weight that none of its attributes or layers holds."""
    found = {id(variable) for variable in made.variables}
    for variable in model.variables:
        if id(variable) not in found:
            raise UsageError(
                f"accelerate() cannot find the weight {variable.path!r} in an "
                f"attribute or a layer of {model.name!r}: keep it in an attribute."
            )


def _compile_alike(model, made):
    """Compile with the objects that a model was compiled with, not with copies."""
    # Keras's public `get_compile_config` writes a configuration down, from which a
    # function or an optimiser of the user's cannot be read again.
    settings = getattr(model, "_compile_config", None)
    if settings is None:
        raise UsageError(
            f"accelerate() cannot see how the model {model.name!r} was compiled: call "
            "accelerate() first, then compile what it returns."
        )
    # Not the class's own `compile`, whose arguments are not known: what it has set in
    # the model is copied.
    words = settings.config | {"optimizer": model.optimizer, "auto_scale_loss": False}
    keras.Model.compile(made, **words)
    for name in ("run_eagerly", "jit_compile", "steps_per_execution"):
        setattr(made, name, getattr(model, name))
