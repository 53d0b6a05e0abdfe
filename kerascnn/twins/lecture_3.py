"""Lecture 3: VGG16, deeper and deeper networks, and six ways to train them."""

from __future__ import annotations

import functools

import torch
from torch import nn

from kerascnn.twins.initial import kaiming_normal, xavier_uniform
from kerascnn.twins.rules import (
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    ResizeAndCenterCrop,
)
from kerascnn.twins.twin import Twin


class VGG16(nn.Module):
    """VGG16 in five blocks, for any size of image.

    Args:
        flat: Values left after the blocks.
        hidden: Width of the classifier's two hidden layers.
        classes: Number of logits.
    """

    def __init__(self, flat: int, hidden: int, classes: int):
        super().__init__()
        self.block1 = nn.Sequential(
            *(nn.Conv2d(3, 64, kernel_size=3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(64, 64, kernel_size=3, padding=1), nn.ReLU(inplace=True)),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.block2 = nn.Sequential(
            *(nn.Conv2d(64, 128, kernel_size=3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(128, 128, kernel_size=3, padding=1), nn.ReLU(inplace=True)),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.block3 = nn.Sequential(
            *(nn.Conv2d(128, 256, kernel_size=3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(256, 256, kernel_size=3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(256, 256, kernel_size=3, padding=1), nn.ReLU(inplace=True)),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.block4 = nn.Sequential(
            *(nn.Conv2d(256, 512, kernel_size=3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(512, 512, kernel_size=3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(512, 512, kernel_size=3, padding=1), nn.ReLU(inplace=True)),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.block5 = nn.Sequential(
            *(nn.Conv2d(512, 512, kernel_size=3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(512, 512, kernel_size=3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(512, 512, kernel_size=3, padding=1), nn.ReLU(inplace=True)),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.classifier = nn.Sequential(
            *(nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(inplace=True)),
            *(nn.Linear(hidden, hidden), nn.ReLU(inplace=True)),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        x = self.block1(x)
        x = self.block2(x)
        x = self.block3(x)
        x = self.block4(x)
        x = self.block5(x)
        return self.classifier(x)


def imagenet_vgg16() -> nn.Module:
    """VGG16 for ImageNet; the slide sets no initial weights, He's are the recipe's."""
    return kaiming_normal(VGG16(flat=512 * 7 * 7, hidden=4096, classes=1000))


def cifar_vgg16() -> nn.Module:
    """VGG16 for CIFAR-10; initial weights as above."""
    return kaiming_normal(VGG16(flat=512 * 1 * 1, hidden=256, classes=10))


def convolution(channels: int, filters: int, activation: type[nn.Module]) -> list:
    """Return the slides' convolution, which keeps the map's size, and activation."""
    return [nn.Conv2d(channels, filters, 3, stride=1, padding="same"), activation()]


def fashion_sigmoid() -> nn.Module:
    """Two convolutions."""
    return xavier_uniform(
        nn.Sequential(
            *(*convolution(1, 64, nn.Sigmoid), nn.MaxPool2d(2, 2)),
            *(*convolution(64, 128, nn.Sigmoid), nn.MaxPool2d(2, 2)),
            nn.Flatten(),
            *(nn.Linear(128 * 7 * 7, 512), nn.Sigmoid()),
            nn.Linear(512, 10),
        )
    )


def cifar_sigmoid() -> nn.Module:
    """The same on colour: the slide's code keeps `Conv2d(1, 64)`, a slip."""
    return xavier_uniform(
        nn.Sequential(
            *(*convolution(3, 64, nn.Sigmoid), nn.MaxPool2d(2, 2)),
            *(*convolution(64, 128, nn.Sigmoid), nn.MaxPool2d(2, 2)),
            nn.Flatten(),
            *(nn.Linear(128 * 8 * 8, 512), nn.Sigmoid()),
            nn.Linear(512, 10),
        )
    )


def cifar_sigmoid_3() -> nn.Module:
    """Three convolutions."""
    return xavier_uniform(
        nn.Sequential(
            *(*convolution(3, 64, nn.Sigmoid), nn.MaxPool2d(2, 2)),
            *(*convolution(64, 128, nn.Sigmoid), nn.MaxPool2d(2, 2)),
            *(*convolution(128, 256, nn.Sigmoid), nn.MaxPool2d(2, 2)),
            nn.Flatten(),
            *(nn.Linear(256 * 4 * 4, 512), nn.Sigmoid()),
            nn.Linear(512, 10),
        )
    )


def nine(activation: type[nn.Module]) -> list[nn.Module]:
    """Return the three blocks of three convolutions."""
    return [
        *convolution(3, 64, activation),
        *convolution(64, 64, activation),
        *(*convolution(64, 64, activation), nn.MaxPool2d(2, 2)),
        *convolution(64, 128, activation),
        *convolution(128, 128, activation),
        *(*convolution(128, 128, activation), nn.MaxPool2d(2, 2)),
        *convolution(128, 256, activation),
        *convolution(256, 256, activation),
        *(*convolution(256, 256, activation), nn.MaxPool2d(2, 2)),
    ]


def twelve(activation: type[nn.Module]) -> nn.Module:
    """Return the network of twelve convolutions, before any initialisation."""
    return nn.Sequential(
        *nine(activation),
        *convolution(256, 512, activation),
        *convolution(512, 512, activation),
        *(*convolution(512, 512, activation), nn.MaxPool2d(2, 2)),
        nn.Flatten(),
        *(nn.Linear(512 * 2 * 2, 512), activation()),
        nn.Linear(512, 10),
    )


def cifar_9(activation: type[nn.Module]) -> nn.Module:
    """Nine convolutions, with sigmoid and with ReLU."""
    return xavier_uniform(
        nn.Sequential(
            *nine(activation),
            nn.Flatten(),
            *(nn.Linear(256 * 4 * 4, 512), activation()),
            nn.Linear(512, 10),
        )
    )


def cifar_relu_12() -> nn.Module:
    """Twelve convolutions; solutions 1 and 6 change the data and the rate alone."""
    return xavier_uniform(twelve(nn.ReLU))


def cifar_bn_12() -> nn.Module:
    """Solution 2: BatchNorm after each convolution's ReLU."""
    layers: list[nn.Module] = []
    channels = 3
    for filters in (64, 128, 256, 512):
        for _ in range(3):
            layers += [*convolution(channels, filters, nn.ReLU)]
            layers += [nn.BatchNorm2d(filters)]
            channels = filters
        layers += [nn.MaxPool2d(2, 2)]
    layers += [nn.Flatten(), nn.Linear(512 * 2 * 2, 512), nn.ReLU()]
    return xavier_uniform(nn.Sequential(*layers, nn.Linear(512, 10)))


class SkipBlock(nn.Module):
    """Solution 5's block: three convolutions, and one from input to output.

    Args:
        channels: Of the block's input.
        filters: Of its output.
        concatenate: Set the two side by side instead of adding them.
    """

    def __init__(self, channels: int, filters: int, concatenate: bool):
        super().__init__()
        self.conv_layer1 = nn.Sequential(*convolution(channels, filters, nn.ReLU))
        self.conv_layer2 = nn.Sequential(*convolution(filters, filters, nn.ReLU))
        self.conv_layer3 = nn.Sequential(
            *convolution(filters, filters, nn.ReLU), nn.MaxPool2d(2, 2)
        )
        self.res_layer1 = nn.Sequential(
            nn.Conv2d(channels, filters, 3, stride=2, padding=1), nn.ReLU()
        )
        self.concatenate = concatenate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's maps, half as high and wide."""
        previous_input_x = x
        x = self.conv_layer1(x)
        x = self.conv_layer2(x)
        x = self.conv_layer3(x)
        res = self.res_layer1(previous_input_x)
        return torch.cat([x, res], dim=1) if self.concatenate else x + res


def cifar_skip_12(concatenate: bool) -> nn.Module:
    """Solution 5, whose first block the slide codes, and the variant that one names."""
    times = 2 if concatenate else 1
    return xavier_uniform(
        nn.Sequential(
            SkipBlock(3, 64, concatenate),
            SkipBlock(times * 64, 128, concatenate),
            SkipBlock(times * 128, 256, concatenate),
            SkipBlock(times * 256, 512, concatenate),
            nn.Flatten(),
            *(nn.Linear(times * 512 * 2 * 2, 512), nn.ReLU()),
            nn.Linear(512, 10),
        )
    )


UNIT = Normalize()
PM1 = Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STANDARD = Normalize([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
IMAGENET = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

lecture_3 = functools.partial(
    Twin, learning_rate=1e-3, batch_size=256, drop_last=False, transform=[UNIT]
)

TWINS = {
    "imagenet_vgg16": lecture_3(
        imagenet_vgg16,
        learning_rate=1e-4,
        batch_size=32,
        transform=[
            ResizeAndCenterCrop(224),
            RandomCrop(padding=14),
            RandomHorizontalFlip(p=0.5),
            IMAGENET,
        ],
    ),
    "cifar_vgg16": lecture_3(cifar_vgg16, learning_rate=1e-4, transform=[STANDARD]),
    "fashion_sigmoid": lecture_3(fashion_sigmoid),
    "cifar_sigmoid": lecture_3(cifar_sigmoid),
    "cifar_sigmoid_3": lecture_3(cifar_sigmoid_3),
    "cifar_sigmoid_9": lecture_3(lambda: cifar_9(nn.Sigmoid)),
    "cifar_relu_9": lecture_3(lambda: cifar_9(nn.ReLU)),
    "cifar_relu_12": lecture_3(cifar_relu_12),
    "cifar_standard_12": lecture_3(cifar_relu_12, transform=[STANDARD]),
    "cifar_pm1_12": lecture_3(cifar_relu_12, transform=[PM1]),
    "cifar_bn_12": lecture_3(cifar_bn_12),
    "cifar_he_12": lecture_3(lambda: kaiming_normal(twelve(nn.ReLU))),
    "cifar_silu_12": lecture_3(
        lambda: xavier_uniform(twelve(nn.SiLU)), transform=[STANDARD]
    ),
    "cifar_skip_12": lecture_3(lambda: cifar_skip_12(concatenate=False)),
    "cifar_skip_concat_12": lecture_3(lambda: cifar_skip_12(concatenate=True)),
    "cifar_low_lr_12": lecture_3(cifar_relu_12, learning_rate=1e-4),
}
