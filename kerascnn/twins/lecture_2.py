"""Lecture 2: downsampling, padding, edges, 1x1 convolutions, LeNet and VGG16."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn

from kerascnn.twins.initial import kaiming_normal
from kerascnn.twins.rules import Grayscale, Normalize
from kerascnn.twins.twin import Twin


class FashionPool(nn.Module):
    """Two 2x2 max poolings between five convolutions."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3)
        self.conv3 = nn.Conv2d(64, 128, kernel_size=3)
        self.conv4 = nn.Conv2d(128, 256, kernel_size=3)
        self.conv5 = nn.Conv2d(256, 512, kernel_size=3)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2, 2)
        self.flatten = nn.Flatten()
        self.dense = nn.Linear(2 * 2 * 512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        x = self.pool(x)
        x = self.relu(self.conv3(x))
        x = self.relu(self.conv4(x))
        x = self.pool(x)
        x = self.relu(self.conv5(x))
        x = self.flatten(x)
        return self.dense(x)


class FashionStride(nn.Module):
    """The second and the fourth convolution move two pixels a step."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, stride=2)
        self.conv3 = nn.Conv2d(64, 128, kernel_size=3)
        self.conv4 = nn.Conv2d(128, 256, kernel_size=3, stride=2)
        self.conv5 = nn.Conv2d(256, 512, kernel_size=3)
        self.relu = nn.ReLU()
        self.flatten = nn.Flatten()
        self.dense = nn.Linear(2 * 2 * 512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        x = self.relu(self.conv3(x))
        x = self.relu(self.conv4(x))
        x = self.relu(self.conv5(x))
        x = self.flatten(x)
        return self.dense(x)


class ResizeLayer(nn.Module):
    """The slide's layer: `interpolate` as a module."""

    def __init__(self, scale_factor: float):
        super().__init__()
        self.scale_factor = scale_factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the resized maps."""
        return F.interpolate(
            x, scale_factor=self.scale_factor, mode="bilinear", align_corners=False
        )


class FashionDown(nn.Module):
    """One convolution, then something that halves the map, then two dense layers.

    Args:
        down: The module that halves.
        stride: The convolution's own, where nothing else halves.
    """

    def __init__(self, down: nn.Module, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(1, 32, kernel_size=5, stride=stride)
        self.down = down
        self.flatten = nn.Flatten()
        self.dense1 = nn.Linear(12 * 12 * 32, 128)
        self.dense2 = nn.Linear(128, 10)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        x = self.relu(self.conv(x))
        x = self.down(x)
        x = self.flatten(x)
        x = self.relu(self.dense1(x))
        return self.dense2(x)


def fashion_padding() -> nn.Module:
    """The slide's `nn.Sequential`."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, kernel_size=3, padding="same", stride=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, kernel_size=3, padding=1, stride=2), nn.ReLU()),
        *(nn.Conv2d(64, 128, kernel_size=3, padding=1, stride=1), nn.ReLU()),
        *(nn.Conv2d(128, 256, kernel_size=3, padding=1, stride=2), nn.ReLU()),
        *(nn.Conv2d(256, 512, kernel_size=3, padding=1, stride=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(7 * 7 * 512, 10)),
    )


class EdgeDetectors(nn.Module):
    """Five edge maps of a grey image, as OpenCV computes them, border mirrored.

    The lengths of Sobel's, Scharr's, Prewitt's and Roberts' two derivatives, and the
    Laplacian with its sign.
    """

    smooth = ((1, 2, 1), (3, 10, 3), (1, 1, 1))  # Sobel, Scharr, Prewitt

    def __init__(self):
        super().__init__()
        difference = torch.tensor([-1.0, 0.0, 1.0])
        kernels = []
        for weights in self.smooth:
            across = torch.outer(torch.tensor(weights).float(), difference)
            kernels += [across, across.T]
        kernels.append(torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]))
        # Constants: no part of the network's state.
        kernels = torch.stack(kernels)[:, None]
        self.register_buffer("kernels", kernels, persistent=False)
        cross = torch.tensor([[[1.0, 0], [0, -1]], [[0, 1], [-1, 0]]])
        self.register_buffer("cross", cross[:, None], persistent=False)

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        """Return `(batch, 5, height, width)` from `(batch, 1, height, width)`."""
        threes = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="reflect"), self.kernels)
        # The centre of a 2x2 kernel is its lower right entry.
        twos = F.conv2d(F.pad(grey, (1, 0, 1, 0), mode="reflect"), self.cross)
        lengths = [torch.hypot(threes[:, i], threes[:, i + 1]) for i in (0, 2, 4)]
        roberts = torch.hypot(twos[:, 0], twos[:, 1])
        return torch.stack([*lengths, roberts, threes[:, 6]], dim=1)


