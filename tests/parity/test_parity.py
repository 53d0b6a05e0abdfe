"""The comparison passes where it should, and every mistake makes it fail."""

import dataclasses
import functools
import importlib.util
import itertools
import json
import subprocess
import sys
import types

import jax
import keras
import numpy as np
import pytest
import scipy.stats

pytest.importorskip("torch")

import torch
from keras import layers
from torch import nn

from kerascnn import (
    UsageError,
    initializers,
    optim,
    processes,
    transforms,
    twins,
)
from kerascnn import recipe as recipes
from kerascnn.acceleration import winograd
from kerascnn.cli import parity as parity_command
from kerascnn.cli.commands import main
from kerascnn.parity import (
    batches,
    breaking,
    compare,
    initial,
    mistakes,
    shared_randomness,
    trace,
    weights,
    worker,
)
from kerascnn.parity import images as pictures
from kerascnn.parity import transforms as compared_transforms
from kerascnn.parity.check import checked
from kerascnn.parity.torch_step import Branches, TorchTrainer, _mean, _mean_in_turn
from kerascnn.process import caches, estimate
from kerascnn.recipe import Course, Recipe
from kerascnn.text import duration
from kerascnn.twins import lecture_1
from kerascnn.twins import rules as torchvision
from kerascnn.twins.initial import kaiming_normal
from kerascnn.twins.rules import Normalize, RandomCrop

# Of every kind: dense, strided and padded convolution, average and maximum, resizing,
# edges, sigmoid, BatchNorm, Dropout, decay, shortcut added and concatenated.
REPRESENTATIVE = (
    *("fashion_mlp", "cifar_mlp_3", "fashion_conv", "fashion_pool", "fashion_padding"),
    *("fashion_down_avg", "fashion_down_resize", "cifar_edges", "fashion_lenet_1x1"),
    *("cifar_sigmoid_3", "cifar_silu_12", "cifar_skip_concat_12", "cifar_vgg_bn"),
    *("cifar_vgg_l2", "cifar_vgg_decay", "cifar_vgg_skip"),
)


def network():
    """Small, with everything in it that a mistake can be made with."""
    decayed = {
        "kernel_initializer": initializers.he_normal(),
        "kernel_regularizer": optim.weight_decay(5e-4),
    }
    image = keras.Input((32, 32, 3))
    x = layers.ZeroPadding2D(1)(image)
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="conv", **decayed)(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="norm")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Dropout(0.3, name="drop")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(64, activation="relu", name="hidden", **decayed)(x)
    return keras.Model(image, layers.Dense(10, name="last", **decayed)(x))


