"""Compare a recipe's transforms with torchvision's rules, on the same draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kerascnn.parity import mistakes
from kerascnn.parity.check import FORWARD, Check, relative
from kerascnn.recipe import Recipe
from kerascnn.twins.rules import Rule
from kerascnn.twins.twin import Twin

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
            some = np.random.default_rng(5).integers(0, 256, shape)
            _, drawn = transformed(layer, some.astype(x.dtype))
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
    """Return which setting of a random transform, such as `"p"`, is not its rule's."""
    # The draws would not tell: both sides are given one.
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
    """Return how many of a draw's numbers all images share, and torchvision's not."""
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
    draw = number(layer.draw_for(tensor))
    return number(layer.transform(tensor, draw)), draw
