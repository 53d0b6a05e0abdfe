"""Which engine trains a recipe."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import keras

from kerascnn import UsageError
from kerascnn.engine import fit

if TYPE_CHECKING:
    from kerascnn.data import Split
    from kerascnn.recipe import Recipe


def choose_engine(
    wanted: str, recipe: Recipe, train_split: Split, test_split: Split
) -> ModuleType:
    """Return the module whose `fit` trains a recipe, `engine.epoch` or `engine.fit`.

    `"auto"` takes `epoch` on JAX, where the images fit the device's memory and no
    callback has a hook for single batches. `"epoch"` elsewhere is a `UsageError`.
    """
    if keras.backend.backend() != "jax":
        if wanted == "epoch":
            raise UsageError(
                f"--engine epoch needs JAX, and the backend is "
                f"{keras.backend.backend()}: leave the engine out, or pass "
                "--backend jax."
            )
        return fit
    from kerascnn.engine import epoch as epoch_module

    if wanted == "auto" and not epoch_module.fits(train_split, test_split):
        print("The images do not fit the device's memory twice: training with `fit`.")
        return fit
    picky = [c for c in recipe.callbacks() if epoch_module.wants_batches(c)]
    if wanted != "fit" and picky:
        name = type(picky[0]).__name__
        if wanted == "epoch":
            raise UsageError(
                f"--engine epoch calls no hook for single batches, and the callback "
                f"{name} has one: leave the engine out, or pass --engine fit."
            )
        print(f"The callback {name} has a hook for batches: training with `fit`.")
        return fit
    return fit if wanted == "fit" else epoch_module
