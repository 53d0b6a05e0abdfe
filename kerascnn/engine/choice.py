"""Which engine trains a recipe."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import keras

from kerascnn import UsageError
from kerascnn.data import batches
from kerascnn.data.streamed import StreamedSplit
from kerascnn.engine import fit
from kerascnn.text import show

if TYPE_CHECKING:
    from kerascnn.data import Split
    from kerascnn.recipe import Recipe


def choose_engine(
    wanted: str, recipe: Recipe, train_split: Split, test_split: Split
) -> ModuleType:
    """Return the module whose `fit` trains a recipe: one of `engine`'s.

    `"auto"` takes `epoch` on JAX, and `stream` where the images do not fit the device's
    memory; `fit` where a callback has a hook for single batches. `"epoch"` and
    `"stream"` elsewhere are a `UsageError`.
    """
    if keras.backend.backend() != "jax":
        if wanted in ("epoch", "stream"):
            raise UsageError(
                f"--engine {wanted} needs JAX, and the backend is "
                f"{keras.backend.backend()}: leave the engine out, or pass "
                "--backend jax."
            )
        return fit
    from kerascnn.engine import epoch as epoch_module

    streams = wanted == "stream" or isinstance(train_split, StreamedSplit)
    if wanted == "auto" and not streams:
        streams = not epoch_module.fits(train_split, test_split)
        if streams:
            found = "The images do not fit the device's memory twice"
            if not batches.is_installed():
                show(f"{found}: training with `fit`.")
                return fit
            show(f"{found}: they are streamed.")
    picky = [c for c in recipe.callbacks() if epoch_module.wants_batches(c)]
    if wanted != "fit" and picky:
        name = type(picky[0]).__name__
        if wanted != "auto":
            raise UsageError(
                f"--engine {wanted} calls no hook for single batches, and the callback "
                f"{name} has one: leave the engine out, or pass --engine fit."
            )
        show(f"The callback {name} has a hook for batches: training with `fit`.")
        return fit
    if wanted == "fit":
        return fit
    if streams:
        from kerascnn.engine import stream

        batches.require()
        return stream
    return epoch_module
