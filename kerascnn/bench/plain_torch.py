"""A recipe's training in plain PyTorch: the yardstick of the benchmarks.

The net is built as a PyTorch user would write it: `torch.nn` modules, NCHW,
`torch.optim.Adam`. It is made for timing; the weights are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from kerascnn.bench.description import Call, Description
    from kerascnn.data import Split


def network(layers: Sequence[Call]) -> nn.Module:
    """Build the modules that `description.network` names, one after another."""
    return nn.Sequential(*(getattr(nn, name)(*settings) for name, settings in layers))


class Trainer:
    """Training steps of plain PyTorch.

    Args:
        description: The network, trained with Adam at its learning rate.
        form: `"eager"`, `"channels_last"` (its memory format) or `"compile"`
            (`torch.compile`, channels last).
    """

    def __init__(self, description: Description, form: str):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.layout = (
            torch.contiguous_format if form == "eager" else torch.channels_last
        )
        self.model = network(description.layers)
        self.model = self.model.to(self.device, memory_format=self.layout)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), description.learning_rate
        )
        self.call: Callable[..., torch.Tensor] = (
            torch.compile(self.model) if form == "compile" else self.model
        )

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take one step and return the loss, not yet read from the device."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(self.call(images), labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def arranged(self, images: torch.Tensor) -> torch.Tensor:
        """Lay images `(batch, channels, height, width)` out as the network's."""
        return images.to(self.device).contiguous(memory_format=self.layout)


def steps(description: Description, form: str) -> Callable[[int], None]:
    """Return a function that takes some steps on the scaled batch and waits for them.

    Args:
        description: With its batch.
        form: See `Trainer`.
    """
    trainer = Trainer(description, form)
    images = torch.from_numpy(description.images).permute(0, 3, 1, 2)
    images = trainer.arranged(images)
    labels = torch.from_numpy(description.labels).long().to(trainer.device)

    def work(number: int) -> None:
        for _ in range(number):
            loss = trainer.step(images, labels)
        loss.item()

    return work


def epochs(
    description: Description, form: str, train: Split, batch: int
) -> Callable[[int], None]:
    """Return a function that trains for some epochs, the set in memory as one tensor.

    Args:
        description: With its transform.
        form: See `Trainer`.
        train: The set; of its images a batch's fraction is left out.
        batch: Images a step.
    """
    trainer = Trainer(description, form)
    prepare = transform(description.transform, trainer.device)
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
    steps: Sequence[Call], device: str = "cpu"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a transform for a whole batch at once.

    Args:
        steps: As `description.transform` names them: `rescale`, `flip` and `crop`.
        device: Where the batches are.

    Returns:
        A function from uint8 `(batch, height, width, channels)` to float32 `(batch,
        channels, height, width)`.
    """
    parts = [_part(device, *step) for step in steps]

    def apply(images: torch.Tensor) -> torch.Tensor:
        for part in parts:
            images = part(images)
        return images.permute(0, 3, 1, 2)

    return apply


def _part(
    device: str, name: str, settings: tuple
) -> Callable[[torch.Tensor], torch.Tensor]:
    match name:
        case "rescale":
            scale, offset = (torch.tensor(each, device=device) for each in settings)
            return lambda images: images * scale + offset
        case "flip":
            return lambda images: torch.where(
                torch.rand(len(images), 1, 1, 1, device=device) < 0.5,
                images.flip(2),
                images,
            )
        case _:
            return lambda images: _crop(images, *settings)


def _crop(images: torch.Tensor, padding: int) -> torch.Tensor:
    batch, height, width, _ = images.shape
    padded = nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    first = torch.randint(2 * padding + 1, (2, batch, 1), device=images.device)
    rows = first[0] + torch.arange(height, device=images.device)
    columns = first[1] + torch.arange(width, device=images.device)
    which = torch.arange(batch, device=images.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]]
