"""Every recipe against the course: what it is, what it is built of, that it trains."""

import dataclasses
import functools
import itertools
import json
import math
import os
import re
import subprocess
import sys
from typing import NamedTuple

import keras
import numpy as np
import PIL.Image
import pytest

from kerascnn import UsageError, describe
from kerascnn import recipe as recipes
from kerascnn import recipes as recipe_files
from kerascnn.report import difference
from kerascnn.training import build
from kerascnn.training import options as run_options
from kerascnn.training import run as training_run
from kerascnn.without_weights import without_weights

# Typed from the lectures, by hand. init: how all weights start; rate: Adam's; test and
# train: as the slides print them, in percent. Where the slides give no value, ours.
TABLE = """
name                 lecture data          scaling  init   rate batch  parameters test train

fashion_mlp                1 fashion_mnist pm1      he_u   1e-3  1024     203_530   89     -
cifar_mlp                  1 cifar10       pm1      he_u   1e-3  1024     789_258    -     -
cifar_mlp_2                1 cifar10       pm1      he_u   1e-3  1024     855_050    -     -
cifar_mlp_3                1 cifar10       pm1      he_u   1e-3  1024     920_842    -     -
fashion_conv_linear        1 fashion_mnist pm1      torch  1e-5  1024   2_150_410    -     -
fashion_conv               1 fashion_mnist pm1      torch  1e-5  1024   2_635_146    -     -
cifar_conv                 1 cifar10       pm1      torch  1e-5  1024   4_211_146    -     -

fashion_pool               2 fashion_mnist pm1      torch  1e-5  1024   1_588_490    -     -
fashion_stride             2 fashion_mnist pm1      torch  1e-5  1024   1_588_490    -     -
fashion_down_max           2 fashion_mnist pm1      torch  1e-5  1024     592_074    -     -
fashion_down_avg           2 fashion_mnist pm1      torch  1e-5  1024     592_074    -     -
fashion_down_resize        2 fashion_mnist pm1      torch  1e-5  1024     592_074    -     -
fashion_down_stride        2 fashion_mnist pm1      torch  1e-5  1024     592_074    -     -
fashion_padding            2 fashion_mnist pm1      torch  1e-5  1024   1_818_890    -     -
cifar_edges                2 cifar10       unit     torch  1e-3   256     165_258    -     -
cifar_edges_cnn            2 cifar10       unit     torch  1e-3   256     165_308    -     -
fashion_lenet_fc           2 fashion_mnist pm1      torch  1e-3   256     421_642    -     -
fashion_lenet_1x1          2 fashion_mnist pm1      torch  1e-3   256     421_642    -     -
fashion_lenet              2 fashion_mnist pm1      torch  1e-3   256      61_706    -     -
cifar_vgg16_128            2 cifar10       pm1      he_n   1e-4   256  14_798_154    -     -

imagenet_vgg16             3 imagenette    standard he_n   1e-4    32 138_357_544    -     -
cifar_vgg16                3 cifar10       standard he_n   1e-4   256  14_914_378    -     -
fashion_sigmoid            3 fashion_mnist unit     glorot 1e-3   256   3_291_402    -     -
cifar_sigmoid              3 cifar10       unit     glorot 1e-3   256   4_275_594 64.5  69.3
cifar_sigmoid_3            3 cifar10       unit     glorot 1e-3   256   2_473_610 68.7  93.8
cifar_sigmoid_9            3 cifar10       unit     glorot 1e-3   256   4_022_794    -     -
cifar_relu_9               3 cifar10       unit     glorot 1e-3   256   4_022_794    -    99
cifar_relu_12              3 cifar10       unit     glorot 1e-3   256   8_873_994    -     -
cifar_standard_12          3 cifar10       standard glorot 1e-3   256   8_873_994    -     -
cifar_pm1_12               3 cifar10       pm1      glorot 1e-3   256   8_873_994    -     -
cifar_bn_12                3 cifar10       unit     glorot 1e-3   256   8_879_754    -     -
cifar_he_12                3 cifar10       unit     he_n   1e-3   256   8_873_994    -     -
cifar_silu_12              3 cifar10       standard glorot 1e-3   256   8_873_994    -     -
cifar_skip_12              3 cifar10       unit     glorot 1e-3   256  10_424_970    -     -
cifar_skip_concat_12       3 cifar10       unit     glorot 1e-3   256  14_570_122    -     -
cifar_low_lr_12            3 cifar10       unit     glorot 1e-4   256   8_873_994    -     -

cifar_vgg                  4 cifar10       standard he_n   1e-3   256   2_486_026   78     -
cifar_vgg_erase            4 cifar10       standard he_n   1e-3   256   2_486_026   80     -
cifar_vgg_bn               4 cifar10       standard he_n   1e-3   256   2_488_906   84     -
cifar_vgg_dropout          4 cifar10       standard he_n   1e-3   256   2_488_906 86.6     -
cifar_vgg_l2               4 cifar10       standard he_n   1e-3   256   2_488_906 87.5     -
cifar_vgg_aug              4 cifar10       standard he_n   1e-3   256   2_488_906 90.6    92
cifar_vgg_decay            4 cifar10       standard he_n   1e-3   256   2_488_906 90.6    98
cifar_vgg_more_aug         4 cifar10       standard he_n   1e-3   256   2_488_906    -     -
cifar_vgg_wide             4 cifar10       standard he_n   1e-3   256   8_879_754   93    96
cifar_vgg_skip             4 cifar10       standard he_n   1e-3   256  10_430_730   93    97
cifar_vgg_wider            4 cifar10       standard he_n   1e-3   256  39_582_730 94.5  98.3
"""  # noqa: E501

