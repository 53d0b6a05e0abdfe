"""The step at which a network stops guessing, and the cookbook's table of it."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest

from kerascnn import data, optim, recipe
from kerascnn.__main__ import main
from kerascnn.report import records, starts
from kerascnn.training import learns, models, trainer


@pytest.fixture(scope="module")
def fashion():
    return data.load("fashion_mnist", "sample")


def test_a_network_that_learns_is_stopped_when_it_does(fashion):
    said = []
    found = learns.begin(
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
    """Without steps its figures are those of its first weights, by NumPy."""
    still = dataclasses.replace(
        recipe.load("fashion_mlp"), optimizer=lambda: optim.adam(0.0)
    )
    found = learns.begin(still, fashion, 3, 45, 32)
    assert found.learned is None
    assert found.steps == 45

    keras.utils.clear_session()
    trainer.set_seed(3)
    model, _ = models.build(still, fashion.shape)
    order = data.order(3, 0, len(fashion.train))[25 * 32 : 45 * 32]
    logits = model.predict(fashion.train.images[order], verbose=0).astype("float64")
    labels = fashion.train.labels[order]
    right = np.mean(logits.argmax(-1) == labels)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]
    assert found.accuracy == pytest.approx(right, abs=5e-5)  # four decimals are kept
    assert found.crossentropy == pytest.approx(losses.mean(), abs=1e-4)


def test_an_epoch_ends_and_the_next_has_its_own_order(fashion, monkeypatch):
    few = dataclasses.replace(
        fashion,
        train=data.Split(fashion.train.images[:100], fashion.train.labels[:100]),
    )
    asked = []
    order = data.order
    monkeypatch.setattr(data, "order", lambda *w: asked.append(w) or order(*w))
    learns.begin(recipe.load("fashion_mlp"), few, 1, 5, 50)
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
    assert found[0]["crossentropy"] != found[1]["crossentropy"]


def test_rows_count_each_seed_once_and_only_the_recipe_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    assert records.starts() == []

    def add(name, seed, learned, accuracy, fingerprint="now"):
        records.add_start(
            {
                "recipe": name,
                "fingerprint": fingerprint,
                "seed": seed,
                "batch_size": 64,
                "learned": learned,
                "steps": learned or 300,
                "accuracy": accuracy,
                "crossentropy": math.log(10),
            }
        )

    add("b", 0, None, 0.1)
    add("b", 0, 20, 0.9)  # the same seed again is no second draw
    add("b", 1, None, 0.101)
    add("a", 0, 40, 0.21, fingerprint="before")
    add("a", 1, 60, 0.25)
    add("a", 2, 60, 0.2)
    add("c", 0, 20, 0.2)  # no recipe of that name any more
    assert starts.rows(records.starts(), {"a": "now", "b": "now"}) == [
        [
            "[a](a/README.md)",
            *("2 of 2", "60 (2 times)", "25.0%, 20.0%", "2.303, 2.303", "64"),
        ],
        [
            "[b](b/README.md)",
            *("0 of 2", "not in 300 (2 times)", "10.0%, 10.1%", "2.303, 2.303", "64"),
        ],
    ]
