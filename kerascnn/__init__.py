"""A whole CNN course as short, runnable Keras 3 recipes.

Importing the package chooses the Keras backend, JAX unless the environment variable
`KERAS_BACKEND` says otherwise, and imports nothing else: import it before `keras`.
"""

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


def __getattr__(name: str):
    # `kerascnn.accelerate` imports Keras and JAX when it is first asked for.
    if name == "accelerate":
        from kerascnn.process.backend import say_missed_backend

        say_missed_backend()
        from kerascnn.acceleration import accelerate

        return accelerate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
