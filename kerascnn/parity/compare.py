"""Compare a recipe with its twin, quantity by quantity, and find where they part.

Same weights, same batches, same random draws, float32. Each comparison is a `Check`:
how far apart the two are, how far they may be, and what the reason may be. The order
is that of the computation, so the first that fails is where the two part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import keras
import numpy as np
import torch
from torch import nn

from kerascnn.data import Split
from kerascnn.parity import images as pictures
from kerascnn.parity import mistakes, twins, weights
from kerascnn.parity.side import Side, Step, side
from kerascnn.parity.twins.twin import Twin
from kerascnn.parity.weights import Layout
from kerascnn.parity.witness import Branches, Witness
from kerascnn.recipe import Recipe
from kerascnn.training import trainer
from kerascnn.training.plan import Plan

# Float32 has 7 digits; a layer's sums of thousands of terms lose one or two of them.
FORWARD = 1e-5
# Twelve layers forward and back, and sums over all places of an image.
GRADIENT = 1e-4
# One Adam step from equal gradients, in units of the learning rate: rounding alone. The
# last digit of the weights comes on top.
UPDATE = 1e-4
# Of the losses of 100 steps; absolute where the loss is below 1. Each step adds to the
# rounding of the one before.
TRACE = 1e-3
# Where a difference is beyond the tolerance, it is measured how far rounding alone
# leads: how far float32 is from float64, in PyTorch, by its formulas, and by Keras's
# with all weights moved by their last digit, `SHAKEN` times, since rounding is a matter
# of chance. Two programs' roundings may add up, so this many times the largest is
# allowed. BatchNorm makes it necessary: it divides a feature that hardly varies by its
# deviation, and the rounding with it. Found in lecture 4's networks and cifar_bn_12: up
# to 2.2 times it on JAX, 1.8 on PyTorch, 5.8 on TensorFlow.
ROUNDING = 4.0
SHAKEN = 3
# On TensorFlow, whose means over a batch round more: cifar_vgg_bn's first BatchNorm is
# 7 times as far from float64 there as PyTorch's (1.8e-6, 2.4e-7). Later ones keep that.
TENSORFLOW_ROUNDING = 8.0
# Two samples of one distribution lie 6 standard errors apart once in 5e8 cases.
INITIAL = 6.0
# Half-way between two pixels, or two levels of grey, rounding may go either way: in a
# rotation that is rare; in a resizing by 2 / 3 it is one value in 120.
ROUNDED = {"RandomRotation": 1e-3, "Resizing": 1e-2}

STEPS_AN_EPOCH = 10

# Networks with so few layers that learn are also compared left to themselves, each
# following its own gradients. Deeper ones part within a few steps, in float32, as
# PyTorch then parts from itself when one weight is moved by its last digit.
SHALLOW = 6


@dataclasses.dataclass(frozen=True)
class Check:
    """One quantity, compared.

    Args:
        part: What kind of quantity, such as `"forward"`.
        name: Which: a layer, a parameter, a step.
        difference: How far apart the two are.
        tolerance: How far apart they may be.
        reason: What is likely wrong where it fails.
        note: What to know about the figure.
    """

    part: str
    name: str
    difference: float
    tolerance: float
    reason: str
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return bool(self.difference <= self.tolerance)


@dataclasses.dataclass(frozen=True)
class Size:
    """How much to compute.

    Args:
        batch: Images a step.
        steps: Steps of the loss trace.
    """

    batch: int
    steps: int


def size(parameters: int) -> Size:
    """Return how much to compute for a network with so many parameters.

    The lectures' batches of 256 and 1,024 would take hours for all networks. For the
    two largest networks a hundred steps would still take many minutes.
    """
    if parameters > 100e6:
        return Size(batch=1, steps=3)
    if parameters > 30e6:
        return Size(batch=2, steps=25)
    return Size(batch=2 if parameters > 5e6 else 4, steps=100)


def compare(
    recipe: Recipe,
    accelerate: bool = True,
    mistake: str | None = None,
    steps: int | None = None,
) -> Iterator[Check]:
    """Compare a recipe with its twin.

    Args:
        recipe: The recipe.
        accelerate: Use this package's fast gradients (JAX).
        mistake: One of `mistakes.MISTAKES`, made on Keras's side.
        steps: Steps of the loss trace, where not as many as `size` says.

    Yields:
        The comparisons, in the order of the computation.

    Raises:
        UsageError: The recipe has nothing to make the mistake with, or the two
            networks do not fit together.
    """
    twin = twins.load(recipe.name)
    much = size(recipe.parameters)
    much = dataclasses.replace(much, steps=steps or much.steps)
    trainer.set_seed(0)
    torch.manual_seed(0)
    with quick_draws():
        network = recipe.network()
    if mistake:
        mistakes.check(mistake, recipe, network)
    network = mistakes.broken_network(mistake, network)
    recipe = mistakes.broken_recipe(mistake, recipe)
    module = twin.network()
    layouts = weights.layouts(network)

    raw = pictures.of(recipe)
    yield from compare_batches(recipe, twin)
    yield from compare_transforms(recipe, twin, raw.images[:64], mistake)
    yield from compare_initial(layouts, module)
    shake(layouts)
    weights.to_torch(network, module)
    if mistake == "flatten_order":
        forget_order(layouts, module)
    batches = prepare(twin, raw, much)
    yield from compare_training(
        recipe, twin, network, module, layouts, batches, accelerate, mistake
    )


def quick_draws() -> contextlib.AbstractContextManager[Any]:
    """Draw random numbers in an order that JAX compiles four times as fast.

    The distribution is the same; of initial weights nothing else is compared.
    """
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.threefry_partitionable(False)


def compare_batches(recipe: Recipe, twin: Twin) -> Iterator[Check]:
    """Compare the sizes of an epoch's batches with a `DataLoader`'s."""
    images = {"fashion_mnist": 60_000, "cifar10": 50_000}.get(recipe.dataset, 9_469)
    loader = torch.utils.data.DataLoader(
        range(images),  # type: ignore[arg-type]
        batch_size=twin.batch_size,
        drop_last=twin.drop_last,
    )
    plan = Plan(1, recipe.batch_size, seed=0, drop_last=recipe.drop_last)
    yield Check(
        "batches",
        f"batches of an epoch of {images:,} images",
        abs(plan.steps(images) - len(loader)),
        0,
        mistakes.MISTAKES["drop_last"][0],
    )


def compare_transforms(
    recipe: Recipe, twin: Twin, images: np.ndarray, mistake: str | None
) -> Iterator[Check]:
    """Compare each transform with torchvision's rule, on the same random draws."""
    layers = recipe.transform()
    if len(layers) != len(twin.transform):
        yield Check(
            "transform",
            "number of transforms",
            abs(len(layers) - len(twin.transform)),
            0,
            "a transform is missing, or one too many",
        )
    x: Any = images
    for layer, rule in zip(layers, twin.transform, strict=False):
        ours, draw = transformed(layer, x, mistake)
        theirs = rule.apply(x, draw)
        reason, note, tolerance = "its rule is not torchvision's", "", FORWARD
        if mistake == "crop_per_batch" or type(layer).__name__ == "RandomCrop":
            reason = mistakes.MISTAKES["crop_per_batch"][0]
        if type(layer).__name__ in ROUNDED:
            difference = float(np.mean(ours != theirs))
            note, tolerance = "share of values", ROUNDED[type(layer).__name__]
        else:
            difference = relative(ours, theirs)
        yield Check(
            "transform", type(layer).__name__, difference, tolerance, reason, note
        )
        x = theirs


