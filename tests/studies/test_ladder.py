"""What the ladder plans, and that it works through its plan across stops."""

import json
import shutil

import pytest

from kerascnn import recipe
from kerascnn.cli import commands
from kerascnn.data.folders import SAMPLES
from kerascnn.report import records
from kerascnn.studies import ladder

HOUR = 3600


def rung(name, measured, wanted, seconds, begun=None):
    return ladder.Rung(name, "0" * 64, 4, measured, wanted, seconds, 1.0, begun or {})


def test_the_run_comes_first_whose_hour_tells_most():
    found = [
        rung("long", [], [0, 1], 10 * HOUR),
        rung("short", [], [0, 1], HOUR),
        rung("known", [0, 1], [2], HOUR),
        rung("nearly done", [], [0], 10 * HOUR, {0: 0.95}),
        rung("absent", [], [0], None),
        rung("complete", [0, 1, 2], [], HOUR),
    ]
    # One over n less one over n + 1, by hand; the first of a recipe counts one.
    expected = [
        ("nearly done", 0, HOUR / 2, 2),
        ("short", 0, HOUR, 1),
        ("short", 1, HOUR, 1 / 2),
        ("known", 2, HOUR, 1 / 6),
        ("long", 0, 10 * HOUR, 1 / 10),
        ("long", 1, 10 * HOUR, 1 / 20),
    ]
    turns = ladder.turns(found)
    assert [(turn.name, turn.seed) for turn in turns] == [e[:2] for e in expected]
    numbers = [number for turn in turns for number in (turn.seconds, turn.worth)]
    assert numbers == pytest.approx([n for e in expected for n in e[2:]])


@pytest.fixture
def book(tmp_path, monkeypatch):
    """An empty cookbook of two recipes, and a small set that counts as the full one."""
    made = tmp_path / "recipes"
    made.mkdir()
    monkeypatch.setattr(records, "FOLDER", made)
    monkeypatch.setattr(recipe, "names", lambda: ["cifar_mlp", "fashion_mlp"])
    monkeypatch.setenv("KERASCNN_CACHE_DIR", str(tmp_path / "cache"))
    sample, full = SAMPLES / "fashion_mnist", tmp_path / "full"
    shutil.copytree(sample, full / "fashion_mnist")
    monkeypatch.chdir(tmp_path)
    return full


@pytest.fixture
def kerascnn(capfd):
    def run(*words):
        code = commands.main(["ladder", *map(str, words)])
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.slow
def test_a_plan_is_made_of_measured_steps_and_worked_through(book, kerascnn):
    words = "--data-dir", book, "--seeds", 1
    code, out, err = kerascnn("plan", *words, "--json")
    assert code == 0
    assert "a step of fashion_mlp" in err
    plan = json.loads(out)
    cifar, fashion = sorted(plan["recipes"], key=lambda each: each["name"])
    assert cifar["seconds"] is None  # no such set here
    assert cifar["wanted"] == [0]
    outline = recipe.outline("fashion_mlp")
    steps = -(-2500 // outline.batch_size) * outline.epochs
    assert fashion["seconds"] > fashion["step"] * steps > 0
    assert [turn["name"] for turn in plan["order"]] == ["fashion_mlp"]

    # A step is measured once.
    code, out, err = kerascnn("plan", *words)
    assert code == 0
    assert "a step of" not in err
    assert "kerascnn data get cifar10" in out

    # Too short for a run: nothing is in the cookbook, and nothing is lost.
    code, out, err = kerascnn("run", *words, "--hours", 1 / HOUR)
    assert code == 0
    assert "0 runs taken into the cookbook" in out
    assert not records.read("fashion_mlp/runs")
    code, out, err = kerascnn("run", *words, "--hours", 1)
    assert code == 0
    assert "1 run taken into the cookbook" in out
    (record,) = records.read("fashion_mlp/runs")
    assert (record["seed"], len(record["metrics"])) == (0, outline.epochs)
    assert not record["data"]["sample"]

    code, out, err = kerascnn("run", *words, "--hours", 1)
    assert code == 0
    assert "No run is wanted" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "--only", "nothing*"), "no recipe's name matches"),
        (("plan", "--seeds", 0), "expected 1 or more"),
        (("plan", "--hours", "nan"), "expected a positive number"),
        (("run", "--hours", 0), "expected a positive number"),
        (("run", "--hours", "inf"), "expected a positive number"),
        (("run",), "--hours"),
    ],
)
def test_mistakes_are_named(book, kerascnn, words, said):
    code, out, err = kerascnn(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_without_a_checkout_there_is_no_cookbook_to_fill(book, kerascnn, monkeypatch):
    monkeypatch.setattr(records, "FOLDER", book / "nowhere")
    code, _, err = kerascnn("run", "--hours", 1)
    assert code == 2
    assert "run it in a checkout" in err
