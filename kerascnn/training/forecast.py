"""How large a run is, said before it trains where it will take minutes or more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kerascnn.data.streamed import StreamedSplit
from kerascnn.engine import counts
from kerascnn.process import estimate
from kerascnn.text import duration

if TYPE_CHECKING:
    import keras

    from kerascnn.data import Split
    from kerascnn.engine.plan import Plan

# A run that takes longer is told beforehand.
MINUTES = 3
# What even a slow processor computes in that time, in operations.
_LITTLE = 60 * MINUTES * 1e10
# A weight, its gradient, and the two means that Adam keeps of it.
_OF_A_WEIGHT = 4
_BYTES = 4  # of a float32
# What Python, Keras and a backend hold by themselves, with what XLA compiles.
_PROCESS = 6e8


def line(
    name: str, model: keras.Model, plan: Plan, *splits: Split, memory: bool = True
) -> str | None:
    """Return a line on a run's size and time; `None` where it takes few minutes.

    The time is that of the kernels' multiplications at the speed of a large matrix
    product, which is measured here; the memory that of the process, weights, optimiser,
    images, and of what a batch keeps on the way forward.

    Args:
        name: The recipe.
        model: The model to train.
        plan: What is left to train.
        splits: The training and the test set.
        memory: Name it; what XLA plans is known later, where it compiles a whole step.
    """
    try:
        operations = counts.training_operations(model)
        results = sum(counts.results(model))
    except (TypeError, AttributeError):  # of images of any size, or a layer used twice
        return None
    epochs = plan.epochs - plan.initial_epoch
    an_epoch = operations * len(splits[0])
    if an_epoch * epochs < _LITTLE:
        return None
    seconds = an_epoch / estimate.matmul_peak(turns=2, quick=True)
    if seconds * epochs < 60 * MINUTES:
        return None
    parameters = model.count_params()
    images = sum(
        split.images.nbytes for split in splits if not isinstance(split, StreamedSplit)
    )
    # Each result comes once more, as normalised or activated.
    kept = _OF_A_WEIGHT * parameters + 2 * plan.batch_size * results
    bytes_ = (_PROCESS + _BYTES * kept + images) / 1e9
    whole = f", {duration(seconds * epochs)} for all {epochs}" if epochs > 1 else ""
    return (
        f"{name} is large: {parameters:,} parameters; by an estimate, "
        f"{duration(seconds)} an epoch{whole}"
        f"{f', and {bytes_:.1f} GB of memory' * memory}."
    )
