"""The benchmarks: what they count, what they compare, what they refuse."""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from keras import layers

from kerascnn import UsageError, data, recipe, transforms
from kerascnn.bench import description, measure, plain_torch, with_keras
from kerascnn.cli import bench, commands
from kerascnn.training import build
from kerascnn.without_weights import without_weights


def test_operations_of_a_step_are_counted_as_by_hand():
    """LeNet-5: multiplications of each layer, two operations each, three passes."""
    first = 28 * 28 * 6 * 25
    others = 10 * 10 * 16 * 150 + 400 * 120 + 120 * 84 + 84 * 10
    expected = 2 * (2 * first + 3 * others)  # no gradient of the images
    network = without_weights(recipe.load("fashion_lenet").network)
    assert bench.training_operations(network) == expected


def test_the_torch_net_has_the_same_layers():
    """With the weights moved over, it gives the same logits."""
    build.set_seed(0)
    network = recipe.load("cifar_vgg_bn").network()
    twin = plain_torch.network(description.network(network)).eval()
    ours = [layer for layer in network.layers if layer.weights]
    theirs = [module for module in twin if list(module.parameters())]
    for layer, module in zip(ours, theirs, strict=True):
        weights = [torch.from_numpy(np.array(w)) for w in layer.get_weights()]
        with torch.no_grad():
            if isinstance(layer, layers.Conv2D):
                module.weight.copy_(weights[0].permute(3, 2, 0, 1))
                module.bias.copy_(weights[1])
            elif isinstance(layer, layers.Dense):
                kernel = weights[0]
                if kernel.shape[0] == 2 * 2 * 256:  # after Flatten: HWC to CHW
                    kernel = kernel.reshape(2, 2, 256, -1).permute(2, 0, 1, 3)
                    kernel = kernel.reshape(2 * 2 * 256, -1)
                module.weight.copy_(kernel.T)
                module.bias.copy_(weights[1])
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    with torch.no_grad():
        expected = twin(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    logits = keras.ops.convert_to_numpy(network(images, training=False))
    # Twelve float32 convolutions, summed in another order.
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_a_net_that_branches_is_refused():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, padding="same")(image)
    x = layers.Add()([x, image])
    with pytest.raises(UsageError, match=r"branches|can't rebuild"):
        description.network(keras.Model(image, layers.Flatten()(x)))


def single(layer: layers.Layer) -> keras.Model:
    image = keras.Input((28, 28, 1))
    return keras.Model(image, layer(image))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optimizer": lambda: keras.optimizers.SGD(0.1)}, "SGD"),
        ({"transform": lambda: [layers.RandomFlip("vertical")]}, "RandomFlip"),
        ({"network": lambda: single(layers.ELU())}, "ELU"),
        ({"network": lambda: single(layers.Dense(2, activation="tanh"))}, "tanh"),
    ],
)
def test_what_has_no_twin_in_plain_torch_is_refused(changed, message):
    changed = dataclasses.replace(recipe.load("fashion_lenet"), **changed)
    with pytest.raises(UsageError, match=message):
        description.describe(changed, 16, 32, True)