def module():
    return kaiming_normal(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.BatchNorm2d(8),
            nn.MaxPool2d(2, 2),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(8 * 8 * 8, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
    )


SMALL = Recipe(
    name="small",
    dataset="cifar10",
    network=network,
    transform=lambda: [transforms.RandomCrop(padding=2), transforms.pm1()],
    optimizer=lambda: optim.adam(1e-3),
    callbacks=lambda: [optim.ExponentialDecay(gamma=0.96)],
    batch_size=256,
    epochs=1,
    parameters=0,
    course=Course(source="a test"),
)
TWIN = twins.Twin(
    module,
    learning_rate=1e-3,
    batch_size=256,
    drop_last=False,
    transform=[RandomCrop(2), Normalize((0.5,) * 3, (0.5,) * 3)],
    weight_decay=5e-4,
    gamma=0.96,
)


@pytest.fixture
def small(monkeypatch):
    """A recipe and its twin that compile in a second; returns the comparison."""
    monkeypatch.setattr(twins, "load", lambda name: TWIN)
    # Most mistakes leave the compiled step as it is.
    caches.keep_compiled(caches.cache_directory(None) / "compiled")
    return functools.partial(compare.compare, SMALL)


def first(checks):
    """The first quantity that fails; all that come before it have passed."""
    return next((check for check in checks if not check.passed), None)


def test_twin_and_recipe_agree(small):
    checks = list(small(steps=12))
    assert first(checks) is None
    compared = {(check.part, check.name) for check in checks}
    for layer in ("conv", "norm", "pool", "drop", "hidden", "last"):
        assert ("forward", layer) in compared
    for part in ("gradient", "update"):
        for which in ("conv kernel", "conv bias", "norm gamma", "hidden bias"):
            assert (part, which) in compared
    assert ("statistics", "norm moving_variance") in compared
    assert {("transform", "RandomCrop"), ("transform", "RandomCrop draws")} <= compared
    # Not a comparison of a thing with itself.
    assert all(check.difference > 0 for check in checks if check.part == "trace")


@pytest.mark.slow
def test_dropout_drops_the_same_on_both_sides():
    """A recipe's own rates and seeds, which its twin follows."""
    recipe = recipes.load("cifar_vgg_dropout")
    # Plain convolutions compile in a third of the time.
    checks = list(compare.compare(recipe, accelerate=False, steps=2))
    assert first(checks) is None
    dropped = [check for check in checks if check.name.startswith("dropout")]
    assert len(dropped) == 4
    assert all(check.part == "forward" for check in dropped)


@pytest.mark.parametrize(
    ("mistake", "part", "name"),
    [
        ("bn_eps", "forward", "norm"),
        ("bn_momentum", "statistics", "norm moving_mean"),
        ("bn_variance", "statistics", "norm moving_variance"),
        ("adam_eps", "update", "conv kernel"),
        ("l2_half", "penalty", "conv kernel"),
        ("flatten_order", "forward", "hidden"),
        ("stride_same", "forward", "conv"),
        ("he_truncated", "initial", "hidden kernel"),
        ("decay_per_step", "learning rate", "of 3 steps"),
        ("crop_per_batch", "transform", "RandomCrop draws"),
        ("drop_last", "batches", "batches of an epoch of 50,000 images"),
        ("label_shift", "loss", "cross-entropy"),
    ],
)
@pytest.mark.few(
    "bn_eps-forward-norm",
    "bn_variance-statistics-norm moving_variance",
    "adam_eps-update-conv kernel",
    "l2_half-penalty-conv kernel",
    "flatten_order-forward-hidden",
    "decay_per_step-learning rate-of 3 steps",
    "crop_per_batch-transform-RandomCrop draws",
    "drop_last-batches-batches of an epoch of 50,000 images",
    "label_shift-loss-cross-entropy",
)
def test_every_mistake_is_found_where_it_is(small, mistake, part, name):
    found = first(small(mistake=mistake, steps=3))
    assert (found.part, found.name) == (part, name)
    if mistake != "label_shift":
        assert mistakes.MISTAKES[mistake][0] in found.reason
    else:
        assert "off by one" in found.reason


@pytest.mark.parametrize(
    "mistake",
    [
        *("bn_eps", "l2_half", "flatten_order", "stride_same", "he_truncated"),
        *("decay_per_step", "crop_per_batch"),
    ],
)
def test_a_mistake_needs_something_to_be_made_with(mistake):
    with pytest.raises(UsageError, match=f"{mistake} needs .*fashion_mlp has none"):
        next(compare.compare(recipes.load("fashion_mlp"), mistake=mistake))


@pytest.mark.parametrize(
    ("layer", "rule", "differing"),
    [
        (transforms.RandomCrop(2), torchvision.RandomCrop(2), None),
        (transforms.RandomCrop(4), torchvision.RandomCrop(2), "padding"),
        (
            transforms.RandomCrop(2, mode="reflect"),
            torchvision.RandomCrop(2, mode="reflect"),
            None,
        ),
        (
            transforms.RandomCrop(2, mode="reflect"),
            torchvision.RandomCrop(2),
            "mode",
        ),
        (
            transforms.RandomAlternatingFlip(),
            torchvision.RandomAlternatingFlip(),
            None,
        ),
        (
            transforms.RandomAlternatingFlip(),
            torchvision.RandomHorizontalFlip(),
            "kind",
        ),
        (transforms.RandomRotation(5), torchvision.RandomRotation((-5, 5)), None),
        (transforms.RandomRotation(15), torchvision.RandomRotation((-5, 5)), "degrees"),
        (
            transforms.RandomRotation((0, 5)),
            torchvision.RandomRotation((-5, 5)),
            "degrees",
        ),
        (layers.RandomFlip("vertical"), torchvision.RandomHorizontalFlip(), "kind"),
        (layers.RandomFlip("horizontal"), torchvision.RandomHorizontalFlip(), None),
        (layers.RandomFlip("horizontal"), torchvision.RandomHorizontalFlip(0.3), "p"),
        (transforms.RandomCrop(2), torchvision.RandomRotation((-5, 5)), "kind"),
        (transforms.pm1(), torchvision.RandomRotation((-5, 5)), "kind"),
        (
            transforms.RandomErasing(p=0.5, scale=(0.01, 0.3), ratio=(1, 1)),
            torchvision.RandomErasing(0.75, (0.01, 0.3), (1, 1)),
            "p",
        ),
        (
            transforms.RandomErasing(p=0.75, scale=(0.02, 0.3), ratio=(1, 1)),
            torchvision.RandomErasing(0.75, (0.01, 0.3), (1, 1)),
            "scale",
        ),
    ],
)
def test_settings_of_random_transforms_are_compared(layer, rule, differing):
    assert compared_transforms.differing(layer, rule) == differing


@pytest.mark.parametrize("name", recipes.names())
def test_transforms_of_every_recipe_are_set_as_its_twin_s(name):
    pairs = zip(recipes.load(name).transform(), twins.load(name).transform, strict=True)
    assert not any(itertools.starmap(compared_transforms.differing, pairs))


class FlipTogether(layers.RandomFlip):
    def get_random_transformation(self, data, training=True, seed=None):
        draw = super().get_random_transformation(data, training, seed)
        same = keras.ops.broadcast_to(draw["flips"][:1], draw["flips"].shape)
        return {**draw, "flips": same}


def erasing():
    return transforms.RandomErasing(p=0.75, scale=(0.01, 0.3), ratio=(1, 1))


@pytest.mark.parametrize(
    ("each", "together", "rule", "numbers"),
    [
        (transforms.RandomCrop(2), None, torchvision.RandomCrop(2), 2),
        (
            transforms.RandomRotation(5),
            None,
            torchvision.RandomRotation((-5, 5)),
            1,
        ),
        (erasing(), None, torchvision.RandomErasing(0.75, (0.01, 0.3), (1, 1)), 4),
        (
            layers.RandomFlip("horizontal"),
            FlipTogether("horizontal"),
            torchvision.RandomHorizontalFlip(),
            1,
        ),
    ],
)
def test_a_draw_per_batch_is_seen_in_the_layer_itself(each, together, rule, numbers):
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), "uint8")
    twin = dataclasses.replace(TWIN, transform=[rule])

    def checks(layer):
        recipe = dataclasses.replace(SMALL, transform=lambda: [layer])
        return list(compared_transforms.compare_transforms(recipe, twin, images))

    draws, result = checks(each)
    assert draws.name.endswith("draws")
    assert draws.passed
    assert result.passed
    (draws,) = checks(together or breaking.draw_once(each))
    assert draws.difference == numbers
    assert "one draw" in draws.reason


