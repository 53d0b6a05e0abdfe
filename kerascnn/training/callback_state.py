"""The state of Keras callbacks as plain JSON values and arrays, without pickle.

A callback's state is what its attributes hold: numbers, words, arrays, and lists and
dictionaries of them, as in `keras.callbacks.EarlyStopping` (`best`, `wait`,
`best_weights`). An attribute that holds anything else is left out, and is after a
resume what the recipe makes anew: right for a function or the model, wrong for a
callback that keeps its state in a set, a generator or an object of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kerascnn import UsageError


class _UnknownError(TypeError):
    """A value that is neither a plain value nor an array."""


def capture(
    callbacks: Sequence[keras.callbacks.Callback],
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return the state of callbacks.

    Args:
        callbacks: The callbacks.

    Returns:
        For each callback its class and its attributes, as JSON values; and the arrays
        that these refer to, copied, by names that begin with `callbacks/`.
    """
    states, arrays = [], {}
    for index, callback in enumerate(callbacks):
        attributes = {}
        for name, value in vars(callback).items():
            found: dict[str, np.ndarray] = {}
            try:
                encoded = _encode(value, f"callbacks/{index}/{name}", found)
            except _UnknownError:
                continue
            attributes[name] = encoded
            arrays |= found
        states.append({"class": type(callback).__name__, "attributes": attributes})
    return states, arrays


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
    for callback, state in zip(callbacks, states, strict=True):
        for name, value in state["attributes"].items():
            if name not in renewed:
                setattr(callback, name, _decode(value, arrays))


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


def _encode(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):  # as text: JSON has no infinity
        return {"float": value.hex()}
    if keras.ops.is_tensor(value):
        value = np.asarray(keras.ops.convert_to_numpy(value))
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufV":
        arrays[path] = np.array(value)
        return {"scalar" if isinstance(value, np.generic) else "array": path}
    if isinstance(value, list | tuple):
        items = [
            _encode(item, f"{path}/{i:04}", arrays) for i, item in enumerate(value)
        ]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {
            "dict": {
                key: _encode(item, f"{path}/{key}", arrays)
                for key, item in value.items()
            }
        }
    raise _UnknownError


def _decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "float":
            return float.fromhex(content)
        case "array":
            return np.array(arrays[content])
        case "scalar":
            return arrays[content][()]
        case "tuple":
            return tuple(_decode(item, arrays) for item in content)
        case _:
            return {key: _decode(item, arrays) for key, item in content.items()}