def edges_head(features: nn.Module) -> nn.Module:
    """Put the same head on engineered or learned features."""
    return nn.Sequential(
        features,
        nn.MaxPool2d(2, 2),
        nn.Flatten(),
        nn.Linear(16 * 16 * 5, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def fashion_lenet_fc() -> nn.Module:
    """The 1x1 slides' first network."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)),
        *(nn.Conv2d(32, 64, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)),
        nn.Flatten(),
        nn.Linear(7 * 7 * 64, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def fashion_lenet_1x1() -> nn.Module:
    """The 1x1 slides' second network: no dense layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)),
        *(nn.Conv2d(32, 64, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)),
        *(nn.Conv2d(64, 128, kernel_size=7), nn.ReLU()),
        nn.Conv2d(128, 10, kernel_size=1),
        nn.Flatten(),
    )


def fashion_lenet() -> nn.Module:
    """LeNet."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


class VGG16For128(nn.Module):
    """VGG16's features with a small classifier, as the slide codes it."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, kernel_size=3, padding=1), self.relu),
            *(nn.Conv2d(64, 64, kernel_size=3, padding=1), self.relu),
            nn.MaxPool2d(kernel_size=2, stride=2),
            *(nn.Conv2d(64, 128, kernel_size=3, padding=1), self.relu),
            *(nn.Conv2d(128, 128, kernel_size=3, padding=1), self.relu),
            nn.MaxPool2d(kernel_size=2, stride=2),
            *(nn.Conv2d(128, 256, kernel_size=3, padding=1), self.relu),
            *(nn.Conv2d(256, 256, kernel_size=3, padding=1), self.relu),
            *(nn.Conv2d(256, 256, kernel_size=3, padding=1), self.relu),
            nn.MaxPool2d(kernel_size=2, stride=2),
            *(nn.Conv2d(256, 512, kernel_size=3, padding=1), self.relu),
            *(nn.Conv2d(512, 512, kernel_size=3, padding=1), self.relu),
            *(nn.Conv2d(512, 512, kernel_size=3, padding=1), self.relu),
            nn.MaxPool2d(kernel_size=2, stride=2),
            *(nn.Conv2d(512, 512, kernel_size=3, padding=1), self.relu),
            *(nn.Conv2d(512, 512, kernel_size=3, padding=1), self.relu),
            *(nn.Conv2d(512, 512, kernel_size=3, padding=1), self.relu),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )
        self.classifier = nn.Sequential(
            *(nn.Flatten(), nn.Linear(512 * 1 * 1, 128), self.relu),
            *(nn.Linear(128, 128), self.relu, nn.Linear(128, 10)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.classifier(self.features(x))


# All of this lecture's loaders drop the last batch; where a slide shows no optimiser,
# rate and batch size are those of its neighbours.
slow = functools.partial(
    Twin,
    learning_rate=1e-5,
    batch_size=1024,
    drop_last=True,
    transform=[Normalize((0.5,), (0.5,))],
)
fast = functools.partial(slow, learning_rate=1e-3, batch_size=256)
grey = functools.partial(fast, transform=[Normalize(), Grayscale()])

TWINS = {
    "fashion_pool": slow(FashionPool),
    "fashion_stride": slow(FashionStride),
    # Downsampling 1 to 3; the fourth, which completes them, is not in the lecture.
    "fashion_down_max": slow(lambda: FashionDown(nn.MaxPool2d(2, 2))),
    "fashion_down_avg": slow(lambda: FashionDown(nn.AvgPool2d(2, 2))),
    "fashion_down_resize": slow(lambda: FashionDown(ResizeLayer(0.5))),
    "fashion_down_stride": slow(lambda: FashionDown(nn.Identity(), stride=2)),
    "fashion_padding": slow(fashion_padding),
    # Engineered features, and as many learned ones.
    "cifar_edges": grey(lambda: edges_head(EdgeDetectors())),
    "cifar_edges_cnn": grey(
        lambda: edges_head(nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU()))
    ),
    "fashion_lenet_fc": fast(fashion_lenet_fc),
    "fashion_lenet_1x1": fast(fashion_lenet_1x1),
    "fashion_lenet": fast(fashion_lenet),
    # He's weights, as the slide sets none.
    "cifar_vgg16_128": fast(lambda: kaiming_normal(VGG16For128()), learning_rate=1e-4),
}
