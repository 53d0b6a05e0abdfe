"""A run with a budget of time: how many epochs, what is said, and that it is kept."""

import dataclasses
import os
import re
import subprocess
import sys
import time

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerascnn import UsageError, api, optim, recipe
from kerascnn.cli import commands
from kerascnn.data import limited, load
from kerascnn.engine.plan import Plan
from kerascnn.runs import Run
from kerascnn.training import budget, costs, options
from kerascnn.training.options import Overrides

SHORT = {"data": "sample", "limit": 256, "report": False}


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("90s", 90),
        ("10min", 600),
        ("1.5h", 5400),
        ("1h30min", 5400),
        ("2 min 5 s", 125),
    ],
)
def test_a_time_is_read_with_its_unit(words, seconds):
    assert options.parsed_seconds(words, "--budget") == seconds
    assert Overrides(budget=words).budget == words


@pytest.mark.parametrize(
    "words", ["10", "", "ten", "-5s", "0s", "5m", "1min1h", "1..5h", "nan s", "9d"]
)
def test_anything_else_is_a_mistake(words):
    with pytest.raises(UsageError, match="expected a time with its unit"):
        Overrides(budget=words)


@given(st.floats(0.5, 0.999), st.integers(2, 40), st.integers(1, 40))
def test_a_stretched_decay_ends_at_the_same_rate(gamma, epochs, more):
    of, other = epochs + more, keras.callbacks.TerminateOnNaN()
    decay = optim.ExponentialDecay(gamma)
    kept, found = optim.stretched([other, decay], epochs, of)
    assert kept is other
    assert decay.gamma == gamma
    assert found.gamma ** (epochs - 1) == pytest.approx(gamma ** (of - 1), rel=1e-9)


@pytest.fixture
def measured(monkeypatch):
    """A machine that takes 2 s a step of 64 images, and 0.1 s for an image tested."""
    sample = load("fashion_mnist", "sample")
    train, test = limited(sample.train, 640), limited(sample.test, 100)
    found = costs.Costs(build=3, compiling=20, step=2, tested=0.1, between=0)

    def of(epochs):
        plan = Plan(epochs=epochs, batch_size=64, seed=0)
        monkeypatch.setattr(costs, "measured", lambda *_: (found, plan, (train, test)))

    return of


EPOCH = 10 * 2 + 100 * 0.1  # seconds


@pytest.mark.parametrize("epochs", [1, 2, 7, 30])
def test_the_epochs_are_as_many_as_fit(measured, epochs, capsys):
    measured(60)
    mlp = recipe.load("fashion_mlp")
    fixed = 3 + 20 + budget._END
    seconds = fixed + epochs * EPOCH * (1 + budget._SHARE) + EPOCH / 2
    chosen, said = budget.fitted(mlp, Overrides(budget=f"{seconds}s"))
    assert chosen.epochs == said["epochs"] == epochs
    assert said["predicted_seconds"] == pytest.approx(fixed + epochs * EPOCH, abs=1)
    assert f"{epochs} of 60 epochs" in capsys.readouterr().out


def test_no_more_epochs_are_trained_than_the_recipe_has(measured, capsys):
    measured(4)
    chosen, said = budget.fitted(recipe.load("fashion_mlp"), Overrides(budget="5h"))
    assert chosen.epochs is None
    assert not chosen.changed
    assert said["epochs"] == 4
    assert "all 4 epochs" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["1s", "30s", "55s"])
def test_too_little_is_refused_with_the_least_that_works(measured, given):
    measured(60)
    mlp = recipe.load("fashion_mlp")
    with pytest.raises(UsageError) as mistake:
        budget.fitted(mlp, Overrides(budget=given))
    (least,) = re.findall(r"--budget (\d+s)\.", str(mistake.value))
    chosen, _ = budget.fitted(mlp, Overrides(budget=least))
    assert chosen.epochs == 1


def test_views_at_the_end_take_their_time(measured):
    measured(60)
    plain = recipe.load("fashion_mlp")
    views = dataclasses.replace(plain, views=lambda images: [images] * 6)
    few, _ = budget.fitted(plain, Overrides(budget="5min"))
    fewer, _ = budget.fitted(views, Overrides(budget="5min"))
    # Six evaluations of 10 s, and 20 s to compile: more than two epochs of 32 s.
    assert few.epochs - fewer.epochs in (2, 3)


def test_a_run_keeps_what_was_chosen_and_its_numbers_are_those_of_the_epochs(
    measured, tmp_path, capsys
):
    measured(60)
    seconds = 3 + 20 + budget._END + 2.5 * EPOCH * (1 + budget._SHARE)
    plain = recipe.load("fashion_mlp")
    run = api.train(plain, budget=f"{seconds}s", out=tmp_path / "a", **SHORT)
    same = api.train(plain, epochs=2, out=tmp_path / "b", **SHORT)
    assert run.result["weights_sha256"] == same.result["weights_sha256"]
    assert run.config["budget"]["epochs"] == run.config["epochs"] == 2
    assert run.config["overrides"] == same.config["overrides"]
    out = capsys.readouterr().out
    line = run.config["budget"]["said"]
    assert out.count(line) == 2  # before it trains, and in the summary
    # Stopped at its end, it goes on with the two epochs; the machine is not asked.
    (run.folder / "result.json").unlink()
    words = ["resume", str(run.folder), "--no-report"]
    assert commands.main([*words, "--budget", "1h"]) == 2
    assert "it began with" in capsys.readouterr().err
    assert commands.main(words) == 0
    again = Run(run.folder)
    assert again.result["weights_sha256"] == same.result["weights_sha256"]
    assert again.config["budget"]["said"] == line


def test_a_rate_that_falls_by_the_epoch_ends_as_low(measured, tmp_path, capsys):
    measured(5)
    seconds = 3 + 20 + budget._END + 3.5 * EPOCH * (1 + budget._SHARE)
    falling = dataclasses.replace(
        recipe.load("fashion_mlp"),
        epochs=5,
        callbacks=lambda: [optim.ExponentialDecay(0.5)],
    )
    run = api.train(falling, budget=f"{seconds}s", out=tmp_path / "run", **SHORT)
    rates = run.history["learning_rate"]
    assert rates == pytest.approx([rates[0], rates[0] / 4, rates[0] / 16], rel=1e-5)
    assert "falls to 0.25 of itself an epoch, not 0.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "1h", "--epochs", "3"], "both say how long to train"),
        (["--budget", "1h", "--seeds", "0-2"], "--budget is for one run"),
        (["--budget", "10"], "expected a time with its unit"),
    ],
)
def test_mistakes_are_named(words, said, capsys):
    assert commands.main(["run", "fashion_mlp", "--data", "sample", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion_lenet", "cifar_vgg_decay"])
def test_a_run_ends_within_its_budget(name, tmp_path):
    """Without page, as a user starts it; the machine must have nothing else to do."""
    given = 150
    words = ["run", name, "--data", "sample", "--no-report"]
    words += ["--budget", f"{given}s", "--out", str(tmp_path / "run")]
    cache = {"KERASCNN_CACHE_DIR": str(tmp_path / "cache")}
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "kerascnn", *words],
        check=True,
        env={**os.environ, **cache},
    )
    assert time.perf_counter() - began < given
    run = Run(tmp_path / "run")
    assert run.finished
    assert len(run.metrics) == run.config["budget"]["epochs"]
