"""Training that begins with another network's weights, or leaves layers as they are.

Layers are matched by name and shape. Keras numbers the layers that nobody has named
over all networks of a process, so here they are counted from each network's beginning:
`conv2d`, `conv2d_1`, as a fresh process has them.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerascnn import UsageError, saved, suggestions
from kerascnn.runs import Run
from kerascnn.text import expanded, listed
from kerascnn.without_weights import without_weights

if TYPE_CHECKING:
    from kerascnn.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Source:
    """The file that weights are taken from, and the model in it."""

    file: Path
    model: keras.Model

    @property
    def sha256(self) -> str:
        """Of the file's bytes."""
        with self.file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()


def opened(place: str) -> Source:
    """Open a run's model, or a `.keras` file, as `saved.load_model` lets it through.

    Raises:
        UsageError: There is none, or the file is refused.
    """
    file = expanded(place)
    if file.is_dir():
        run, file = Run(file), file / "model.keras"
        _ = run.config  # where there is no run, that is the reason
        if not file.exists():
            raise UsageError(f"--weights {place}: the run has no model.keras yet.")
    elif not file.exists():
        raise UsageError(
            f"--weights {place}: there is no such run and no such file; expected a "
            "run's folder or a .keras file."
        )
    return Source(file, saved.load_model(file))


def take(recipe: Recipe, kept: keras.Model, source: Source) -> dict[str, Any]:
    """Give a model's network the weights of the layers that have name and shape.

    Returns:
        What a run's `config.json` says of it: `"file"`, its `"sha256"`, the names of
        the layers that were `"taken"`, and by layer that begins `"fresh"` the reason.

    Raises:
        UsageError: No layer has both.
    """
    theirs = dict(zip(_counted(source.model), _with_weights(source.model), strict=True))
    own = dict(zip(names(recipe), _with_weights(kept), strict=True))
    pairs, fresh = [], {}
    for (name, layer), counted in zip(own.items(), _counted(kept), strict=True):
        other = theirs.get(counted)
        if other is None:
            fresh[name] = "not there"
        elif _shapes(other) != _shapes(layer):
            fresh[name] = f"{_size(other)} there and {_size(layer)} here"
        else:
            pairs.append((name, layer, other))
    if not pairs:
        raise UsageError(
            f"--weights {source.file}: no layer has name and shape of one of "
            f"{recipe.name}'s. There: {_listed(theirs)}; here: {_listed(own)}."
        )
    for _, layer, other in pairs:
        for variable, value in zip(layer.weights, other.weights, strict=True):
            variable.assign(np.asarray(keras.ops.convert_to_numpy(value), "float32"))
    return {
        # Without the folders of this machine: the options have the place.
        "file": "/".join(source.file.parts[-2:]),
        "sha256": source.sha256,
        "taken": [name for name, *_ in pairs],
        "fresh": fresh,
    }


def freeze(recipe: Recipe, kept: keras.Model, patterns: Sequence[str]) -> None:
    """Leave the layers untrained whose names match.

    A frozen BatchNorm normalises by its moving statistics and leaves them as they are,
    as Keras has it.

    Raises:
        UsageError: A pattern matches no layer with weights, or none is left to train.
    """
    if not patterns:
        return
    chosen = set(frozen(recipe, patterns))
    for name, layer in zip(names(recipe), _with_weights(kept), strict=True):
        if name in chosen:
            layer.trainable = False
    if not kept.trainable_weights:
        raise UsageError(
            f"--freeze {' --freeze '.join(patterns)}: all of {recipe.name}'s weights "
            "are frozen, and none is left to train."
        )


def frozen(recipe: Recipe, patterns: Sequence[str]) -> list[str]:
    """Return the names of the layers with weights that match one of the patterns."""
    known = names(recipe) if patterns else []
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in known):
            hint = suggestions.hint(
                pattern, known, f"the names are {', '.join(known)}."
            )
            raise UsageError(
                f"--freeze {pattern}: no layer with weights in {recipe.name} is "
                f"called so: {hint}"
            )
    return [n for n in known if any(fnmatch.fnmatchcase(n, p) for p in patterns)]


def names(recipe: Recipe) -> list[str]:
    """Return the names of a network's layers with weights, as a fresh process has."""
    # Keras counts by thread, and this network is built in one of its own.
    network = without_weights(recipe.network)
    return ["/".join(path) for path, layer in _walk(network) if layer.weights]


def _counted(model: keras.Model) -> list[str]:
    """Return the names of a model's layers with weights, counted from its beginning."""
    # A file does not say which names Keras has made; those that are the class's name
    # and a number are taken for such, in both networks alike.
    counts: dict[str, int] = {}
    found = []
    for path, layer in _walk(model):
        name = path[-1]
        base = re.sub(r"_\d+$", "", name)
        if base.replace("_", "") == type(layer).__name__.lower():
            count = counts[base] = counts.get(base, -1) + 1
            name = f"{base}_{count}" if count else base
        if layer.weights:
            found.append(name)
    return found


def _with_weights(model: keras.Model) -> list[Any]:
    return [layer for _, layer in _walk(model) if layer.weights]


def _walk(model: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give a network's layers and the names that lead to each; inner models' too."""
    # A run's model is its transform, whose layers have no weights, and its network.
    last = model.layers[-1]
    network = last if isinstance(last, keras.Model) else model

    def walk(inside: Any, above: tuple[str, ...]) -> Iterator:
        for layer in inside.layers:
            if isinstance(layer, keras.Model):
                yield from walk(layer, (*above, layer.name))
            else:
                yield (*above, layer.name), layer

    return walk(network, ())


def _shapes(layer: Any) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]


def _size(layer: Any) -> str:
    """Write the shape of a layer's largest weight."""
    largest = max(_shapes(layer), key=math.prod)
    return " x ".join(map(str, largest))


def _listed(layers: dict[str, Any]) -> str:
    return listed([f"{name} ({_size(layer)})" for name, layer in layers.items()])
