"""The images of a run, and its recipe made to take them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerascnn import UsageError, data, transforms
from kerascnn.data.streamed import StreamedSplit
from kerascnn.recipe import Recipe
from kerascnn.text import one_line
from kerascnn.training import resume
from kerascnn.training.build import image_size
from kerascnn.without_weights import without_weights

if TYPE_CHECKING:
    from kerascnn.data import DataSet, Split
    from kerascnn.training.options import Overrides

# How many larger sizes are tried, to name one that a network takes.
_TRIED = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """The images of a run.

    Args:
        recipe: The recipe, made to take them.
        dataset: The set.
        form: How it was loaded: arguments of `data.load`, as JSON values.
        said: A line on what was changed in the recipe; `None` for nothing.
    """

    recipe: Recipe
    dataset: DataSet
    form: dict[str, Any]
    said: str | None = None


def loaded(recipe: Recipe, overrides: Overrides) -> Images:
    """Load the images that a run is about, and make its recipe take them.

    A recipe's own set is taken as it is. With `dataset` or `image_size` the images are
    brought to the size and the channels that the recipe takes, or to that size, the
    network is rebuilt for size and classes, and `standard` scales by the set's own mean
    and deviation.
    """
    overrides = resume.absolute(overrides)
    own = resume.absolute_dataset(recipe.dataset)
    name = overrides.dataset or own
    recipe = dataclasses.replace(recipe, dataset=name)
    as_it_is = name == own and overrides.image_size is None
    wanted: dict[str, Any] = {"image_size": image_size(recipe)}
    if not as_it_is:
        wanted = form(recipe, overrides)
    wanted["skip_bad"] = overrides.skip_bad
    places = overrides.data_dir, overrides.cache_dir
    stream = _stream(overrides.engine)
    dataset = data.load(name, overrides.data, *places, **wanted, stream=stream)
    if isinstance(dataset.train, StreamedSplit):
        wanted["stream"] = True
    if as_it_is:
        return Images(recipe, dataset, wanted)
    statistics = _statistics(recipe, dataset)
    new = suited(recipe, dataset, statistics)
    return Images(new, dataset, wanted, _said(recipe, new, statistics))


def _stream(engine: str) -> bool | None:
    """Return whether an engine reads a stream: `None` where that depends on the set."""
    if engine == "auto":
        return None if keras.backend.backend() == "jax" else False
    return engine == "stream"


def form(recipe: Recipe, overrides: Overrides) -> dict[str, Any]:
    """Return what another set's images are brought to, as `data.load` takes it."""
    shape = without_weights(recipe.network).input_shape[1:]
    size = image_size(recipe) or (None if None in shape[:2] else tuple(shape[:2]))
    if overrides.image_size is not None:
        size = (overrides.image_size, overrides.image_size)
    channels = next(
        (n for n in (3, 1) if _arrives(recipe, n) == shape[-1]), shape[-1] or None
    )
    if channels not in (1, 3, None):
        raise UsageError(
            f"{recipe.name}'s network takes images of {channels} channels, and other "
            "sets have 1 or 3."
        )
    return {"image_size": size, "channels": channels, "exact": True}


def _arrives(recipe: Recipe, channels: int) -> int | None:
    """Return how many channels reach the network of so many; `None` for none."""

    def transformed() -> Any:
        x = keras.Input((64, 64, channels), dtype="uint8")
        for layer in recipe.transform():
            x = layer(x)
        return x.shape[-1]

    try:
        return without_weights(transformed)
    except ValueError:  # as layers raise for channels that they don't take
        return None