# Output shapes and parameters as the lectures' layer tables print them, heights and
# widths before channels.
PRINTED = {
    "fashion_conv": [
        ((22, 22, 32), 1_600),
        ((16, 16, 64), 100_416),
        ((10, 10, 128), 401_536),
        ((4, 4, 256), 1_605_888),
        ((128,), 524_416),
        ((10,), 1_290),
    ],
    "fashion_lenet_fc": [
        ((28, 28, 32), 320),
        ((14, 14, 64), 18_496),
        ((128,), 401_536),
        ((10,), 1_290),
    ],
    "fashion_lenet_1x1": [
        ((28, 28, 32), 320),
        ((14, 14, 64), 18_496),
        ((1, 1, 128), 401_536),
        ((1, 1, 10), 1_290),
    ],
    "fashion_lenet": [
        ((28, 28, 6), 156),
        ((10, 10, 16), 2_416),
        ((120,), 48_120),
        ((84,), 10_164),
        ((10,), 850),
    ],
}

# What enters the flattening, from the lectures' `nn.Linear(h * w * c, ...)`.
FLATTENED = {
    "fashion_conv_linear": (4, 4, 256),
    "fashion_conv": (4, 4, 256),
    "cifar_conv": (8, 8, 256),
    "fashion_pool": (2, 2, 512),
    "fashion_stride": (2, 2, 512),
    "fashion_down_max": (12, 12, 32),
    "fashion_down_avg": (12, 12, 32),
    "fashion_down_resize": (12, 12, 32),
    "fashion_down_stride": (12, 12, 32),
    "fashion_padding": (7, 7, 512),
    "fashion_lenet_fc": (7, 7, 64),
    "fashion_lenet": (5, 5, 16),
    "cifar_vgg16_128": (1, 1, 512),
    "imagenet_vgg16": (7, 7, 512),
    "cifar_vgg16": (1, 1, 512),
    "fashion_sigmoid": (7, 7, 128),
    "cifar_sigmoid": (8, 8, 128),
    "cifar_sigmoid_3": (4, 4, 256),
    "cifar_sigmoid_9": (4, 4, 256),
    "cifar_relu_9": (4, 4, 256),
    "cifar_relu_12": (2, 2, 512),
    "cifar_skip_12": (2, 2, 512),
    "cifar_skip_concat_12": (2, 2, 1024),
    "cifar_vgg": (2, 2, 256),
    "cifar_vgg_wide": (2, 2, 512),
    "cifar_vgg_wider": (2, 2, 1024),
}

# Every network, typed from the lectures, as a list of its layers: "conv3 64/2 relu" is
# a convolution of 3 x 3 with 64 filters and stride 2, without padding unless it says
# "same"; "max2" a pooling of 2 x 2; "bn 0.9 1e-05" a batch normalisation with its
# momentum (1 - 0.1 of PyTorch's) and epsilon. A layer has an activation where it names
# one. A tuple says how branches join, and lists each one's layers from where they part.


def conv(filters, more="same relu", size=3):
    return f"conv{size} {filters} {more}"


def head(*widths, activation="relu", classes=10):
    hidden = [f"dense {width} {activation}" for width in widths]
    return ["flatten", *hidden, f"dense {classes}"]


def stack(block, *widths):
    return [layer for width in widths for layer in block(width)]


def vgg(filters, more="same relu"):
    return 3 * [conv(filters, more)] + ["max2"]


def vgg_bn(filters):
    return 3 * [conv(filters), "bn 0.9 1e-05"] + ["max2"]


def vgg_dropout(filters):
    return [*vgg_bn(filters), "drop 0.4"]


def skipped(join, block):
    """The shortcut begins at the block's input and joins after the pooling."""
    return lambda n: [(join, block(n), ["pad1", conv(f"{n}/2", "relu")])]


def fixed(*rows):
    """A detector, correlated with the image mirrored about its outermost pixels."""
    mirrored = "((1, 1), (1, 1))" if len(rows) == 3 else "((1, 0), (1, 0))"
    return [f"reflect{mirrored}", f"fixed({', '.join(rows)})"]


def sigmoid(filters):
    return [conv(filters, "same sigmoid"), "max2"]


def length(*rows):
    """Two derivatives, whose kernels are each other's transpose, made one length."""
    columns = map(" ".join, zip(*map(str.split, rows), strict=True))
    return [("Hypot", fixed(*rows), fixed(*columns))]


CONVOLUTIONS_7 = [conv(n, "relu", size=7) for n in (32, 64, 128, 256)]
LENET = [conv(32), "max2", conv(64), "max2"]
VGG16 = [
    *stack(lambda n: 2 * [conv(n)] + ["max2"], 64, 128),
    *stack(vgg, 256, 512, 512),
]
RELU_12 = stack(vgg, 64, 128, 256, 512) + head(512)
SMALL_VGG = stack(vgg, 32, 64, 128, 256) + head(512)
SMALL_VGG_DROPOUT = stack(vgg_dropout, 32, 64, 128, 256) + head(512)
SIGMOIDS = head(512, activation="sigmoid")
VGG_SKIP, VGG_CONCAT = skipped("add", vgg), skipped("concat", vgg)
VGG_DROPOUT_SKIP = skipped("add", vgg_dropout)
DETECTORS = [
    length("-1 0 1", "-2 0 2", "-1 0 1"),  # Sobel
    length("-3 0 3", "-10 0 10", "-3 0 3"),  # Scharr
    length("-1 0 1", "-1 0 1", "-1 0 1"),  # Prewitt
    [("Hypot", fixed("1 0", "0 -1"), fixed("0 1", "-1 0"))],  # Roberts
    fixed("0 1 0", "1 -4 1", "0 1 0"),  # Laplacian
]

