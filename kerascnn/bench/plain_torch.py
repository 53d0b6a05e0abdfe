"""A recipe's training in plain PyTorch: the yardstick of the benchmarks.

The network, its optimiser and its transforms are the lecture's own, from
`kerascnn.twins`, so that the process holds neither Keras nor JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from kerascnn import UsageError
from kerascnn.twins import rules

if TYPE_CHECKING:
    from kerascnn.data import Split
    from kerascnn.twins import Twin


class Trainer:
    """Training steps of plain PyTorch: eager, channels last, or compiled as well.

    `benchmark` lets cuDNN time its algorithms, `autotune` the compiler its kernels too.
    """

    def __init__(self, twin: Twin, form: str, steps: int = 1000):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.layout = (
            torch.contiguous_format if form == "eager" else torch.channels_last
        )
        self.model = twin.network().to(self.device, memory_format=self.layout)
        self.optimizer = twin.optimizer(self.model, steps=steps)
        self.smoothing = twin.label_smoothing
        torch.backends.cudnn.benchmark = form in ("benchmark", "autotune")
        self.call: Callable[..., torch.Tensor] = self.model
        if form in ("compile", "autotune"):
            mode = "max-autotune" if form == "autotune" else None
            self.call = torch.compile(self.model, mode=mode)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take one step and return the loss, not yet read from the device."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(
            self.call(images), labels, label_smoothing=self.smoothing
        )
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def arranged(self, images: torch.Tensor) -> torch.Tensor:
        """Lay images `(batch, channels, height, width)` out as the network's."""
        return images.to(self.device).contiguous(memory_format=self.layout)


def steps(twin: Twin, form: str, batch: Split) -> Callable[[int], None]:
    """Return a function that takes some steps on a batch and waits for them."""
    trainer = Trainer(twin, form)
    scaled = np.ascontiguousarray(twin.transformed(batch.images), "float32")
    images = trainer.arranged(torch.from_numpy(scaled).permute(0, 3, 1, 2))
    labels = torch.from_numpy(np.array(batch.labels)).long().to(trainer.device)

    def work(number: int) -> None:
        for _ in range(number):
            loss = trainer.step(images, labels)
        loss.item()

    return work


def epochs(
    twin: Twin, form: str, train: Split, batch: int, random: bool
) -> Callable[[int], None]:
    """Return what trains for some epochs, the set in memory as one tensor."""
    trainer = Trainer(twin, form)
    chosen_rules = [rule for rule in twin.transform if random or not rule.random]
    prepare = transform(chosen_rules, trainer.device)
    images = torch.from_numpy(np.array(train.images)).to(trainer.device)
    labels = torch.from_numpy(np.array(train.labels)).long().to(trainer.device)
    whole = len(labels) // batch * batch

    def work(number: int) -> None:
        for _ in range(number):
            order = torch.randperm(len(labels), device=trainer.device)[:whole]
            for chosen in order.split(batch):
                loss = trainer.step(
                    trainer.arranged(prepare(images[chosen])), labels[chosen]
                )
        loss.item()

    return work


def transform(
    chosen: Sequence[rules.Rule], device: str = "cpu"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what some rules do to a uint8 batch: float32, channels first."""
    # An alternating flip's sides are drawn anew in each epoch.
    parts = [_part(device, rule) for rule in chosen]

    def apply(images: torch.Tensor) -> torch.Tensor:
        for part in parts:
            images = part(images)
        return images.permute(0, 3, 1, 2)

    return apply


def _part(device: str, rule: rules.Rule) -> Callable[[torch.Tensor], torch.Tensor]:
    match rule:
        case rules.Normalize():
            mean, std = (
                torch.tensor(each, device=device) for each in (rule.mean, rule.std)
            )
            scale, offset = 1 / (255 * std), -mean / std
            return lambda images: images * scale + offset
        case rules.RandomHorizontalFlip() | rules.RandomAlternatingFlip():
            p = getattr(rule, "p", 0.5)
            return lambda images: torch.where(
                torch.rand(len(images), 1, 1, 1, device=device) < p,
                images.flip(2),
                images,
            )
        case rules.RandomCrop():
            return lambda images: _crop(images, rule.padding, rule.mode)
    raise UsageError(f"the benchmarks have no plain PyTorch for {type(rule).__name__}.")


def _crop(images: torch.Tensor, padding: int, mode: str) -> torch.Tensor:
    batch, height, width, _ = images.shape
    maps = images.permute(0, 3, 1, 2)  # PyTorch reflects the last two dimensions
    padded = nn.functional.pad(maps, (padding,) * 4, mode).permute(0, 2, 3, 1)
    first = torch.randint(2 * padding + 1, (2, batch, 1), device=images.device)
    rows = first[0] + torch.arange(height, device=images.device)
    columns = first[1] + torch.arange(width, device=images.device)
    which = torch.arange(batch, device=images.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]]
