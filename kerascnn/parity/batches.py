"""What the comparison trains on, and the check of the batches' size and number."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch

from kerascnn import UsageError
from kerascnn.data import Split
from kerascnn.data.official import OFFICIAL
from kerascnn.engine.plan import Plan
from kerascnn.parity import mistakes
from kerascnn.parity.check import Check
from kerascnn.parity.shared_randomness import Dice
from kerascnn.parity.torch_step import Batch
from kerascnn.recipe import Recipe
from kerascnn.twins.twin import Twin

STEPS_AN_EPOCH = 10


@dataclasses.dataclass(frozen=True)
class Size:
    """How much to compute: images a step, and steps of the loss trace."""

    batch: int
    steps: int


def size(parameters: int) -> Size:
    """Return how much to compute for a network with so many parameters."""
    # The lectures' batches of 256 and 1,024 would take hours for all networks, and a
    # hundred steps of the two largest many minutes.
    if parameters > 100e6:
        return Size(batch=1, steps=3)
    if parameters > 30e6:
        return Size(batch=2, steps=25)
    return Size(batch=2 if parameters > 5e6 else 4, steps=100)


def compare_batches(recipe: Recipe, twin: Twin) -> Iterator[Check]:
    """Compare the size of a batch and their number with a `DataLoader`'s."""
    counts = {name: official.counts["train"] for name, official in OFFICIAL.items()}
    counts["imagenette"] = 9_469
    if recipe.dataset not in counts:
        raise UsageError(
            f"{recipe.name} is on {recipe.dataset}, and the lectures' networks are on "
            f"{', '.join(counts)}: there is nothing to compare it with."
        )
    yield Check(
        "batches",
        "images of a batch",
        abs(recipe.batch_size - twin.batch_size),
        0,
        "another batch size",
    )
    images = counts[recipe.dataset]
    loader = torch.utils.data.DataLoader(
        range(images),  # type: ignore[arg-type]
        batch_size=twin.batch_size,
        drop_last=twin.drop_last,
    )
    plan = Plan(1, recipe.batch_size, seed=0, drop_last=recipe.drop_last)
    yield Check(
        "batches",
        f"batches of an epoch of {images:,} images",
        abs(plan.steps(images) - len(loader)),
        0,
        mistakes.MISTAKES["drop_last"][0],
    )


def prepare(twin: Twin, raw: Split, much: Size, dropout: Dice) -> Iterator[Batch]:
    """Yield `STEPS_AN_EPOCH` batches an epoch, through torchvision's rules."""
    dice = np.random.default_rng(2)
    used = min(much.batch * min(STEPS_AN_EPOCH, much.steps), len(raw))
    used -= used % much.batch
    for step in range(much.steps):
        epoch, place = divmod(step, STEPS_AN_EPOCH)
        chosen = np.random.default_rng([3, epoch]).permutation(used)
        chosen = chosen.reshape(-1, much.batch)[place % (used // much.batch)]
        images = twin.transformed(np.array(raw.images[chosen]), dice)
        yield Batch(
            epoch,
            images.astype("float32"),
            np.array(raw.labels[chosen]),
            dropout.masks(len(images)),
        )