LAYERS = {
    # Lecture 1
    "fashion_mlp": head(256),
    "cifar_mlp": head(256),
    "cifar_mlp_2": head(256, 256),
    "cifar_mlp_3": head(256, 256, 256),
    "fashion_conv_linear": CONVOLUTIONS_7 + head(),
    "fashion_conv": CONVOLUTIONS_7 + head(128),
    "cifar_conv": CONVOLUTIONS_7 + head(128),
    # Lecture 2
    "fashion_pool": [
        *(conv(32, "relu"), conv(64, "relu"), "max2"),
        *(conv(128, "relu"), conv(256, "relu"), "max2", conv(512, "relu"), *head()),
    ],
    "fashion_stride": [
        *(conv(n, "relu") for n in (32, "64/2", 128, "256/2", 512)),
        *head(),
    ],
    "fashion_down_max": [conv(32, "relu", size=5), "max2", *head(128)],
    "fashion_down_avg": [conv(32, "relu", size=5), "avg2", *head(128)],
    "fashion_down_resize": [
        *(conv(32, "relu", size=5), "resize12x12 bilinear", *head(128)),
    ],
    "fashion_down_stride": [conv("32/2", "relu", size=5), *head(128)],
    "fashion_padding": [
        *stack(lambda n: ["pad1", conv(n, "relu")], 32, "64/2", 128, "256/2", 512),
        *head(),
    ],
    "cifar_edges": [("concat", *DETECTORS), "max2", *head(128)],
    "cifar_edges_cnn": [conv(5), "max2", *head(128)],
    "fashion_lenet_fc": LENET + head(128),
    "fashion_lenet_1x1": [*LENET, conv(128, "relu", size=7), "conv1 10", "flatten"],
    "fashion_lenet": [
        *(conv(6, size=5), "max2", conv(16, "relu", size=5), "max2", *head(120, 84)),
    ],
    "cifar_vgg16_128": VGG16 + head(128, 128),
    # Lecture 3
    "imagenet_vgg16": VGG16 + head(4096, 4096, classes=1000),
    "cifar_vgg16": VGG16 + head(256, 256),
    "fashion_sigmoid": stack(sigmoid, 64, 128) + SIGMOIDS,
    "cifar_sigmoid": stack(sigmoid, 64, 128) + SIGMOIDS,
    "cifar_sigmoid_3": stack(sigmoid, 64, 128, 256) + SIGMOIDS,
    "cifar_sigmoid_9": [
        *stack(lambda n: vgg(n, "same sigmoid"), 64, 128, 256),
        *SIGMOIDS,
    ],
    "cifar_relu_9": stack(vgg, 64, 128, 256) + head(512),
    "cifar_relu_12": RELU_12,
    "cifar_standard_12": RELU_12,
    "cifar_pm1_12": RELU_12,
    "cifar_bn_12": stack(vgg_bn, 64, 128, 256, 512) + head(512),
    "cifar_he_12": RELU_12,
    "cifar_silu_12": [
        *stack(lambda n: vgg(n, "same silu"), 64, 128, 256, 512),
        *head(512, activation="silu"),
    ],
    "cifar_skip_12": stack(VGG_SKIP, 64, 128, 256, 512) + head(512),
    "cifar_skip_concat_12": stack(VGG_CONCAT, 64, 128, 256, 512) + head(512),
    "cifar_low_lr_12": RELU_12,
    # Lecture 4
    "cifar_vgg": SMALL_VGG,
    "cifar_vgg_erase": SMALL_VGG,
    "cifar_vgg_bn": stack(vgg_bn, 32, 64, 128, 256) + head(512),
    "cifar_vgg_dropout": SMALL_VGG_DROPOUT,
    "cifar_vgg_l2": SMALL_VGG_DROPOUT,
    "cifar_vgg_aug": SMALL_VGG_DROPOUT,
    "cifar_vgg_decay": SMALL_VGG_DROPOUT,
    "cifar_vgg_more_aug": SMALL_VGG_DROPOUT,
    "cifar_vgg_wide": stack(vgg_dropout, 64, 128, 256, 512) + head(512),
    "cifar_vgg_skip": stack(VGG_DROPOUT_SKIP, 64, 128, 256, 512) + head(512),
    "cifar_vgg_wider": stack(VGG_DROPOUT_SKIP, 128, 256, 512, 1024) + head(512),
}

# The lectures' own comparisons: what each rung is set beside.
LADDERS = [
    ["fashion_mlp", "cifar_mlp", "cifar_mlp_2", "cifar_mlp_3", "cifar_conv"],
    ["fashion_mlp", "fashion_conv_linear", "fashion_conv"],
    ["fashion_conv_linear", "fashion_pool", "fashion_stride", "fashion_padding"],
    ["fashion_down_max", "fashion_down_avg", "fashion_down_resize"],
    ["fashion_down_max", "fashion_down_stride"],
    ["cifar_edges", "cifar_edges_cnn"],
    ["fashion_lenet_fc", "fashion_lenet_1x1"],
    ["imagenet_vgg16", "cifar_vgg16"],
    [
        *("fashion_sigmoid", "cifar_sigmoid", "cifar_sigmoid_3", "cifar_sigmoid_9"),
        *("cifar_relu_9", "cifar_relu_12"),
    ],
    ["cifar_relu_12", "cifar_standard_12", "cifar_silu_12"],
    ["cifar_relu_12", "cifar_pm1_12"],
    ["cifar_relu_12", "cifar_bn_12"],
    ["cifar_relu_12", "cifar_he_12"],
    ["cifar_relu_12", "cifar_skip_12", "cifar_skip_concat_12"],
    ["cifar_relu_12", "cifar_low_lr_12"],
    [
        *("cifar_vgg", "cifar_vgg_erase", "cifar_vgg_bn", "cifar_vgg_dropout"),
        *("cifar_vgg_l2", "cifar_vgg_aug", "cifar_vgg_decay", "cifar_vgg_more_aug"),
        *("cifar_vgg_wide", "cifar_vgg_skip", "cifar_vgg_wider"),
    ],
]