def suited(recipe: Recipe, dataset: DataSet, statistics: Any = None) -> Recipe:
    """Return a recipe whose transform and network take a set's images and classes.

    Args:
        recipe: The recipe.
        dataset: The set.
        statistics: What `_statistics` says of them; computed where it is not given.

    Raises:
        UsageError: The network can't be rebuilt so.
    """
    old, wanted = without_weights(recipe.network), _shape(recipe, dataset)
    classes = len(dataset.classes)
    statistics = statistics or _statistics(recipe, dataset)
    transform = _transform(recipe, dataset, statistics)
    recipe = dataclasses.replace(recipe, transform=transform)
    if wanted == old.input_shape[1:] and classes == old.output_shape[-1]:
        return recipe
    _check(recipe.name, old, wanted, classes)
    network = recipe.network

    def suited_network() -> keras.Model:
        return rebuilt(without_weights(network), wanted, classes)

    suited_network.__module__ = network.__module__
    return dataclasses.replace(recipe, network=suited_network, parameters=0)


def _shape(recipe: Recipe, dataset: DataSet) -> tuple[int | None, ...]:
    """Return the shape of the images that a network is to take."""
    height, width, channels = without_weights(recipe.network).input_shape[1:]
    return (height and dataset.shape[0], width and dataset.shape[1], channels)


def _transform(
    recipe: Recipe, dataset: DataSet, statistics: Any
) -> Callable[[], list[keras.layers.Layer]]:
    """Return a recipe's transform for another set's size and statistics."""
    before = recipe.transform
    height, width, _ = dataset.shape

    def transform() -> list[keras.layers.Layer]:
        layers: list[Any] = before()
        for place, layer in enumerate(layers):
            if getattr(layer, "of_statistics", False):
                layers[place] = transforms.standard(*statistics)
            elif place == 0 and isinstance(layer, keras.layers.Resizing):
                settings = layer.get_config() | {"height": height, "width": width}
                layers[place] = keras.layers.Resizing.from_config(settings)
        return layers

    transform.__module__ = before.__module__
    return transform


def _statistics(recipe: Recipe, dataset: DataSet) -> Any:
    """Return the mean and deviation that `standard` is to scale by, if there is one."""
    if not any(getattr(x, "of_statistics", False) for x in recipe.transform()):
        return None
    mean, deviation = data.statistics(dataset.train.images)
    # Of a channel that is the same everywhere nothing is left to divide by.
    return mean, tuple(value or 1.0 for value in deviation)


def _said(recipe: Recipe, suited: Recipe, statistics: Any) -> str | None:
    """Say what a recipe that takes other images changes."""
    said = []
    old, new = (without_weights(each.network) for each in (recipe, suited))
    if (old.input_shape, old.output_shape) != (new.input_shape, new.output_shape):
        size = " x ".join("any" if n is None else str(n) for n in new.input_shape[1:])
        said.append(
            f"{recipe.name}'s network is rebuilt for images of {size} and "
            f"{new.output_shape[-1]} classes: {_parameters(new):,} parameters, "
            f"{_parameters(old):,} before"
        )
    if statistics:
        mean, deviation = (", ".join(f"{x:.4f}" for x in each) for each in statistics)
        said.append(
            f"`standard` scales by the set's own mean {mean} and deviation {deviation}"
        )
    return f"{'; '.join(said)}." if said else None


def _parameters(network: keras.Model) -> int:
    return sum(math.prod(weight.shape) for weight in network.trainable_weights)


# A class that has so many times the images of another is named.
_UNEVEN = 2


def class_weights(dataset: DataSet, train: Split) -> list[float]:
    """Return a factor for each class that gives all the same say in the loss.

    That is n / (classes x n of the class), whose mean over the n images is 1.
    """
    counts = np.bincount(train.labels, minlength=len(dataset.classes))
    present = np.count_nonzero(counts)
    return [float(len(train) / (present * n)) if n else 0.0 for n in counts]


def imbalance(dataset: DataSet, weights: list[float] | None) -> str | None:
    """Say which class has the fewest and which the most images, if that is uneven."""
    train = dataset.train
    if weights is None and isinstance(train, StreamedSplit) and not train.knows_labels:
        return None
    counts = np.bincount(train.labels, minlength=len(dataset.classes))
    few, many = int(counts.argmin()), int(counts.argmax())
    if counts[many] < _UNEVEN * counts[few]:
        return None
    line = (
        f"Uneven classes: {counts[few]:,} training images of {dataset.classes[few]}, "
        f"{counts[many]:,} of {dataset.classes[many]}"
    )
    if weights is None:
        return f"{line}. --class-weights gives all the same say in the loss."
    return f"{line}; weighed {weights[few]:.3g} and {weights[many]:.3g} in the loss."


