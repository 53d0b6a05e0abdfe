"""`kerascnn diff`: what changes between two recipes, in the lectures' words."""

import re

import keras
import pytest
from keras import layers
from rich.console import Console

from kerascnn import describe, initializers, recipe, transforms
from kerascnn.cli import commands
from kerascnn.report import difference, wording

STANDARD = (
    "standard (zero mean, unit deviation) from "
    "mean (0.4914, 0.4822, 0.4465), deviation (0.247, 0.2435, 0.2616)"
)


def between(old, new):
    return difference.between(*(describe.describe(recipe.load(n)) for n in (old, new)))


def test_a_setting_that_changes_in_many_layers_is_named_once():
    assert between("cifar_sigmoid_9", "cifar_relu_9") == {
        "network": [
            "- activation sigmoid  (9 Conv2D, Dense)",
            "+ activation relu  (9 Conv2D, Dense)",
        ]
    }
    assert between("cifar_vgg_dropout", "cifar_vgg_l2") == {
        "network": ["+ kernel_regularizer L2(l2 0.00025)  (12 Conv2D, 2 Dense)"]
    }
    assert between("cifar_relu_12", "cifar_low_lr_12") == {
        "optimizer": ["- learning_rate 0.001  (Adam)", "+ learning_rate 0.0001  (Adam)"]
    }


def test_weights_start_as_the_lectures_say():
    assert between("cifar_relu_12", "cifar_he_12") == {
        "network": [
            "- kernel_initializer Glorot uniform  (12 Conv2D, 2 Dense)",
            "+ kernel_initializer He normal  (12 Conv2D, 2 Dense)",
        ]
    }
    assert between("fashion_mlp", "fashion_conv_linear")["network"][4:] == [
        "+ Conv2D(256, 7 × 7, relu, "
        "kernel_initializer PyTorch's default (uniform, ±1/√6272), "
        "bias_initializer PyTorch's default (uniform, ±1/√6272))",
        "  Flatten",
        "- Dense(256, relu, kernel_initializer He uniform, bias_initializer Zeros)",
        "- Dense(10, kernel_initializer He uniform, bias_initializer Zeros)",
        "+ Dense(10, kernel_initializer PyTorch's default (uniform, ±1/√4096), "
        "bias_initializer PyTorch's default (uniform, ±1/√4096))",
    ]


def test_how_weights_start_is_left_out_where_all_layers_start_alike():
    # PyTorch's default depends on a layer's inputs, but is one and the same rule.
    assert between("fashion_lenet_fc", "fashion_lenet_1x1")["network"] == [
        "  InputLayer",
        "  Conv2D(32, 3 × 3, same, relu)",
        "  MaxPooling2D(2 × 2)",
        "  Conv2D(64, 3 × 3, same, relu)",
        "  MaxPooling2D(2 × 2)",
        "+ Conv2D(128, 7 × 7, relu)",
        "+ Conv2D(10, 1 × 1)",
        "  Flatten",
        "- Dense(128, relu)",
        "- Dense(10)",
    ]


def test_how_weights_start_is_said_of_all_layers_or_of_none():
    torch, he = initializers.default(400), initializers.he_normal()
    dense, convolution = layers.Dense(10, **torch), layers.Conv2D(10, 1, **torch)
    other = layers.Conv2D(10, 1, kernel_initializer=he, use_bias=False)
    described = [describe._object(x) for x in (dense, convolution, other)]
    dense, convolution, other = described
    flatten = {"class": "Flatten"}
    start = "PyTorch's default (uniform, ±1/√400)"
    assert difference._lines([dense], [convolution, flatten]) == [
        "- Dense(10)",
        "+ Conv2D(10, 1 × 1)",
        "+ Flatten",
    ]
    # A layer without a bias doesn't say how it starts.
    assert difference._lines([dense], [other, flatten]) == [
        f"- Dense(10, kernel_initializer {start})",
        "+ Conv2D(10, 1 × 1, kernel_initializer He normal)",
        "+ Flatten",
    ]


@pytest.mark.parametrize(
    ("initializer", "words"),
    [
        (initializers.he_normal(), "He normal"),
        (initializers.he_uniform(), "He uniform"),
        (keras.initializers.HeNormal(), "truncated He normal"),
        (keras.initializers.GlorotUniform(), "Glorot uniform"),
        (
            initializers.default(25088)["bias_initializer"],
            "PyTorch's default (uniform, ±1/√25088)",
        ),
        (
            initializers.default(1)["bias_initializer"],
            "PyTorch's default (uniform, ±1/√1)",
        ),
        (
            keras.initializers.RandomUniform(-0.3, 0.3),
            "RandomUniform(minval -0.3, maxval 0.3)",
        ),
        (
            keras.initializers.RandomUniform(0, 0.05),
            "RandomUniform(minval 0, maxval 0.05)",
        ),
        (
            keras.initializers.VarianceScaling(1.0, "fan_in", "uniform"),
            "VarianceScaling(fan_in, uniform, scale 1)",
        ),
    ],
)
def test_an_initialiser_has_the_lectures_name(initializer, words):
    assert wording.text(describe._object(initializer)) == words


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (transforms.unit(), "unit (0..1)"),
        (transforms.pm1(), "pm1 (-1..1)"),
        (transforms.standard("cifar10"), STANDARD),
        (
            transforms.standard("fashion_mnist"),
            "standard (zero mean, unit deviation) from mean 0.286, deviation 0.353",
        ),
        (layers.Rescaling(1 / 256), "Rescaling(scale 0.003906, offset 0)"),
        (layers.Rescaling(-1.0), "Rescaling(scale -1, offset 0)"),
        (
            layers.Rescaling([1 / 255, 1 / 255], 0.0),
            "Rescaling(scale (0.003922, 0.003922), offset 0)",
        ),
    ],
)
def test_a_scaling_of_pixels_has_the_lectures_name(layer, words):
    kind = type(layer).__name__
    assert wording.call(kind, layer.get_config()) == words
    assert wording.text(describe._object(layer)) == words


