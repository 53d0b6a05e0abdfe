"""What a trained network computes: logits, filters, feature maps, Grad-CAM."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascnn.report import wording
from kerascnn.training.build import is_random

if TYPE_CHECKING:
    import keras

    from kerascnn.recipe import Recipe

# Pixels a batch: 100 images of 32 x 32, which divides the test sets' 10,000. More takes
# memory, and no less time. Large images go by fours at least.
PIXELS, FEWEST = 100 * 32 * 32, 4
STAGES = 6
FINE = 4
CHANNELS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Filters:
    """What the first layer with a kernel multiplies images by.

    Args:
        layer: Its name.
        dense: Whether each filter is as large as the image.
        kernels: `(n, height, width, 1 or 3)`.
        of: The number of the layer's filters; the first of them are shown.
        frozen: Whether training left them as they were.
    """

    layer: str
    dense: bool
    kernels: np.ndarray
    of: int
    frozen: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A layer's most active feature maps: `(images, channels, height, width)`."""

    layer: str
    call: str
    maps: np.ndarray
    of: int  # channels of the layer


@dataclasses.dataclass(frozen=True, eq=False)
class Attention:
    """Grad-CAM's maps at a layer: 0 to 1, `(images, height, width)`."""

    layer: str
    maps: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A row of the layer table, and the layer's kernel where it has one."""

    name: str
    call: str
    shape: tuple[int | None, ...]
    parameters: int
    kernel: np.ndarray | None


def network(model: keras.Model) -> keras.Model:
    """Return the network inside a run's model, which begins with the transform."""
    import keras

    last = model.layers[-1]
    return last if isinstance(last, keras.Model) else model


def prepared(model: keras.Model, images: np.ndarray) -> Any:
    """Return what a run's model gives its network for raw images."""
    from keras import ops

    values = ops.convert_to_tensor(images)
    if network(model) is not model:
        for layer in model.layers[1:-1]:  # a chain
            values = layer(values)
    return values


