"""A model whose layers are replaced by fast ones."""

import collections
import types

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

    Every `Conv2D`, `MaxPooling2D`, `BatchNormalization` and `Dropout` (at its present
    rate) is replaced by a fast layer, in nested models too; every other layer is shared
    with the model that was passed.
    All variables are the original's own, so training either model trains both, and a
    layer frozen in one is frozen in the other (set `trainable` of a whole model on the
    one that you train). Train the fast one, save the original: the file is plain Keras
    and needs nothing of this package. A file of the fast one needs
    `import kerascnn.acceleration` before it is opened.

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
            attribute of its own cannot be set in the fast model.

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
        # A subclass may compute something else, and LoRA changes the kernel.
        kind = FAST_LAYERS.get(type(layer))
        if kind is None or getattr(layer, "lora_enabled", False) or _is_patched(layer):
            return layer
        return kind.sharing(layer)

    read = []  # the tensors that each operation of the graph reads

    def call(operation, *args, **kwargs):
        read.extend(keras.tree.flatten((args, kwargs)))
        return operation(*args, **kwargs)

    if isinstance(model, keras.Sequential):
        parent, image = keras.Sequential, model.inputs[0]
        image = keras.Input(batch_shape=image.shape, dtype=image.dtype, name=image.name)
        graph = ([image, *map(fast, model.layers)], model.trainable)
    else:
        # Of a model that is neither compiled nor a subclass: Keras would take the class
        # by the arguments of its constructor, and compile from a configuration.
        plain = keras.Model(model.input, model.output)
        clone = keras.models.clone_model(
            plain,
            input_tensors=_inputs_like(model),
            clone_function=fast,
            call_function=call,
        )
        parent, graph = type(plain), (clone.input, clone.output)
    # The user's own constructor is passed over, because its arguments are not known.
    made = parent.__new__(type(model))
    parent.__init__(made, *graph, name=model.name)
    # A clone takes the global policy; by the model's own, `compile` scales its loss.
    made.dtype_policy = model.dtype_policy
    for layer in model.layers:
        if fast(layer) is not layer and not is_graph(layer):
            _copy_attributes(layer, fast(layer), fast_layers)
    _copy_attributes(model, made, fast_layers)
    if isinstance(model, keras.Sequential):
        read = [each.input for each in made.layers]
    _link(made.layers, [*read, *made.outputs])
    if model.compiled:
        _compile_alike(model, made)
    return made


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
            layer.affine_input = other.affine_input
        elif (
            type(layer) is MaxPooling2D
            and type(other) is Conv2D
            and times[id(layer.input)] == 1
            and other.activation in (keras.activations.linear, keras.activations.relu)
            and other.activity_regularizer is None
        ):
            layer.pooled, other.feeds_pooling = other.pooled, True


def _inputs_like(model):
    """New inputs with the names of a functional model's own."""
    # Left alone, clone_model gives the inputs new names.
    names = {
        id(layer.output): layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.InputLayer)
    }
    return keras.tree.map_structure(
        lambda x: keras.Input(
            batch_shape=x.shape, dtype=x.dtype, name=names.get(id(x))
        ),
        model.input,
    )


# Attributes of a model in which `compile` and `fit` keep their own state.
_OF_COMPILE_AND_FIT = {
    *("optimizer", "history", "stop_training", "stop_evaluating", "stop_predicting"),
    *("_compile_config", "_compiled_trainable_state", "_eval_epoch_iterator"),
    *("_jax_state", "_losses_override"),
}


def _copy_attributes(original, made, fast_layers):
    """Set what the user has set in a layer or a model, and Keras has not."""
    # A layer of the graph becomes its fast one, a method bound to the original is bound
    # to what was made.
    for name, value in list(vars(original).items()):
        private = name.startswith("_") and not isinstance(original, keras.Model)
        if name in vars(made) or name in _OF_COMPILE_AND_FIT or private:
            continue
        if isinstance(value, types.MethodType) and value.__self__ is original:
            value = types.MethodType(value.__func__, made)
        try:
            setattr(made, name, fast_layers.get(id(value), value))
        except Exception as error:
            raise UsageError(
                f"accelerate() cannot set the attribute {name!r} of "
                f"{original.name!r}, a {type(original).__name__}, anew: {error}"
            ) from error


def _is_patched(layer):
    """Whether one of a layer's methods has been replaced in this layer alone."""
    return any(
        callable(value) and callable(getattr(type(layer), name, None))
        for name, value in vars(layer).items()
        if name not in ("build", "quantize")  # which Keras wraps in every layer
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