def test_a_change_of_the_scaling_is_one_change():
    assert between("cifar_relu_12", "cifar_pm1_12") == {
        "transform": ["- unit (0..1)  (Rescaling)", "+ pm1 (-1..1)  (Rescaling)"]
    }
    assert between("cifar_relu_12", "cifar_standard_12") == {
        "transform": ["- unit (0..1)  (Rescaling)", f"+ {STANDARD}  (Rescaling)"]
    }
    old, new = (
        [describe._object(layers.Rescaling(scale))] for scale in (1 / 255, 1 / 256)
    )
    assert difference._lines(old, new) == [
        "- scale 0.003922  (Rescaling)",
        "+ scale 0.003906  (Rescaling)",
    ]


def test_a_layer_that_is_not_trained_says_so():
    assert (
        "- DepthwiseConv2D(3 × 3, not trained, of Pad)"
        in between("cifar_edges", "cifar_edges_cnn")["network"]
    )
    frozen, trained = (
        describe._object(layers.Conv2D(5, 3, trainable=flag)) for flag in (False, True)
    )
    assert difference._lines([frozen], [trained]) == ["- not trained  (Conv2D)"]
    assert difference._lines([trained], [frozen]) == ["+ not trained  (Conv2D)"]
    assert difference._lines([frozen, frozen], [trained]) == [
        "- Conv2D(5, 3 × 3, not trained)",
        "- Conv2D(5, 3 × 3, not trained)",
        "+ Conv2D(5, 3 × 3)",
    ]


def test_layers_that_come_and_go_are_listed_among_the_others():
    assert between("cifar_vgg_l2", "cifar_vgg_aug")["transform"] == [
        "+ RandomCrop(2)",
        "+ RandomFlip(horizontal)",
        f"  {STANDARD}",
        "- RandomErasing(p 0.75, scale (0.01, 0.3), ratio (1, 1))",
    ]
    lines = between("cifar_relu_12", "cifar_skip_12")["network"]
    added = [line for line in lines if line[0] == "+"]
    assert added[:3] == [
        "+ ZeroPadding2D((1 × 1, 1 × 1), of InputLayer)",
        "+ Conv2D(64, 3 × 3, relu, strides 2 × 2, of ZeroPadding2D)",
        "+ Add(of MaxPooling2D and Conv2D)",
    ]
    assert len(added) == 12
    assert not [line for line in lines if line[0] == "-"]


def test_layers_that_only_take_another_input_differ():
    described = describe.describe(recipe.load("cifar_skip_12"))
    layers = [dict(layer) for layer in described["network"]]
    (first, *_) = (layer for layer in layers if layer["class"] == "Add")
    first["inputs"] = [3, 3]
    found = difference.between(described, described | {"network": layers})
    assert found == {
        "network": [
            "- of MaxPooling2D and Conv2D  (Add)",
            "+ of Conv2D and Conv2D  (Add)",
        ]
    }


@pytest.mark.parametrize("after", [None, *recipe.names()])
def test_every_change_that_a_recipe_declares_has_lines_that_differ(after):
    if after is None:
        assert between("cifar_vgg", "cifar_vgg") == {}
        return
    outline = recipe.outline(after)
    if outline.after is None:
        return
    found = between(outline.after, after)
    assert set(found) == outline.changes
    for lines in found.values():
        assert {line[:2] for line in lines} <= {"- ", "+ ", "  "}
        assert any(line[0] in "+-" for line in lines)


def test_settings_that_the_words_leave_out_are_written_where_they_vary():
    added = {"class": "Dense", "units": 5, "use_bias": False}
    old = [{"class": "Dense", "units": 5, "use_bias": True}]
    assert difference._lines(old, [*old, {"class": "ReLU"}]) == ["  Dense(5)", "+ ReLU"]
    assert difference._lines(old, [added, {"class": "ReLU"}]) == [
        "- Dense(5, use_bias True)",
        "+ Dense(5, use_bias False)",
        "+ ReLU",
    ]
    assert wording.text([0.5, (3, 3)]) == "(0.5, 3 × 3)"


def test_diff_shows_terms_and_code_in_colour():
    console = Console(
        record=True, force_terminal=True, width=100, color_system="standard"
    )
    difference.show(
        recipe.load("cifar_vgg"), recipe.load("cifar_vgg_bn"), console=console
    )
    text = console.export_text(styles=True)
    assert re.search("\x1b\\[31m- 2,486,026\x1b", text)
    assert re.search("\x1b\\[32m\\+ 2,488,906\x1b", text)
    assert "+++ kerascnn/recipes/cifar_vgg_bn.py" in text
    assert (
        "+            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)"
        in text
    )
    assert "python -m kerascnn.recipes" not in text  # the docstrings are left out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["diff", "cifar_vgg", "cifar_vgg_bm"], "did you mean cifar_vgg_bn"),
        (["diff", "cifar_vgg"], "RECIPE"),
        (["diff", "cifar_vgg", "cifar_vgg_bn", "more"], "more"),
    ],
)
def test_a_mistake_is_one_line(words, expected, capsys):
    assert commands.main(words) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
