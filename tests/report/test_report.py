"""What is printed and drawn of runs and recipes."""

import io
import json
import re

import pytest
import rich.console
from rich.console import Console

from kerascnn import recipe
from kerascnn import text as texts
from kerascnn.cli import commands
from kerascnn.report import card, ladder, plots, summary
from kerascnn.runs import Run


@pytest.fixture
def run(tmp_path):
    """A finished run of two epochs on the sample, made by hand."""
    made = Run.create("cifar_vgg_aug", tmp_path / "run")
    made.write_config(
        {
            "recipe": "cifar_vgg_aug",
            "course": {
                "source": "lecture 4, trick 5",
                "test": 0.906,
                "train": None,
                "says": None,
            },
            "overrides": ["epochs"],
            "recipe_epochs": 60,
            "seed": 3,
            "data": {
                "name": "cifar10",
                "sample": True,
                "train_images": 2500,
                "test_images": 1000,
            },
            "environment": {
                "backend": "jax",
                "device": "cpu",
                "processor": "A Chip",
                "versions": {"jax": "0.1", "keras": "3.0"},
            },
        }
    )
    for epoch in (1, 2):
        made.add_metrics(
            {
                "epoch": epoch,
                "accuracy": 0.2 * epoch,
                "crossentropy": 2.0 / epoch,
                "test_accuracy": 0.15 * epoch,
                "test_crossentropy": float("nan"),
            }
        )
    made.write_result(
        {
            "finished": True,
            "epochs": 2,
            "test_accuracy": 0.3,
            "train_accuracy": 0.4,
            "seconds": 125.4,
        }
    )
    return made


def test_the_summary_sets_accuracies_beside_the_course_and_marks_the_sample(run):
    text = summary.text(run)
    assert "2 epochs (the recipe's: 60) in 2 min 5 s on A Chip" in text
    assert "test accuracy   30.00%   (course, on the full set: 90.6%)" in text
    assert "train accuracy  40.00%\n" in text
    assert "Changed from the recipe: epochs" in text
    assert "bundled sample, 2,500 training and 1,000 test images" in text
    assert "kerascnn data get cifar10" in text
    assert "interrupted" not in text


def test_the_summary_says_the_best_epoch_and_that_it_is_no_result(run):
    assert "best epoch      30.00%   (epoch 2, the last: no peeking bonus)" in (
        summary.text(run)
    )
    run.replace_metrics(
        [
            {**m, "test_accuracy": a}
            for m, a in zip(run.metrics, (0.35, 0.3), strict=True)
        ]
    )
    text = summary.text(run)
    assert "test accuracy   30.00%" in text
    line = (
        "best epoch      35.00%   (epoch 1: +5.00 points of peeking bonus, no result)"
    )
    assert line in text
    run.write_config(run.config | {"validation": 0.1})
    run.replace_metrics([{"epoch": n, "validation_accuracy": 0.1 * n} for n in (1, 2)])
    assert "best epoch" not in summary.text(run)


@pytest.mark.parametrize("validation", [None, 0.1])
def test_on_a_terminal_the_figure_that_counts_stands_out(
    run, monkeypatch, capsys, validation
):
    run.write_config(run.config | {"validation": validation})
    summary.tell(run)
    assert capsys.readouterr().out == summary.text(run) + "\n"
    file = io.StringIO()
    console = rich.console.Console(
        file=file, force_terminal=True, color_system="standard", width=40
    )
    monkeypatch.setattr(rich.console, "Console", lambda: console)
    summary.tell(run)
    bold = re.findall("\x1b\\[1[^m]*m(.*?)\x1b", file.getvalue())
    kind = "validation    " if validation else "test accuracy "
    assert bold == [f"  {kind}  30.00%"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.7, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds, words):
    assert texts.duration(seconds) == words


def test_the_curve_is_drawn_with_the_course_as_a_line(run, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)),
    )
    path = plots.curve(run)
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    title = figure.get_suptitle()
    assert "bundled sample, 2,500 training images" in title
    assert "changed: epochs" in title
    loss, accuracy = figure.axes
    lines = {line.get_label(): list(line.get_ydata()) for line in accuracy.lines}
    assert lines["training set"] == pytest.approx([0.2, 0.4])
    assert lines["test set"] == pytest.approx([0.15, 0.3])
    assert lines["course (full set), test 90.6%"] == pytest.approx([0.906, 0.906])
    assert list(loss.lines[0].get_ydata()) == pytest.approx([2.0, 1.0])


