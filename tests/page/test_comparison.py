"""Runs beside each other: McNemar's test, and which images changed."""

import json
import math
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats

import kerascnn
from kerascnn import UsageError
from kerascnn.cli import commands, compare
from kerascnn.page import comparison, evidence
from kerascnn.runs import Run

OPTIONS = {"data": "sample", "epochs": 1, "limit": 400, "batch_size": 64}


@pytest.mark.parametrize(
    ("gained", "lost"), [(0, 0), (3, 3), (10, 2), (0, 7), (30, 41)]
)
def test_mcnemar_s_test_is_the_sum_of_the_splits_as_uneven(gained, lost):
    n = gained + lost
    uneven = abs(gained - lost)
    shares = [math.comb(n, k) / 2**n for k in range(n + 1) if abs(2 * k - n) >= uneven]
    assert comparison.mcnemar(gained, lost) == pytest.approx(sum(shares))


@pytest.mark.slow
def test_images_that_change_are_those_of_the_models(lenet, mlp):
    first, second = comparison.beside([lenet, mlp])
    a, b = evidence.outcome_of(lenet).right, evidence.outcome_of(mlp).right
    assert len(first.gained) == len(first.lost) == 0
    assert second.gained.tolist() == [i for i in range(400) if b[i] and not a[i]]
    assert second.lost.tolist() == [i for i in range(400) if a[i] and not b[i]]
    change = (len(second.gained) - len(second.lost)) / 400
    assert second.accuracy - first.accuracy == pytest.approx(change)
    counts = np.bincount(second.outcome.labels, minlength=10)
    np.testing.assert_allclose((second.per_class * counts).sum() / 400, second.accuracy)


def test_compare_prints_a_table_and_json(lenet, mlp, capsys, tmp_path):
    words = ["compare", str(lenet.folder), str(mlp.folder)]
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
    assert "<h1>fashion_lenet and fashion_mlp</h1>" in page
    # What both runs change stands once, the rest at its run, each with its value.
    assert page.count("limit 400") == page.count("batch size 64") == 1
    assert (
        page.count("<span>epochs 2</span>") == page.count("<span>epochs 1</span>") == 1
    )


@pytest.fixture
def seeds(lenet, mlp, tmp_path):
    """Two seeds each of two recipes: copies of a run with other records of epochs."""
    made = []
    for run in (lenet, mlp):
        for seed in range(2):
            folder = tmp_path / f"{run.config['recipe']}-{seed}"
            shutil.copytree(run.folder, folder)
            copy = Run(folder)
            copy.write_config(run.config | {"seed": seed})
            moved = [m | {"test_accuracy": 0.5 + 0.2 * seed} for m in run.metrics]
            copy.replace_metrics(moved)
            made.append(copy)
    return made


def test_seeds_of_a_recipe_stand_together(seeds, capsys, tmp_path):
    found = comparison.beside(seeds)
    first, second = comparison.grouped(found)
    assert (first.names, second.names) == (["A1", "A2"], ["B1", "B2"])
    # Whatever order they come in; the same seed twice is no second draw.
    mixed = comparison.grouped([found[n] for n in (2, 0, 3, 1)])
    assert [g.members for g in mixed] == [found[2:], found[:2]]
    assert [len(g.members) for g in comparison.grouped([found[0], found[0]])] == [1, 1]
    compare.show(found)
    out = " ".join(capsys.readouterr().out.split())  # lines end where they may
    assert "mean over the seeds" in out
    assert "points between the means; the seeds of each do not differ at all" in out
    assert compare.record(found[2], "B")["group"] == "B"
    text = comparison.render(found)
    drawn = re.findall(r'<path class="band (\w+)"', text)
    assert drawn == ["test", "train"] * 2
    assert "B, 2 seeds" in text
    # The last epoch of both: the mean of 0.5 and 0.7, the lowest and the highest.
    assert "60% (50% to 70%)" in text
    assert text.count("From wrong to right") == 1


def group(letter, shares):
    """A group whose runs get these numbers of 100 images right."""
    made = []
    for share in shares:
        right = np.arange(100) < share
        outcome = SimpleNamespace(right=right, __len__=lambda: 100)
        made.append(comparison.Beside(None, outcome, right, right, 1.0))
    return comparison.Group(letter, made)


@pytest.mark.parametrize(
    ("first", "other", "said"),
    [
        ([50, 52, 54], [70, 73, 75, 71], "beyond chance."),
        ([50, 52, 54], [51, 54, 52], "no difference beyond chance."),
        ([50, 52], [70], "with one seed of either nothing tells chance apart."),
    ],
)
def test_two_groups_of_seeds_are_told_apart_by_welch_s_test(first, other, said):
    sentence = comparison.apart(group("A", first), group("B", other))
    assert sentence.endswith(said)
    gap = np.mean(other) - np.mean(first)
    assert sentence.startswith(f"{gap:+.2f} points")
    if len(other) > 1:
        # Welch (1947), with Satterthwaite's degrees of freedom.
        parts = [np.var(x, ddof=1) / len(x) for x in (first, other)]
        free = sum(parts) ** 2 / sum(
            part**2 / (len(x) - 1)
            for part, x in zip(parts, (first, other), strict=True)
        )
        half = scipy.stats.t.ppf(0.975, free) * math.sqrt(sum(parts))
        assert f"95 % interval {gap - half:+.2f} to {gap + half:+.2f}" in sentence


@pytest.mark.slow
def test_runs_on_other_images_are_refused(lenet, tmp_path, capsys):
    kinds = {
        "cifar_mlp": {},
        "fashion_mlp": {"validation": 0.2},
    }
    for name, more in kinds.items():
        run = kerascnn.train(name, **(OPTIONS | more), out=tmp_path / name)
        with pytest.raises(UsageError, match="evaluated on other images"):
            comparison.beside([lenet, run])
    # The sample has 1,000 test images: both limits take all of them.
    more = {"limit": 1000}, {"limit": 1500}
    runs = [
        kerascnn.train("fashion_mlp", **(OPTIONS | each), out=tmp_path / str(n))
        for n, each in enumerate(more)
    ]
    assert len(comparison.beside(runs)[1].outcome) == 1000
    with pytest.raises(UsageError, match="1000 and 400 test images"):
        comparison.beside([lenet, runs[0]])
    assert commands.main(["compare", str(lenet.folder)]) == 2
    assert "two runs or more" in capsys.readouterr().err
    with pytest.raises(UsageError, match="there is no run"):
        comparison.beside([lenet, Run(tmp_path / "nothing")])
