"""The cookbook: which runs it takes in, what its cards say, and that they are fresh."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from kerascnn import describe, recipe
from kerascnn.bench import measure
from kerascnn.cli import commands
from kerascnn.report import cookbook, headline, markdown, records, speed, staircase
from kerascnn.runs import Run

NAMES = ["cifar_mlp", "fashion_mlp"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cookbook of two recipes."""
    made = tmp_path / "recipes"
    made.mkdir()
    monkeypatch.setattr(records, "FOLDER", made)
    monkeypatch.setattr(recipe, "names", lambda: NAMES)
    return made


@pytest.fixture(scope="module")
def fingerprints():
    return {n: describe.fingerprint(describe.describe(recipe.load(n))) for n in NAMES}


@pytest.fixture
def finish(tmp_path, fingerprints):
    """Make the folder of a finished run by hand; keywords replace parts of it."""

    def make(seed=0, test=0.88, train=0.92, device="cpu", finished=True, **changes):
        run = Run.create("", tmp_path / f"run {len(list(tmp_path.iterdir()))}")
        name = changes.get("recipe", "fashion_mlp")
        run.write_config(
            {
                "recipe": name,
                "fingerprint": fingerprints.get(name),
                "overrides": [],
                "seed": seed,
                "engine": "epoch",
                "data": {
                    "sample": False,
                    "source": "/home/me/data",
                    "classes": [str(i) for i in range(10)],
                },
                "environment": {
                    "time": "2026-01-02T03:04:05+0000",
                    "command": ["-m", "somewhere"],
                    "backend": "jax",
                    "device": device,
                    "processor": "A Chip",
                    "cores": 2,
                    "versions": {"jax": "0.1", "keras": "3.0"},
                },
                "description": {"name": name},
                "options": {"out": "/home/me/run"},
                "process": {"devices": "1", "compile cache": "/home/me/compiled"},
            }
            | changes
        )
        run.add_metrics({"epoch": 1, "test_accuracy": test})
        run.write_result(
            {
                "finished": finished,
                "test_accuracy": test,
                "train_accuracy": train,
                "seconds": 100 + seed,
            }
        )
        (run.folder / "curve.png").write_text(f"seed {seed}")
        return str(run.folder)

    return make


def test_runs_become_records_and_a_card(folder, finish, fingerprints):
    runs = [finish(seed=s, test=t) for s, t in ((0, 0.88), (1, 0.90), (2, 0.89))]
    assert commands.main(["cookbook", "add", *runs]) == 0
    kept = [
        json.loads(line)
        for line in (folder / "fashion_mlp/runs.jsonl").read_text().splitlines()
    ]
    assert [record["seed"] for record in kept] == [0, 1, 2]
    assert kept[0]["result"]["test_accuracy"] == 0.88
    assert kept[0]["metrics"] == [{"epoch": 1, "test_accuracy": 0.88}]
    assert kept[0]["environment"]["cores"] == 2
    # Where things lay on that machine is nobody else's business.
    assert "/home/me" not in json.dumps(kept)
    assert "somewhere" not in json.dumps(kept)

    card = (folder / "fashion_mlp/README.md").read_text()
    assert "# fashion_mlp\n" in card
    assert "the network never learns which pixels are\nneighbours" in card
    # The mean of 88, 90 and 89 is 89; their squared deviations 1, 1, 0 over 2 make 1.
    assert "| test accuracy | ~89% | 89.00 ± 1.00% (3 seeds) | +0.0 |" in card
    assert "| training accuracy | – | 92.00 ± 0.00% (3 seeds) | – |" in card
    assert "![Loss and accuracy by epoch](curve.png)" in card
    assert "## What changes\n\n–\n" in card
    assert "## Deviations\n\nThe number of epochs is ours" in card
    assert "    python -m kerascnn.recipes.fashion_mlp\n" in card
    assert "A Chip, 2 cores | keras 3.0, jax 0.1 | epoch | 2026-01-02" in card
    assert fingerprints["fashion_mlp"] in card
    assert (folder / "fashion_mlp/curve.png").read_text() == "seed 0"

    ladder = (folder / "README.md").read_text().splitlines()
    (rung,) = (
        line for line in ladder if "[fashion_mlp](fashion_mlp/README.md)" in line
    )
    end = "| +0.0 | +0.00 | – | 92.00 ± 0.00% (3 seeds) | – | 1 min 40 s | A Chip, 2 "
    assert rung.endswith(f"{end}cores |")


