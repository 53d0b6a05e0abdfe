"""The steps of rising rates, the rules that suggest one, and optimisers without."""

import dataclasses
import json

import keras
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerascnn import UsageError, data, optim, recipe
from kerascnn.cli import commands
from kerascnn.studies import lr_find
from kerascnn.training import build
from kerascnn.training.options import Overrides

on_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="the epoch engine is JAX's"
)
OPTIONS = Overrides(data="sample", limit=640, batch_size=64)


def fastai_valley(rates, losses):
    """fastai/callback/schedule.py, `valley`, line by line (Apache 2.0)."""
    n = len(losses)
    max_start, max_end = 0, 0
    lds = [1] * n
    for i in range(1, n):
        for j in range(0, i):
            if (losses[i] < losses[j]) and (lds[i] < lds[j] + 1):
                lds[i] = lds[j] + 1
            if lds[max_end] < lds[i]:
                max_end = i
                max_start = max_end - lds[max_end]
    sections = (max_end - max_start) / 3
    idx = max_start + int(sections) + int(sections / 2)
    return rates[max(0, idx)]  # -1 of a fall from the first two, Python's last, is none


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=60))
def test_the_valley_is_fastai_s(losses):
    rates = [10.0**i for i in range(len(losses))]
    assert lr_find.valley(rates, losses) == fastai_valley(rates, losses)


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=60))
def test_the_steepest_is_numpy_s(losses):
    rates = np.geomspace(1e-6, 10, len(losses))
    slopes = np.diff(losses) / np.diff(np.log(rates))
    found = list(rates).index(lr_find.steepest(list(rates), losses))
    assert slopes[found] == pytest.approx(slopes.min(), rel=1e-9, abs=1e-12)


def test_a_curve_of_known_shape_gets_rates_in_its_fall():
    """Flat up to 1e-3, falling up to 1e-1, then up: a valley as textbooks draw it."""
    rates = list(np.geomspace(1e-6, 10, 141))
    logs = np.log10(rates)
    losses = list(np.interp(logs, [-6, -3, -1, 1], [2.3, 2.3, 0.5, 9]))
    assert 1e-3 <= lr_find.steepest(rates, losses) <= 1e-1
    assert 1e-3 <= lr_find.valley(rates, losses) <= 1e-1


@on_jax
@pytest.mark.parametrize(
    "kind",
    [
        "adam",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("optax", "sgd", "float16")
        ),
    ],
)
def test_each_step_has_its_own_rate(kind):
    """The losses are those of the same steps taken by Keras, one rate after another."""
    optimizers = {
        "adam": lambda: optim.adam(1e-3),
        "sgd": lambda: optim.sgd(0.1, momentum=0.9),
        "optax": lambda: optim.Optax(
            optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
        ),
        "float16": lambda: keras.optimizers.LossScaleOptimizer(optim.sgd(0.1)),
    }
    mlp = dataclasses.replace(recipe.load("fashion_mlp"), optimizer=optimizers[kind])
    found = lr_find.search(mlp, OPTIONS, (1e-4, 0.3), 21)
    assert found.own == pytest.approx(
        {"adam": 1e-3, "sgd": 0.1, "optax": 0.5, "float16": 0.1}[kind]
    )
    assert found.rates == pytest.approx(list(np.geomspace(1e-4, 0.3, 21)))

    keras.utils.clear_session()
    sample = data.load("fashion_mnist", "sample")
    train = data.limited(sample.train, 640)
    model, _ = build.compiled(mlp, sample, OPTIONS)
    model.optimizer.build(model.trainable_variables)
    rate, losses = optim.rate_of(model.optimizer), []
    for number, value in enumerate(found.rates[:12]):
        epoch, place = divmod(number, 10)
        batch = data.order(0, epoch, 640)[place * 64 : (place + 1) * 64]
        rate.assign(value)
        logs = model.train_on_batch(
            train.images[batch], train.labels[batch], return_dict=True
        )
        model.reset_metrics()
        losses.append(float(logs["loss"]))
    assert found.losses[:12] == pytest.approx(losses, rel=2e-4)


@on_jax
def test_steps_end_where_the_loss_diverges():
    wild = dataclasses.replace(
        recipe.load("fashion_mlp"), optimizer=lambda: optim.sgd(0.1, momentum=0.9)
    )
    found = lr_find.search(wild, OPTIONS, (1e-3, 1e4), 60)
    assert found.diverged
    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 60
    assert all(map(np.isfinite, found.losses))
    assert found.steepest < found.rates[-1]


NO_RATE = {
    "a schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(0.1, 100)
    ),
    "hidden in optax": lambda: optim.Optax(optax.sgd(0.1)),
    "an optax schedule": lambda: optim.Optax(
        optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(0.1, 0, 100))
    ),
}


@on_jax
@pytest.mark.parametrize("build_it", NO_RATE.values(), ids=[*NO_RATE])
def test_where_there_is_no_rate_to_turn_it_is_said(build_it):
    fixed = dataclasses.replace(recipe.load("fashion_mlp"), optimizer=build_it)
    with pytest.raises(UsageError, match="no learning rate to turn"):
        lr_find.search(fixed, OPTIONS, (1e-6, 10), 20)


@on_jax
def test_each_recipe_of_the_course_has_a_rate_or_a_schedule_of_its_own():
    without = set()
    for name in recipe.names():
        build_it = recipe.load(name).optimizer
        try:
            rate = optim.rate_of(build_it())
            assert float(np.asarray(rate)) > 0
        except UsageError:
            without.add(name)
            assert build_it.of_steps
    assert without == {name for name in recipe.names() if "speedrun" in name}


@on_jax
def test_the_command_draws_and_suggests(tmp_path, capsys):
    picture = tmp_path / "sub" / "found.png"
    words = ["lr-find", "fashion_mlp", "--data", "sample", "--steps", "60"]
    words += ["--image-size", "20"]
    words += ["--out", str(picture)]
    assert commands.main([*words, "--json"]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(capsys.readouterr().out)
    # Where the recipe's own rate lies, and the course's others for such nets.
    assert 1e-5 < found["valley"] < 1
    assert 1e-5 < found["steepest"] < 1
    assert found["own"] == pytest.approx(1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sub"]
    names = [field.name for field in dataclasses.fields(lr_find.Found)]
    whole = lr_find.Found(**{name: found[name] for name in names})
    text = "\n".join(lr_find.lines(whole, "fashion_mlp", picture))
    assert f"kerascnn run fashion_mlp --learning-rate {found['valley']:.2g}" in text
    assert "(Smith 2017" in text
    flat = dataclasses.replace(whole, steepest=None, valley=None)
    text = "\n".join(lr_find.lines(flat, "fashion_mlp", picture))
    assert "the loss falls nowhere" in text
    assert "Try:" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lowest", "1", "--highest", "0.1"], "the first the smaller"),
        (["--lowest", "0"], "above 0"),
        (["--highest", "inf"], "above 0"),
        (["--steps", "3"], "expected 20 or more"),
        (["--batch-size", "0"], "expected 1 or more"),
    ],
)
def test_mistakes_are_named(words, said, capsys):
    assert commands.main(["lr-find", "fashion_mlp", *words]) == 2
    assert said in capsys.readouterr().err
