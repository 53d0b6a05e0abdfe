"""Process-wide settings of Keras and JAX, as recipes need them while they are at work.

A recipe is built under `keras_defaults`; whatever computes does so under `computing`.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from kerascnn import UsageError, text

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

# With other values of these, Keras or JAX itself raises errors in any training.
_NEEDED = {
    "jax_numpy_rank_promotion": "allow",
    "jax_default_prng_impl": "threefry2x32",
    "jax_legacy_prng_key": "allow",
    "jax_transfer_guard_host_to_device": "allow",
    "jax_transfer_guard_device_to_host": "allow",
    "jax_transfer_guard_device_to_device": "allow",
    "jax_no_tracing": False,
    "jax_no_execution": False,
}


@contextlib.contextmanager
def computing(
    say: Callable[[str], None] = text.say, dtype_policy: str | None = None
) -> Iterator[None]:
    """Compute in a block: under `keras_defaults`, on a device, as JAX must be set.

    Args:
        say: Is told, in a line, of each setting of JAX that is set aside.
        dtype_policy: As in `keras_defaults`.

    Raises:
        UsageError: JAX finds no device of the kind that it is told to take.
    """
    with keras_defaults(dtype_policy), _as_keras_needs(say):
        _check_device()
        yield


@contextlib.contextmanager
def _as_keras_needs(say: Callable[[str], None]) -> Iterator[None]:
    """Set aside, in a block, the settings of JAX under which Keras can't train."""
    before = {}
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        for name, needed in _NEEDED.items():
            value = getattr(jax.config, name, None)
            harmless = (None, needed, "warn", "log", "log_explicit")
            if value not in harmless:
                before[name] = value
                say(f"{name} is {value}, and Keras needs {needed}: set aside here.")
                jax.config.update(name, needed)
    try:
        yield
    finally:
        for name, value in before.items():
            sys.modules["jax"].config.update(name, value)


def _check_device() -> None:
    if os.environ["KERAS_BACKEND"] != "jax":
        return
    import jax

    try:
        jax.devices()
    except RuntimeError as error:
        raise UsageError(
            f"JAX finds no device to compute on ({text.one_line(error, most=200)}): "
            "JAX_PLATFORMS=cpu in the environment has it compute on the processor."
        ) from error


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
