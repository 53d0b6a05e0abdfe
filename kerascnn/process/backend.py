"""Which backend Keras computes on, chosen before Keras is imported."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import NoReturn

from kerascnn import MISSED_BACKEND, UsageError, processes, text
from kerascnn.process import cores, memory, signals

_NAMES = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
BACKENDS = tuple(_NAMES)


def installed() -> list[str]:
    """Return the backends that are installed here."""
    return [name for name in BACKENDS if importlib.util.find_spec(name)]


def restart(variables: Mapping[str, str]) -> NoReturn:
    """Start this process again, as it was called, with other environment variables."""
    if sys.stdout is not None:  # as it is after `>&-`
        sys.stdout.flush()
    command = [sys.executable, *sys.orig_argv[1:]]
    environment = {**os.environ, **variables}
    if os.name == "nt":  # there `execve` neither waits nor quotes
        import subprocess

        sys.exit(subprocess.call(command, env=environment))
    os.execve(sys.executable, command, environment)


def restart_for_memory() -> None:
    """Start a program again where glibc can keep its memory: first of all, once."""
    if needed := memory.variables():
        # A file of the user's may import Keras before this package.
        restart(needed | ({"KERAS_BACKEND": MISSED_BACKEND} if MISSED_BACKEND else {}))


def check_backend(name: str | None = None, origin: str = "KERAS_BACKEND") -> None:
    """Check that Keras can train on a backend here, by default the environment's."""
    name = name or os.environ["KERAS_BACKEND"]
    if name not in BACKENDS:
        raise UsageError(f"{origin} {name!r}: expected jax, tensorflow or torch.")
    if name not in installed():
        raise UsageError(
            f"{origin} {name}: {name} is not installed; "
            f"`{text.install(name)}` installs it."
        )


def say_missed_backend() -> None:
    """Say in one line, once a process, which backend is in use where Keras chose it."""
    global _missed_is_said
    if MISSED_BACKEND and not _missed_is_said:
        _missed_is_said = True
        print(
            f"kerascnn: Keras was imported first and runs on "
            f"{os.environ['KERAS_BACKEND']}, not {MISSED_BACKEND}: import "
            "kerascnn before keras.",
            file=sys.stderr,
            flush=True,
        )


_missed_is_said = False


def say_loading() -> None:
    """Say, in this package's own programs, what takes seconds before they begin."""
    child = processes.PARENT in os.environ
    if "keras" not in sys.modules and signals.is_program() and not child:
        name = _NAMES[os.environ["KERAS_BACKEND"]]
        text.say(f"Loading Keras and {name} ...")


def spare_tensorflow() -> None:
    """Keep Keras from importing TensorFlow where it is installed but not the backend.

    `get_config` and `save` import it to see whether a value is a `TensorShape`:
    seconds, and memory, on a GPU too. Keras looks once and remembers; here it looks
    while TensorFlow is hidden. Other packages can import it as ever.
    """
    if os.environ["KERAS_BACKEND"] == "tensorflow" or "tensorflow" in sys.modules:
        return
    sys.modules["tensorflow"] = None  # type: ignore[assignment] # "not importable"
    say_loading()
    try:
        import keras

        keras.saving.serialize_keras_object(keras.DTypePolicy("float32"))
    finally:
        del sys.modules["tensorflow"]


def use_backend(wanted: str | None, variables: Mapping[str, str] | None = None) -> None:
    """Start a program again where it needs another backend, or these variables."""
    # What this process has not read yet is set in it.
    needed = dict(variables or {})
    if wanted is not None:
        check_backend(wanted, "--backend")
        needed["KERAS_BACKEND"] = wanted
    needed = {k: v for k, v in needed.items() if os.environ.get(k) != v}
    if "KERAS_BACKEND" not in needed and not _has_begun():
        os.environ.update(needed)
    elif needed and signals.is_program():
        restart(needed)
    elif needed:
        words = " ".join(f"{name}={value}" for name, value in needed.items())
        raise UsageError(f"this needs {words} in the environment before Python starts.")


def _has_begun() -> bool:
    """Whether the backend in use has read its environment variables."""
    if os.environ["KERAS_BACKEND"] == "jax":
        return cores.jax_has_begun()
    return "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()
