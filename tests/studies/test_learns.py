"""The step at which a network stops guessing, and the cookbook's table of it."""

import dataclasses
import functools
import json
import math

import keras
import numpy as np
import pytest

from kerascnn import UsageError, data, describe, optim, recipe
from kerascnn.cli.commands import main
from kerascnn.report import learning_starts, records
from kerascnn.studies import learns
from kerascnn.training import build


@pytest.fixture(scope="module")
def fashion():
    return data.load("fashion_mnist", "sample")


def test_a_network_that_learns_is_stopped_when_it_does(fashion):
    said = []
    found = learns.train(
        recipe.load("fashion_mlp"),
        fashion,
        0,
        200,
        64,
        lambda *words: said.append(words),
    )
    assert found.learned == found.steps == said[-1][0] <= 100
    assert found.accuracy >= 0.2
    assert [step for step, *_ in said] == list(range(20, found.steps + 1, 20))
    assert all(accuracy < 0.2 for _, accuracy, _ in said[:-1])


def test_a_network_that_never_learns_is_given_up(fashion):
    """With no learning rate its figures are those of its first weights, by NumPy."""
    still = dataclasses.replace(
        recipe.load("fashion_mlp"), optimizer=lambda: optim.adam(0.0)
    )
    found = learns.train(still, fashion, 3, 45, 32)
    assert found.learned is None
    assert found.steps == 45

    keras.utils.clear_session()
    build.set_seed(3)
    model, _ = build.build(still, fashion.shape)
    order = data.order(3, 0, len(fashion.train))[25 * 32 : 45 * 32]
    logits = model.predict(fashion.train.images[order], verbose=0).astype("float64")
    labels = fashion.train.labels[order]
    right = np.mean(logits.argmax(-1) == labels)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]
    assert found.accuracy == pytest.approx(right, abs=5e-5)  # four decimals are kept
    assert found.crossentropy == pytest.approx(losses.mean(), abs=1e-4)


def test_the_last_steps_count_too_but_not_fewer_than_twenty(fashion):
    quick = recipe.load("fashion_mlp")
    assert learns.train(quick, fashion, 0, 39, 1000).learned in (20, 39)
    said = []
    found = learns.train(quick, fashion, 0, 5, 256, lambda *words: said.append(words))
    assert (found.learned, found.steps) == (None, 5)
    assert [step for step, *_ in said] == [5]


def test_a_loss_that_is_not_finite_ends_the_training(fashion):
    wild = dataclasses.replace(
        recipe.load("fashion_mlp"), optimizer=lambda: optim.adam(1e30)
    )
    found = learns.train(wild, fashion, 0, 400, 64)
    assert found.learned is None
    assert found.steps < 20
    assert found.crossentropy is None


def test_threshold_by_hand():
    # Ten classes, 20 x 64 images: twice 10 %; five deviations would be 14.2 %.
    assert learns.threshold(10, 64) == pytest.approx(0.2)
    # 20 images: a deviation is sqrt(0.09 / 20) = 6.7 points.
    assert learns.threshold(10, 1) == pytest.approx(0.1 + 5 * 0.0045**0.5)
    # Two classes: twice 50 % would be perfect.
    assert learns.threshold(2, 64) == 0.75