def test_a_number_that_torchvision_also_shares_may_be_shared():
    ours, theirs = np.array([[1, 2], [1, 2]]), np.array([[1, 2], [1, 3]])
    assert compared_transforms.shared(ours, theirs) == 1
    assert compared_transforms.shared(ours, ours) == 0
    assert compared_transforms.shared(np.array(3.0), theirs[:, 1]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("place", "off", "name"), [(1, 2, "inside"), (0, 60, "edges")])
def test_resizing_is_one_level_off_at_most_but_at_its_edges(
    place, off, name, monkeypatch
):
    recipe, twin = recipes.load("imagenet_vgg16"), twins.load("imagenet_vgg16")
    images = pictures.of(recipe).images[:2]
    checks = list(compared_transforms.compare_transforms(recipe, twin, images))
    assert first(checks) is None
    names = [c.name for c in checks]
    assert names[:3] == ["Resizing inside", "Resizing edges", "Resizing"]
    assert "RandomCrop" in names
    assert names[-1] == "Rescaling"
    apply = torchvision.ResizeAndCenterCrop.apply

    def another(self, images, draw):
        found = apply(self, images, draw)
        pixel = found[0, place, place]
        pixel += np.where(pixel < 128, off, -off)
        return found

    monkeypatch.setattr(torchvision.ResizeAndCenterCrop, "apply", another)
    found = first(compared_transforms.compare_transforms(recipe, twin, images))
    assert found.name == f"Resizing {name}"


class Halving(keras.callbacks.Callback):
    """Halve the learning rate in one of the hooks."""

    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self.halve)

    def halve(self, *arguments):
        self.model.optimizer.learning_rate = self.model.optimizer.learning_rate / 2


def test_callbacks_are_called_as_training_calls_them():
    """Two epochs of two steps, by Keras's own loop and by the comparison's."""
    hooks = [f"on_{when}" for when in ("epoch_begin", "epoch_end")]
    hooks += ["on_train_batch_begin", "on_train_batch_end"]
    called = []

    class Note(keras.callbacks.Callback):
        def __getattribute__(self, name):
            if name not in hooks:
                return super().__getattribute__(name)
            return lambda number, logs=None: called.append((name, number))

    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((2, 1), "float32")
    model.fit(x, x, 1, epochs=2, verbose=0, callbacks=[Note()])
    trained, called = called, []
    side = types.SimpleNamespace(model=model, optimizer=model.optimizer)
    recipe = dataclasses.replace(SMALL, callbacks=lambda: [Note()])
    rates = shared_randomness.Rates(recipe, side)
    for epoch in (0, 0, 1, 1):
        rates.begin(epoch)
        rates.end(1.0)
    assert len(trained) == 12
    # The last epoch is not ended: no step follows.
    assert called == trained[:-1]


