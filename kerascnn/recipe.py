"""A recipe: one case of the course as data; how to name, load and compare it."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
import math
import pkgutil
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascnn import (
    UsageError,
    check_backend,
    settings,
    shapes,
    spare_tensorflow,
    suggestions,
)

if TYPE_CHECKING:
    import keras

# The parts in which two rungs of the ladder may differ, in reading order.
PARTS = (
    "dataset",
    "transform",
    "network",
    "optimizer",
    "callbacks",
    "batch_size",
    "drop_last",
    "epochs",
)


@dataclasses.dataclass(frozen=True)
class Course:
    """What the lectures print about a case.

    Args:
        source: Where they print it, such as `"lecture 4, trick 5"`.
        test: Accuracy on the test set, 0 to 1; `None` where nothing is printed.
        train: Accuracy on the training set, 0 to 1; `None` where nothing is printed.
        says: What the slides say in words, where they give no figure.
        about: Whether the slides give their figures as approximate (`~78%`).
    """

    source: str
    test: float | None = None
    train: float | None = None
    says: str | None = None
    about: bool = False

    def figure(self, split: str) -> str | None:
        """Write the accuracy on `"test"` or `"train"` as the slides do: `"~78%"`."""
        value = getattr(self, split)
        return None if value is None else f"{'~' * self.about}{100 * value:.3g}%"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One case of the course: data, network, training, and what the course says.

    `network`, `transform`, `optimizer` and `callbacks` are functions, called once a
    run, so that importing a recipe builds nothing. They run under Keras's own defaults,
    whatever keras.json or `keras.config` say (see `settings.keras_defaults`).

    Args:
        name: The name of the recipe's file, without `.py`.
        dataset: Name of a `tensorflow-datasets` image classification set.
        network: Returns a Functional `keras.Model` from scaled images, shape
            `(batch, height, width, channels)`, to logits, `(batch, classes)`.
        transform: Returns the Keras layers between the raw uint8 images and the
            network, in order, as torchvision's `Compose` holds them. Layers whose
            class name begins with `Random` act in training only.
        optimizer: Returns a `keras.Optimizer`.
        batch_size: Images a step.
        epochs: Passes over the training set.
        parameters: Number of trainable parameters of the network, with which the one
            that is trained is compared; 0 where it is not stated.
        course: What the lectures say about the case.
        drop_last: Whether training leaves out the last batch of an epoch when it is
            smaller than `batch_size`, as `torch.utils.data.DataLoader` means it.
        callbacks: Returns Keras callbacks, such as a learning-rate decay.
        after: Name of the recipe that this one goes on from.
        changes: The parts (of `PARTS`) in which this recipe differs from `after`.
    """

    name: str
    dataset: str
    network: Callable[[], keras.Model]
    transform: Callable[[], list[keras.layers.Layer]]
    optimizer: Callable[[], keras.Optimizer]
    batch_size: int
    epochs: int
    parameters: int
    course: Course
    drop_last: bool = False
    callbacks: Callable[[], list[keras.callbacks.Callback]] = list
    after: str | None = None
    changes: frozenset[str] | set[str] = frozenset()

    def __post_init__(self):
        for part in ("network", "transform", "optimizer", "callbacks"):
            object.__setattr__(self, part, _under_defaults(getattr(self, part)))

    @property
    def idea(self) -> str:
        """The docstring of the recipe's file: what it changes and why."""
        module = sys.modules.get(self.network.__module__)
        return (inspect.getdoc(module) or "") if module else ""

    @property
    def command(self) -> str:
        """The command that trains it."""
        return f"python -m kerascnn.recipes.{self.name}"


