"""A twin: a lecture's PyTorch network with the rest of its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from kerascnn.parity.rules import Rule


@dataclasses.dataclass(frozen=True)
class Twin:
    """A lecture's network in PyTorch, with its optimiser, batches and transforms.

    Args:
        network: Returns the network, with the lecture's initial weights, from images,
            float32 `(batch, channels, height, width)`, to logits `(batch, classes)`.
        learning_rate: Adam's.
        batch_size: The `DataLoader`'s.
        drop_last: The `DataLoader`'s.
        transform: The slides' `Compose`, as NumPy rules, for the training set.
        weight_decay: Adam's, which decays every parameter in the lecture's code.
        gamma: Of `ExponentialLR`, stepped after every epoch; `None` without.
    """

    network: Callable[[], nn.Module]
    learning_rate: float
    batch_size: int
    drop_last: bool
    transform: Sequence[Rule]
    weight_decay: float = 0.0
    gamma: float | None = None

    def optimizer(
        self, network: nn.Module, kernels_only: bool = False
    ) -> torch.optim.Optimizer:
        """Return the lecture's Adam for a network.

        Args:
            network: What `network` returned.
            kernels_only: Decay the kernels alone, as the slide's formula (and the
                recipe) has it, where the slide's code decays every parameter.
        """
        if not kernels_only:
            return torch.optim.Adam(
                network.parameters(),
                lr=self.learning_rate,
                weight_decay=self.weight_decay,
            )
        kernels = [p for p in network.parameters() if p.ndim > 1]
        others = [p for p in network.parameters() if p.ndim <= 1]
        groups = [
            {"params": kernels, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        # Fused: the same arithmetic in one pass over the weights, five times as fast.
        return torch.optim.Adam(groups, lr=self.learning_rate, fused=True)

    def scheduler(
        self, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Return the lecture's learning-rate scheduler, to be stepped once an epoch."""
        if self.gamma is None:
            return None
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=self.gamma)