def test_plain_torch_is_plain():
    """Keras and JAX would be 200 MB of a process that is to have PyTorch alone."""
    program = """
import sys
from kerascnn.bench import contenders
for images in (0, 32):
    contenders.build("torch-eager", "fashion_lenet", 16, images, True)(2)
print({"keras", "jax", "tensorflow"} & set(sys.modules))
try:
    contenders.build("torch-eager", "cifar_skip_12", 16, 0, True)
except contenders.UsageError as error:
    print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=True,
    )
    plain, refused = found.stdout.splitlines()
    assert plain == "set()"
    assert "branches at" in refused or "can't rebuild" in refused


def test_steps_are_taken_on_the_scaled_batch():
    """As the other contenders get it."""
    lenet = recipe.load("fashion_lenet")
    described = description.describe(lenet, 16, 0, True)
    batch = with_keras.scaled_batch(lenet, 16)
    np.testing.assert_array_equal(described.images, batch.images)
    first = data.load("fashion_mnist").train.images[:16]
    scaled = first.astype("float32") / 127.5 - 1
    np.testing.assert_allclose(batch.images, scaled, atol=1e-6)
    assert description.describe(lenet, 16, 32, True).images is None


def test_the_torch_transform_crops_and_mirrors_as_ours():
    """Every result is one of the 25 x 2 crops, and all of them appear."""
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(1, 255, (1, 6, 6, 1), np.uint8)
    ours = [transforms.RandomCrop(2), layers.RandomFlip("horizontal")]
    steps = description.transform([*ours, transforms.unit()])
    apply = plain_torch.transform(steps)
    batch = apply(torch.from_numpy(np.repeat(image, 2000, 0))).numpy()
    assert batch.shape == (2000, 1, 6, 6)
    padded = np.pad(image[0, :, :, 0], 2)
    crops = [padded[i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
    known = {c.tobytes() for crop in crops for c in (crop, crop[:, ::-1])}
    seen = {each.tobytes() for each in (batch[:, 0] * 255).round().astype(np.uint8)}
    assert seen == known


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["step", "--batch", "0"], "--batch 0"),
        (["step", "--rounds", "-1"], "--rounds -1"),
        (["epoch", "--images", "10"], "less than a batch"),
        (["checkpoints", "--rounds", "0"], "--rounds 0"),
        (["checkpoints", "--images", "10"], "less than a batch of 256"),
        (["step", "fashion_mpl"], "did you mean fashion_mlp"),
        (["stp"], "did you mean step"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    assert commands.main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


def test_results_without_our_own_are_no_report():
    other = measure.Result("keras-jax", 1.0, 1.0, 1, 1.0)
    with pytest.raises(UsageError, match="no memory"):
        bench.report("title", [other], ["kerascnn ended: no memory"], 1, 1, False)


@pytest.mark.slow
def test_contenders_take_turns_and_report_json(capsys, monkeypatch):
    """The whole command, with two contenders on a small net."""
    monkeypatch.setattr(bench, "installed", lambda: ["jax"])
    monkeypatch.setattr(bench, "torch_forms", lambda: ["torch-eager"])
    monkeypatch.setattr(measure, "TURN", 0.05)
    arguments = ["bench", "step", "fashion_lenet", "--batch", "16", "--rounds", "2"]
    assert commands.main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in answer["results"]}
    assert set(rows) == {"kerascnn", "keras-jax", "torch-eager"}
    assert rows["kerascnn"]["ratio"] == 1.0
    for row in rows.values():
        assert 0 < row["fastest"] <= row["seconds"] < 60
        assert row["memory"] > 50 * 2**20
        assert row["images_per_second"] == pytest.approx(16 / row["seconds"])
        ratio = rows["kerascnn"]["seconds"] / row["seconds"]
        assert row["ratio"] == pytest.approx(ratio)
    assert answer["missing"] == []


def test_the_cost_of_checkpoints_is_measured(capsys):
    words = ["bench", "checkpoints", "fashion_mlp", "--images", "2048"]
    words += ["--rounds", "2", "--epochs", "2"]
    assert commands.main([*words, "--json"]) == 0
    rows = {r["form"]: r for r in json.loads(capsys.readouterr().out)["results"]}
    assert list(rows) == ["none", "run", "epoch", "unguarded"]
    assert rows["none"]["overhead"] == 0
    assert rows["none"]["writes"] == rows["unguarded"]["writes"] == 0
    # The first epoch of a turn's two may still be on its way to the disk.
    assert 2 <= rows["epoch"]["writes"] <= 4
    assert 0 <= rows["run"]["writes"] <= rows["epoch"]["writes"]
    # Weights and Adam's two moments, float32.
    parameters = recipe.outline("fashion_mlp").parameters
    for form in ("run", "epoch"):
        assert rows[form]["size"] == pytest.approx(12 * parameters, rel=0.05)


@pytest.mark.parametrize("load", [0.2, 3.0])
def test_a_busy_machine_is_named(monkeypatch, capsys, load):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0), raising=False)
    with pytest.raises(UsageError):  # nobody to compare
        measure.compare([], rounds=1)
    assert ("3.0 programs were at work" in capsys.readouterr().err) == (load > 1)
