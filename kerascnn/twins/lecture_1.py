"""Lecture 1: perceptrons, and convolutions without padding or pooling."""

from __future__ import annotations

import functools

import torch
from torch import nn

from kerascnn.twins.initial import kaiming_uniform
from kerascnn.twins.rules import Normalize
from kerascnn.twins.twin import Twin


def fashion_mlp() -> nn.Module:
    """Case 1."""
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )
    return kaiming_uniform(model)


def cifar_mlp() -> nn.Module:
    """Case 2."""
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(32 * 32 * 3, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )
    return kaiming_uniform(model)


def cifar_mlp_2() -> nn.Module:
    """Case 3, "add more layers"."""
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(32 * 32 * 3, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )
    return kaiming_uniform(model)


def cifar_mlp_3() -> nn.Module:
    """Case 4, three hidden layers."""
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(32 * 32 * 3, 256)),
        *(nn.ReLU(), nn.Linear(256, 256)),
        *(nn.ReLU(), nn.Linear(256, 256)),
        *(nn.ReLU(), nn.Linear(256, 10)),
    )
    return kaiming_uniform(model)


class FourConvolutions(nn.Module):
    """The slides' `CustomModel`: its three forms differ at both ends.

    Args:
        channels: Of the images.
        flat: Values left after the convolutions.
        hidden: Whether a hidden layer of 128 follows.
    """

    def __init__(self, channels: int, flat: int, hidden: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, kernel_size=7)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=7)
        self.conv3 = nn.Conv2d(64, 128, kernel_size=7)
        self.conv4 = nn.Conv2d(128, 256, kernel_size=7)
        self.flatten = nn.Flatten()
        self.relu = nn.ReLU()
        self.hidden = hidden
        if hidden:
            self.dense1 = nn.Linear(flat, 128)
            self.dense2 = nn.Linear(128, 10)
        else:
            self.dense = nn.Linear(flat, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        x = self.relu(self.conv3(x))
        x = self.relu(self.conv4(x))
        x = self.flatten(x)
        if not self.hidden:
            return self.dense(x)
        x = self.relu(self.dense1(x))
        return self.dense2(x)


# The code of the first convolutional slide; its layer table, and case 1; case 2.
fashion_conv_linear = functools.partial(FourConvolutions, 1, 4 * 4 * 256, hidden=False)
fashion_conv = functools.partial(FourConvolutions, 1, 4 * 4 * 256, hidden=True)
cifar_conv = functools.partial(FourConvolutions, 3, 8 * 8 * 256, hidden=True)

lecture_1 = functools.partial(
    Twin, batch_size=1024, drop_last=True, transform=[Normalize((0.5,), (0.5,))]
)

TWINS = {
    "fashion_mlp": lecture_1(fashion_mlp, learning_rate=0.001),
    "cifar_mlp": lecture_1(cifar_mlp, learning_rate=0.001),
    "cifar_mlp_2": lecture_1(cifar_mlp_2, learning_rate=0.001),
    "cifar_mlp_3": lecture_1(cifar_mlp_3, learning_rate=0.001),
    "fashion_conv_linear": lecture_1(fashion_conv_linear, learning_rate=1e-5),
    "fashion_conv": lecture_1(fashion_conv, learning_rate=1e-5),
    "cifar_conv": lecture_1(cifar_conv, learning_rate=1e-5),
}
