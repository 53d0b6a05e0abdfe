"""The state of Keras callbacks as plain JSON values and arrays, without pickle.

A callback's state is what its attributes hold, and what its own functions keep in
closures, defaults, globals and class attributes: plain values, arrays, lists, sets and
dictionaries, random generators, variables, open files, and objects made of these. The
recipe makes callbacks, objects and functions anew; `restore` fills them in their place,
so that what two of them share stays shared.

What is of another kind, such as a generator, is named in `left_out`: the state of such
a callback can't be proved whole.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import random
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kerascnn import UsageError
from kerascnn.training import callback_values as values

# Attributes that are made again from the others.
_DERIVED = {
    "CSVLogger": {"writer"},
    "ProgbarLogger": {"progbar"},
    "TensorBoard": {
        *("_writers", "_prev_summary_state", "_summary_module"),
        "_batch_trace_context",
    },
}
_REFUSED = {"BackupAndRestore": "the epoch that it brings back by itself"}


@dataclasses.dataclass
class Begun:
    """What callbacks were when a training began: what the recipe makes again.

    Args:
        references: Functions, objects and immutable values, by the path to them.
        hidden: What functions and classes kept then, encoded, by path.
        arrays: The arrays of `hidden`.
    """

    references: dict[str, Any]
    hidden: dict[str, Any]
    arrays: dict[str, np.ndarray]


def begin(callbacks: Sequence[keras.callbacks.Callback]) -> Begun:
    """Return what callbacks are before a training changes them."""
    walk = _Walk(callbacks, None)
    _, hidden = walk.all()
    return Begun(walk.references, hidden, walk.arrays)


def capture(
    callbacks: Sequence[keras.callbacks.Callback], begun: Begun | None = None
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return the state of callbacks.

    Args:
        callbacks: The callbacks.
        begun: What they were when the training began; without it, whatever a recipe
            might make is taken for made by it.

    Returns:
        For each callback, as JSON values, its class, its `attributes`, what its
        functions keep (`hidden`), and a phrase for all else by name (`left_out`); and
        the arrays that these refer to, copied, by names that begin with `callbacks/`.
    """
    walk = _Walk(callbacks, begun)
    states, hidden = walk.all()
    for path, value in hidden.items():
        if begun is None or not _is_same(path, value, walk.arrays, begun):
            states[int(path.split("/")[1])]["hidden"][path] = value
    return states, walk.arrays


def _is_same(path: str, value: Any, arrays: Mapping, begun: Begun) -> bool:
    """Whether a function still keeps what it kept when the training began."""
    if path not in begun.hidden or begun.hidden[path] != value:
        return False
    names = [name for name in {*arrays, *begun.arrays} if name.startswith(path)]
    return all(
        name in arrays
        and name in begun.arrays
        and np.array_equal(arrays[name], begun.arrays[name])
        for name in names
    )


def restore(
    callbacks: Sequence[keras.callbacks.Callback],
    states: Sequence[Mapping[str, Any]],
    arrays: Mapping[str, np.ndarray],
    renewed: Collection[str] = (),
) -> None:
    """Give callbacks back their state.

    Args:
        callbacks: The callbacks, made by the same recipe.
        states: As `capture` returned them.
        arrays: Likewise.
        renewed: Names of attributes to leave as the recipe has made them.

    Raises:
        UsageError: The callbacks are of other classes.
    """
    check(callbacks, states)
    fresh = _Walk(callbacks, None)
    fresh.all()
    read: dict[str, Any] = {}
    for index, (callback, state) in enumerate(zip(callbacks, states, strict=True)):
        attributes = vars(callback)
        decode = functools.partial(_decode, arrays=arrays, read=read, owner=callback)
        for name, value in state["attributes"].items():
            if name not in renewed:
                path = f"callbacks/{index}/{name}"
                attributes[name] = decode(value, path, attributes.get(name))
        if "left_out" in state:  # an older checkpoint does not say
            kept = {*state["attributes"], *state["left_out"], *renewed}
            for name in set(attributes) - kept - _passed_over(callback):
                del attributes[name]
        for path, value in state.get("hidden", {}).items():
            if path in fresh.places:
                present, place = fresh.places[path]
                place(decode(value, path, present))
        if isinstance(callback, keras.callbacks.CSVLogger) and callback.csv_file:
            callback.append_header = not callback.csv_file.tell()


