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

from kerascnn import UsageError, twins
from kerascnn.data import Split
from kerascnn.data.official import OFFICIAL
from kerascnn.engine.plan import Plan
from kerascnn.parity import breaking, mistakes, weights
from kerascnn.parity import images as pictures
from kerascnn.parity.keras_step import Side, Step, side
from kerascnn.parity.shared_randomness import Dice, Rates, branches
from kerascnn.parity.torch_step import Batch, Witness
from kerascnn.parity.weights import Layout
from kerascnn.recipe import Recipe, check_parameters
from kerascnn.training import build
from kerascnn.twins.rules import Rule
from kerascnn.twins.twin import Twin

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
# allowed, and `CEILING` at most. BatchNorm makes it necessary: it divides a feature
# that hardly varies by its deviation, and the rounding with it. Found in lecture 4's
# networks and cifar_bn_12: up to 2.2 times it on JAX and 1.8 on PyTorch. The largest is
# rare: of 3 draws, 4 times it was half a percent too little for a kernel of cifar_bn_12
# on one core, of 8 and of 16 enough.
ROUNDING = 4.0
SHAKEN = 16
CEILING = 1e-2
# Two samples of one distribution lie 6 standard errors apart once in 5e8 cases.
INITIAL = 6.0
# Keras holds the rate in float32, 7 digits, and multiplies it once an epoch.
RATE = 1e-6
# Half-way between two pixels, a rotation's rounding may go either way: that is rare.
# Keras cuts an image to its proportions and then resizes it, so its first and last
# columns, 2 of 224, do not see beyond the cut, as torchvision's do.
ROUNDED = {"RandomRotation": 1e-3, "Resizing": 1e-2}
# In levels of grey. Inside, a resized image is rounded to a level. At 3 : 2 torchvision
# takes a ninth of an outermost column from beyond the cut.
LEVEL, EDGE = 1.0, 255 / 9 + 1
# Images of a batch whose draws are compared. By chance, no crop, flip, angle or erased
# rectangle is the same for all of them: the likeliest is a flip, once in 2**63 batches.
DRAWN = 64

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
        usual: The tolerance that holds where rounding has not raised it.
    """

    part: str
    name: str
    difference: float
    tolerance: float
    reason: str
    note: str = ""
    usual: float | None = None

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
        mistake: One of `mistakes.MISTAKES`, to be made on the way.
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
    build.set_seed(0)
    torch.manual_seed(0)
    with quick_draws():
        network = recipe.network()
    check_parameters(recipe, network)
    if mistake:
        breaking.check(mistake, recipe, network)
    network = breaking.broken_network(mistake, network)
    recipe = breaking.broken_recipe(mistake, recipe)
    module = twin.network()
    layouts = weights.layouts(network)
    weights.pairs(layouts, module.state_dict())
    check_activations(network)

    yield from compare_batches(recipe, twin)
    raw = pictures.of(recipe)
    yield from compare_transforms(recipe, twin, raw.images[:DRAWN])
    yield from compare_initial(layouts, module)
    shake(layouts)
    weights.to_torch(network, module)
    yield from compare_penalties(layouts, module, twin)
    if mistake == "flatten_order":
        forget_order(layouts, module)
    watched = watch(network)
    keras_side = side(network, [w for w, _ in watched], recipe.optimizer(), accelerate)
    witness = Witness(module, twin, layouts)
    pair = Pair(recipe, twin, watched, layouts, keras_side, witness)
    batches = prepare(twin, raw, much, Dice(network))
    yield from compare_training(pair, batches, mistake)


def quick_draws() -> contextlib.AbstractContextManager[Any]:
    """Draw random numbers in an order that JAX compiles four times as fast.

    The distribution is the same; of initial weights nothing else is compared.
    """
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.threefry_partitionable(False)


def compare_batches(recipe: Recipe, twin: Twin) -> Iterator[Check]:
    """Compare the size of a batch and their number with a `DataLoader`'s."""
    counts = {name: official.counts["train"] for name, official in OFFICIAL.items()}
    counts["imagenette"] = 9_469
    if recipe.dataset not in counts:
        raise UsageError(
            f"{recipe.name} is on {recipe.dataset}, and the lectures' networks are on "
            f"{', '.join(counts)}: there is nothing to compare it with."
        )
    yield Check(
        "batches",
        "images of a batch",
        abs(recipe.batch_size - twin.batch_size),
        0,
        "another batch size",
    )
    images = counts[recipe.dataset]
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
    recipe: Recipe, twin: Twin, images: np.ndarray
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
        kind = type(layer).__name__
        if other := differing(layer, rule):
            # Another draw may not even be one that the rule can take.
            yield Check("transform", f"{kind} {other}", 1, 0, f"another {other}")
            return
        if rule.random:
            shape = (DRAWN, *x.shape[1:])
            _, drawn = transformed(layer, np.zeros(shape, x.dtype))
            draws = Check(
                "transform",
                f"{kind} draws",
                shared(drawn, rule.draw(np.random.default_rng(4), shape)),
                0,
                mistakes.MISTAKES["crop_per_batch"][0],
                "numbers that all images share",
            )
            yield draws
            if not draws.passed:
                return
        ours, draw = transformed(layer, x)
        theirs = rule.apply(x, draw)
        reason, note, tolerance = "its rule is not torchvision's", "", FORWARD
        if kind == "Resizing":
            levels = np.abs(ours - theirs)
            for where, part, most in (
                ("inside", levels[:, 1:-1, 1:-1], LEVEL),
                ("edges", levels, EDGE),
            ):
                name, furthest = f"{kind} {where}", float(part.max())
                yield Check("transform", name, furthest, most, reason, "levels of grey")
        if kind in ROUNDED:
            difference = float(np.mean(ours != theirs))
            note, tolerance = "share of values", ROUNDED[kind]
        else:
            difference = relative(ours, theirs)
        yield Check("transform", kind, difference, tolerance, reason, note)
        x = theirs


