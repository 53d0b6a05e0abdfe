"""As many epochs as end within a time: `kerascnn run RECIPE --budget 10min`."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING, Any

from kerascnn import UsageError, optim
from kerascnn.process import machine, signals
from kerascnn.text import duration, show
from kerascnn.training import costs
from kerascnn.training.options import Overrides, parsed_seconds

if TYPE_CHECKING:
    from kerascnn.recipe import Recipe

# The share of the epochs' time, and the seconds, that are kept free: for checkpoints,
# for the model's file and the curve, and for steps that are slower than those measured.
_SHARE, _END = 0.08, 5.0


def fitted(recipe: Recipe, overrides: Overrides) -> tuple[Overrides, dict[str, Any]]:
    """Choose a run's epochs so that it ends within its budget, and say so.

    The clock starts with the program, or from Python with this call. Never more epochs
    than the run would have without a budget.

    Args:
        recipe: The recipe.
        overrides: The run's options; `budget` is given.

    Returns:
        The options with the epochs, and what the run's record says of the choice.

    Raises:
        UsageError: The epochs are given too, or the budget is too small for one.
    """
    assert overrides.budget is not None
    if overrides.epochs is not None:
        raise UsageError(
            f"--epochs {overrides.epochs} and --budget {overrides.budget} both say how "
            "long to train: leave one of them out."
        )
    began = machine.begun() if signals.is_program() else time.time()
    seconds = parsed_seconds(overrides.budget, "--budget")
    found, plan, (train, test) = costs.measured(recipe, overrides)
    epoch = found.epoch(plan, len(train), len(test))
    before = time.time() - began + found.build + found.compiling
    after = _END
    if recipe.views is not None:  # evaluated once more, by a program of its own
        views = sum(1 for _ in recipe.views(test.images[:1]))
        after += views * len(test) * found.tested + found.compiling
    most = (seconds - before - after) / (epoch * (1 + _SHARE))
    epochs = min(plan.epochs, math.floor(most))
    if epochs < 1:
        least = 1.1 * (before + after + epoch * (1 + _SHARE))
        raise UsageError(
            f"--budget {overrides.budget}: an epoch of {recipe.name} takes about "
            f"{duration(epoch)} here, and what comes before and after it "
            f"{duration(before + after)}: the least that works is about "
            f"--budget {math.ceil(least)}s."
        )
    predicted = before + after + epochs * epoch
    said = _said(recipe, overrides.budget, epochs, plan.epochs, predicted)
    show(said)
    chosen = {
        "given": overrides.budget,
        "seconds": seconds,
        "epochs": epochs,
        "of_epochs": plan.epochs,
        "predicted_seconds": round(predicted, 1),
        "said": said,
    }
    if epochs < plan.epochs:
        overrides = dataclasses.replace(overrides, epochs=epochs)
    return overrides, chosen


def _said(recipe: Recipe, given: str, epochs: int, of: int, predicted: float) -> str:
    """Say in one line what was chosen."""
    many = f"{epochs} of {of} epochs" if epochs < of else f"all {of} epochs"
    said = f"Budget of {given}: {many}, about {duration(predicted)} in all."
    before = recipe.callbacks()
    for old, new in zip(before, optim.stretched(before, epochs, of), strict=True):
        if old is not new and epochs < of:
            said += (
                f" The learning rate falls to {getattr(new, 'gamma', 1):.3g} of itself "
                f"an epoch, not {getattr(old, 'gamma', 1):.3g}, and ends as low."
            )
    return said