def _under_defaults(build: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that calls `build` under Keras's defaults."""
    if hasattr(build, "under_defaults"):  # of a recipe that another was made from
        return build

    def built() -> Any:
        with settings.keras_defaults():
            return build()

    functools.update_wrapper(built, build, updated=())
    function = getattr(build, "func", build)  # inside a functools.partial
    built.__module__ = getattr(function, "__module__", None) or "__main__"
    built.under_defaults = True  # type: ignore[attr-defined]
    return built


def check_parameters(recipe: Recipe, model: keras.Model) -> None:
    """Raise `UsageError` unless a model has the recipe's number of parameters.

    Args:
        recipe: The recipe.
        model: Its network, or a model that holds it.
    """
    count = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    if recipe.parameters not in (0, count):
        raise UsageError(
            f"{recipe.name} says parameters={recipe.parameters:_}, and its network has "
            f"{count:_}: correct whichever of the two is wrong."
        )


@dataclasses.dataclass(frozen=True)
class Outline:
    """The facts of a recipe that can be read off its file without importing Keras.

    Args:
        summary: First line of the file's docstring.
        idea: The whole docstring.

    The other attributes are those of `Recipe`.
    """

    name: str
    summary: str
    idea: str
    dataset: str
    batch_size: int
    epochs: int
    parameters: int
    course: Course
    after: str | None = None
    drop_last: bool = False
    changes: frozenset[str] | set[str] = frozenset()


_FOLDER = Path(__file__).parent / "recipes"


def names() -> list[str]:
    """Return the names of all recipes, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules([str(_FOLDER)]))


def load(name: str) -> Recipe:
    """Import a recipe by its name.

    Args:
        name: The name of a file in `kerascnn/recipes`, without `.py`.

    Raises:
        UsageError: There is no such recipe (the message offers the nearest names), its
            file is not Python or has no `RECIPE`, or Keras's backend can't train.

    Example:
        >>> load("fashion_lenet").batch_size
        256
    """
    check_name(name)
    check_backend()
    spare_tensorflow()
    try:
        found = importlib.import_module(f"kerascnn.recipes.{name}").RECIPE
    except (SyntaxError, AttributeError) as error:
        if isinstance(error, AttributeError) and error.name != "RECIPE":
            raise
        file = _FOLDER / f"{name}.py"
        raise UsageError(f"{file} can't be read as a recipe ({error}).") from error
    _check_named(found, name)
    return found


def check_name(name: str) -> None:
    """Raise `UsageError`, with the nearest names, unless a recipe has this name."""
    known = names()
    if name in known:
        return
    if name.endswith(".py"):
        raise UsageError(
            f"{name} is a file's name, and a recipe's was expected: `kerascnn list` "
            "shows them; a recipe of your own runs as `python FILE`."
        )
    hint = suggestions.hint(name, known, "`kerascnn list` shows them.")
    raise UsageError(f"there is no recipe {name!r}: {hint}")


def outline(name: str) -> Outline:
    """Read a recipe's facts from its source, in milliseconds.

    Importing Keras takes seconds, and a list of all recipes should not. Every field
    of `Outline` is written as a literal in the recipe, so parsing the file is enough.

    Args:
        name: The name of a file in `kerascnn/recipes`, without `.py`.

    Raises:
        UsageError: There is no such recipe, or its facts are not literals.
    """
    check_name(name)
    file = _FOLDER / f"{name}.py"
    try:
        found = _outline(ast.parse(file.read_text("utf-8"), str(file)))
        _check_named(found, name)
        return found
    except UsageError:
        raise
    except (ValueError, TypeError, SyntaxError) as error:
        fields = ", ".join(field.name for field in dataclasses.fields(Outline)[3:])
        raise UsageError(
            f"{file} can't be read as a recipe ({error}): it assigns RECIPE = "
            f"Recipe(...) once, with literals for {fields}."
        ) from error


def _check_named(recipe: Recipe | Outline, name: str) -> None:
    """Raise `UsageError` where a copied recipe still has the original's name."""
    if recipe.name != name:
        raise UsageError(
            f"kerascnn/recipes/{name}.py says name={recipe.name!r}: give the recipe "
            f"its file's name, name={name!r}, in its command too."
        )


def _outline(tree: ast.Module) -> Outline:
    (call,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "RECIPE"
        and isinstance(node.value, ast.Call)
    )
    wanted = {field.name for field in dataclasses.fields(Outline)} - {"course"}
    facts = {
        keyword.arg: ast.literal_eval(keyword.value)
        for keyword in call.keywords
        if keyword.arg in wanted
    }
    (course,) = (k.value for k in call.keywords if k.arg == "course")
    if not isinstance(course, ast.Call):
        raise ValueError("course is not written as Course(...)")
    facts["course"] = Course(
        **{str(k.arg): ast.literal_eval(k.value) for k in course.keywords}
    )
    idea = ast.get_docstring(tree) or ""
    return Outline(summary=idea.partition("\n")[0], idea=idea, **facts)


def describe(recipe: Recipe) -> dict[str, Any]:
    """Return everything that decides what a recipe computes, as plain JSON values.

    The layers, optimiser and callbacks are their Keras configurations, without the
    names and seeds that Keras makes up, so two builds of one recipe are equal. A
    function, such as `keras.callbacks.LearningRateScheduler` takes, is its name and its
    code, and so is a class of your own; the values that the code refers to are not
    seen. Where there is no source file, as at a prompt, a hash of the bytecode stands
    for the code.

    Returns:
        A dictionary with the keys `name` and `PARTS`.

    Raises:
        UsageError: A part holds something else than plain values and functions.
    """
    spare_tensorflow()
    description: dict[str, Any] = {"name": recipe.name}
    for part in PARTS:
        try:
            description[part] = _describe(recipe, part)
        except OSError as error:  # which Keras raises, and no model with it is saved
            raise UsageError(
                f"a lambda in {recipe.name}'s {part} has no source file, and Keras "
                "can't save it: give the function a name, `def scaled(x): ...`."
            ) from error
        try:
            json.dumps(description[part])
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{recipe.name}'s {part} can't be described ({error}): give what holds "
                "such a value a get_config() that returns plain values."
            ) from error
    return description


