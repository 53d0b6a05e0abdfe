"""The images that are compared on."""

from __future__ import annotations

import numpy as np

from kerascnn import data
from kerascnn.data import Split, loading
from kerascnn.recipe import Recipe


def of(recipe: Recipe) -> Split:
    """Return the sample's training images; for imagenette, noise of its size."""
    # The same on every machine, whatever data it has.
    if recipe.dataset == "imagenette":
        dice = np.random.default_rng(0)
        # Keras crops to the proportions and then resizes, torchvision the other way
        # round: the same where both crop at a whole pixel, as from 2 : 3. Else they lie
        # up to half a pixel apart.
        noise = dice.integers(0, 256, (16, 336, 504, 3), "uint8")
        return Split(noise, dice.integers(0, 10, 16, "int32"))
    if loading.is_path(recipe.dataset):
        return data.load(recipe.dataset).train
    return data.load(recipe.dataset, "sample").train
