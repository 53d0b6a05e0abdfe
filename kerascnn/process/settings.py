"""Keras's process-wide settings, at Keras's own defaults while a recipe is at work."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

# Each is read as `keras.config.NAME()` and changed by `keras.config.set_NAME`: from
# ~/.keras/keras.json, the environment (KERAS_MAX_EPOCHS), or the user's program.
DEFAULTS: dict[str, Any] = {
    "floatx": "float32",
    "epsilon": 1e-7,
    "image_data_format": "channels_last",
    "max_epochs": None,
    "max_steps_per_epoch": None,
    "dtype_policy": "float32",
}

_held = contextvars.ContextVar("held", default=False)


@contextlib.contextmanager
def keras_defaults(dtype_policy: str | None = None) -> Iterator[None]:
    """Set Keras's defaults for a block, and bring back what was set before it.

    A recipe is written for Keras's defaults: under others its layers, losses and
    optimisers compute something else. Inside a block, another one changes nothing but
    the data type policy that it names, so that what a recipe sets itself holds.
    """
    import keras

    wanted = {} if _held.get() else dict(DEFAULTS)
    if dtype_policy is not None:
        wanted["dtype_policy"] = dtype_policy
    config: Any = keras.config
    before = {name: getattr(config, name)() for name in wanted}
    token = _held.set(True)
    try:
        for name, value in wanted.items():
            getattr(config, f"set_{name}")(value)
        yield
    finally:
        _held.reset(token)
        for name, value in before.items():
            getattr(config, f"set_{name}")(value)


def others() -> dict[str, Any]:
    """Return the settings that are not Keras's defaults, by name."""
    import keras

    config: Any = keras.config
    found = {name: getattr(config, name)() for name in DEFAULTS}
    found["dtype_policy"] = found["dtype_policy"].name
    return {name: value for name, value in found.items() if value != DEFAULTS[name]}
