"""PyTorch's side of the comparison: the twin, one step at a time."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from kerascnn.parity import weights
from kerascnn.parity.weights import Layout
from kerascnn.twins.lecture_2 import ResizeLayer
from kerascnn.twins.speedrun import Whitening
from kerascnn.twins.twin import Twin

KINDS = {
    nn.Conv2d: "convolution",
    Whitening: "convolution",
    nn.Linear: "dense",
    nn.BatchNorm2d: "norm",
    nn.MaxPool2d: "maximum",
    nn.AvgPool2d: "average",
    ResizeLayer: "resizing",
    nn.Dropout: "dropout",
}
ACTIVATIONS = (nn.ReLU, nn.Sigmoid, nn.SiLU)


@dataclasses.dataclass(frozen=True)
class Branches:
    """Which side of their kinks a network's ReLUs and max poolings were on.

    Where an input is within rounding of a kink, two programs may take different sides,
    and the gradient jumps there. Both are right; to compare, take the same. An input of
    ReLU that is exactly zero in PyTorch has the derivative zero.
    """

    relus: Sequence[np.ndarray]
    pools: Sequence[np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class Batch:
    """What both sides take a step on: scaled images, labels, and what Dropout keeps."""

    epoch: int
    images: np.ndarray
    labels: np.ndarray
    masks: Sequence[np.ndarray]


class TorchTrainer:
    """A twin that trains step by step and shows what it computes, laid out as Keras."""

    def __init__(
        self,
        network: nn.Module,
        twin: Twin,
        layouts: Sequence[Layout],
        steps: int = 1000,
    ):
        self.network = network.train()
        self.twin = twin
        self.steps = steps
        self.optimizer = twin.optimizer(network, kernels_only=True, steps=steps)
        self.scheduler = twin.scheduler(self.optimizer)
        self.epoch = 0
        self.modules = list(zip(layouts, weights.learning(network), strict=False))
        self.parameters = {
            (layout.layer.name, keras_name): (layout, getattr(module, torch_name))
            for layout, module in self.modules
            for keras_name, torch_name in layout.names
            if isinstance(getattr(module, torch_name), nn.Parameter)
        }
        self.masks: list[np.ndarray] = []
        self.logits = np.zeros(0, "float32")  # of the last call of `loss`
        self.variances: dict[nn.Module, tuple[torch.Tensor, int]] = {}
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.register_forward_hook(self._drop)
            elif isinstance(module, nn.BatchNorm2d):
                module.register_forward_pre_hook(self._note)

    def begin(self, epoch: int) -> None:
        """Let the scheduler pass to a step's epoch, counted from 0."""
        while self.epoch < epoch:
            self.epoch += 1
            if self.scheduler:
                self.scheduler.step()

    @property
    def learning_rate(self) -> float:
        """The present learning rate."""
        return self.optimizer.param_groups[0]["lr"]

    @contextlib.contextmanager
    def doubled(self) -> Iterator[None]:
        """Compute in float64 for a while: PyTorch without its rounding."""
        with self._statistics_kept():
            self.network.double()
            try:
                yield
            finally:
                self.network.float()

    @contextlib.contextmanager
    def normalizing_as_keras(self, backend: str) -> Iterator[None]:
        """Let BatchNorm round as Keras's formula on a backend does, for a while.

        Where a feature's mean is far larger than its deviation, Keras subtracts two
        large numbers and loses the digits that these have in common. On PyTorch the
        variance is the mean square minus the squared mean; on JAX and TensorFlow the
        result is `x * s + (bias - mean * s)`. TensorFlow also adds a channel's pixels
        up one after the other, where the others add halves.
        """
        one_pass = backend == "torch"
        mean_of = _mean_in_turn if backend == "tensorflow" else _mean

        def normalize(
            module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
        ) -> torch.Tensor | None:
            assert isinstance(module, nn.BatchNorm2d)
            if not module.training:
                return None
            x = inputs[0]
            weight, bias = (p.reshape(-1, 1, 1) for p in module.parameters())
            mean = mean_of(x)
            if one_pass:
                variance = mean_of(x.square()) - mean.square()
            else:
                variance = mean_of((x - mean).square())
            scale = weight * torch.rsqrt(variance + module.eps)
            if one_pass:
                return (x - mean) * scale + bias
            return x * scale + (bias - mean * scale)

        norms = [m for m in self.network.modules() if isinstance(m, nn.BatchNorm2d)]
        hooks = [module.register_forward_hook(normalize) for module in norms]
        try:
            with self._statistics_kept():
                yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextlib.contextmanager
    def shaken(self, seed: int) -> Iterator[None]:
        """Move every weight by its last digit, up or down at random, for a while."""
        dice = torch.Generator().manual_seed(seed)
        parameters = list(self.network.parameters())
        before = [p.detach().clone() for p in parameters]
        try:
            with torch.no_grad():
                for parameter in parameters:
                    signs = torch.rand(parameter.shape, generator=dice) - 0.5
                    parameter.mul_(1 + torch.sign(signs) * 2**-23)
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, before, strict=True):
                    parameter.copy_(value)

    @contextlib.contextmanager
    def zeroed(self, names: Sequence[tuple[str, str]]) -> Iterator[None]:
        """Let parameters, by Keras's names, be zero for a while."""
        parameters = [self.parameters[name][1] for name in names]
        before = [p.detach().clone() for p in parameters]
        try:
            with torch.no_grad():
                for parameter in parameters:
                    parameter.zero_()
            with self._statistics_kept():
                yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, before, strict=True):
                    parameter.copy_(value)

    @contextlib.contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        """Let what is computed meanwhile leave no trace in BatchNorm's statistics."""
        before = [buffer.clone() for buffer in self.network.buffers()]
        variances = dict(self.variances)
        try:
            yield
        finally:
            for buffer, value in zip(self.network.buffers(), before, strict=True):
                buffer.copy_(value)
            self.variances = variances

    def _images(self, images: np.ndarray) -> torch.Tensor:
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        dtype = next(self.network.parameters()).dtype
        return torch.from_numpy(channels_first).to(dtype)

    def value(self, name: tuple[str, str]) -> np.ndarray:
        """Return a parameter, by Keras's names, as it is before the update."""
        layout, parameter = self.parameters[name]
        return layout.to_keras(parameter.detach().numpy().copy())

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return the logits in inference."""
        with torch.no_grad():
            logits = self.network.eval()(self._images(images)).numpy()
        self.network.train()
        return logits

    def outputs(self, batch: Batch) -> dict[str, list[np.ndarray]]:
        """Return the layers' outputs in training, by kind, after activations."""
        self.masks = list(batch.masks)
        events: list[tuple[nn.Module, torch.Tensor]] = []
        hooks = [
            module.register_forward_hook(
                lambda module, _, output: events.append((module, output.detach()))
            )
            for module in self.network.modules()
            if isinstance(module, (*KINDS, *ACTIVATIONS))
        ]
        with torch.no_grad(), self._statistics_kept():
            self.network(self._images(batch.images))
        for hook in hooks:
            hook.remove()
        found: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS.values()}
        for i, (module, output) in enumerate(events):
            if type(module) in KINDS:
                # Keras's layer and its activation are one.
                after = events[i + 1] if i + 1 < len(events) else (None, None)
                shown = after[1] if isinstance(after[0], ACTIVATIONS) else output
                found[KINDS[type(module)]].append(channels_last(shown))
        return found

    def loss(self, batch: Batch) -> float:
        """Compute a step's mean cross-entropy and its gradients, without the update."""
        self.optimizer.zero_grad()
        logits, loss = self._forward(batch)
        self.logits = logits.detach().numpy()
        loss.backward()
        return loss.item()

    def gradients(self) -> dict[tuple[str, str], np.ndarray]:
        """Return the gradients of `loss`, weight decay added, by Keras's names."""
        return {
            name: layout.to_keras(self._decayed(parameter).numpy())
            for name, (layout, parameter) in self.parameters.items()
        }

    def fits(self, branches: Branches) -> bool:
        """Whether the network has a ReLU and a max pooling for each of the branches."""
        kinds = (nn.ReLU, branches.relus), (nn.MaxPool2d, branches.pools)
        modules = list(self.network.modules())
        return all(
            sum(isinstance(module, kind) for module in modules) == len(own)
            for kind, own in kinds
        )

    @contextlib.contextmanager
    def branching(self, branches: Branches) -> Iterator[None]:
        """Let ReLU and max pooling take the given branches in what is computed."""
        relus, pools = list(branches.relus), list(branches.pools)
        kept: list[torch.Tensor] = []

        def before(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            kept.append(inputs[0].clone())  # a ReLU in place would overwrite it

        def relu(
            module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
        ) -> torch.Tensor:
            active = torch.from_numpy(relus.pop(0))
            if active.ndim == 4:
                active = active.permute(0, 3, 1, 2)
            x = kept.pop()
            # Zero itself is within no rounding: there PyTorch's derivative holds.
            return x * (active & (x != 0))

        def pool(
            module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
        ) -> torch.Tensor | None:
            chosen = pools.pop(0)
            if chosen is None:
                return None
            index = torch.from_numpy(chosen).permute(0, 3, 1, 2)[..., None]
            n, channels, height, width = output.shape
            side = inputs[0].shape[2] // height
            x = inputs[0][:, :, : side * height, : side * width]
            x = x.reshape(n, channels, height, side, width, side).transpose(3, 4)
            return x.reshape(n, channels, height, width, -1).gather(4, index)[..., 0]

        hooks = []
        for module in self.network.modules():
            if isinstance(module, nn.ReLU):
                hooks.append(module.register_forward_pre_hook(before))
                hooks.append(module.register_forward_hook(relu))
            elif isinstance(module, nn.MaxPool2d):
                hooks.append(module.register_forward_hook(pool))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _decayed(self, parameter: nn.Parameter) -> torch.Tensor:
        assert parameter.grad is not None
        decay = self.twin.weight_decay if parameter.ndim > 1 else 0.0
        return parameter.grad + decay * parameter.detach() if decay else parameter.grad

    def _drop(
        self, module: nn.Dropout, inputs: tuple[torch.Tensor], output: torch.Tensor
    ) -> torch.Tensor | None:
        if not (module.training and self.masks):
            return None
        mask = torch.from_numpy(self.masks.pop(0))
        return inputs[0] * mask / (1 - module.p)

    def _note(self, module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        assert module.running_var is not None
        values = inputs[0].numel() // inputs[0].shape[1]
        self.variances[module] = (module.running_var.clone(), values)

    def step(self) -> None:
        """Update the weights by the gradients of `loss`."""
        self.optimizer.step()

    def loss_alone(self, batch: Batch) -> float:
        """Return a step's mean cross-entropy, without its gradients."""
        with torch.no_grad():
            return self._forward(batch)[1].item()

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        self.masks = list(batch.masks)
        logits = self.network(self._images(batch.images))
        labels = torch.from_numpy(batch.labels).long()
        smoothing = self.twin.label_smoothing
        return logits, nn.functional.cross_entropy(
            logits, labels, label_smoothing=smoothing
        )

    def follow(self, gradients: Mapping[tuple[str, str], np.ndarray]) -> None:
        """Update the weights by Keras's gradients."""
        # The penalty's part is taken off again: decay is in the twin's optimiser.
        for name, (layout, parameter) in self.parameters.items():
            # Laid out as the weight: PyTorch's fused Adam does not look at strides.
            gradient = np.array(layout.to_torch(gradients[name]), order="C")
            gradient = torch.from_numpy(gradient).to(parameter.dtype)
            penalty = getattr(layout.layer, name[1]).regularizer
            if penalty:
                gradient -= 2 * getattr(penalty, "l2", 0.0) * parameter.detach()
            parameter.grad = gradient
        self.optimizer.step()

    def updated(
        self, gradients: dict[tuple[str, str], np.ndarray]
    ) -> dict[tuple[str, str], np.ndarray]:
        """Return the weights after one first update by Keras's gradients."""
        # Equal gradients show the optimiser alone: Adam's first update is the
        # gradient's sign, so the rounding of one that is nearly zero would look like
        # another update.
        if self.twin.optimizers:
            return self._updated_by_its_own(gradients)
        new = {}
        for name, (layout, parameter) in self.parameters.items():
            copy = nn.Parameter(parameter.detach().clone())
            optimizer = torch.optim.Adam([copy], lr=self.twin.learning_rate)
            gradient = np.array(layout.to_torch(gradients[name]), order="C")
            copy.grad = torch.from_numpy(gradient)
            optimizer.step()
            new[name] = layout.to_keras(copy.detach().numpy())
        return new

    def _updated_by_its_own(
        self, gradients: dict[tuple[str, str], np.ndarray]
    ) -> dict[tuple[str, str], np.ndarray]:
        before = [p.detach().clone() for p in self.network.parameters()]
        kept, self.optimizer = (
            self.optimizer,
            self.twin.optimizer(self.network, steps=self.steps),
        )
        self.follow(gradients)
        self.optimizer = kept
        new = {
            name: layout.to_keras(parameter.detach().numpy().copy())
            for name, (layout, parameter) in self.parameters.items()
        }
        with torch.no_grad():
            for parameter, value in zip(self.network.parameters(), before, strict=True):
                parameter.copy_(value)
        return new

    def statistics(self, unbiased: bool) -> dict[tuple[str, str], np.ndarray]:
        """Return BatchNorm's statistics after the step, by Keras's names."""
        # Keras keeps the biased variance: PyTorch's times (n - 1) / n, n the values
        # that a feature has in the batch.
        found = {}
        for layout, module in self.modules:
            if not isinstance(module, nn.BatchNorm2d):
                continue
            assert module.running_var is not None
            assert module.running_mean is not None
            variance = module.running_var
            if not unbiased:
                assert module.momentum is not None
                before, values = self.variances[module]
                kept = (1 - module.momentum) * before
                variance = kept + (variance - kept) * (values - 1) / values
            name = layout.layer.name
            found[name, "moving_mean"] = module.running_mean.numpy().copy()
            found[name, "moving_variance"] = variance.numpy().copy()
        return found


def channels_last(output: torch.Tensor) -> np.ndarray:
    """Lay maps out as Keras does; vectors stay."""
    array = output.numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def _mean(x: torch.Tensor) -> torch.Tensor:
    """Return each channel's mean over images and pixels, `(1, channels, 1, 1)`."""
    return x.mean((0, 2, 3), keepdim=True)


def _mean_in_turn(x: torch.Tensor) -> torch.Tensor:
    """Return the same, rounded as by adding one number after the other."""
    mean = _mean(x)
    pixels = x.detach().permute(0, 2, 3, 1).flatten(0, 2).contiguous().numpy()
    # NumPy's sum may add halves; a running sum can't.
    total = np.add.accumulate(pixels, axis=0)[-1]
    rounded = torch.from_numpy(total / len(pixels))
    # The gradient is that of the mean.
    return mean + (rounded.reshape(mean.shape) - mean).detach()