@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_train_batch_end"])
def test_a_rate_that_falls_within_an_epoch_is_seen(small, monkeypatch, hook):
    recipe = dataclasses.replace(SMALL, callbacks=lambda: [Halving(hook)])
    found = [c for c in compare.compare(recipe, steps=3) if c.part == "learning rate"]
    assert [c.passed for c in found] == [False]


def altered(monkeypatch, **changes):
    """The quantities that fail where the twin is another in these fields."""
    twin = dataclasses.replace(TWIN, **changes)
    monkeypatch.setattr(twins, "load", lambda name: twin)
    return {c.part for c in compare.compare(SMALL, steps=20) if not c.passed}


@pytest.mark.slow
def test_a_twin_trained_otherwise_parts_where_it_should(small, monkeypatch):
    failed = altered(monkeypatch, weight_decay=5e-2)
    assert {"gradient", "trace"} <= failed
    assert not failed & {"forward", "loss", "update", "learning rate"}
    failed = altered(monkeypatch, gamma=0.5)
    assert {"learning rate", "trace"} <= failed
    assert not failed & {"forward", "loss", "gradient", "update"}
    assert altered(monkeypatch, batch_size=255) == {"batches"}
    cropped = [RandomCrop(4), *TWIN.transform[1:]]
    assert altered(monkeypatch, transform=cropped) == {"transform"}


def test_a_few_biases_are_enough_to_tell_their_bound():
    """Ten values from U(-1, 1): the largest is below 1 / e once in exp(10) cases."""
    start = initializers.default(fan_in=1600)
    last = layers.Dense(10, **start)
    last.build((None, 1600))
    layout = [weights.Layout(last, "Dense")]
    same, wider = nn.Linear(1600, 10), nn.Linear(1600, 10)
    with torch.no_grad():
        wider.bias *= 10
    checks = [list(initial.compare_initial(layout, other)) for other in (same, wider)]
    assert [c.passed for c in checks[0]] == [True, True]
    assert [c.passed for c in checks[1]] == [True, False]
    last.kernel.assign(last.kernel * np.nan)
    assert not next(initial.compare_initial(layout, same)).passed


def test_an_identity_hides_nothing_of_what_is_drawn_beside_it():
    """An identity's kurtosis is far from a normal distribution's."""
    layer = layers.Conv2D(64, 3, use_bias=False, **kernel_start(9 * 32))
    layer.build((None, 8, 8, 32))
    layer.kernel.assign(initializers.dirac(layer.kernel))
    layout = [weights.Layout(layer, "Conv2D")]
    same, wider = (nn.Conv2d(32, 64, 3, bias=False) for _ in range(2))
    with torch.no_grad():
        wider.weight *= 1.1
        for other in (same, wider):
            nn.init.dirac_(other.weight[:32])
    checks = [initial.compare_initial(layout, other) for other in (same, wider)]
    assert [[c.passed for c in found] for found in checks] == [[True], [False]]


def kernel_start(fan_in):
    start = initializers.default(fan_in=fan_in)
    return {"kernel_initializer": start["kernel_initializer"]}


@pytest.mark.parametrize("shortcut", [False, True])
def test_a_norm_and_the_activation_behind_it_are_one(shortcut):
    image = keras.Input((4, 4, 3))
    x = layers.BatchNormalization()(image)
    x = layers.Add()([x, image]) if shortcut else x
    model = keras.Model(image, layers.Activation("silu")(x))
    compare.check_activations(model)
    ((layer, kind),) = compare.watch(model)
    assert (type(layer), kind) == (layers.Activation, "norm")
    alone = keras.Model(image, layers.Activation("silu")(image))
    with pytest.raises(UsageError, match="can't be compared"):
        compare.check_activations(alone)


def test_rounding_excuses_no_difference_that_shows():
    one = np.ones(3, "float32")
    check = checked("forward", "x", (one, 1.02 * one, 0.1), 1e-5, "")
    assert not check.passed


