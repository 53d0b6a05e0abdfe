"""The memory that XLA plans for a training step, without any step being computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from kerascnn.acceleration import BATCH
from kerascnn.data import Split
from kerascnn.engine import epoch, finite, placement

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes of a compiled training step, of all devices together.

    Attributes:
        devices: Devices that share a batch.
        held: What is there between two steps: images, labels, weights, optimiser.
        step: What a step takes besides, until its end.
    """

    devices: int
    held: int
    step: int


def footprint(
    model: keras.Model,
    splits: tuple[Split, ...],
    batch_size: int,
    record: str,
    accumulate: int = 1,
    rematerialize: bool = False,
    devices: int | None = None,
    streamed: bool = False,
) -> Footprint:
    """Compile a model's training step on a batch, and return what XLA plans for it.

    Args:
        model: Compiled, on JAX; its optimiser is built.
        splits: The images to train on, first, and all others that the device holds.
        batch_size: Images a step.
        record: What of a step is recorded, of `recorder.KINDS`.
        accumulate: In how many parts a batch is computed.
        rematerialize: Compute activations again in the backward pass.
        devices: Those that share a batch, as in `placement.mesh`.
        streamed: The device holds a batch of a split and the next one.
    """
    model.optimizer.build(model.trainable_variables)
    finite.counts(model.optimizer)
    mesh = placement.mesh(model, batch_size, devices)
    whole = mesh and NamedSharding(mesh, PartitionSpec())
    cut = mesh and NamedSharding(mesh, PartitionSpec(None, BATCH))

    def shaped(tree: Any) -> Any:
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), tree
        )

    train, *others = (
        _batches(each, batch_size) if streamed else each for each in splits
    )
    state = shaped(epoch.read_state(model))
    images, labels = shaped((train.images, train.labels))
    missing = -batch_size % mesh.size if mesh else 0
    shape = 1, batch_size + missing
    chosen: Any = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=cut)
    if missing:
        chosen = placement.FilledUp(chosen, batch_size)
    function = epoch.training_function(
        *(model, mesh, batch_size, record, accumulate, rematerialize)
    )
    planned: Any = function.planned(state, images, labels, chosen)
    also = sum(split.images.nbytes + split.labels.nbytes for split in others)
    number = mesh.size if mesh else 1
    return Footprint(
        number,
        number * (planned.held + also),
        number * planned.besides,
    )


def _batches(split: Split, batch_size: int) -> Split:
    """Return arrays as large as a batch of a split and the next one."""
    images = np.empty((2 * batch_size, *split.images.shape[1:]), "uint8")
    return Split(images, np.empty(2 * batch_size, "int32"))


def largest_batch(
    taken: Callable[[int], float], room: float, start: int, most: int
) -> int | None:
    """Return the largest batch that fits, `start` times or by a power of two.

    Args:
        taken: Returns the bytes that a training in batches of a size takes. About
            linear in the size, so that few sizes need to be asked for.
        room: Bytes that there are.
        start: The size to begin at.
        most: The largest size of use.

    Returns:
        `None` where not even a batch of one image fits.
    """
    size, known = min(start, most), {}

    def fits(batch: int) -> bool:
        if batch not in known:
            known[batch] = taken(batch)
        return known[batch] <= room

    while not fits(size):
        if size == 1:
            return None
        size //= 2
    if size < start or 2 * size > most or not fits(2 * size):
        return size
    # From two sizes, as a line: the first size above that does not fit.
    slope = (known[2 * size] - known[size]) / size
    guess = size = 2 * size
    while 2 * guess <= most and known[size] + slope * (2 * guess - size) <= room:
        guess *= 2
    while guess > size and not fits(guess):
        guess //= 2
    return guess
