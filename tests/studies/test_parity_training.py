"""Training recipe and twin side by side, and what their accuracies say."""

import dataclasses
import functools
import json
import signal
import types

import keras
import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from kerascnn import data, describe, recipe, twins
from kerascnn.cli.commands import main
from kerascnn.process.signals import Interrupted
from kerascnn.report import intervals, records
from kerascnn.studies import parity_training


def test_interval_by_hand():
    # Mean 2, deviation 1, error 1 / sqrt 3; Student's t for two degrees of freedom has
    # a closed form, (2 p - 1) / sqrt(2 p (1 - p)) with p = 0.975: 4.303.
    mean, half = intervals.interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(0.95 / (2 * 0.975 * 0.025) ** 0.5 / 3**0.5)
    # Eleven degrees of freedom: 2.200985 (Student's table), not yet a normal's 1.96.
    mean, half = intervals.interval([0.0, 1.0] * 6)
    assert half == pytest.approx(2.200985 * (3 / 11 / 12) ** 0.5)


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome", "words"),
    [
        # Half width of three: 4.303 / sqrt 3 = 2.48 deviations; of two: 12.71 / sqrt 2.
        ([0.89, 0.90, 0.91], [0.905, 0.915, 0.925], "overlap", "1.50% apart, the 95 %"),
        ([0.89, 0.90, 0.91], [0.95, 0.96, 0.97], "apart", "do not overlap"),
        ([0.89, 0.90, 0.91], [0.90, 0.93, 0.96], "inconclusive", "± 7.45% wide"),
        ([0.88, 0.90, 0.92], [0.68, 0.70, 0.72], "apart", "do not overlap"),
        # One stays at chance: no part of the mean, and no proof of a difference.
        (
            *([0.60, 0.10, 0.602], [0.60, 0.61, 0.605], "overlap"),
            "of those that learned (2 of 3 and 3 of 3) the means are 0.40% apart",
        ),
        ([0.10, 0.10, 0.60], [0.60, 0.61, 0.605], "inconclusive", "1 of 3 and 3 of 3"),
        ([0.10, 0.11, 0.14], [0.10, 0.10, 0.10], "overlap", "neither learns"),
        # Fisher: all of four against none of four, p = 2 / C(8, 4) = 0.029.
        ([0.1] * 4, [0.6] * 4, "apart", "learned with 0 of 4 and 4 of 4 seeds"),
        ([0.1] * 3, [0.6] * 3, "inconclusive", "0 of 3 and 3 of 3"),
    ],
)
def test_intervals_overlap_or_not_or_tell_nothing(ours, theirs, outcome, words):
    found, verdict = intervals.judge({"recipe": ours, "twin": theirs}, 10)
    assert found == outcome
    assert words in verdict


def test_a_twin_is_known_by_what_it_computes():
    lenet = twins.load("fashion_lenet")
    same = lenet.fingerprint()
    assert same == dataclasses.replace(lenet).fingerprint()

    def other_weights():
        network = lenet.network()
        with torch.no_grad():
            next(network.parameters()).mul_(2)
        return network

    def other_module():
        class Odd(torch.nn.Module):
            def forward(self, x):
                return x

        return torch.nn.Sequential(lenet.network(), Odd())

    changes = [
        *({"network": other_weights}, {"network": other_module}),
        *({"learning_rate": 1.0}, {"transform": ()}, {"gamma": 0.5}),
    ]
    found = {dataclasses.replace(lenet, **change).fingerprint() for change in changes}
    assert len(found | {same}) == len(changes) + 1


def test_a_twin_learns_and_is_repeatable(capsys):
    dataset = data.load("fashion_mnist", "sample")
    limited = data.limited(dataset.train, 500)
    dataset = dataclasses.replace(dataset, train=limited)
    twin = twins.Twin(
        twins.load("fashion_mlp").network,
        learning_rate=1e-3,
        batch_size=100,
        drop_last=True,
        transform=twins.load("fashion_mlp").transform,
    )
    first, second = (
        parity_training.train(twin, dataset, epochs=3, seed=1) for _ in range(2)
    )
    said = capsys.readouterr().out.splitlines()
    assert first == second
    assert 0.4 < first <= 1  # ten classes: chance is 0.1
    losses = [float(line.split("loss ")[1].split()[0]) for line in said[:3]]
    assert losses[2] < losses[0]


