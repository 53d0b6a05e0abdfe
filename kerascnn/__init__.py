"""A whole CNN course as short, runnable Keras 3 recipes.

Importing the package chooses the Keras backend, JAX unless the environment variable
`KERAS_BACKEND` says otherwise, and imports nothing else: import it before `keras`.
"""

import importlib.util
import os
import sys

__version__ = "0.1.0"

# The backend that was asked for, where Keras was imported first and runs on another.
MISSED_BACKEND: str | None = None

# Keras takes an empty variable for none.
_asked = os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "jax"
if "keras" in sys.modules:  # too late to choose
    os.environ["KERAS_BACKEND"] = sys.modules["keras"].backend.backend()
    if os.environ["KERAS_BACKEND"] != _asked:
        MISSED_BACKEND = _asked


class UsageError(ValueError):
    """A mistake that the user can mend.

    The message is one line: what was passed, what was expected, how to go on. The
    command line prints it and exits with code 2, without a traceback.
    """

    exit_code = 2


def check_backend(name: str | None = None, origin: str = "KERAS_BACKEND") -> None:
    """Check that Keras can train on a backend here.

    Args:
        name: `"jax"`, `"tensorflow"` or `"torch"`; by default the environment's.
        origin: Where the name comes from, for the message: `"--backend"`.

    Raises:
        UsageError: It is no backend to train on, or it is not installed.
    """
    name = name or os.environ["KERAS_BACKEND"]
    if name not in ("jax", "tensorflow", "torch"):
        raise UsageError(f"{origin} {name!r}: expected jax, tensorflow or torch.")
    if importlib.util.find_spec(name) is None:
        raise UsageError(
            f"{origin} {name}: {name} is not installed; "
            f"`pip install 'kerascnn[{name}]'` installs it."
        )


def say_missed_backend() -> None:
    """Say in one line, once a process, which backend is in use where Keras chose it."""
    global _missed_is_said
    if MISSED_BACKEND and not _missed_is_said:
        _missed_is_said = True
        print(
            f"kerascnn: Keras was imported first and runs on "
            f"{os.environ['KERAS_BACKEND']}, not {MISSED_BACKEND}: import kerascnn "
            "before keras.",
            file=sys.stderr,
            flush=True,
        )


_missed_is_said = False


def spare_tensorflow() -> None:
    """Keep Keras from importing TensorFlow where it is installed but not the backend.

    `get_config` and `save` import it to see whether a value is a `TensorShape`: seconds
    lost, hundreds of megabytes, and on a GPU its memory. Keras looks once and
    remembers; this makes it look while TensorFlow is hidden. Other packages can import
    it as ever.
    """
    if os.environ["KERAS_BACKEND"] == "tensorflow" or "tensorflow" in sys.modules:
        return
    sys.modules["tensorflow"] = None  # type: ignore[assignment] # "not importable"
    try:
        import keras

        keras.saving.serialize_keras_object(keras.DTypePolicy("float32"))
    finally:
        del sys.modules["tensorflow"]


def __getattr__(name: str):
    # `kerascnn.accelerate` imports Keras and JAX when it is first asked for.
    if name == "accelerate":
        say_missed_backend()
        from kerascnn.acceleration import accelerate

        return accelerate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