def batch_size(images: np.ndarray) -> int:
    """Return how many images to compute at a time, by their size."""
    return max(PIXELS // math.prod(images.shape[1:3]), FEWEST)


def logits(
    model: keras.Model, images: np.ndarray, batch: int | None = None
) -> np.ndarray:
    """Return a model's logits of raw images, `(n, classes)`, in batches of one size.

    The last batch is filled up, because another size would be compiled anew.
    """
    batch, found = min(batch or batch_size(images), len(images)), []
    for start in range(0, len(images), batch):
        part = np.asarray(images[start : start + batch])
        filled = np.concatenate([part, part[:1].repeat(batch - len(part), 0)])
        found.append(np.asarray(model.predict_on_batch(filled))[: len(part)])
    return np.concatenate(found)


def filters(net: keras.Model, most: int = 64) -> Filters | None:
    """Return the first layer's filters, `None` where they are no pictures."""
    layer = next((each for each in net.layers if hasattr(each, "kernel")), None)
    if layer is None:
        return None
    kernel, kind = _array(layer.kernel), type(layer).__name__
    image = net.input_shape[1:]
    if kind == "Conv2D":
        kernels = kernel.transpose(3, 0, 1, 2)
    elif kind == "Dense" and None not in image and len(kernel) == math.prod(image):
        kernels = kernel.T.reshape(-1, *image)
    else:
        return None
    if kernels.shape[-1] not in (1, 3):
        return None
    frozen = not any(each is layer.kernel for each in layer.trainable_weights)
    return Filters(layer.name, kind == "Dense", kernels[:most], len(kernels), frozen)


def feature_maps(net: keras.Model, values: Any) -> list[Stage]:
    """Return the most active maps of layers from the first to the last.

    Args:
        net: The network.
        values: A batch as the network takes it.
    """
    import keras

    layers = [each for each in _with_maps(net) if _kind(each) in ("Conv", "Pooling")]
    if len(layers) > STAGES:
        layers = [each for each in layers if _kind(each) == "Conv"] or layers
    if not layers:
        return []
    places = np.linspace(0, len(layers) - 1, min(STAGES, len(layers))).round()
    chosen = [layers[int(place)] for place in places]
    # By name, because Keras returns a list of one as an array.
    model = keras.Model(net.input, {layer.name: layer.output for layer in chosen})
    outputs = model.predict_on_batch(values)
    stages = []
    for layer in chosen:
        maps = _array(outputs[layer.name]).transpose(0, 3, 1, 2)
        # The same channels for all images: a row of the panel can be compared.
        active = np.argsort(-maps.std((2, 3)).mean(0), kind="stable")[:CHANNELS]
        call = wording.call(type(layer).__name__, layer.get_config())
        stages.append(Stage(layer.name, call, maps[:, active], maps.shape[1]))
    return stages


def grad_cam(net: keras.Model, values: Any, classes: np.ndarray) -> Attention | None:
    """Return where a network finds a class in images (Selvaraju et al., 2017).

    The maps are those of the last layer that everything after it is computed from,
    leaving out pooling and, where there are finer maps, those of under `FINE` pixels.

    Args:
        net: The network, from images to logits.
        values: A batch as the network takes it.
        classes: The class to look for in each image, `(n,)`.

    Returns:
        The maps, each divided by its largest value; `None` where no layer has any.
    """
    if (layer_and_slopes := _attention(net)) is None:
        return None
    layer, slopes_of = layer_and_slopes
    found, slopes = map(_array, slopes_of(values, np.asarray(classes)))
    weights = slopes.mean((1, 2), keepdims=True)
    cam = np.maximum((weights * found).sum(-1), 0)
    largest = cam.max((1, 2), keepdims=True)
    return Attention(layer, cam / np.where(largest > 0, largest, 1))


@functools.lru_cache(maxsize=1)  # images that go in parts are compiled for once
def _attention(net: keras.Model) -> tuple[str, Callable[..., Any]] | None:
    """Return Grad-CAM's layer, and what finds a batch's maps and their slopes."""
    import keras

    layers = [each for each in _with_maps(net) if _kind(each) is not None]
    layers.reverse()
    layers.sort(key=lambda each: (_side(each) < FINE, _kind(each) == "Pooling"))
    for layer in layers:
        head = keras.Model(net.input, layer.output)
        try:
            tail = keras.Model(layer.output, net.output)
        except ValueError:  # a shortcut goes past the layer
            continue
        return layer.name, _BACKENDS[keras.backend.backend()](head, tail)
    return None


def augmented(
    recipe: Recipe, images: np.ndarray, draws: int, seed: int = 0
) -> np.ndarray | None:
    """Return images as training shows them, uint8 `(n, draws, height, width, c)`.

    A rescaling is undone, so that the eye sees what the network does; `None` where a
    recipe's transform draws nothing.
    """
    import keras

    with _seeded(seed):
        layers = recipe.transform()
        if not any(map(is_random, layers)):
            return None
        image = values = keras.Input(images.shape[1:], dtype=images.dtype)
        for layer in layers:
            values = layer(values, training=True) if is_random(layer) else layer(values)
        drawn = keras.Model(image, values)
        found = _array(_called(drawn, images.repeat(draws, 0)))
    for layer in reversed(layers):
        if isinstance(layer, keras.layers.Rescaling):
            found = (found - np.asarray(layer.offset)) / np.asarray(layer.scale)
    found = found.round().clip(0, 255).astype("uint8")
    return found.reshape(len(images), draws, *found.shape[1:])


def _called(model: Any, images: np.ndarray) -> Any:
    import keras

    if keras.backend.backend() != "jax":
        return model(keras.ops.convert_to_tensor(images))
    import jax

    call = jax.jit(lambda state, images: model.stateless_call(*state, images)[0])
    return call(_state(model), images)


def layers(model: keras.Model) -> list[Layer]:
    """Return the layers of a run's model in order, the transform's first."""
    net = network(model)
    before = [] if net is model else model.layers[1:-1]
    found = []
    for layer in [*before, *net.layers]:
        if type(layer).__name__ == "InputLayer":
            continue
        call = wording.call(type(layer).__name__, layer.get_config())
        parameters = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
        with contextlib.suppress(AttributeError):  # used at several places
            shape = tuple(layer.output.shape[1:])
            kernel = getattr(layer, "kernel", None)
            kernel = None if kernel is None else _array(kernel)
            found.append(Layer(layer.name, call, shape, parameters, kernel))
    return found


def _with_maps(net: keras.Model) -> list[Any]:
    """Return the layers whose output is maps of more than one pixel, in order."""
    found = []
    for layer in net.layers:
        with contextlib.suppress(AttributeError):  # used at several places
            shape = layer.output.shape
            if len(shape) == 4 and None not in shape[1:] and min(shape[1:3]) > 1:
                found.append(layer)
    return found


def _side(layer: Any) -> int:
    return min(layer.output.shape[1:3])


def _kind(layer: Any) -> str | None:
    """Sort a layer with maps; `None` for what changes nothing or is the input."""
    name = type(layer).__name__
    if "Pooling" in name:
        return "Pooling"
    if name in ("InputLayer", "Dropout", "SpatialDropout2D", "Identity"):
        return None
    return "Conv" if "Conv" in name else "other"


def _array(values: Any) -> np.ndarray:
    from keras import ops

    return np.asarray(ops.convert_to_numpy(values)).astype("float32", copy=False)


def _jax(head: Any, tail: Any) -> Callable[..., Any]:
    import jax

    @jax.jit  # as one program, because one for each operation takes more memory
    def both(first, last, values, classes):
        def score(maps):
            scores, _ = tail.stateless_call(*last, maps, training=False)
            return scores[np.arange(len(classes)), classes].sum()

        maps, _ = head.stateless_call(*first, values, training=False)
        return maps, jax.grad(score)(maps)

    return lambda *batch: both(_state(head), _state(tail), *batch)


def _state(model: Any) -> tuple[list, list]:
    """Return the values of a model's variables, as `stateless_call` takes them."""
    variables = model.trainable_variables, model.non_trainable_variables
    return tuple([each.value for each in some] for some in variables)


def _tensorflow(head: Any, tail: Any) -> Callable[..., Any]:
    import tensorflow

    def both(values, classes):
        maps = head(values, training=False)
        chosen = tensorflow.one_hot(classes, tail.output_shape[-1])
        with tensorflow.GradientTape() as tape:
            tape.watch(maps)
            scores = tail(maps, training=False)
            score = tensorflow.reduce_sum(
                scores * tensorflow.cast(chosen, scores.dtype)
            )
        return maps, tape.gradient(score, maps)

    return both


def _torch(head: Any, tail: Any) -> Callable[..., Any]:
    import torch

    def both(values, classes):
        maps = head(values, training=False).detach().requires_grad_()
        scores = tail(maps, training=False)[np.arange(len(classes)), classes]
        return maps, torch.autograd.grad(scores.sum(), maps)[0]

    return both


_BACKENDS = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let layers that Keras makes in a block draw alike, and leave no trace of it."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
