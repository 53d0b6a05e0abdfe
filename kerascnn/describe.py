"""A recipe written down: what decides its numbers, as plain JSON values."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import math
import re
import sys
import types
from typing import TYPE_CHECKING, Any

from kerascnn import UsageError
from kerascnn.process.backend import spare_tensorflow
from kerascnn.recipe import EXTRAS, PARTS, Recipe
from kerascnn.text import one_line
from kerascnn.without_weights import without_weights

if TYPE_CHECKING:
    import keras


def describe(recipe: Recipe) -> dict[str, Any]:
    """Return everything that decides what a recipe computes, as plain JSON values.

    The layers, optimiser and callbacks are their Keras configurations, without the
    names and seeds that Keras makes up, so two builds of one recipe are equal. A
    function, such as `keras.callbacks.LearningRateScheduler` takes, is its name and its
    code, and so is a class of your own; the values that the code refers to are not
    seen.
    """
    spare_tensorflow()
    description: dict[str, Any] = {"name": recipe.name}
    for part in (*PARTS, *(x for x in EXTRAS if getattr(recipe, x) != EXTRAS[x])):
        try:
            description[part] = _describe(recipe, part)
        except OSError as error:  # which Keras raises, and no model with it is saved
            raise UsageError(
                f"a lambda in {recipe.name}'s {part} has no source file, and Keras "
                "can't save it: give the function a name, `def scaled(x): ...`."
            ) from error
        except ImportError as error:
            raise UsageError(
                f"{recipe.name}'s {part} need what can't be imported here "
                f"({one_line(error, most=300)}): install that package, or take it out."
            ) from error
        try:
            json.dumps(description[part])
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"{recipe.name}'s {part} can't be described ({error}): give a class of "
                "your own that holds such a value a get_config() that returns plain "
                "values; give a class of Keras's a function instead."
            ) from error
    return description


def fingerprint(description: dict[str, Any]) -> str:
    """Return the SHA-256 of a recipe's description, 64 hexadecimal digits."""
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
        return _network(without_weights(recipe.network))
    if part == "optimizer":
        optimizer = recipe.optimizer()
        if hasattr(optimizer, "transformation"):
            # optax writes its transformations down nowhere but in the code.
            return _object(optimizer) | _source(recipe.optimizer)
        return _object(optimizer)
    if part in ("transform", "callbacks"):
        items = getattr(recipe, part)()
        for item in items:
            _check_schedule(recipe, item)
        return [_object(item) for item in items]
    if part in ("adapt", "views"):
        function = getattr(recipe, part)
        return {"class": function.__qualname__} | _code(function)
    return getattr(recipe, part)


def _check_schedule(recipe: Recipe, callback: Any) -> None:
    """Raise `UsageError` where Keras's LearningRateScheduler would call no function.

    Keras finds out in the first epoch, and what a schedule of steps returns to it is a
    tensor, for which Keras expects a float.
    """
    import keras

    if not isinstance(callback, keras.callbacks.LearningRateScheduler):
        return
    given: Any = callback.schedule
    if isinstance(given, keras.optimizers.schedules.LearningRateSchedule):
        way = "a schedule of steps: give it to the optimiser as its learning rate"
    elif isinstance(given, keras.callbacks.Callback):
        way = "a callback itself: put it in the recipe's callbacks in place of this one"
    elif not callable(given):
        way = "none"
    else:
        return
    raise UsageError(
        f"{recipe.name}'s LearningRateScheduler takes a function from an epoch's "
        f"number to its learning rate, and {type(given).__name__} is {way}."
    )


def _object(thing: Any) -> dict[str, Any]:
    config = (
        thing.get_config()
        if hasattr(thing, "get_config")
        else {k: v for k, v in vars(thing).items() if not k.startswith("_")}
    )
    return {"class": type(thing).__name__} | _plain(config) | _code(type(thing))


def _code(kind: Any) -> dict[str, str]:
    """Return the code of a user's class or function; Keras's and ours have versions."""
    package, _, module = (kind.__module__ or "").partition(".")
    if package == "keras" or (package == "kerascnn" and "recipes" not in module):
        return {}
    return _source(kind)


def _source(thing: Any) -> dict[str, str]:
    """Return the code of a function, method or class: as text, or else as a hash."""
    # A prompt, `exec` and a file that is gone leave no text. The bytecode's hash is the
    # same for the same text in one version of Python.
    thing = inspect.unwrap(thing)
    try:
        # Python 3.13 takes the text of `python -c` for that of any code from `exec`.
        if inspect.getsourcefile(thing) == "<string>":
            raise OSError("no source")
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
    if not callable(value) or isinstance(value, type):
        return value
    if hasattr(value, "__name__"):  # a function that is compiled, or of NumPy
        return {"class": value.__name__} | _source(value)
    # An object that is called as a function, such as a schedule of one's own.
    return _object(value) if hasattr(value, "__dict__") else value


@_plain.register
def _(value: functools.partial) -> Any:
    parts = {"of": value.func, "arguments": value.args, "named": value.keywords}
    return {"class": "partial"} | _plain(parts)


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