# Compiling a network takes seconds, a deep one many: where tests compute, these, of
# every kind, stand for the others in a plain run. `-m slow` takes all the others.
QUICK = (
    *("fashion_mlp", "fashion_conv_linear", "fashion_padding", "fashion_down_avg"),
    *("fashion_down_resize", "fashion_down_stride", "cifar_edges", "cifar_edges_cnn"),
    *("fashion_lenet_1x1", "fashion_lenet", "cifar_sigmoid_3"),
)
DEEP = "cifar_vgg_skip"
SAVED = ("fashion_mlp", "fashion_down_resize", "cifar_edges")


class Case(NamedTuple):
    lecture: int
    dataset: str
    scaling: str
    initial: str
    learning_rate: float
    batch_size: int
    parameters: int
    test: float | None
    train: float | None


def read(line):
    name, *cells = line.split()
    lecture, dataset, scaling, initial, rate, batch, parameters, *figures = cells
    test, train = (None if f == "-" else float(f"{f}e-2") for f in figures)
    return name, Case(
        *(int(lecture), dataset, scaling, initial, float(rate)),
        *(int(batch), int(parameters), test, train),
    )


CASES = dict(read(line) for line in TABLE.split("\n")[2:] if line)
NAMES = list(CASES)
# Recipes that are no lecture's: see test_speedruns.py.
SPEEDRUNS = ["cifar_speedrun", "cifar_speedrun_95", "cifar_speedrun_96"]

SHAPES = {
    "fashion_mnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "imagenette": (240, 320, 3),
}


@functools.cache
def recipe_of(name):
    """The recipe, on JAX with a network whose weights are not drawn.

    JAX compiles a program for every shape that it draws: a minute for them all, where
    most tests look at shapes, settings and connections only.
    """
    recipe = recipes.load(name)
    if keras.backend.backend() != "jax":
        return recipe

    @functools.wraps(recipe.network)
    def network():
        return without_weights(recipe.network)

    return dataclasses.replace(recipe, network=network)


@functools.cache
def network_of(name):
    return recipe_of(name).network()


def description_of(name):
    """What `describe` and `diff` look at, from one network for all tests."""
    return dataclasses.replace(recipe_of(name), network=lambda: network_of(name))


def draw(model):
    """Give a model weights that NumPy draws: He's, and neither zeros nor ones."""
    generator = np.random.default_rng(0)
    for variable in model.variables:
        if not variable.trainable:
            variable.assign(variable.value)  # fixed kernels, statistics, seeds
        elif len(variable.shape) == 1:
            start = 1 if variable.name == "gamma" else 0
            variable.assign(start + generator.uniform(-0.2, 0.2, variable.shape))
        else:
            deviation = math.sqrt(2 / math.prod(variable.shape[:-1]))
            variable.assign(deviation * generator.standard_normal(variable.shape, "f4"))
    return model


def images_of(name, count):
    shape = SHAPES[CASES[name].dataset]
    return np.random.default_rng(1).integers(0, 256, (count, *shape), "uint8")


def size(weights):
    return sum(math.prod(weight.shape) for weight in weights)


def learning(model):
    """The layers with something to learn, in order."""
    return [layer for layer in model.layers if layer.trainable_weights]


def feeding(tensor):
    """The tensors that the operation behind a tensor takes, in order."""
    operation, node, _ = tensor._keras_history
    return operation._inbound_nodes[node].input_tensors


def made_of(tensor):
    """A tensor and all that go into it, by their identity."""
    return {id(tensor)}.union(*map(made_of, feeding(tensor)))


def written(tensor, start=None):
    """List the layers from `start`, or from the image, to a tensor as LAYERS does."""
    layers = []
    while tensor is not start and (sources := feeding(tensor)):
        layer = word_of(tensor._keras_history.operation)
        tensor = sources[0]
        if len(sources) > 1:
            shared = set.intersection(*map(made_of, sources))
            while id(tensor) not in shared:
                tensor = feeding(tensor)[0]
            layer = (layer, *(written(source, tensor) for source in sources))
        layers.append(layer)
    return layers[::-1]


# How weights start and whether they decay has tests of its own.
UNTOLD = (
    *("name", "seed"),
    *("kernel_initializer", "bias_initializer", "kernel_regularizer"),
)


