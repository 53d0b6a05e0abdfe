"""How a training run goes through its images."""

from __future__ import annotations

import dataclasses

# A run on the bundled sample is for trying things: it need not go on for hours.
SAMPLE_EPOCHS = 16
# Optimizer steps that an epoch of the sample takes at least: batches that suit the full
# set's 50,000 images leave ten steps an epoch on 2,500, too few to learn from.
SAMPLE_STEPS = 32


def for_sample(epochs: int, batch_size: int, images: int) -> tuple[int, int]:
    """Return the epochs and the batch size of a recipe that suit a small sample."""
    # The batch: the largest power of two that leaves `SAMPLE_STEPS` steps an epoch.
    largest = 2 ** (max(images // SAMPLE_STEPS, 1).bit_length() - 1)
    return min(epochs, SAMPLE_EPOCHS), min(batch_size, largest)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to go through the training set, from an epoch and a step counted from 0."""

    epochs: int
    batch_size: int
    seed: int
    drop_last: bool = False
    initial_epoch: int = 0
    initial_step: int = 0
    accumulate: int = 1  # parts of a batch, whose gradients are added up
    rematerialize: bool = False  # activations, in the backward pass
    workers: int = 0  # processes that decode the images of a stream
    devices: int | None = None  # of each process, that share a batch

    def steps(self, images: int) -> int:
        """Return the number of steps an epoch over so many images takes."""
        full, rest = divmod(images, self.batch_size)
        return full if self.drop_last or not rest else full + 1
