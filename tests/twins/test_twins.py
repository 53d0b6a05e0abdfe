"""The twins are the lectures' networks."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from kerascnn import UsageError, twins
from kerascnn import recipe as recipes

NAMES = recipes.names()
SHAPES = {"fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


@pytest.mark.parametrize("name", [n for n in NAMES if n != "imagenet_vgg16"])
def test_every_recipe_has_a_twin_with_the_lecture_s_parameters(name):
    # The recipes' own counts are checked against the lectures in test_recipes.py.
    facts, twin = recipes.outline(name), twins.load(name)
    network = twin.network()
    learned = [p for p in network.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learned) == facts.parameters
    channels, height, width = SHAPES[facts.dataset]
    if name.startswith("cifar_edges"):
        channels = 1
    with torch.no_grad():
        logits = network(torch.zeros(2, channels, height, width))
    assert logits.shape == (2, 10)
    assert (twin.batch_size, twin.drop_last) == (facts.batch_size, facts.drop_last)


# What COURSE.md and the slides say of each: batch size, whether a smaller last batch is
# dropped, learning rate, weight decay, factor of the learning rate after an epoch.
PERCEPTRON = (1024, True, 1e-3, 0.0, None)
SLOW = (1024, True, 1e-5, 0.0, None)
STANDARD = (256, True, 1e-3, 0.0, None)  # lecture 2's networks of the 1x1 slides
DEEP = (256, False, 1e-3, 0.0, None)
GENTLE = (256, False, 1e-4, 0.0, None)
DECAYED = (256, False, 1e-3, 5e-4, None)
FALLING = (256, False, 1e-3, 5e-4, 0.96)
SETTINGS = {
    "fashion_mlp": PERCEPTRON,
    "cifar_mlp": PERCEPTRON,
    "cifar_mlp_2": PERCEPTRON,
    "cifar_mlp_3": PERCEPTRON,
    "fashion_conv_linear": SLOW,
    "fashion_conv": SLOW,
    "cifar_conv": SLOW,
    "fashion_pool": SLOW,
    "fashion_stride": SLOW,
    "fashion_down_max": SLOW,
    "fashion_down_avg": SLOW,
    "fashion_down_resize": SLOW,
    "fashion_down_stride": SLOW,
    "fashion_padding": SLOW,
    "cifar_edges": STANDARD,
    "cifar_edges_cnn": STANDARD,
    "fashion_lenet_fc": STANDARD,
    "fashion_lenet_1x1": STANDARD,
    "fashion_lenet": STANDARD,
    "cifar_vgg16_128": (256, True, 1e-4, 0.0, None),
    # The lecture prints its layers alone: the rest is this project's.
    "imagenet_vgg16": (32, False, 1e-4, 0.0, None),
    "cifar_vgg16": GENTLE,
    "fashion_sigmoid": DEEP,
    "cifar_sigmoid": DEEP,
    "cifar_sigmoid_3": DEEP,
    "cifar_sigmoid_9": DEEP,
    "cifar_relu_9": DEEP,
    "cifar_relu_12": DEEP,
    "cifar_standard_12": DEEP,
    "cifar_pm1_12": DEEP,
    "cifar_bn_12": DEEP,
    "cifar_he_12": DEEP,
    "cifar_silu_12": DEEP,
    "cifar_skip_12": DEEP,
    "cifar_skip_concat_12": DEEP,
    "cifar_low_lr_12": GENTLE,
    "cifar_vgg": DEEP,
    "cifar_vgg_erase": DEEP,
    "cifar_vgg_bn": DEEP,
    "cifar_vgg_dropout": DEEP,
    "cifar_vgg_l2": DECAYED,
    "cifar_vgg_aug": DECAYED,
    "cifar_vgg_decay": FALLING,
    "cifar_vgg_more_aug": FALLING,
    "cifar_vgg_wide": FALLING,
    "cifar_vgg_skip": FALLING,
    "cifar_vgg_wider": FALLING,
    # Of Muon, beside SGD; airbench's own decay and schedule.
    "cifar_speedrun": (1536, True, 0.205, 0.0, None),
    "cifar_speedrun_95": (1536, True, 0.18, 0.0, None),
    "cifar_speedrun_96": (1024, True, 0.16, 0.0, None),
}


def test_the_table_is_of_all_recipes():
    assert len(SETTINGS) == 50
    assert set(SETTINGS) == set(NAMES)


@pytest.mark.parametrize("name", SETTINGS)
def test_training_is_set_as_the_course_has_it(name):
    twin = twins.load(name)
    assert SETTINGS[name] == (
        *(twin.batch_size, twin.drop_last),
        *(twin.learning_rate, twin.weight_decay, twin.gamma),
    )


@pytest.mark.slow  # 138 million parameters are drawn
def test_imagenet_s_twin_has_the_lecture_s_parameters():
    network = twins.load("imagenet_vgg16").network()
    assert sum(p.numel() for p in network.parameters()) == 138_357_544
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_layers_are_those_that_the_lecture_prints():
    """The table of fashion_conv: output shapes, channels first, and parameters."""
    shown = []
    network = twins.load("fashion_conv").network()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda module, _, output: shown.append(
                    (
                        tuple(output.shape[1:]),
                        sum(p.numel() for p in module.parameters()),
                    )
                )
            )
    network(torch.zeros(1, 1, 28, 28))
    assert shown == [
        ((32, 22, 22), 1_600),
        ((64, 16, 16), 100_416),
        ((128, 10, 10), 401_536),
        ((256, 4, 4), 1_605_888),
        ((128,), 524_416),
        ((10,), 1_290),
    ]


@pytest.mark.parametrize(
    ("name", "deviation", "bias"),
    [
        # He: sqrt(2 / fan_in), uniform or normal; Glorot: sqrt(2 / (fan_in + fan_out));
        # PyTorch's default: U(-b, b), b = 1 / sqrt(fan_in), so b / sqrt(3).
        ("fashion_mlp", (2 / 784) ** 0.5, 0),
        ("cifar_sigmoid", (2 / (27 + 9 * 64)) ** 0.5, 0),
        ("cifar_vgg_wide", (2 / 27) ** 0.5, 0),
        ("fashion_lenet_fc", (1 / 9 / 3) ** 0.5, 1 / 3),
    ],
)
def test_initial_weights_are_the_lecture_s(name, deviation, bias):
    torch.manual_seed(0)
    first = next(m for m in twins.load(name).network().modules() if hasattr(m, "bias"))
    # At least 288 draws: four standard errors of the deviation are 17 %.
    assert first.weight.std().item() == pytest.approx(deviation, rel=0.17)
    largest = first.bias.abs().max().item()
    assert largest == 0 if bias == 0 else 0.8 * bias < largest <= bias


def test_weight_decay_spares_biases_and_batch_norm_when_asked():
    twin = twins.load("cifar_vgg_l2")
    network = twin.network()
    (everything,) = twin.optimizer(network).param_groups
    assert everything["weight_decay"] == 5e-4
    kernels, others = twin.optimizer(network, kernels_only=True).param_groups
    assert kernels["weight_decay"] == 5e-4
    assert {p.ndim for p in kernels["params"]} == {2, 4}
    assert others["weight_decay"] == 0
    assert {p.ndim for p in others["params"]} == {1}


def test_the_learning_rate_falls_after_every_epoch():
    twin = twins.load("cifar_vgg_decay")
    optimizer = twin.optimizer(nn.Linear(2, 2))
    scheduler = twin.scheduler(optimizer)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.96e-3)
    assert twins.load("cifar_vgg_aug").scheduler(optimizer) is None


def test_edges_are_opencv_s():
    """A step from dark to light: Sobel 4, Scharr 16, Prewitt 3, Roberts sqrt 2."""
    image = torch.tensor([[0.0, 0, 1, 1]] * 4)[None, None]
    maps = twins.lecture_2.EdgeDetectors()(image)[0]
    np.testing.assert_allclose(maps[0, 1], [0, 4, 4, 0])
    np.testing.assert_allclose(maps[1, 1], [0, 16, 16, 0])
    np.testing.assert_allclose(maps[2, 1], [0, 3, 3, 0])
    np.testing.assert_allclose(maps[3, 1], [0, 0, 2**0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(maps[4, 1], [0, 1, -1, 0])


def test_missing_torch_is_one_line(monkeypatch):
    monkeypatch.setattr(twins.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install"):
        twins.load("fashion_mlp")
    with pytest.raises(UsageError, match="did you mean"):
        twins.load("fashion_mpl")