def word_of(operation):
    """Write a layer as LAYERS does, and with it whatever else is set."""
    kind, settings = type(operation).__name__, operation.get_config()
    take = settings.pop
    match kind:
        case "Conv2D":
            word = f"conv{side(take('kernel_size'))} {take('filters')}"
        case "Dense":
            word = f"dense {take('units')}"
        case "MaxPooling2D":
            word = f"max{side(take('pool_size'))}"
        case "AveragePooling2D":
            word = f"avg{side(take('pool_size'))}"
        case "ZeroPadding2D":
            top, left = take("padding")
            word = f"pad{side(top) if top == left else (top, left)}"
        case "Resizing":
            word = f"resize{take('height')}x{take('width')} {take('interpolation')}"
        case "BatchNormalization":
            word = f"bn {take('momentum'):g} {take('epsilon'):g}"
        case "Dropout":
            word = f"drop {take('rate'):g}"
        case "DepthwiseConv2D":
            rows = np.squeeze(take("depthwise_initializer")["config"]["value"])
            assert take("kernel_size") == rows.shape
            word = ", ".join(" ".join(f"{value:g}" for value in row) for row in rows)
            fixed = (take("trainable"), take("use_bias")) == (False, False)
            word = f"{'fixed' if fixed else kind}({word})"
        case "Flatten" | "Add":
            word = kind.lower()
        case "Concatenate":
            word = "concat"
        case "Pad":
            return f"{settings['mode']}{settings['pad_width'][1:-1]}"
        case _:
            return kind
    more = {k: v for k, v in settings.items() if v != unsaid(kind).get(k)}
    if "strides" in more:
        word += f"/{side(more.pop('strides'))}"
    words = [more.pop(key) for key in ("padding", "activation") if key in more]
    words += [f"{key}={value}" for key, value in more.items() if key not in UNTOLD]
    return " ".join([word, *words])


def side(pair):
    """3 for a square of 3 x 3."""
    first, second = pair
    return f"{first}" if first == second else f"{first}x{second}"


@functools.cache
def unsaid(kind):
    """The settings of a layer of which LAYERS says nothing."""
    required = {"Conv2D": (1, 1), "DepthwiseConv2D": (1,), "Dense": (1,)}
    required |= {"AveragePooling2D": (2,), "Dropout": (0,), "Resizing": (1, 1)}
    return getattr(keras.layers, kind)(*required.get(kind, ())).get_config()


def kernels(model):
    return [layer for layer in learning(model) if hasattr(layer, "kernel")]


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


def test_the_recipes_are_those_of_the_course():
    assert len(NAMES) == 47
    assert recipes.names() == sorted([*NAMES, *SPEEDRUNS])
    assert list(LAYERS) == NAMES


@pytest.mark.parametrize("name", NAMES)
class TestEveryRecipe:
    def test_is_named_as_its_file(self, name):
        recipe = recipes.load(name)
        assert recipe.name == name
        assert recipe.network.__module__ == f"kerascnn.recipes.{name}"

    def test_says_what_it_is_and_how_to_run_it(self, name):
        case, idea = CASES[name], recipes.load(name).idea
        first, _, rest = idea.partition("\n")
        data = {
            "fashion_mnist": "Fashion-MNIST",
            "cifar10": "CIFAR-10",
            "imagenette": "ImageNet",
        }
        assert first.startswith(f"{data[case.dataset]}, lecture {case.lecture}")
        assert first.endswith((".", "?"))
        assert len(first) <= 88
        assert f"\n    python -m kerascnn.recipes.{name}\n" in rest
        assert "Deviations from the lecture:" in rest

    def test_its_prose_types_no_figure_of_a_run(self, name):
        """Notes on runs stand beside what was measured, in recipes/NAME/notes.md."""
        figure = r"\d[\d.,]*\s(?:%|points|steps|seeds|hours|minutes)"
        assert not re.findall(figure, recipes.load(name).idea)

    def test_can_be_read_without_importing_it(self, name):
        outline, recipe = recipes.outline(name), recipes.load(name)
        for field in dataclasses.fields(outline):
            if field.name != "summary":
                assert getattr(outline, field.name) == getattr(recipe, field.name)
        assert outline.summary == recipe.idea.partition("\n")[0]

    def test_has_the_course_s_settings(self, name):
        case, recipe = CASES[name], recipes.load(name)
        assert recipe.dataset == case.dataset
        assert recipe.batch_size == case.batch_size
        assert recipe.drop_last == (case.lecture in (1, 2))
        assert recipe.course.source.startswith(f"lecture {case.lecture}, ")
        assert recipe.course.test == case.test
        assert recipe.course.train == case.train

    def test_trains_with_pytorch_s_adam(self, name):
        optimizer = recipes.load(name).optimizer()
        rate = CASES[name].learning_rate
        assert float(optimizer.learning_rate) == pytest.approx(rate, rel=1e-6)
        settings = optimizer.get_config()
        assert "adam" in type(optimizer).__name__.lower()
        assert settings["epsilon"] == pytest.approx(1e-8, rel=1e-6)

    def test_scales_the_pixels_as_the_course_does(self, name):
        case = CASES[name]
        pixels = np.float32([0, 100, 255]).reshape(3, 1, 1, 1)
        pixels = np.tile(pixels, SHAPES[case.dataset][-1])
        mean, deviation = {
            "unit": (0, 1),
            "pm1": (0.5, 0.5),
            "standard": (
                ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
                if case.dataset == "imagenette"
                else ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
            ),
        }[case.scaling]
        (scaling,) = (
            layer
            for layer in recipes.load(name).transform()
            if isinstance(layer, keras.layers.Rescaling)
        )
        # Scale and offset are rounded to float32 before they are applied.
        np.testing.assert_allclose(
            numpy_of(scaling(pixels)), (pixels / 255 - mean) / deviation, atol=1e-6
        )

    def test_has_the_course_s_number_of_parameters(self, name):
        found = size(network_of(name).trainable_weights)
        assert found == CASES[name].parameters == recipes.load(name).parameters

    def test_goes_from_images_to_logits(self, name):
        model, case = network_of(name), CASES[name]
        height, width, channels = SHAPES[case.dataset]
        classes = 10
        if name == "imagenet_vgg16":
            height, width, classes = 224, 224, 1000
        if name.startswith("cifar_edges"):
            channels = 1
        assert model.input_shape == (None, height, width, channels)
        assert model.output_shape == (None, classes)
        last = kernels(model)[-1]
        assert last.activation is keras.activations.linear

    def test_starts_from_the_course_s_weights(self, name):
        initial = CASES[name].initial
        for layer in kernels(network_of(name)):
            fan_in = math.prod(layer.kernel.shape[:-1])
            kernel, bias = layer.kernel_initializer, layer.bias_initializer
            if initial == "torch":
                bound = 1 / math.sqrt(fan_in)
                for start in (kernel, bias):
                    assert isinstance(start, keras.initializers.RandomUniform)
                    assert start.maxval == -start.minval == pytest.approx(bound)
            elif initial == "glorot":
                assert isinstance(kernel, keras.initializers.GlorotUniform)
                assert isinstance(bias, keras.initializers.Zeros)
            else:
                assert type(kernel) is keras.initializers.VarianceScaling
                assert (kernel.scale, kernel.mode) == (2, "fan_in")
                assert kernel.distribution == {
                    "he_u": "uniform",
                    "he_n": "untruncated_normal",
                }.get(initial)
                assert isinstance(bias, keras.initializers.Zeros)

    def test_has_the_course_s_layers(self, name):
        assert written(network_of(name).output) == LAYERS[name]

    def test_differs_from_the_rung_before_in_what_it_declares(self, name):
        recipe = description_of(name)
        if recipe.after is None:
            assert recipe.changes == frozenset()
        else:
            assert recipe.after in NAMES
            before = describe.describe(description_of(recipe.after))
            now = describe.describe(recipe)
            assert set(difference.between(before, now)) == recipe.changes
            assert recipe.changes

    def test_describes_itself_in_plain_values(self, name):
        description = describe.describe(description_of(name))
        text = json.dumps(description, allow_nan=False)
        assert json.loads(text) == description


