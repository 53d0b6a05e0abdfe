"""Runs beside each other: McNemar's test, and which images changed."""

import json
import math

import numpy as np
import pytest

import kerascnn
from kerascnn import UsageError
from kerascnn.cli import commands
from kerascnn.page import comparison, evidence
from kerascnn.runs import Run

OPTIONS = {"data": "sample", "epochs": 1, "limit": 400, "batch_size": 64}


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mlp"
    cache = tmp_path_factory.getbasetemp() / "cache"
    return kerascnn.train("fashion_mlp", **OPTIONS, cache_dir=cache, out=folder)


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (3, 3), (10, 2), (0, 7), (30, 41)]
)
def test_mcnemar_s_test_is_the_sum_of_the_splits_as_uneven(gained, lost):
    n = gained + lost
    uneven = abs(gained - lost)
    shares = [math.comb(n, k) / 2**n for k in range(n + 1) if abs(2 * k - n) >= uneven]
    assert comparison.mcnemar(gained, lost) == pytest.approx(sum(shares))


def test_images_that_change_are_those_of_the_models(lenet, other):
    first, second = comparison.beside([lenet, other])
    a, b = evidence.outcome_of(lenet).right, evidence.outcome_of(other).right
    assert len(first.gained) == len(first.lost) == 0
    assert second.gained.tolist() == [i for i in range(400) if b[i] and not a[i]]
    assert second.lost.tolist() == [i for i in range(400) if a[i] and not b[i]]
    change = (len(second.gained) - len(second.lost)) / 400
    assert second.accuracy - first.accuracy == pytest.approx(change)
    counts = np.bincount(second.outcome.labels, minlength=10)
    np.testing.assert_allclose((second.per_class * counts).sum() / 400, second.accuracy)


def test_compare_prints_a_table_and_json(lenet, other, capsys, tmp_path):
    words = ["compare", str(lenet.folder), str(other.folder)]
    assert commands.main(words) == 0
    out = capsys.readouterr().out
    assert "fashion_mnist, 400 images" in out
    assert "B beside A: " in out
    assert "kerascnn diff fashion_lenet fashion_mlp" in out
    assert commands.main([*words, "--json", "--out", str(tmp_path / "both.html")]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["accuracy"] == pytest.approx(lenet.result["test_accuracy"])
    assert second["recipe"] == "fashion_mlp"
    page = (tmp_path / "both.html").read_text("utf-8")
    assert f"{second['accuracy']:.2%}" in page
    assert f"From wrong to right: {len(second['gained'])} images" in page
    assert set(second["gained"]) & set(second["lost"]) == set()


def test_runs_on_other_images_are_refused(lenet, tmp_path, capsys):
    kinds = {
        "cifar_mlp": {},
        "fashion_mlp": {"validation": 0.2},
    }
    for name, more in kinds.items():
        run = kerascnn.train(name, **(OPTIONS | more), out=tmp_path / name)
        with pytest.raises(UsageError, match="evaluated on other images"):
            comparison.beside([lenet, run])
    assert commands.main(["compare", str(lenet.folder)]) == 2
    assert "two runs or more" in capsys.readouterr().err
    with pytest.raises(UsageError, match="there is no run"):
        comparison.beside([lenet, Run(tmp_path / "nothing")])
