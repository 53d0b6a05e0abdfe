"""Twins: for each recipe the lectures' PyTorch network, written from the slides.

The speed-runs' networks are written from the repositories that they name.

Nothing in them is made from the Keras networks, which are compared with them. Each
lecture has a module with its networks as functions, as its slides code them, and a
table `TWINS` that adds optimiser, batches and transforms.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from kerascnn import UsageError, text
from kerascnn import recipe as recipes

if TYPE_CHECKING:
    from kerascnn.twins.twin import Twin

__all__ = ["NoTwinError", "Twin", "check_torch", "load"]


def __getattr__(name: str):
    if name == "Twin":  # its module imports PyTorch, which is an extra
        from kerascnn.twins.twin import Twin

        return Twin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class NoTwinError(UsageError):
    """A recipe has no twin: there is nothing to compare it with."""


def load(name: str) -> Twin:
    """Return a recipe's twin; `NoTwinError` where it has none."""
    recipes.check_name(name)
    check_torch()
    from kerascnn.twins import lecture_1, lecture_2, lecture_3, lecture_4, speedrun

    for lecture in (lecture_1, lecture_2, lecture_3, lecture_4, speedrun):
        if name in lecture.TWINS:
            return lecture.TWINS[name]
    raise NoTwinError(f"the recipe {name!r} has no PyTorch twin yet.")


def check_torch() -> None:
    """Raise `UsageError` unless PyTorch is installed: it is an extra."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError(
            "parity compares with PyTorch, which is not installed; "
            f"`{text.install('torch')}` installs it."
        )