def test_two_builds_of_a_recipe_have_one_fingerprint():
    first, second, other = (
        describe.fingerprint(describe.describe(recipe))
        for recipe in (recipe_of(DEEP), recipe_of(DEEP), recipe_of("cifar_vgg_wide"))
    )
    assert first == second != other


def test_a_layer_that_is_not_trained_makes_another_recipe():
    def trained():
        model = recipe_of("cifar_edges").network()
        for layer in model.layers:
            layer.trainable = True
        return model

    recipe = recipe_of("cifar_edges")
    fixed, learned = (
        describe.describe(x)
        for x in (recipe, dataclasses.replace(recipe, network=trained))
    )
    assert describe.fingerprint(fixed) != describe.fingerprint(learned)
    # Nothing is said of the layers that are trained: nearly all.
    assert [x.pop("trainable") for x in fixed["network"] if "trainable" in x] == (
        [False] * 9
    )
    assert fixed == learned


@pytest.mark.parametrize("name", PRINTED)
def test_layers_are_those_that_the_lecture_prints(name):
    found = [
        (layer.output.shape[1:], size(layer.trainable_weights))
        for layer in learning(network_of(name))
    ]
    assert found == PRINTED[name]


@pytest.mark.parametrize("name", FLATTENED)
def test_what_is_flattened_has_the_lecture_s_shape(name):
    (flatten,) = (
        layer
        for layer in network_of(name).layers
        if isinstance(layer, keras.layers.Flatten)
    )
    assert flatten.input.shape == (None, *FLATTENED[name])


@pytest.mark.parametrize("ladder", LADDERS, ids=lambda ladder: ladder[-1])
def test_rungs_follow_the_lecture(ladder):
    for before, name in itertools.pairwise(ladder):
        assert recipes.outline(name).after == before


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_is_on_every_kernel_from_trick_4_on(name):
    from_trick_4 = NAMES.index(name) >= NAMES.index("cifar_vgg_l2")
    for layer in kernels(network_of(name)):
        if from_trick_4:
            # PyTorch's weight_decay of 5e-4 is the gradient of 5e-4 / 2 * w**2.
            assert layer.kernel_regularizer.l2 == pytest.approx(2.5e-4)
        else:
            assert layer.kernel_regularizer is None
        assert layer.bias_regularizer is None