def fingerprint(description: dict[str, Any]) -> str:
    """Return the SHA-256 of a recipe's description, 64 hexadecimal digits.

    Two runs with the same fingerprint trained the same case.

    Args:
        description: What `describe` returns.
    """
    text = json.dumps(description, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def lines(part: Any) -> list[str]:
    """Write a part of `describe` as one line of text a layer, optimiser or value."""
    return [_line(item) for item in part] if isinstance(part, list) else [_line(part)]


def _line(value: Any) -> str:
    if isinstance(value, dict) and "class" in value:
        arguments = ", ".join(
            f"{key}={_line(item)}" for key, item in value.items() if key != "class"
        )
        return f"{value['class']}({arguments})"
    return repr(value) if isinstance(value, str) else json.dumps(value)


def _describe(recipe: Recipe, part: str) -> Any:
    if part == "network":
        return _network(shapes.without_weights(recipe.network))
    if part == "optimizer":
        optimizer = recipe.optimizer()
        if hasattr(optimizer, "transformation"):
            # optax writes its transformations down nowhere but in the code.
            return _object(optimizer) | _source(recipe.optimizer)
        return _object(optimizer)
    if part in ("transform", "callbacks"):
        return [_object(item) for item in getattr(recipe, part)()]
    return getattr(recipe, part)


def _object(thing: Any) -> dict[str, Any]:
    config = (
        thing.get_config()
        if hasattr(thing, "get_config")
        else {k: v for k, v in vars(thing).items() if not k.startswith("_")}
    )
    return {"class": type(thing).__name__} | _plain(config) | _code(type(thing))


def _code(kind: type) -> dict[str, str]:
    """Return the code of a user's class; Keras's and ours go by their versions."""
    package, _, module = (kind.__module__ or "").partition(".")
    if package == "keras" or (package == "kerascnn" and "recipes" not in module):
        return {}
    return _source(kind)


def _source(thing: Any) -> dict[str, str]:
    """Return the code of a function, method or class: as text, or else as a hash.

    A prompt, `exec` and a file that is gone leave no text. The hash is that of the
    bytecode, the same for the same text in one version of Python.
    """
    thing = inspect.unwrap(thing)
    try:
        return {"code": inspect.getsource(thing).strip()}
    except Exception:  # Python's search for the text raises much else than OSError
        version = "{}.{}".format(*sys.version_info)
        digest = hashlib.sha256(repr(_bytecode(thing, ())).encode()).hexdigest()
        return {"code": f"# no source; Python {version} bytecode, SHA-256 {digest}"}


def _bytecode(thing: Any, inside: tuple[int, ...]) -> Any:
    """Return what decides a function or class, without places, lines and addresses."""
    within = functools.partial(_bytecode, inside=(*inside, id(thing)))
    if id(thing) in inside or (inside and isinstance(thing, type)):
        return thing.__qualname__ if hasattr(thing, "__qualname__") else "itself"
    if isinstance(
        thing, str | bytes | int | float | complex | None | types.EllipsisType
    ):
        return thing
    if isinstance(thing, tuple | list):
        return [within(item) for item in thing]
    if isinstance(thing, frozenset | set):  # whose order differs in each process
        return sorted(repr(within(item)) for item in thing)
    if isinstance(thing, dict):
        return sorted((str(key), within(value)) for key, value in thing.items())
    if isinstance(thing, types.CodeType):
        arguments = thing.co_argcount, thing.co_posonlyargcount, thing.co_kwonlyargcount
        names = thing.co_names, thing.co_varnames, thing.co_freevars, thing.co_flags
        return thing.co_code, arguments, names, within(thing.co_consts)
    if isinstance(thing, types.FunctionType):
        function = inspect.unwrap(thing)
        defaults = function.__defaults__, function.__kwdefaults__
        return within([function.__code__, defaults, function.__closure__])
    if isinstance(thing, types.CellType):
        with contextlib.suppress(ValueError):  # nothing is in it yet
            return within(thing.cell_contents)
    if isinstance(thing, functools.partial):
        return within([thing.func, thing.args, thing.keywords])
    if isinstance(thing, types.MethodType | staticmethod | classmethod):
        return within(thing.__func__)
    if isinstance(thing, property):
        return within([thing.fget, thing.fset])
    if isinstance(thing, type):
        # Python and Keras add attributes of their own, whose names begin so.
        own = {k: v for k, v in vars(thing).items() if callable(v) or k[0] != "_"}
        return [thing.__qualname__, within(own)]
    return type(thing).__qualname__


def _functions(layer: Any) -> dict[str, str]:
    """Return the code of a user's functions in a layer, such as an activation."""
    found = {}
    for name, value in vars(layer).items():
        if name.startswith("_") or not isinstance(value, types.FunctionType):
            continue
        if (value.__module__ or "").partition(".")[0] != "keras":
            found |= {f"{key} of {name}": code for key, code in _source(value).items()}
    return found


def _network(model: keras.Model) -> list[dict[str, Any]]:
    """Describe a Functional model: its layers in order, each with its inputs."""
    config = model.get_config()
    position = {layer["name"]: i for i, layer in enumerate(config["layers"])}
    operations = {operation.name: operation for operation in model.operations}
    described = []
    for layer in config["layers"]:
        entry = {"class": layer["class_name"]} | _plain(layer["config"])
        entry |= _code(type(operations[layer["name"]]))
        entry |= _functions(operations[layer["name"]])
        # A chain needs no words; where a layer takes another input, say which.
        sources = [position[name] for name in _tensor_names(layer["inbound_nodes"])]
        if sources and sources != [position[layer["name"]] - 1]:
            entry["inputs"] = sources
        described.append(entry)
    return described


def _tensor_names(nodes: Any) -> list[str]:
    """Collect the names of the layers that feed a layer, in order of its arguments."""
    if isinstance(nodes, dict):
        if nodes.get("class_name") == "__keras_tensor__":
            return [nodes["config"]["keras_history"][0]]
        return [name for value in nodes.values() for name in _tensor_names(value)]
    if isinstance(nodes, list | tuple):
        return [name for value in nodes for name in _tensor_names(value)]
    return []


@functools.singledispatch
def _plain(value: Any) -> Any:
    """Strip what Keras generates (names, seeds, module paths) from a configuration."""
    return value


@_plain.register
def _(value: dict) -> Any:
    if "class_name" in value and "config" in value:
        if value["class_name"].endswith("DTypePolicy"):
            return value["config"]["name"]
        if not isinstance(value["config"], dict):  # a function, by its name
            return value["config"]
        return {"class": value["class_name"]} | _plain(value["config"])
    generated = {"name", "seed", "optional", "sparse", "ragged"}
    plain = {
        key: _plain(item)
        for key, item in value.items()
        if key not in generated and item is not None
    }
    # What goes without saying: that a layer is trained, in the type of the others.
    if plain.get("trainable") is True:
        del plain["trainable"]
    if plain.get("dtype") == "float32":
        del plain["dtype"]
    return plain


@_plain.register(list)
@_plain.register(tuple)
def _(value: Any) -> list:
    return [_plain(item) for item in value]


@_plain.register
def _(value: float) -> float | str:
    # Optimisers keep float32 values: 0.001 comes back as 0.0010000000474974513.
    return float(f"{value:.7g}") if math.isfinite(value) else str(value)


@_plain.register(types.FunctionType)
@_plain.register(types.MethodType)
def _(value: Any) -> dict[str, str]:
    return {"class": value.__qualname__} | _source(value)


@_plain.register(types.BuiltinFunctionType)
def _(value: Any) -> dict[str, str]:
    return {"class": value.__qualname__}


@_plain.register
def _(value: str) -> str:
    return re.sub(r"^(\w+)>(\w+)$", r"\2", value)