def test_tolerances_that_rounding_has_raised_are_marked(capsys):
    one = np.ones(3, "float32")
    checks = [
        checked("forward", "a", (one, one, 1e-5), 1e-5, ""),
        checked("gradient", "b", (one, 1.001 * one, 3e-4), 1e-4, ""),
        checked("gradient", "c", (one, 1.0002 * one, 1e-4), 1e-4, ""),
    ]
    assert [check.usual for check in checks] == [None, 1e-4, 1e-4]
    assert all(check.passed for check in checks)
    result = {
        **{"recipe": "deep", "backend": "jax", "accelerate": True, "passed": True},
        **{"seconds": 1.0, "steps": 2, "batch": 4, "first": None},
        "checks": [dataclasses.asdict(c) | {"passed": c.passed} for c in checks],
    }
    parity_command.show_many([result])
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if "deep" in line)
    assert row.count("*") == 1
    assert "1.0e-03 *" in row
    assert (
        "* deep, gradient, b (and 1 more): at most 1.2e-03 instead of 1.0e-04 "
        "expected: rounding alone leads 3e-04 from float64." in shown
    )


def test_a_network_that_is_not_its_twin_s_is_refused(small, monkeypatch):
    pooled = nn.Sequential(*list(module())[:4], nn.MaxPool2d(1), *list(module())[4:])
    with pytest.raises(UsageError, match=r"1 layers of the kind 'maximum'.* twin 2"):
        altered(monkeypatch, network=lambda: pooled)
    with pytest.raises(UsageError, match=r"layer 'norm' .* no counterpart"):
        altered(monkeypatch, network=lambda: module()[:1])


def test_kinks_are_taken_on_keras_s_side():
    """Two of a window's values are equal: the gradient goes where Keras's went."""
    network = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1, 2))
    trainer = TorchTrainer(network, TWIN, [])
    x = torch.tensor([[[[3.0, 1.0], [3.0, 2.0]]]], requires_grad=True)
    relus = [np.ones((1, 2, 2, 1), bool)]
    for chosen in (0, 2):
        pools = [np.full((1, 1, 1, 1), chosen)]
        with trainer.branching(Branches(relus, pools)):
            (gradient,) = torch.autograd.grad(network(x)[0, 0], x)
        taken = gradient.reshape(-1).abs() > 0
        assert taken.nonzero().tolist() == [[chosen]]
    assert (
        shared_randomness.largest(np.float32([3, 1, 4, 2]).reshape(1, 2, 2, 1)).item()
        == 2
    )


def test_zero_itself_has_pytorch_s_derivative():
    """Though Keras's rounding took it for more than zero."""
    network = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(2, 1))
    trainer = TorchTrainer(network, TWIN, [])
    x = torch.tensor([[[[0.0, -1e-9]]]], requires_grad=True)
    with trainer.branching(Branches([np.ones((1, 1, 2, 1), bool)], [])):
        (gradient,) = torch.autograd.grad(network(x)[0, 0], x)
    assert (gradient.reshape(-1) != 0).tolist() == [False, True]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="tiles are JAX's")
@pytest.mark.parametrize("broken", [True, False])
@pytest.mark.slow
def test_a_derivative_at_zero_that_is_rounding_s_is_found(monkeypatch, broken):
    """Two convolutions in tiles, of which rounding takes zeros for more than zero."""

    def tiles():
        he = {"kernel_initializer": initializers.he_normal(), "activation": "relu"}
        image = x = keras.Input((32, 32, 3))
        x = layers.Conv2D(16, 3, strides=2, name="conv", **he)(x)
        x = layers.Conv2D(16, 3, name="tiles", **he)(x)
        last = layers.Dense(10, kernel_initializer=initializers.he_normal())
        return keras.Model(image, last(layers.Flatten()(x)))

    def twin():
        return kaiming_normal(
            nn.Sequential(
                *(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU()),
                *(nn.Conv2d(16, 16, 3), nn.ReLU()),
                *(nn.Flatten(), nn.Linear(13 * 13 * 16, 10)),
            )
        )

    recipe = dataclasses.replace(
        SMALL, network=tiles, transform=lambda: [transforms.pm1()]
    )
    words = {"weight_decay": 0.0, "transform": TWIN.transform[1:]}
    other = dataclasses.replace(TWIN, network=twin, **words)
    monkeypatch.setattr(twins, "load", lambda name: other)
    jax.clear_caches()  # of what was traced before
    if broken:
        right = winograd.convolution
        monkeypatch.setattr(
            winograd, "convolution", lambda *a, zeros=None, **words: right(*a, **words)
        )
    found = first(compare.compare(recipe, steps=1))
    if not broken:
        assert found is None
    else:
        assert (found.part, found.name) == ("zeros", "tiles bias")


