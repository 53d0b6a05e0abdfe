"""The speed-runs: Keller Jordan's airbench networks and their training, in PyTorch.

Written from the rules of KellerJordan/cifar10-airbench (airbench94_muon) and, for its
rates, of hiverge/cifar10-speedrun, with the changes that the recipe `cifar_speedrun`
names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from kerascnn.twins.rules import (
    Normalize,
    RandomAlternatingFlip,
    RandomCrop,
    RandomErasing,
    Rule,
)
from kerascnn.twins.twin import Twin


class Whitening(nn.Module):
    """A convolution of 2 x 2 that is not trained, over images with a border."""

    def __init__(self):
        super().__init__()
        kernel = torch.empty(24, 3, 2, 2).uniform_(-0.3, 0.3)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return 24 maps of the images' size: zeros right of them and below."""
        return nn.functional.conv2d(nn.functional.pad(x, (0, 1, 0, 1)), self.kernel)


def norm(channels: int, momentum: float = 1 - 0.55) -> nn.BatchNorm2d:
    """Return a BatchNorm whose scale stays 1."""
    layer = nn.BatchNorm2d(channels, momentum=momentum, eps=1e-12)
    layer.weight.requires_grad_(False)
    return layer


def block(channels: int, filters: int) -> nn.Sequential:
    """Return two convolutions, a pooling after the first."""
    return nn.Sequential(
        nn.Conv2d(channels, filters, 3, padding=1, bias=False),
        *(nn.MaxPool2d(2), norm(filters), nn.SiLU()),
        nn.Conv2d(filters, filters, 3, padding=1, bias=False),
        *(norm(filters), nn.SiLU()),
    )


class SkipBlock(nn.Module):
    """airbench96's: three convolutions, and a shortcut around the last two."""

    def __init__(self, channels: int, filters: int):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(channels, filters, 3, padding=1, bias=False),
            *(nn.MaxPool2d(2), norm(filters, 0.1), nn.SiLU()),
        )
        self.others = nn.Sequential(
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
            *(norm(filters, 0.1), nn.SiLU()),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
            norm(filters, 0.1),
        )
        self.last = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's maps, half as high and wide."""
        x = self.first(x)
        return self.last(self.others(x) + x)


def network(
    widths: Sequence[int], block: Callable[[int, int], nn.Module] = block
) -> nn.Sequential:
    """Return the network, before `adapt`."""
    blocks = [block(c, f) for c, f in zip((24, *widths), widths, strict=False)]
    head = nn.Linear(widths[-1], 10, bias=False)
    bound = 3**0.5 / widths[-1]
    nn.init.uniform_(head.weight, -bound, bound)
    ends = nn.MaxPool2d(4), nn.Flatten(), head
    return nn.Sequential(Whitening(), nn.SiLU(), *blocks, *ends)


def adapt(module: nn.Module, images: np.ndarray) -> None:
    """Compute the whitening from scaled images; begin convolutions as the identity."""
    patches = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).double()
    patches = nn.functional.unfold(patches, 2).transpose(1, 2).reshape(-1, 12)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / torch.sqrt(values + 5e-4)).T.flip(0)
    largest = filters.gather(1, filters.abs().argmax(1, keepdim=True))
    filters = (filters * largest.sign()).float().reshape(12, 3, 2, 2)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, Whitening):
                part.kernel.copy_(torch.cat([filters, -filters]))
            elif isinstance(part, nn.Conv2d):
                nn.init.dirac_(part.weight[: part.in_channels])


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum on convolutions' kernels of a length kept."""

    def __init__(self, parameters: Any, lr: float, momentum: float):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                velocity = state.setdefault("velocity", torch.zeros_like(weight))
                velocity.mul_(group["momentum"]).add_(weight.grad)
                ahead = weight.grad + group["momentum"] * velocity
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                step = orthogonal(ahead.reshape(len(weight), -1))
                weight.sub_(group["lr"] * step.reshape(weight.shape))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Take three of Newton's and Schulz's steps towards the nearest orthogonal one."""
    x = matrix / (matrix.norm() + 1e-7)
    if len(x) > x.shape[1]:
        return orthogonal(matrix.T).T
    for _ in range(3):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


class Falling:
    """Some optimisers as one, whose rates fall to zero, linearly, step by step.

    Args:
        optimizers: The optimisers.
        steps: The steps after which the rates are zero.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], steps: int):
        self.optimizers, self.steps, self.done = optimizers, steps, 0
        self.param_groups = [g for each in optimizers for g in each.param_groups]
        self.rates = [group["lr"] for group in self.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        """Take a step of each."""
        left = max(0.0, 1 - self.done / self.steps)
        for group, rate in zip(self.param_groups, self.rates, strict=True):
            group["lr"] = rate * left
        for optimizer in self.optimizers:
            optimizer.step()
        self.done += 1


def optimizers(
    module: nn.Module, steps: int, rates: Sequence[float], decay: float
) -> Falling:
    """Return Muon for the filters, Nesterov's SGD for shifts and head.

    Args:
        module: The network.
        steps: Those of the training.
        rates: Of the filters, the shifts and the head.
        decay: The share of a shift or a weight of the head that its first step takes
            off, at any rate.
    """
    of_filters, *of_others = rates
    learned = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.ndim == ndim], "lr": rate}
        | {"weight_decay": decay / rate}
        for ndim, rate in zip((1, 2), of_others, strict=True)
    ]
    filters = [p for p in learned if p.ndim == 4]
    muon = Muon(filters, lr=of_filters, momentum=0.655)
    return Falling(
        [muon, torch.optim.SGD(groups, momentum=0.825, nesterov=True)], steps
    )


STANDARD = Normalize([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])


def speedrun(
    build: Callable[[], nn.Module],
    rates: tuple[float, float, float],
    decay: float,
    transform: Sequence[Rule],
    **settings: Any,
) -> Twin:
    """Return a twin that Muon and SGD train."""
    return Twin(
        build,
        learning_rate=rates[0],
        drop_last=True,
        transform=[RandomAlternatingFlip(), *transform],
        adapt=adapt,
        optimizers=functools.partial(optimizers, rates=rates, decay=decay),
        **settings,
    )


MOVED = [RandomCrop(padding=2, mode="reflect"), STANDARD]

TWINS = {
    "cifar_speedrun": speedrun(
        functools.partial(network, (64, 256, 256)),
        *((0.205, 88.0, 0.0127), 0.0016, MOVED),
        batch_size=1536,
        label_smoothing=0.09,
    ),
    "cifar_speedrun_95": speedrun(
        functools.partial(network, (128, 384, 384)),
        *((0.18, 88.0, 0.0056), 0.0016, MOVED),
        batch_size=1536,
        label_smoothing=0.2,
    ),
    "cifar_speedrun_96": speedrun(
        functools.partial(network, (128, 384, 512), SkipBlock),
        *((0.16, 59.0, 0.0021), 0.001),
        [
            *(RandomCrop(padding=4, mode="reflect"), STANDARD),
            RandomErasing(p=1, scale=(0.140625, 0.140625), ratio=(1, 1)),
        ],
        batch_size=1024,
        label_smoothing=0.2,
    ),
}