def transformed(
    layer: keras.layers.Layer, images: np.ndarray, mistake: str | None
) -> tuple[np.ndarray, Any]:
    """Apply one of our transforms; return its result and its random draw."""
    number = keras.ops.convert_to_numpy
    tensor: Any = keras.ops.convert_to_tensor(images)
    if isinstance(layer, keras.layers.RandomFlip):
        draw = layer.get_random_transformation(tensor, training=True)
        flipped = layer.transform_images(tensor, draw, training=True)
        return number(flipped), number(draw["flips"]).reshape(-1)
    if not hasattr(layer, "draw"):
        return number(layer(tensor)), None
    draw = number(layer.draw(images.shape))
    ours = draw
    if mistake == "crop_per_batch" and type(layer).__name__ == "RandomCrop":
        ours = np.broadcast_to(draw[:1], draw.shape)
    return number(layer.transform(tensor, ours)), draw


def compare_initial(layouts: list[Layout], module: nn.Module) -> Iterator[Check]:
    """Compare the distributions of the initial weights: spread and shape.

    The two draw from dice of their own, so the difference is in standard errors.
    """
    theirs = [m for m in module.modules() if hasattr(m, "weight")]
    for layout, other in zip(layouts, theirs, strict=True):
        if layout.kind == "BatchNormalization":
            continue
        kernel = sample(keras.ops.convert_to_numpy(layout.layer.kernel))
        weight = sample(other.weight.detach().numpy())
        errors = 0.0
        for ours, twin in zip(moments(kernel), moments(weight), strict=True):
            error = math.hypot(ours[1], twin[1])
            errors = max(errors, abs(ours[0] - twin[0]) / error)
        start = layout.layer.kernel_initializer
        he = getattr(start, "distribution", "") == "untruncated_normal"
        reason = mistakes.MISTAKES["he_truncated"][0] if he else "other initial weights"
        yield Check(
            "initial",
            f"{layout.layer.name} kernel",
            errors,
            INITIAL,
            reason,
            "in standard errors",
        )
        biases = [
            keras.ops.convert_to_numpy(layout.layer.bias),
            other.bias.detach().numpy(),
        ]
        # Zeros, or uniform: the largest of n lies within 10 / n of the bound, but for
        # once in exp(10) cases.
        ours, twin = (float(np.abs(b).max()) for b in biases)
        if ours or twin:
            yield Check(
                "initial",
                f"{layout.layer.name} bias",
                abs(ours - twin) / max(ours, twin),
                min(1, 10 / biases[0].size) if ours and twin else 0,
                "other initial biases: PyTorch's default is not zero",
                "of the largest bias",
            )


