"""Training recipe and twin side by side, and what their accuracies say."""

import json

import numpy as np
import pytest

from kerascnn import data
from kerascnn.__main__ import main
from kerascnn.parity import training, twins


def test_interval_by_hand():
    # Mean 2, deviation 1, error 1 / sqrt 3; Student's t for two degrees of freedom has
    # a closed form, (2 p - 1) / sqrt(2 p (1 - p)) with p = 0.975: 4.303.
    mean, half = training.interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(0.95 / (2 * 0.975 * 0.025) ** 0.5 / 3**0.5)
    # Eleven degrees of freedom: 2.200985 (Student's table), not yet a normal's 1.96.
    mean, half = training.interval([0.0, 1.0] * 6)
    assert half == pytest.approx(2.200985 * (3 / 11 / 12) ** 0.5)
    assert training.interval([0.5]) == (0.5, None)


@pytest.mark.parametrize(
    ("ours", "theirs", "passed", "words"),
    [
        ((0.90, 0.01), (0.915, 0.01), True, "1.50% apart, the 95 % intervals overlap"),
        ((0.90, 0.01), (0.93, 0.01), False, "do not overlap"),
        ((0.90, None), (0.93, None), True, "one seed tells nothing"),
    ],
)
def test_intervals_overlap_or_not(ours, theirs, passed, words):
    found, verdict = training.judge({"recipe": ours, "twin": theirs})
    assert found is passed
    assert words in verdict


def test_a_twin_learns_and_is_repeatable(capsys):
    dataset = training.limited(data.load("fashion_mnist", "sample"), 500)
    twin = twins.Twin(
        twins.load("fashion_mlp").network,
        learning_rate=1e-3,
        batch_size=100,
        drop_last=True,
        transform=twins.load("fashion_mlp").transform,
    )
    first, second = (training.train(twin, dataset, epochs=3, seed=1) for _ in range(2))
    said = capsys.readouterr().out.splitlines()
    assert first == second
    assert 0.4 < first <= 1  # ten classes: chance is 0.1
    losses = [float(line.split("loss ")[1].split()[0]) for line in said[:3]]
    assert losses[2] < losses[0]


def test_random_transforms_act_in_training_only():
    twin = twins.load("cifar_vgg_more_aug")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), "uint8")
    plain = training.transformed(twin, images, None)
    again = training.transformed(twin, images, None)
    drawn = training.transformed(twin, images, np.random.default_rng(0))
    assert plain.shape == drawn.shape == (4, 3, 32, 32)
    assert (plain == again).all()
    assert not (plain == drawn).all()
    expected = (images[0, 5, 6] / 255 - [0.4914, 0.4822, 0.4465]) / [
        *(0.2470, 0.2435, 0.2616)
    ]
    np.testing.assert_allclose(plain[0, :, 5, 6], expected, rtol=1e-5)


def test_command_trains_both(capsys):
    words = ["fashion_mlp", "--train", "--seeds", "2", "--epochs", "1"]
    assert main(["parity", *words, "--data", "sample"]) == 0
    shown = capsys.readouterr().out
    assert "its PyTorch twin" in shown
    assert "95 % intervals overlap" in shown


def test_command_prints_json_alone(capsys):
    words = ["fashion_mlp", "--train", "--seeds", "1", "--epochs", "1", "--json"]
    assert main(["parity", *words, "--data", "sample"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert len(result["accuracies"]["twin"]) == 1
