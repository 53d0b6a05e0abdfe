"""The state of Keras callbacks as plain JSON values and arrays, without pickle.

A callback's state is what its attributes hold, and what its own functions and classes
keep from call to call in closures, defaults, globals and class attributes: numbers,
texts, arrays of NumPy and of the backend, lists, tuples and dictionaries of these,
operations of `keras.ops`, and files that it writes. The recipe makes callbacks,
functions and what can't change anew; `restore` fills lists and dictionaries in their
place, so that what two share stays shared.

All else, such as a set, a random generator or an object, is named in `left_out`: the
state of such a callback can't be proved whole.
"""

from __future__ import annotations

import contextlib
import dis
import enum
import fractions
import functools
import io
import logging
import operator
import os
import pathlib
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerascnn import UsageError

# Attributes that are made again from the others.
_DERIVED = {
    "CSVLogger": {"writer"},
    "TensorBoard": {
        *("_writers", "_prev_summary_state", "_summary_module"),
        "_batch_trace_context",
    },
}
_REFUSED = {"BackupAndRestore": "the epoch that it brings back by itself"}
# Values that nothing can change; the recipe makes those that were there from the start.
_IMMUTABLE = (
    *(types.ModuleType, type, logging.Logger, re.Pattern, np.dtype, keras.DTypePolicy),
    *(pathlib.PurePath, bytes, complex, range, slice, frozenset, enum.Enum),
    *(fractions.Fraction, int, type(Ellipsis), type(NotImplemented)),
)
_OPERATIONS = {
    value: name
    for name, value in vars(keras.ops).items()
    if isinstance(value, types.FunctionType)
}
_LIBRARIES = tuple(
    str(Path(sysconfig.get_paths()[name]))
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_PACKAGE = Path(__file__).parents[1]


def begin(callbacks: Sequence[keras.callbacks.Callback]) -> Walk:
    """Return what callbacks hold before a training changes them."""
    return Walk(callbacks)


def capture(
    callbacks: Sequence[keras.callbacks.Callback], begun: Walk | None = None
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return the state of callbacks: JSON values of each, and arrays by name.

    Without `begun`, whatever a recipe might make is taken for made by it.
    """
    walk = Walk(callbacks, begun)
    for path, value in walk.hidden.items():
        if begun is None or not _is_same(path, value, walk.arrays, begun):
            walk.states[int(path.split("/")[1])]["hidden"][path] = value
    return walk.states, walk.arrays


def _is_same(path: str, value: Any, arrays: Mapping, begun: Walk) -> bool:
    """Whether a function still keeps what it kept when the training began."""
    if path not in begun.hidden or begun.hidden[path] != value:
        return False
    return all(
        np.array_equal(arrays.get(name, ()), begun.arrays.get(name, ()))
        for name in {*arrays, *begun.arrays}
        if name.startswith(path)
    )


def restore(
    callbacks: Sequence[keras.callbacks.Callback],
    states: Sequence[Mapping[str, Any]],
    arrays: Mapping[str, np.ndarray],
    renewed: Collection[str] = (),
) -> None:
    """Give callbacks back their state, but for attributes that are `renewed`."""
    check(callbacks, states)
    fresh = Walk(callbacks)
    read: dict[str, Any] = {f"callbacks/{i}": c for i, c in enumerate(callbacks)}
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


class Walk:
    """One walk through all that callbacks hold: their `states` as JSON values.

    What their functions keep is `hidden`, and `places` holds how to set it, by path;
    `references` are values that only the recipe can make.
    """

    def __init__(self, callbacks: Sequence[Any], begun: Walk | None = None):
        self.begun = begun
        self.arrays: dict[str, np.ndarray] = {}
        self.references: dict[str, Any] = {}
        self.places: dict[str, tuple[Any, Callable[[Any], None]]] = {}
        self.hidden: dict[str, Any] = {}
        self._seen: dict[int, str] = {}
        self._alive: list[Any] = []  # an id is another's once its object is gone
        for index, callback in enumerate(callbacks):
            self._remember(callback, f"callbacks/{index}")
        self.states = [self._state(*each) for each in enumerate(callbacks)]

    def _state(self, index: int, callback: Any) -> dict[str, Any]:
        cls, path = type(callback), f"callbacks/{index}"
        attributes, missing = {}, {}
        if why := [_REFUSED[c.__name__] for c in cls.__mro__ if c.__name__ in _REFUSED]:
            missing[""] = why[0]
        for name, value in list(vars(callback).items()):
            if name in _passed_over(callback):
                continue
            try:
                attributes[name] = self.encode(value, f"{path}/{name}")
            except (_UnknownError, RecursionError) as unknown:
                missing[name] = f"{name}: {_phrase(unknown)}"
        try:
            self._class(cls, path)
        except (_UnknownError, RecursionError) as unknown:
            missing["()"] = _phrase(unknown)
        state = {"class": cls.__name__, "attributes": attributes}
        return state | {"hidden": {}, "left_out": missing}

    def _remember(self, value: Any, path: str) -> None:
        self._seen[id(value)] = path
        self._alive.append(value)

    def encode(self, value: Any, path: str) -> Any:
        """Return a value as JSON; its arrays go to `arrays`."""
        if value is None or isinstance(value, bool | str) or type(value) is int:
            return value
        if isinstance(value, float):  # as text: JSON has no infinity
            return {"float": value.hex()}
        if isinstance(value, types.FunctionType) and value in _OPERATIONS:
            return {"operation": _OPERATIONS[value]}
        if id(value) in self._seen:
            return {"again": self._seen[id(value)]}
        self._remember(value, path)
        is_array = isinstance(value, np.ndarray | np.generic)
        if is_array and value.dtype.kind in "biufV":
            self.arrays[path] = np.array(value)
            return {"array" if isinstance(value, np.ndarray) else "scalar": path}
        if keras.ops.is_tensor(value):
            try:
                self.arrays[path] = np.array(keras.ops.convert_to_numpy(value))
            except TypeError as error:  # a JAX key
                raise _UnknownError(_kind(value)) from error
            return {"tensor": path}
        if type(value) in (list, tuple):
            parts = [self.encode(x, f"{path}/{i:04}") for i, x in enumerate(value)]
            return parts if type(value) is list else {"tuple": parts}
        if type(value) is dict:
            items = [
                [self.encode(key, f"{path}/{i:04}k"), self.encode(x, f"{path}/{key}")]
                for i, (key, x) in enumerate(value.items())
            ]
            return {"items": items}
        return self._recipes_own(value, path)

    def _recipes_own(self, value: Any, path: str) -> Any:
        """Encode what only the recipe can make: what can't change, files, functions."""
        is_file = isinstance(value, io.TextIOWrapper)
        is_function = callable(value) and hasattr(value, "__name__")
        if isinstance(value, types.MethodType):
            is_function = id(value.__self__) in self._seen
        if not isinstance(value, _IMMUTABLE) and not is_file and not is_function:
            raise _UnknownError(_kind(value))
        self.references[path] = value
        if self.begun and not _is_alike(self.begun.references.get(path), value):
            raise _UnknownError(f"{_kind(value)} that training has made")
        if is_file:
            self.arrays[path] = _content(value)
            return {"file": path}
        if is_function:
            self._function(value, f"{path}()")
        return {"recipe": None}

    def _class(self, cls: type, path: str) -> None:
        """Look at what the class of a callback and its methods keep."""
        for each in cls.__mro__:
            if each is object or _is_librarys(each) or id(each) in self._seen:
                continue
            self._remember(each, path)
            for name, value in list(vars(each).items()):
                where = f"{path}/{each.__name__}.{name}"
                if hasattr(value, "__get__"):
                    self._function(value, f"{where}()")
                elif not name.startswith(("__", "_abc")):
                    place = functools.partial(setattr, each, name)
                    self._keep(where, name, value, place)

    def _function(self, function: Any, path: str) -> None:
        """Look at what a function of the recipe's keeps from call to call."""
        function = getattr(function, "__func__", function)
        if not hasattr(function, "__code__") or _is_librarys(function):
            return
        if id(function) in self._seen and self._seen[id(function)] != path[:-2]:
            return
        self._remember(function, path[:-2])
        for name, value, place in _kept(function):
            self._keep(f"{path}{name}", name, value, place)

    def _keep(self, path: str, name: str, value: Any, place: Any) -> None:
        self.places[path] = value, place
        try:
            self.hidden[path] = self.encode(value, path)
        except _UnknownError as unknown:
            raise _UnknownError(f"{name}: {unknown}") from unknown


def _kind(value: Any) -> str:
    """Return what to call a value: "a generator"."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _is_alike(before: Any, now: Any) -> bool:
    """Whether the recipe makes what is there now, as it made what was there before."""
    if isinstance(now, io.TextIOWrapper):
        return type(before) is type(now)
    if code := getattr(now, "__code__", None):
        return getattr(before, "__code__", None) is code
    return before is now or (isinstance(now, _IMMUTABLE) and before == now)


def _phrase(unknown: BaseException) -> str:
    if isinstance(unknown, RecursionError):
        return "objects in objects without end"
    return str(unknown)


def _is_librarys(value: Any) -> bool:
    """Whether a function or class is installed, not the recipe's."""
    if code := getattr(value, "__code__", None):
        file = code.co_filename
    else:
        file = getattr(sys.modules.get(value.__module__), "__file__", None) or ""
    if Path(file).is_relative_to(_PACKAGE):
        return not Path(file).is_relative_to(_PACKAGE / "recipes")
    return file == "" or file.startswith(("<frozen", *_LIBRARIES))


def _kept(function: Any) -> Iterator[tuple[str, Any, Callable[[Any], None]]]:
    """Yield what a function keeps from call to call: name, value, and how to set it."""
    code, there = function.__code__, function.__globals__
    for word, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # an empty one
            yield word, cell.cell_contents, functools.partial(_fill, cell)
    for word in ("__defaults__", "__kwdefaults__"):
        if value := getattr(function, word):
            yield word, value, functools.partial(setattr, function, word)
    for space, words in (
        (vars(function), {*vars(function)}),
        (there, _globals(code) & there.keys()),
    ):
        for word in sorted(words):
            place = functools.partial(operator.setitem, space, word)
            yield word, space[word], place


def _fill(cell: types.CellType, value: Any) -> None:
    cell.cell_contents = value


def _globals(code: types.CodeType) -> set[str]:
    """Return the names of globals that code uses or sets."""
    used = ("LOAD_GLOBAL", "STORE_GLOBAL")
    names = {i.argval for i in dis.get_instructions(code) if i.opname in used}
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return names.union(*map(_globals, inner))


def _content(file: Any) -> np.ndarray:
    """Return the bytes so far of a file that is being written."""
    if file.closed:
        return np.zeros(0, "uint8")
    if not file.writable() or not Path(file.name).is_file():
        raise _UnknownError("a file that can't be written again")
    file.flush()
    return np.frombuffer(Path(file.name).read_bytes(), "uint8")


def _write_back(file: Any, saved: bytes) -> None:
    """Give a file that was opened again the bytes that it had.

    Rows of steps that will be trained again are cut off. A file that is appended to and
    holds other bytes by now stays as it is.
    """
    if file.closed:
        return
    file.flush()
    path = Path(file.name)
    if "a" not in file.mode or path.read_bytes().startswith(saved):
        with path.open("r+b") as opened:
            opened.write(saved)
            opened.truncate()
    file.seek(0, os.SEEK_END)


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
        there = [*present] if isinstance(present, list | tuple) else []
        for i, (x, old) in enumerate(
            zip(content, [*there, *[None] * len(content)], strict=False)
        ):
            yield decode(x, f"{path}/{i:04}", old)

    if not isinstance(value, dict | list):
        return value
    ((kind, content),) = value.items() if isinstance(value, dict) else [("list", value)]
    match kind:
        case "float":
            return float.fromhex(content)
        case "scalar":
            return arrays[content][()]
        case "again":
            return read.get(content, present)
        case "operation":
            if content not in _OPERATIONS.values():
                raise UsageError(
                    f"the checkpoint of {type(owner).__name__} names {content!r}, "
                    "which is no operation of keras.ops: start the run anew."
                )
            return getattr(keras.ops, content)
        case "array":
            found = np.array(arrays[content])
        case "tensor":
            found = keras.ops.convert_to_tensor(arrays[content])
        case "list":
            found = present if type(present) is list else []
            found[:] = list(items(content))
        case "tuple":
            found = tuple(items(content))
        case "items":
            found = present if isinstance(present, dict) else {}
            pairs = []
            for i, (key, x) in enumerate(content):
                key = decode(key, f"{path}/{i:04}k", None)
                pairs.append((key, decode(x, f"{path}/{key}", found.get(key))))
            found.clear()
            found.update(pairs)
        case "file":
            _write_back(present, arrays[content].tobytes())
            found = present
        case _:  # the recipe's own function or value
            found = present
    read[path] = found
    return found