def test_a_run_without_the_test_set_is_not_set_beside_the_course(run, monkeypatch):
    from matplotlib.figure import Figure

    run.write_config(run.config | {"validation": 0.1})
    text = summary.text(run)
    assert "validation      30.00%   (on 10% of the training set, held out)" in text
    assert "test accuracy" not in text
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self))
    plots.curve(run)
    labels = [line.get_label() for line in drawn[0].axes[1].lines]
    assert labels == ["training set", "10% of the training set, held out"]


def test_the_course_is_not_set_beside_other_data_or_as_if_a_part_were_all(
    run, monkeypatch
):
    from matplotlib.figure import Figure

    config = run.config
    run.write_config(config | {"overrides": ["dataset"]})
    assert "course:" not in summary.text(run)
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self))
    plots.curve(run)
    labels = [line.get_label() for line in drawn[0].axes[1].lines]
    assert labels == ["training set", "test set"]

    config["data"] |= {"sample": False, "test_images": 250}
    run.write_config(config | {"overrides": ["limit"]})
    line = "30.00%   (course, on the full set: 90.6%)   (on 250 images)"
    assert line in summary.text(run)


def test_the_ladder_goes_lecture_by_lecture_and_rung_after_rung():
    outlines = [recipe.outline(name) for name in recipe.names()]
    ordered = ladder.in_order(outlines)
    assert sorted(o.name for o in ordered) == recipe.names()
    lectures = [ladder.lecture(o) for o in ordered]
    assert lectures == sorted(lectures)
    place = {o.name: i for i, o in enumerate(ordered)}
    for item in ordered:
        if item.after and ladder.lecture(item) == ladder.lecture(
            recipe.outline(item.after)
        ):
            assert place[item.after] < place[item.name]
    assert ordered[0].name == "fashion_mlp"


@pytest.mark.parametrize("words", [["list"], ["list", "--ladder"]], ids=" ".join)
@pytest.mark.parametrize("width", [60, 80, 120, None])
def test_no_width_cuts_what_a_recipe_is(words, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width or ""))
    assert commands.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[
        : next(n for n, line in enumerate(lines) if " the course prints" in line)
    ]
    assert "…" not in "".join(table)
    assert max(len(line.rstrip()) for line in table) <= (width or 200)
    # What stands in the last column, its folded lines joined.
    start = table[0].index("what ")
    shown = " ".join(
        " ".join(line[start:].split()) for line in table if line[start:].strip()
    )
    for rung in ladder.rungs([recipe.outline(name) for name in recipe.names()]):
        if len(words) == 1 or rung.has_figure:
            assert rung.what in shown, rung.item.name
            row = next(line for line in table if line.split()[:1] == [rung.item.name])
            assert width or rung.what in row  # in a pipe, in its own line


def test_list_and_show_as_json_say_what_the_recipes_say(capsys):
    assert commands.main(["list", "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert [*found] == [
        o.name for o in ladder.in_order([recipe.outline(n) for n in recipe.names()])
    ]
    for name in ("fashion_mlp", "cifar_vgg_aug", "cifar_relu_12"):
        loaded, said = recipe.load(name), found[name]
        for key in ("after", "dataset", "parameters", "epochs", "batch_size"):
            assert said[key] == getattr(loaded, key), (name, key)
        assert said["changes"] == sorted(loaded.changes)
        assert recipe.Course(**said["course"]) == loaded.course
    assert commands.main(["show", "fashion_mlp", "--json"]) == 0
    shown, loaded = json.loads(capsys.readouterr().out), recipe.load("fashion_mlp")
    assert shown["parameters"] == loaded.parameters
    assert shown["idea"] == loaded.idea
    assert len(shown["layers"]) == len(loaded.network().layers)
    measured = [each for each in found.values() if each["gap"] is not None]
    for each in measured:
        gap = 100 * (each["test"]["mean"] - each["course"]["test"])
        assert each["gap"] == pytest.approx(gap)
        assert each["peeking_bonus"] >= 0
    assert commands.main(["list", "--json", "--ladder"]) == 2


def test_the_card_shows_every_setting_that_a_lecture_is_about():
    console = Console(record=True, width=120)
    card.show(recipe.load("fashion_lenet_1x1"), console)
    text = console.export_text()
    assert "Conv2D(10, 1 × 1)" in text
    assert re.search(r"Conv2D\(128, 7 × 7, relu\).*1 × 1 × 128.*401,536", text)
    console = Console(record=True, width=200)
    card.show(recipe.load("cifar_vgg_erase"), console)
    text = console.export_text()
    assert "RandomErasing(p 0.75, scale (0.01, 0.3), ratio (1, 1))" in text