def test_keras_s_batch_norm_is_pytorch_s_but_for_rounding():
    """Its two formulas, in float64; what float32 loses, they lose where they should."""
    network = nn.Sequential(nn.BatchNorm2d(3))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, 0.5, 2.0]))
        network[0].bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    trainer = TorchTrainer(network, TWIN, [])
    x = np.random.default_rng(0).normal(size=(4, 5, 5, 3)).astype("float32") + 100
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    with trainer.doubled():
        exact = network(images.double()).detach()
        for backend in ("jax", "tensorflow", "torch"):
            with trainer.normalizing_as_keras(backend):
                found = network(images.double()).detach()
            # The mean is 100 deviations, its square 1e4 variances: 16 digits less 4.
            torch.testing.assert_close(found, exact, rtol=0, atol=1e-10)
    assert network[0].running_mean.tolist() == [0, 0, 0]
    own = (network(images).detach() - exact).abs().max()
    with trainer.normalizing_as_keras("torch"):
        assert (network(images).detach() - exact).abs().max() > 10 * own
    weight = network[0].weight.detach().clone()
    with trainer.shaken(0):
        moved = (network[0].weight / weight - 1).abs()
        assert moved.max() == moved.min() == 2**-23
    assert (network[0].weight == weight).all()


def test_a_mean_taken_in_turn_loses_what_float32_loses():
    """2**24 + 1 is no float32: after it, ones that come one by one are lost."""
    x = torch.ones(1, 1, 2, 512)
    x[0, 0, 0, 0] = 2**24
    x.requires_grad_()
    mean = _mean_in_turn(x)
    assert mean.item() == 2**24 / 1024
    assert _mean(x).item() > mean.item()
    (gradient,) = torch.autograd.grad(mean.sum(), x)
    assert (gradient == 1 / 1024).all()