def test_accuracies_are_said_with_views_and_without(folder, finish):
    runs = [finish(seed=s, test=t) for s, t in ((0, 0.88), (1, 0.90))]
    for path, seen in zip(runs, (0.89, 0.93), strict=True):
        run = Run(path)
        run.write_result(run.result | {"test_accuracy_with_views": seen, "views": 6})
    assert commands.main(["cookbook", "add", *runs]) == 0
    card = (folder / "fashion_mlp/README.md").read_text()
    # Deviations of two that lie 2 and 4 apart: the roots of 2 and 8.
    figure = "89.00 ± 1.41% (2 seeds); 91.00 ± 2.83% with views"
    assert f"| test accuracy | ~89% | {figure} | +0.0 |" in card
    assert "| 0 | 88.00% (89.00% with views) | 88.00% (1) | 92.00% |" in card


def test_seeds_that_stay_at_chance_are_counted_and_not_averaged(folder, finish):
    runs = [finish(seed=s, test=t) for s, t in ((0, 0.88), (1, 0.90), (2, 0.1))]
    assert commands.main(["cookbook", "add", *runs]) == 0
    card = (folder / "fashion_mlp/README.md").read_text()
    # The deviation of two that lie 2 apart: the root of 2.
    figure = "89.00 ± 1.41% (2 of 3 seeds, the rest at chance)"
    assert f"| test accuracy | ~89% | {figure} | +0.0 |" in card
    assert "| 2 | 10.00% |" in card
    # Where none learns, that is the figure.
    stuck = [{"result": {"test_accuracy": 0.1}, "data": {"classes": ["a"] * 10}}]
    assert records.learned(stuck) == stuck


def test_the_best_epoch_on_the_test_set_is_said_and_is_no_result(folder, finish):
    runs = [finish(seed=s, test=t) for s, t in ((0, 0.88), (1, 0.90))]
    for path, best in zip(runs, (0.885, 0.91), strict=True):
        Run(path).replace_metrics(
            [
                {"epoch": 1, "test_accuracy": 0.5},
                {"epoch": 2, "test_accuracy": best},
                {"epoch": 3, "test_accuracy": Run(path).result["test_accuracy"]},
            ]
        )
    assert commands.main(["cookbook", "add", *runs]) == 0
    card = (folder / "fashion_mlp/README.md").read_text()
    # The mean of 0.5 and 1 point.
    assert "Peeking bonus: +0.75 points." in card
    assert "| 0 | 88.00% | 88.50% (2) |" in card
    assert "| 89.00 ± 1.41% (2 seeds) | +0.0 |" in card
    top = (folder / "README.md").read_text()
    assert "| 89.00 ± 1.41% (2 seeds) | +0.0 | +0.75 |" in top