def test_an_epoch_ends_and_the_next_has_its_own_order(fashion, monkeypatch):
    few = dataclasses.replace(
        fashion,
        train=data.Split(fashion.train.images[:100], fashion.train.labels[:100]),
    )
    asked = []
    order = data.order
    monkeypatch.setattr(data, "order", lambda *w: asked.append(w) or order(*w))
    learns.train(recipe.load("fashion_mlp"), few, 1, 5, 50)
    assert asked == [(1, 0, 100), (1, 1, 100), (1, 2, 100)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "expected recipes"),
        (["fashion_mpl"], "did you mean fashion_mlp or"),
        (["fashion_mlp", "--seeds", "0"], "--seeds 0: expected 1 or more"),
        (["fashion_mlp", "--data", "sample", "--add"], "full sets, not samples"),
        (
            ["fashion_mlp", "--data", "sample", "--batch-size", "9999"],
            "make no batch of 9999",
        ),
    ],
)
def test_mistakes_are_one_line(words, says, capsys):
    assert main(["learns", *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert says in said[0]


def test_a_mistake_in_the_last_recipe_is_said_before_the_first_trains(
    monkeypatch, capsys
):
    monkeypatch.setattr(learns, "train", None)
    words = ["fashion_mlp", "cifar_mlp", "--data", "sample"]
    load = data.load

    def only_fashion(name, *words, **options):
        if name == "cifar10":
            raise UsageError("cifar10 is away.")
        return load(name, *words, **options)

    monkeypatch.setattr(data, "load", only_fashion)
    assert main(["learns", *words]) == 2
    assert "cifar10 is away." in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_found_is_kept_for_the_cookbook(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    load = data.load
    whole = functools.partial(dataclasses.replace, sample=False, notice=None)
    monkeypatch.setattr(data, "load", lambda *w, **k: whole(load(*w, **k)))
    words = ["--seeds", "2", "--steps", "3", "--batch-size", "64", "--add"]
    assert main(["learns", "fashion_mlp", *words]) == 0
    kept = records.read("starts")
    assert [(r["recipe"], r["seed"], r["at_most"]) for r in kept] == [
        ("fashion_mlp", 0, 3),
        ("fashion_mlp", 1, 3),
    ]
    described = describe.describe(recipe.load("fashion_mlp"))
    assert kept[0]["fingerprint"] == describe.fingerprint(described)
    assert "command" not in kept[0]["environment"]
    monkeypatch.setattr(records, "FOLDER", tmp_path / "gone")
    assert main(["learns", "fashion_mlp", *words]) == 2
    assert "use a checkout" in capsys.readouterr().err


def test_the_command_prints_json_with_the_seed_of_each(capsys):
    words = ["--seeds", "2", "--steps", "20", "--data", "sample", "--json"]
    assert main(["learns", "fashion_mlp", *words]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert [(r["recipe"], r["seed"]) for r in found] == [
        ("fashion_mlp", 0),
        ("fashion_mlp", 1),
    ]
    assert "fashion_mlp, seed 1: step 20/20  accuracy" in shown.err
    assert "the bundled sample" in shown.err
    assert found[0]["data"]["sample"]
    assert found[0]["crossentropy"] != found[1]["crossentropy"]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the settings are JAX's")
def test_what_keras_cannot_train_under_is_set_aside_and_said(capsys):
    import jax

    words = ["--seeds", "1", "--steps", "20", "--data", "sample", "--json"]
    before = jax.config.jax_numpy_rank_promotion
    try:
        jax.config.update("jax_numpy_rank_promotion", "raise")
        assert main(["learns", "fashion_mlp", *words]) == 0
        assert jax.config.jax_numpy_rank_promotion == "raise"
    finally:
        jax.config.update("jax_numpy_rank_promotion", before)
    shown = capsys.readouterr()
    assert json.loads(shown.out)[0]["steps"] == 20
    assert "jax_numpy_rank_promotion is raise, and Keras needs" in shown.err


def test_rows_take_the_longest_trial_of_each_seed_of_the_recipe_as_it_is(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    assert records.read("starts") == []

    def add(name, seed, learned, accuracy, at_most=300, fingerprint="now"):
        records.add(
            "starts",
            {
                "recipe": name,
                "fingerprint": fingerprint,
                "seed": seed,
                "batch_size": 64,
                "at_most": at_most,
                "learned": learned,
                "steps": learned or at_most,
                "accuracy": accuracy,
                "crossentropy": math.log(10),
            },
        )

    add("b", 1, None, 0.15, at_most=20)
    add("b", 0, None, 0.1)
    add("b", 0, 20, 0.9)  # as long as the first: no second draw
    add("b", 1, None, 0.101)
    add("a", 0, 40, 0.21, fingerprint="before")
    add("a", 1, 60, 0.25)
    add("a", 2, 60, 0.2)
    add("c", 0, 20, 0.2)  # no recipe of that name any more
    assert learning_starts.rows(records.read("starts"), {"a": "now", "b": "now"}) == [
        [
            "[a](a/README.md)",
            *("2 of 2", "60 (2 times)", "25.0%, 20.0%", "2.303, 2.303", "64"),
        ],
        [
            "[b](b/README.md)",
            *("0 of 2", "not in 300 (2 times)", "10.0%, 10.1%", "2.303, 2.303", "64"),
        ],
    ]
