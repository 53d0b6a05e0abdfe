"""The images that are compared on."""

from __future__ import annotations

import numpy as np

from kerascnn import UsageError, data
from kerascnn.data import Split
from kerascnn.recipe import Recipe


def of(recipe: Recipe) -> Split:
    """Return the bundled sample's training images, or noise where there is none.

    The same on every machine, whatever data it has.

    Args:
        recipe: Whose data set.
    """
    try:
        return data.load(recipe.dataset, "sample").train
    except UsageError:
        dice = np.random.default_rng(0)
        # Keras crops to the proportions and then resizes, torchvision the other way
        # round: the same where both crop at a whole pixel, as from 2 : 3. Else they lie
        # up to half a pixel apart.
        noise = dice.integers(0, 256, (16, 336, 504, 3), "uint8")
        return Split(noise, dice.integers(0, 10, 16, "int32"))
