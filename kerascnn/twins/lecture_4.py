"""Lecture 4: one VGG-like network and eight tricks for its test accuracy."""

from __future__ import annotations

import functools

import torch
from torch import nn

from kerascnn.twins.initial import kaiming_normal
from kerascnn.twins.rules import (
    Normalize,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomRotation,
)
from kerascnn.twins.twin import Twin

# The slides leave it open; the recipes' choice.
DROPOUT = 0.4


def block(channels: int, filters: int, norm: bool, dropout: bool) -> nn.Sequential:
    """Return three convolutions and a pooling, as the tricks' slides order them."""
    layers: list[nn.Module] = []
    for incoming in (channels, filters, filters):
        layers += [nn.Conv2d(incoming, filters, 3, padding=1), nn.ReLU()]
        if norm:
            layers += [nn.BatchNorm2d(filters)]
    layers += [nn.MaxPool2d(2, 2)]
    if dropout:
        layers += [nn.Dropout(DROPOUT)]
    return nn.Sequential(*layers)


def vgg(width: int, norm: bool = False, dropout: bool = False) -> nn.Module:
    """Return the base network; tricks 2 and 3 are `norm` and `dropout`."""
    return kaiming_normal(
        nn.Sequential(
            block(3, width, norm, dropout),
            block(width, 2 * width, norm, dropout),
            block(2 * width, 4 * width, norm, dropout),
            block(4 * width, 8 * width, norm, dropout),
            nn.Flatten(),
            *(nn.Linear(8 * width * 2 * 2, 512), nn.ReLU()),
            nn.Linear(512, 10),
        )
    )


class SkipBlock(nn.Module):
    """Trick 8: lecture 3's shortcut around a block, added to what leaves it."""

    def __init__(self, channels: int, filters: int):
        super().__init__()
        self.block = block(channels, filters, norm=True, dropout=True)
        self.res_layer = nn.Sequential(
            nn.Conv2d(channels, filters, 3, stride=2, padding=1), nn.ReLU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's maps, half as high and wide."""
        return self.block(x) + self.res_layer(x)


def vgg_skip(width: int) -> nn.Module:
    """Return the network with a shortcut around every block."""
    return kaiming_normal(
        nn.Sequential(
            SkipBlock(3, width),
            SkipBlock(width, 2 * width),
            SkipBlock(2 * width, 4 * width),
            SkipBlock(4 * width, 8 * width),
            nn.Flatten(),
            *(nn.Linear(8 * width * 2 * 2, 512), nn.ReLU()),
            nn.Linear(512, 10),
        )
    )


STANDARD = Normalize([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
ERASING = RandomErasing(p=0.75, scale=(0.01, 0.3), ratio=(1.0, 1.0))
AUGMENTED = [RandomCrop(padding=2), RandomHorizontalFlip(p=0.5)]

lecture_4 = functools.partial(
    Twin, learning_rate=1e-3, batch_size=256, drop_last=False, transform=[STANDARD]
)
erased = functools.partial(lecture_4, transform=[STANDARD, ERASING])
decayed = functools.partial(lecture_4, weight_decay=5e-4)
augmented = functools.partial(decayed, transform=[*AUGMENTED, STANDARD])
everything = functools.partial(
    decayed,
    transform=[*AUGMENTED, RandomRotation((-5, 5)), STANDARD, ERASING],
    gamma=0.96,
)

base = functools.partial(vgg, 32)
with_norm = functools.partial(vgg, 32, norm=True)
with_dropout = functools.partial(vgg, 32, norm=True, dropout=True)

TWINS = {
    "cifar_vgg": lecture_4(base),
    "cifar_vgg_erase": erased(base),
    "cifar_vgg_bn": erased(with_norm),
    "cifar_vgg_dropout": erased(with_dropout),
    "cifar_vgg_l2": erased(with_dropout, weight_decay=5e-4),
    "cifar_vgg_aug": augmented(with_dropout),
    "cifar_vgg_decay": augmented(with_dropout, gamma=0.96),
    "cifar_vgg_more_aug": everything(with_dropout),
    "cifar_vgg_wide": everything(functools.partial(vgg, 64, norm=True, dropout=True)),
    "cifar_vgg_skip": everything(functools.partial(vgg_skip, 64)),
    "cifar_vgg_wider": everything(functools.partial(vgg_skip, 128)),
}