def test_random_transforms_act_in_training_only():
    twin = twins.load("cifar_vgg_more_aug")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), "uint8")
    plain, again = (twin.transformed(images) for _ in range(2))
    drawn = twin.transformed(images, np.random.default_rng(0))
    assert plain.shape == drawn.shape == (4, 32, 32, 3)
    assert (plain == again).all()
    assert not (plain == drawn).all()
    expected = (images[0, 5, 6] / 255 - [0.4914, 0.4822, 0.4465]) / [
        *(0.2470, 0.2435, 0.2616)
    ]
    np.testing.assert_allclose(plain[0, 5, 6], expected, rtol=1e-5)


def run(words):
    """Exit code of the command."""
    try:
        return main(["parity", "fashion_mlp", "--train", "--data", "sample", *words])
    except SystemExit as stop:
        return stop.code


@pytest.mark.slow
def test_command_trains_both(capsys):
    words = ["--seeds", "2", "--epochs", "1"]
    code = run([*words, "--json"])
    printed = capsys.readouterr()
    (result,) = json.loads(printed.out)
    assert code == (0 if result["passed"] else 1)
    assert "its PyTorch twin" in printed.err
    for side in ("recipe", "twin"):
        assert len(result["accuracies"][side]) == 2
        # Ten classes: one epoch of a few steps does better than chance.
        assert all(0.2 < accuracy < 1 for accuracy in result["accuracies"][side])


@pytest.mark.parametrize(
    ("ours", "theirs", "code", "words"),
    [
        ([0.80, 0.81, 0.82], [0.81, 0.82, 0.83], 0, "intervals overlap"),
        ([0.80, 0.81, 0.82], [0.91, 0.92, 0.93], 1, "intervals do not overlap"),
        # Half of the second is 4.303 * 0.1 / sqrt 3.
        ([0.80, 0.81, 0.82], [0.71, 0.81, 0.91], 1, "one is ± 24.84% wide"),
    ],
)
def test_exit_code_says_whether_they_agree(
    ours, theirs, code, words, capsys, monkeypatch
):
    ours, theirs = iter(ours), iter(theirs)

    def train(recipe, overrides):
        return types.SimpleNamespace(result={"test_accuracy": next(ours)})

    monkeypatch.setattr(parity_training.training_run, "train", train)
    monkeypatch.setattr(parity_training, "train", lambda *_: next(theirs))
    assert run(["--seeds", "3"]) == code
    shown = " ".join(capsys.readouterr().out.split())
    assert words in shown
    assert ("inconclusive" in shown) == ("wide" in words)


@pytest.fixture
def cookbook(tmp_path, monkeypatch):
    """An empty cookbook; the bundled sample passes for the full set."""
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    load = data.load
    whole = functools.partial(dataclasses.replace, sample=False, notice=None)
    monkeypatch.setattr(data, "load", lambda *w, **k: whole(load(*w, **k)))
    return tmp_path


def test_trainings_are_kept_at_once_and_not_repeated(cookbook, monkeypatch, capsys):
    fingerprint = describe.fingerprint(describe.describe(recipe.load("fashion_mlp")))
    run_before = {"recipe": "fashion_mlp", "fingerprint": fingerprint, "seed": 0}
    run_before |= {"epochs": 1, "result": {"test_accuracy": 0.5}}
    run_before["data"] = {"sha256": data.load("fashion_mnist", "sample").hash}
    records.add(f"{run_before['recipe']}/runs", run_before)
    train, trained = parity_training.train, []

    def interrupted(twin, dataset, epochs, seed):
        if seed == 1 and trained == [0]:
            trained.append("interrupted")
            raise KeyboardInterrupt
        trained.append(seed)
        return train(twin, dataset, epochs, seed)

    monkeypatch.setattr(parity_training, "train", interrupted)
    words = ["--seeds", "2", "--epochs", "1", "--add"]
    assert run(words) == 130
    kept = {
        (r["side"], r["seed"]): r["test_accuracy"] for r in records.read("trainings")
    }
    assert list(kept) == [("twin", 0), ("recipe", 1)]
    assert "command" not in records.read("trainings")[0]["environment"]
    frameworks = {"recipe": keras.backend.backend(), "twin": "torch"}
    for record in records.read("trainings"):
        there, framework = record["environment"], frameworks[record["side"]]
        assert there["backend"] == framework
        assert framework in there["versions"]

    capsys.readouterr()
    assert run([*words, "--json"]) in (0, 1)
    assert trained == [0, "interrupted", 1]
    shown = capsys.readouterr()
    (result,) = json.loads(shown.out)
    twin = records.read("trainings")[-1]
    assert (twin["side"], twin["seed"], twin["epochs"]) == ("twin", 1, 1)
    assert result["accuracies"] == {
        "recipe": [0.5, kept["recipe", 1]],
        "twin": [kept["twin", 0], twin["test_accuracy"]],
    }
    assert "seed 0: the recipe, trained before: 50.00%" in shown.err
    # What differs in any of these is another case.
    assert [len(found) for found in records.trained(twin).values()] == [2, 2]
    for name in ("recipe", "fingerprint", "epochs", "twin", "data"):
        other = records.trained(twin | {name: "another"})
        assert other["twin"] == {}
        assert other["recipe"] in ({}, {0: 0.5})
    assert other == {"recipe": {}, "twin": {}}