def sample(array: np.ndarray, most: int = 200_000) -> np.ndarray:
    """Return at most so many entries of an array, evenly spaced, in float64."""
    flat = array.reshape(-1)
    return flat[:: -(-flat.size // most)].astype("float64")


def moments(values: np.ndarray) -> list[tuple[float, float]]:
    """Return logarithm of the deviation, and kurtosis, each with standard error."""
    squares = np.square(values)
    variance, n = squares.mean(), values.size
    kurtosis = np.square(squares).mean() / variance**2
    # A normal distribution's error of the kurtosis, the largest among ours.
    return [
        (0.5 * math.log(variance), math.sqrt((kurtosis - 1) / (4 * n))),
        (kurtosis, math.sqrt(24 / n)),
    ]


def shake(layouts: list[Layout]) -> None:
    """Move biases, scales and statistics off the zeros and ones they start from.

    Else a bias in the wrong place, or an inference that takes no statistics, would go
    unseen.
    """
    dice = np.random.default_rng(1)
    for layout in layouts:
        for name, _ in layout.names:
            variable = getattr(layout.layer, name)
            if len(variable.shape) == 1:
                start = keras.ops.convert_to_numpy(variable)
                variable.assign(start + dice.uniform(-0.05, 0.05, start.shape))


def forget_order(layouts: list[Layout], module: nn.Module) -> None:
    """Make the mistake `flatten_order` in the weights that were carried over."""
    learning = [m for m in module.modules() if hasattr(m, "weight")]
    for layout, other in zip(layouts, learning, strict=True):
        if layout.flattened:
            kernel = keras.ops.convert_to_numpy(layout.layer.kernel)
            with torch.no_grad():
                other.weight.copy_(torch.from_numpy(kernel.T.copy()))


def prepare(
    twin: Twin, raw: Split, much: Size
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield epoch, scaled images and labels of each step, through torchvision's rules.

    An epoch has `STEPS_AN_EPOCH` batches, of the same images in another order.
    """
    dice = np.random.default_rng(2)
    used = min(much.batch * min(STEPS_AN_EPOCH, much.steps), len(raw))
    for step in range(much.steps):
        epoch, place = divmod(step, STEPS_AN_EPOCH)
        chosen = np.random.default_rng([3, epoch]).permutation(used)
        chosen = chosen.reshape(-1, much.batch)[place % (used // much.batch)]
        images: Any = np.array(raw.images[chosen])
        for rule in twin.transform:
            images = rule.apply(images, rule.draw(dice, images.shape))
        yield epoch, images.astype("float32"), np.array(raw.labels[chosen])


def compare_training(
    recipe: Recipe,
    twin: Twin,
    network: keras.Model,
    module: nn.Module,
    layouts: list[Layout],
    batches: Iterator[tuple[int, np.ndarray, np.ndarray]],
    accelerate: bool,
    mistake: str | None,
) -> Iterator[Check]:
    """Compare a first step in every detail, then the losses of all steps."""
    watched = watch(network)
    keras_side = side(network, [w for w, _ in watched], recipe.optimizer(), accelerate)
    witness = Witness(module, twin, layouts)
    free = None
    if len(layouts) <= SHALLOW:
        copied = twin.network()
        copied.load_state_dict(module.state_dict())
        free = Witness(copied, twin, layouts)
    rates = Rates(recipe, keras_side, mistake)
    dice = Dice(network)

    epoch, images, labels = next(batches)
    wrong = (labels + 1) % 10 if mistake == "label_shift" else labels
    masks = dice.masks(len(images))
    inferred = None
    if has_statistics(network):
        inferred = keras_side.infer(images), witness.infer(images)
    rates.begin(epoch)
    step = keras_side.step(images, wrong)
    outputs = numpy_outputs(watched, step)
    tensorflow = keras.backend.backend() == "tensorflow"
    allowed = TENSORFLOW_ROUNDING if tensorflow else ROUNDING
    yield from compare_outputs(watched, outputs, witness, images, masks, allowed)
    if inferred:
        yield Check(
            "inference",
            "logits",
            relative(*inferred),
            FORWARD,
            "BatchNorm's running statistics or epsilon, or an active Dropout",
        )
    sides = branches(watched, outputs)
    with witness.branching(sides):
        losses = [(step.crossentropy, witness.loss(images, labels, masks))]
    # The cross-entropy's gradient by the logits, probabilities minus labels, sums to 2
    # at most in absolute values: the loss moves by twice their largest difference.
    logits = keras.ops.convert_to_numpy(step.outputs[-1])
    moved = 2 * float(np.abs(logits - witness.logits).max()) / losses[0][1]
    yield Check(
        "loss",
        "cross-entropy",
        relative(*(np.array(float(loss)) for loss in losses[0])),
        FORWARD + moved,
        "other labels (off by one?), or a softmax before a loss that takes logits",
    )
    ours = paired_gradients(keras_side, layouts, step.gradients)
    theirs = witness.gradients()
    own: dict[tuple[str, str], float] = {}
    if any(relative(ours[name], theirs[name]) > GRADIENT for name in theirs):

        def gradients() -> dict[tuple[str, str], np.ndarray]:
            with witness.branching(sides):
                witness.loss(images, labels, masks)
            return witness.gradients()

        own = roundings(witness, gradients, theirs)
    for name in theirs:
        yield checked(
            "gradient",
            " ".join(name),
            (ours[name], theirs[name], own.get(name)),
            GRADIENT,
            allowed,
            mistakes.MISTAKES["l2_half"][0]
            if twin.weight_decay and name[1] == "kernel"
            else "the backward pass of this layer or one above it",
        )
    for name, updated in witness.updated(ours).items():
        new = keras_side.value(variable_of(layouts, name))
        yield Check(
            "update",
            " ".join(name),
            float(np.abs(new - updated).max() / twin.learning_rate),
            UPDATE + 2 * float(np.spacing(np.abs(new).max())) / twin.learning_rate,
            mistakes.MISTAKES["adam_eps"][0],
            "in learning rates",
        )
    for (layer, name), after in witness.statistics(mistake == "bn_variance").items():
        new = keras_side.value(variable_of(layouts, (layer, name)))
        reason = mistakes.MISTAKES["bn_momentum"][0]
        if name == "moving_variance":
            reason += f"; or {mistakes.MISTAKES['bn_variance'][0]}"
        yield Check(
            "statistics",
            f"{layer} {name}",
            relative(new, after),
            FORWARD,
            reason,
            "PyTorch's variance made biased" if name == "moving_variance" else "",
        )

    # The twin's own Adam, decay and schedule, step by step, on Keras's gradients: its
    # own differ by rounding, and a deep network's training is chaotic, so that within a
    # few steps rounding alone would lead elsewhere.
    witness.follow(ours)
    rate_differences = [rates.difference(witness)]
    free_losses = []
    if free:
        with free.branching(sides):
            free_losses.append((step.crossentropy, free.loss(images, labels, masks)))
        free.step()
    for epoch, images, labels in batches:
        wrong = (labels + 1) % 10 if mistake == "label_shift" else labels
        masks = dice.masks(len(images))
        rates.begin(epoch)
        witness.begin(epoch)
        step = keras_side.step(images, wrong)
        # JAX computes its step meanwhile.
        loss = witness.guided_loss(images, labels, masks)
        rate_differences.append(rates.difference(witness))
        losses.append((step.crossentropy, loss))
        witness.follow(paired_gradients(keras_side, layouts, step.gradients))
        if free:
            free.begin(epoch)
            with free.branching(branches(watched, numpy_outputs(watched, step))):
                loss = free.loss(images, labels, masks)
            free_losses.append((step.crossentropy, loss))
            free.step()
    yield Check(
        "learning rate",
        f"of {len(losses)} steps",
        max(rate_differences),
        1e-6,
        mistakes.MISTAKES["decay_per_step"][0]
        if recipe.callbacks()
        else "another learning rate",
    )
    yield trace("trace", losses, len(images), "each update by Keras's gradients")
    if free:
        yield trace("free trace", free_losses, len(images), "each by its own gradients")


def trace(part: str, losses: list[tuple[Any, float]], batch: int, note: str) -> Check:
    """Compare the losses of many steps."""
    apart = [abs(float(a) - b) / max(1, abs(b)) for a, b in losses]
    worst = int(np.argmax(apart)) + 1
    beyond = next((i + 1 for i, d in enumerate(apart) if not d <= TRACE), None)
    return Check(
        part,
        f"losses of {len(losses)} steps of {batch} images",
        apart[worst - 1],
        TRACE,
        "the optimiser's averages, the decay or the schedule"
        + (f": the losses part at step {beyond}" if beyond else ""),
        f"{note}; worst at step {worst}; losses {losses[0][1]:.3f} to "
        f"{losses[-1][1]:.3f}",
    )


def compare_outputs(
    watched: list[tuple[keras.layers.Layer, str]],
    ours: dict[keras.layers.Layer, np.ndarray],
    witness: Witness,
    images: np.ndarray,
    masks: list[np.ndarray],
    allowed: float,
) -> Iterator[Check]:
    """Compare what each layer computes in training."""
    theirs = by_layer(watched, witness.outputs(images, masks))
    own: dict[keras.layers.Layer, float] = {}
    if any(relative(ours[layer], theirs[layer]) > FORWARD for layer, _ in watched):
        own = roundings(
            witness, lambda: by_layer(watched, witness.outputs(images, masks)), theirs
        )
    for layer, _ in watched:
        yield checked(
            "forward",
            layer.name,
            (ours[layer], theirs[layer], own.get(layer)),
            FORWARD,
            allowed,
            forward_reason(layer),
        )


Named = TypeVar("Named")


def roundings(
    witness: Witness,
    compute: Callable[[], Mapping[Named, np.ndarray]],
    theirs: Mapping[Named, np.ndarray],
) -> dict[Named, float]:
    """Return how far rounding alone leads: the largest distances from float64.

    Args:
        witness: What computes.
        compute: Computes quantities anew.
        theirs: What it has computed, in float32.
    """
    with witness.doubled():
        exact = compute()
    largest = {name: relative(theirs[name], exact[name]) for name in theirs}
    one_pass = keras.backend.backend() == "torch"
    for seed in range(SHAKEN):
        with witness.normalizing_as_keras(one_pass), witness.shaken(seed):
            found = compute()
        for name, value in found.items():
            largest[name] = max(largest[name], relative(value, exact[name]))
    return largest


def checked(
    part: str,
    name: str,
    values: tuple[np.ndarray, np.ndarray, float | None],
    tolerance: float,
    allowed: float,
    reason: str,
) -> Check:
    """Compare two arrays.

    Args:
        part: As `Check` has it, and so `name`, `tolerance` and `reason`.
        name: See above.
        values: Keras's, PyTorch's, and what rounding leads to, where that is known.
        tolerance: See above.
        allowed: How many times that is allowed.
        reason: See above.
    """
    ours, theirs, own = values
    difference, note = relative(ours, theirs), ""
    if own is not None and difference > tolerance:
        tolerance = max(tolerance, allowed * own)
        note = f"rounding alone leads {own:.0e} from float64"
    return Check(part, name, difference, tolerance, reason, note)


def numpy_outputs(
    watched: list[tuple[keras.layers.Layer, str]], step: Step
) -> dict[keras.layers.Layer, np.ndarray]:
    """Return what Keras's watched layers computed in a step."""
    return {
        layer: keras.ops.convert_to_numpy(output)
        for (layer, _), output in zip(watched, step.outputs, strict=False)
    }


def by_layer(
    watched: list[tuple[keras.layers.Layer, str]],
    outputs: dict[str, list[np.ndarray]],
) -> dict[keras.layers.Layer, np.ndarray]:
    """Pair a twin's outputs with Keras's layers: the first of a kind with the first."""
    left = {kind: list(found) for kind, found in outputs.items()}
    return {layer: left[kind].pop(0) for layer, kind in watched}


class Rates:
    """The learning rate on Keras's side, epoch by epoch.

    Args:
        recipe: Whose callbacks to call.
        keras_side: Whose optimiser to set.
        mistake: `"decay_per_step"` lets the rate fall at each step.
    """

    def __init__(self, recipe: Recipe, keras_side: Side, mistake: str | None):
        self.callbacks = recipe.callbacks()
        self.keras_side = keras_side
        self.per_step = mistake == "decay_per_step"
        self.epoch = -1
        self.steps = -1
        model = keras_side.model
        # The callbacks look for the optimiser where a compiled model has it.
        model.optimizer = keras_side.optimizer
        for callback in self.callbacks:
            callback.set_model(model)
            callback.on_train_begin()

    def begin(self, epoch: int) -> None:
        """Set Keras's rate for a step of an epoch, counted from 0."""
        self.steps += 1
        if epoch != self.epoch or self.per_step:
            self.epoch = epoch
            for callback in self.callbacks:
                callback.on_epoch_begin(self.steps if self.per_step else epoch)

    def difference(self, witness: Witness) -> float:
        """Return the relative difference of this rate and the twin's."""
        return abs(self.keras_side.learning_rate() / witness.learning_rate - 1)


WATCHED = {
    "Conv2D": "convolution",
    "Dense": "dense",
    "BatchNormalization": "norm",
    "MaxPooling2D": "maximum",
    "AveragePooling2D": "average",
    "Resizing": "resizing",
    "Dropout": "dropout",
}


def watch(network: keras.Model) -> list[tuple[keras.layers.Layer, str]]:
    """Return the layers whose outputs are compared, each with its kind."""
    return [
        (layer, WATCHED[type(layer).__name__])
        for layer in network.layers
        if type(layer).__name__ in WATCHED
    ]


def has_statistics(network: keras.Model) -> bool:
    """Whether a network computes something else in inference than in training."""
    kinds = keras.layers.BatchNormalization | keras.layers.Dropout
    return any(isinstance(layer, kinds) for layer in network.layers)


class Dice:
    """The Dropout layers' next masks, drawn as the layers will, from the same seeds.

    Args:
        network: A network that has taken no step yet.
    """

    def __init__(self, network: keras.Model):
        self.layers = [x for x in network.layers if isinstance(x, keras.layers.Dropout)]
        self.states = [
            keras.ops.convert_to_numpy(x.seed_generator.state) for x in self.layers
        ]
        # Made as the layers' own: on PyTorch, Keras rolls the global dice of a layer
        # that was given no seed.
        self.generators = [keras.random.SeedGenerator(x.seed) for x in self.layers]

    def masks(self, batch: int) -> list[np.ndarray]:
        """Draw what each layer keeps in the next step.

        Returns:
            For each layer a boolean array, `(batch, channels, height, width)`.
        """
        found, before = [], torch.get_rng_state()
        for i, layer in enumerate(self.layers):
            self.generators[i].state.assign(self.states[i])
            self.states[i] = self.states[i] + np.array([0, 1], self.states[i].dtype)
            # In memory as PyTorch's pooling leaves them: its dice follow the memory.
            height, width, channels = layer.output.shape[1:]
            ones = keras.ops.ones((batch, channels, height, width), "float32")
            ones = keras.ops.transpose(ones, (0, 2, 3, 1))
            kept = keras.random.dropout(ones, layer.rate, seed=self.generators[i])
            mask = keras.ops.convert_to_numpy(kept) != 0
            found.append(mask.transpose(0, 3, 1, 2))
        torch.set_rng_state(before)
        return found


def branches(
    watched: list[tuple[keras.layers.Layer, str]],
    outputs: dict[keras.layers.Layer, np.ndarray],
) -> Branches:
    """Return which side of their kinks Keras's layers were on."""
    relus, pools = [], []
    for layer, _ in watched:
        if getattr(layer, "activation", None) is keras.activations.relu:
            relus.append(outputs[layer] > 0)
        if isinstance(layer, keras.layers.MaxPooling2D):
            x = outputs.get(layer.input._keras_history.operation)
            pools.append(None if x is None else largest(x))
    return Branches(relus, pools)


def largest(x: np.ndarray) -> np.ndarray:
    """Return which of each 2x2 window's values is the largest, counted in rows."""
    n, height, width, channels = x.shape
    height, width = height // 2, width // 2
    x = x[:, : 2 * height, : 2 * width].reshape(n, height, 2, width, 2, channels)
    windows = x.transpose(0, 1, 3, 5, 2, 4).reshape(n, height, width, channels, 4)
    return windows.argmax(-1)


def paired_gradients(
    keras_side: Side, layouts: list[Layout], gradients: Any
) -> dict[tuple[str, str], np.ndarray]:
    """Return Keras's gradients by layer and parameter."""
    place = {id(v): i for i, v in enumerate(keras_side.variables)}
    return {
        (layout.layer.name, name): keras.ops.convert_to_numpy(
            gradients[place[id(getattr(layout.layer, name))]]
        )
        for layout in layouts
        for name, _ in layout.names
        if id(getattr(layout.layer, name)) in place
    }


def variable_of(layouts: list[Layout], name: tuple[str, str]) -> keras.Variable:
    """Return the variable of a layer."""
    layer = next(x.layer for x in layouts if x.layer.name == name[0])
    return getattr(layer, name[1])


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference, relative to the largest value of the twin."""
    if ours.shape != theirs.shape:
        return math.inf
    if theirs.dtype.kind != "f":
        ours, theirs = ours.astype("float64"), theirs.astype("float64")
    # float32 serves: the difference of two numbers that are near has no rounding.
    largest = max(abs(float(theirs.min())), abs(float(theirs.max())))
    apart = ours - theirs
    furthest = max(abs(float(apart.min())), abs(float(apart.max())))
    return furthest / (largest or 1.0)


def forward_reason(layer: keras.layers.Layer) -> str:
    """Return what is likely wrong with the first layer whose output differs."""
    match type(layer).__name__:
        case "BatchNormalization":
            return mistakes.MISTAKES["bn_eps"][0]
        case "Dense":
            return mistakes.MISTAKES["flatten_order"][0]
        case "Conv2D":
            if tuple(layer.strides) != (1, 1):
                return mistakes.MISTAKES["stride_same"][0]
            return "its kernel's layout, or its padding"
        case "Dropout":
            return "the rate is not the share that is dropped"
    return "another kind of pooling, or another border"
