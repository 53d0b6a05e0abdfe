"""A recipe's network in plain PyTorch: the yardstick of the benchmarks.

The net is rebuilt layer by layer from the Keras one, as a PyTorch user would write it:
`torch.nn` modules, NCHW, `torch.optim.Adam`. It is made for timing; the weights are
PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import keras
import torch
from torch import nn

from kerascnn import UsageError, shapes

if TYPE_CHECKING:
    from kerascnn.recipe import Recipe

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "silu": nn.SiLU}


def network(model: keras.Model) -> nn.Module:
    """Build the PyTorch twin of a Functional Keras model that is a chain of layers.

    Args:
        model: A chain of `Conv2D`, `Dense`, `MaxPooling2D`, `AveragePooling2D`,
            `ZeroPadding2D`, `BatchNormalization`, `Dropout`, `Flatten` and activations.

    Returns:
        A module from NCHW images to logits.

    Raises:
        UsageError: The model branches, or holds another layer.
    """
    modules: list[nn.Module] = []
    for before, layer in zip(model.layers, model.layers[1:], strict=False):
        if layer.input is not before.output:
            raise UsageError(
                f"the benchmarks rebuild chains of layers in PyTorch, and {model.name} "
                f"branches at {layer.name}."
            )
        modules += _modules(layer)
    return nn.Sequential(*modules)


class Trainer:
    """Training steps of plain PyTorch on one batch.

    Args:
        recipe: Whose network to train, with Adam at its learning rate.
        images: float32 `(batch, channels, height, width)`.
        labels: int64 `(batch,)`.
        form: `"eager"`, `"channels_last"` (its memory format) or `"compile"`
            (`torch.compile`, channels last).
    """

    def __init__(
        self, recipe: Recipe, images: torch.Tensor, labels: torch.Tensor, form: str
    ):
        # The Keras network is read for its settings: it need not have weights.
        self.model = network(shapes.without_weights(recipe.network))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.layout = (
            torch.contiguous_format if form == "eager" else torch.channels_last
        )
        self.model = self.model.to(self.device, memory_format=self.layout)
        self.images = images.to(self.device, memory_format=self.layout)
        self.labels = labels.to(self.device)
        rate = float(recipe.optimizer().learning_rate)
        self.optimizer = torch.optim.Adam(self.model.parameters(), rate)
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
        """Lay images out in memory as the network takes them."""
        return images.contiguous(memory_format=self.layout)

    def steps(self, number: int) -> None:
        """Take some steps on the batch and wait for them."""
        for _ in range(number):
            loss = self.step(self.images, self.labels)
        loss.item()


def transform(
    layers: Sequence[keras.layers.Layer],
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a recipe's transform in plain PyTorch, for a whole batch at once.

    Args:
        layers: Made of `Rescaling`, `RandomFlip("horizontal")` and `RandomCrop`.

    Returns:
        A function from uint8 `(batch, height, width, channels)` to float32 `(batch,
        channels, height, width)`.

    Raises:
        UsageError: Another layer.
    """
    parts = [_transform(layer) for layer in layers]

    def apply(images: torch.Tensor) -> torch.Tensor:
        for part in parts:
            images = part(images)
        return images.permute(0, 3, 1, 2)

    return apply


def _transform(
    layer: keras.layers.Layer,
) -> Callable[[torch.Tensor], torch.Tensor]:
    match type(layer).__name__:
        case "Rescaling":
            scale, offset = torch.tensor(layer.scale), torch.tensor(layer.offset)
            return lambda x: x * scale.to(x.device) + offset.to(x.device)
        case "RandomFlip":
            return lambda x: torch.where(
                torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(2), x
            )
        case "RandomCrop":
            return lambda x: _crop(x, layer.padding)
    raise UsageError(
        f"the benchmarks have no plain PyTorch for {type(layer).__name__}."
    )


def _crop(images: torch.Tensor, padding: int) -> torch.Tensor:
    batch, height, width, _ = images.shape
    padded = nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    first = torch.randint(2 * padding + 1, (2, batch, 1), device=images.device)
    rows = first[0] + torch.arange(height, device=images.device)
    columns = first[1] + torch.arange(width, device=images.device)
    which = torch.arange(batch, device=images.device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]]


def _modules(layer: keras.layers.Layer) -> list[nn.Module]:
    match layer:
        case keras.layers.Conv2D():
            channels, kernel = layer.input.shape[-1], layer.kernel_size
            same = layer.padding == "same"
            if same and layer.strides != (1, 1):
                raise UsageError(f"{layer.name}: same padding with a stride.")
            padding = tuple(k // 2 for k in kernel) if same else 0
            convolution = nn.Conv2d(
                channels, layer.filters, kernel, layer.strides, padding
            )
            return [convolution, *_activation(layer)]
        case keras.layers.Dense():
            dense = nn.Linear(layer.input.shape[-1], layer.units)
            return [dense, *_activation(layer)]
        case keras.layers.MaxPooling2D():
            return [nn.MaxPool2d(layer.pool_size, layer.strides)]
        case keras.layers.AveragePooling2D():
            return [nn.AvgPool2d(layer.pool_size, layer.strides)]
        case keras.layers.ZeroPadding2D():
            (top, bottom), (left, right) = layer.padding
            return [nn.ZeroPad2d((left, right, top, bottom))]
        case keras.layers.BatchNormalization():
            return [nn.BatchNorm2d(layer.input.shape[-1])]
        case keras.layers.Dropout():
            return [nn.Dropout(layer.rate)]
        case keras.layers.Flatten():
            return [nn.Flatten()]
        case keras.layers.Activation():
            return _activation(layer)
    raise UsageError(
        f"the benchmarks can't rebuild the layer {layer.name} "
        f"({type(layer).__name__}) in PyTorch."
    )


def _activation(layer: keras.layers.Layer) -> list[nn.Module]:
    name = layer.activation.__name__
    return [] if name == "linear" else [ACTIVATIONS[name]()]