def test_only_full_sets_are_kept(tmp_path, monkeypatch, capsys):
    assert run(["--add"]) == 2
    assert "--add: the cookbook is of full sets" in capsys.readouterr().err
    monkeypatch.setattr(records, "FOLDER", tmp_path / "gone")
    assert run(["--add"]) == 2
    assert "use a checkout" in capsys.readouterr().err
    assert main(["parity", "fashion_mlp", "--add"]) == 2
    assert "--add needs --train" in capsys.readouterr().err


def test_the_cookbook_shows_trainings_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    assert intervals.section({"a": "now"}) == ""

    def add(name, side, seed, accuracy, epochs=5, fingerprint="now"):
        record = {"recipe": name, "fingerprint": fingerprint, "side": side}
        record |= {"seed": seed, "epochs": epochs, "test_accuracy": accuracy}
        record |= {"twin": "a hash", "data": "another", "classes": 10}
        records.add("trainings", record)

    add("b", "recipe", 0, 0.5)  # no twin's: nothing to set beside it
    for seed, (ours, theirs) in enumerate([(0.80, 0.81), (0.82, 0.83), (0.81, 0.82)]):
        add("a", "recipe", seed, ours)
        add("a", "twin", seed, theirs)
    add("a", "twin", 0, 0.99)  # again: no second draw
    add("a", "twin", 0, 0.99, fingerprint="before")
    add("a", "twin", 0, 0.7, epochs=20)
    add("a", "twin", 3, 0.1)  # at chance: no part of the mean
    # Half width: 4.303 * 0.01 / sqrt 3.
    assert intervals.section({"a": "now", "b": "now"}).splitlines()[-2:] == [
        "| [a](a/README.md) | 5 | 80.00, 82.00, 81.00 | 81.00 ± 2.48% | "
        "81.00, 83.00, 82.00, 10.00 | 82.00 ± 2.48% | overlap |",
        "| [a](a/README.md) | 20 | – | – | 70.00 | – | – |",
    ]


@pytest.mark.parametrize("side", ["recipe", "twin"])
def test_a_stop_says_what_is_lost_and_leaves_no_folder(monkeypatch, capsys, side):
    folders = []

    def train(chosen, overrides):
        overrides.out.mkdir(parents=True)
        folders.append(overrides.out.parent)
        if side == "recipe":
            raise Interrupted(signal.SIGTERM, "to go on: kerascnn resume /tmp/x")
        return types.SimpleNamespace(result={"test_accuracy": 0.5})

    def twin(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(parity_training.training_run, "train", train)
    monkeypatch.setattr(parity_training, "train", twin)
    assert run([]) == (143 if side == "recipe" else 130)
    error = capsys.readouterr().err
    assert "stopped; with --add, trainings that end would not be repeated." in error
    assert "resume" not in error
    assert not folders[0].exists()


def test_images_are_brought_to_the_size_of_the_recipe(monkeypatch):
    class Seen(Exception):
        pass

    def load(name, *_, image_size):
        raise Seen(name, image_size)

    monkeypatch.setattr(parity_training.data, "load", load)
    with pytest.raises(Seen) as seen:
        parity_training.compare("imagenet_vgg16", 2, 1, None, "full", None, True)
    assert seen.value.args == ("imagenette", (224, 224))
