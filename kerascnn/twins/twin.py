"""A twin: a lecture's PyTorch network with the rest of its training."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from kerascnn.twins.rules import Rule


@dataclasses.dataclass(frozen=True)
class Twin:
    """A lecture's network in PyTorch, with its optimiser, batches and transforms."""

    network: Callable[[], nn.Module]
    learning_rate: float
    batch_size: int
    drop_last: bool
    transform: Sequence[Rule]
    weight_decay: float = 0.0
    gamma: float | None = None
    label_smoothing: float = 0.0
    adapt: Callable[[nn.Module, np.ndarray], None] | None = None
    optimizers: functools.partial[Any] | None = None

    def fingerprint(self) -> str:
        """Return the SHA-256 of what decides its training: modules, code, settings."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = self.network()
        own = {type(m) for m in network.modules() if "torch" not in type(m).__module__}
        _, *fields = dataclasses.fields(self)
        # Fields that came later count where they are set: older records stay valid.
        later = ("label_smoothing", "adapt", "optimizers")
        settings = [getattr(self, f.name) for f in fields if f.name not in later]
        settings += [self.label_smoothing] * bool(self.label_smoothing)
        code = sorted(map(inspect.getsource, own))
        if isinstance(self.optimizers, functools.partial):
            module = inspect.getmodule(self.optimizers.func)
            code += [inspect.getsource(module), repr(self.optimizers.keywords)]
        digest = hashlib.sha256(repr([str(network), settings, code]).encode())
        for tensor in network.state_dict().values():
            digest.update(tensor.numpy().data)
        return digest.hexdigest()

    def optimizer(
        self, network: nn.Module, kernels_only: bool = False, steps: int = 1000
    ) -> Any:
        """Return the lecture's Adam, or what the twin has in its place."""
        # `kernels_only` is the slide's formula, and the recipe; the slide's code decays
        # all.
        if self.optimizers:
            return self.optimizers(network, steps)
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
        # Fused: the same arithmetic, faster, in one pass over the weights.
        return torch.optim.Adam(groups, lr=self.learning_rate, fused=True)

    def transformed(
        self, images: np.ndarray, dice: np.random.Generator | None = None
    ) -> np.ndarray:
        """Send a batch through the transforms, the random ones only with dice."""
        for rule in self.transform:
            if dice is not None or not rule.random:
                images = rule.apply(images, dice and rule.draw(dice, images.shape))
        return images

    def scheduler(
        self, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler | None:
        """Return the lecture's learning-rate scheduler, to be stepped once an epoch."""
        if self.gamma is None:
            return None
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=self.gamma)