TRANSFORMS = {
    "cifar_vgg": "Rescaling",
    "cifar_vgg_erase": "Rescaling Erasing",
    "cifar_vgg_l2": "Rescaling Erasing",
    "cifar_vgg_aug": "Crop Flip Rescaling",
    "cifar_vgg_decay": "Crop Flip Rescaling",
    "cifar_vgg_more_aug": "Crop Flip Rotation Rescaling Erasing",
    "cifar_vgg_wider": "Crop Flip Rotation Rescaling Erasing",
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_augmentation_is_the_lecture_s(name):
    found = recipes.load(name).transform()
    kinds = [type(layer).__name__.removeprefix("Random") for layer in found]
    assert " ".join(kinds) == TRANSFORMS[name]
    expected = {
        "Crop": {"padding": 2},
        "Flip": {"mode": "horizontal"},
        "Rotation": {"degrees": (-5, 5)},
        "Erasing": {"p": 0.75, "scale": (0.01, 0.3), "ratio": (1, 1), "value": 0},
    }
    for kind, layer in zip(kinds, found, strict=True):
        settings = layer.get_config()
        for key, value in expected.get(kind, {}).items():
            assert settings[key] == value


@pytest.mark.parametrize("name", [n for n in NAMES if CASES[n].lecture == 4])
def test_learning_rate_decays_from_trick_6_on(name):
    callbacks = recipes.load(name).callbacks()
    if NAMES.index(name) < NAMES.index("cifar_vgg_decay"):
        assert callbacks == []
    else:
        (decay,) = callbacks
        assert type(decay).__name__ == "ExponentialDecay"
        assert decay.gamma == 0.96


# One shape for all: JAX compiles once for each distribution.
KERNEL = (3, 3, 64, 128)


@pytest.mark.parametrize(
    ("name", "deviation", "largest"),
    [
        # He: variance 2 / (3 * 3 * 64). A normal distribution cut off at two standard
        # deviations, as Keras's he_normal is, ends at 2.3 after its rescaling.
        ("cifar_he_12", math.sqrt(2 / 576), (3.5, 6)),
        # Uniform distributions end at sqrt(3) standard deviations.
        ("cifar_mlp", math.sqrt(2 / 576), (1.72, 1.7321)),
        ("cifar_relu_12", math.sqrt(2 / (576 + 1152)), (1.72, 1.7321)),
    ],
)
def test_initial_weights_are_distributed_as_pytorch_s(name, deviation, largest):
    initializer = kernels(network_of(name))[0].kernel_initializer
    drawn = numpy_of(initializer(KERNEL))
    # 73,728 draws: four standard errors of the deviation are 1.1 %, of the mean 1.5 %.
    assert np.std(drawn) == pytest.approx(deviation, rel=0.011)
    assert abs(np.mean(drawn)) < 0.015 * deviation
    assert largest[0] < np.abs(drawn).max() / deviation < largest[1]


def test_resizing_is_average_pooling():
    pooled, resized = (
        draw(recipe_of(f"fashion_down_{name}").network()) for name in ("avg", "resize")
    )
    resized.set_weights(pooled.get_weights())
    images = np.random.default_rng(2).uniform(-1, 1, (4, 28, 28, 1)).astype("float32")
    # Sums of four float32 in another order, through two dense layers.
    np.testing.assert_allclose(
        numpy_of(resized(images)), numpy_of(pooled(images)), rtol=0, atol=1e-5
    )


def test_a_dense_network_s_weights_fit_the_convolutional_one():
    dense, convolutional = (
        draw(recipe_of(f"fashion_lenet_{name}").network()) for name in ("fc", "1x1")
    )
    first, first_bias, last, last_bias = dense.get_weights()[4:]
    convolutional.set_weights(
        [
            *dense.get_weights()[:4],
            *(first.reshape(7, 7, 64, 128), first_bias),
            *(last.reshape(1, 1, 128, 10), last_bias),
        ]
    )
    images = np.random.default_rng(3).uniform(-1, 1, (8, 28, 28, 1)).astype("float32")
    # The same products, summed in another order: 3,136 float32 terms.
    np.testing.assert_allclose(
        numpy_of(convolutional(images)), numpy_of(dense(images)), rtol=0, atol=1e-5
    )


def test_the_convolutional_network_slides_over_larger_images():
    from kerascnn.recipes import fashion_lenet_1x1

    model = draw(recipe_of("fashion_lenet_1x1").network())
    # A garment with a border of zeros, convolutions without biases: the canvas around
    # it stays zero at each layer, as the padding is around a single image.
    for layer in kernels(model)[:2]:
        layer.bias.assign(np.zeros(layer.bias.shape))
    on_larger_images = fashion_lenet_1x1.on_larger_images(model)
    garment = np.zeros((1, 28, 28, 1), "float32")
    garment[:, 1:-1, 1:-1] = np.random.default_rng(4).uniform(-1, 1, (1, 26, 26, 1))
    canvas = np.zeros((1, 64, 80, 1), "float32")
    for row, column in ((0, 0), (3, 7), (9, 13)):
        canvas[:] = 0
        canvas[:, 4 * row : 4 * row + 28, 4 * column : 4 * column + 28] = garment
        logits = numpy_of(on_larger_images(canvas))
        assert logits.shape == (1, 64 // 4 - 6, 80 // 4 - 6, 10)
        np.testing.assert_allclose(
            logits[0, row, column], numpy_of(model(garment))[0], rtol=0, atol=1e-5
        )
    assert on_larger_images.trainable_weights[0] is model.trainable_weights[0]


def test_learned_and_engineered_features_enter_the_same_head():
    engineered, learned = map(network_of, ("cifar_edges", "cifar_edges_cnn"))
    heads = [
        [layer.kernel.shape for layer in model.layers if hasattr(layer, "units")]
        for model in (engineered, learned)
    ]
    assert heads == [[(16 * 16 * 5, 128), (128, 10)]] * 2
    fixed = engineered.non_trainable_weights
    assert [kernel.shape[:2] for kernel in fixed] == [
        *((3, 3), (3, 3)),  # Sobel
        *((3, 3), (3, 3)),  # Scharr
        *((3, 3), (3, 3)),  # Prewitt
        *((2, 2), (2, 2)),  # Roberts
        (3, 3),  # Laplacian
    ]


def in_plain_keras(program, folder):
    """Run a program in a process without this package; return its `result`."""
    check = "assert not any(name.startswith('kerascnn') for name in sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", program + check + "print(json.dumps(result))", folder],
        env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_what_is_kept_is_made_of_keras_s_own_parts(tmp_path):
    for name in NAMES:
        fixed = [x for x in recipes.load(name).transform() if not build.is_random(x)]
        parts = [keras.saving.serialize_keras_object(x) for x in fixed]
        parts.append(keras.saving.serialize_keras_object(network_of(name)))
        (tmp_path / f"{name}.json").write_text(json.dumps(parts))
    found = in_plain_keras(
        """
import json, pathlib, sys
import keras
result = {}
for path in pathlib.Path(sys.argv[1]).glob("*.json"):
    with keras.StatelessScope(initialize_variables=False):
        *transform, network = map(
            keras.saving.deserialize_keras_object, json.loads(path.read_text())
        )
    keras.utils.clear_session()
    result[path.stem] = [weight.shape for weight in network.trainable_weights]
""",
        tmp_path,
    )
    sizes = {name: sum(map(math.prod, shapes)) for name, shapes in found.items()}
    assert sizes == {name: case.parameters for name, case in CASES.items()}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(SAVED, id="quick"),
        pytest.param(
            [name for name in NAMES if name not in SAVED],
            id="others",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_saved_models_load_with_keras_alone(names, tmp_path):
    for name in names:
        images = images_of(name, 2)
        _, kept = build.build(recipe_of(name), images.shape[1:])
        draw(kept).save(tmp_path / f"{name}.keras")
        logits = kept.predict_on_batch(images)
        np.savez(tmp_path / f"{name}.npz", images=images, logits=logits)
        assert np.abs(logits).max() > 0
    differences = in_plain_keras(
        """
import json, pathlib, sys
import keras, numpy as np
result = {}
for path in pathlib.Path(sys.argv[1]).glob("*.keras"):
    expected = np.load(path.with_suffix(".npz"))
    logits = keras.saving.load_model(path).predict_on_batch(expected["images"])
    difference = np.abs(logits - expected["logits"]).max()
    result[path.stem] = float(difference / np.abs(expected["logits"]).max())
""",
        tmp_path,
    )
    assert set(differences) == set(names)
    # The same program on the same backend.
    assert max(differences.values()) <= 1e-6


@pytest.mark.parametrize(
    "name",
    [
        name if name in {*QUICK, DEEP} else pytest.param(name, marks=pytest.mark.slow)
        for name in NAMES
    ],
)
@pytest.mark.few("fashion_mlp", "fashion_lenet")
def test_a_training_step_changes_every_weight_and_stays_finite(name):
    images = images_of(name, 2)
    labels = np.array([3, 7], "int32")
    model, kept = build.build(recipe_of(name), images.shape[1:])
    draw(model)
    model.compile(
        optimizer=recipes.load(name).optimizer(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    before = [numpy_of(weight) for weight in kept.trainable_weights]
    loss = float(model.train_on_batch(images, labels))
    assert 0 < loss < math.inf
    for weight, old in zip(kept.trainable_weights, before, strict=True):
        new = numpy_of(weight)
        assert np.isfinite(new).all()
        assert (new != old).any(), weight.path


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "imagenet_vgg16"])
def test_a_recipe_trains_on_the_bundled_sample(name, tmp_path):
    options = run_options.Overrides(
        data="sample", epochs=1, limit=48, batch_size=16, out=tmp_path / "run"
    )
    run = training_run.train(recipes.load(name), options)
    assert run.result["finished"]
    assert run.config["data"]["sample"]
    assert math.isfinite(run.metrics[0]["loss"])
    assert run.result["test_accuracy"] * 48 == pytest.approx(
        round(run.result["test_accuracy"] * 48)
    )


@pytest.mark.slow
def test_imagenet_vgg16_trains_on_a_folder_of_larger_images(tmp_path):
    """Two classes, told apart by their brightness; resized to 224 x 224."""
    rng = np.random.default_rng(0)
    for split, name in itertools.product(("train", "test"), ("dark", "light")):
        folder = tmp_path / "photos" / split / name
        folder.mkdir(parents=True)
        for i in range(2):
            shape = *rng.integers(230, 400, 2), 3
            noise = rng.integers(0, 80, shape) + 150 * (name == "light")
            PIL.Image.fromarray(noise.astype("uint8")).save(folder / f"{i}.jpg")
    options = run_options.Overrides(
        dataset=str(tmp_path / "photos"),
        epochs=1,
        batch_size=2,
        out=tmp_path / "run",
    )
    run = training_run.train(recipes.load("imagenet_vgg16"), options)
    assert run.result["finished"]
    assert run.config["data"]["train_images"] == 4
    # At the start, the loss of a guess among 1,000 classes or a few times as much.
    assert 0 < run.metrics[0]["crossentropy"] < 10 * math.log(1000)


@pytest.mark.parametrize(
    "backend", ["tensorflow", pytest.param("torch", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "names",
    [
        pytest.param(SAVED, id="quick"),
        pytest.param(
            [name for name in NAMES if name not in SAVED],
            id="others",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_other_backends_train_too(backend, names, passes_on):
    step = test_a_training_step_changes_every_weight_and_stays_finite.__name__
    tests = [f"{__file__}::{step}[{name}]" for name in names]
    tests.append(f"{__file__}::{test_resizing_is_average_pooling.__name__}")
    passes_on(backend, *tests)


@pytest.mark.parametrize("text", ["x = (", "x = 1"])
def test_a_file_that_is_no_recipe_is_a_users_mistake(tmp_path, monkeypatch, text):
    folders = [*recipe_files.__path__, str(tmp_path)]
    monkeypatch.setattr(recipe_files, "__path__", folders)
    monkeypatch.setattr(recipes, "check_name", lambda name: None)
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=r"mine.py can't be read as a recipe"):
        recipes.load("mine")
    sys.modules.pop("kerascnn.recipes.mine", None)