def test_the_staircase_is_drawn_from_the_records(folder, finish, capsys):
    assert commands.main(["cookbook"]) == 0
    picture = folder / "staircase.svg"
    assert "cifar_mlp" not in picture.read_text()  # the course prints no figure
    runs = [
        finish(recipe="cifar_mlp", seed=s, test=t) for s, t in ((0, 0.5), (1, 0.54))
    ]
    assert commands.main(["cookbook", "add", *runs]) == 0
    drawn = ElementTree.fromstring(picture.read_text())
    texts = [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("cifar_mlp") == 1
    assert "52.0%" in texts
    (step,) = (e for e in drawn.iter() if e.get("class") == "step")
    assert float(step.get("width")) == pytest.approx(
        0.52 * (staircase.EDGE - staircase.PLOT), abs=0.1
    )
    assert "cifar_mlp: ours 52.0%" in drawn.find("{*}desc").text
    assert "![CIFAR-10" in (folder / "README.md").read_text()
    picture.write_text("out of date")
    with pytest.raises(SystemExit):
        commands.main(["cookbook", "--check"])
    assert "recipes/staircase.svg is stale" in capsys.readouterr().out


def test_the_ladder_ends_with_which_networks_learn(folder, fingerprints):
    assert commands.main(["cookbook"]) == 0
    assert "Which networks learn" not in (folder / "README.md").read_text()
    for seed, learned in ((0, 40), (1, None)):
        records.add(
            "starts",
            {
                "recipe": "cifar_mlp",
                "fingerprint": fingerprints["cifar_mlp"],
                "seed": seed,
                "batch_size": 64,
                "at_most": 300,
                "learned": learned,
                "steps": learned or 300,
                "accuracy": 0.2148,
                "crossentropy": 2.1,
            },
        )
    assert commands.main(["cookbook"]) == 0
    assert (folder / "README.md").read_text().splitlines()[-1] == (
        "| [cifar_mlp](cifar_mlp/README.md) | 1 of 2 | 40, not in 300 | 21.5%, 21.5% | "
        "2.100, 2.100 | 64 |"
    )


def test_a_card_shows_the_notes_on_the_runs(folder, capsys):
    (folder / "cifar_mlp").mkdir()
    (folder / "cifar_mlp/notes.md").write_text("Seed 3 ends early.\n")
    assert commands.main(["cookbook"]) == 0
    assert "## Of the runs\n\nSeed 3 ends early.\n\n## What changes" in (
        (folder / "cifar_mlp/README.md").read_text()
    )
    assert "Of the runs" not in (folder / "fashion_mlp/README.md").read_text()
    assert commands.main(["show", "cifar_mlp"]) == 0
    assert "Seed 3 ends early." in capsys.readouterr().out


def test_readme_shows_the_latest_benchmark_of_each_case(folder, monkeypatch, capsys):
    readme = folder.parent / "README.md"
    readme.write_text(f"How fast:\n{speed.BEGIN}| old |\n{markdown.END}\nLicence.")
    ours = measure.Result("kerascnn", 0.5, 0.4, 2**30, 9.0)
    others = [("keras-jax", 2.0), ("torch-eager", 0.8), ("torch-compile", 0.625)]

    def compare(contenders, rounds):
        theirs = [measure.Result(name, s, s, 2**29, 1.0) for name, s in others]
        return [ours, *theirs], []

    monkeypatch.setattr(measure, "compare", compare)
    words = ["bench", "step", "cifar_mlp", "--json"]
    assert commands.main(words) == 0  # without --add nothing is kept
    assert records.read("bench") == []
    for ours.seconds in (0.25, 0.5):
        assert commands.main([*words, "--add"]) == 0
    epoch = ["bench", "epoch", "cifar_mlp", "--images", "2500", "--batch", "1000"]
    assert commands.main([*epoch, "--json", "--add"]) == 0
    commit = records.read("bench")[0]["environment"]["commit"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        commands.main(["cookbook", "--check"])
    assert "\nREADME.md is stale" in capsys.readouterr().out
    assert commands.main(["cookbook"]) == 0
    before, rest = readme.read_text().split(speed.BEGIN)
    table, after = rest.split(markdown.END)
    assert (before, after) == ("How fast:\n", "\nLicence.")
    rows = [[c.strip() for c in line.split("|")] for line in table.splitlines()[2:]]
    figures = ["0.500 s", "0.25", "–", "0.80", "1,024 MiB", "512 MiB"]
    assert [row[1:4] + row[5:11] for row in rows] == [
        ["`cifar_mlp`", "step", "256", *figures],
        ["`cifar_mlp`", "epoch of 2,000 images", "1000", *figures],
    ]
    assert all(f"`{commit[:7]}`" in row[11] for row in rows)


def test_a_benchmark_that_could_not_be_kept_does_not_start(folder, capsys):
    words = ["bench", "step", "cifar_mlp", "--add"]
    assert commands.main([*words, "--against", "HEAD"]) == 2
    assert "no table of two commits" in capsys.readouterr().err
    folder.rmdir()
    assert commands.main(words) == 2
    assert "use a checkout" in capsys.readouterr().err


def test_list_shows_what_the_cookbook_measured(folder, finish, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    runs = [finish(seed=s, test=t) for s, t in ((0, 0.88), (1, 0.90))]
    commands.main(["cookbook", "add", *runs])
    capsys.readouterr()
    assert commands.main(["list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][1:6] == ["parameters", "test*", "train*", "test", "train"]
    rungs = {line[0]: line[1:6] for line in lines if line and line[0] in NAMES}
    assert rungs == {
        "fashion_mlp": ["203,530", "~89%", "-", "89.0%", "92.0%"],
        "cifar_mlp": ["789,258", "-", "-", "-", "-"],
    }
    for card in folder.glob("*/*"):
        card.unlink()  # as in an installed package
    assert commands.main(["list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    (rung,) = (line[1:6] for line in lines if line and line[0] == "fashion_mlp")
    assert rung == ["203,530", "~89%", "-", "-", "-"]


def test_what_is_not_measured_is_a_dash(folder):
    assert commands.main(["cookbook"]) == 0
    card = (folder / "cifar_mlp/README.md").read_text()
    assert "| test accuracy | – | – | – |" in card
    assert "## Environment\n\n–\n" in card
    assert "curve.png" not in card
    assert "After [fashion_mlp](../fashion_mlp/README.md):" in card
    ladder = (folder / "README.md").read_text()
    assert "cifar_mlp/README.md) | 789,258 | – | – | – | – | – | – | – | – |" in ladder
    assert "@@ dataset @@\n- fashion_mnist\n+ cifar10\n" in card


def test_a_seed_counts_once_and_an_earlier_version_of_the_recipe_never(
    folder, finish, monkeypatch
):
    assert commands.main(["cookbook", "add", finish(test=0.88)]) == 0
    gpu = finish(test=0.95, device="NVIDIA H100")
    assert commands.main(["cookbook", "add", gpu]) == 0
    card = (folder / "fashion_mlp/README.md").read_text()
    assert "| 88.00% (1 seed) | -1.0 |" in card
    assert len(records.read("fashion_mlp/runs")) == 2
    assert [r["seed"] for r in records.measured("fashion_mlp")] == [0]

    monkeypatch.setattr(describe, "fingerprint", lambda description: "0" * 64)
    assert commands.main(["cookbook"]) == 0
    card = (folder / "fashion_mlp/README.md").read_text()
    assert "| test accuracy | ~89% | – | – |" in card
    assert records.measured("fashion_mlp") == []
    # A run of the new version brings its own curve.
    run = finish(seed=7, fingerprint="0" * 64, device="NVIDIA H100")
    assert commands.main(["cookbook", "add", run]) == 0
    assert (folder / "fashion_mlp/curve.png").read_text() == "seed 7"
    assert "1 min 47 s | NVIDIA H100 |" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"overrides": ["epochs", "limit"]}, "it changed the recipe: epochs, limit"),
        ({"data": {"sample": True}}, "it trained on the bundled sample"),
        ({"fingerprint": "0" * 64}, "fashion_mlp has changed since"),
        ({"finished": False}, "it has not finished"),
        ({"recipe": "fashion_mpl"}, "did you mean fashion_mlp"),
        ({"data": {}}, "its record says nothing of 'sample'"),
    ],
)
def test_other_runs_are_refused_and_with_them_the_whole_call(
    folder, finish, capsys, changes, reason
):
    good, bad = finish(), finish(seed=1, **changes)
    assert commands.main(["cookbook", "add", good, bad]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_a_run_is_taken_in_once(folder, finish, capsys):
    run = finish()
    assert commands.main(["cookbook", "add", run, run]) == 2
    assert "is in the cookbook already" in capsys.readouterr().err
    assert commands.main(["cookbook", "add", run]) == 0
    assert commands.main(["cookbook", "add", run]) == 2
    assert len(records.read("fashion_mlp/runs")) == 1


def test_an_unfinished_run_is_refused(folder, tmp_path, capsys):
    assert commands.main(["cookbook", "add", str(tmp_path / "nothing")]) == 2
    assert "there is no run in" in capsys.readouterr().err


def test_check_names_each_stale_card(folder, finish, capsys):
    commands.main(["cookbook"])
    assert commands.main(["cookbook", "--check"]) == 0
    (folder / "cifar_mlp/README.md").write_text("out of date")
    (folder / "fashion_mlp/README.md").unlink()
    with pytest.raises(SystemExit) as stop:
        commands.main(["cookbook", "--check"])
    assert stop.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert any(
        line.startswith("recipes/cifar_mlp/README.md is stale") for line in lines
    )
    assert (folder / "cifar_mlp/README.md").read_text() == "out of date"


def test_without_a_checkout_there_is_no_cookbook(folder, capsys):
    folder.rmdir()
    assert commands.main(["cookbook", "--check"]) == 2
    assert "run it in a checkout" in capsys.readouterr().err


def test_the_deviation_is_that_of_a_sample():
    made = [{"result": {"test_accuracy": a}} for a in (0.1, 0.2, 0.4, 0.5)]
    mean, deviation = records.accuracy(made, "test")
    assert mean == pytest.approx(0.3, abs=1e-12)
    assert deviation == pytest.approx(math.sqrt(0.1 / 3), abs=1e-12)
    assert records.accuracy(made[:1], "test") == (0.1, 0.0)
    assert records.accuracy([], "test") is None


@pytest.mark.skipif(not records.FOLDER.exists(), reason="needs a checkout")
@pytest.mark.parametrize(
    "backend",
    [
        "jax",
        pytest.param(
            "tensorflow", marks=[pytest.mark.needs("tensorflow"), pytest.mark.slow]
        ),
        pytest.param("torch", marks=[pytest.mark.needs("torch"), pytest.mark.slow]),
    ],
)
def test_the_cookbook_of_this_repository_is_fresh(backend):
    """Also: recipes have the same fingerprints and differences on every backend."""
    done = subprocess.run(
        [sys.executable, "-m", "kerascnn", "cookbook", "--check"],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_s_headline_is_the_mean_of_the_speed_run_s_seeds(folder):
    page = f"kerascnn\n{headline.BEGIN}old\n{markdown.END}\nrest"
    before, after = page.split(f"{headline.BEGIN}old\n")
    unmeasured = headline.rendered(page, "now")
    assert "no run in the cookbook yet" in unmeasured
    here = {"device": "cpu", "processor": "A Chip", "cores": 2}
    runs = [
        ("before", 0, 0.5, 0.5, 1.0, here),  # of the recipe as it was
        ("now", 2, 0.9380, 0.9440, 60.0, here | {"cores": 8}),
        ("now", 0, 0.9300, 0.9400, 600.0, here),
        ("now", 0, 0.9900, 0.9900, 600.0, here),  # the same seed again
        ("now", 1, 0.9340, 0.9420, 700.0, here),
    ]
    for fingerprint, seed, plain, seen, seconds, machine in runs:
        result = {"test_accuracy": plain, "test_accuracy_with_views": seen}
        record = {"fingerprint": fingerprint, "seed": seed, "epochs": 8}
        record |= {"result": result | {"seconds": seconds}, "environment": machine}
        records.add(f"{headline.RECIPE}/runs", record)
    found = headline.rendered(unmeasured, "now")
    assert found.startswith(before)
    assert found.endswith(after)
    said = " ".join(found.split())
    # Mean and sample deviation, by hand.
    assert "94.20 ± 0.20 %** of the test images right after 8 epochs" in said
    assert "93.40 ± 0.40 % with one. That is the mean of 3 seeds" in said
    assert "a median of 10 min 50 s (2 of them) on 2 cores of an A Chip" in said


def test_the_first_run_leaves_pictures_on_the_card(
    folder, finish, fingerprints, lenet, monkeypatch, capsys
):
    monkeypatch.setattr(recipe, "names", lambda: ["fashion_lenet"])
    # What is taken in is a run of the whole set, which is not here; the pictures are of
    # one of the sample.
    described = describe.describe(recipe.load("fashion_lenet"))
    as_recipe = {"fingerprint": describe.fingerprint(described)}
    whole = Run(Path(finish(recipe="fashion_lenet", **as_recipe)))
    record = cookbook.record_of(whole)
    monkeypatch.setattr(cookbook, "record_of", lambda run: record)
    assert commands.main(["cookbook", "add", str(lenet.folder)]) == 0
    card = (folder / "fashion_lenet/README.md").read_text()
    assert "## What it sees" in card
    for name in ("confusion", "mistakes", "grad_cam", "filters"):
        assert f"]({name}.png)" in card
        with Image.open(folder / "fashion_lenet" / f"{name}.png") as picture:
            assert max(picture.size) > 200
        assert (folder / "fashion_lenet" / f"{name}.png").stat().st_size < 200_000
    assert "no pictures" not in capsys.readouterr().err


def test_a_run_without_weights_has_a_card_without_pictures(folder, finish, capsys):
    assert commands.main(["cookbook", "add", finish()]) == 0
    assert "fashion_mlp's card has no pictures: " in capsys.readouterr().err
    card = (folder / "fashion_mlp/README.md").read_text()
    assert "What it sees" not in card
