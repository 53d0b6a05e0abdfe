"""A whole CNN course as short, runnable Keras 3 recipes.

    import kerascnn

    kerascnn.names()                              # the recipes
    recipe = kerascnn.load("fashion_lenet")       # or the path of your own
    run = kerascnn.train(recipe, epochs=2, data="sample")
    run.show()                                    # the curve
    run.model().predict(images)                   # plain Keras
    kerascnn.predict("cifar10", "cat.png")        # comes with the package

Importing the package chooses the Keras backend, JAX unless the environment variable
`KERAS_BACKEND` says otherwise, and imports nothing else: import it before `keras`.
"""

import os
import sys
from typing import TYPE_CHECKING

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

    def __str__(self) -> str:
        from kerascnn.text import printable  # a file's name may hold line ends

        return printable(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows."""
        return [f"UsageError: {self}"]


if TYPE_CHECKING:
    from kerascnn.acceleration import accelerate
    from kerascnn.api import predict, resume, train
    from kerascnn.process.prepare import prepare_process
    from kerascnn.recipe import Recipe, load, names
    from kerascnn.runs import Run

# The module of each public name, imported when the name is first asked for.
_MODULES = {
    "names": "recipe",
    "load": "recipe",
    "train": "api",
    "resume": "api",
    "predict": "api",
    "accelerate": "acceleration",
    "prepare_process": "process.prepare",
    "Recipe": "recipe",
    "Run": "runs",
}

__all__ = [
    "Recipe",
    "Run",
    "UsageError",
    "accelerate",
    "load",
    "names",
    "predict",
    "prepare_process",
    "resume",
    "train",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    if name == "accelerate":
        from kerascnn.process.backend import say_missed_backend

        say_missed_backend()
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