def _check(
    name: str, network: keras.Model, shape: tuple[int | None, ...], classes: int
) -> None:
    """Raise `UsageError` unless a network can be rebuilt, with a size that it takes."""

    def attempt(size: int | None) -> Exception | None:
        tried = shape if size is None else (size, size, shape[-1])
        try:
            built = without_weights(lambda: rebuilt(network, tried, classes))
            if built.output_shape == (None, classes):
                return None
            return ValueError(f"its output would be {built.output_shape}")
        # What a layer of the user's own raises where its settings don't build it.
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            return error

    error = attempt(None)
    if error is None:
        return
    height, width, _ = shape
    advice = "take another recipe, or write its network for these images"
    if height is not None and height == width:
        larger = range(height + 1, height + _TRIED)
        fits = next((size for size in larger if attempt(size) is None), None)
        if fits:
            advice = f"pass --image-size {fits}"
    raise UsageError(
        f"{name}'s network can't be rebuilt for images of {height} x {width} pixels "
        f"and {classes} classes ({one_line(error, most=150)}): {advice}."
    ) from error


def rebuilt(
    network: keras.Model, shape: tuple[int | None, ...], classes: int
) -> keras.Model:
    """Build a network anew, with the same layers, for other images and classes.

    The last layer with units or filters, as many as logits, gets one for each class. A
    convolution whose kernel covers its whole map covers it at the new size too, and
    PyTorch's default initialisers get the bounds of the new number of inputs.

    Raises:
        ValueError: A layer does not take the new size, or none has the logits.
    """
    logits = network.output_shape[-1]
    last = next(
        (
            layer
            for layer in reversed(network.layers)
            if logits in (getattr(layer, "units", 0), getattr(layer, "filters", 0))
        ),
        None,
    )
    if last is None and logits != classes:
        raise ValueError(f"no layer has {logits} units or filters")
    made: dict[Any, Any] = {}

    def call(layer: Any, *arguments: Any, **settings: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return layer(*arguments, **settings)
        if layer not in made:
            config = layer.get_config()
            if layer is last:
                config["units" if "units" in config else "filters"] = classes
            given = getattr(arguments[0], "shape", None)
            kernel = getattr(layer, "kernel", None)
            if given is not None and kernel is not None:
                _resize(config, layer, given)
            made[layer] = type(layer).from_config(config)
        return made[layer](*arguments, **settings)

    return keras.models.clone_model(
        network,
        input_tensors=keras.Input(shape),
        clone_function=lambda layer: layer,
        call_function=call,
    )


def _resize(config: dict[str, Any], layer: Any, given: tuple[int | None, ...]) -> None:
    """Change what in a layer's settings follows from the size of its input."""
    before, size = layer.input.shape[1:-1], tuple(given[1:-1])
    if None in size or given[-1] is None:
        return
    kernel: tuple[int, ...] = tuple(layer.kernel.shape)
    old = math.prod(kernel[:-1])
    if (
        isinstance(layer, keras.layers.Conv2D)
        and layer.padding == "valid"
        and max(before) > 1
        and tuple(layer.kernel_size) == tuple(before)
    ):
        config["kernel_size"] = size
        kernel = (*size, *kernel[2:])
    inside = kernel[:-2] if isinstance(layer, keras.layers.Conv2D) else ()
    new = math.prod(inside) * given[-1]
    for name in ("kernel_initializer", "bias_initializer"):
        start = getattr(layer, name, None)
        uniform = isinstance(start, keras.initializers.RandomUniform)
        if uniform and math.isclose(start.maxval, 1 / math.sqrt(old)):
            bound = 1 / math.sqrt(new)
            config[name] = keras.initializers.RandomUniform(-bound, bound)
