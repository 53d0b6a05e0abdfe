"""How a training run goes through its images."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to go through the training set.

    Args:
        epochs: Passes over the training set.
        batch_size: Images a step.
        seed: Decides, with the epoch's number, the order of the images.
        drop_last: Leave out an epoch's last batch when it is smaller.
        initial_epoch: The epoch to begin with, counted from 0.
        initial_step: The number of steps of that epoch that are done already.
    """

    epochs: int
    batch_size: int
    seed: int
    drop_last: bool = False
    initial_epoch: int = 0
    initial_step: int = 0

    def steps(self, images: int) -> int:
        """Return the number of steps an epoch over so many images takes."""
        full, rest = divmod(images, self.batch_size)
        return full if self.drop_last or not rest else full + 1
