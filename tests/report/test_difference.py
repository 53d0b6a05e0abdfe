"""`kerascnn diff`: what changes between two recipes, in the lectures' words."""

import re

import pytest
from rich.console import Console

from kerascnn import __main__, recipe
from kerascnn.report import difference, wording


def between(old, new):
    return difference.between(*(recipe.describe(recipe.load(n)) for n in (old, new)))


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


def test_layers_that_come_and_go_are_listed_among_the_others():
    assert between("cifar_vgg_l2", "cifar_vgg_aug")["transform"] == [
        "+ RandomCrop(2)",
        "+ RandomFlip(horizontal)",
        "  Rescaling(scale (0.01588, 0.01611, 0.01499), "
        "offset (-1.989, -1.98, -1.707))",
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
    described = recipe.describe(recipe.load("cifar_skip_12"))
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
    assert __main__.main(words) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