def check(
    callbacks: Sequence[keras.callbacks.Callback], states: Sequence[Mapping[str, Any]]
) -> None:
    """Raise `UsageError` unless callbacks are of the classes that were captured."""
    classes = ", ".join(type(callback).__name__ for callback in callbacks) or "none"
    saved = ", ".join(state["class"] for state in states) or "none"
    if classes != saved:
        raise UsageError(
            f"the run's callbacks were {saved} and are {classes}: bring the recipe "
            "back, or start the run anew."
        )


def left_out(states: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a phrase for each callback whose state `capture` could not prove whole."""
    return [
        f"the callback {state['class']} keeps what no checkpoint can hold ({reasons})"
        for state in states
        if (reasons := ", ".join(state.get("left_out", {}).values()))
    ]


def _passed_over(callback: keras.callbacks.Callback) -> set[str]:
    """Return the names of attributes that are no state."""
    derived = (_DERIVED.get(cls.__name__, set()) for cls in type(callback).__mro__)
    return {"_model"}.union(*derived)


class _UnknownError(TypeError):
    """A value that can't be written so that `restore` brings it back."""


class _Walk:
    """One walk through all that callbacks hold."""

    def __init__(self, callbacks: Sequence[Any], begun: Begun | None):
        self.callbacks = callbacks
        self.begun = begun
        self.arrays: dict[str, np.ndarray] = {}
        self.references: dict[str, Any] = {}
        self.places: dict[str, tuple[Any, Any]] = {}
        self._hidden: dict[str, Any] = {}
        self._seen: dict[int, str] = {}
        self._alive: list[Any] = []  # an id is another's once its object is gone
        self._trained: set[int] = set()
        for callback in callbacks:
            if (model := getattr(callback, "_model", None)) is not None:
                optimizer = getattr(model, "optimizer", None)
                variables = [
                    *model.variables,
                    *(optimizer.variables if optimizer else ()),
                ]
                self._trained |= {id(variable) for variable in variables}

    def all(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the callbacks' states, and what their functions keep by path."""
        states = []
        for index, callback in enumerate(self.callbacks):
            path = f"callbacks/{index}"
            self._remember(callback, path)
            attributes, missing = {}, {}
            for cls in type(callback).__mro__:
                if why := _REFUSED.get(cls.__name__):
                    missing[""] = why
            for name, value in list(vars(callback).items()):
                if name in _passed_over(callback):
                    continue
                try:
                    attributes[name] = self.encode(value, f"{path}/{name}")
                except (_UnknownError, RecursionError) as unknown:
                    missing[name] = f"{name}: {_phrase(unknown)}"
            try:
                self._class(type(callback), path)
            except (_UnknownError, RecursionError) as unknown:
                missing["()"] = _phrase(unknown)
            states.append(
                {
                    "class": type(callback).__name__,
                    "attributes": attributes,
                    "hidden": {},
                    "left_out": missing,
                }
            )
        return states, self._hidden

    def _remember(self, value: Any, path: str) -> None:
        self._seen[id(value)] = path
        self._alive.append(value)

    def encode(self, value: Any, path: str) -> Any:
        """Return a value as JSON; its arrays go to `arrays`."""
        if value is None or isinstance(value, bool | str) or type(value) is int:
            return value
        if isinstance(value, float):  # as text: JSON has no infinity
            return {"float": value.hex()}
        if isinstance(value, np.generic) and value.dtype.kind in "biufV":
            self.arrays[path] = np.array(value)
            return {"scalar": path}
        if callable(value) and (name := values.name(value)):
            return {"operation": name}
        if id(value) in self._seen:
            return {"again": self._seen[id(value)]}
        self._remember(value, path)
        if keras.ops.is_tensor(value):
            try:
                self.arrays[path] = np.array(keras.ops.convert_to_numpy(value))
            except TypeError as error:  # a JAX key
                raise _UnknownError(values.kind(value)) from error
            return {"tensor": path}
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufV":
            self.arrays[path] = np.array(value)
            return {"array": path}
        if isinstance(value, list | tuple | set | dict | collections.deque):
            return self._container(value, path)
        return self._recipes_own(value, path)

    def _container(self, value: Any, path: str) -> Any:
        if type(value) not in (list, tuple, set, dict):
            self._as_begun(value, path, lambda before: type(before) is type(value))
        if isinstance(value, dict):
            items = [
                [
                    self.encode(key, f"{path}/{i:04}k"),
                    self.encode(item, f"{path}/{key}"),
                ]
                for i, (key, item) in enumerate(value.items())
            ]
            return {"items": items}
        items = [self.encode(item, f"{path}/{i:04}") for i, item in enumerate(value)]
        if type(value) is list:
            return items
        return {"tuple" if isinstance(value, tuple) else "collection": items}

    def _recipes_own(self, value: Any, path: str) -> Any:
        """Encode what only the recipe can make: functions, objects, generators."""
        if isinstance(value, values.IMMUTABLE):
            self._as_begun(value, path, lambda before: before == value)
            return {"recipe": None}
        if isinstance(value, keras.Variable):
            return {"variables": self._variables([value], path)}
        if isinstance(value, values.WITH_VARIABLES):
            self._as_begun(value, path, lambda before: type(before) is type(value))
            return {"variables": self._variables(value.variables, path)}
        if isinstance(
            value, np.random.Generator | np.random.RandomState | random.Random
        ):
            self._as_begun(value, path, lambda before: type(before) is type(value))
            return {"random": self.encode(values.random_state(value), f"{path}/state")}
        if values.is_file(value):
            self._as_begun(value, path, lambda before: values.is_file(before))
            if (content := values.content(value)) is None:
                raise _UnknownError("a file that can't be read again")
            self.arrays[path] = content
            return {"file": path}
        if isinstance(value, functools.partial):
            self._as_begun(value, path, lambda before: type(before) is type(value))
            parts = [value.func, value.args, value.keywords]
            return {"partial": self.encode(parts, f"{path}/parts")}
        if isinstance(value, types.MethodType):
            self._as_begun(value, path, lambda before: _is_alike(before, value))
            self._function(value.__func__, f"{path}()")
            return {"method": self.encode(value.__self__, f"{path}/self")}
        if callable(value) and not values.is_object(value):
            self._as_begun(value, path, lambda before: _is_alike(before, value))
            self._function(value, f"{path}()")
            return {"recipe": None}
        if not values.is_object(value):
            raise _UnknownError(values.kind(value))
        self._as_begun(value, path, lambda before: type(before) is type(value))
        self._class(type(value), path)
        attributes = {
            name: self.encode(item, f"{path}/{name}")
            for name, item in list(vars(value).items())
        }
        return {"object": attributes}

    def _variables(self, variables: Sequence[Any], path: str) -> list[str]:
        names = []
        for i, variable in enumerate(variables):
            if id(variable) in self._trained:
                names.append("")  # the checkpoint has it already
                continue
            names.append(f"{path}/{i:04}")
            self.arrays[names[-1]] = np.array(keras.ops.convert_to_numpy(variable))
        return names

    def _as_begun(self, value: Any, path: str, is_alike: Any) -> None:
        """Raise `_UnknownError` unless the recipe makes such a value here again."""
        self.references[path] = value
        if self.begun is not None and not (
            path in self.begun.references and is_alike(self.begun.references[path])
        ):
            raise _UnknownError(f"{values.kind(value)} that training has made")

    def _class(self, cls: type, path: str) -> None:
        """Look at what the classes and methods of an own object keep."""
        for each in cls.__mro__:
            if each is object or values.is_librarys(each) or id(each) in self._seen:
                continue
            self._remember(each, path)
            for name, value in list(vars(each).items()):
                value = getattr(value, "__func__", value)
                where = f"{path}/{each.__name__}.{name}"
                if isinstance(value, types.FunctionType):
                    self._function(value, f"{where}()")
                elif not name.startswith(("__", "_abc")) and not hasattr(
                    value, "__get__"
                ):
                    place = functools.partial(setattr, each, name)
                    self._keep(where, name, value, place)

    def _function(self, function: Any, path: str) -> None:
        """Look at what a function of the recipe's keeps from call to call."""
        if not hasattr(function, "__code__") or values.is_librarys(function):
            return
        if id(function) in self._seen and self._seen[id(function)] != path[:-2]:
            return
        self._remember(function, path[:-2])
        for name, value, place in values.kept(function):
            self._keep(f"{path}{name}", name, value, place)

    def _keep(self, path: str, name: str, value: Any, place: Any) -> None:
        self.places[path] = value, place
        try:
            self._hidden[path] = self.encode(value, path)
        except _UnknownError as unknown:
            raise _UnknownError(f"{name}: {unknown}") from unknown


def _is_alike(before: Any, now: Any) -> bool:
    code = getattr(now, "__code__", None)
    return before is now if code is None else getattr(before, "__code__", None) is code


def _phrase(unknown: BaseException) -> str:
    if isinstance(unknown, RecursionError):
        return "objects in objects without end"
    return str(unknown)


def _decode(
    value: Any,
    path: str,
    present: Any,
    *,
    arrays: Mapping[str, np.ndarray],
    read: dict[str, Any],
    owner: Any,
) -> Any:
    """Return what was encoded, in place of what is present wherever that can be."""
    decode = functools.partial(_decode, arrays=arrays, read=read, owner=owner)

    def items(content: Sequence[Any]) -> Iterator[Any]:
        there = list(present) if isinstance(present, list | tuple) else []
        for i, item in enumerate(content):
            yield decode(item, f"{path}/{i:04}", there[i] if i < len(there) else None)

    if isinstance(value, list):
        found = list(items(value))
        if type(present) is list:
            present[:] = found
            found = present
        read[path] = found
        return found
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "float":
            return float.fromhex(content)
        case "scalar":
            return arrays[content][()]
        case "again":
            return read.get(content, owner if content.count("/") == 1 else present)
        case "operation":
            return values.named(content, owner)
        case "tensor":
            found = keras.ops.convert_to_tensor(arrays[content])
        case "array":
            found = values.array(arrays[content], present)
        case "tuple":
            parts = list(items(content))
            is_named = hasattr(present, "_fields")
            found = type(present)(*parts) if is_named else tuple(parts)
        case "collection":
            found = present if isinstance(present, set | collections.deque) else set()
            parts = list(items(content))
            found.clear()
            (found.update if isinstance(found, set) else found.extend)(parts)
        case "items" | "dict":  # "dict" in checkpoints of format 1
            pairs = content if kind == "items" else content.items()
            there = present if isinstance(present, dict) else {}
            parts = [
                (key, decode(item, f"{path}/{key}", there.get(key)))
                for key, item in (
                    (decode(key, f"{path}/{i:04}k", None), item)
                    for i, (key, item) in enumerate(pairs)
                )
            ]
            found = there
            found.clear()
            found.update(parts)
        case "object":
            for name, item in content.items():
                there = vars(present).get(name)
                vars(present)[name] = decode(item, f"{path}/{name}", there)
            for name in set(vars(present)) - set(content):
                del vars(present)[name]
            found = present
        case "partial":
            parts = [present.func, present.args, present.keywords]
            function, arguments, keywords = decode(content, f"{path}/parts", parts)
            present.__setstate__((function, arguments, keywords, vars(present)))
            found = present
        case "method":
            decode(content, f"{path}/self", getattr(present, "__self__", None))
            found = present
        case "random":
            values.set_random_state(present, decode(content, f"{path}/state", None))
            found = present
        case "variables":
            own = (
                [present] if isinstance(present, keras.Variable) else present.variables
            )
            for variable, name in zip(own, content, strict=True):
                if name:
                    variable.assign(arrays[name])
            found = present
        case "file":
            values.write_back(present, arrays[content])
            found = present
        case _:  # the recipe's own function or value
            found = present
    read[path] = found
    return found
