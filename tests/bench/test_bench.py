"""The benchmarks: what they count, what they compare, what they refuse."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from kerascnn import UsageError, data, recipe, twins
from kerascnn.bench import measure, plain_torch, with_keras
from kerascnn.cli import bench, commands
from kerascnn.engine import counts
from kerascnn.twins import rules
from kerascnn.without_weights import without_weights


def test_operations_of_a_step_are_counted_as_by_hand():
    """LeNet-5: multiplications of each layer, two operations each, three passes."""
    first = 28 * 28 * 6 * 25
    others = 10 * 10 * 16 * 150 + 400 * 120 + 120 * 84 + 84 * 10
    expected = 2 * (2 * first + 3 * others)  # no gradient of the images
    network = without_weights(recipe.load("fashion_lenet").network)
    assert counts.training_operations(network) == expected


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (rules.RandomErasing(0.1, (0.02, 0.3), (0.3, 3.3)), "RandomErasing"),
        (rules.ResizeAndCenterCrop(224), "ResizeAndCenterCrop"),
    ],
)
def test_what_plain_torch_does_not_transform_is_refused(rule, message):
    with pytest.raises(UsageError, match=f"no plain PyTorch for {message}"):
        plain_torch.transform([rule])


@pytest.mark.slow
def test_plain_torch_is_plain():
    """Keras and JAX would be 200 MB of a process that is to have PyTorch alone."""
    program = """
import sys
from kerascnn.bench import contenders
for name, images in (("fashion_lenet", 0), ("fashion_lenet", 32)):
    contenders.build("torch-eager", name, 16, images, True)(2)
print({"keras", "jax", "tensorflow"} & set(sys.modules))
"""
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
    )
    assert found.stdout == "set()\n", found.stderr


@pytest.mark.parametrize("name", ["fashion_lenet", "cifar_vgg_more_aug", "cifar_edges"])
@pytest.mark.slow
def test_steps_are_taken_on_the_scaled_batch(name):
    """As the other contenders get it, without random transforms."""
    batch = with_keras.scaled_batch(recipe.load(name), 16)
    first = data.load(recipe.outline(name).dataset).train.images[:16]
    scaled = twins.load(name).transformed(first)
    np.testing.assert_allclose(scaled, batch.images, atol=1e-5)
    if name == "fashion_lenet":
        expected = first.astype("float32") / 127.5 - 1
        np.testing.assert_allclose(scaled, expected, atol=1e-6)


def test_the_torch_transform_crops_and_mirrors_as_ours():
    """Every result is one of the 25 x 2 crops, and all of them appear."""
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(1, 255, (1, 6, 6, 1), np.uint8)
    chosen = [rules.RandomCrop(2), rules.RandomHorizontalFlip(), rules.Normalize()]
    apply = plain_torch.transform(chosen)
    batch = apply(torch.from_numpy(np.repeat(image, 2000, 0))).numpy()
    assert batch.shape == (2000, 1, 6, 6)
    padded = np.pad(image[0, :, :, 0], 2)
    crops = [padded[i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
    known = {c.tobytes() for crop in crops for c in (crop, crop[:, ::-1])}
    seen = {each.tobytes() for each in (batch[:, 0] * 255).round().astype(np.uint8)}
    assert seen == known


def test_the_torch_transform_scales_as_the_rule():
    rule = rules.Normalize([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
    images = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3), np.uint8)
    found = plain_torch.transform([rule])(torch.from_numpy(images)).numpy()
    expected = rule.apply(images, None).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


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


@pytest.mark.slow
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
