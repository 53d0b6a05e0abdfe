"""What callbacks may hold: which kinds of values there are, and how each is kept."""

from __future__ import annotations

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerascnn import UsageError

# Values that nothing can change; the recipe makes those that were there from the start.
IMMUTABLE = (
    *(types.ModuleType, type, logging.Logger, re.Pattern, np.dtype, keras.DTypePolicy),
    *(pathlib.PurePath, bytes, complex, range, slice, frozenset, enum.Enum),
    *(fractions.Fraction, int, type(Ellipsis), type(NotImplemented)),
)
WITH_VARIABLES = (
    *(keras.Layer, keras.Metric, keras.Optimizer, keras.random.SeedGenerator),
)
# A file's content so far belongs to a checkpoint, up to so many bytes.
_MOST = 2**26
_CLASS_IN_C = 1 << 9  # the opposite of Python's own flag Py_TPFLAGS_HEAPTYPE
_LIBRARIES = tuple(
    str(Path(sysconfig.get_paths()[name]))
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_PACKAGE = Path(__file__).parents[1]


def kind(value: Any) -> str:
    """Return what to call a value: "a generator"."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def name(function: Any) -> str | None:
    """Return the name by which `named` finds a library's operation, or None."""
    word = getattr(function, "__name__", "")
    for module in _modules():
        found = getattr(sys.modules[module], word, None)
        if found is function and _is_operation(found):
            return f"{module}:{word}"
    return None


def named(word: str, owner: Any) -> Any:
    """Return a library's operation by its name.

    Raises:
        UsageError: There is no such operation.
    """
    module, _, operation = word.partition(":")
    found = getattr(sys.modules.get(module), operation, None)
    if module not in _modules() or not _is_operation(found):
        raise UsageError(
            f"the checkpoint of {type(owner).__name__} names {word!r}, which is no "
            "operation of keras.ops, NumPy or operator: start the run anew."
        )
    return found


def _modules() -> list[str]:
    known = ("keras.ops", "numpy", "jax.numpy", "operator")
    return [module for module in known if module in sys.modules]


_KERAS_OPERATIONS = [value for value in vars(keras.ops).values() if callable(value)]


def _is_operation(value: Any) -> bool:
    """Whether a value of those modules only computes: no function that reads files."""
    where = getattr(value, "__module__", "") or ""
    return isinstance(value, np.ufunc) or (
        callable(value)
        and not isinstance(value, type)
        and (value in _KERAS_OPERATIONS or where.startswith(("jax.", "_operator")))
    )


def is_librarys(value: Any) -> bool:
    """Whether a function or class is installed, not the recipe's."""
    if code := getattr(value, "__code__", None):
        file = code.co_filename
    else:
        file = getattr(sys.modules.get(value.__module__), "__file__", None) or ""
    if Path(file).is_relative_to(_PACKAGE):
        return not Path(file).is_relative_to(_PACKAGE / "recipes")
    return file == "" or file.startswith(("<frozen", *_LIBRARIES))


def is_object(value: Any) -> bool:
    """Whether an object is all in its attributes: its classes are Python's own."""
    classes = type(value).__mro__[:-1]
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, type)
        and all(cls.__flags__ & _CLASS_IN_C for cls in classes)
        and not any(vars(cls).get("__slots__") for cls in classes)
    )


def kept(function: Any) -> Iterator[tuple[str, Any, Callable[[Any], None]]]:
    """Yield what a function keeps from call to call: name, value, and how to set it."""
    code = function.__code__
    for word, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # empty
            continue
        yield word, value, functools.partial(setattr, cell, "cell_contents")
    for word in ("__defaults__", "__kwdefaults__"):
        if value := getattr(function, word):
            yield word, value, functools.partial(setattr, function, word)
    for word, value in vars(function).items():
        yield word, value, functools.partial(operator.setitem, vars(function), word)
    names, stored = _globals(code)
    for word in sorted(names & function.__globals__.keys()):
        value = function.__globals__[word]
        constant = value is None or isinstance(value, (*IMMUTABLE, str, float))
        if constant and word not in stored:
            continue
        yield (
            *(word, value),
            functools.partial(operator.setitem, function.__globals__, word),
        )


def _globals(code: types.CodeType) -> tuple[set[str], set[str]]:
    """Return the names of globals that code uses, and of those that it sets."""
    names, stored = set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            names.add(instruction.argval)
        elif instruction.opname == "STORE_GLOBAL":
            names.add(instruction.argval)
            stored.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            more, more_stored = _globals(constant)
            names |= more
            stored |= more_stored
    return names, stored


def array(saved: np.ndarray, present: Any) -> np.ndarray:
    """Return a saved array, in the place of the one that is present if it fits."""
    if (
        type(present) is np.ndarray
        and (present.shape, present.dtype) == (saved.shape, saved.dtype)
        and present.flags.writeable
    ):
        present[...] = saved
        return present
    return np.array(saved)


def random_state(generator: Any) -> Any:
    """Return the state of one of NumPy's or Python's random generators."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.getstate()


def set_random_state(generator: Any, state: Any) -> None:
    """Take a random generator back to a state that `random_state` returned."""
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(state)


def is_file(value: Any) -> bool:
    """Whether a value is a file that its owner writes."""
    return (
        isinstance(value, io.TextIOWrapper | io.BufferedWriter | io.BufferedRandom)
        and isinstance(value.name, str | os.PathLike)
        and (value.closed or value.writable())
    )


def content(file: Any) -> np.ndarray | None:
    """Return the bytes of a file that is being written; None where there are none."""
    if file.closed:
        return np.zeros(0, "uint8")
    file.flush()
    path = Path(file.name)
    if not path.is_file() or path.stat().st_size > _MOST:
        return None
    return np.frombuffer(path.read_bytes(), "uint8")


def write_back(file: Any, saved: np.ndarray) -> None:
    """Give a file that was opened again the bytes that it had.

    Rows of steps that will be trained again are cut off. A file that is appended to and
    holds other bytes by now stays as it is.
    """
    if file.closed:
        return
    file.flush()
    path, saved_bytes = Path(file.name), saved.tobytes()
    if "a" not in file.mode or path.read_bytes().startswith(saved_bytes):
        with path.open("r+b") as opened:
            opened.write(saved_bytes)
            opened.truncate()
    file.seek(0, os.SEEK_END)