def test_command_prints_a_table_and_json(capsys):
    assert main(["parity", "fashion_mlp", "--steps", "2"]) == 0
    shown = capsys.readouterr().out
    assert "forward" in shown
    assert "agree" in shown
    assert main(["parity", "fashion_mlp", "--steps", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"]
    assert result["first"] is None
    assert {"forward", "gradient", "trace"} <= {c["part"] for c in result["checks"]}


@pytest.mark.slow
def test_many_recipes_are_compared_at_once(capsys, monkeypatch):
    words = ["parity", "cifar_mlp", "fashion_mlp", "--steps", "2", "--jobs", "2"]
    assert main([*words, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [r["recipe"] for r in results] == ["cifar_mlp", "fashion_mlp"]
    assert all(r["passed"] and r["steps"] == 2 for r in results)
    shown = {"recipe": "own", "left_out": "own has no twin."}
    monkeypatch.setattr(worker, "results", lambda *_: iter([results[0], shown]))
    assert main(["parity", "--all"]) == 0
    printed = capsys.readouterr()
    assert "cifar_mlp" in printed.out
    assert printed.err == "left out: own has no twin.\n"
    assert main(["parity", "fashion_mlp", "cifar_mlp"]) == 2
    assert capsys.readouterr().err.endswith("own has no twin.\n")
    monkeypatch.setattr(worker, "results", lambda *_: iter([shown]))
    assert main(["parity", "--all"]) == 2
    assert capsys.readouterr().err == (
        "kerascnn: no recipe has a PyTorch twin: nothing was compared.\n"
    )


def test_many_comparisons_are_estimated_once_the_first_is_over(capsys, monkeypatch):
    clock = [0.0]
    timer = types.SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr(estimate, "time", timer)

    def results(names, *others):
        for name in names:
            clock[0] += 90
            yield {"recipe": name, "left_out": f"{name} has no twin."}

    monkeypatch.setattr(worker, "results", results)
    assert main(["parity", "--all"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "about" in line]
    many = len(recipes.names())
    assert lines == [
        f"{many} comparisons: at most about {duration(90 * (many - 1))} more."
    ]


def test_a_recipe_that_does_not_fit_its_twin_has_failed(capsys, monkeypatch):
    monkeypatch.setitem(lecture_1.TWINS, "fashion_mlp", twins.load("cifar_mlp"))
    monkeypatch.delitem(lecture_1.TWINS, "cifar_conv")
    odd = worker.answer("fashion_mlp", True, 2)
    left_out = worker.answer("cifar_conv", True, 2)
    assert odd["passed"] is False
    assert "does not fit PyTorch's" in odd["mistake"]
    assert left_out == {
        "recipe": "cifar_conv",
        "left_out": "the recipe 'cifar_conv' has no PyTorch twin yet.",
    }
    monkeypatch.setattr(worker, "results", lambda *_: iter([left_out, odd]))
    for words in (["--all"], ["--all", "--json"], ["cifar_mlp", "fashion_mlp"]):
        if "--all" not in words:
            monkeypatch.setattr(worker, "results", lambda *_: iter([odd]))
        with pytest.raises(SystemExit) as stop:
            main(["parity", *words])
        assert stop.value.code == 1
        printed = capsys.readouterr().out
        if "--json" in words:
            assert json.loads(printed) == [odd]
        else:
            row = next(x for x in printed.splitlines() if "│ fashion_mlp" in x)
            assert "no" in row
            assert "does not fit PyTorch's" in printed


def test_command_fails_with_code_1_and_names_the_first(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["parity", "fashion_mlp", "--break", "label_shift", "--steps", "2"])
    assert stop.value.code == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "parts from its twin first in: loss, cross-entropy" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected recipes or --all"),
        (["fashion_mlp", "--all"], "expected recipes or --all"),
        (["fashion_mpl"], "did you mean fashion_mlp"),
        (["fashion_mlp", "--breka", "bn_eps"], "did you mean --break"),
        (["fashion_mlp", "cifar_mlp", "--break", "drop_last"], "takes one recipe"),
        (["fashion_mlp", "--train", "--steps", "3"], "does not go with"),
        (["fashion_mlp", "--steps", "0"], "expected 1 or more"),
        (["fashion_mlp", "--seeds", "5"], "--seeds needs --train"),
        (["fashion_mlp", "--data-dir", "x"], "--data-dir needs --train"),
        (["fashion_mlp", "--train", "--seeds", "1"], "expected 2 or more"),
        (
            ["fashion_mlp", "--train", "--limit", "5"],
            "--limit 5: fashion_mlp trains on whole batches of 1,024 images",
        ),
        (["fashion_mlp", "--jobs", "2"], "--jobs is for several recipes"),
        (["fashion_mlp", "cifar_mlp", "--train", "--jobs", "2"], "--jobs is for"),
        (["fashion_mlp", "--break", "bn_esp"], "did you mean bn_eps"),
        (["fashion_mlp", "--break", "xyz"], "expected bn_eps, bn_momentum, "),
        (
            ["cifar_vgg_decay", "--break", "decay_per_step", "--steps", "1"],
            "from the second step on",
        ),
    ],
)
def test_misuse_is_one_line(words, message, capsys):
    assert main(["parity", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    said = printed.err
    assert message in said
    assert said.count("\n") == 1
    assert "None" not in said


def test_without_torch_the_command_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("kerascnn.cli.commands.check_backend", lambda: None)
    assert main(["parity", "fashion_mlp"]) == 2
    assert "pip install torch" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backends_agree_too(backend, capsys):
    words = ["-m", "kerascnn", "parity", *REPRESENTATIVE, "--backend", backend]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("words", [[], ["--no-accelerate"]], ids=["fast", "plain"])
def test_all_recipes_agree_with_their_twins(words):
    words = [*("-m", "kerascnn", "parity", "--all", "--json"), *words]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [result["recipe"] for result in json.loads(done.stdout)] == recipes.names()
    assert len(recipes.names()) == 50


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mistake", "name", "part", "which"),
    [
        ("bn_eps", "cifar_vgg_bn", "forward", "batch_normalization"),
        ("bn_momentum", "cifar_bn_12", "statistics", "batch_normalization moving_mean"),
        (
            "bn_variance",
            "cifar_vgg_l2",
            "statistics",
            "batch_normalization moving_variance",
        ),
        ("adam_eps", "fashion_lenet", "update", "conv2d kernel"),
        ("l2_half", "cifar_vgg_l2", "penalty", "conv2d kernel"),
        # The same weight decay beside gradients so large that none shows it.
        ("l2_half", "cifar_vgg_wide", "penalty", "conv2d kernel"),
        ("flatten_order", "fashion_lenet", "forward", "dense"),
        ("stride_same", "fashion_padding", "forward", "conv2d_1"),
        ("stride_same", "cifar_skip_12", "forward", "conv2d"),
        # The first kernel's 1,728 numbers are too few to tell.
        ("he_truncated", "cifar_he_12", "initial", "conv2d_1 kernel"),
        ("decay_per_step", "cifar_vgg_decay", "learning rate", "of 3 steps"),
        ("crop_per_batch", "cifar_vgg_aug", "transform", "RandomCrop draws"),
        ("drop_last", "fashion_mlp", "batches", "batches of an epoch of 60,000 images"),
        ("label_shift", "cifar_mlp", "loss", "cross-entropy"),
    ],
)
def test_recipes_with_a_mistake_part_from_their_twins(mistake, name, part, which):
    keras.utils.clear_session()  # names of layers are counted from the start
    found = worker.result(name, True, mistake, 3)["first"]
    assert found["part"] == part
    assert found["name"] == which


@pytest.mark.slow
def test_pytorch_parts_from_itself_as_far_as_keras_from_it():
    """Why deep networks are not left to themselves: their training is chaotic.

    One weight moved by its last digit, and PyTorch's own losses, at the recipe's own
    learning rate, part beyond the tolerance of the trace.
    """
    recipe, twin = recipes.load("cifar_vgg"), twins.load("cifar_vgg")
    much = batches.Size(batch=4, steps=30)
    losses = []
    for moved in (False, True):
        torch.manual_seed(0)
        network = twin.network()
        if moved:
            with torch.no_grad():
                weight = network[0][0].weight.view(-1)
                weight[0] = float(np.nextafter(weight[0].numpy(), np.float32(1)))
        optimizer = twin.optimizer(network)
        found = []
        dropout = shared_randomness.Dice(recipe.network())
        for batch in batches.prepare(twin, pictures.of(recipe), much, dropout):
            optimizer.zero_grad()
            x = torch.from_numpy(batch.images.transpose(0, 3, 1, 2).copy())
            y = torch.from_numpy(batch.labels).long()
            loss = nn.functional.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    apart = np.abs(np.subtract(*losses))
    assert apart[0] < 1e-5
    assert apart.max() > trace.TRACE


def other_start(initializer, gamma="ones"):
    """The small network with other initial weights in two of its layers."""
    original = network()

    def changed(layer):
        config = layer.get_config()
        if layer.name == "hidden":
            config["kernel_initializer"] = initializer
        if layer.name == "norm":
            config["gamma_initializer"] = gamma
        return type(layer).from_config(config)

    return keras.models.clone_model(original, clone_function=changed)


@pytest.mark.parametrize(
    ("initializer", "gamma", "which"),
    [
        # All the same: no deviation to compare.
        (keras.initializers.Zeros(), "ones", "hidden kernel"),
        (keras.initializers.Constant(0.3), "ones", "hidden kernel"),
        # The same deviation and kurtosis about zero as He's, around another centre.
        (keras.initializers.RandomUniform(0, 0.15), "ones", "hidden kernel"),
        (None, "zeros", "norm gamma"),
    ],
    ids=["zeros", "constant", "centre", "gamma"],
)
@pytest.mark.few("centre", "gamma")
def test_other_initial_weights_are_seen(monkeypatch, initializer, gamma, which):
    monkeypatch.setattr(twins, "load", lambda name: TWIN)
    if initializer is None:
        initializer = network().get_layer("hidden").kernel_initializer
    own = dataclasses.replace(SMALL, network=lambda: other_start(initializer, gamma))
    checks = compare.compare(own, steps=1)
    found = [c for c in checks if c.part == "initial" and not c.passed]
    assert [check.name for check in found] == [which]


def test_moments_against_numpy():
    values = np.random.default_rng(0).normal(0.2, 0.7, 100_000)
    (mean, mean_error), (deviation, _), (kurtosis, _) = initial.moments(values)
    assert mean == pytest.approx(values.mean())
    assert mean_error == pytest.approx(values.std() / np.sqrt(100_000))
    assert np.exp(deviation) == pytest.approx(values.std())
    assert kurtosis == pytest.approx(scipy.stats.kurtosis(values, fisher=False))


def test_a_twin_is_of_the_courses_sets():
    own = dataclasses.replace(recipes.load("fashion_mlp"), dataset="./pets")
    with pytest.raises(UsageError, match=r"fashion_mlp is on ./pets, and the lectures"):
        next(compare.compare(own))


def test_a_killed_process_does_not_end_the_others(monkeypatch):
    """One that dies of its first name, as for want of memory; and the next goes on."""
    program = """
import json, os, signal, sys
for line in sys.stdin:
    if line.strip() == "large":
        print("out of memory", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    print(json.dumps({"recipe": line.strip(), "passed": True}), flush=True)
"""
    popen = subprocess.Popen
    monkeypatch.setattr(
        processes.subprocess,
        "Popen",
        lambda words, **more: popen([sys.executable, "-c", program], **more),
    )
    found = list(worker.results(["a", "large", "b"], 1, True, None))
    assert [(r["recipe"], r["passed"]) for r in found] == [
        ("a", True),
        ("large", False),
        ("b", True),
    ]
    assert found[1]["mistake"] == (
        "the comparison of large ended with code -9: out of memory"
    )


def test_a_long_comparison_says_how_long(monkeypatch, capsys):
    monkeypatch.setattr(estimate, "WORTH", 0.0)
    monkeypatch.setattr(estimate, "LOOK", 0.0)
    assert main(["parity", "fashion_mlp", "--steps", "5"]) == 0
    said = capsys.readouterr().err
    assert "the 5 steps of fashion_mlp and its twin: about" in said
    assert said.count("more.") == 1