def differing(layer: keras.layers.Layer, rule: Rule) -> str | None:
    """Return which setting of a random transform, such as `"p"`, is not its rule's.

    The draws would not tell: both sides are given one.
    """
    flip = isinstance(layer, keras.layers.RandomFlip)
    kind = "RandomHorizontalFlip" if flip else type(layer).__name__
    if not rule.random and not kind.startswith("Random"):
        return None
    if kind != type(rule).__name__ or (flip and layer.mode != "horizontal"):
        return "kind"
    for name, value in dataclasses.asdict(rule).items():  # type: ignore[call-overload]
        # Keras flips half of the images, and can't be told otherwise.
        ours = 0.5 if flip else getattr(layer, name)
        if not np.array_equal(ours, value):
            return name
    return None


def shared(ours: np.ndarray, theirs: np.ndarray) -> int:
    """Return how many numbers of a draw all images share, where torchvision's differ.

    Args:
        ours: Our layer's draw for a batch, `(batch, ...)`.
        theirs: The rule's, of the same shape.
    """
    ours, theirs = (np.atleast_1d(draw).astype("float64") for draw in (ours, theirs))
    return int(np.sum((np.ptp(ours, axis=0) == 0) & (np.ptp(theirs, axis=0) > 0)))


def transformed(
    layer: keras.layers.Layer, images: np.ndarray
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
    return number(layer.transform(tensor, draw)), draw


def compare_initial(layouts: list[Layout], module: nn.Module) -> Iterator[Check]:
    """Compare the distributions of the initial weights: centre, spread and shape.

    The two draw from dice of their own, so the difference is in standard errors.
    BatchNorm starts from the same numbers.
    """
    for layout, other in zip(layouts, weights.learning(module), strict=True):
        if layout.kind == "BatchNormalization":
            yield from compare_vectors(layout, other)
            continue
        kernel = sample(keras.ops.convert_to_numpy(layout.layer.kernel))
        weight = sample(other.weight.detach().numpy())
        errors = [
            in_errors(abs(ours - twin), math.hypot(ours_error, twin_error))
            for (ours, ours_error), (twin, twin_error) in zip(
                moments(kernel), moments(weight), strict=True
            )
        ]
        start = layout.layer.kernel_initializer
        he = getattr(start, "distribution", "") == "untruncated_normal"
        reason = mistakes.MISTAKES["he_truncated"][0] if he else "other initial weights"
        yield Check(
            "initial",
            f"{layout.layer.name} kernel",
            float(np.max(errors)),  # NaN, where there is one
            INITIAL,
            reason,
            "in standard errors",
        )
        biases = [
            keras.ops.convert_to_numpy(layout.layer.bias),
            other.bias.detach().numpy(),
        ]
        # Zeros, or uniform: but for once in exp(10) cases, the largest of n is at least
        # exp(-10 / n) of the bound.
        ours, twin = (float(np.abs(b).max()) for b in biases)
        if ours or twin:
            yield Check(
                "initial",
                f"{layout.layer.name} bias",
                abs(ours - twin) / max(ours, twin),
                -math.expm1(-10 / biases[0].size) if ours and twin else 0,
                "other initial biases: PyTorch's default is not zero",
                "of the largest bias",
            )


def sample(array: np.ndarray, most: int = 200_000) -> np.ndarray:
    """Return at most so many entries of an array, evenly spaced, in float64."""
    flat = array.reshape(-1)
    return flat[:: -(-flat.size // most)].astype("float64")


def moments(values: np.ndarray) -> list[tuple[float, float]]:
    """Return mean, logarithm of the deviation, and kurtosis, with standard errors."""
    mean, n = values.mean(), values.size
    squares = np.square(values - mean)
    variance = squares.mean()
    if variance <= 1e-12 * mean**2:  # all the same but for rounding
        return [(mean, 0.0), (-math.inf, 0.0), (0.0, 0.0)]
    kurtosis = np.square(squares).mean() / variance**2
    # A normal distribution's error of the kurtosis, the largest among ours.
    return [
        (mean, math.sqrt(variance / n)),
        (0.5 * math.log(variance), math.sqrt(max(0.0, kurtosis - 1) / (4 * n))),
        (kurtosis, math.sqrt(24 / n)),
    ]


def in_errors(difference: float, error: float) -> float:
    """Return a difference in standard errors: infinite where there is no error."""
    if error == 0:
        return math.inf if difference > 0 else 0.0  # also for NaN, of two constants
    return difference / error


def compare_vectors(layout: Layout, other: nn.Module) -> Iterator[Check]:
    """Compare BatchNorm's four vectors, as they start, number by number."""
    for name, twin_name in layout.names:
        ours = keras.ops.convert_to_numpy(getattr(layout.layer, name))
        theirs = getattr(other, twin_name).detach().numpy()
        yield Check(
            "initial",
            f"{layout.layer.name} {name}",
            float(np.abs(ours - theirs).max()),
            0,
            "BatchNorm starts from gamma 1, beta 0, mean 0 and variance 1",
        )


def compare_penalties(
    layouts: list[Layout], module: nn.Module, twin: Twin
) -> Iterator[Check]:
    """Compare each kernel's penalty with the half square that PyTorch's decay is of.

    Beside a large gradient of the cross-entropy, a penalty twice as large is rounding.
    """
    for layout, other in zip(layouts, weights.learning(module), strict=True):
        if layout.kind == "BatchNormalization":
            continue
        kernel = layout.layer.kernel
        if not (kernel.regularizer or twin.weight_decay):
            continue
        ours = float(kernel.regularizer(kernel)) if kernel.regularizer else 0.0
        squares = float(other.weight.detach().double().square().sum())
        theirs = 0.5 * twin.weight_decay * squares
        yield Check(
            "penalty",
            f"{layout.layer.name} kernel",
            0.0 if ours == theirs else abs(ours - theirs) / max(ours, theirs),
            FORWARD,
            mistakes.MISTAKES["l2_half"][0],
        )


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
    for layout, other in zip(layouts, weights.learning(module), strict=True):
        if layout.flattened:
            kernel = keras.ops.convert_to_numpy(layout.layer.kernel)
            with torch.no_grad():
                other.weight.copy_(torch.from_numpy(kernel.T.copy()))


def prepare(twin: Twin, raw: Split, much: Size, dropout: Dice) -> Iterator[Batch]:
    """Yield what each step is taken on, through torchvision's rules.

    An epoch has `STEPS_AN_EPOCH` batches, of the same images in another order.
    """
    dice = np.random.default_rng(2)
    used = min(much.batch * min(STEPS_AN_EPOCH, much.steps), len(raw))
    used -= used % much.batch
    for step in range(much.steps):
        epoch, place = divmod(step, STEPS_AN_EPOCH)
        chosen = np.random.default_rng([3, epoch]).permutation(used)
        chosen = chosen.reshape(-1, much.batch)[place % (used // much.batch)]
        images: Any = np.array(raw.images[chosen])
        for rule in twin.transform:
            images = rule.apply(images, rule.draw(dice, images.shape))
        yield Batch(
            epoch,
            images.astype("float32"),
            np.array(raw.labels[chosen]),
            dropout.masks(len(images)),
        )


# By layer and parameter.
Gradients = dict[tuple[str, str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Pair:
    """The two sides, with the same weights, before their first step.

    Args:
        recipe: The recipe.
        twin: Its twin.
        watched: Keras's layers whose outputs are compared, each with its kind.
        layouts: Keras's layers that learn.
        keras_side: Keras's network.
        witness: PyTorch's.
    """

    recipe: Recipe
    twin: Twin
    watched: list[tuple[keras.layers.Layer, str]]
    layouts: list[Layout]
    keras_side: Side
    witness: Witness


def compare_training(
    pair: Pair, batches: Iterator[Batch], mistake: str | None
) -> Iterator[Check]:
    """Compare a first step in every detail, then the losses of all steps.

    Args:
        pair: The two sides.
        batches: What to train on, step by step.
        mistake: One of `mistakes.MISTAKES`, to be made on the way.
    """
    free = None
    if len(pair.layouts) <= SHALLOW:
        copied = pair.twin.network()
        copied.load_state_dict(pair.witness.network.state_dict())
        free = Witness(copied, pair.twin, pair.layouts)
    rates = Rates(pair.recipe, pair.keras_side)
    first, inferred = next(batches), None
    if differs_in_inference(pair.keras_side.model):
        images = first.images
        inferred = pair.keras_side.infer(images), pair.witness.infer(images)
    rates.begin(first.epoch)
    step = take_step(pair, first, mistake)
    gradients = paired_gradients(pair, step)
    yield from compare_step(pair, first, step, gradients, inferred)
    yield from compare_update(pair, gradients, mistake)
    yield from compare_losses(pair, free, rates, (first, step), batches, mistake)


def take_step(pair: Pair, batch: Batch, mistake: str | None) -> Step:
    """Let Keras take a step."""
    shifted = mistake == "label_shift"
    labels = (batch.labels + 1) % 10 if shifted else batch.labels
    return pair.keras_side.step(batch.images, labels)


def compare_step(
    pair: Pair,
    batch: Batch,
    step: Step,
    ours: Gradients,
    inferred: tuple[np.ndarray, np.ndarray] | None,
) -> Iterator[Check]:
    """Compare what a step computes, forward and back, before its update.

    Args:
        pair: The two sides.
        batch: The step's.
        step: What Keras computed.
        ours: Its gradients, by layer and parameter.
        inferred: The logits in inference of Keras and PyTorch, where they are others.
    """
    witness = pair.witness
    outputs = numpy_outputs(pair.watched, step)
    yield from compare_outputs(pair.watched, outputs, witness, batch)
    if inferred:
        yield Check(
            "inference",
            "logits",
            relative(*inferred),
            FORWARD,
            "BatchNorm's running statistics or epsilon, or an active Dropout",
        )
    sides = branches(pair.watched, outputs)

    def compute() -> float:
        with witness.branching(sides):
            return witness.loss(batch)

    loss = compute()
    # The cross-entropy's gradient by the logits, probabilities minus labels, sums to 2
    # at most in absolute values: the loss moves by twice their largest difference.
    logits = keras.ops.convert_to_numpy(step.outputs[-1])
    moved = 2 * float(np.abs(logits - witness.logits).max()) / loss
    yield Check(
        "loss",
        "cross-entropy",
        relative(np.array(float(step.crossentropy)), np.array(loss)),
        FORWARD + moved,
        "other labels (off by one?), or a softmax before a loss that takes logits",
    )
    theirs = witness.gradients()
    own: dict[tuple[str, str], float] = {}
    if any(relative(ours[name], theirs[name]) > GRADIENT for name in theirs):

        def gradients() -> Gradients:
            compute()
            return witness.gradients()

        own = roundings(witness, gradients, theirs)
    for name in theirs:
        yield checked(
            "gradient",
            " ".join(name),
            (ours[name], theirs[name], own.get(name)),
            GRADIENT,
            "the backward pass of this layer or one above it",
        )


def compare_update(
    pair: Pair, gradients: Gradients, mistake: str | None
) -> Iterator[Check]:
    """Compare the weights after the first update, and BatchNorm's statistics."""
    rate = pair.twin.learning_rate
    for name, updated in pair.witness.updated(gradients).items():
        new = pair.keras_side.value(variable_of(pair.layouts, name))
        yield Check(
            "update",
            " ".join(name),
            float(np.abs(new - updated).max() / rate),
            UPDATE + 2 * float(np.spacing(np.abs(new).max())) / rate,
            mistakes.MISTAKES["adam_eps"][0],
            "in learning rates",
        )
    statistics = pair.witness.statistics(unbiased=mistake == "bn_variance")
    for (layer, name), after in statistics.items():
        new = pair.keras_side.value(variable_of(pair.layouts, (layer, name)))
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


def compare_losses(
    pair: Pair,
    free: Witness | None,
    rates: Rates,
    first: tuple[Batch, Step],
    batches: Iterator[Batch],
    mistake: str | None,
) -> Iterator[Check]:
    """Compare the losses of many steps.

    The twin has its own Adam, decay and schedule, and Keras's gradients: its own differ
    by rounding, and a deep network's training is chaotic, so that within a few steps
    rounding alone would lead elsewhere.

    Args:
        pair: The two sides. Keras has taken the first step.
        free: A second twin, that follows its own gradients; `None` without.
        rates: Keras's learning rate.
        first: The first step.
        batches: Those of the other steps.
        mistake: One of `mistakes.MISTAKES`, to be made on the way.
    """
    witness, (batch, step) = pair.witness, first
    losses, free_losses, differences = [], [], []
    while True:
        # JAX computes its step meanwhile.
        witness.begin(batch.epoch)
        losses.append((step.crossentropy, witness.loss_alone(batch)))
        differences.append(rates.difference(witness))
        witness.follow(paired_gradients(pair, step))
        if free:
            free.begin(batch.epoch)
            outputs = numpy_outputs(pair.watched, step)
            with free.branching(branches(pair.watched, outputs)):
                free_losses.append((step.crossentropy, free.loss(batch)))
            free.step()
        rates.end(float(step.crossentropy))
        following = next(batches, None)
        if following is None:
            break
        batch = following
        rates.begin(batch.epoch)
        step = take_step(pair, batch, mistake)
    yield Check(
        "learning rate",
        f"of {len(losses)} steps",
        max(differences),
        RATE,
        mistakes.MISTAKES["decay_per_step"][0]
        if pair.recipe.callbacks()
        else "another learning rate",
    )
    size = len(batch.images)
    yield trace("trace", losses, size, "each update by Keras's gradients")
    if free:
        yield trace("free trace", free_losses, size, "each by its own gradients")


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
    batch: Batch,
) -> Iterator[Check]:
    """Compare what each layer computes in training."""
    theirs = by_layer(watched, witness.outputs(batch))
    own: dict[keras.layers.Layer, float] = {}
    if any(relative(ours[layer], theirs[layer]) > FORWARD for layer, _ in watched):
        own = roundings(
            witness, lambda: by_layer(watched, witness.outputs(batch)), theirs
        )
    for layer, _ in watched:
        yield checked(
            "forward",
            layer.name,
            (ours[layer], theirs[layer], own.get(layer)),
            FORWARD,
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
    backend = keras.backend.backend()
    for seed in range(SHAKEN):
        with witness.normalizing_as_keras(backend), witness.shaken(seed):
            found = compute()
        for name, value in found.items():
            largest[name] = max(largest[name], relative(value, exact[name]))
    return largest


def checked(
    part: str,
    name: str,
    values: tuple[np.ndarray, np.ndarray, float | None],
    tolerance: float,
    reason: str,
) -> Check:
    """Compare two arrays.

    Args:
        part: As `Check` has it, and so `name`, `tolerance` and `reason`.
        name: See above.
        values: Keras's, PyTorch's, and what rounding leads to, where that is known.
        tolerance: See above.
        reason: See above.
    """
    ours, theirs, own = values
    difference, note, usual = relative(ours, theirs), "", None
    if own is not None and difference > tolerance:
        raised = max(tolerance, min(CEILING, ROUNDING * own))
        if raised > tolerance:
            usual, tolerance = tolerance, raised
        note = f"rounding alone leads {own:.0e} from float64"
    return Check(part, name, difference, tolerance, reason, note, usual)


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
    """Pair a twin's outputs with Keras's layers: the first of a kind with the first.

    Raises:
        UsageError: There are not as many of each.
    """
    for kind in WATCHED.values():
        ours, theirs = sum(k == kind for _, k in watched), len(outputs[kind])
        if ours != theirs:
            raise UsageError(
                f"the network has {ours} layers of the kind {kind!r}, its PyTorch twin "
                f"{theirs}: there is nothing to compare."
            )
    left = {kind: list(found) for kind, found in outputs.items()}
    return {layer: left[kind].pop(0) for layer, kind in watched}


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


def check_activations(network: keras.Model) -> None:
    """Raise `UsageError` if an activation is a layer of its own.

    A layer and its activation are compared as one, and ReLU's kinks by layer.
    """
    for layer in network.layers:
        if isinstance(layer, keras.layers.ReLU | keras.layers.Activation):
            raise UsageError(
                f"layer {layer.name!r} can't be compared: write the activation into "
                'the layer before it, as activation="relu".'
            )


def differs_in_inference(network: keras.Model) -> bool:
    """Whether a network computes something else in inference than in training."""
    kinds = keras.layers.BatchNormalization | keras.layers.Dropout
    return any(isinstance(layer, kinds) for layer in network.layers)


def paired_gradients(pair: Pair, step: Step) -> Gradients:
    """Return Keras's gradients by layer and parameter."""
    place = {id(v): i for i, v in enumerate(pair.keras_side.variables)}
    return {
        (layout.layer.name, name): keras.ops.convert_to_numpy(
            step.gradients[place[id(getattr(layout.layer, name))]]
        )
        for layout in pair.layouts
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
