"""Train a recipe: from the command line with `main`, from Python with `train`.

Each is imported when it is first asked for: `kerascnn.training.signals` is needed
before Keras is there.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kerascnn.training.command import main
    from kerascnn.training.overrides import Overrides
    from kerascnn.training.trainer import train

__all__ = ["Overrides", "main", "train"]

_MODULES = {"Overrides": "overrides", "main": "command", "train": "trainer"}


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
