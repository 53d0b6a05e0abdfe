"""A model whose layers are replaced by fast ones."""

import keras

from kerascnn import UsageError
from kerascnn.acceleration.layers import FAST_LAYERS


def accelerate(model):
    """A model that computes the same from the same weights, with faster gradients.

    Every `Conv2D`, `MaxPooling2D`, `BatchNormalization` and `Dropout` (at its present
    rate) is replaced by a fast twin, in nested models too; every other layer is shared
    with the model that was passed.
    All variables are the original's own, so training either model trains both, and a
    layer frozen in one is frozen in the other (set `trainable` of a whole model on the
    one that you train). Train the fast one, save the original: the file is plain Keras
    and needs nothing of this package. A file of the fast one needs
    `import kerascnn.acceleration` before it is opened.

    A compiled model comes back compiled from the same configuration, with a new
    optimiser.

    Args:
        model: a built Functional or Sequential model.

    Returns:
        The fast model, or `model` itself if Keras does not run on JAX.

    Raises:
        UsageError: if the model is subclassed, or has no weights yet.

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
    return _fast_model(model, twins={})


def is_graph(layer):
    """Whether a layer is a model that is its layers, Functional or Sequential."""
    # Keras exports no class for Functional models; their list of operations is public.
    return isinstance(layer, keras.Sequential) or (
        isinstance(layer, keras.Model) and hasattr(layer, "operations")
    )


def _fast_model(model, twins):
    """The fast twin of a model; `twins` are those of layers met before, by identity."""

    def twin(layer):
        if id(layer) not in twins:
            twins[id(layer)] = make(layer)
        return twins[id(layer)]

    def make(layer):
        if is_graph(layer):
            return _fast_model(layer, twins)
        # A subclass may compute something else, and LoRA changes the kernel.
        fast = FAST_LAYERS.get(type(layer))
        if fast is None or getattr(layer, "lora_enabled", False):
            return layer
        return fast.sharing(layer)

    inputs = None
    if not isinstance(model, keras.Sequential):
        # Left alone, clone_model gives the inputs new names.
        names = {
            id(layer.output): layer.name
            for layer in model.layers
            if isinstance(layer, keras.layers.InputLayer)
        }
        inputs = keras.tree.map_structure(
            lambda x: keras.Input(
                batch_shape=x.shape, dtype=x.dtype, name=names.get(id(x))
            ),
            model.input,
        )
    fast = keras.models.clone_model(model, input_tensors=inputs, clone_function=twin)
    # A clone takes the global policy; by the model's own, `compile` scales its loss.
    fast.dtype_policy = model.dtype_policy
    return fast
